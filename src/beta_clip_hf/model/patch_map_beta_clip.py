# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""The patch features of images whose grids differ."""

from typing import NamedTuple

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


__all__ = ["PatchMap"]
