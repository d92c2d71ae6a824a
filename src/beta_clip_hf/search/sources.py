"""Sources of photos: a folder, or the rows of a data set."""

import hashlib
import io
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from PIL import Image

from ..data.grouping import image_key, join_rows
from ..data.images import load_image, thumbnail
from ..data.paths import usual_place
from ..data.readers import format_of_rows, is_saved_dataset, open_table
from ..data.records import Table, as_value_error
from ..data.row_counts import RowCounts
from ..data.row_reader import RowReader
from ..data.rows import Row
from ..data.selection import SelectedTable
from ..inference.identity import image_digest
from .columns import ARROW_TYPES, check_utf8, common_type, plain_columns, printable, safe_names
from .folder import PhotoFolder
from .naming import SourceName, check_name, name_source


logger = logging.getLogger(__name__)

PREVIEW_SIDE = 512  # pixels
# Filters use captions, and a confidence is measured with them.
_TEXTS_LEFT_OUT = "%s: the photos are indexed without the texts that lie beside them; --format %s (format=) reads both"
# Stands for a caption while a row without one is read.
_NO_CAPTION = "none"


class Photos(Protocol):
    """Images by key: the path of a file, or "SOURCE#ID"."""

    name: str
    """The name of the source, which tells its images from those of other sources."""
    skipped: list[tuple[str, str]]
    """The records that are not rows: where they are, and why."""

    def keys(self) -> Sequence[str]:
        """Returns the keys of all images, in order."""

    def row_digest(self, key: str) -> str:
        """Returns a hash of the columns of an image's row; "" for a source without rows."""

    def row(self, key: str) -> Row:
        """Returns the `image` and the columns of its row that an index keeps."""

    def types(self) -> dict[str, str]:
        """Returns the types of those columns by name."""


