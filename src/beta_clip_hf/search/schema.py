"""The LanceDB tables of an index: their names, their columns, and how they are created."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

import numpy as np

from .codes import code_type


# The names of the tables: images with their embeddings; patch features, if they are kept; files that could not be read.
IMAGES, PATCHES, UNREADABLE = "images", "patches", "unreadable"
# What texts without a match score; the table is there once the index has images.
CALIBRATION = "calibration"
# The key under which the schema of the images keeps what the index remembers, as JSON.
INFO = b"beta_clip_hf"
SCHEMA = 1


class Stored(NamedTuple):
    """Holds the fields of an image in an index, apart from its embedding."""

    file_source: str
    """The name of the source that has brought the image."""
    file_bytes: int | None
    file_modified_ns: int | None
    file_sha256: str
    row_sha256: str
    """A hash of the columns of its row; "" for an image without a row."""


class StoredPatches(NamedTuple):
    """Holds the patch features of an image."""

    features_PD: np.ndarray
    """(P, D) float16."""
    rows: int
    """Rows of patches; P is a multiple of it."""

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.rows, len(self.features_PD) // self.rows


# The columns that rows of users do not have. `image` is the key: the path of a file, or "SOURCE#ID" for an image
# without a file.
OWN_COLUMNS = ("image", "width", "height", *Stored._fields, "vector", "codes", "preview")
# Columns that are read only where they are needed.
HEAVY_COLUMNS = ("vector", "codes", "preview")


def exists(path: str | os.PathLike[str]) -> bool:
    """
    Tells whether there is an index under a path.

    Raises:
        ImportError: without LanceDB.
    """
    # Connecting to a missing directory would create it.
    may_exist = "://" in str(path) or os.path.isdir(path)
    return may_exist and IMAGES in table_names(connect(path))


def connect(path: str | os.PathLike[str]) -> Any:
    """
    Connects to the database under a path, whose directory is created if it is missing.

    Raises:
        ImportError: without LanceDB.
    """
    try:
        import lancedb
    except ImportError as error:
        raise ImportError("an index needs LanceDB: pip install lancedb") from error
    # With an interval of 0 each read sees what other processes have written.
    return lancedb.connect(str(path), read_consistency_interval=timedelta(0))


def create_tables(
    path: str | os.PathLike[str], embedding_size: int, info: Mapping[str, Any], *, store_patches: bool
) -> Any:
    """
    Creates the tables of an index and returns the connection to them. See [`ImageTable.create`].

    An index with codes (`info["precision"]`) keeps the embeddings in half precision, to compare candidates with.

    Raises:
        ValueError: if there is an index already.
        ImportError: without LanceDB.
    """
    database = connect(path)
    # pyarrow comes with LanceDB.
    import pyarrow as pa

    if IMAGES in table_names(database):
        raise ValueError(f"{path} must not hold an index yet, but does: open it")
    key = pa.field("image", pa.string())
    source = pa.field("file_source", pa.string())
    content = pa.field("file_sha256", pa.string())
    if store_patches:
        patch_fields = [key, content, pa.field("patches", pa.binary()), pa.field("patch_rows", pa.int32())]
        # An earlier try that was stopped may have left the table.
        create_or_replace(database, PATCHES, schema=pa.schema(patch_fields))
    unreadable_fields = [key, source, pa.field("error", pa.string())]
    create_or_replace(database, UNREADABLE, schema=pa.schema(unreadable_fields))
    codes = code_type(info.get("precision", "float32"), embedding_size)
    code_fields = [] if codes is None else [pa.field("codes", codes)]
    number_type = pa.float32() if codes is None else pa.float16()
    image_fields = [
        key,
        pa.field("caption", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        source,
        pa.field("file_bytes", pa.int64()),
        pa.field("file_modified_ns", pa.int64()),
        content,
        pa.field("row_sha256", pa.string()),
        pa.field("vector", pa.list_(number_type, embedding_size)),
        *code_fields,
        pa.field("preview", pa.binary()),
    ]
    # The images come last: an index exists once its images do.
    metadata = {INFO: json.dumps({"schema": SCHEMA, "stores_patches": store_patches, **info}).encode()}
    database.create_table(IMAGES, schema=pa.schema(image_fields, metadata=metadata))
    return database


def create_or_replace(database: Any, name: str, content: Any = None, *, schema: Any = None) -> None:
    """Creates a table with some content, or an empty one of a schema, in the place of an earlier one."""
    # LanceDB warns where there is nothing to overwrite.
    mode = "overwrite" if name in table_names(database) else "create"
    database.create_table(name, content, schema=schema, mode=mode)


def table_names(database: Any) -> Iterable[str]:
    """Returns the names of the tables of a database."""
    return database.list_tables().tables


def to_arrow(records: Sequence[Mapping[str, Any]], schema: Any) -> Any:
    """Converts records to an Arrow table with the types of a schema; a value that a record lacks is null."""
    import pyarrow as pa

    names = set().union(*records)
    columns = {}
    for field in schema:
        if field.name not in names:
            continue
        values = [record.get(field.name) for record in records]
        if field.type == pa.string():
            values = [None if value is None else str(value) for value in values]
        columns[field.name] = pa.array(values, field.type)
    return pa.table(columns)
