"""
A shortlist as each text sees it: text-conditioned scores and attention, of patch features that the index keeps, or that
are computed from the image files again.

Letters: B images, T texts, P patches, D projection width; H, W rows and columns of patches.
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
    """Patch features of some images."""

    images: list[str]
    features_BPD: Tensor
    grid: tuple[int, int]
    """Rows and columns, P in all."""


def add_conditioned_scores(hits: Sequence[Hit], query: EmbeddedQuery, table: ImageTable, embedder: Embedder) -> None:
    """
    Sets `conditioned` of the hits whose patch features are at hand; the others keep their similarity, and a warning
    says how many. Images of a query count with their cosine: they have no text to look with.

    Raises:
        ValueError: where the query has no text, the model no pooler, or no hit has patch features.
    """
    if not len(query.text_embeds_TD):
        raise ValueError("rerank must be 0 for a query without texts, which have to look at the images, but is not")
    if not embedder.has_pooler:
        raise ValueError(f"rerank must be 0 for {table.info['model']}, which has no trained pooler, but is not")
    of_image = {hit.image: hit for hit in hits}
    done = 0
    for patches in read_patches(list(of_image), table, embedder):
        places_B1, places_T = torch.arange(len(patches.images))[:, None], torch.arange(len(query.text_embeds_TD))
        with torch.no_grad():
            scores_BT = embedder.model.score_candidates(
                patches.features_BPD,
                query.text_embeds_TD,
                places_B1.to(embedder.model.device),
                places_T.to(embedder.model.device),
            )
        for image, score in zip(patches.images, (scores_BT.float().cpu() @ query.weights_T).tolist(), strict=True):
            hit = of_image[image]
            hit.conditioned = (score + float(query.image_part_D.numpy() @ hit.vector_D)) / query.total_weight
            done += 1
    _check_done(done, len(hits))


def attention_maps(
    images: Sequence[str], text_embeds_TD: Tensor, table: ImageTable, embedder: Embedder
) -> dict[str, Tensor]:
    """
    Where each text looks: (T, H, W) float32 on the CPU by image, the mean over the pooler's heads. Images without patch
    features are left out.

    Raises:
        ValueError: where the model has no pooler.
    """
    if not embedder.has_pooler:
        raise ValueError(f"{table.info['model']} must have a trained pooler for heat maps, but has none")
    maps: dict[str, Tensor] = {}
    count = len(text_embeds_TD)
    for patches in read_patches(images, table, embedder):
        image_index = torch.arange(len(patches.images)).repeat_interleave(count).to(embedder.model.device)
        with torch.no_grad():
            _, attention = embedder.model.get_text_conditioned_image_features(
                patch_features=patches.features_BPD,
                text_embeds=text_embeds_TD.repeat(len(patches.images), 1),
                image_index=image_index,
                output_attentions=True,
            )
        heat = attention.float().mean(dim=1).cpu().view(len(patches.images), count, *patches.grid)
        maps |= dict(zip(patches.images, heat, strict=True))
    return maps


def read_patches(images: Sequence[str], table: ImageTable, embedder: Embedder) -> Iterator[Patches]:
    """Patch features of images, batch by batch, on the model's device and in its dtype; those that there are."""
    if not table.stores_patches:
        yield from _computed(images, embedder)
        return
    for some in split(images, embedder.batch_size):
        found = table.patches(some)
        keys = [image for image in some if image in found]
        if keys:
            features_BPD = torch.from_numpy(np.stack([found[key][0] for key in keys]))
            rows = found[keys[0]][1]
            features_BPD = features_BPD.to(embedder.model.device, embedder.model.dtype)
            yield Patches(keys, features_BPD, (rows, features_BPD.shape[1] // rows))


def _computed(images: Sequence[str], embedder: Embedder) -> Iterator[Patches]:
    for batch in embedder.images(ReadablePhotos(PhotoFolder("."), images)):
        good = [place for place, row in enumerate(batch.rows) if "error" not in row]
        if good:
            keys = [batch.rows[place]["record"]["image"] for place in good]
            yield Patches(keys, batch.patch_features_BPD[good], batch.grid)


def _check_done(done: int, count: int) -> None:
    if done < count:
        logger.warning(
            "%d of %d images could not be opened again: they stay behind those re-ranked", count - done, count
        )
    if count and not done:
        raise ValueError(
            "rerank must be 0 where no image can be opened again, but is not: index the photos with --store-patches"
        )