class PhotoRows:
    """
    Rows as for training, whose captions may be missing. Rows with the same image are one photo.

    The texts of all rows are read and checked once, to find what has changed. A row is read again, but not checked
    again, when it is asked for.

    Args:
        table: The raw records, as from [`open_table`].
        reader: The reader that makes rows of them.
        name: The name of the source, which tells its images from those of other sources.
        group: Whether a photo has the captions of all of its rows; if not, the first row counts, and the others are
            skipped.

    Raises:
        ValueError: if no record is a row.
    """

    def __init__(self, table: Table, reader: RowReader, name: SourceName, *, group: bool = True) -> None:
        self.name = name.collection
        self._place = name.place
        self.skipped: list[tuple[str, str]] = []
        self._table, self._reader, self._group = table, reader, group
        self._row_indices: dict[str, list[int]] = {}
        # The key of an image inside of the source, by the hash of its content.
        self._key_of_content: dict[bytes, str] = {}
        self._without_caption: set[int] = set()
        self._digests: dict[str, str] = {}
        # A column may hold values of several types.
        self._value_types: dict[str, set[str]] = {}
        # Reading the folder of each of a million rows would take minutes.
        self._real_folders: dict[str, str] = {}
        for row_index, (location, record) in enumerate(table.scan()):
            try:
                self._add(row_index, location, record)
            except ValueError as error:
                self.skipped.append((printable(location), printable(str(error))))
        if not self._row_indices:
            raise ValueError(f"{self.name} must have a row that can be used, but {self._why_none()}")
        for key, row_indices in self._row_indices.items():
            if len(row_indices) > 1:
                self._note_columns(key, self._joined_row(key))
        self._column_names = safe_names(self._value_types)
        self._log_counts()

    def _add(self, row_index: int, location: str, record: Mapping[str, Any] | ValueError) -> None:
        """
        Adds a row to its photo.

        Raises:
            ValueError: if it cannot be used.
        """
        if isinstance(record, ValueError):
            raise record
        row = self._checked_row(record, location, row_index)
        key = self._key(row)
        check_utf8(key, plain_columns(row))
        if self._group and file_of(row["image"]) is None:
            key = self._key_of_content.setdefault(image_key(row["image"]), key)
        rows_of_photo = self._row_indices.setdefault(key, [])
        if rows_of_photo and not self._group:
            raise ValueError(f"its image is that of an earlier row: {key}")
        rows_of_photo.append(row_index)
        if len(rows_of_photo) == 1:
            self._note_columns(key, row)

    def _why_none(self) -> str:
        """Says why no row can be used."""
        if not self.skipped:
            return "has none"
        location, reason = self.skipped[0]
        return f"has none. {location}: {reason}"

    def _log_counts(self) -> None:
        """Logs how many rows were read and skipped."""
        counts = RowCounts(self.name)
        counts.skipped = len(self.skipped)
        counts.add(self.num_read)
        if isinstance(self._table, SelectedTable):
            counts.hold_out(self._table.held_out)
        photos = len(self._row_indices)
        counts.report(photos if photos < counts.used else None)

    @property
    def num_read(self) -> int:
        """Number of rows of all photos."""
        return sum(map(len, self._row_indices.values()))

    def _note_columns(self, key: str, row: Row) -> None:
        """Notes the hash and the types of the columns of a photo."""
        columns = plain_columns(row)
        self._digests[key] = hashlib.sha256(json.dumps(columns, sort_keys=True).encode()).hexdigest()
        for column, value in columns.items():
            self._value_types.setdefault(column, set()).add(ARROW_TYPES[type(value)])

    def keys(self) -> Sequence[str]:
        """Returns the keys of all images, in the order of their rows."""
        return list(self._row_indices)

    def row_digest(self, key: str) -> str:
        """Returns the SHA-256 of the columns of an image's row."""
        return self._digests[key]

    def row(self, key: str) -> Row:
        """Returns the `image` and the columns of its row, as the types of the columns hold them."""
        row = self._joined_row(key)
        types = self.types()
        columns = {}
        for row_name, value in plain_columns(row).items():
            name = self._column_names[row_name]
            columns[name] = str(value) if types[name] == "string" else value
        return {**columns, "image": row["image"]}

    def types(self) -> dict[str, str]:
        """Returns the type of each column that holds all of its values."""
        types = {}
        for name, value_types in self._value_types.items():
            types[self._column_names[name]] = common_type(value_types)
        return types

    def _checked_row(self, record: Mapping[str, Any], location: str, row_index: int) -> Row:
        try:
            return self._reader(record, location)
        except ValueError:
            # A row of an index needs no caption. Any other mistake raises again here.
            row = self._reader({**record, "caption": _NO_CAPTION}, location)
            del row["caption"]
            # A caption that UTF-8 cannot hold makes the row unusable, as any other such text does.
            check_utf8(location, plain_columns(dict(record)))
            self._without_caption.add(row_index)
            return row

    def _joined_row(self, key: str) -> Row:
        """Reads the rows of an image again, and joins those that have a caption."""
        rows = [self._row_again(row_index) for row_index in self._row_indices[key]]
        captioned_rows = [row for row in rows if "caption" in row]
        return join_rows(captioned_rows or rows[:1])

    def _row_again(self, row_index: int) -> Row:
        record = self._table[row_index]
        location = self._table.location(row_index)
        if row_index not in self._without_caption:
            return self._reader.read_again(record, location)
        row = self._reader.read_again({**record, "caption": _NO_CAPTION}, location)
        del row["caption"]
        return row

    def _key(self, row: Row) -> str:
        file = file_of(row["image"])
        if file is None:
            return f"{self._place}#{row['id']}"
        folder, name = os.path.split(os.path.abspath(file))
        if folder not in self._real_folders:
            self._real_folders[folder] = os.path.realpath(folder)
        return os.path.join(self._real_folders[folder], name)


