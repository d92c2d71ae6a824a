"""
Encodes the images and the texts of a data set batch by batch, without gradients.

Letters: B images, T texts, P patches, D projection width.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.utils.data import DataLoader, Dataset
from transformers.utils import logging

from ..data.columns import CAPTION_COLUMNS
from ..data.images import load_image
from ..data.regions import DEFAULT_BOX_FORMAT
from ..data.rows import Row, check_row
from ..model.boxes_beta_clip import seen_box
from ..model.image_views_beta_clip import squashed, view_of_image
from ..model.regions_beta_clip import roi_align
from .identity import image_digest
from .models import text_inputs
from .shards import Kept, Shards, split


logger = logging.get_logger(__name__)

TEXTS_PER_SHARD = 4096  # what a stop can cost


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
    digests: list[bytes]
    """SHA-256 of each image file, or of the pixels of an image that comes from no file."""


class Embedder:
    """
    Encodes texts and images with a model and its processor, without gradients, in batches.

    Args:
        model: A `BetaCLIPModel`, or any model with the features of `CLIPModel`, see [`load_model`]; its device and
            dtype are used. Where the processor gives images of another size than the model's own, its positions are
            interpolated, and a warning says so.
        processor: The owner of tokenising, resizing and cropping.
        batch_size: Images, and texts, at a time.
        num_workers: Processes that read images; 0 reads them in this one.
        squash: Whether images are resized to the model's size as they are, instead of what the processor does. One that
            has no size (NaFlex) keeps their shape, and crops nothing, anyway.
        shards: Shares the work between processes and keeps it; see [`Shards`].
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        batch_size: int = 32,
        num_workers: int = 0,
        squash: bool = False,
        shards: Shards | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, but is {batch_size}")
        self.model, self.processor, self.shards = model, processor, shards or Shards()
        self.image_processor = processor.image_processor
        if squash and self.image_processor.size:
            self.image_processor = squashed(self.image_processor)
        self.batch_size, self.num_workers = batch_size, num_workers
        self.has_pooler = getattr(model, "pooler", None) is not None
        self.has_patch_features = hasattr(model, "encode_images")
        self.has_long_path = getattr(model.config, "use_long_text_path", False)

    def texts(self, texts: Sequence[str], *, whole_captions: bool = False) -> Tensor:
        """
        (T, D) float32, normalised, in the order given, on the model's device. Equal texts are encoded once: their
        scores are tied, whatever batch they would have been in. Texts of similar length share a batch: less padding.
        With several processes each encodes a part and all get all: each must ask for the same texts.

        A model with two text paths encodes `whole_captions` on the long one and anything else on the short one.
        """
        path = "long" if whole_captions and self.has_long_path else None
        places = {text: place for place, text in enumerate(sorted(set(texts), key=lambda text: (len(text), text)))}
        if not places:
            return torch.zeros(0, _width(self.model.config), device=self.model.device)
        shards = split(list(places), TEXTS_PER_SHARD)

        def encode(numbers: Sequence[int]) -> Iterator[Kept]:
            with logging.tqdm(total=sum(len(shards[n]) for n in numbers), desc="texts", unit=" texts") as progress:
                for number in numbers:
                    embeds = []
                    for batch in split(shards[number], self.batch_size):
                        embeds.append(self._one_batch(batch, path))
                        progress.update(len(batch))
                    yield {"embeds": torch.cat(embeds).cpu()}

        digest = hashlib.sha256("\0".join([path or "", *places]).encode()).hexdigest()
        kept = self.shards.run(f"texts-{digest[:16]}", len(shards), encode, everywhere=True)
        return kept["embeds"][[places[text] for text in texts]].to(self.model.device)

    def _one_batch(self, texts: list[str], path: str | None) -> Tensor:
        inputs = text_inputs(self.model, self.processor, texts, path).to(self.model.device)
        options = {} if path is None else {"path": path}
        with _inference(self.model):
            return normalize(self.model.get_text_features(**inputs, **options).pooler_output.float(), dim=-1)

    def images(self, rows: Sequence[Row], batches: Sequence[Sequence[int]] | None = None) -> Iterator[ImageBatch]:
        """The images of the rows, encoded batch by batch, under a progress bar: all of them in order, or `batches`."""
        batches = split(range(len(rows)), self.batch_size) if batches is None else batches
        loader: Iterable[Any] = DataLoader(
            _Numbered(rows),
            batch_sampler=batches,  # type: ignore[arg-type]  # any sequence of batches will do
            num_workers=self.num_workers,
            collate_fn=_ReadImages(self.image_processor),
        )
        with logging.tqdm(total=sum(map(len, batches)), desc="images", unit=" images") as progress:
            for numbers, texts, sizes, digests, inputs in loader:
                embeds_BD, patches_BPD, grid = self._encode_images(inputs)
                yield ImageBatch(
                    rows=texts,
                    image_index_B=torch.tensor(numbers),
                    sizes=sizes,
                    image_embeds_BD=embeds_BD,
                    patch_features_BPD=patches_BPD,
                    grid=grid,
                    digests=digests,
                )
                progress.update(len(texts))

    def _encode_images(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """Embeddings, patch features, and rows and columns of patches of a processed batch."""
        inputs = {name: tensor.to(self.model.device) for name, tensor in inputs.items()}
        inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
        height, width = inputs["pixel_values"].shape[-2:]
        options = self._size_options(height, width)
        with _inference(self.model):
            if self.has_patch_features:
                features, patches = self.model.encode_images(inputs["pixel_values"], **options)
            else:  # not one of ours
                features = self.model.get_image_features(**inputs, **options).pooler_output
                patches, height, width = features[:, None][:, :0], 0, 0
        patch_size = self.model.config.vision_config.patch_size
        return normalize(features.float(), dim=-1), patches, (height // patch_size, width // patch_size)

    def _size_options(self, height: int, width: int) -> dict[str, bool]:
        """How the model is asked for the features of images of that size."""
        size = getattr(self.model.config.vision_config, "image_size", None)  # NaFlex has none
        if size is None or (height, width) == (size, size):
            return {}
        logger.warning_once(
            f"The processor gives {width} x {height} pixels where the model has {size} x {size}: its positions are "
            "interpolated"
        )
        return {"interpolate_pos_encoding": True}

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

    def candidate_scores(
        self, batch: ImageBatch, text_embeds_TD: Tensor, image_in_batch_N: Tensor, text_index_N: Tensor
    ) -> Tensor:
        """(N,) text-conditioned scores of chosen pairs; a pair that comes twice is scored once."""
        pair_N, place_N = (image_in_batch_N * len(text_embeds_TD) + text_index_N).unique(return_inverse=True)
        device, num_texts = text_embeds_TD.device, len(text_embeds_TD)
        pairs = (pair_N.div(num_texts, rounding_mode="floor").to(device), (pair_N % num_texts).to(device))
        with _inference(self.model):
            scores = self.model.score_candidates(batch.patch_features_BPD, text_embeds_TD, *pairs).float()
        return scores[place_N.to(device)]

    def region_embeds(self, batch: ImageBatch, boxes: Sequence[Sequence[Any]]) -> Tensor:
        """
        (R, D) float32, normalised, image by image: the features of regions.

        Args:
            batch: B images.
            boxes: Of each image its boxes, none or more, in the `box_format` of its row. What is not seen of a box is
                cut off. One of which nothing is seen gives zeros, which are like no text.
        """
        seen = []
        for row, size, of_image in zip(batch.rows, batch.sizes, boxes, strict=True):
            view, box_format = view_of_image(size, self.image_processor), row.get("box_format") or DEFAULT_BOX_FORMAT
            seen += [seen_box(box, box_format, size, view) for box in of_image]
        counts_B = torch.tensor(list(map(len, boxes)), dtype=torch.int64)
        return self.view_embeds(batch, seen, torch.arange(len(boxes)).repeat_interleave(counts_B))

    def view_embeds(self, batch: ImageBatch, boxes: Sequence[Sequence[float]], image_in_batch_R: Tensor) -> Tensor:
        """(R, D) float32, normalised: RoIAlign of the batch's patch features, boxes in shares of the view."""
        patches_BPD, (rows, columns) = batch.patch_features_BPD, batch.grid
        boxes_R4 = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4) * torch.tensor([columns, rows] * 2)
        device = patches_BPD.device
        features_RD = roi_align(patches_BPD, boxes_R4.to(device), image_in_batch_R.to(device), batch.grid)
        return normalize(features_RD.float(), dim=-1)

    def attention(self, batch: ImageBatch, text_embeds_TD: Tensor, image_in_batch_T: Tensor) -> Tensor:
        """(T, H, P) float32: where each head of the pooler looks for each text."""
        with _inference(self.model):
            _, attention_THP = self.model.get_text_conditioned_image_features(
                patch_features=batch.patch_features_BPD,
                text_embeds=text_embeds_TD,
                image_index=image_in_batch_T,
                output_attentions=True,
            )
        return attention_THP.float()


def read_texts(rows: Sequence[Row]) -> list[Row]:
    """
    Reads all rows and keeps them without their images, which need not stay in memory.

    Rows with a caption are checked here, unless a reader has checked them. Rows of a benchmark may have no caption.

    Raises:
        ValueError: if a row with a caption is not valid.
    """
    texts = []
    for index in range(len(rows)):
        row = rows[index]
        if any(name in row for name in CAPTION_COLUMNS):
            row = check_row(row)
        texts.append(without_image(row))
    return texts


class _Numbered(Dataset):
    """Rows with their places: a batch knows which images it holds."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows

    def __getitem__(self, place: int) -> tuple[int, Row]:
        return place, self.rows[place]


class _ReadImages:
    """Collates rows: decodes the images and runs the image processor, in a worker where there are workers."""

    def __init__(self, image_processor: Any) -> None:
        self.image_processor = image_processor

    def __call__(self, numbered: list[tuple[int, Row]]) -> tuple[Any, ...]:
        numbers, rows = zip(*numbered, strict=True)
        images = [load_image(row["image"]) for row in rows]
        digests = [image_digest(row["image"]) for row in rows]
        inputs = dict(self.image_processor(images, return_tensors="pt"))
        return list(numbers), [without_image(row) for row in rows], [one.size for one in images], digests, inputs


def _width(config: Any) -> int:
    """D of a model: CLIP's is named, SigLIP's is that of its text tower."""
    return getattr(config, "projection_dim", None) or config.text_config.projection_size


def without_image(row: Row) -> Row:
    """Copies a row without its image."""
    return {name: value for name, value in row.items() if name != "image"}


@contextmanager
def _inference(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
