"""What is to be indexed: a folder of photos, or the rows of a data set; and what of it an index does not have yet."""

import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from PIL import Image

from ..data.readers import is_saved_dataset, open_table
from ..data.records import Table
from ..data.row_dataset import RowReader
from ..data.rows import Row, load_image
from .table import OWN_COLUMNS, Stored


# Photos by their names. Some of these kinds need a plugin of Pillow, and are listed as unreadable without it.
_SUFFIXES = ".jpg .jpeg .jpe .jfif .png .webp .gif .bmp .tif .tiff .avif .heic .heif .jxl .jp2 .ppm .pgm"
PHOTO_SUFFIXES = frozenset(_SUFFIXES.split())
PREVIEW_SIDE = 512  # pixels
_TYPES: dict[type, str] = {bool: "bool", int: "int64", float: "double", str: "string"}


class Photos(Protocol):
    """Images by key: the path of a file, or "SOURCE#ID"."""

    name: str
    skipped: list[tuple[str, str]]
    """Records that are no rows: where they are, and why."""

    def keys(self) -> Sequence[str]:
        """Of all images, in order."""

    def digest(self, key: str) -> str:
        """Of what a row says of its image; "" where there are no rows."""

    def row(self, key: str) -> Row:
        """`image`, and the columns of the row that an index keeps."""

    def types(self) -> dict[str, str]:
        """The types of those columns."""