def open_photos(
    source: Any,
    *,
    name: str | None = None,
    format: str | None = None,
    split: str = "train",
    group: bool = True,
    **reading: Any,
) -> PhotoFolder | PhotoRows:
    """
    Opens a source of photos.

    Args:
        source: A folder, or anything that [`load_rows`] takes except streams and compressed tars. Without a `format`, a
            folder is one of photos unless `datasets` has written it, or it holds rows and no photo. A source that is
            open already is returned as it is.
        name: The name of the collection, by which an index tells it from others. By default the path or id with the
            split. Rows in memory must have one.
        format, split: See [`load_rows`].
        group: Whether a photo has the captions of all rows that name it, instead of those of the first one.
        reading: More arguments of [`load_rows`]: `image_root`, `columns`, `skip`, `take`, `delimiter`, `encoding`.

    Raises:
        ValueError: if rows in memory have no name; and see [`load_rows`].
        ImportError: see [`load_rows`].
    """
    if isinstance(source, PhotoFolder | PhotoRows):
        return source
    if name is not None:
        check_name(name)
    source = usual_place(source)
    is_path = isinstance(source, str | Path)
    if is_path and format is None and Path(source).is_dir():
        if is_saved_dataset(source):
            format = "hf"
        else:
            folder = PhotoFolder(source, name)
            rows_format = format_of_rows(Path(source), split)
            if folder.has_photos or rows_format is None:
                if rows_format is not None:
                    logger.info(_TEXTS_LEFT_OUT, folder.name, rows_format)
                return folder
    # Before anything is read: the name may be missing.
    source_name = name_source(source, name=name, split=split, **reading)
    table, reader = open_table(source, format=format, split=split, **reading)
    return PhotoRows(table, reader, source_name, group=group)


class ReadablePhotos(Sequence[Row]):
    """
    Makes the rows that an [`Embedder`] reads.

    A row has an `image`, the `record` of the table, and an `error` if the image cannot be read.
    An unreadable image is replaced by one black pixel, so that it does not stop its batch, and no image is decoded
    twice to find out.

    Args:
        photos: The source of the images.
        keys: The images to read.
    """

    def __init__(self, photos: Photos, keys: Sequence[str]) -> None:
        self._photos, self._keys = photos, keys

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, position: int) -> Row:  # type: ignore[override]  # no slices
        key = self._keys[position]
        try:
            row = self._photos.row(key)
            # The stamp comes first: a file that changes while it is read has another stamp next time.
            stamp = stamp_of_image(key, row["image"])
            image = load_image(row["image"])
            content_sha256 = image_digest(row["image"]).hex()
        # Whatever is wrong with a photo, the others can still be indexed.
        except Exception as error:
            reason = str(as_value_error(error))
            return {"image": Image.new("RGB", (1, 1)), "record": {"image": key}, "error": reason}
        record = {
            **row,
            **fields_of_source(self._photos, key, stamp),
            "width": image.width,
            "height": image.height,
            "file_sha256": content_sha256,
        }
        if stamp.modified_ns is None:
            # There is no file that a page of results could show.
            record["preview"] = preview_of(image)
        return {"image": image, "record": record}


def fields_of_source(photos: Photos, key: str, stamp: "Stamp") -> dict[str, Any]:
    """Returns the fields of a record that say where an image comes from."""
    return {
        "image": key,
        "file_source": photos.name,
        "file_bytes": stamp.file_bytes,
        "file_modified_ns": stamp.modified_ns,
        "row_sha256": photos.row_digest(key),
    }


def file_of(image: Any) -> str | None:
    """Returns the path of an image that is a file by itself; `None` for any other image."""
    if isinstance(image, str | Path):
        return str(image)
    return None


class Stamp(NamedTuple):
    """Holds the size and the modification time of a file, by which an unchanged file is known without reading it."""

    file_bytes: int | None
    modified_ns: int | None


# The stamp of an image without a file, and of a file that is gone.
NO_STAMP = Stamp(None, None)


def stamp_of(path: str) -> Stamp:
    """Returns the stamp of a file."""
    try:
        status = os.stat(path)
    # A path may hold a zero byte.
    except (OSError, ValueError):
        return NO_STAMP
    return Stamp(status.st_size, status.st_mtime_ns)


def stamp_of_image(key: str, image: Any) -> Stamp:
    """Returns the stamp of an image's file, whose path is the key; `NO_STAMP` for an image without a file."""
    if file_of(image) is None:
        return NO_STAMP
    return stamp_of(key)


def preview_of(image: Image.Image) -> bytes:
    """Returns the image as a small JPEG."""
    buffer = io.BytesIO()
    thumbnail(image, PREVIEW_SIDE).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
