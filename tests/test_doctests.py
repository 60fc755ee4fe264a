"""Every example in a docstring of the package gives what it says."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = [file for folder in ("envs", "agents", "scripts") for file in sorted((ROOT / folder).rglob("*.py"))]
# Not by pytest's --doctest-modules, which would import the folders by their paths, not by their names.
MODULES = [
    ".".join(["tokenwalk", *file.relative_to(ROOT).with_suffix("").parts])
    for file in FILES
    if ">>> " in file.read_text()
]


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_of_a_module_give_what_they_say(module: str) -> None:
    failed, attempted = doctest.testmod(importlib.import_module(module), optionflags=doctest.ELLIPSIS)
    assert attempted > 0
    assert failed == 0
