"""
[`PhotoIndex`], a photo collection that can be searched; and `beta-clip index`, which makes one and keeps it up to date.

Letters: N images, D projection width, T texts.
"""

import argparse
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.utils import logging as transformers_logging

from beta_clip_cli.reports import Report, add_json_argument, reporting

from ..data.readers import FORMATS
from ..inference.embedder import Embedder, ImageBatch
from ..inference.identity import model_hash
from ..inference.models import load_model
from ..inference.processes import Processes, default_device, launched_processes, own_device
from ..inference.shards import Shards, split
from .query import Hit, Query, embed_query
from .rerank import add_conditioned_scores
from .sources import Changes, Photos, ReadablePhotos, find_changes, open_photos, updated_records
from .table import OWN_COLUMNS, ImageTable, exists


logger = logging.getLogger(__name__)

IMAGES_PER_FRAGMENT = 1024  # what a stop can cost
BYTES_PER_FRAGMENT = 2**26  # of patch features, which are kept in memory until then
UPDATES_AT_ONCE = 10_000
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Added:
    """What [`PhotoIndex.add`] has done, in numbers of images."""

    new: int
    changed: int
    updated: int
    """With the same content, but other columns."""
    deleted: int
    unchanged: int
    unreadable: dict[str, str]
    """Images that could not be read, and rows that are none: where, and why."""


