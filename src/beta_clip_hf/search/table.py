"""
The LanceDB tables of an index: images and their embeddings; patch features, where they are kept; files that could not
be read.

Letters: N images, D projection width, P patches, Q queries.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple

import numpy as np


IMAGES, PATCHES, UNREADABLE = "images", "patches", "unreadable"
INFO = b"beta_clip_hf"  # where the schema keeps what the index remembers
SCHEMA = 1
# Below so many images each query is compared with all of them: that is quick enough, and nothing is missed.
EXACT_BELOW = 20_000
# Of the √N partitions so many are looked at, and so many times more candidates than asked for are compared with their
# embeddings as they are, not rounded to 8 bits. `benchmarks/search.py` measures the recall.
PROBES, REFINE = 40, 5
KEYS_PER_FILTER = 500
# Earlier versions stay so long, for who reads them just now.
KEPT = timedelta(hours=1)


class Stored(NamedTuple):
    """What an index knows of an image, but for its embedding."""

    file_source: str
    file_bytes: int | None
    file_modified_ns: int | None
    file_sha256: str
    row_sha256: str


# Not of the user's rows. `image` is the key: the path of a file, or "SOURCE#ID" for an image that comes from no file.
OWN_COLUMNS = ("image", "width", "height", *Stored._fields, "vector", "preview")


class ImageTable:
    """
    The tables under a path, or under the URI of an object store (`s3://bucket/photos`).

    Several processes may append at once: each batch is a fragment of its own, committed as a whole or not at all.

    Args:
        path: Of the index.
        database: The LanceDB connection.
    """

    def __init__(self, path: str | os.PathLike[str], database: Any) -> None:
        self.path, self._database = str(path), database
        self._images, self._unreadable = database.open_table(IMAGES), database.open_table(UNREADABLE)
        schema = self._images.schema
        if INFO not in (schema.metadata or {}):
            raise ValueError(f"{self.path} must be an index of beta-clip, but is another LanceDB table")
        self.info: dict[str, Any] = json.loads(schema.metadata[INFO])
        if self.info["schema"] != SCHEMA:
            raise ValueError(f"the schema of {self.path} must be {SCHEMA}, but is {self.info['schema']}: index it anew")
        self.embedding_size: int = schema.field("vector").type.list_size
        self._patches = database.open_table(PATCHES) if self.info["stores_patches"] else None

    @classmethod
    def create(
        cls, path: str | os.PathLike[str], embedding_size: int, info: Mapping[str, Any], *, store_patches: bool = False
    ) -> "ImageTable":
        """
        Makes the tables, without images.

        Args:
            path: A directory, made where missing, or a URI.
            embedding_size: D.
            info: What the index is to remember; JSON.
            store_patches: Whether patch features are kept, 2·P·D bytes for each image.

        Raises:
            ValueError: where there is an index already.
            ImportError: without LanceDB.
        """
        database = _connect(path)
        import pyarrow as pa

        present = _table_names(database)
        if IMAGES in present:
            raise ValueError(f"{path} must not hold an index yet, but does: open it")
        fields = [
            pa.field("image", pa.string()),
            pa.field("caption", pa.string()),
            pa.field("width", pa.int32()),
            pa.field("height", pa.int32()),
            pa.field("file_source", pa.string()),
            pa.field("file_bytes", pa.int64()),
            pa.field("file_modified_ns", pa.int64()),
            pa.field("file_sha256", pa.string()),
            pa.field("row_sha256", pa.string()),
            pa.field("vector", pa.list_(pa.float32(), embedding_size)),
            pa.field("preview", pa.binary()),
        ]
        texts = [pa.field(name, pa.string()) for name in ("image", "file_sha256", "file_source", "error")]
        if store_patches:
            of_patches = [*texts[:2], pa.field("patches", pa.binary()), pa.field("patch_rows", pa.int32())]
            _make_empty(database, PATCHES, pa.schema(of_patches), present)
        _make_empty(database, UNREADABLE, pa.schema([texts[0], *texts[2:]]), present)
        # Last: an index is there when its images are.
        metadata = {INFO: json.dumps({"schema": SCHEMA, "stores_patches": store_patches, **info}).encode()}
        database.create_table(IMAGES, schema=pa.schema(fields, metadata=metadata))
        return cls(path, database)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "ImageTable":
        """Raises `ValueError` where there is no index, `ImportError` without LanceDB."""
        if not exists(path):
            raise ValueError(f"{path} must be an index, but holds none: make one with beta-clip index PHOTOS --out …")
        return cls(path, _connect(path))

    def __len__(self) -> int:
        return self._images.count_rows()

    @property
    def stores_patches(self) -> bool:
        """Whether patch features are kept."""
        return self._patches is not None

    @property
    def columns(self) -> dict[str, str]:
        """The columns that a filter may name, and their types."""
        return {field.name: str(field.type) for field in self._images.schema if field.name not in _HEAVY}

    def known(self) -> dict[str, Stored]:
        """All images by key."""
        columns = self._images.search().select(["image", *Stored._fields]).to_arrow()
        values = [columns[name].to_pylist() for name in ("image", *Stored._fields)]
        return {key: Stored(*stored) for key, *stored in zip(*values, strict=True)}

    def add_columns(self, types: Mapping[str, str], source: str) -> None:
        """
        Makes sure that there are columns for the values of rows.

        Args:
            types: By name one of "bool", "int64", "double", "string".
            source: Of the rows, for the message.

        Raises:
            ValueError: where the index has such a column, of a type that the new values do not fit.
        """
        import pyarrow as pa

        present = self.columns
        for name, kind in types.items():
            fits = {kind, "string", *(("double",) if kind == "int64" else ())}
            if name in present and present[name] not in fits:
                raise ValueError(f"column {name!r} must be {present[name]}, as in the index, but is {kind} in {source}")
        new = [pa.field(name, pa.type_for_alias(kind)) for name, kind in types.items() if name not in present]
        if new:
            self._images.add_columns(pa.schema(new))

    def append(
        self, records: Sequence[Mapping[str, Any]], vectors_ND: np.ndarray, patches: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        """Adds images as one fragment: their columns, their embeddings (N, D) float32, and `patches` (float16 in bytes)
        with `patch_rows` where they are kept."""
        import pyarrow as pa

        if self._patches is not None:  # before the images: one that is there has its patches
            keys = [{name: record[name] for name in ("image", "file_sha256")} for record in records]
            rows = [key | dict(of_image) for key, of_image in zip(keys, patches, strict=True)]
            self._patches.add(pa.Table.from_pylist(rows, schema=self._patches.schema))
        vectors = pa.array(np.ascontiguousarray(vectors_ND, dtype=np.float32).reshape(-1))
        lists = pa.FixedSizeListArray.from_arrays(vectors, self.embedding_size)
        self._images.add(self._arrow(records).append_column("vector", lists))

    def update(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Replaces columns of images that are there; their embeddings stay. All records have the same columns."""
        if records:
            self._images.merge_insert("image").when_matched_update_all().execute(self._arrow(records))

    def delete(self, keys: Sequence[str]) -> None:
        """Removes images."""
        for some in _in_pieces(keys):
            self._images.delete(_is_one_of(some))
            if self._patches is not None:
                self._patches.delete(_is_one_of(some))

    def unreadable(self) -> list[tuple[str, str]]:
        """Key and error of each image that could not be read."""
        rows = self._unreadable.to_arrow().to_pylist()
        return sorted((row["image"], row["error"]) for row in rows)

    def forget_unreadable(self, source: str) -> None:
        """Those of a source are to be tried again."""
        self._unreadable.delete(f"file_source = {_quoted(source)}")

    def add_unreadable(self, source: str, errors: Sequence[tuple[str, str]]) -> None:
        """Keeps key and error of images that could not be read."""
        if errors:
            self._unreadable.add([{"image": key, "file_source": source, "error": error} for key, error in errors])

    def finish(self) -> None:
        """
        Joins small fragments, removes what was deleted, and brings the vector index up to date: none below
        `EXACT_BELOW` images; a new one where the collection has doubled since it was trained. Patch features stay as
        they were written: they are too many to be copied.
        """
        self._images.optimize(cleanup_older_than=KEPT)
        self._unreadable.optimize(cleanup_older_than=KEPT)
        count = len(self)
        if count < EXACT_BELOW:
            return
        partitions = round(count**0.5)
        present = self._images.list_indices()
        trained_on = int(present[0].name.rpartition("_")[2]) if present else 0
        if count >= 2 * trained_on:
            from lancedb.index import IvfSq

            config = IvfSq(distance_type="cosine", num_partitions=partitions)
            self._images.create_index("vector", config=config, name=f"vector_{count}")
            for old in present:
                self._images.drop_index(old.name)

    @property
    def has_vector_index(self) -> bool:
        """Whether queries are answered by an index, and not by comparing with every image."""
        return bool(self._images.list_indices())

    def nearest(
        self, vector_D: np.ndarray, count: int, *, where: str | None = None, exact: bool = False, probes: int = PROBES
    ) -> list[dict[str, Any]]:
        """
        The images that are most like a vector, best first, as dicts of all columns but the heavy ones, with `vector`.

        Args:
            vector_D: (D,), of any length but 0.
            count: How many, at most.
            where: SQL condition on the columns; applied before the search, so that `count` are found if there are.
            exact: Whether to compare with every image even where there is an index.
            probes: Partitions of the index to look at, more where the condition leaves too few.

        Raises:
            ValueError: where the condition is not understood.
        """
        query = self._images.search(vector_D, vector_column_name="vector").distance_type("cosine")
        query = query.select([*self.columns, "vector", "_distance"]).limit(count)
        if where is not None:
            query = query.where(where, prefilter=True)
        if exact:
            query = query.bypass_vector_index()
        else:
            query = query.minimum_nprobes(probes).maximum_nprobes(0).refine_factor(REFINE)
        with _readable_errors(where, self.columns):
            found = query.to_arrow()
        vectors = found["vector"].combine_chunks().flatten().to_numpy().reshape(-1, self.embedding_size)
        rows = found.drop_columns(["vector", "_distance"]).to_pylist()
        return [{**row, "vector": vector} for row, vector in zip(rows, vectors, strict=True)]

    def recall(self, queries_QD: np.ndarray, top: int = 20, probes: int = PROBES) -> float:
        """The share of the `top` images of exact search that are also found with the index; a mean over queries."""
        shares = []
        for query_D in queries_QD:
            exact = {row["image"] for row in self.nearest(query_D, top, exact=True)}
            found = {row["image"] for row in self.nearest(query_D, top, probes=probes)}
            shares.append(len(exact & found) / max(1, len(exact)))
        return float(np.mean(shares))

    def some(self, column: str, count: int) -> list[Any]:
        """Up to `count` values of a column that are there, of any images."""
        found = self._images.search().where(f"`{column}` IS NOT NULL").select([column]).limit(count).to_arrow()
        return found[column].to_pylist()

    def fetch(self, keys: Sequence[str], columns: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Columns of images by key; those that are not there are left out."""
        found: dict[str, dict[str, Any]] = {}
        for some in _in_pieces(keys):
            rows = self._images.search().where(_is_one_of(some)).select(["image", *columns]).to_arrow().to_pylist()
            found |= {row.pop("image"): row for row in rows}
        return found

    def patches(self, keys: Sequence[str]) -> dict[str, tuple[np.ndarray, int]]:
        """Patch features (P, D) float16 and the number of rows of patches, of images by key."""
        assert self._patches is not None
        content = self.fetch(keys, ["file_sha256"])
        found = {}
        for some in _in_pieces(keys):
            for row in self._patches.search().where(_is_one_of(some)).to_arrow().to_pylist():
                # A run that was stopped may have left those of another content.
                if content.get(row["image"], {}).get("file_sha256") == row["file_sha256"]:
                    features_PD = np.frombuffer(row["patches"], np.float16).reshape(-1, self.embedding_size)
                    found[row["image"]] = features_PD, row["patch_rows"]
        return found

    def _arrow(self, records: Sequence[Mapping[str, Any]]) -> Any:
        import pyarrow as pa

        names = set().union(*records)
        fields = [field for field in self._images.schema if field.name in names]
        columns = {}
        for field in fields:
            values = [record.get(field.name) for record in records]
            if field.type == pa.string():
                values = [None if value is None else str(value) for value in values]
            columns[field.name] = pa.array(values, field.type)
        return pa.table(columns)


def exists(path: str | os.PathLike[str]) -> bool:
    """Whether an index is there. Raises `ImportError` without LanceDB."""
    return ("://" in str(path) or os.path.isdir(path)) and IMAGES in _table_names(_connect(path))


_HEAVY = ("vector", "preview")


def _connect(path: str | os.PathLike[str]) -> Any:
    try:
        import lancedb
    except ImportError as error:
        raise ImportError('An index needs LanceDB: pip install "beta-clip-hf[search]"') from error
    # Each read sees what other processes have written.
    return lancedb.connect(str(path), read_consistency_interval=timedelta(0))


def _make_empty(database: Any, name: str, schema: Any, present: Iterable[str]) -> None:
    """A table that an earlier try may have left."""
    database.create_table(name, schema=schema, mode="overwrite" if name in present else "create")


def _table_names(database: Any) -> Iterable[str]:
    return database.list_tables().tables


@contextmanager
def _readable_errors(where: str | None, columns: Mapping[str, str]) -> Any:
    try:
        yield
    except (ValueError, RuntimeError) as error:
        if where is None:
            raise
        raise ValueError(
            f"where must be a condition in SQL over {', '.join(columns)}, but is {where!r}: {error}"
        ) from None


def _in_pieces(keys: Sequence[str]) -> Iterable[Sequence[str]]:
    return (keys[first : first + KEYS_PER_FILTER] for first in range(0, len(keys), KEYS_PER_FILTER))


def _is_one_of(keys: Sequence[str]) -> str:
    return f"image IN ({', '.join(map(_quoted, keys))})"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
