"""
Re-ranking of a shortlist by text-conditioned or hierarchical scores, and the attention of each text.

Both need the patch features of the images, which the index keeps or which are computed again from the image files.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..inference.embedder import Embedder
from ..inference.grids import grids_of, on_grid, padded_map, without_padding
from ..inference.hierarchical import (
    DEFAULT_WEIGHTS,
    HIERARCHICAL_PLACES,
    WINDOW,
    PartScores,
    TextParts,
    Weights,
    check_weights,
    text_hierarchies,
)
from ..inference.shards import split
from ..model.patch_map_beta_clip import PatchMap, select_images
from .query import EmbeddedQuery, Hit
from .sources import PhotoFolder, ReadablePhotos
from .table import ImageTable


logger = logging.getLogger(__name__)


CONDITIONED = "conditioned"
SCORES = (CONDITIONED, *HIERARCHICAL_PLACES)
"""Names of the scores that can re-rank: the text-conditioned score of whole texts, or the hierarchical scores."""
DEFAULT_SCORE = "hierarchical"
"""The score that re-ranks if none is named: the one that finds more than CLS does, see docs/conditioning.md."""


@dataclass(frozen=True)
class Reranking:
    """
    Says how many of the best images are ordered again, and by which score.

    Args:
        count: Number of images.
        score: One of [`SCORES`]. "conditioned" is the text-conditioned score of each text of the query as a whole.
            "hierarchical" is the cosine of the text, and the text-conditioned score of its sentences and phrases.
            "hierarchical_window" takes the best window of the patch features for these, which needs no pooler.
        weights: Weights of whole text, sentences and phrases of a hierarchical score; by default those of
            [`beta_clip_hf.inference.hierarchical.DEFAULT_WEIGHTS`].

    Raises:
        ValueError: if the count is negative, the score is not known, or the weights are not valid.
    """

    count: int
    score: str = DEFAULT_SCORE
    weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError(f"rerank must be at least 0, but is {self.count}")
        if self.score not in SCORES:
            raise ValueError(f"rerank_score must be one of {SCORES}, but is {self.score!r}")
        if self.weights is not None:
            check_weights(self.weights)
            if self.score == CONDITIONED:
                raise ValueError(f"rerank_weights must not be given for the {CONDITIONED} score, but are")

    @property
    def place(self) -> str | None:
        """How the best place of a sentence or a phrase is found; `None` if the score does not look for one."""
        return HIERARCHICAL_PLACES.get(self.score)

    @property
    def part_weights(self) -> Weights:
        """The weights of the parts of a hierarchical score."""
        if self.weights is not None:
            return check_weights(self.weights)
        assert self.place is not None
        return DEFAULT_WEIGHTS[self.place]


class Patches(NamedTuple):
    """Holds the patch features of a batch of images."""

    images: list[str]
    """B keys of images."""
    patches: PatchMap
    """Those of B images, on the model's device and in its dtype."""


def rerank_hits(
    hits: Sequence[Hit], query: EmbeddedQuery, reranking: Reranking, table: ImageTable, embedder: Embedder
) -> None:
    """
    Sets `reranked` of each hit whose patch features are available. The others keep their similarity, and a warning
    tells how many. Images of the query count with their cosine, because they have no text that could attend.

    Args:
        hits: The hits to score.
        query: The query, which must have a text.
        reranking: Which score to use.
        table: The table that may hold the patch features.
        embedder: The embedder that computes them otherwise.

    Raises:
        ValueError: if the query has no text, the model cannot compute the score, or no hit has patch features.
    """
    if not query.texts:
        raise ValueError("rerank must be 0 for a query without texts, which have to look at the images, but is not")
    _check_model(reranking, table, embedder)
    parts = None
    if reranking.place is not None:
        parts = TextParts(embedder, text_hierarchies(query.texts))
    hits_by_image = {hit.image: hit for hit in hits}
    num_scored = 0
    for patches in read_patches(list(hits_by_image), table, embedder):
        batch_hits = [hits_by_image[image] for image in patches.images]
        if parts is None:
            scores_BT = embedder.pair_scores(patches, query.text_embeds_TD).cpu()
        else:
            scores_BT = _hierarchical_scores(batch_hits, query, reranking, patches, parts)
        text_part_B = scores_BT @ query.weights_T
        for hit, text_part in zip(batch_hits, text_part_B.tolist(), strict=True):
            image_part = float(query.image_part_D.numpy() @ hit.vector_D)
            hit.reranked = (text_part + image_part) / query.total_weight
            num_scored += 1
    _check_scored(num_scored, len(hits))