class PhotoIndex:
    """
    A collection of photos, embedded once and searched by texts and images. See docs/search.md.

    Args:
        table: Of the images.
        embedder (*optional*): Encodes images and queries, with the model that the index was made with; by default it is
            loaded by its name when it is needed.

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
    ) -> "PhotoIndex":
        """
        Makes an empty index. Of several processes each calls it, and the first one makes it.

        Args:
            path: A directory that holds no index yet, made where missing; or the URI of an object store.
            embedder: Of the model.
            model_name: By which the model is loaded for a search; by default as it was loaded.
            store_patches: Whether patch features are kept, for re-ranking without opening images again: 2·P·D bytes for
                each image, in float16.

        Raises:
            ValueError: where there is an index already, or the model has no patch features to store.
            ImportError: without LanceDB.
        """
        model = embedder.model
        if store_patches and not embedder.has_patch_features:
            raise ValueError(f"store_patches must be False for a {type(model).__name__}, which has none, but is True")
        info = {"model": model_name or model.name_or_path, **_identity(embedder)}
        size, processes = embedder.texts(["a photo"]).shape[1], embedder.shards.processes
        if processes.rank == 0:
            ImageTable.create(path, size, info, store_patches=store_patches)
        processes.broadcast(None)  # it is there
        return cls(ImageTable.open(path), embedder)

    @classmethod
    def open(cls, path: str | os.PathLike[str], embedder: Embedder | None = None) -> "PhotoIndex":
        """
        Opens an index that is there.

        Raises:
            ValueError: where there is none, or the embedder has another model, or another dtype, than it was made with.
            ImportError: without LanceDB.
        """
        table = ImageTable.open(path)
        if embedder is not None:
            _check_model(table, embedder)
        return cls(table, embedder)

    @property
    def embedder(self) -> Embedder:
        """Of the model that the index was made with."""
        if self._embedder is None:
            embedder = load_embedder(self.table.info["model"], dtype=self.table.info["dtype"])
            _check_model(self.table, embedder)
            self._embedder = embedder
        return self._embedder

    def __len__(self) -> int:
        return len(self.table)

    def unreadable(self) -> list[tuple[str, str]]:
        """The images that could not be read when they were last tried, and why."""
        return self.table.unreadable()

    def add(
        self,
        source: Any,
        *,
        format: str | None = None,
        image_root: str | Path | None = None,
        columns: Mapping[str, str] | None = None,
        split: str = "train",
    ) -> Added:
        """
        Makes the index like a source: encodes its new and changed images, and removes those that it has no more. What
        was done is on the disk fragment by fragment: a run that was stopped goes on where it was. Several processes
        each call it, and each encode a part.

        Args:
            source, format, image_root, columns, split: As in [`open_photos`]. Images of other sources stay.

        Raises:
            ValueError: where the source has nothing to index, or a column of another type than the index.
        """
        processes = self.embedder.shards.processes
        photos = open_photos(source, format=format, image_root=image_root, columns=columns, split=split)
        changes = processes.broadcast(self._prepare(photos) if processes.rank == 0 else None)
        todo = changes.new + changes.changed
        errors = self._encode(photos, todo[processes.rank :: processes.count])
        added = None
        gathered = processes.gather(errors)  # all are done
        if processes.rank == 0:
            unreadable = {key: error for of_process in gathered for key, error in of_process}
            if todo or changes.gone or changes.updated:
                self.table.finish()
            added = Added(
                new=sum(key not in unreadable for key in changes.new),
                changed=sum(key not in unreadable for key in changes.changed),
                updated=len(changes.updated),
                deleted=len(changes.gone) + sum(key in unreadable for key in changes.changed),
                unchanged=changes.unchanged,
                unreadable=unreadable | dict(photos.skipped),
            )
        return processes.broadcast(added)

    def _prepare(self, photos: Photos) -> Changes:
        """What is to be encoded; all else that changes is done. A changed image is not there until it is encoded: a run
        that stops before finds it missing."""
        self.table.add_columns(photos.types(), photos.name)
        changes = find_changes(photos, self.table.known())
        self.table.forget_unreadable(photos.name)
        self.table.delete(changes.gone + changes.changed)
        columns = [name for name in self.table.columns if name not in OWN_COLUMNS]
        for some in split(changes.updated, UPDATES_AT_ONCE):
            self.table.update(list(updated_records(photos, some, columns)))
        return changes

    def _encode(self, photos: Photos, keys: Sequence[str]) -> list[tuple[str, str]]:
        """Encodes images and appends them; returns those that could not be read, and why."""
        if not keys:
            return []
        errors: list[tuple[str, str]] = []
        records: list[dict[str, Any]] = []
        patches: list[dict[str, Any]] = []
        vectors: list[torch.Tensor] = []
        for batch in self.embedder.images(ReadablePhotos(photos, keys)):
            errors += [(row["record"]["image"], row["error"]) for row in batch.rows if "error" in row]
            good = [place for place, row in enumerate(batch.rows) if "error" not in row]
            records += [batch.rows[place]["record"] for place in good]
            vectors.append(batch.image_embeds_BD[good].cpu())
            if self.table.stores_patches:
                patches += _half_patches(batch, good)
            if len(records) >= IMAGES_PER_FRAGMENT or sum(len(one["patches"]) for one in patches) >= BYTES_PER_FRAGMENT:
                self.table.append(records, torch.cat(vectors).numpy(), patches)
                records, patches, vectors = [], [], []
        if records:
            self.table.append(records, torch.cat(vectors).numpy(), patches)
        self.table.add_unreadable(photos.name, errors)
        return errors

    def search(
        self, query: Query | str, *, where: str | None = None, top: int = 20, rerank: int = 0, exact: bool = False
    ) -> list[Hit]:
        """
        The images that fit a query best, best first.

        Args:
            query: A description; or a [`Query`] of phrases and images with weights.
            where: SQL condition on the columns, as "width > 300 AND caption LIKE '%dog%'".
            top: How many images.
            rerank: So many of the best by their embeddings are ordered by their text-conditioned scores; 0 for none.
            exact: Whether a large index, too, compares with every image.

        Raises:
            ValueError: where a number is out of range, the condition is not understood, or there is nothing to re-rank
                with: no text, no trained pooler.
        """
        if top < 1 or rerank < 0:
            raise ValueError(f"top must be at least 1 and rerank at least 0, but they are {top} and {rerank}")
        query = Query(query) if isinstance(query, str) else query
        embedded = embed_query(query, self.embedder)
        found = self.table.nearest(embedded.vector_D.numpy(), max(top, rerank), where=where, exact=exact)
        hits = [embedded.hit(row) for row in found]
        if rerank:
            add_conditioned_scores(hits[:rerank], embedded, self.table, self.embedder)
        # Those without a conditioned score, which is on a scale of its own, come last.
        hits.sort(key=lambda hit: (hit.conditioned is None, -hit.score) if rerank else -hit.similarity)
        return hits[:top]

    def recall(self, texts: Sequence[str] = (), *, top: int = 20, count: int = 100) -> tuple[float, str]:
        """
        The share of the `top` images of exact search that the vector index finds, and what the queries were: `texts`,
        else captions of the collection, else images of it, `count` of them.
        """
        captions = self.embedder.shards.processes.broadcast(self.table.some("caption", count))
        queries = list(texts or dict.fromkeys(captions))
        if queries:
            vectors = self.embedder.texts(queries[:count]).cpu().numpy()
            return self.table.recall(vectors, top), f"{len(vectors)} {'texts' if texts else 'captions'}"
        vectors = np.array(self.table.some("vector", count), dtype=np.float32)
        return self.table.recall(vectors, top), f"{len(vectors)} images"


def load_embedder(
    model: str | os.PathLike[str],
    *,
    device: str | None = None,
    dtype: str = "float32",
    batch_size: int = 32,
    num_workers: int = 0,
) -> Embedder:
    """
    An embedder of any model that `beta-clip evaluate` takes.

    Args:
        model: Directory or Hub id.
        device: "cpu", "cuda" (of several processes each has its own), …; CUDA where there is any by default.
        dtype: One of "float32", "bfloat16", "float16".
        batch_size, num_workers: As in [`Embedder`].
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {DTYPES}, but is {dtype!r}")
    loaded = load_model(str(model), own_device(device or default_device()), getattr(torch, dtype))
    shards = Shards(processes=Processes())
    return Embedder(loaded.model, loaded.processor, batch_size=batch_size, num_workers=num_workers, shards=shards)


