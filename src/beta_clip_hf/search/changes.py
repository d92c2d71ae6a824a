"""The changes that bring an index up to date with a source of photos."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from .reuse import Reused, content_sha256, find_reused
from .schema import Stored
from .sources import NO_STAMP, Photos, Stamp, fields_of_source, stamp_of, stamp_of_image


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
    reused: dict[str, Reused]
    """The new and changed images whose content the index has already, under a key that is no longer in use."""

    @property
    def to_encode(self) -> list[str]:
        """The images that the model has to see."""
        return [key for key in self.new + self.changed if key not in self.reused]

    @property
    def moved(self) -> set[str]:
        """The new images that are a gone one under another key."""
        gone = set(self.gone)
        return {key for key in self.new if key in self.reused and self.reused[key].stored_key in gone}


@dataclass(frozen=True)
class Added:
    """Holds the result of [`PhotoIndex.add`], in numbers of images."""

    new: int
    changed: int
    updated: int
    """Images with the same content and other columns."""
    deleted: int
    unchanged: int
    unreadable: dict[str, str]
    """Images that could not be read, and records that are not rows: where they are, and why."""
    moved: int = 0
    """Images that had another name or place before, and keep their embedding. They are neither new nor deleted."""


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
    changes = Changes(new=[], changed=[], updated=[], gone=[], unchanged=0, reused={})
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
    same_sources = _same_sources(photos.name, known)
    for key, stored in known.items():
        if stored.file_source in same_sources and key not in present:
            changes.gone.append(key)
    unchanged = len(keys) - len(changes.new) - len(changes.changed) - len(changes.updated)
    # Later keys are preferred, and the gone come last: a new photo with the content of a gone one is that one, moved.
    reused = find_reused(photos, changes.new + changes.changed, known, changes.changed + changes.gone)
    return changes._replace(unchanged=unchanged, reused=reused)


def _same_sources(name: str, known: Mapping[str, Stored]) -> set[str]:
    """Returns the names under which an index has a source: earlier versions took a link for another folder."""
    names = {stored.file_source for stored in known.values()}
    return {stored_name for stored_name in names if name in (stored_name, os.path.realpath(stored_name))}


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
    if not is_same_file and content_sha256(photos, key) != stored.file_sha256:
        return "changed"
    is_same_row = (photos.name, row_sha256) == (stored.file_source, stored.row_sha256)
    if is_same_row and stamp == stored_stamp:
        return "unchanged"
    return "updated"


def updated_records(photos: Photos, keys: Sequence[str], columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """
    Yields the records of images that differ in their columns alone.

    Args:
        photos: The source.
        keys: The images.
        columns: The columns of the index that come from rows. A column that a row lacks becomes `None`.
    """
    for key in keys:
        row = photos.row(key)
        columns_of_row = {name: row.get(name) for name in columns}
        yield {**columns_of_row, **fields_of_source(photos, key, stamp_of_image(key, row["image"]))}


def count_added(changes: Changes, unreadable: Mapping[str, str], skipped: Sequence[tuple[str, str]]) -> Added:
    """Counts the changes that were made, now that it is known which images could not be read."""
    moved = changes.moved
    new = [key for key in changes.new if key not in unreadable and key not in moved]
    changed = [key for key in changes.changed if key not in unreadable]
    # A changed image that became unreadable is not in the index any more.
    num_lost = len(changes.changed) - len(changed)
    return Added(
        new=len(new),
        changed=len(changed),
        updated=len(changes.updated),
        # Several new images may be copies of one that is gone.
        deleted=len(changes.gone) - len({changes.reused[key].stored_key for key in moved}) + num_lost,
        unchanged=changes.unchanged,
        unreadable={**unreadable, **dict(skipped)},
        moved=len(moved),
    )
