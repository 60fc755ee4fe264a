"""Files survive a kill, and a damaged one is named."""

import json
from pathlib import Path

import numpy as np
import pytest

from tokenwalk.agents.runs import checkpoint
from tokenwalk.agents.runs.checkpoint import (
    DamagedFileError,
    DamagedFileWarning,
    read_arrays,
    read_json,
    write_arrays,
    write_atomically,
    write_json,
)

ARRAYS = {"q": np.arange(12.0).reshape(3, 4), "visits": np.array([1, 2, 3])}
META = {"step": 7, "name": "ärger", "nested": [1, None, True]}


def test_arrays_and_their_description_are_read_as_they_were_saved(tmp_path: Path) -> None:
    write_arrays(tmp_path / "model.npz", ARRAYS, META)
    arrays, meta = read_arrays(tmp_path / "model.npz")
    assert meta == META
    assert arrays.keys() == ARRAYS.keys()
    assert all(
        (arrays[name] == ARRAYS[name]).all() and arrays[name].dtype == ARRAYS[name].dtype for name in ARRAYS
    )


@pytest.mark.parametrize("position", [0, 40, 200, -40, -1])
def test_one_flipped_byte_anywhere_is_noticed_and_the_file_named(tmp_path: Path, position: int) -> None:
    path = tmp_path / "model.npz"
    write_arrays(path, ARRAYS, META)
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedFileError, match=r"model\.npz is damaged"):
        read_arrays(path)


@pytest.mark.parametrize("kept", [0, 10, 300])
def test_a_torn_file_falls_back_on_the_one_before_it(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "model.npz"
    write_arrays(path, ARRAYS, {"step": 1})
    write_arrays(path, ARRAYS, {"step": 2})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.warns(DamagedFileWarning, match=r"the file before it is used: .*model\.npz\.before"):
        assert read_arrays(path)[1] == {"step": 1}


def test_an_array_of_objects_is_never_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="allow_pickle"):
        write_arrays(tmp_path / "model.npz", {"bad": np.array([{}], dtype=object)}, {})
    assert not (tmp_path / "model.npz").exists()


def test_a_pickle_with_a_right_digest_is_still_not_unpickled(tmp_path: Path) -> None:
    import hashlib
    import io

    buffer = io.BytesIO()
    np.savez(buffer, bad=np.array([{}], dtype=object))
    path = tmp_path / "model.npz"
    path.write_bytes(buffer.getvalue() + hashlib.sha256(buffer.getvalue()).digest())
    with pytest.raises(DamagedFileError, match="holds something else"):
        read_arrays(path)


def test_a_kill_between_writing_and_renaming_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "summary.json"
    write_json(path, {"steps": 1})
    monkeypatch.setattr(checkpoint.os, "fsync", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))  # type: ignore[attr-defined]
    with pytest.raises(KeyboardInterrupt):
        write_json(path, {"steps": 2})
    assert read_json(path) == {"steps": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["summary.json"]


def test_json_without_a_standard_form_is_refused_and_a_damaged_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    write_atomically(tmp_path / "b.json", b'{"cut": ')
    with pytest.raises(DamagedFileError, match=r"b\.json is not readable as JSON"):
        read_json(tmp_path / "b.json")
    write_json(tmp_path / "c.json", META)
    assert json.loads((tmp_path / "c.json").read_text()) == META
