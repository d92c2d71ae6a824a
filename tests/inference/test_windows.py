"""The best window of the patch features for each text, against loops over windows in float64."""

import pytest
import torch

from beta_clip_hf.inference.grids import map_of_one_grid
from beta_clip_hf.inference.windows import best_window_candidates, best_window_scores, window_features, window_sides


def reference_scores(patch_features, text_embeds, grid):
    """The same score as its definition reads: the largest cosine with the mean of the patches of any window."""
    rows, columns = grid
    maps = patch_features.double().unflatten(1, grid)
    scores = torch.full((len(maps), len(text_embeds)), -2.0, dtype=torch.float64)
    for image, features in enumerate(maps):
        for side in window_sides(grid):
            for row in range(rows - side + 1):
                for column in range(columns - side + 1):
                    window = features[row : row + side, column : column + side].reshape(side * side, -1).mean(dim=0)
                    for text, embed in enumerate(text_embeds.double()):
                        cosine = torch.cosine_similarity(window, embed, dim=0)
                        scores[image, text] = torch.maximum(scores[image, text], cosine)
    return scores


@pytest.fixture(params=[(4, 4), (3, 5), (1, 1), (1, 4)])
def grid(request):
    return request.param


@pytest.fixture
def features(grid):
    rows, columns = grid
    return 3 * torch.randn(3, rows * columns, 6), torch.randn(5, 6)


def test_sides_reach_half_of_the_grid():
    assert window_sides((24, 24)) == (1, 2, 4, 8, 12) and window_sides((7, 20)) == (1, 2, 3)


@pytest.mark.parametrize("scores_at_a_time", [1, 40, 2**22])
def test_the_best_window_equals_loops_in_any_chunks(features, grid, scores_at_a_time):
    patches, texts = features
    expected = reference_scores(patches, texts, grid)
    found = best_window_scores(map_of_one_grid(patches, grid), texts, scores_at_a_time=scores_at_a_time)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)
    doubled = map_of_one_grid(patches.double(), grid)
    found = best_window_scores(doubled, texts.double(), scores_at_a_time=scores_at_a_time)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_chosen_pairs_have_the_scores_of_all_pairs(features, grid):
    patches, texts = features
    images, chosen = torch.tensor([2, 0, 2, 2, 0]), torch.tensor([4, 1, 0, 4, 3])
    found = best_window_candidates(map_of_one_grid(patches, grid), texts, images, chosen)
    expected = reference_scores(patches, texts, grid)[images, chosen]
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)
    assert found[0] == found[3]
    nothing = torch.zeros(0, dtype=torch.int64)
    assert best_window_candidates(map_of_one_grid(patches, grid), texts, nothing, nothing).shape == (0,)


def test_half_precision_is_averaged_in_single(features, grid):
    patches, texts = features
    halved = patches.to(torch.bfloat16)
    found = best_window_scores(map_of_one_grid(halved, grid), texts)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), reference_scores(halved, texts, grid), rtol=0, atol=1e-5)


def test_patches_without_length_have_the_cosine_0(grid):
    rows, columns = grid
    patches = map_of_one_grid(torch.zeros(1, rows * columns, 4), grid)
    assert best_window_scores(patches, torch.ones(2, 4)).tolist() == [[0.0, 0.0]]


def test_a_grid_of_another_size_is_refused():
    with pytest.raises(ValueError, match="grid must have 6 patches, but is 2 x 2"):
        window_features(torch.ones(1, 6, 4), (2, 2))
