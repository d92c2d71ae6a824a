"""Rows that name the same image are one photo with several captions."""

import hashlib
import logging
import os
from array import array
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..text.sampling import join_captions
from .fields import bytes_or_path
from .regions import DEFAULT_BOX_FORMAT
from .row_texts import sentences_of
from .rows import CheckedRow, Row, check_row


logger = logging.getLogger(__name__)

# This many bytes of the beginning and of the end of a large file are looked at where that is enough.
QUICK_BYTES = 4096
_KEY_BYTES = 16
# Lists that belong to the caption of a row. Those of all rows of a photo are joined.
_JOINED_LISTS = ("hard_negatives", "choices")
# Lists beside `phrases`, one item for each phrase.
_LISTS_OF_PHRASES = ("phrase_sentences", "phrase_kinds")


class UnreadImage(dict[str, Any]):
    """Stands for an image that lies inside of a source and is not read yet: `{"bytes": None, "path": None}`.

    Args:
        read: Reads the image.
    """

    def __init__(self, read: Callable[[], Any]) -> None:
        super().__init__(bytes=None, path=None)
        self.read = read


def read_image(image: Any) -> Any:
    """Returns the bytes, the path or the PIL image that an image is. One that is not read yet is read."""
    if isinstance(image, UnreadImage):
        image = image.read()
    return bytes_or_path(image)


def quick_content(content: bytes) -> bytes:
    """Returns the length of a file's content, its beginning and its end: they nearly always tell it from others."""
    return b"%d " % len(content) + content[:QUICK_BYTES] + content[-QUICK_BYTES:]


def image_key(image: Any) -> bytes:
    """Returns 16 bytes that are the same for the same image: a hash of its path, address or content.

    The content of a file is not looked at: two copies of a file are two photos.
    """
    image = read_image(image)
    if isinstance(image, Image.Image):
        return _digest(b"pixels", *_pixels(image))
    if isinstance(image, (bytes, bytearray, memoryview)):
        return _digest(b"file", image)
    if isinstance(image, (str, Path)):
        return _path_key(str(image))
    # Something that only the collator can refuse. It is a photo of its own.
    return _digest(b"object", str(id(image)).encode())


def _path_key(path: str) -> bytes:
    if "://" not in path:
        path = os.path.abspath(path)
    return _digest(b"path", path.encode("utf-8", "surrogatepass"))


def _pixels(image: Image.Image) -> Sequence[bytes]:
    """Returns what tells a PIL image from others. One that is opened, but not read yet, is known by its file."""
    file_name = getattr(image, "filename", "")
    if file_name and getattr(image, "fp", None) is not None:
        return [os.path.abspath(os.fsdecode(file_name)).encode("utf-8", "surrogateescape")]
    try:
        return [f"{image.mode} {image.size}".encode(), image.tobytes()]
    except (OSError, ValueError):
        # Broken images are found by the collator.
        return [str(id(image)).encode()]


def _digest(kind: bytes, *parts: Any) -> bytes:
    digest = hashlib.blake2b(kind, digest_size=_KEY_BYTES)
    for part in parts:
        digest.update(part)
    return digest.digest()


class PhotoGroups:
    """Tells which rows show the same photo. A row costs 8 bytes, and a photo 8 more.

    Args:
        rows: Numbers of the rows. Those of a photo lie side by side.
        ends: Where the rows of each photo end.
    """

    def __init__(self, rows: array, ends: array) -> None:
        self._rows = rows
        self._ends = ends

    @property
    def have_several(self) -> bool:
        """Whether at least half of the photos have several rows. Then those of all photos are lists of captions."""
        sizes = np.diff(np.asarray(self._ends), prepend=np.uint64(0))
        return bool(2 * np.count_nonzero(sizes > 1) >= len(sizes))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, photo: int) -> Sequence[int]:
        # Negative numbers count from the end, as those of a list do.
        photo = range(len(self))[photo]
        start = self._ends[photo - 1] if photo else 0
        return self._rows[start : self._ends[photo]]


class PhotoKeys:
    """Collects the keys of images, 16 bytes each, and finds out which are the same."""

    def __init__(self) -> None:
        self._keys = bytearray()

    def add(self, key: bytes) -> None:
        """Adds the key of the next row, see [`image_key`]."""
        self._keys += key

    def groups(self, rows: array) -> PhotoGroups | None:
        """Groups rows by their keys. Photos, and the rows of a photo, keep the order of the rows.

        Args:
            rows: Numbers of the rows whose keys were added.

        Returns:
            The groups, or `None` if no two rows show the same photo.
        """
        if not rows:
            return None
        keys = np.frombuffer(self._keys, dtype=f"V{_KEY_BYTES}")
        # Two numbers of 8 bytes are compared faster than 16 bytes.
        _, first_row, photo_of_row = np.unique(
            keys.view("<u8").reshape(len(keys), 2), axis=0, return_index=True, return_inverse=True
        )
        if len(first_row) == len(keys):
            return None
        place_of_photo = np.empty(len(first_row), dtype=np.int64)
        place_of_photo[np.argsort(first_row)] = np.arange(len(first_row))
        photo_of_row = place_of_photo[photo_of_row.reshape(-1)]
        order = np.argsort(photo_of_row, kind="stable")
        grouped_rows = array("Q", np.asarray(rows)[order].astype("<u8").tobytes())
        ends = np.cumsum(np.bincount(photo_of_row))
        return PhotoGroups(grouped_rows, array("Q", ends.astype("<u8").tobytes()))


