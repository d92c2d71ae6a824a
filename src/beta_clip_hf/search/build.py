"""Making an index of photos, or bringing one up to date, in one process or several."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from transformers.utils import logging as transformers_logging

from ..data.scenes import default_model
from ..inference.embedder import Embedder
from ..inference.feeding import suited_feeding
from ..inference.processes import Processes, launched_processes, own_device
from .index import Added, PhotoIndex, load_embedder
from .schema import exists
from .sources import open_photos
from .table import ImageTable


@dataclass(frozen=True)
class IndexSettings:
    """
    Holds the settings of [`build_index`].

    Args:
        model: Directory or Hub id. By default the model of the index; a new index needs one.
        may_use_default_model: Whether a new index takes the small β-CLIP that ships with the package if `model` is
            `None`. It knows coloured shapes only.
        store_patches: Whether a new index keeps patch features, for re-ranking without opening images again.
        precision, truncate_dim: See [`PhotoIndex.create`]; by default those of the index, for a new one "float32" and
            all numbers.
        reading: How the photos are read: arguments of [`open_photos`], such as `format`, `split` and `columns`.
        device: See [`load_embedder`].
        dtype: The dtype of the model; by default that of the index, and for a new one what suits the device, see
            [`suited_feeding`].
        batch_size, num_workers: See [`Embedder`].
    """

    model: str | None = None
    may_use_default_model: bool = False
    store_patches: bool = False
    precision: str | None = None
    truncate_dim: int | None = None
    reading: Mapping[str, Any] = field(default_factory=dict)
    device: str | None = None
    dtype: str | None = None
    batch_size: int = 32
    num_workers: int = 0


@dataclass(frozen=True)
class BuiltIndex:
    """An index that is up to date."""

    path: str
    num_images: int
    """Images in the index, those of other sources included."""
    added: Added
    """What has changed."""
    recall: float | None = None
    """The recall of the vector index or the codes; `None` if search is exact, or if no image was encoded."""
    recall_queries: str | None = None
    """What the queries of the recall were, for example "100 captions"."""


def build_index(photos: Any, path: str | os.PathLike[str], settings: IndexSettings | None = None) -> BuiltIndex | None:
    """
    Makes an index of photos, or brings it up to date with them. Images that cannot be read are listed, not raised.

    Several processes that a launcher has started share the work.

    Args:
        photos: The source, see [`open_photos`].
        path: The directory or URI of the index.
        settings: The settings; by default those of an index that exists.

    Returns:
        What was done in the first process, `None` in the others.

    Raises:
        ValueError: if the source has nothing to index, or a setting does not fit the index.
        ImportError: without LanceDB.
    """
    settings = settings or IndexSettings()
    with launched_processes():
        processes = Processes()
        if processes.rank:
            transformers_logging.disable_progress_bar()
        # The first process decides for all: it may create the index before another has looked for it.
        is_new = None
        if processes.rank == 0:
            is_new = not exists(path)
        is_new = processes.broadcast(is_new)
        if is_new and not settings.model and settings.may_use_default_model:
            settings = replace(settings, model=default_model())
        if is_new and not settings.model:
            raise ValueError("model must be given for a new index, but is not: see beta-clip index --help")
        source = open_photos(photos, **settings.reading)
        # This raises where there is no photo, before an empty index is made.
        source.keys()
        open_index = _open
        if is_new:
            open_index = _create
        index = open_index(path, settings)
        added = index.add(source)
        recall, recall_queries = None, None
        if index.table.is_approximate and added.new + added.changed:
            recall, recall_queries = index.recall()
        built = BuiltIndex(index.table.path, len(index), added, recall, recall_queries)
    return built if processes.rank == 0 else None


def _create(path: str | os.PathLike[str], settings: IndexSettings) -> PhotoIndex:
    assert settings.model is not None
    dtype = settings.dtype or suited_feeding(own_device(settings.device)).dtype
    embedder = _load(settings.model, dtype, settings)
    return PhotoIndex.create(
        path,
        embedder,
        model_name=settings.model,
        store_patches=settings.store_patches,
        precision=settings.precision or "float32",
        truncate_dim=settings.truncate_dim,
    )


def _open(path: str | os.PathLike[str], settings: IndexSettings) -> PhotoIndex:
    table = ImageTable.open(path)
    info = table.info
    # Before the model is loaded, which takes long.
    if settings.precision not in (None, table.precision):
        raise ValueError(
            f"precision must be that of the index, {table.precision!r}, but is {settings.precision!r}: leave it out, "
            "or make another index"
        )
    if settings.truncate_dim not in (None, table.embedding_size):
        raise ValueError(
            f"truncate_dim must be that of the index, whose embeddings have {table.embedding_size} numbers, but is "
            f"{settings.truncate_dim}: leave it out, or make another index"
        )
    embedder = _load(settings.model or info["model"], settings.dtype or info["dtype"], settings)
    index = PhotoIndex.open(path, embedder)
    if settings.store_patches and not index.table.stores_patches:
        raise ValueError("store_patches must be chosen when an index is made, but this one is there without")
    return index


def _load(model: str, dtype: str, settings: IndexSettings) -> Embedder:
    return load_embedder(
        model,
        device=settings.device,
        dtype=dtype,
        batch_size=settings.batch_size,
        num_workers=settings.num_workers,
    )
