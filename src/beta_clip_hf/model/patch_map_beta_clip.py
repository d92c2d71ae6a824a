# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""The patch features of images whose grids differ."""

from typing import Any, NamedTuple, overload

import torch
from torch import Tensor


class PatchMap(NamedTuple):
    r"""
    Holds the patch features of B images, each with a grid of its own.

    Args:
        features (`Tensor` of shape `(B, P, D)`):
            Un-normalised. The patches of an image come first, row-major over its grid; what follows is padding, whose
            values have no meaning.
        grid_sizes (`Tensor` of shape `(B, 2)`, int64): Rows and columns of each image, where `spatial_shapes` was.
        mask (`Tensor` of shape `(B, P)`, bool): Which places hold a patch.
    """

    features: Tensor
    grid_sizes: Tensor
    mask: Tensor


# The patch features of images: those of one grid are a tensor `(B, P, D)`, those of several a map.
Patches = Tensor | PatchMap


def features_of(patches: Patches) -> Tensor:
    """Returns the patch features `(B, P, D)`."""
    return patches.features if isinstance(patches, PatchMap) else patches


@overload
def select_images(patches: PatchMap, index: Any) -> PatchMap: ...
@overload
def select_images(patches: Tensor, index: Any) -> Tensor: ...
def select_images(patches: Patches, index: Any) -> Patches:
    """Returns the patches of some images, which an index or a slice names."""
    if not isinstance(patches, PatchMap):
        return patches[index]
    # The grids may be on the CPU.
    grid_index = index.to(patches.grid_sizes.device) if isinstance(index, Tensor) else index
    return PatchMap(patches.features[index], patches.grid_sizes[grid_index], patches.mask[index])


def padding_bias(patches: Patches, dtype: torch.dtype, extra: int = 0) -> Tensor | None:
    """
    Returns what attention adds to the logits of patches: 0, and for padding the lowest number; `None` without a mask.

    Args:
        patches: The patches of B images.
        dtype: That of the logits.
        extra: Keys behind the patches that every query may look at.

    Returns:
        `(B, 1, 1, P + extra)`.
    """
    if not isinstance(patches, PatchMap):
        return None
    bias_BP = torch.zeros_like(patches.mask, dtype=dtype).masked_fill(~patches.mask, torch.finfo(dtype).min)
    if extra:
        bias_BP = torch.nn.functional.pad(bias_BP, (0, extra))
    return bias_BP[:, None, None]


__all__ = ["PatchMap", "Patches", "features_of", "padding_bias", "select_images"]
