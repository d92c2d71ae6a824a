"""Files of strangers that want more memory than there is: each is one sentence, and the process goes on."""

import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch

from beta_clip_hf.data.formats import compression, json_files, sidecars, webdataset
from beta_clip_hf.data.formats.json_files import JsonLines
from beta_clip_hf.data.formats.sidecars import SidecarTable
from beta_clip_hf.inference.models import load_model


PROGRAM = Path(__file__).with_name("hungry_files.py")


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems do not limit a process's memory")
def test_no_file_allocates_beyond_a_bound(checkpoint, tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, str(PROGRAM), str(folder), str(checkpoint)]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=500, check=False, env=environment)
    assert ended.returncode == 0, ended.stderr[-3000:]
    found = {}
    for line in ended.stdout.splitlines():
        if line.startswith("{"):
            record = json.loads(line)
            found[record["case"]] = record["sentence"]
    assert len(found) >= 25
    for case, sentence in found.items():
        assert sentence and "fault" not in sentence and "MemoryError" not in sentence, (case, sentence)
        assert len(sentence) < 1500 and "\n" not in sentence, case
    assert "names at least" in found["huge layers"] and "names at least" in found["huge vocabulary"]
    assert "at most 67,108,864 bytes" in found["tokenizer.json of 8 GB"]
    assert "at most 67,108,864 bytes" in found["bomb.jsonl.gz"]
    assert "Memory usage limit exceeded" in found["dictionary.jsonl.xz"]
    tars = {case: sentence for case, sentence in found.items() if case.endswith((".tar", ".tgz"))}
    assert len(tars) == 6 and all(sentence.endswith("0 rows used, 1 skipped") for sentence in tars.values())


def test_a_compressed_file_may_unpack_to_so_much(tmp_path, monkeypatch):
    monkeypatch.setattr(compression, "_ALWAYS_ALLOWED_BYTES", 1000)
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(bytes(1000)))
    assert compression.read_content(path).damage is None
    path.write_bytes(gzip.compress(b"\n" * 10**6))
    content = compression.read_content(path)
    assert len(content.data) >= 100 * path.stat().st_size and "more than 100 times its size" in str(content.damage)


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_large_file_of_a_tar_costs_its_row(is_stream, tmp_path, monkeypatch):
    monkeypatch.setattr(webdataset, "_MOST_MEMBER_BYTES", 500)
    path = tmp_path / "rows.tar"
    with tarfile.open(path, "w") as tar:
        for name, size in (("0.jpg", 501), ("0.txt", 5), ("1.jpg", 500), ("1.txt", 5), ("2.jpg", 1), ("2.txt", 501)):
            info = tarfile.TarInfo(name)
            info.size = size
            tar.addfile(info, io.BytesIO(b"a" * size))
    scan = webdataset.read_shard(path) if is_stream else webdataset.TarTable([path]).scan()
    records = dict(scan)
    assert str(records["rows.tar:2"]) == "a file of a sample must have at most 500 bytes, but one has 501"
    assert isinstance(records["rows.tar:1"], dict)
    # Without a stream, images are read later.
    image_error = records["rows.tar:0"]
    if not is_stream:
        with pytest.raises(ValueError, match="at most 500 bytes, but one has 501") as error:
            webdataset.TarTable([path])[0]
        image_error = error.value
    assert "at most 500 bytes" in str(image_error)


def test_a_long_line_costs_its_row(tmp_path, monkeypatch):
    monkeypatch.setattr(json_files, "_MOST_BYTES_OF_LINE", 100)
    path = tmp_path / "rows.jsonl"
    good = b'{"image": "a.jpg", "caption": "a"}'
    path.write_bytes(good + b"\n" + good[:-1] + b" " * 100 + b"}\n \t\r\n" + good)
    (_, first), (place, second), (last_place, last) = JsonLines(path).scan()
    assert first == last == json.loads(good) and (place, last_place) == ("rows.jsonl:2", "rows.jsonl:4")
    assert str(second) == f"a record must have at most 100 bytes, but has {len(good) + 100}"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes")
def test_a_text_beside_an_image_is_a_regular_file(tmp_path, monkeypatch):
    monkeypatch.setattr(sidecars, "_MOST_BYTES", 100)
    for name in "abc":
        (tmp_path / f"{name}.jpg").write_bytes(b"")
    os.mkfifo(tmp_path / "a.txt")
    (tmp_path / "b.txt").write_text("b" * 101)
    (tmp_path / "c.json").symlink_to("/dev/zero")
    reasons = [str(record) for _, record in SidecarTable(tmp_path).scan()]
    assert reasons[0] == reasons[2] == "it must be a regular file, but is a directory, pipe or device"
    assert reasons[1] == "b.txt must have at most 100 bytes, but has more"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes")
def test_a_model_is_no_pipe(checkpoint):
    (checkpoint / "config.json").unlink()
    os.mkfifo(checkpoint / "config.json")
    with pytest.raises(ValueError, match=r"config\.json must be a regular file, but is a pipe or device"):
        load_model(str(checkpoint), torch.device("cpu"))
