"""Patch features of images that each have a grid of their own: a batch of them, and the parts with one grid."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from ..model.patch_map_beta_clip import Patches, PatchMap


Grid = tuple[int, int]
"""Rows and columns of patches."""


class HasPatches(Protocol):
    """A batch of images with their patch features: an `ImageBatch`, or features that were kept."""

    @property
    def patches(self) -> PatchMap:
        """Of B images, normalised or not."""


def map_of_one_grid(features_BPD: Tensor, grid: Grid) -> PatchMap:
    """
    Returns patch features as a map of images that all have the same grid.

    Args:
        features_BPD: (B, P, D).
        grid: Rows and columns, P in all.
    """
    num_images, num_patches = features_BPD.shape[:2]
    mask = torch.ones(num_images, num_patches, dtype=torch.bool, device=features_BPD.device)
    return PatchMap(features_BPD, torch.tensor([grid]).expand(num_images, 2), mask)


def padded_map(features: Sequence[Tensor], grids: Sequence[Grid]) -> PatchMap:
    """
    Joins the patch features of images in a map, with zeros behind those of an image with fewer patches.

    Args:
        features: For each image (P, D), row-major over its grid.
        grids: Rows and columns of each image.
    """
    features_BPD = torch.nn.utils.rnn.pad_sequence(list(features), batch_first=True)
    grid_B2 = torch.tensor(list(grids))
    place_P = torch.arange(features_BPD.shape[1])
    mask_BP = place_P < grid_B2.prod(dim=1)[:, None]
    return PatchMap(features_BPD, grid_B2, mask_BP.to(features_BPD.device))


def grids_of(patches: PatchMap) -> list[Grid]:
    """Returns rows and columns of each image."""
    return [(rows, columns) for rows, columns in patches.grid_sizes.tolist()]


def without_padding(patches: PatchMap, image: int) -> Tensor:
    """Returns the patch features of one image, (P, D)."""
    rows, columns = grids_of(patches)[image]
    return patches.features[image, : rows * columns]


def images_by_grid(patches: PatchMap) -> dict[Grid, list[int]]:
    """Returns the places of the images of each grid, in the order in which the grids come."""
    places: dict[Grid, list[int]] = {}
    for image, grid in enumerate(grids_of(patches)):
        places.setdefault(grid, []).append(image)
    return places


def features_on_grid(patches: PatchMap, grid: Grid, images: Sequence[int]) -> Tensor:
    """Returns the patch features of images that have this grid, without padding: (images, P, D)."""
    num_patches = grid[0] * grid[1]
    if len(images) == len(patches.features):
        # All images: nothing has to be copied.
        return patches.features[:, :num_patches]
    return patches.features[list(images), :num_patches]


def for_model(patches: PatchMap) -> Patches:
    """
    Returns patch features as a model takes them best: without a mask where no image has padding.

    A mask would send the attention of the pooler to slower kernels.
    """
    has_padding = any(rows * columns < patches.features.shape[1] for rows, columns in grids_of(patches))
    return patches if has_padding else patches.features


def on_grid(values_P: Tensor, grid: Grid) -> Tensor:
    """Returns values of patches, (…, P), as maps over the grid of their image, (…, Y, X), without padding."""
    return values_P[..., : grid[0] * grid[1]].unflatten(-1, grid)
