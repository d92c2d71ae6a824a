# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""A flat batch as objects with names: its texts, its regions, and the whole."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .batch_plan_beta_clip import BatchPlan
from .configuration_beta_clip import Granularity


# Here and wherever a graph passes, sizes are read as `shape[0]`: `len` would make a fixed number of a size that varies.


@dataclass
class TextNegatives:
    r"""
    Holds negatives of the texts of a flat batch: variants that are false of the text's image.

    Args:
        input_ids (`Tensor` of shape `(n, L)`, int64): Their token ids.
        text_index (`Tensor` of shape `(n,)`, int64): The text of each negative among the T texts, non-decreasing.

    Raises:
        ValueError: If one of both is missing, or their lengths disagree.
    """

    input_ids: Tensor
    text_index: Tensor

    def __post_init__(self) -> None:
        if self.input_ids is None or self.text_index is None:
            raise ValueError("negative_input_ids and negative_text_index must be given together, but one is missing")
        _check_rows(self.text_index, self.input_ids.shape[0], "negative_text_index")


@dataclass
class BatchTexts:
    r"""
    Holds the token ids of all texts that a model encodes for a batch.

    Args:
        input_ids (`Tensor` of shape `(T, L)`, int64): The texts of the images.
        region_input_ids (`Tensor` of shape `(R, L)`, int64, *optional*): The texts of the regions.
        hard_input_ids (`Tensor` of shape `(N, L)`, int64, *optional*): True texts of regions and their negatives.
        negatives (*optional*): Negatives of the texts of the images.
    """

    input_ids: Tensor
    region_input_ids: Tensor | None = None
    hard_input_ids: Tensor | None = None
    negatives: TextNegatives | None = None

    @property
    def counts(self) -> list[int]:
        """How many texts there are of images, of regions, hard ones, and negatives of the texts of images."""
        return [0 if ids is None else ids.shape[0] for ids in self.all_ids()]

    def joined(self) -> Tensor:
        """Returns all texts, one below the other: those of images, those of regions, the hard ones, the negatives."""
        # One pass of the tower for all kinds: short texts of regions fill the rows that long captions leave open.
        present = [ids for ids in self.all_ids() if ids is not None]
        if len(present) == 1:
            return self.input_ids
        width = max(ids.shape[1] for ids in present)
        # The added columns lie behind EOS. Their id 0 is never taken for EOS where that is the largest id of a text.
        return torch.cat([F.pad(ids, (0, width - ids.shape[1])) for ids in present])

    def split(self, embeds: Tensor) -> Sequence[Tensor]:
        """Splits embeddings of the joined texts into those of each kind, in the order of [`all_ids`]."""
        if all(ids is None for ids in self.all_ids()[1:]):
            # Not a split, whose gradient would be a copy of all.
            empty = embeds[:0]
            return embeds, empty, empty, empty
        return embeds.split(self.counts)

    def is_long(self, granularity_T: Tensor) -> Tensor:
        """
        Returns which of the joined texts take the long path of a model with two: the captions of the images, and their
        negatives.
        """
        # The plain number: `torch.compile` takes a comparison with an enumeration for one of identities.
        # Texts of regions and hard texts take the short path, as in FG-CLIP.
        return self.of_joined(granularity_T == Granularity.CAPTION.value, 0)

    def of_joined(self, values_T: Tensor, value_of_regions: int) -> Tensor:
        """
        Returns a value for each of the joined texts.

        Args:
            values_T (`Tensor` of shape `(T,)`): Those of the texts of the images.
            value_of_regions: That of texts of regions and of hard texts. A negative has the value of its text.
        """
        num_texts, num_region_texts, num_hard_texts, _ = self.counts
        assert values_T.shape[0] == num_texts
        parts = [values_T, values_T.new_full((num_region_texts + num_hard_texts,), value_of_regions)]
        if self.negatives is not None:
            # A text and its negatives must differ in their words alone.
            parts.append(values_T[self.negatives.text_index])
        return torch.cat(parts)

    def all_ids(self) -> tuple[Tensor | None, ...]:
        """Returns the ids of each kind. Embeddings of the joined texts are split in this order."""
        negative_ids = None if self.negatives is None else self.negatives.input_ids
        return self.input_ids, self.region_input_ids, self.hard_input_ids, negative_ids


