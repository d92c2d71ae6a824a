"""
One pass over the images of a data set. Probes take from it what they measure, so that no image is encoded twice and
no patch feature is kept longer than its batch.

Letters: B images, T texts, P patches, D projection width.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.utils.data import DataLoader
from transformers.utils import logging

from ..data.rows import Row, check_row, load_image
from ..regions_beta_clip import roi_align
from .results import Figure


@dataclass(frozen=True)
class ImageBatch:
    """B encoded images and the rows they belong to; the tensors are on the model's device."""

    rows: list[Row]
    """The rows, without their images."""
    image_index_B: Tensor
    """(B,) int64, on the CPU: the place of each image in the data set."""
    sizes: list[tuple[int, int]]
    """Width and height of each image in pixels, before any processing."""
    image_embeds_BD: Tensor
    """(B, D) float32, normalised."""
    patch_features_BPD: Tensor
    """(B, P, D), not normalised, in the model's dtype; P = 0 for a model without patch features."""
    grid: tuple[int, int]
    """Rows and columns of patches, P in all."""


class Probe(Protocol):
    """Something that is measured in one pass over the images."""

    counts: dict[str, int]

    def update(self, batch: ImageBatch) -> None: ...

    def figures(self) -> dict[str, Figure]: ...


class Embedder:
    """
    Encodes texts and images with a model and its processor, without gradients, in batches.

    Args:
        model: A `BetaCLIPModel`, or any model with the features of `CLIPModel`; its device and dtype are used.
        processor: The owner of tokenising, resizing and cropping.
        batch_size: Images, and texts, at a time.
        num_workers: Processes that read images; 0 reads them in this one.
    """

    def __init__(self, model: Any, processor: Any, *, batch_size: int = 32, num_workers: int = 0) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, but is {batch_size}")
        self.model, self.processor = model, processor
        self.batch_size, self.num_workers = batch_size, num_workers
        self.has_pooler = getattr(model, "pooler", None) is not None
        self.has_patch_features = hasattr(model, "encode_images")
        self.has_long_path = getattr(model.config, "use_long_text_path", False)

    def texts(self, texts: Sequence[str], *, whole_captions: bool = False, progress: bool = False) -> Tensor:
        """
        (T, D) float32, normalised, in the order given. Equal texts are encoded once: their scores are tied, whatever
        batch they would have been in. Texts of similar length share a batch: less padding. `progress` shows a bar.

        A model with two text paths encodes `whole_captions` on the long one and anything else on the short one.
        """
        path = {"path": "long"} if whole_captions and self.has_long_path else {}
        places = {text: place for place, text in enumerate(sorted(set(texts), key=lambda text: (len(text), text)))}
        unique = list(places)
        embeds = [torch.zeros(0, self.model.config.projection_dim, device=self.model.device)]
        firsts = range(0, len(unique), self.batch_size)
        for first in logging.tqdm(firsts, desc="texts", unit=" batches") if progress else firsts:
            batch = unique[first : first + self.batch_size]
            tokens = self.processor(text=batch, padding=True, return_tensors="pt", **path).to(self.model.device)
            with _inference(self.model):
                features = self.model.get_text_features(**tokens, **path).pooler_output
            embeds.append(normalize(features.float(), dim=-1))
        return torch.cat(embeds)[[places[text] for text in texts]]

    def images(self, rows: Sequence[Row]) -> Iterator[ImageBatch]:
        """The images of the rows, encoded batch by batch in order, under a progress bar."""
        patch_size = self.model.config.vision_config.patch_size
        loader: Iterable[Any] = DataLoader(
            rows,  # type: ignore[arg-type]  # a list of rows is a map-style data set as well
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            collate_fn=_ReadImages(self.processor.image_processor),
        )
        first = 0
        with logging.tqdm(total=len(rows), desc="images", unit=" images") as progress:
            for texts, sizes, pixel_values in loader:
                pixel_values = pixel_values.to(self.model.device, self.model.dtype)
                with _inference(self.model):
                    if self.has_patch_features:
                        features, patches = self.model.encode_images(pixel_values)
                    else:  # a stock CLIP
                        features = self.model.get_image_features(pixel_values).pooler_output
                        patches = features[:, None][:, :0]
                yield ImageBatch(
                    rows=texts,
                    image_index_B=torch.arange(first, first + len(texts)),
                    sizes=sizes,
                    image_embeds_BD=normalize(features.float(), dim=-1),
                    patch_features_BPD=patches,
                    grid=(pixel_values.shape[-2] // patch_size, pixel_values.shape[-1] // patch_size),
                )
                first += len(texts)
                progress.update(len(texts))

    def conditioned_scores(self, batch: ImageBatch, text_embeds_TD: Tensor, image_in_batch_T: Tensor) -> Tensor:
        """(T,) text-conditioned score v_{i|t} · u_t of each text with the image of the batch it is asked of."""
        with _inference(self.model):
            conditioned_TD = self.model.get_text_conditioned_image_features(
                patch_features=batch.patch_features_BPD, text_embeds=text_embeds_TD, image_index=image_in_batch_T
            )
        return (conditioned_TD.float() * text_embeds_TD).sum(dim=-1)

    def pair_scores(self, batch: ImageBatch, text_embeds_TD: Tensor) -> Tensor:
        """(B, T) text-conditioned scores of every image of the batch with every text."""
        with _inference(self.model):
            return self.model.score_pairs(batch.patch_features_BPD, text_embeds_TD).float()

    def region_embeds(self, batch: ImageBatch, boxes_R4: Tensor, image_in_batch_R: Tensor) -> Tensor:
        """(R, D) float32, normalised: RoIAlign of the batch's patch features, boxes in shares of the view."""
        rows, columns = batch.grid
        boxes_R4 = boxes_R4.to(batch.patch_features_BPD.device) * boxes_R4.new_tensor([columns, rows] * 2)
        features = roi_align(batch.patch_features_BPD, boxes_R4, image_in_batch_R, batch.grid)
        return normalize(features.float(), dim=-1)

    def attention(self, batch: ImageBatch, text_embeds_TD: Tensor, image_in_batch_T: Tensor) -> Tensor:
        """(T, P) float32: where the pooler looks for each text, the mean over its heads."""
        with _inference(self.model):
            _, attention_THP = self.model.get_text_conditioned_image_features(
                patch_features=batch.patch_features_BPD,
                text_embeds=text_embeds_TD,
                image_index=image_in_batch_T,
                output_attentions=True,
            )
        return attention_THP.float().mean(dim=1)


def read_texts(rows: Sequence[Row]) -> list[Row]:
    """The checked rows without their images, which need not stay in memory."""
    return [_without_image(rows[index]) for index in range(len(rows))]


def run_probes(embedder: Embedder, rows: Sequence[Row], probes: Sequence[Probe]) -> dict[str, Figure]:
    """One pass over the images for all probes; their figures in the order of the probes."""
    for batch in embedder.images(rows):
        for probe in probes:
            probe.update(batch)
    return {name: figure for probe in probes for name, figure in probe.figures().items()}


class _ReadImages:
    """Collates rows: decodes the images and runs the image processor, in a worker where there are workers."""

    def __init__(self, image_processor: Any) -> None:
        self.image_processor = image_processor

    def __call__(self, rows: list[Row]) -> tuple[list[Row], list[tuple[int, int]], Tensor]:
        images = [load_image(row["image"]) for row in rows]
        pixel_values = self.image_processor(images, return_tensors="pt")["pixel_values"]
        return [_without_image(row) for row in rows], [image.size for image in images], pixel_values


def _without_image(row: Row) -> Row:
    return {name: value for name, value in check_row(row).items() if name != "image"}


@contextmanager
def _inference(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
