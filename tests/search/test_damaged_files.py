"""A damaged file of an index is named, or LanceDB refuses it; what a search finds is never changed in silence."""

import json
import os
import random
from pathlib import Path

import pytest

from beta_clip_cli.errors import sentence_of
from beta_clip_hf.search import file_hashes
from beta_clip_hf.search.file_hashes import HASHES_FILE, CheckedFiles, check_hashes, write_hashes
from beta_clip_hf.search.index import PhotoIndex


pytestmark = pytest.mark.slow


def hashed_files(path):
    hashes = json.loads((Path(path) / HASHES_FILE).read_text(encoding="utf-8"))
    return [Path(path) / name for name in hashes["files"]]


def found(path, embedder):
    hits = PhotoIndex.open(path, embedder).search("a red square", top=6, exact=True)
    return [(hit.image, hit.similarity, hit.confidence) for hit in hits]


def test_a_flipped_bit_is_named(index, embedder):
    """In each file, small or large."""
    path = index.table.path
    expected = found(path, embedder)
    files = hashed_files(path)
    assert len(files) > 5
    assert any("_versions" in file.parts for file in files) and any("data" in file.parts for file in files)
    rng = random.Random(0)
    for file in files:
        content = file.read_bytes()
        position = rng.randrange(len(content))
        flipped = bytes([content[position] ^ 1])
        for changed in (content[:position], content[:position] + flipped + content[position + 1 :]):
            file.write_bytes(changed)
            with pytest.raises(ValueError, match="is damaged: its content is not what was written") as error:
                PhotoIndex.open(path)
            assert str(file) in str(error.value)
        file.write_bytes(content)
    assert found(path, embedder) == expected


def test_a_damaged_hint_changes_nothing_or_is_told(index, embedder):
    path = index.table.path
    expected = found(path, embedder)
    for hint in Path(path).rglob("latest_version_hint.json"):
        content = hint.read_bytes()
        for changed in (b"", content.replace(b"1", b"0").replace(b"2", b"1"), b'{"version": 10000}'):
            hint.write_bytes(changed)
            try:
                assert found(path, embedder) == expected
            except (ValueError, OSError) as error:
                assert sentence_of(error, [path])
        hint.write_bytes(content)


def test_a_missing_file_is_told(index, embedder):
    path = index.table.path
    expected = found(path, embedder)
    for file in hashed_files(path):
        file.rename(f"{path}.aside")
        with pytest.raises((ValueError, OSError)) as error:
            PhotoIndex.open(path)
        sentence = sentence_of(error.value, [path])
        assert sentence and "\n" not in sentence and len(sentence) < 1000
        Path(f"{path}.aside").rename(file)
    assert found(path, embedder) == expected


def test_hashes_follow_what_is_added(index, photos, embedder):
    path = index.table.path
    before = check_hashes(path).version
    (photos / "0.png").unlink()
    index.add(photos)
    assert check_hashes(path).version > before
    assert len(found(path, embedder)) == 5
    # A killed run leaves older hashes. It may have deleted files of earlier versions.
    checked = CheckedFiles(before, Path("gone"))
    checked.check_version(path, before + 1)
    with pytest.raises(ValueError, match="gone must be there, but is missing"):
        checked.check_version(path, before)
    with pytest.raises(ValueError, match=f"must be at version {before}, but is at {before - 1}"):
        checked.check_version(path, before - 1)


def test_large_files_are_hashed_once_they_are_written_again(tmp_path, monkeypatch):
    monkeypatch.setattr(file_hashes, "MOST_HASHED_BYTES", 10)
    small, large = tmp_path / "small", tmp_path / "large"
    small.write_bytes(b"a" * 10)
    large.write_bytes(b"b" * 20)
    write_hashes(str(tmp_path), 3)
    assert check_hashes(tmp_path).version == 3
    times = large.stat()
    # The same size, at the same time: the one change that is not seen.
    large.write_bytes(b"c" * 20)
    os.utime(large, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert check_hashes(tmp_path).version == 3
    os.utime(large, ns=(times.st_atime_ns, times.st_mtime_ns + 1))
    with pytest.raises(ValueError, match="large is damaged"):
        check_hashes(tmp_path)
    # A copy has other times.
    large.write_bytes(b"b" * 20)
    assert check_hashes(tmp_path).version == 3
    small.write_bytes(b"a" * 9 + b"b")
    with pytest.raises(ValueError, match="small is damaged"):
        check_hashes(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"files": {"a": 3}, "version": 1}',
        '{"files": {}, "version": "1"}',
        "[" * 10**5,
        '{"files": {"../a": {"bytes": 1, "sha256": "", "modified_ns": 1}}, "version": 1}',
    ],
)
def test_damaged_hashes_are_named(content, tmp_path):
    (tmp_path / HASHES_FILE).write_text(content)
    with pytest.raises(ValueError, match=f"{HASHES_FILE} must have the hashes of an index, but is damaged"):
        check_hashes(tmp_path)