@dataclass
class RegionBatch:
    r"""
    Holds the regions of a flat batch.

    Args:
        boxes (`Tensor` of shape `(R, 4)`): Boxes, any number per image.
        image_index (`Tensor` of shape `(R,)`, int64): The image of each box.
        input_ids (`Tensor` of shape `(R, L)`, int64, *optional*): The text of each box.
        hard_input_ids (`Tensor` of shape `(N, L)`, int64, *optional*):
            For each flagged box its true text, then its negatives.
        hard_region_index (`Tensor` of shape `(N,)`, int64, *optional*): The box of each hard text, non-decreasing.

    Raises:
        ValueError: If a shape disagrees or something is missing.
    """

    boxes: Tensor
    image_index: Tensor
    input_ids: Tensor | None = None
    hard_input_ids: Tensor | None = None
    hard_region_index: Tensor | None = None

    def __post_init__(self) -> None:
        # Shapes only, which the CPU knows. To look at an index would make every step wait for the GPU.
        num_regions = self.boxes.shape[0]
        _check_rows(self.image_index, num_regions, "region_image_index")
        # One column stands for the texts, whose width is free.
        if self.input_ids is not None:
            _check_rows(self.input_ids[:, 0], num_regions, "region_input_ids")
        if (self.hard_input_ids is None) != (self.hard_region_index is None):
            raise ValueError("hard_input_ids and hard_region_index must be given together, but one is missing")
        if self.hard_input_ids is not None:
            _check_rows(self.hard_region_index, self.hard_input_ids.shape[0], "hard_region_index")


@dataclass
class FlatBatch:
    r"""
    Holds a flat batch as `BetaCLIPModel.forward` gets it.

    Args:
        pixel_values (`Tensor` of shape `(B, …)`): Normalised pixels, as the vision tower takes them.
        texts: The token ids of the texts. Without a loss only those of the images are encoded.
        image_index (`Tensor` of shape `(T,)`, int64): The image of each text.
        granularity (`Tensor` of shape `(T,)`, int64, *optional*): The kind of each text; a loss needs it.
        regions (*optional*): The boxes.
        plan (*optional*): Where the rows belong, if the collator has worked it out; trusted.
        has_loss: Whether a loss will be computed.
        image_options: The other arguments of the vision tower.

    Raises:
        ValueError: If a shape disagrees, or a loss has no `granularity`.
    """

    pixel_values: Tensor
    texts: BatchTexts
    image_index: Tensor
    granularity: Tensor | None = None
    regions: RegionBatch | None = None
    plan: BatchPlan | None = None
    has_loss: bool = False
    image_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Shapes only, as for regions. Whether each image has its caption is checked where the batch is planned.
        num_texts = self.texts.input_ids.shape[0]
        if self.image_index.shape != (num_texts,):
            raise ValueError(f"image_index must have shape ({num_texts},), but is {tuple(self.image_index.shape)}")
        if self.has_loss and (self.granularity is None or self.granularity.shape != (num_texts,)):
            shown = None if self.granularity is None else tuple(self.granularity.shape)
            raise ValueError(f"granularity must have shape ({num_texts},) for a loss, but is {shown}")


def _check_rows(tensor: Tensor | None, rows: int, name: str) -> None:
    """Raises `ValueError` unless the tensor has one number for each of the rows."""
    if tensor is None or tensor.shape != (rows,):
        shown = "missing" if tensor is None else f"of shape {tuple(tensor.shape)}"
        raise ValueError(f"{name} must be one row for each of {rows}, but is {shown}")


def scaled_pixels(levels: Any, scale_23: Tensor | None) -> Any:
    """
    Scales pixels on the device that they are on, to the numbers of the image processor (float32: to 1e-6).

    Args:
        levels: `(B, 3, height, width)` uint8.
        scale_23: `(2, 3)`, from `pixel_scale`: for each channel the factor and the number that is added. Without it,
            pixels have their scale already, and stay as they are.
    """
    if levels is None or scale_23 is None:
        return levels
    factor, shift = scale_23.to(levels.device, torch.float32)[:, :, None, None]
    return torch.addcmul(shift, levels.to(torch.float32), factor)


__all__ = ["BatchTexts", "FlatBatch", "RegionBatch", "TextNegatives", "scaled_pixels"]
