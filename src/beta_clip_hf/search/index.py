"""Holds [`PhotoIndex`], a collection of photos that can be searched."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..inference.embedder import Embedder, ImageBatch
from ..inference.identity import loaded_model_hash, model_hash
from ..inference.models import dtype_of, load_model
from ..inference.processes import Processes, own_device
from ..inference.quantization import check_precision, check_truncate_dim, truncate
from ..inference.shards import Shards, split
from .changes import Added, Changes, count_added, find_changes, updated_records
from .info import lasting_name
from .query import Hit, Query, embed_query
from .recalibration import recalibrate
from .rerank import Reranking, patch_record, rerank_hits
from .reuse import reused_fragments
from .schema import OWN_COLUMNS
from .sources import Photos, ReadablePhotos, open_photos
from .table import ImageTable


# A run that is stopped loses at most one fragment.
IMAGES_PER_FRAGMENT = 1024
# Patch features are kept in memory until their fragment is written.
BYTES_PER_FRAGMENT = 2**26
UPDATES_AT_ONCE = 10_000


class PhotoIndex:
    """
    A collection of photos, embedded once and searched by texts and images. See docs/search.md.

    Args:
        table: The table of the images.
        embedder (*optional*): The embedder of images and queries, with the model that the index was made with. By
            default it is loaded by the model's name when it is needed.

    Example:

    ```python
    index = PhotoIndex.create("photos.index", load_embedder("runs/photos"))
    index.add("photos/")
    for hit in index.search("A dog in a red coat runs along a beach.", top=5, rerank=200):
        print(hit.score, hit.image)
    ```
    """

    def __init__(self, table: ImageTable, embedder: Embedder | None = None) -> None:
        self.table, self._embedder = table, embedder

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        embedder: Embedder,
        *,
        model_name: str | None = None,
        store_patches: bool = False,
        precision: str = "float32",
        truncate_dim: int | None = None,
    ) -> "PhotoIndex":
        """
        Creates an empty index. With several processes each must call it, and the first one creates the index.

        Args:
            path: A directory that holds no index yet, created if it is missing; or the URI of an object store.
            embedder: The embedder with the model of the index.
            model_name: Directory or Hub id by which a search loads the model; by default where it was loaded from.
            store_patches: Whether patch features are kept, for re-ranking without opening images again. They take
                2·P·D bytes for each image, in float16.
            precision: "int8" or "binary" finds candidates by codes of a byte or a bit for each number, and compares
                these by their embeddings in float16; "float32" keeps embeddings as they are.
            truncate_dim: The numbers of each embedding to keep; by default all. Re-ranking uses whole embeddings.

        Raises:
            ValueError: if there is an index already, the model has no patch features to store, or a value is not
                possible.
            ImportError: without LanceDB.
        """
        model = embedder.model
        if store_patches and not embedder.has_patch_features:
            raise ValueError(f"store_patches must be False for a {type(model).__name__}, which has none, but is True")
        check_precision(precision)
        # A text tells the width of the embeddings for any kind of model.
        width = embedder.texts(["a photo"]).shape[1]
        check_truncate_dim(truncate_dim, width)
        info = {
            "model": lasting_name(model_name or model.name_or_path),
            **_identity(embedder),
            "precision": precision,
            "truncate_dim": truncate_dim,
            "patch_width": width,
        }
        processes = embedder.shards.processes
        if processes.rank == 0:
            ImageTable.create(path, truncate_dim or width, info, store_patches=store_patches)
        # The others wait here until the tables exist.
        processes.broadcast(None)
        return cls(ImageTable.open(path), embedder)

    @classmethod
    def open(cls, path: str | os.PathLike[str], embedder: Embedder | None = None) -> "PhotoIndex":
        """
        Opens an existing index.

        Raises:
            ValueError: if there is no index, or it was made with another model or dtype than the embedder has.
            ImportError: without LanceDB.
        """
        table = ImageTable.open(path)
        if embedder is not None:
            _check_model(table, embedder)
        return cls(table, embedder)

    @property
    def embedder(self) -> Embedder:
        """The embedder with the model that the index was made with."""
        if self._embedder is None:
            embedder = load_embedder(self.table.info["model"], dtype=self.table.info["dtype"])
            _check_model(self.table, embedder)
            self._embedder = embedder
        return self._embedder

    @property
    def truncate_dim(self) -> int | None:
        """The numbers that are left of each embedding; `None` if none were cut."""
        return self.table.info.get("truncate_dim")

    def __len__(self) -> int:
        return len(self.table)

    def unreadable(self) -> list[tuple[str, str]]:
        """Returns key and error of each image that could not be read at the last try."""
        return self.table.unreadable()

    def add(
        self,
        source: Any,
        *,
        name: str | None = None,
        format: str | None = None,
        image_root: str | Path | None = None,
        columns: Mapping[str, str] | None = None,
        split: str = "train",
        **reading: Any,
    ) -> Added:
        """
        Brings the index up to date with a source: encodes new and changed images, and removes those that are gone.

        Only images of this source are removed: the same path or id with the same split and range, or the same `name`.
        A photo that was moved or renamed keeps its embedding, which its content tells.

        The work is on the disk fragment by fragment, and a run that was stopped continues where it was. With several
        processes each must call it, and each encodes a part.

        Args:
            source, name, format, image_root, columns, split, reading: See [`open_photos`].

        Raises:
            ValueError: if the source has nothing to index, rows in memory have no name, or a column is of another type
                than in the index. Nothing is written then.
        """
        processes = self.embedder.shards.processes
        settings: dict[str, Any] = {"image_root": image_root, "columns": columns, "split": split, **reading}
        photos = open_photos(source, name=name, format=format, **settings)
        changes = None
        # The first process removes and updates for all. Then each encodes a share.
        if processes.rank == 0:
            changes = self._prepare(photos)
        changes = processes.broadcast(changes)
        to_encode = changes.to_encode
        errors = self._encode(photos, to_encode[processes.rank :: processes.count])
        # The first process goes on only when all have appended their part.
        errors_by_rank = processes.gather(errors)
        added = None
        if processes.rank == 0:
            unreadable: dict[str, str] = {}
            for process_errors in errors_by_rank:
                unreadable.update(process_errors)
            if changes.new or changes.changed or changes.gone or changes.updated:
                self.table.finish()
            added = count_added(changes, unreadable, photos.skipped)
        recalibrate(self.table, self.embedder)
        return processes.broadcast(added)

    def _prepare(self, photos: Photos) -> Changes:
        """
        Makes all changes except encoding, and returns them.

        A changed image is removed before it is encoded again: a run that stops in between finds it missing.
        """
        self.table.add_columns(photos.types(), photos.name)
        changes = find_changes(photos, self.table.known())
        self.table.forget_unreadable(photos.name)
        # A moved photo is there before its old place is gone. Photos that have exchanged their names are read first,
        # and written when both are removed.
        new = {key: changes.reused[key] for key in changes.new if key in changes.reused}
        for fragment in reused_fragments(photos, new, self.table):
            self.table.append(*fragment)
        changed = {key: changes.reused[key] for key in changes.changed if key in changes.reused}
        exchanged = list(reused_fragments(photos, changed, self.table))
        self.table.delete(changes.gone + changes.changed)
        for fragment in exchanged:
            self.table.append(*fragment)
        row_columns = [name for name in self.table.columns if name not in OWN_COLUMNS]
        for keys in split(changes.updated, UPDATES_AT_ONCE):
            self.table.update(list(updated_records(photos, keys, row_columns)))
        return changes

    def _encode(self, photos: Photos, keys: Sequence[str]) -> list[tuple[str, str]]:
        """Encodes and appends images, and returns key and error of those that could not be read."""
        if not keys:
            return []
        errors: list[tuple[str, str]] = []
        fragment = _Fragment(self.truncate_dim)
        # The disk is written to while the model encodes. After an error, too, what is being written is written whole.
        with ThreadPoolExecutor(max_workers=1) as writer:
            written: Future[None] | None = None
            for batch in self.embedder.images(ReadablePhotos(photos, keys)):
                errors += [(row["record"]["image"], row["error"]) for row in batch.rows if "error" in row]
                fragment.add(batch, with_patches=self.table.stores_patches)
                if fragment.is_full:
                    # At most two fragments are in memory.
                    if written is not None:
                        written.result()
                    written = writer.submit(fragment.append_to, self.table)
                    fragment = _Fragment(self.truncate_dim)
            if written is not None:
                written.result()
        fragment.append_to(self.table)
        self.table.add_unreadable(photos.name, errors)
        return errors

    def search(
        self,
        query: Query | str,
        *,
        where: str | None = None,
        top: int = 20,
        rerank: int | Reranking = 0,
        exact: bool = False,
        min_confidence: float = 0.0,
    ) -> list[Hit]:
        """
        Returns the images that fit a query best, best first.

        Args:
            query: A description, or a [`Query`] of phrases and images with weights.
            where: SQL condition on the columns, for example "width > 300 AND caption LIKE '%dog%'".
            top: The largest number of images.
            rerank: The number of best images by embeddings that are ordered again by the hierarchical score, 0 for
                none; or a [`Reranking`], which names another score too.
            exact: Whether to compare with every image even if there are a vector index or codes.
            min_confidence: The least `confidence` of an image, in [0, 1). 0 takes all. If nothing matches, the list is
                empty.

        Raises:
            ValueError: if a number is out of range, the condition is not valid, or re-ranking lacks a text or a model
                that can compute its score.
        """
        if top < 1:
            raise ValueError(f"top must be at least 1, but is {top}")
        if not 0 <= min_confidence < 1:
            raise ValueError(f"min_confidence must be at least 0 and less than 1, but is {min_confidence}")
        if isinstance(rerank, int):
            rerank = Reranking(rerank)
        if isinstance(query, str):
            query = Query(query)
        embedded = embed_query(query, self.embedder, self.truncate_dim)
        rows = self.table.nearest(embedded.vector_D.numpy(), max(top, rerank.count), where=where, exact=exact)
        calibration = self.table.read_calibration()
        hits = [embedded.hit(row, calibration) for row in rows]
        if min_confidence:
            embedded.check_has_confidence(calibration)
            hits = [hit for hit in hits if hit.confidence is not None and hit.confidence >= min_confidence]
        if rerank.count:
            rerank_hits(hits[: rerank.count], embedded, rerank, self.table, self.embedder)
        # The two scores are on different scales: re-ranked images come first.
        hits.sort(key=lambda hit: (hit.reranked is None, -hit.score))
        return hits[:top]

    def recall(self, texts: Sequence[str] = (), *, top: int = 20, count: int = 100) -> tuple[float, str]:
        """
        Measures the share of the `top` images of exact search that the vector index or the codes find.

        Args:
            texts: Queries. By default captions of the collection are the queries, or images if it has no captions.
            top: The number of images of each query.
            count: The largest number of queries.

        Returns:
            The mean share, and a phrase that says what the queries were.
        """
        # All processes must encode the same texts, and each might read other captions.
        captions = self.embedder.shards.processes.broadcast(self.table.some("caption", count))
        queries = list(texts or dict.fromkeys(captions))
        if queries:
            queries_QD = truncate(self.embedder.descriptions(queries[:count]).cpu(), self.truncate_dim).numpy()
            kind = "texts" if texts else "captions"
        else:
            queries_QD = np.array(self.table.some("vector", count), dtype=np.float32)
            kind = "images"
        return self.table.recall(queries_QD, top), f"{len(queries_QD)} {kind}"


def load_embedder(
    model: str | os.PathLike[str],
    *,
    device: str | None = None,
    dtype: str = "float32",
    batch_size: int = 32,
    num_workers: int = 0,
) -> Embedder:
    """
    Loads an embedder with any model that `beta-clip evaluate` takes.

    Args:
        model: Directory or Hub id.
        device: A device of torch, for example "cpu"; "cuda" is another GPU in each of several processes. By default
            CUDA if it is available.
        dtype: One of "float32", "bfloat16" and "float16".
        batch_size, num_workers: See [`Embedder`].

    Raises:
        ValueError: if the dtype or the device is not known.
    """
    loaded = load_model(str(model), own_device(device), dtype_of(dtype))
    shards = Shards(processes=Processes())
    return Embedder(
        loaded.model,
        loaded.processor,
        batch_size=batch_size,
        num_workers=num_workers,
        shards=shards,
        weights_hash=loaded_model_hash(str(model), loaded.model),
    )


@dataclass
class _Fragment:
    """Encoded images that are appended to the table together."""

    truncate_dim: int | None
    """The numbers of each embedding to keep."""
    records: list[dict[str, Any]] = field(default_factory=list)
    vectors: list[torch.Tensor] = field(default_factory=list)
    patches: list[dict[str, Any]] = field(default_factory=list)
    patch_bytes: int = 0

    def add(self, batch: ImageBatch, *, with_patches: bool) -> None:
        """Adds the readable images of a batch."""
        readable = [index for index, row in enumerate(batch.rows) if "error" not in row]
        self.records += [batch.rows[index]["record"] for index in readable]
        self.vectors.append(truncate(batch.image_embeds_BD[readable].cpu(), self.truncate_dim))
        if not with_patches:
            return
        for index in readable:
            self.patches.append(patch_record(batch.patches, index))
            self.patch_bytes += len(self.patches[-1]["patches"])

    @property
    def is_full(self) -> bool:
        """Tells whether the fragment is large enough to be written."""
        return len(self.records) >= IMAGES_PER_FRAGMENT or self.patch_bytes >= BYTES_PER_FRAGMENT

    def append_to(self, table: ImageTable) -> None:
        """Writes the images; an empty fragment writes nothing."""
        if self.records:
            table.append(self.records, torch.cat(self.vectors).numpy(), self.patches)


def _identity(embedder: Embedder) -> dict[str, str]:
    """Returns what must be equal for the embeddings of two embedders to be comparable."""
    weights_hash = embedder.weights_hash or model_hash(embedder.model)
    return {"dtype": str(embedder.model.dtype).removeprefix("torch."), "sha256": weights_hash}


def _check_model(table: ImageTable, embedder: Embedder) -> None:
    """Raises `ValueError` if the embeddings of an embedder are not comparable with those of an index."""
    for name, value in _identity(embedder).items():
        expected = table.info[name]
        if value != expected:
            part = "weights" if name == "sha256" else "dtype"
            # 16 digits of a hash are enough to tell weights apart.
            raise ValueError(
                f"the model must be that of the index, {table.info['model']} of {part} {expected[:16]}, but is "
                f"of {part} {value[:16]}: give that model, or index the photos anew"
            )
