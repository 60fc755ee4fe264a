"""Loading of ``FILE.py:NAME``: a task, a reward or a potential in a user's file."""

import importlib.util
import re
import sys
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from types import ModuleType

_PLACE = re.compile(r"\.py:\w+$")


def is_place(text: str) -> bool:
    """Return whether ``text`` has the form ``FILE.py:NAME``."""
    return bool(_PLACE.search(text))


def load_from_file(place: str) -> object:
    """Run the file and return the object of ``FILE.py:NAME``; its output goes to stderr.

    Raises:
        ValueError: no such file or no such name in it, or a file that fails while it is run.
    """
    path, _, name = place.rpartition(":")
    if not Path(path).is_file():
        raise ValueError(f"there is no file {path!r}: give FILE.py:NAME, a Python file and a name in it")
    place_on_disk = Path(path).resolve()
    module = _run(path, place_on_disk, place_on_disk.stat().st_mtime_ns)
    if not hasattr(module, name):
        raise ValueError(
            f"{path} has no {name!r}: it has {[one for one in vars(module) if not one.startswith('_')]}"
        )
    return getattr(module, name)


@cache
def _run(path: str, place: Path, changed: int) -> ModuleType:  # noqa: ARG001 - part of the cache's key
    """Return the module of a file, cached until it is ``changed``, so that each of its objects exists once."""
    spec = importlib.util.spec_from_file_location(f"tokenwalk_file_{place.stem}", place)
    assert spec is not None  # the name ends in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle in the file look themselves up
    try:
        with redirect_stdout(sys.stderr):  # stdout may be one JSON object
            spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"{path} fails when it is run: {type(error).__name__}: {error}") from error
    return module
