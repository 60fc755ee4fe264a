"""Files that survive a kill: saved under a temporary name, flushed, renamed, and checked by a digest when read.

Nothing is pickled: arrays are saved as npz without objects, everything else as JSON.
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
    """A file that is truncated, not from this package or of another format. The message gives the file and the fix."""


class DamagedFileWarning(UserWarning):
    """A file is damaged and the one before it was read instead."""


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` so that ``path`` holds either all of it or its old content, even if the machine stops."""
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
    """Write ``value`` as indented JSON, atomically. Raises ValueError for NaN and infinities: JSON has none."""
    write_atomically(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Return the value of a file of ``write_json``. Raises DamagedFileError, with the file's name, if it is not JSON."""
    try:
        return json.loads(path.read_bytes())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DamagedFileError(
            f"{path} is not readable as JSON ({error}): restore it or train again"
        ) from None


def write_arrays(path: Path, arrays: Mapping[str, npt.NDArray[Any]], meta: Any) -> None:
    """Write ``arrays`` and the JSON value ``meta`` as one npz with a digest, atomically; the previous file is kept.

    The previous file is kept as ``NAME.before``: a reader uses it if the newest is damaged.
    """
    text = np.frombuffer(json.dumps(meta, allow_nan=False).encode(), dtype=np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **{_META: text, **arrays})
    body = buffer.getvalue()
    keep_before(path)
    write_atomically(path, body + hashlib.sha256(body).digest())


def read_arrays(path: Path) -> tuple[dict[str, npt.NDArray[Any]], Any]:
    """Return the arrays and the JSON value of a file of ``write_arrays``, without unpickling anything.

    Raises:
        DamagedFileError: the file and the previous one are truncated or not from this package.
        FileNotFoundError: there is no such file.
    """
    try:
        return _read_checked(path)
    except DamagedFileError as error:
        return _read_checked(fall_back(path, error))


def before(path: Path) -> Path:
    """Return where the previous file of ``path`` is kept."""
    return path.with_name(path.name + ".before")


def fall_back(path: Path, error: DamagedFileError) -> Path:
    """Return the previous file of the damaged ``path``, with a warning that names it. Raises ``error`` without one."""
    if not before(path).exists():
        raise error
    warnings.warn(DamagedFileWarning(f"{error}; the file before it is used: {before(path)}"), stacklevel=3)
    return before(path)


def keep_before(path: Path) -> None:
    """Keep a copy of the file at ``path``, if there is one, in case the next one is damaged."""
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
