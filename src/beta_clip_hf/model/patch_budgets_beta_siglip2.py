# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""The budgets of patches that FG-CLIP 2 chooses from, and the image processor with the budget of each image."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .image_views_beta_clip import width_and_height, within_memory


# The budgets of patches that FG-CLIP 2 chooses from. An image takes the smallest that its raw pixels would fill; images
# of more patches take the largest.
PATCH_BUDGETS = (128, 256, 576, 784, 1024)


def process_by_budget(images: Sequence[Any], image_processor: Any) -> dict[str, Tensor]:
    """
    Processes images each by its own budget of patches, so that an image does not depend on its batch.

    Args:
        images: B images.
        image_processor: SigLIP 2's.

    Returns:
        `pixel_values`, `pixel_attention_mask` and `spatial_shapes`, padded to the largest budget.
    """
    parts = []
    for image in images:
        # The budget is that of the whole image.
        options = {"max_num_patches": budget_of_image(image, image_processor.patch_size)}
        small = within_memory([image], image_processor, options)
        parts.append(image_processor(small, return_tensors="pt", **options))
    batch = {"spatial_shapes": torch.cat([part["spatial_shapes"] for part in parts])}
    for name in ("pixel_values", "pixel_attention_mask"):
        batch[name] = torch.nn.utils.rnn.pad_sequence([part[name][0] for part in parts], batch_first=True)
    return batch


def patch_budget(height: int, width: int, patch_size: int = 16) -> int:
    """
    Returns the budget of patches of an image: the smallest that holds its whole patches, at most the largest.

    Args:
        height, width: The sides of the raw image in pixels.
        patch_size: The side of a patch.

    Source: the release of FG-CLIP 2 (`dynamic_max_patches`).

    >>> patch_budget(100, 100), patch_budget(500, 333), patch_budget(1365, 2048)
    (128, 784, 1024)
    """
    num_patches = (height // patch_size) * (width // patch_size)
    for budget in PATCH_BUDGETS:
        if num_patches <= budget:
            return budget
    return PATCH_BUDGETS[-1]


def budget_of_image(image: Any, patch_size: int) -> int:
    """Returns the budget of patches of an image in any form that an image processor takes."""
    width, height = width_and_height(image)
    return patch_budget(height, width, patch_size)


__all__ = ["PATCH_BUDGETS", "budget_of_image", "patch_budget", "process_by_budget"]
