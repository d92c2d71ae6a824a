"""A disk that is really full: each command says so in one sentence, and does its work once there is space."""

import os
import re
import subprocess
import sys

import pytest

from faults.kills import KINDS, words_of, write_rows


pytestmark = pytest.mark.stress
DISK_BYTES = 3 * 2**20


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_rows(folder)
    return folder


@pytest.fixture
def disk(tmp_path):
    """A file system of a few megabytes."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(path)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"only root may mount a file system: {mounted.stderr.decode().strip()}")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def command_words(name, folder, output):
    model, rows = str(folder / "model"), str(folder / "rows.jsonl")
    evaluation = ["evaluate", "--model", model, "--tasks", "photos", "--data", rows, "--device", "cpu"]
    words = {
        "train": words_of(KINDS[0], folder, output),
        "evaluate": [*evaluation, "--output", str(output)],
        "hierarchy": ["hierarchy", rows, "--output", str(output), "--num-proc", "1"],
        "index": ["index", rows, "--output", str(output), "--model", model, "--device", "cpu"],
        "export": ["export", "clip", model, str(output)],
    }
    return words[name]


def run(words, tmp_path):
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "TMPDIR": str(tmp_path),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "beta_clip_hf", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)


def fill(disk):
    with open(disk / "filler", "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(2**16))
        except OSError:
            return


@pytest.mark.parametrize("name", ["train", "evaluate", "hierarchy", "index", "export"])
def test_a_full_disk_is_one_sentence_and_nothing_half_is_used(name, folder, disk, tmp_path):
    if name == "index":
        pytest.importorskip("lancedb")
    words = command_words(name, folder, disk / "output")
    fill(disk)
    if name == "train":
        # Enough for its lock and its settings, too little for a checkpoint.
        os.truncate(disk / "filler", DISK_BYTES - 2**17)
    ended = run(words, tmp_path)
    sentence = ended.stderr.strip().splitlines()[-1]
    assert ended.returncode == 1, ended.stderr[-2000:]
    assert sentence.startswith("beta-clip: error: ") and "Traceback" not in ended.stderr
    assert re.search("no space (is )?left on", sentence.lower())
    (disk / "filler").unlink()
    ended = run(words, tmp_path)
    assert ended.returncode == 0, ended.stderr[-2000:]
    files = [path.name for path in (disk / "output").rglob("*") if path.is_file()]
    assert files and not any(".part-" in file for file in files)
