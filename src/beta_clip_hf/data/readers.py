"""Opens a data set of rows: [`load_rows`] finds out which format a source has, and has that format open it."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .formats.coco import COCO
from .formats.csv_files import CSV
from .formats.dci import DCI
from .formats.finehard import FINEHARD
from .formats.hub import HUB, is_saved_dataset
from .formats.image_folder import IMAGE_FOLDER, TABLE_FOLDER
from .formats.in_memory import ROWS
from .formats.json_rows import JSON, JSONL
from .formats.sidecars import SIDECAR
from .formats.source import OpenedSource, Source, SourceFormat
from .formats.webdataset import WEBDATASET
from .image_places import folder_of_images
from .paths import usual_place
from .records import RecordStream, Table
from .row_dataset import RowDataset, RowStream
from .row_reader import RowReader
from .selection import SelectedTable, make_selection


logger = logging.getLogger(__name__)

_ALL_FORMATS = (ROWS, JSONL, JSON, CSV, HUB, IMAGE_FOLDER, SIDECAR, WEBDATASET, FINEHARD, COCO, DCI)
_FORMAT_BY_NAME = {source_format.name: source_format for source_format in _ALL_FORMATS}
FORMATS = tuple(_FORMAT_BY_NAME)

# The first format that recognises a source opens it. In a directory each format looks for something more specific than
# the formats after it do; `datasets` takes any directory.
_ORDER_OF_GUESSES = (ROWS, IMAGE_FOLDER, JSONL, JSON, CSV, WEBDATASET, DCI, SIDECAR, TABLE_FOLDER, HUB)


def load_rows(
    source: Any,
    *,
    format: str | None = None,
    image_root: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    split: str = "train",
    streaming: bool = False,
    shuffle_buffer: int = 0,
    seed: int = 0,
    skip: int = 0,
    take: int | None = None,
    select: Any = None,
    strict: bool = False,
    group: bool = True,
    delimiter: str | None = None,
    encoding: str | None = None,
) -> RowDataset | RowStream:
    """Opens a data set of images and captions. The collator reads and decodes the images later.

    Args:
        source: A file (`.jsonl`, `.json`, `.csv`, `.tsv`, `.txt`, `.parquet`, `.arrow`, `.tar`), a glob or list of
            those, a directory (see docs/data.md), the id of a data set on the Hub, a `datasets.Dataset`, or a list of
            dicts. Files of text may be compressed (`.gz`, `.zst`, `.bz2`, `.xz`).
        format: One of "rows", "jsonl", "json", "csv", "hf", "imagefolder", "sidecar", "webdataset", "finehard", "coco",
            "dci". By default the source tells it.
        image_root: Directory that relative image paths start from. By default it is that of the file or files, or the
            folder in it or beside it that holds the images.
        columns: New names of columns, `{present: wanted}`, as in `{"text": "caption"}`.
        split: Split to read of a directory, a Hub data set, or a file that names the split of each row (Karpathy's,
            DOCCI).
        streaming: Whether a Hub data set is streamed. Tars always are, other files never.
        shuffle_buffer: Number of rows held for shuffling a stream; 0 keeps the order.
        seed: Seed of that shuffling, together with the epoch (`set_epoch`).
        skip: Number of records at the start of the source that are held out, as the test set of ShareGPT4V is.
        take: Largest number of records that are used; all by default.
        select: Records that are used, instead of `skip` and `take`: their numbers, counted from 0; their ids, as
            strings; the path of a file with an id on each line; or values of columns, as in `{"split": "train"}` or
            `{"split": ["train", "val"]}`. They keep the order of the source. Numbers of records, here and for `skip`
            and `take`, count those that cannot be used too.
        strict: Whether a row that cannot be used is an error. By default it is skipped, logged and counted
            (`.skipped`).
        group: Whether rows that name the same image become one row with several `captions`. Streams never group.
        delimiter: What separates the cells of a CSV file, or "tab"; by default its header tells.
        encoding: Encoding of a CSV file; by default UTF-8, or what a byte order mark says.

    Returns:
        A `RowDataset`; a `RowStream` for tars and if `streaming`. The rows that it has read (`.num_read`), those in
        `.skipped` and the number `.held_out` are together all records of the source (of a stream, up to the last one
        that is used).

    Raises:
        ValueError: if the source is not there, not of that format, or lacks a column; if no record is left, or an id
            or number is not there (an id that a stream lacks goes unnoticed); if `strict`, for any bad row.
        ImportError: for Parquet, Arrow and Hub data sets without the package `datasets`, for `.zst` without
            `zstandard`.

    >>> rows = load_rows([{"image": b"...", "text": "A red square."}], columns={"text": "caption"})
    >>> rows[0]["id"], rows[0]["caption"]
    ('rows[0]', 'A red square.')
    >>> rows = load_rows([{"image": b"%d" % number, "caption": f"Picture {number}."} for number in range(5)], skip=2)
    >>> rows[0]["caption"], len(rows), rows.held_out
    ('Picture 2.', 3, 2)
    """
    selection = make_selection(skip, take, select, columns)
    request = Source(
        usual_place(source),
        split,
        streaming=streaming,
        shuffle_buffer=shuffle_buffer,
        seed=seed,
        selection=selection,
        is_format_given=format is not None,
        delimiter=delimiter,
        encoding=encoding,
    )
    opened = _open(request, format)
    reader = _reader(opened, image_root, columns)
    if isinstance(opened.records, RecordStream):
        return RowStream(opened.records, reader, strict=strict)
    table = opened.records
    if selection is not None:
        table = SelectedTable(table, selection)
    return RowDataset(table, reader, strict=strict, group=group)


def open_table(
    source: Any,
    *,
    format: str | None = None,
    image_root: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    split: str = "train",
    skip: int = 0,
    take: int | None = None,
    select: Any = None,
    delimiter: str | None = None,
    encoding: str | None = None,
) -> tuple[Table, RowReader]:
    """Opens a source whose records can be read by index, including tars.

    Args:
        source, format, image_root, columns, split, skip, take, select, delimiter, encoding: See [`load_rows`].

    Returns:
        The records, and what makes rows of them.

    Raises:
        ValueError: as `load_rows`, and if the source is a stream.
        ImportError: as `load_rows`.
    """
    selection = make_selection(skip, take, select, columns)
    request = Source(
        usual_place(source),
        split,
        is_format_given=format is not None,
        delimiter=delimiter,
        encoding=encoding,
        by_index=True,
    )
    opened = _open(request, format)
    if isinstance(opened.records, RecordStream):
        raise ValueError(f"source must have rows that can be read by index, but {opened.records.name} is a stream")
    table = opened.records
    reader = _reader(opened, image_root, columns)
    if selection is not None:
        table = SelectedTable(table, selection)
    return table, reader


def format_of_rows(folder: Path, split: str = "train") -> str | None:
    """Returns the format in which a folder has rows, as the names of its files tell; `None` if it has none."""
    source = Source(folder, split)
    for source_format in _ORDER_OF_GUESSES:
        if source_format is not HUB and source_format.recognises(source):
            return source_format.name
    return None


def _reader(opened: OpenedSource, image_root: str | Path | None, columns: Mapping[str, str] | None) -> RowReader:
    if image_root is not None:
        return RowReader(usual_place(image_root), columns, opened.record_format)
    reader = RowReader(opened.folder, columns, opened.record_format)
    if opened.folder is None or isinstance(opened.records, RecordStream):
        return reader
    folder = folder_of_images(opened.records, reader, opened.folder)
    if folder == opened.folder:
        return reader
    logger.info("%s: the images are in %s", opened.records.name, folder)
    return RowReader(folder, columns, opened.record_format)


def _open(source: Source, format_name: str | None) -> OpenedSource:
    if format_name is None:
        source_format = _guess_format(source)
    elif format_name in _FORMAT_BY_NAME:
        source_format = _FORMAT_BY_NAME[format_name]
    else:
        raise ValueError(f"format must be one of {FORMATS}, but is {format_name!r}")
    if source.streaming and not source_format.can_stream:
        raise ValueError(f"streaming must be False for the format {source_format.name!r}, but is True")
    return source_format.open(source)


def _guess_format(source: Source) -> SourceFormat:
    """Returns the format that recognises a source.

    Raises:
        ValueError: if none does; the message says what a source may be.
    """
    for source_format in _ORDER_OF_GUESSES:
        if source_format.recognises(source):
            return source_format
    if source.path is None:
        if not isinstance(source.place, Sequence):
            raise ValueError(
                f"source must be a path, a list or a `datasets.Dataset`, but is a {type(source.place).__name__}"
            )
        raise ValueError(
            f"source must be files of one format, or have its format given, but is {[*map(str, source.place)][:3]}"
        )
    if source.path.exists():
        raise ValueError(
            "source must end in .jsonl, .json, .csv, .tsv, .txt, .parquet, .arrow, .tar or .tgz (text also in .gz or "
            f".zst), or have its format given, but is {str(source.place)!r}"
        )
    raise ValueError(
        f"source must be an existing file or directory, or the id of a Hub data set, but is {str(source.place)!r}"
    )


__all__ = ["FORMATS", "RowDataset", "RowStream", "is_saved_dataset", "load_rows", "open_table"]
