"""Rows that are read, skipped and held out are all rows of a source, for every format, and the log says so."""

import logging
import re

import pytest

from beta_clip_hf.data.hierarchies import build_hierarchies
from beta_clip_hf.data.images import load_image
from beta_clip_hf.data.readers import RowStream, load_rows, open_table
from beta_clip_hf.search.naming import name_source
from beta_clip_hf.search.sources import PhotoRows
from data.source_files import CAPTIONS, NEED_DATASETS, SOURCES, SourceFile, write_photos


@pytest.fixture(params=SOURCES)
def source(request, tmp_path, monkeypatch) -> SourceFile:
    if request.param in NEED_DATASETS:
        datasets = pytest.importorskip("datasets")
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    write_photos(tmp_path)
    return SOURCES[request.param](tmp_path)


def read(source, **options):
    """The rows, and the number of those that were skipped."""
    rows = load_rows(source.place, encoding=source.encoding, **options)
    read_rows = list(rows) if isinstance(rows, RowStream) else [rows[index] for index in range(len(rows))]
    return rows, read_rows


def test_rows_read_and_skipped_are_all_rows(source, caplog):
    with caplog.at_level(logging.INFO):
        rows, read_rows = read(source)
    assert [load_image(row["image"]).getpixel((0, 0))[0] for row in read_rows] == [0, 1, 2, 3]
    assert [row["caption"].startswith(f"Picture {number}.") for number, row in enumerate(read_rows)] == [True] * 4
    skipped, num_read = rows.skipped, len(read_rows)
    if not isinstance(rows, RowStream):
        skipped, num_read = len(rows.skipped), rows.num_read
    assert skipped == source.damaged
    assert num_read + skipped + rows.held_out == source.rows
    counts = [message for message in caplog.messages if message.endswith(" in the source")]
    assert len(counts) == 1
    numbers = [int(number) for number in re.findall(r"(\d+) (?:rows read|skipped|held out|in the source)", counts[0])]
    assert sum(numbers[:-1]) == numbers[-1] == source.rows
    # Each of them was named.
    assert len([message for message in caplog.messages if " is skipped: " in message]) == source.damaged


def test_skip_and_take_cut_every_format(source):
    _, all_rows = read(source, group=False)
    rows, read_rows = read(source, group=False, skip=1)
    assert [row["id"] for row in read_rows] == [row["id"] for row in all_rows[1:]]
    _, read_rows = read(source, group=False, take=1)
    assert [row["id"] for row in read_rows] == [all_rows[0]["id"]]
    if not isinstance(rows, RowStream):
        assert rows.num_read + len(rows.skipped) + rows.held_out == source.rows


def test_columns_must_be_there_in_every_format(source):
    with pytest.raises(ValueError, match=r"columns must rename what is there, but \['title'\] is not in"):
        read(source, columns={"title": "caption"})


def test_a_bad_row_is_an_error_if_strict(source):
    with pytest.raises(ValueError, match=": "):
        read(source, strict=True)


def test_hierarchies_of_every_format(source, tmp_path):
    """Images that are files are not looked at, so fewer rows may be skipped, but none is lost."""
    if str(source.place).endswith(".tar.gz"):
        with pytest.raises(ValueError, match="tars must not be compressed"):
            build_hierarchies(source.place, tmp_path / "built", num_proc=1, encoding=source.encoding)
        return
    held_out = load_rows(source.place, encoding=source.encoding).held_out
    built = build_hierarchies(source.place, tmp_path / "built", num_proc=1, encoding=source.encoding)
    assert built.read + built.skipped + held_out == source.rows
    rows = load_rows(tmp_path / "built")
    assert [load_image(row["image"]).getpixel((0, 0))[0] for row in rows][:4] == [0, 1, 2, 3]
    assert all("phrase_sentences" in row for row in rows)


def test_photos_of_every_format(source):
    """A photo of an index needs no caption, so fewer rows may be skipped, but none is lost."""
    if str(source.place).endswith(".tar.gz"):
        return
    held_out = load_rows(source.place, encoding=source.encoding).held_out
    table, reader = open_table(source.place, encoding=source.encoding)
    photos = PhotoRows(table, reader, name_source(source.place, name="name"))
    assert photos.num_read + len(photos.skipped) + held_out == source.rows
    keys = photos.keys()
    # Those of the same photo are joined.
    captions = "\n".join(photos.row(key).get("caption", "") for key in keys)
    assert [caption for caption in CAPTIONS if caption not in captions] == []