class PhotoFolder:
    """The photos below a folder, by their names; hidden files and folders are left out, links are not followed."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.skipped: list[tuple[str, str]] = []
        self.name = os.path.abspath(folder)

    def keys(self) -> Sequence[str]:
        """Raises `ValueError` where there is no photo: an unmounted disk is not an empty collection."""
        found = []
        for folder, folders, files in os.walk(self.name):
            folders[:] = sorted(one for one in folders if not one.startswith("."))
            for file in sorted(files):
                if os.path.splitext(file)[1].lower() in PHOTO_SUFFIXES and not file.startswith("."):
                    found.append(os.path.join(folder, file))
        if not found:
            raise ValueError(f"source must be a folder with photos below it, but {self.name!r} has none")
        return found

    def digest(self, key: str) -> str:
        return ""

    def row(self, key: str) -> Row:
        return {"image": key}

    def types(self) -> dict[str, str]:
        return {}


class PhotoRows:
    """
    Rows as for training, whose captions may be missing. Of several rows with one image the first counts. The texts are
    read once, to find what has changed; a row is read again when it is asked for.

    Args:
        table, reader: As from [`open_table`].
        name: Of the source, which tells its images from those of others.
    """

    def __init__(self, table: Table, reader: RowReader, name: str) -> None:
        self.name = name
        self.skipped: list[tuple[str, str]] = []
        self._table, self._reader = table, reader
        self._places: dict[str, int] = {}
        self._digests: dict[str, str] = {}
        self._types: dict[str, set[str]] = {}
        for place, (location, record) in enumerate(table.scan()):
            try:
                if isinstance(record, ValueError):
                    raise record
                row = self._row(record, location)
            except ValueError as error:
                self.skipped.append((location, str(error)))
                continue
            key, columns = self._key(row), _columns(row)
            if key in self._places:
                self.skipped.append((location, f"its image is that of an earlier row: {key}"))
                continue
            self._places[key] = place
            self._digests[key] = hashlib.sha256(json.dumps(columns, sort_keys=True).encode()).hexdigest()
            for column, value in columns.items():
                self._types.setdefault(column, set()).add(_TYPES[type(value)])
        if not self._places:
            reasons = "; ".join(f"{location}: {why}" for location, why in self.skipped[:1])
            raise ValueError(f"{name} must have a row that can be used, but has none. {reasons}")

    def keys(self) -> Sequence[str]:
        return list(self._places)

    def digest(self, key: str) -> str:
        return self._digests[key]

    def row(self, key: str) -> Row:
        place = self._places[key]
        row = self._row(self._table[place], self._table.location(place))
        columns = {
            name: str(value) if kind == "string" else value
            for name, value in _columns(row).items()
            for kind in [_common(self._types[name])]
        }
        return {**columns, "image": row["image"]}

    def types(self) -> dict[str, str]:
        return {column: _common(kinds) for column, kinds in self._types.items()}

    def _row(self, record: Mapping[str, Any], location: str) -> Row:
        try:
            return self._reader(record, location)
        except ValueError:
            row = self._reader({**record, "caption": "none"}, location)  # raises again where it is not the caption
            del row["caption"]
            return row

    def _key(self, row: Row) -> str:
        file = file_of(row["image"])
        return os.path.abspath(file) if file else f"{self.name}#{row['id']}"


def open_photos(
    source: Any,
    *,
    format: str | None = None,
    image_root: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    split: str = "train",
) -> PhotoFolder | PhotoRows:
    """
    Opens what is to be indexed.

    Args:
        source: A folder, which is one of photos where no `format` is given and `datasets` has not written it; or what
            [`load_rows`] takes, but no tars and no stream. What this has opened is given back.
        format, image_root, columns, split: As in [`load_rows`].

    Raises:
        ValueError, ImportError: as [`load_rows`] does.
    """
    if isinstance(source, PhotoFolder | PhotoRows):
        return source
    if format is None and isinstance(source, (str, Path)) and Path(source).is_dir():
        if not is_saved_dataset(source):
            return PhotoFolder(source)
        format = "hf"
    table, reader = open_table(source, format=format, image_root=image_root, columns=columns, split=split)
    is_path = isinstance(source, (str, Path))
    name = (os.path.abspath(source) if Path(source).exists() else str(source)) if is_path else table.name
    return PhotoRows(table, reader, name)


class Changes(NamedTuple):
    """What an index needs to be like its source."""

    new: list[str]
    changed: list[str]
    """Images with another content: to be removed, and encoded again."""
    updated: list[str]
    """Images with the same content, of which only columns differ."""
    gone: list[str]
    unchanged: int


def find_changes(photos: Photos, known: Mapping[str, Stored]) -> Changes:
    """
    Compares a source with an index. A file with the size and time of before is taken as unchanged; of any other the
    content decides. Images of other sources are left alone, but a row takes over an image that a folder has brought.
    """
    keys = photos.keys()
    new, changed, updated, unchanged = [], [], [], 0
    for key in keys:
        old, row_sha256 = known.get(key), photos.digest(key)
        if old is None:
            new.append(key)
        elif old.file_source != photos.name and not row_sha256:
            unchanged += 1  # a folder knows nothing of it that is not known
        else:
            stamp = stamp_of(key) if old.file_modified_ns is not None else (None, None)
            is_same = old.file_modified_ns is not None and stamp == (old.file_bytes, old.file_modified_ns)
            if not is_same and _content_sha256(photos, key) != old.file_sha256:
                changed.append(key)
            elif (photos.name, *stamp, row_sha256) != (*old[:3], old.row_sha256):
                updated.append(key)
            else:
                unchanged += 1
    present = set(keys)
    gone = [key for key, old in known.items() if old.file_source == photos.name and key not in present]
    return Changes(new, changed, updated, gone, unchanged)


class ReadablePhotos(Sequence[Row]):
    """
    The rows that an [`Embedder`] reads: `image`, the `record` of the table, and an `error` where the image cannot be
    read, which is then one black pixel: so one bad file does not stop a batch, and none is decoded twice.
    """

    def __init__(self, photos: Photos, keys: Sequence[str]) -> None:
        self._photos, self._keys = photos, keys

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, place: int) -> Row:  # type: ignore[override]  # no slices
        key = self._keys[place]
        try:
            row = self._photos.row(key)
            size, modified = stamp_of(key) if file_of(row["image"]) else (None, None)  # before it is read
            image, content = load_image(row["image"]), sha256_of(row["image"])
        except (ValueError, OSError) as error:
            return {"image": Image.new("RGB", (1, 1)), "record": {"image": key}, "error": str(error)}
        record = {name: value for name, value in row.items() if name != "image"}
        record |= {"image": key, "width": image.width, "height": image.height, "file_source": self._photos.name}
        record |= {"file_bytes": size, "file_modified_ns": modified, "file_sha256": content}
        record["row_sha256"] = self._photos.digest(key)
        if modified is None:
            record["preview"] = _preview(image)
        return {"image": image, "record": record}


def updated_records(photos: Photos, keys: Sequence[str], columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """For images of which only columns differ: the named columns of their rows, empty where a row has none, and what
    tells next time that nothing has changed."""
    for key in keys:
        row = photos.row(key)
        size, modified = stamp_of(key) if file_of(row["image"]) else (None, None)
        stamps = {"file_bytes": size, "file_modified_ns": modified, "row_sha256": photos.digest(key)}
        yield {"image": key, "file_source": photos.name, **{name: row.get(name) for name in columns}, **stamps}


def file_of(image: Any) -> str | None:
    """The path of an image that is a file of its own."""
    return str(image) if isinstance(image, (str, Path)) else None


def stamp_of(path: str) -> tuple[int, int] | tuple[None, None]:
    """Size and time of change of a file; what no file has where it is gone."""
    try:
        stat = os.stat(path)
    except OSError:
        return None, None
    return stat.st_size, stat.st_mtime_ns


def sha256_of(image: Any) -> str:
    """SHA-256 of the bytes of an image file, or of the pixels of an image that comes from none."""
    if isinstance(image, Mapping):
        image = image.get("bytes") or image["path"]
    if isinstance(image, (str, Path)):
        with open(image, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    content = image if isinstance(image, bytes) else f"{image.mode} {image.size} ".encode() + image.tobytes()
    return hashlib.sha256(content).hexdigest()


def _content_sha256(photos: Photos, key: str) -> str | None:
    try:
        return sha256_of(photos.row(key)["image"])
    except (OSError, ValueError):
        return None


def _columns(row: Row) -> dict[str, Any]:
    """The plain values of a row: texts, numbers, truth values; without the names that an index uses itself."""
    return {
        name.replace(".", "_").replace("`", "_"): value
        for name, value in row.items()
        if name not in OWN_COLUMNS and type(value) in _TYPES
    }


def _common(kinds: set[str]) -> str:
    if len(kinds) == 1:
        return next(iter(kinds))
    return "double" if kinds == {"int64", "double"} else "string"


def _preview(image: Image.Image) -> bytes:
    small = image.copy()
    small.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
