"""``FILE.py:NAME``: what a file is named for, and what it must not do to the output of a command."""

from pathlib import Path

import pytest

from tokenwalk.envs.loading import is_place, load_from_file


def test_a_place_is_a_python_file_and_a_name() -> None:
    assert is_place("folder/rewards.py:score")
    assert not any(map(is_place, ("gold", "runs/model", "rewards.py", "rewards.py:", "rewards.txt:score")))


def test_what_a_file_prints_is_kept_out_of_the_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "noisy.py").write_text("print('loaded')\nanswer = 42\n")
    assert load_from_file(f"{tmp_path / 'noisy.py'}:answer") == 42
    assert capsys.readouterr() == ("", "loaded\n")


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("answer = 42\n", "question", r"has no 'question': it has \['answer'\]"),
        ("1 / 0\n", "answer", "fails when it is run: ZeroDivisionError: division by zero"),
        (None, "answer", "there is no file"),
    ],
)
def test_what_cannot_be_loaded_is_named(tmp_path: Path, text: str | None, name: str, message: str) -> None:
    path = tmp_path / "file.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_from_file(f"{path}:{name}")
