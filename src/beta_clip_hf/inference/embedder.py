"""Encodes the images and the texts of a data set batch by batch, without gradients."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize as unit_length
from torch.utils.data import DataLoader
from transformers.utils import logging

from ..data.regions import DEFAULT_BOX_FORMAT
from ..data.rows import Row
from ..model.batch_beta_clip import scaled_pixels
from ..model.boxes_beta_clip import seen_box
from ..model.image_views_beta_clip import UNSCALED, pixel_scale, squashed, view_of_image
from ..model.patch_map_beta_clip import PatchMap
from ..model.regions_beta_clip import grid_boxes, roi_align_of_map
from .grids import HasPatches, for_model, map_of_one_grid
from .models import embedding_width, evaluation_mode
from .reading import ImageReader, ProcessedImages
from .shards import Kept, Shards, split
from .text_kinds import SHORT_CAPTION, kind_of_descriptions, path_of_kind
from .texts import packed_features, padded_features


logger = logging.get_logger(__name__)

TEXTS_PER_SHARD = 4096
"""Texts that are encoded before their embeddings are written: what a run that is stopped can lose."""


@dataclass(frozen=True)
class ImageBatch:
    """B encoded images and the rows they belong to. The tensors are on the model's device."""

    rows: list[Row]
    """The rows of the images, without the images."""
    image_index_B: Tensor
    """(B,) int64, on the CPU: the place of each image in the data set."""
    sizes: list[tuple[int, int]]
    """Width and height of each image in pixels, before any processing."""
    image_embeds_BD: Tensor
    """(B, D) float32, normalised."""
    patches: PatchMap
    """Patch features (B, P, D), not normalised, in the model's dtype, and the grid of each image, which is on the CPU;
    P = 0 for a model without patch features."""
    digests: list[bytes]
    """SHA-256 of each image file, or of the pixels of an image that comes from no file."""


