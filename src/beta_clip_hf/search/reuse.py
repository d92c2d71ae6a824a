"""Photos that have another name or place than before: they keep their embedding."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..data.images import load_image
from ..inference.identity import image_digest
from ..inference.shards import split
from .schema import Stored
from .sources import NO_STAMP, Photos, Stamp, fields_of_source, preview_of, stamp_of
from .table import ImageTable


# Number of embeddings that are copied at a time.
REUSED_AT_ONCE = 1024


class Reused(NamedTuple):
    """Where the embedding of an image is stored already."""

    stored_key: str
    """The image of the index that has the same content."""
    stamp: Stamp
    """The stamp of the new image, from before its content was read."""


class Fragment(NamedTuple):
    """Images to append to a table, see [`ImageTable.append`]."""

    records: list[dict[str, Any]]
    vectors_GD: np.ndarray
    patches: list[dict[str, Any]]


def find_reused(
    photos: Photos, keys: Sequence[str], known: Mapping[str, Stored], leaving: Sequence[str]
) -> dict[str, Reused]:
    """
    Finds photos that were moved: their content is that of an image that leaves its place.

    A file is only read if it has the size of such an image, or if one of them is not a file.

    Args:
        photos: The source.
        keys: New images of the source, and those that have changed.
        known: What the index knows about its images, by key.
        leaving: Images that will be removed or replaced. Images of other sources count if their file is gone.
    """
    stamps = {key: stamp_of(key) for key in keys}
    new_sizes = {stamp.file_bytes for stamp in stamps.values()}
    key_of_content = {}
    for key, stored in known.items():
        if stored.file_modified_ns is not None and stored.file_bytes in new_sizes and not os.path.exists(key):
            key_of_content[stored.file_sha256] = key
    for key in leaving:
        key_of_content[known[key].file_sha256] = key
    if not key_of_content:
        return {}
    stored_sizes = {known[key].file_bytes for key in key_of_content.values()}
    # An image that is no file has no size that could tell it from others.
    any_size_fits = None in stored_sizes
    reused = {}
    for key, stamp in stamps.items():
        may_be_stored = any_size_fits or stamp == NO_STAMP or stamp.file_bytes in stored_sizes
        if not may_be_stored:
            continue
        stored_key = key_of_content.get(content_sha256(photos, key) or "")
        if stored_key is not None:
            reused[key] = Reused(stored_key, stamp)
    return reused


def content_sha256(photos: Photos, key: str) -> str | None:
    """Returns the hash of an image as it is now; `None` if it cannot be read."""
    try:
        return image_digest(photos.row(key)["image"]).hex()
    # A row may be broken in any way; encoding it says what is wrong.
    except Exception:
        return None


def reused_fragments(photos: Photos, reused: Mapping[str, Reused], table: ImageTable) -> Iterator[Fragment]:
    """Yields the records of images with the embeddings and patch features that the index has of their content."""
    for keys in split(list(reused), REUSED_AT_ONCE):
        stored_keys = list({reused[key].stored_key for key in keys})
        stored_rows = table.fetch(stored_keys, ["width", "height", "file_sha256", "vector", "preview"])
        patches_by_key = table.patches(stored_keys) if table.stores_patches else {}
        records, vectors, patch_records = [], [], []
        for key in keys:
            stored_key, stamp = reused[key]
            row = photos.row(key)
            # A copy: several images may have the content of one.
            stored = dict(stored_rows[stored_key])
            vectors.append(stored.pop("vector"))
            if stamp.modified_ns is not None:
                stored["preview"] = None
            elif stored["preview"] is None:
                stored["preview"] = preview_of(load_image(row["image"]))
            records.append({**row, **stored, **fields_of_source(photos, key, stamp)})
            if table.stores_patches:
                patches = patches_by_key[stored_key]
                patch_records.append({"patches": patches.features_PD.tobytes(), "patch_rows": patches.rows})
        yield Fragment(records, np.array(vectors, dtype=np.float32), patch_records)
