"""Files that survive a kill: written to a temporary name, flushed, renamed, and checked by a digest when read.

Nothing is pickled: arrays travel as npz without objects, all else as JSON text.
"""

import hashlib
import io
import json
import os
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_META = "__json__"


class DamagedFileError(ValueError):
    """A file that is torn, foreign or of another format. Names the file and what to do."""


class DamagedFileWarning(UserWarning):
    """A file is damaged and the one before it was read instead."""


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` so that ``path`` holds either all of it or what it held before, even if the machine stops."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically. Not-a-number and infinities are refused (ValueError): JSON has none."""
    write_atomically(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Return what ``write_json`` wrote. Raises DamagedFileError, naming the file, where it is not JSON."""
    try:
        return json.loads(path.read_bytes())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DamagedFileError(
            f"{path} is not readable as JSON ({error}): restore it or train again"
        ) from None


def write_arrays(path: Path, arrays: Mapping[str, npt.NDArray[Any]], meta: Any) -> None:
    """Write ``arrays`` and the JSON value ``meta`` as one npz with a digest, atomically; the file before it is kept.

    The file that was there is kept as ``NAME.before``: a reader falls back on it where the newest is damaged.
    """
    text = np.frombuffer(json.dumps(meta, allow_nan=False).encode(), dtype=np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **{_META: text, **arrays})
    body = buffer.getvalue()
    keep_before(path)
    write_atomically(path, body + hashlib.sha256(body).digest())


def read_arrays(path: Path) -> tuple[dict[str, npt.NDArray[Any]], Any]:
    """Return the arrays and the JSON value that ``write_arrays`` wrote, without unpickling anything.

    Raises:
        DamagedFileError: the file and the one before it are torn or foreign.
        FileNotFoundError: there is no such file.
    """
    try:
        return _read_checked(path)
    except DamagedFileError as error:
        return _read_checked(fall_back(path, error))


def before(path: Path) -> Path:
    """Return where the file that was at ``path`` before is kept."""
    return path.with_name(path.name + ".before")


def fall_back(path: Path, error: DamagedFileError) -> Path:
    """Return the file before the damaged one at ``path``, with a warning that names it. Raises ``error`` without one."""
    if not before(path).exists():
        raise error
    warnings.warn(DamagedFileWarning(f"{error}; the file before it is used: {before(path)}"), stacklevel=3)
    return before(path)


def keep_before(path: Path) -> None:
    """Keep a copy of what is at ``path``, if anything is, for a reader who finds the next one damaged."""
    if path.exists():
        write_atomically(before(path), path.read_bytes())


def _read_checked(path: Path) -> tuple[dict[str, npt.NDArray[Any]], Any]:
    data = path.read_bytes()
    body, digest = data[:-32], data[-32:]
    if hashlib.sha256(body).digest() != digest:
        raise DamagedFileError(
            f"{path} is damaged or was not written by tokenwalk (its digest is wrong): train again"
        )
    try:
        with np.load(io.BytesIO(body), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        return arrays, json.loads(arrays.pop(_META).tobytes())
    except (ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DamagedFileError(
            f"{path} holds something else than a tokenwalk file ({error}): train again"
        ) from None
