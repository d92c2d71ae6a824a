"""Files are written whole or not at all."""

import json
import os
from pathlib import Path

import pytest

from beta_clip_hf.files import replacing, write_bytes, write_json, write_text


def test_content_is_written_and_the_directory_is_made(tmp_path: Path) -> None:
    assert write_bytes(tmp_path / "a" / "b.bin", b"\x00\r\n").read_bytes() == b"\x00\r\n"
    assert write_text(tmp_path / "β.txt", "β\n").read_bytes() == "β\n".encode()
    path = write_json({"b": "β", "a": [1.5]}, tmp_path / "c.json", sort_keys=True)
    assert path.read_text(encoding="utf-8") == '{\n  "a": [\n    1.5\n  ],\n  "b": "β"\n}\n'
    assert sorted(file.name for file in tmp_path.rglob("*") if file.is_file()) == ["b.bin", "c.json", "β.txt"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = write_text(tmp_path / "kept.txt", "old")
    with pytest.raises(RuntimeError, match="half way"), replacing(path) as unfinished:
        unfinished.write_text("half")
        raise RuntimeError("half way")
    with pytest.raises(KeyboardInterrupt), replacing(path) as unfinished:
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["kept.txt"]


def test_what_a_killed_process_has_left_is_removed(tmp_path: Path) -> None:
    with replacing(tmp_path / "a.txt") as unfinished:
        mark, process_id = unfinished.name.removeprefix(".a.txt").rsplit("-", 1)
    assert process_id == str(os.getpid())
    # So large a number is no process's. The parent runs. The others are of another machine, and no leftovers.
    names = [f".b.bin{mark}-{2**22 + 7}", f".c.bin{mark}-{os.getppid()}", ".c.bin.part-other-77", "c.part-77", ".d"]
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes(b"half")
    write_bytes(folder / "b.bin", b"whole")
    assert sorted(file.name for file in folder.iterdir()) == sorted([*names[1:], "b.bin"])


def test_nan_is_refused_unless_it_is_allowed(tmp_path: Path) -> None:
    path = write_json({"loss": 1.0}, tmp_path / "log.json")
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json({"loss": float("nan")}, path)
    assert json.loads(path.read_text()) == {"loss": 1.0}
    assert "NaN" in write_json({"loss": float("nan")}, path, allow_nan=True).read_text()
