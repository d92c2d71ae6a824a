"""[`ImageTable`]: reads, writes and searches the tables of an index."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

import numpy as np

from ..files import naming_errors
from ..inference.shards import split
from .calibration import Calibration
from .codes import CANDIDATES, best_by_int8, codes_of
from .file_hashes import check_hashes, write_hashes
from .filters import explained_filter_errors, key_filter, quoted
from .info import read_info
from .schema import (
    CALIBRATION,
    HEAVY_COLUMNS,
    IMAGES,
    PATCHES,
    UNREADABLE,
    Stored,
    StoredPatches,
    connect,
    create_or_replace,
    create_tables,
    exists,
    table_names,
    to_arrow,
)


# With fewer images, each query is compared with all of them: that is fast enough and misses nothing.
EXACT_BELOW = 20_000
# A query looks into this many of the √G partitions.
PROBES = 40
# It fetches this many times more candidates than it returns, and compares them with their embeddings as they are, not
# rounded to 8 bits. `benchmarks/search.py` measures the recall of both numbers.
REFINE = 5
# A filter that names all keys at once would be slow to parse.
KEYS_PER_FILTER = 500
WHOLE_INDEX = "an index of beta-clip, all of its files whole"
# Earlier versions stay this long, for searches that are reading them.
KEPT = timedelta(hours=1)


class ImageTable:
    """
    Holds the tables under a path, or under the URI of an object store (`s3://bucket/photos`).

    Several processes may append at once: each batch is a fragment by itself, committed as a whole or not at all.

    Args:
        path: The directory or URI of the index.
        database: The LanceDB connection to it.

    Raises:
        ValueError: if the table belongs to another program, or to another version of the schema.
    """

    def __init__(self, path: str | os.PathLike[str], database: Any) -> None:
        self.path = str(path)
        self._database = database
        self._images = database.open_table(IMAGES)
        self._unreadable = database.open_table(UNREADABLE)
        schema = self._images.schema
        self.info = read_info(schema, self.path)
        self.embedding_size: int = schema.field("vector").type.list_size
        self.precision: str = self.info.get("precision", "float32")
        self._patches = database.open_table(PATCHES) if self.info["stores_patches"] else None

    @classmethod
    def create(
        cls, path: str | os.PathLike[str], embedding_size: int, info: Mapping[str, Any], *, store_patches: bool = False
    ) -> "ImageTable":
        """
        Creates the tables, without images.

        Args:
            path: A directory, created if it is missing, or a URI.
            embedding_size: D.
            info: What the index remembers, as JSON can hold it.
            store_patches: Whether patch features are kept, 2·P·D bytes for each image.

        Raises:
            ValueError: if there is an index already.
            ImportError: without LanceDB.
        """
        database = create_tables(path, embedding_size, info, store_patches=store_patches)
        return cls(path, database)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "ImageTable":
        """
        Opens the tables of an index.

        Raises:
            ValueError: if there is no index, or a file of it is damaged.
            ImportError: without LanceDB.
        """
        if not exists(path):
            raise ValueError(
                f"{path} must be an index, but holds none: make one with beta-clip index PHOTOS --output INDEX"
            )
        with naming_errors(path, WHOLE_INDEX):
            checked = check_hashes(path)
            table = cls(path, connect(path))
        checked.check_version(path, table._images.version)
        return table

    def __len__(self) -> int:
        return self._images.count_rows()

    @property
    def stores_patches(self) -> bool:
        """Whether patch features are kept."""
        return self._patches is not None

    @property
    def columns(self) -> dict[str, str]:
        """The columns that a filter may name, with their types."""
        fields = [field for field in self._images.schema if field.name not in HEAVY_COLUMNS]
        return {field.name: str(field.type) for field in fields}

    def known(self) -> dict[str, Stored]:
        """Returns what is stored about all images, by key."""
        names = ["image", *Stored._fields]
        with naming_errors(self.path, WHOLE_INDEX):
            columns = self._images.search().select(names).to_arrow()
        values = [columns[name].to_pylist() for name in names]
        return {key: Stored(*fields) for key, *fields in zip(*values, strict=True)}

    def add_columns(self, types: Mapping[str, str], source: str) -> None:
        """
        Makes sure that the table has columns for the values of rows.

        Args:
            types: One of "bool", "int64", "double" and "string" by name of the column.
            source: The name of the source, for the message.

        Raises:
            ValueError: if a column of that name has a type that the new values do not fit.
        """
        import pyarrow as pa

        present = self.columns
        new_fields = []
        for name, value_type in types.items():
            if name not in present:
                new_fields.append(pa.field(name, pa.type_for_alias(value_type)))
                continue
            # Every value can be written as a string, and a whole number as a double.
            fits = present[name] in (value_type, "string") or (value_type, present[name]) == ("int64", "double")
            if not fits:
                raise ValueError(
                    f"column {name!r} must be {present[name]}, as in the index, but is {value_type} in {source}: give "
                    f"it another name (columns, --columns {name}=NEW), or make another index"
                )
        if new_fields:
            self._images.add_columns(pa.schema(new_fields))

    def append(
        self, records: Sequence[Mapping[str, Any]], vectors_GD: np.ndarray, patches: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        """
        Adds images as one fragment.

        Args:
            records: The columns of each image.
            vectors_GD: (G, D) float32, their embeddings.
            patches: For each image `patches` (the bytes of float16 features) and `patch_rows`, if the table keeps them.
        """
        import pyarrow as pa

        # Patches come before the images: an image in the table always has its patches.
        if self._patches is not None:
            rows = []
            for record, image_patches in zip(records, patches, strict=True):
                rows.append({"image": record["image"], "file_sha256": record["file_sha256"], **image_patches})
            self._patches.add(pa.Table.from_pylist(rows, schema=self._patches.schema))
        vectors_GD = np.ascontiguousarray(vectors_GD, dtype=np.float32)
        stored = {"vector": vectors_GD}
        if self.precision != "float32":
            stored = {"vector": vectors_GD.astype(np.float16), "codes": codes_of(vectors_GD, self.precision)}
        rows_to_add = to_arrow(records, self._images.schema)
        for name, numbers in stored.items():
            column = pa.FixedSizeListArray.from_arrays(pa.array(numbers.reshape(-1)), numbers.shape[1])
            rows_to_add = rows_to_add.append_column(name, column)
        self._images.add(rows_to_add)

    def update(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Replaces columns of stored images and keeps their embeddings. All records must have the same columns."""
        if records:
            self._images.merge_insert("image").when_matched_update_all().execute(to_arrow(records, self._images.schema))

    def delete(self, keys: Sequence[str]) -> None:
        """Removes images."""
        for batch_keys in split(keys, KEYS_PER_FILTER):
            self._images.delete(key_filter(batch_keys))
            if self._patches is not None:
                self._patches.delete(key_filter(batch_keys))

    def unreadable(self) -> list[tuple[str, str]]:
        """Returns key and error of each image that could not be read."""
        rows = self._unreadable.to_arrow().to_pylist()
        return sorted((row["image"], row["error"]) for row in rows)

    def forget_unreadable(self, source: str) -> None:
        """Removes the unreadable images of a source from the list, so that they are tried again."""
        self._unreadable.delete(f"file_source = {quoted(source)}")

    def add_unreadable(self, source: str, errors: Sequence[tuple[str, str]]) -> None:
        """Keeps key and error of images that could not be read."""
        if errors:
            self._unreadable.add([{"image": key, "file_source": source, "error": error} for key, error in errors])

    def finish(self) -> None:
        """
        Joins small fragments, removes deleted images from the disk, and updates the vector index.

        There is no vector index below `EXACT_BELOW` images, and none beside binary codes, which are small enough to
        compare all of them. It is trained again once the collection has doubled. Patch features stay as they were
        written, because copying them would take too long.
        """
        self._images.optimize(cleanup_older_than=KEPT)
        self._unreadable.optimize(cleanup_older_than=KEPT)
        self._update_vector_index()
        write_hashes(self.path, self._images.version)

    def _update_vector_index(self) -> None:
        num_images = len(self)
        if num_images < EXACT_BELOW or self.precision == "binary":
            return
        old_indices = self._images.list_indices()
        # The name of a vector index ends in the number of images that it was trained on.
        trained_on = 0
        if old_indices:
            trained_on = int(old_indices[0].name.rpartition("_")[2])
        if num_images < 2 * trained_on:
            return
        from lancedb.index import IvfSq

        config = IvfSq(distance_type="cosine", num_partitions=round(num_images**0.5))
        # The new index is there before the old one goes: a search that runs meanwhile always has one.
        self._images.create_index("vector", config=config, name=f"vector_{num_images}")
        for old_index in old_indices:
            self._images.drop_index(old_index.name)

    @property
    def has_vector_index(self) -> bool:
        """Whether a vector index answers queries. Otherwise a query is compared with every image, or every code."""
        return bool(self._images.list_indices())

    @property
    def is_approximate(self) -> bool:
        """Whether a vector index or codes answer queries, so that an image may be missed."""
        return self.precision != "float32" or self.has_vector_index

    def nearest(
        self, vector_D: np.ndarray, count: int, *, where: str | None = None, exact: bool = False, probes: int = PROBES
    ) -> list[dict[str, Any]]:
        """
        Returns the images that are most similar to a vector, best first.

        Args:
            vector_D: (D,), of any length except 0.
            count: The largest number of images.
            where: SQL condition on the columns. It is applied before the search, so that `count` images are found if
                that many meet it.
            exact: Whether to compare with every image even if there are a vector index or codes.
            probes: Partitions of the vector index to look into. More are used if the condition leaves too few images.

        Returns:
            Dicts of all columns except the heavy ones, with the embedding as `vector`.

        Raises:
            ValueError: if the condition is not valid.
        """
        if self.precision != "float32" and not exact and not self.has_vector_index:
            return self._nearest_by_codes(vector_D, count, where)
        query = self._images.search(vector_D, vector_column_name="vector").distance_type("cosine")
        query = query.select([*self.columns, "vector", "_distance"]).limit(count)
        if where is not None:
            query = query.where(where, prefilter=True)
        if exact:
            query = query.bypass_vector_index()
        else:
            # 0 means no upper limit: a strict condition may need every partition.
            query = query.minimum_nprobes(probes).maximum_nprobes(0).refine_factor(REFINE)
        with naming_errors(self.path, WHOLE_INDEX), explained_filter_errors(where, self.columns):
            return self._rows_with_vectors(query.to_arrow())

    def _nearest_by_codes(self, vector_D: np.ndarray, count: int, where: str | None) -> list[dict[str, Any]]:
        """Finds candidates by their codes, and orders them by their embeddings."""
        find_candidates = self._candidates_by_int8
        if self.precision == "binary":
            find_candidates = self._candidates_by_bits
        with naming_errors(self.path, WHOLE_INDEX), explained_filter_errors(where, self.columns):
            rows = find_candidates(vector_D, count * CANDIDATES[self.precision], where)
        rows.sort(key=lambda row: -float(row["vector"] @ vector_D / np.linalg.norm(row["vector"])))
        return rows[:count]

    def _candidates_by_bits(self, vector_D: np.ndarray, count: int, where: str | None) -> list[dict[str, Any]]:
        """Returns the rows of the images whose bits differ from those of a vector in the fewest places."""
        bits = codes_of(vector_D[None], "binary")[0]
        query = self._images.search(bits, vector_column_name="codes").distance_type("hamming")
        query = query.select([*self.columns, "vector", "_distance"]).limit(count)
        if where is not None:
            query = query.where(where, prefilter=True)
        return self._rows_with_vectors(query.to_arrow())

    def _candidates_by_int8(self, vector_D: np.ndarray, count: int, where: str | None) -> list[dict[str, Any]]:
        """Returns the rows of the images whose codes of 8 bits have the highest cosines with a vector."""
        scan = self._images.search().select(["image", "codes"])
        if where is not None:
            scan = scan.where(where)
        keys = best_by_int8(scan.to_batches(), vector_D, count)
        rows = []
        for batch_keys in split(keys, KEYS_PER_FILTER):
            query = self._images.search().where(key_filter(batch_keys)).select([*self.columns, "vector"])
            rows += self._rows_with_vectors(query.to_arrow())
        return rows

    def _rows_with_vectors(self, result: Any) -> list[dict[str, Any]]:
        """Returns the rows of an Arrow table, with the embeddings in float32 as `vector`."""
        vectors_GD = self._as_floats(result["vector"].combine_chunks())
        others = [name for name in result.column_names if name not in ("vector", "_distance")]
        rows = result.select(others).to_pylist()
        return [{**row, "vector": vector_D} for row, vector_D in zip(rows, vectors_GD, strict=True)]

    def _as_floats(self, vectors: Any) -> np.ndarray:
        """Returns an Arrow array of embeddings as (G, D) float32."""
        return vectors.flatten().to_numpy().astype(np.float32).reshape(-1, self.embedding_size)

    def vectors(self) -> Iterator[tuple[list[str | None], np.ndarray]]:
        """Yields the captions of all images and their embeddings (G, D) float32, in parts."""
        for batch in self._images.search().select(["caption", "vector"]).to_batches():
            yield batch["caption"].to_pylist(), self._as_floats(batch["vector"])

    def write_calibration(self, calibration: Calibration) -> None:
        """Replaces what is known of the scores of texts without a match."""
        import pyarrow as pa

        record = {**calibration._asdict(), "mean_D": calibration.mean_D.tolist()}
        create_or_replace(self._database, CALIBRATION, pa.table({"record": [json.dumps(record)]}))
        write_hashes(self.path, self._images.version)

    def read_calibration(self) -> Calibration | None:
        """Returns what was written last; `None` for an index of an earlier version, and for one without images."""
        if CALIBRATION not in table_names(self._database):
            return None
        with naming_errors(self.path, WHOLE_INDEX):
            record = json.loads(self._database.open_table(CALIBRATION).to_arrow()["record"][0].as_py())
        return Calibration(**{**record, "mean_D": np.array(record["mean_D"], dtype=np.float32)})

    def recall(self, queries_QD: np.ndarray, top: int = 20, probes: int = PROBES) -> float:
        """Returns the share of the `top` images of exact search that are found without it; a mean over queries."""
        shares = []
        for query_D in queries_QD:
            exact = {row["image"] for row in self.nearest(query_D, top, exact=True)}
            approximate = {row["image"] for row in self.nearest(query_D, top, probes=probes)}
            shares.append(len(exact & approximate) / max(1, len(exact)))
        return float(np.mean(shares))

    def some(self, column: str, count: int) -> list[Any]:
        """Returns up to `count` values of a column, from any images that have one."""
        query = self._images.search().where(f"`{column}` IS NOT NULL").select([column]).limit(count)
        return query.to_arrow()[column].to_pylist()

    def fetch(self, keys: Sequence[str], columns: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Returns columns of images by key. Images that are not in the table are left out."""
        rows_by_key: dict[str, dict[str, Any]] = {}
        for batch_keys in split(keys, KEYS_PER_FILTER):
            query = self._images.search().where(key_filter(batch_keys)).select(["image", *columns])
            for row in query.to_arrow().to_pylist():
                rows_by_key[row.pop("image")] = row
        return rows_by_key

    def patches(self, keys: Sequence[str]) -> dict[str, StoredPatches]:
        """Returns the patch features of images by key. The table must keep them."""
        assert self._patches is not None
        contents = self.fetch(keys, ["file_sha256"])
        patches_by_key = {}
        for batch_keys in split(keys, KEYS_PER_FILTER):
            for row in self._patches.search().where(key_filter(batch_keys)).to_arrow().to_pylist():
                # A run that was stopped may have left patches of an earlier or later content.
                content = contents.get(row["image"], {})
                if content.get("file_sha256") != row["file_sha256"]:
                    continue
                # Embeddings may be cut, patch features are not.
                width = self.info.get("patch_width", self.embedding_size)
                features_PD = np.frombuffer(row["patches"], np.float16).reshape(-1, width)
                patches_by_key[row["image"]] = StoredPatches(features_PD, row["patch_rows"])
        return patches_by_key
