"""
Re-ranking of a shortlist by text-conditioned scores, and the attention of each text.

Both need the patch features of the images, which the index keeps or which are computed again from the image files.
"""

import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..inference.embedder import Embedder
from ..inference.shards import split
from .query import EmbeddedQuery, Hit
from .sources import PhotoFolder, ReadablePhotos
from .table import ImageTable


logger = logging.getLogger(__name__)


class Patches(NamedTuple):
    """Holds the patch features of a batch of images."""

    images: list[str]
    """B keys of images."""
    features_BPD: Tensor
    """(B, P, D), on the model's device and in its dtype."""
    grid: tuple[int, int]
    """Rows and columns of patches, P in all."""


def add_conditioned_scores(hits: Sequence[Hit], query: EmbeddedQuery, table: ImageTable, embedder: Embedder) -> None:
    """
    Sets `conditioned` of each hit whose patch features are available. The others keep their similarity, and a warning
    tells how many. Images of the query count with their cosine, because they have no text that could attend.

    Raises:
        ValueError: if the query has no text, the model no pooler, or no hit has patch features.
    """
    num_texts = len(query.text_embeds_TD)
    if num_texts == 0:
        raise ValueError("rerank must be 0 for a query without texts, which have to look at the images, but is not")
    if not embedder.has_pooler:
        raise ValueError(f"rerank must be 0 for {table.info['model']}, which has no trained pooler, but is not")
    device = embedder.model.device
    hits_by_image = {hit.image: hit for hit in hits}
    num_scored = 0
    for patches in read_patches(list(hits_by_image), table, embedder):
        # The two indices broadcast: each image of the batch is paired with each text.
        image_index_B1 = torch.arange(len(patches.images), device=device)[:, None]
        text_index_T = torch.arange(num_texts, device=device)
        with torch.no_grad():
            scores_BT = embedder.model.score_candidates(
                patches.features_BPD, query.text_embeds_TD, image_index_B1, text_index_T
            )
        text_part_B = scores_BT.float().cpu() @ query.weights_T
        for image, text_part in zip(patches.images, text_part_B.tolist(), strict=True):
            hit = hits_by_image[image]
            image_part = float(query.image_part_D.numpy() @ hit.vector_D)
            hit.conditioned = (text_part + image_part) / query.total_weight
            num_scored += 1
    _check_scored(num_scored, len(hits))


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
        with torch.no_grad():
            _, attention = embedder.model.get_text_conditioned_image_features(
                patch_features=patches.features_BPD,
                text_embeds=text_embeds_TD.repeat(num_images, 1),
                image_index=image_index.to(embedder.model.device),
                output_attentions=True,
            )
        mean_over_heads = attention.float().mean(dim=1).cpu()
        maps_BTYX = mean_over_heads.view(num_images, num_texts, *patches.grid)
        maps.update(zip(patches.images, maps_BTYX, strict=True))
    return maps


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
        features_BPD = torch.from_numpy(np.stack([stored[key].features_PD for key in keys]))
        # The table holds float16, whatever the dtype of the model.
        features_BPD = features_BPD.to(embedder.model.device, embedder.model.dtype)
        rows = stored[keys[0]].rows
        yield Patches(keys, features_BPD, (rows, features_BPD.shape[1] // rows))


def _compute_patches(images: Sequence[str], embedder: Embedder) -> Iterator[Patches]:
    # The folder itself is not listed: only the given files are read.
    photos = ReadablePhotos(PhotoFolder("."), images)
    for batch in embedder.images(photos):
        readable = [index for index, row in enumerate(batch.rows) if "error" not in row]
        if readable:
            keys = [batch.rows[index]["record"]["image"] for index in readable]
            yield Patches(keys, batch.patch_features_BPD[readable], batch.grid)


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