def _check_model(reranking: Reranking, table: ImageTable, embedder: Embedder) -> None:
    """Raises `ValueError` for a model that cannot compute the score."""
    model = table.info["model"]
    if reranking.place == WINDOW:
        if not embedder.has_patch_features:
            raise ValueError(f"rerank must be 0 for {model}, which has no patch features, but is not")
    elif not embedder.has_pooler:
        raise ValueError(f"rerank must be 0 for {model}, which has no trained pooler, but is not")


def _hierarchical_scores(
    hits: Sequence[Hit], query: EmbeddedQuery, reranking: Reranking, patches: Patches, parts: TextParts
) -> Tensor:
    """Scores images with the texts of a query by their sentences and phrases, (B, T)."""
    assert reranking.place is not None
    sentences_BT, phrases_BT = parts.pair_scores(patches, reranking.place)
    vectors = []
    for hit in hits:
        assert hit.vector_D is not None
        vectors.append(hit.vector_D)
    vectors_BD = torch.from_numpy(np.stack(vectors))
    caption_BT = vectors_BD @ query.text_vectors_TD.T
    return PartScores(caption_BT, sentences_BT, phrases_BT).total(reranking.part_weights)


def attention_maps(
    images: Sequence[str], text_embeds_TD: Tensor, table: ImageTable, embedder: Embedder
) -> dict[str, Tensor]:
    """
    Returns where each text looks in each image, as the mean over the heads of the pooler.

    Args:
        images: Keys of images in the table.
        text_embeds_TD: (T, D) embeddings of the texts, on the model's device.
        table: The table that may hold the patch features.
        embedder: The embedder that computes them otherwise.

    Returns:
        (T, Y, X) float32 on the CPU by image. Images without patch features are left out.

    Raises:
        ValueError: if the model has no pooler.
    """
    if not embedder.has_pooler:
        raise ValueError(f"{table.info['model']} must have a trained pooler for heat maps, but has none")
    maps: dict[str, Tensor] = {}
    num_texts = len(text_embeds_TD)
    for patches in read_patches(images, table, embedder):
        num_images = len(patches.images)
        image_index = torch.arange(num_images).repeat_interleave(num_texts)
        attention = embedder.attention(patches, text_embeds_TD.repeat(num_images, 1), image_index)
        attention_BTP = attention.mean(dim=1).cpu().unflatten(0, (num_images, num_texts))
        images_of_batch = zip(patches.images, attention_BTP, grids_of(patches.patches), strict=True)
        for image, attention_TP, grid in images_of_batch:
            maps[image] = on_grid(attention_TP, grid)
    return maps


def patch_record(patches: PatchMap, image: int) -> dict[str, Any]:
    """Returns how a table keeps the patch features of one image of a batch: in float16, without padding."""
    features_PD = without_padding(patches, image).to("cpu", torch.float16)
    rows, _ = grids_of(patches)[image]
    return {"patches": features_PD.numpy().tobytes(), "patch_rows": rows}


def read_patches(images: Sequence[str], table: ImageTable, embedder: Embedder) -> Iterator[Patches]:
    """Yields the patch features of images batch by batch. Images without patch features are left out."""
    if not table.stores_patches:
        yield from _compute_patches(images, embedder)
        return
    for batch_keys in split(images, embedder.batch_size):
        stored = table.patches(batch_keys)
        keys = [key for key in batch_keys if key in stored]
        if not keys:
            continue
        # The table holds float16, whatever the dtype of the model.
        where = (embedder.model.device, embedder.model.dtype)
        features = [torch.from_numpy(stored[key].features_PD.copy()).to(*where) for key in keys]
        yield Patches(keys, padded_map(features, [stored[key].grid for key in keys]))


def _compute_patches(images: Sequence[str], embedder: Embedder) -> Iterator[Patches]:
    # The folder itself is not listed: only the given files are read.
    photos = ReadablePhotos(PhotoFolder("."), images)
    for batch in embedder.images(photos):
        readable = [index for index, row in enumerate(batch.rows) if "error" not in row]
        if readable:
            keys = [batch.rows[index]["record"]["image"] for index in readable]
            yield Patches(keys, select_images(batch.patches, readable))


def _check_scored(num_scored: int, num_hits: int) -> None:
    if num_scored < num_hits:
        logger.warning(
            "%d of %d images could not be opened again: they stay behind those re-ranked",
            num_hits - num_scored,
            num_hits,
        )
    if num_hits and not num_scored:
        raise ValueError(
            "rerank must be 0 where no image can be opened again, but is not: index the photos with --store-patches"
        )
