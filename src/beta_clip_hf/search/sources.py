"""Sources of photos: a folder, or the rows of a data set."""

import hashlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from PIL import Image

from ..data.grouping import image_key, join_rows
from ..data.images import load_image, thumbnail
from ..data.paths import usual_place
from ..data.readers import holds_rows, is_saved_dataset, open_table
from ..data.records import Table
from ..data.row_counts import RowCounts
from ..data.row_reader import RowReader
from ..data.rows import Row
from ..data.selection import SelectedTable
from ..inference.identity import image_digest
from .schema import OWN_COLUMNS


# A photo is known by the suffix of its file. Pillow needs a plugin for some of these; without it they are listed as
# unreadable.
_SUFFIXES = ".jpg .jpeg .jpe .jfif .png .webp .gif .bmp .tif .tiff .avif .heic .heif .jxl .jp2 .ppm .pgm"
PHOTO_SUFFIXES = frozenset(_SUFFIXES.split())
PREVIEW_SIDE = 512  # pixels
# Stands for a caption while a row without one is read.
_NO_CAPTION = "none"
_ARROW_TYPES: dict[type, str] = {bool: "bool", int: "int64", float: "double", str: "string"}


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


class PhotoFolder:
    """
    Lists the photos below a folder, known by their suffixes.

    Hidden files and folders are left out. Links to folders are not followed.

    Args:
        folder: The folder. It is not read before `keys` is called.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.skipped: list[tuple[str, str]] = []
        self.name = os.path.abspath(folder)

    def keys(self) -> Sequence[str]:
        """
        Lists the photos, folder by folder, in the order of their names.

        Raises:
            ValueError: if there is no photo. The disk may not be mounted, and an index must not be emptied for that.
        """
        photos = []
        for folder, subfolders, files in os.walk(self.name):
            # `os.walk` visits what is left in this list, in its order.
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            for file in sorted(files):
                suffix = os.path.splitext(file)[1].lower()
                if suffix in PHOTO_SUFFIXES and not file.startswith("."):
                    photos.append(os.path.join(folder, file))
        if not photos:
            raise ValueError(f"source must be a folder with photos below it, but {self.name!r} has none")
        return photos

    @property
    def has_photos(self) -> bool:
        """Whether there is a photo."""
        try:
            return bool(self.keys())
        except ValueError:
            return False

    def row_digest(self, key: str) -> str:
        """Returns "", because a folder has no rows."""
        return ""

    def row(self, key: str) -> Row:
        """Returns a row that has only its image."""
        return {"image": key}

    def types(self) -> dict[str, str]:
        """Returns an empty dict, because a folder has no columns."""
        return {}


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

    def __init__(self, table: Table, reader: RowReader, name: str, *, group: bool = True) -> None:
        self.name = name
        self.skipped: list[tuple[str, str]] = []
        self._table, self._reader = table, reader
        self._row_indices: dict[str, list[int]] = {}
        # The key of an image inside of the source, by the hash of its content.
        self._key_of_content: dict[bytes, str] = {}
        self._without_caption: set[int] = set()
        self._digests: dict[str, str] = {}
        # A column may hold values of several types.
        self._value_types: dict[str, set[str]] = {}
        for row_index, (location, record) in enumerate(table.scan()):
            try:
                if isinstance(record, ValueError):
                    raise record
                row = self._checked_row(record, location, row_index)
            except ValueError as error:
                self.skipped.append((location, str(error)))
                continue
            key = self._key(row)
            if group and file_of(row["image"]) is None:
                key = self._key_of_content.setdefault(image_key(row["image"]), key)
            if key in self._row_indices and not group:
                self.skipped.append((location, f"its image is that of an earlier row: {key}"))
                continue
            self._row_indices.setdefault(key, []).append(row_index)
            if len(self._row_indices[key]) == 1:
                self._note_columns(key, row)
        if not self._row_indices:
            reasons = "; ".join(f"{location}: {reason}" for location, reason in self.skipped[:1])
            raise ValueError(f"{name} must have a row that can be used, but has none. {reasons}")
        for key, row_indices in self._row_indices.items():
            if len(row_indices) > 1:
                self._note_columns(key, self._joined_row(key))
        self._count()

    def _count(self) -> None:
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
        columns = _plain_columns(row)
        self._digests[key] = hashlib.sha256(json.dumps(columns, sort_keys=True).encode()).hexdigest()
        for column, value in columns.items():
            self._value_types.setdefault(column, set()).add(_ARROW_TYPES[type(value)])

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
        for name, value in _plain_columns(row).items():
            columns[name] = str(value) if types[name] == "string" else value
        return {**columns, "image": row["image"]}

    def types(self) -> dict[str, str]:
        """Returns the type of each column that holds all of its values."""
        return {column: _common_type(value_types) for column, value_types in self._value_types.items()}

    def _checked_row(self, record: Mapping[str, Any], location: str, row_index: int) -> Row:
        try:
            return self._reader(record, location)
        except ValueError:
            # A row of an index needs no caption. Any other mistake raises again here.
            row = self._reader({**record, "caption": _NO_CAPTION}, location)
            del row["caption"]
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
            return f"{self.name}#{row['id']}"
        return os.path.abspath(file)


def open_photos(
    source: Any,
    *,
    format: str | None = None,
    image_root: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
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
        format, image_root, columns, split: See [`load_rows`].
        group: Whether a photo has the captions of all rows that name it, instead of those of the first one.
        reading: More arguments of [`load_rows`]: `skip`, `take`, `delimiter`, `encoding`.

    Raises:
        ValueError, ImportError: see [`load_rows`].
    """
    if isinstance(source, PhotoFolder | PhotoRows):
        return source
    source = usual_place(source)
    is_path = isinstance(source, str | Path)
    if is_path and format is None and Path(source).is_dir():
        if is_saved_dataset(source):
            format = "hf"
        else:
            folder = PhotoFolder(source)
            if folder.has_photos or not holds_rows(Path(source), split):
                return folder
    settings: dict[str, Any] = {"image_root": image_root, "columns": columns, "split": split, **reading}
    table, reader = open_table(source, format=format, **settings)
    if not is_path:
        name = table.name
    elif Path(source).exists():
        name = os.path.abspath(source)
    else:
        # The name of a data set on the Hub.
        name = str(source)
    return PhotoRows(table, reader, name, group=group)


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
        except (ValueError, OSError) as error:
            return {"image": Image.new("RGB", (1, 1)), "record": {"image": key}, "error": str(error)}
        record = {
            **row,
            "image": key,
            "width": image.width,
            "height": image.height,
            "file_source": self._photos.name,
            "file_bytes": stamp.file_bytes,
            "file_modified_ns": stamp.modified_ns,
            "file_sha256": content_sha256,
            "row_sha256": self._photos.row_digest(key),
        }
        if stamp.modified_ns is None:
            # There is no file that a page of results could show.
            record["preview"] = _preview(image)
        return {"image": image, "record": record}


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
    except OSError:
        return NO_STAMP
    return Stamp(status.st_size, status.st_mtime_ns)


def stamp_of_image(key: str, image: Any) -> Stamp:
    """Returns the stamp of an image's file, whose path is the key; `NO_STAMP` for an image without a file."""
    if file_of(image) is None:
        return NO_STAMP
    return stamp_of(key)


def _plain_columns(row: Row) -> dict[str, Any]:
    """Returns the texts, numbers and truth values of a row, except under the names that an index uses itself."""
    columns = {}
    for name, value in row.items():
        if name not in OWN_COLUMNS and type(value) in _ARROW_TYPES:
            # LanceDB reads a dot as a path into a struct; a backtick would end a quoted name.
            columns[name.replace(".", "_").replace("`", "_")] = value
    return columns


def _common_type(value_types: set[str]) -> str:
    """Returns the type that holds values of several types."""
    if len(value_types) == 1:
        return next(iter(value_types))
    if value_types == {"int64", "double"}:
        return "double"
    return "string"


def _preview(image: Image.Image) -> bytes:
    """Returns the image as a small JPEG."""
    buffer = io.BytesIO()
    thumbnail(image, PREVIEW_SIDE).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