def _half_patches(batch: ImageBatch, good: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Patch features of some images of a batch, as the table keeps them."""
    for features_PD in batch.patch_features_BPD[good].to("cpu", torch.float16):
        yield {"patches": features_PD.numpy().tobytes(), "patch_rows": batch.grid[0]}


def _identity(embedder: Embedder) -> dict[str, str]:
    """What the embeddings of two embedders have to agree in."""
    return {"dtype": str(embedder.model.dtype).removeprefix("torch."), "sha256": model_hash(embedder.model)}


def _check_model(table: ImageTable, embedder: Embedder) -> None:
    for name, value in _identity(embedder).items():
        if value != table.info[name]:
            what = "weights" if name == "sha256" else "dtype"
            raise ValueError(
                f"the model must be that of the index, {table.info['model']} of {what} {table.info[name][:16]}, but is "
                f"of {what} {value[:16]}: give that model, or index the photos anew"
            )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `beta-clip index`."""
    parser.add_argument(
        "photos", metavar="DATA", help="a folder of photos, JSONL, or another source of rows with images"
    )
    parser.add_argument(
        "--out", metavar="DIR", required=True, help="the index: a directory, or a URI of object storage"
    )
    parser.add_argument("--model", metavar="MODEL", help="directory or Hub id (default: that of the index)")
    parser.add_argument("--store-patches", action="store_true", help="keep patch features, for a fast --rerank")
    parser.add_argument("--format", choices=FORMATS, help="of a data set, where it cannot be found out")
    parser.add_argument("--split", metavar="NAME", default="train", help="of a data set that has several")
    parser.add_argument("--image-root", metavar="DIR", help="where relative paths start (default: beside their file)")
    parser.add_argument("--batch-size", metavar="N", type=int, default=32, help="images at a time")
    parser.add_argument("--num-workers", metavar="N", type=int, default=0, help="processes that read images")
    parser.add_argument("--device", metavar="DEVICE", default=default_device(), help="cpu, cuda, cuda:1 or another")
    parser.add_argument(
        "--dtype", choices=DTYPES, help="of the model (default: that of the index, float32 for a new one)"
    )
    add_json_argument(parser)


@reporting
def run(args: argparse.Namespace) -> Report:
    """Makes or updates the index; the report is what was done. Unreadable images are listed, and no error."""
    if args.num_workers:  # LanceDB has threads, which a forked process would be without
        torch.multiprocessing.set_start_method("spawn", force=True)
    with launched_processes():
        processes = Processes()
        if processes.rank:
            transformers_logging.disable_progress_bar()
        is_new = processes.broadcast(not exists(args.out) if processes.rank == 0 else None)
        if is_new and not args.model:
            raise ValueError("model must be given for a new index, but is not: see beta-clip index --help")
        photos = open_photos(args.photos, format=args.format, split=args.split, image_root=args.image_root)
        photos.keys()  # where there are none, no empty index stays behind
        info = {} if is_new else ImageTable.open(args.out).info
        settings = {"device": args.device, "batch_size": args.batch_size, "num_workers": args.num_workers}
        dtype = args.dtype or info.get("dtype", "float32")
        embedder = load_embedder(args.model or info["model"], dtype=dtype, **settings)
        if is_new:
            name = os.path.abspath(args.model) if os.path.isdir(args.model) else args.model
            index = PhotoIndex.create(args.out, embedder, model_name=name, store_patches=args.store_patches)
        else:
            index = PhotoIndex.open(args.out, embedder)
        if args.store_patches and not index.table.stores_patches:
            raise ValueError("store_patches must be chosen when an index is made, but this one is there without")
        added = index.add(photos)
        report = _reported(index, added)
    return Report(report, _format(report)) if processes.rank == 0 else Report(None)


def _reported(index: PhotoIndex, added: Added) -> dict[str, Any]:
    report: dict[str, Any] = {"index": index.table.path, "images": len(index), **asdict(added)}
    if index.table.has_vector_index and added.new + added.changed:
        report["recall"], report["recall_of"] = index.recall()
    return report


def _format(report: Mapping[str, Any]) -> str:
    lines = [f"unreadable: {where}: {why}" for where, why in report["unreadable"].items()]
    numbers = ", ".join(f"{report[name]} {name}" for name in ("new", "changed", "updated", "deleted", "unchanged"))
    unreadable = len(report["unreadable"])
    lines.append(f"{report['index']}: {report['images']} images ({numbers}, {unreadable} unreadable)")
    if "recall" in report:
        of = f"of the vector index against exact search, of {report['recall_of']}"
        lines.append(f"recall@20 {of}: {report['recall']:.3f}")
    return "\n".join(lines)