def group_rows(rows: Sequence[Row]) -> list[Row]:
    """Makes one row of those that show the same photo. The images are not changed, nor is the order.

    >>> rows = [{"image": "a.jpg", "caption": "A dog."}, {"image": "a.jpg", "caption": "It runs."}]
    >>> group_rows(rows)[0]["captions"]
    ['A dog.', 'It runs.']
    """
    keys = PhotoKeys()
    for row in rows:
        keys.add(image_key(row["image"]))
    groups = keys.groups(array("Q", range(len(rows))))
    if groups is None:
        return list(rows)
    joined = []
    for photo in range(len(groups)):
        rows_of_photo = [rows[number] for number in groups[photo]]
        joined.append(join_rows(rows_of_photo, as_list=groups.have_several))
    return joined


def join_rows(rows: Sequence[Row], *, as_list: bool = False) -> Row:
    """Makes one row of checked rows of the same photo.

    `captions`, regions and hard negatives are those of all rows, each once. So are sentences and phrases, if every row
    brings some or all rows have the same caption. Of any other column the first value counts. Regions with another
    `box_format` than the first ones are left out, and a warning says so.

    Args:
        rows: The rows.
        as_list: Whether a single caption is put into `captions` too, as it is among photos with several captions.
    """
    if len(rows) == 1:
        return _with_captions(check_row(rows[0])) if as_list else rows[0]
    rows = [check_row(row) for row in rows]
    joined: Row = {}
    for row in rows:
        for name, value in row.items():
            joined.setdefault(name, value)
    captions: list[str] = []
    for row in rows:
        captions += row.get("captions") or [row["caption"]]
    captions = list(dict.fromkeys(captions))
    for name in _JOINED_LISTS:
        _join_lists(joined, rows, name)
    _join_regions(joined, rows)
    if len(captions) == 1:
        # A row for each box or phrase, or the same row several times.
        _join_phrases_of_a_caption(joined, rows)
        return _with_captions(CheckedRow(joined)) if as_list else CheckedRow(joined)
    joined["captions"] = captions
    joined["caption"] = join_captions(captions)
    _join_hierarchies(joined, rows)
    return CheckedRow(joined)


def _with_captions(row: Row) -> Row:
    """Copies a checked row with its caption in a list. Its sentences stay what they were."""
    if "captions" in row:
        return row
    sentences = sentences_of(row)
    listed = {**row, "captions": [row["caption"]]}
    if sentences != listed["captions"]:
        listed["sentences"] = sentences
    return CheckedRow(listed)


def _join_lists(joined: Row, rows: Sequence[Row], name: str) -> None:
    if name not in joined:
        return
    items: list[Any] = []
    for row in rows:
        # Rows of the same photo often repeat its regions.
        items += [item for item in row.get(name) or () if item not in items]
    joined[name] = items


def _join_regions(joined: Row, rows: Sequence[Row]) -> None:
    """Joins regions. A row has one format of boxes: that of the first regions, whichever row brings them."""
    joined.pop("box_format", None)
    with_regions = [row for row in rows if row.get("regions")]
    if not with_regions:
        return
    first = with_regions[0]
    if "box_format" in first:
        joined["box_format"] = first["box_format"]
    box_format = first.get("box_format", DEFAULT_BOX_FORMAT)
    fitting = [row for row in with_regions if row.get("box_format", DEFAULT_BOX_FORMAT) == box_format]
    if len(fitting) < len(with_regions):
        logger.warning(
            "%s: regions of %d of its rows are left out, because their box_format is not %s as that of the first ones",
            joined.get("id", "a photo"),
            len(with_regions) - len(fitting),
            box_format,
        )
    _join_lists(joined, fitting, "regions")


def _join_phrases_of_a_caption(joined: Row, rows: Sequence[Row]) -> None:
    """Joins the phrases of rows with the same caption. Rows with other sentences than the first are left out."""
    sentences = sentences_of(joined)
    with_phrases = [row for row in rows if "phrases" in row and sentences_of(row) == sentences]
    names = ["phrases"]
    for name in _LISTS_OF_PHRASES:
        joined.pop(name, None)
        if all(name in row for row in with_phrases):
            names.append(name)
    phrases: list[tuple[Any, ...]] = []
    for row in with_phrases:
        columns = [row[name] for name in names]
        phrases += [phrase for phrase in zip(*columns, strict=True) if phrase not in phrases]
    if with_phrases:
        for place, name in enumerate(names):
            joined[name] = [phrase[place] for phrase in phrases]


def _join_hierarchies(joined: Row, rows: Sequence[Row]) -> None:
    """Joins sentences and phrases. Phrases refer to sentences by number, so the numbers are shifted."""
    for name in ("sentences", "phrases", *_LISTS_OF_PHRASES):
        joined.pop(name, None)
    sentences: list[str] = []
    starts: list[int] = []
    for row in rows:
        starts.append(len(sentences))
        sentences += sentences_of(row)
    if sentences != joined["captions"]:
        joined["sentences"] = sentences
    for name in ("phrases", *_LISTS_OF_PHRASES):
        if not all(name in row for row in rows):
            continue
        values: list[Any] = []
        for row, start in zip(rows, starts, strict=True):
            values += [_shifted(value, start) for value in row[name]]
        joined[name] = values


def _shifted(value: Any, start: int) -> Any:
    if isinstance(value, int):
        return value + start
    if isinstance(value, Mapping) and value.get("sentence") is not None:
        return {**value, "sentence": value["sentence"] + start}
    return value


__all__ = ["PhotoGroups", "PhotoKeys", "UnreadImage", "group_rows", "image_key", "join_rows"]
