"""A model's tensors and their description as one safetensors file; saved atomically, checked when read."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from tokenwalk.agents.runs.checkpoint import DamagedFileError, fall_back, keep_before, write_atomically

FORMAT = 1
Tensors = Mapping[str, npt.NDArray[Any]]


def write_tensors(path: Path, tensors: Tensors, about: Mapping[str, Any]) -> None:
    """Write ``tensors`` and the JSON object ``about``, with a digest of both; the previous file is kept beside it."""
    text = json.dumps({"format": FORMAT, **about}, allow_nan=False)
    own = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    metadata = {"tokenwalk": text, "sha256": _digest(text, own)}
    data = safetensors.numpy.save(own, metadata)
    keep_before(path)
    write_atomically(path, data)


def read_tensors(path: Path) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    """Return the tensors and the object ``about`` of ``write_tensors``; nothing is unpickled.

    Raises:
        DamagedFileError: a file that is truncated, changed, foreign or of another format, and no valid previous file.
        FileNotFoundError: there is no such file.
    """
    try:
        return _read(path)
    except DamagedFileError as error:
        return _read(fall_back(path, error))


def _read(path: Path) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except SafetensorError as error:
        raise DamagedFileError(f"{path} is torn or no safetensors file ({error}): train again") from None
    if "tokenwalk" not in metadata:
        raise DamagedFileError(f"{path} was not written by tokenwalk: give the model file of a run")
    if metadata.get("sha256") != _digest(metadata["tokenwalk"], tensors):
        raise DamagedFileError(f"{path} is damaged (its digest is wrong): train again")
    about: dict[str, Any] = json.loads(metadata["tokenwalk"])
    if about["format"] != FORMAT:
        raise DamagedFileError(
            f"{path} has format {about['format']}, this version reads {FORMAT}: train again"
        )
    return tensors, about


def _digest(about: str, tensors: Tensors) -> str:
    """Return the SHA-256 of the text and of every tensor by name."""
    digest = hashlib.sha256(about.encode())
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].tobytes())
    return digest.hexdigest()
