"""
Scores a text by the window of an image's patch features that fits it best.

It needs patch features only, and no pooler: a plain CLIP has it too.
"""

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from ..model.patch_map_beta_clip import PatchMap
from ..model.unit_vectors_beta_clip import normalize
from .grids import Grid, features_on_grid, grids_of, images_by_grid, without_padding


SCORES_AT_A_TIME = 2**22
"""Most scores of windows, or numbers of their features, in memory at a time."""


def window_sides(grid: Grid) -> tuple[int, ...]:
    """
    Returns the sides of the square windows in patches: 1, 2, 4, … and half of the shorter side of the grid.

    >>> window_sides((8, 8)), window_sides((14, 14)), window_sides((1, 5))
    ((1, 2, 4), (1, 2, 4, 7), (1,))
    """
    half = max(1, min(grid) // 2)
    sides = [1]
    while 2 * sides[-1] <= half:
        sides.append(2 * sides[-1])
    if sides[-1] != half:
        sides.append(half)
    return tuple(sides)


def window_features(patch_features_BPD: Tensor, grid: Grid) -> Tensor:
    """
    Computes the normalised mean of the patch features in every window, at every place of every size.

    Args:
        patch_features_BPD: (B, P, D), in the rows of the grid.
        grid: Rows and columns of patches, P in all.

    Returns:
        (B, R, D) in at least float32, for R windows.

    Raises:
        ValueError: if the grid has not as many patches as there are features.
    """
    rows, columns = grid
    if rows * columns != patch_features_BPD.shape[1]:
        raise ValueError(f"grid must have {patch_features_BPD.shape[1]} patches, but is {rows} x {columns}")
    # Half precision has too few digits for a mean of many numbers.
    dtype = torch.promote_types(patch_features_BPD.dtype, torch.float32)
    map_BDYX = patch_features_BPD.to(dtype).transpose(1, 2).unflatten(-1, grid)
    features = []
    for side in window_sides(grid):
        mean_BDR = avg_pool2d(map_BDYX, side, stride=1).flatten(2)
        features.append(normalize(mean_BDR.transpose(1, 2)))
    return torch.cat(features, dim=1)


def best_window_scores(
    patches: PatchMap, text_embeds_TD: Tensor, *, scores_at_a_time: int = SCORES_AT_A_TIME
) -> Tensor:
    """
    Computes for EVERY image and every text the largest cosine of the text with a window of the image.

    Args:
        patches: Dense features of B images, normalised or not. Padding is in no window.
        text_embeds_TD: (T, D), normalised or not.
        scores_at_a_time: Most scores of windows that are in memory at a time; a single text with a single image may
            have more.

    Returns:
        (B, T) in at least float32.
    """
    dtype = torch.promote_types(patches.features.dtype, torch.float32)
    unit_TD = normalize(text_embeds_TD).to(dtype)
    scores_BT = unit_TD.new_empty(len(patches.features), len(unit_TD))
    # Windows are cut of all images of one grid at once.
    for grid, images in images_by_grid(patches).items():
        features_BPD = features_on_grid(patches, grid, images)
        scores_BT[images] = _scores_on_grid(features_BPD, unit_TD, grid, scores_at_a_time)
    return scores_BT


def _scores_on_grid(patch_features_BPD: Tensor, unit_TD: Tensor, grid: Grid, scores_at_a_time: int) -> Tensor:
    """Returns the scores (B, T) of images of one grid with texts of length 1."""
    num_images, num_texts = len(patch_features_BPD), len(unit_TD)
    scores_BT = unit_TD.new_empty(num_images, num_texts)
    num_windows = _num_windows(grid)
    texts_at_a_time = max(1, min(num_texts, scores_at_a_time // num_windows))
    # The features of the windows have to fit too.
    scores_of_image = num_windows * max(texts_at_a_time, unit_TD.shape[1])
    images_at_a_time = max(1, scores_at_a_time // scores_of_image)
    for first_image in range(0, num_images, images_at_a_time):
        images = slice(first_image, first_image + images_at_a_time)
        features_BRD = window_features(patch_features_BPD[images], grid)
        for first_text in range(0, num_texts, texts_at_a_time):
            texts = slice(first_text, first_text + texts_at_a_time)
            scores_BT[images, texts] = (features_BRD @ unit_TD[texts].T).amax(dim=1)
    return scores_BT


def best_window_candidates(
    patches: PatchMap, text_embeds_TD: Tensor, image_index_M: Tensor, text_index_M: Tensor
) -> Tensor:
    """
    Computes the scores of [`best_window_scores`] for chosen pairs. A pair that is asked for twice is scored once.

    Args:
        patches, text_embeds_TD: As in [`best_window_scores`].
        image_index_M, text_index_M: (M,) int64, image and text of each pair.

    Returns:
        (M,) in at least float32.
    """
    dtype = torch.promote_types(patches.features.dtype, torch.float32)
    device = patches.features.device
    unit_TD = normalize(text_embeds_TD).to(dtype)
    text_index_M = text_index_M.to(device)
    scores_M = torch.empty(len(image_index_M), dtype=dtype, device=device)
    # Sorted by image, the windows of each image are made once.
    order_M = image_index_M.argsort(stable=True).to(device)
    counts_B = torch.bincount(image_index_M.cpu(), minlength=len(patches.features)).tolist()
    grids = grids_of(patches)
    for image, pairs in enumerate(order_M.split(counts_B)):
        if len(pairs):
            texts, place = text_index_M[pairs].unique(return_inverse=True)
            features_1PD = without_padding(patches, image)[None]
            scores_1U = _scores_on_grid(features_1PD, unit_TD[texts], grids[image], SCORES_AT_A_TIME)
            scores_M[pairs] = scores_1U[0, place]
    return scores_M


def _num_windows(grid: Grid) -> int:
    rows, columns = grid
    return sum((rows - side + 1) * (columns - side + 1) for side in window_sides(grid))
