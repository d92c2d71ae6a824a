"""The changes that bring an index up to date with a source of photos."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from ..inference.identity import image_digest
from .schema import Stored
from .sources import NO_STAMP, Photos, Stamp, stamp_of, stamp_of_image


class Changes(NamedTuple):
    """Holds the changes that bring an index up to date with a source, as keys of images."""

    new: list[str]
    """Images that the index does not have."""
    changed: list[str]
    """Images with another content, which are removed and encoded again."""
    updated: list[str]
    """Images with the same content and other columns."""
    gone: list[str]
    """Images that the source no longer has."""
    unchanged: int
    """The number of all other images."""


def find_changes(photos: Photos, known: Mapping[str, Stored]) -> Changes:
    """
    Compares a source with an index.

    A file is taken as unchanged if its size and modification time are the same; otherwise its content decides. Images
    of other sources are left alone, except that a row takes over an image that a folder has brought.

    Args:
        photos: The source.
        known: What the index knows about its images, by key.
    """
    keys = photos.keys()
    changes = Changes(new=[], changed=[], updated=[], gone=[], unchanged=0)
    for key in keys:
        if key not in known:
            changes.new.append(key)
            continue
        kind = _compare(photos, key, known[key])
        if kind == "changed":
            changes.changed.append(key)
        elif kind == "updated":
            changes.updated.append(key)
    present = set(keys)
    for key, stored in known.items():
        if stored.file_source == photos.name and key not in present:
            changes.gone.append(key)
    unchanged = len(keys) - len(changes.new) - len(changes.changed) - len(changes.updated)
    return changes._replace(unchanged=unchanged)


def _compare(photos: Photos, key: str, stored: Stored) -> Literal["changed", "updated", "unchanged"]:
    """Tells what has happened to an image since it was stored."""
    row_sha256 = photos.row_digest(key)
    if stored.file_source != photos.name and not row_sha256:
        # The image belongs to another source, and a folder has no columns to add to it.
        return "unchanged"
    stored_stamp = Stamp(stored.file_bytes, stored.file_modified_ns)
    has_stamp = stored.file_modified_ns is not None
    stamp = stamp_of(key) if has_stamp else NO_STAMP
    # An image without a file has no time, so its content is read each time.
    is_same_file = has_stamp and stamp == stored_stamp
    if not is_same_file and _content_sha256(photos, key) != stored.file_sha256:
        return "changed"
    is_same_row = (photos.name, row_sha256) == (stored.file_source, stored.row_sha256)
    if is_same_row and stamp == stored_stamp:
        return "unchanged"
    return "updated"


def updated_records(photos: Photos, keys: Sequence[str], columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """
    Yields the records of images of which only the columns differ.

    Args:
        photos: The source.
        keys: The images.
        columns: The columns of the index that come from rows. A column that a row lacks becomes `None`.
    """
    for key in keys:
        row = photos.row(key)
        stamp = stamp_of_image(key, row["image"])
        yield {
            "image": key,
            "file_source": photos.name,
            **{name: row.get(name) for name in columns},
            "file_bytes": stamp.file_bytes,
            "file_modified_ns": stamp.modified_ns,
            "row_sha256": photos.row_digest(key),
        }


def _content_sha256(photos: Photos, key: str) -> str | None:
    try:
        return image_digest(photos.row(key)["image"]).hex()
    except (OSError, ValueError):
        return None