class Embedder:
    """
    Encodes texts and images with a model and its processor, without gradients, in batches.

    Args:
        model: A `BetaCLIPModel`, or any model with the features of `CLIPModel`, see [`load_model`]. It runs on its own
            device and in its own dtype. If the processor makes images of another size than the model's, positions are
            interpolated, and a warning says so.
        processor: Tokenizes texts; resizes and crops images.
        batch_size: Number of images in a batch. Texts are packed into rows without padding: a batch has at most the
            tokens of so many texts of full length. Models that cannot pack, such as SigLIP, encode so many at a time.
        num_workers: Number of processes that read images; 0 reads them in this process.
        squash: Whether to resize images to the model's size without regard to their shape, instead of what the
            processor does. An image processor without a size (NaFlex) keeps shapes and crops nothing in any case.
        normalize: Whether embeddings of whole images and of texts get length 1. Scores are of such embeddings.
        shards: Shares the work between processes and keeps the results on the disk, see [`Shards`].
        weights_hash: The `model_hash` of the model, if it is known. Whoever changes the weights sets it to `None`.

    Raises:
        ValueError: if `batch_size` is below 1.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        batch_size: int = 32,
        num_workers: int = 0,
        squash: bool = False,
        normalize: bool = True,
        shards: Shards | None = None,
        weights_hash: str | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, but is {batch_size}")
        self.normalize = normalize
        self.model = model
        self.weights_hash = weights_hash
        self.processor = processor
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.shards = shards or Shards()
        self.image_processor = processor.image_processor
        if squash and self.image_processor.size:
            self.image_processor = squashed(self.image_processor)
        # Images travel to a GPU as bytes. On a CPU they are what the image processor makes of them, to the last bit.
        self.pixel_scale = pixel_scale(self.image_processor) if model.device.type == "cuda" else None
        self.has_pooler = getattr(model, "pooler", None) is not None
        self.has_patch_features = hasattr(model, "encode_images")
        self.by_budget = getattr(processor, "dynamic_max_patches", False)

    def text_path(self, kind: str) -> str | None:
        """Returns the text path of a kind of texts, see [`path_of_kind`]."""
        return path_of_kind(self.model.config, kind)

    def description_kind(self, texts: Sequence[str]) -> str:
        """Returns the kind of texts that someone wrote freely, see [`kind_of_descriptions`]."""
        return kind_of_descriptions(self.model, self.processor, texts)

    def texts(self, texts: Sequence[str], kind: str = SHORT_CAPTION) -> Tensor:
        """
        Encodes texts of one kind, see [`texts_on_path`].

        Args:
            texts: T texts.
            kind: One of [`TEXT_KINDS`], which decides the path in a model with several.
        """
        return self.texts_on_path(texts, self.text_path(kind))

    def descriptions(self, texts: Sequence[str]) -> Tensor:
        """Encodes texts that someone wrote freely, each by itself on the path of its kind, see [`description_kind`]."""
        return self.texts_on_paths(texts, [self.text_path(self.description_kind([text])) for text in texts])

    def texts_on_paths(self, texts: Sequence[str], paths: Sequence[str | None]) -> Tensor:
        """
        Encodes texts that each have a path of their own, see [`texts_on_path`].

        Args:
            texts: T texts.
            paths: The path of each text.
        """
        parts = [self.texts_on_path([], None)]
        order: list[int] = []
        # In the same order in all processes.
        for path in sorted(set(paths), key=str):
            places = [place for place, path_of_text in enumerate(paths) if path_of_text == path]
            parts.append(self.texts_on_path([texts[place] for place in places], path))
            order += places
        # Back in the order of the texts.
        return torch.cat(parts)[torch.tensor(order, dtype=torch.int64).argsort().to(self.model.device)]

    def texts_on_path(self, texts: Sequence[str], path: str | None) -> Tensor:
        """
        Encodes texts that all take the same path.

        Equal texts are encoded once, so that their scores are tied exactly. With several processes each one encodes a
        part and all get all; every process must ask for the same texts.

        Args:
            texts: T texts.
            path: A text path that the model has; `None` for its only one, or its first.

        Returns:
            (T, D) float32, normalised, in the order of the texts, on the model's device.
        """
        # Texts of similar length share a shard, which saves padding. Equal lengths are sorted by the text itself, so
        # that a shard does not depend on the order of the input.
        distinct = sorted(set(texts), key=lambda text: (len(text), text))
        if not distinct:
            return torch.zeros(0, embedding_width(self.model.config), device=self.model.device)
        shards = split(distinct, TEXTS_PER_SHARD)
        encode = packed_features if hasattr(self.model, "text_lengths") else padded_features

        def encode_shards(numbers: Sequence[int]) -> Iterator[Kept]:
            """Yields the embeddings of each shard."""
            total = sum(len(shards[number]) for number in numbers)
            # The text of a search needs no bar.
            is_single = total == 1
            with logging.tqdm(total=total, desc="texts", unit=" texts", disable=is_single) as progress:
                for number in numbers:
                    features_TD = encode(
                        self.model,
                        self.processor,
                        shards[number],
                        path,
                        batch_size=self.batch_size,
                        on_encoded=progress.update,
                    )
                    yield {"embeds": self._scaled(features_TD).cpu()}

        # Embeddings that are on the disk under the name of this work are taken as they are: it must identify the texts.
        digest = hashlib.sha256("\0".join([path or "", *distinct]).encode()).hexdigest()
        kept = self.shards.run(f"texts-{digest[:16]}", len(shards), encode_shards, everywhere=True)
        place_of_text = {text: place for place, text in enumerate(distinct)}
        places = [place_of_text[text] for text in texts]
        return kept["embeds"][places].to(self.model.device)

    def _scaled(self, features_MD: Tensor) -> Tensor:
        """Returns features in float32, of length 1 if this embedder normalises."""
        embeds_MD = features_MD.float()
        return unit_length(embeds_MD, dim=-1) if self.normalize else embeds_MD

    def images(self, rows: Sequence[Row], batches: Sequence[Sequence[int]] | None = None) -> Iterator[ImageBatch]:
        """
        Encodes the images of rows batch by batch, under a progress bar.

        Args:
            rows: Rows with an `image`.
            batches: The places of the images of each batch; by default all images in order.
        """
        if batches is None:
            batches = split(range(len(rows)), self.batch_size)
        for processed in self.read_images(rows, batches):
            yield self.encode_images(processed)

    def read_images(
        self, rows: Sequence[Row], batches: Sequence[Sequence[int]], *, keeps_going: bool = False
    ) -> Iterator[ProcessedImages]:
        """Reads what [`images`] encodes. With `keeps_going`, an image that cannot be used is told in `lost`."""
        loader: Iterable[ProcessedImages] = DataLoader(
            range(len(rows)),  # type: ignore[arg-type]  # anything with a length and an index will do
            batch_sampler=batches,  # type: ignore[arg-type]  # any sequence of batches will do
            num_workers=self.num_workers,
            collate_fn=self.reader(rows, keeps_going=keeps_going),
            pin_memory=self.model.device.type == "cuda",
        )
        with logging.tqdm(total=sum(map(len, batches)), desc="images", unit=" images") as progress:
            for processed in loader:
                yield processed
                progress.update(len(processed.rows))

    def image(self, image: Any) -> ImageBatch:
        """Encodes one image, a batch of one: a PIL image, path or bytes."""
        return self.encode_images(self.reader([{"image": image}])([0]))

    def reader(self, rows: Sequence[Row], *, keeps_going: bool = False) -> ImageReader:
        """Returns what reads the images of rows as this embedder takes them."""
        options = {} if self.pixel_scale is None else UNSCALED
        return ImageReader(rows, self.image_processor, options, by_budget=self.by_budget, keeps_going=keeps_going)

    def encode_images(self, processed: ProcessedImages) -> ImageBatch:
        """Encodes one batch of images that have been read and processed."""
        inputs = self._model_inputs(processed)
        with evaluation_mode(self.model):
            features_BD, patches = self._features(inputs)
        return ImageBatch(
            rows=processed.rows,
            image_index_B=torch.tensor(processed.indices),
            sizes=processed.sizes,
            image_embeds_BD=self._scaled(features_BD),
            patches=patches,
            digests=processed.digests,
        )

    def _model_inputs(self, processed: ProcessedImages) -> dict[str, Tensor]:
        """Returns what the image processor has made, on the model's device and in its dtype."""
        inputs = {}
        for name, tensor in processed.inputs.items():
            # The tower reads the shapes of images on the CPU.
            device = "cpu" if name == "spatial_shapes" else self.model.device
            inputs[name] = tensor.to(device, non_blocking=True)
        if self.pixel_scale is not None and inputs["pixel_values"].dtype == torch.uint8:
            inputs["pixel_values"] = scaled_pixels(inputs["pixel_values"], self.pixel_scale)
        inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
        return inputs

    def _features(self, inputs: dict[str, Tensor]) -> tuple[Tensor, PatchMap]:
        """Returns the features of whole images, (B, D), and of their patches."""
        options = self._size_options(inputs["pixel_values"])
        if not self.has_patch_features:
            features_BD = self.model.get_image_features(**inputs, **options).pooler_output
            no_patches_B0D = features_BD[:, None][:, :0]
            return features_BD, map_of_one_grid(no_patches_B0D, (0, 0))
        features_BD, patches = self.model.encode_images(**inputs, **options)
        if isinstance(patches, PatchMap):
            return features_BD, patches
        height, width = inputs["pixel_values"].shape[-2:]
        patch_size = self.model.config.vision_config.patch_size
        return features_BD, map_of_one_grid(patches, (height // patch_size, width // patch_size))

    def _size_options(self, pixel_values: Tensor) -> dict[str, bool]:
        """Returns the arguments by which a model takes images of their size."""
        size = getattr(self.model.config.vision_config, "image_size", None)
        # NaFlex has no size: its processor gives patches with their positions.
        if size is None:
            return {}
        height, width = pixel_values.shape[-2:]
        if (height, width) == (size, size):
            return {}
        logger.warning_once(
            f"The processor makes images of {width} x {height} pixels for a model of {size} x {size}: positions are "
            "interpolated"
        )
        return {"interpolate_pos_encoding": True}

    def conditioned_scores(self, batch: ImageBatch, text_embeds_TD: Tensor, image_in_batch_T: Tensor) -> Tensor:
        """
        Scores each text with one image of a batch, as the text sees it.

        Args:
            batch: B images.
            text_embeds_TD: (T, D) normalised embeddings of the texts.
            image_in_batch_T: (T,) int64: the place in the batch of the image of each text.

        Returns:
            (T,) float32: text-conditioned scores v_{i|t} · u_t.
        """
        with evaluation_mode(self.model):
            conditioned_TD = self.model.get_text_conditioned_image_features(
                patch_features=for_model(batch.patches), text_embeds=text_embeds_TD, image_index=image_in_batch_T
            )
        return (conditioned_TD.float() * text_embeds_TD).sum(dim=-1)

    def pair_scores(self, batch: HasPatches, text_embeds_TD: Tensor) -> Tensor:
        """Scores every image of a batch with every text: (B, T) float32, text-conditioned."""
        with evaluation_mode(self.model):
            return self.model.score_pairs(for_model(batch.patches), text_embeds_TD).float()

    def candidate_scores(
        self, batch: HasPatches, text_embeds_TD: Tensor, image_in_batch_K: Tensor, text_index_K: Tensor
    ) -> Tensor:
        """
        Scores chosen pairs of images and texts. A pair that is asked for twice is scored once.

        Args:
            batch: B images.
            text_embeds_TD: (T, D) normalised embeddings of the texts.
            image_in_batch_K: (K,) int64: the place in the batch of the image of each pair.
            text_index_K: (K,) int64: the text of each pair.

        Returns:
            (K,) float32: text-conditioned scores, on the device of the texts.
        """
        num_texts = len(text_embeds_TD)
        device = text_embeds_TD.device
        # One number for each pair makes equal pairs equal numbers.
        distinct_pairs, place_K = (image_in_batch_K * num_texts + text_index_K).unique(return_inverse=True)
        image_index = distinct_pairs.div(num_texts, rounding_mode="floor").to(device)
        text_index = (distinct_pairs % num_texts).to(device)
        with evaluation_mode(self.model):
            patches = for_model(batch.patches)
            scores = self.model.score_candidates(patches, text_embeds_TD, image_index, text_index)
        return scores.float()[place_K.to(device)]

    def region_embeds(self, batch: ImageBatch, boxes: Sequence[Sequence[Any]]) -> Tensor:
        """
        Encodes regions of the images of a batch.

        Args:
            batch: B images.
            boxes: For each image any number of boxes, in the `box_format` of its row. A box is cut at the border of
                what the model sees. A box of which nothing is seen gets zeros, which are similar to no text.

        Returns:
            (R, D) float32, normalised, image by image.
        """
        view_boxes = []
        image_in_batch = []
        for place, (row, size, image_boxes) in enumerate(zip(batch.rows, batch.sizes, boxes, strict=True)):
            view = view_of_image(size, self.image_processor)
            box_format = row.get("box_format") or DEFAULT_BOX_FORMAT
            for box in image_boxes:
                view_boxes.append(seen_box(box, box_format, size, view))
                image_in_batch.append(place)
        return self.view_embeds(batch, view_boxes, torch.tensor(image_in_batch, dtype=torch.int64))

    def view_embeds(self, batch: ImageBatch, boxes: Sequence[Sequence[float]], image_in_batch_R: Tensor) -> Tensor:
        """
        Encodes regions of what the model sees, by RoIAlign of the patch features.

        Args:
            batch: B images.
            boxes: R boxes, xyxy in units of the view's sides.
            image_in_batch_R: (R,) int64: the place in the batch of the image of each box.

        Returns:
            (R, D) float32, normalised.
        """
        device = batch.patches.features.device
        image_R = image_in_batch_R.to(device)
        boxes_R4 = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4).to(device)
        grid_R2 = batch.patches.grid_sizes.to(device)[image_R]
        boxes_R4 = grid_boxes(boxes_R4, "xyxy_normalized", grid_R2, grid_R2)
        return unit_length(roi_align_of_map(batch.patches, boxes_R4, image_R).float(), dim=-1)

    def attention(self, batch: HasPatches, text_embeds_TD: Tensor, image_in_batch_T: Tensor) -> Tensor:
        """
        Computes where each head of the pooler looks for each text.

        Args:
            batch: B images.
            text_embeds_TD: (T, D) normalised embeddings of the texts.
            image_in_batch_T: (T,) int64: the place in the batch of the image of each text.

        Returns:
            (T, H, P) float32, which is 0 for padding.
        """
        with evaluation_mode(self.model):
            _, attention_THP = self.model.get_text_conditioned_image_features(
                patch_features=for_model(batch.patches),
                text_embeds=text_embeds_TD,
                image_index=image_in_batch_T.to(text_embeds_TD.device),
                output_attentions=True,
            )
        return attention_THP.float()
