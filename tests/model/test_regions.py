import pytest
import torch
from safetensors.torch import load_file

import reference
from beta_clip_hf.model.regions_beta_clip import grid_boxes, roi_align


GRID = (3, 5)  # rows, columns
BOXES = torch.tensor(
    [
        [0.0, 0.0, 5.0, 3.0],  # the whole map
        [1.0, 1.0, 2.0, 2.0],  # one cell
        [2.3, 0.4, 2.6, 0.9],  # inside one cell
        [0.2, 1.5, 4.9, 1.7],  # a thin row
        [3.0, 1.0, 3.0, 2.0],  # no width
        [2.0, 2.0, 2.0, 2.0],  # a point
        [3.5, 1.5, 7.2, 5.1],  # beyond the right and the bottom
        [-2.2, -1.4, 1.1, 0.8],  # beyond the left and the top
        [9.0, 9.0, 12.0, 11.0],  # outside
        [4.0, 2.0, 1.0, 1.0],  # the corners in the wrong order: no area
        [-20.3, -15.0, 30.1, 21.7],  # many samples, few of them on the map
        [-400.0, 0.5, 2.5, 1.1],  # the last of many samples on the map
    ],
    dtype=torch.float64,
)
INDEX = torch.tensor([0, 2, 2, 0, 3, 2, 0, 3, 2, 0, 0, 2])  # image 1 has no box


@pytest.fixture
def patches():
    return torch.randn(4, 15, 6, dtype=torch.float64)


def test_equals_the_loop_over_samples_on_a_map_that_is_not_square(patches):
    regions = roi_align(patches, BOXES, INDEX, GRID)
    for region, box, image in zip(regions, BOXES.tolist(), INDEX, strict=True):
        expected = reference.roi_align(patches[image].unflatten(0, GRID), box)
        torch.testing.assert_close(region, expected, rtol=1e-12, atol=1e-12)
    is_zero = regions.abs().sum(dim=1) == 0
    assert is_zero.tolist() == [False, False, False, False, True, True, False, False, True, True, False, False]


@pytest.mark.parametrize("case", ["fg_clip_grid4", "fg_clip_grid6"])
@pytest.mark.parametrize("name", ["roi", "roi_edge"])
def test_region_features_are_the_authors(golden_dir, case, name):
    tensors = load_file(golden_dir / case / "tensors.safetensors")
    boxes, expected = tensors[f"{name}_boxes_grid"], tensors[f"out.{name}_features"]
    side = int(tensors["out.dense_features"].shape[1] ** 0.5)
    regions = roi_align(tensors["out.dense_features"], boxes[:, 1:], boxes[:, 0].long(), (side, side))
    torch.testing.assert_close(regions, expected, rtol=0, atol=1e-6)
    assert torch.equal(regions == 0, expected == 0)


def test_gradcheck_in_features_and_boxes(patches):
    # Away from the edges of a cell, where the number of samples jumps.
    boxes = torch.tensor([[0.3, 0.2, 2.6, 2.7], [1.1, 0.6, 4.4, 1.9]], dtype=torch.float64, requires_grad=True)
    features = patches[:2].requires_grad_()
    assert torch.autograd.gradcheck(lambda f, b: roi_align(f, b, torch.tensor([1, 0]), GRID), (features, boxes))
    gradient = torch.autograd.grad(roi_align(features, boxes, torch.tensor([1, 0]), GRID).square().sum(), boxes)[0]
    assert gradient.abs().min() > 1e-6


def test_no_boxes_give_no_rows(patches):
    assert roi_align(patches, BOXES[:0], INDEX[:0], GRID).shape == (0, 6)


def test_half_precision_features_keep_their_dtype_and_boxes_their_digits(patches):
    exact = roi_align(patches, BOXES, INDEX, GRID)
    half = roi_align(patches.bfloat16(), BOXES, INDEX, GRID)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.double(), exact, rtol=0.02, atol=0.02)


def test_the_three_formats_name_one_box():
    image_size, grid = (60, 100), (3, 5)
    expected = torch.tensor([[1.0, 0.5, 3.0, 2.0]])
    for box_format, box in {
        "xyxy_normalized": [0.2, 1 / 6, 0.6, 2 / 3],
        "xyxy_pixels": [20.0, 10.0, 60.0, 40.0],
        "xywh_pixels": [20.0, 10.0, 40.0, 30.0],
    }.items():
        torch.testing.assert_close(grid_boxes(torch.tensor([box]), box_format, image_size, grid), expected)
    with pytest.raises(ValueError, match=r"box_format must be one of .*, but is 'yolo'"):
        grid_boxes(expected, "yolo", image_size, grid)
    with pytest.raises(ValueError, match=r"boxes must have shape \(R, 4\), but are \(4,\)"):
        grid_boxes(expected[0], "xyxy_pixels", image_size, grid)


def test_the_model_pools_its_own_patches(tiny_model):
    pixels = torch.randn(2, 3, 32, 32)
    patches = tiny_model.get_patch_features(pixels)
    boxes, index = torch.tensor([[0.0, 0.0, 0.25, 0.25], [0.5, 0.0, 1.0, 1.0]]), torch.tensor([1, 0])
    regions = tiny_model.get_region_features(pixels, boxes, index)
    torch.testing.assert_close(regions[0], patches[1, 0])  # the box of the first patch
    expected = patches[0].unflatten(0, (4, 4))[:, 2:].mean(dim=(0, 1))
    torch.testing.assert_close(regions[1], expected)
    in_pixels = tiny_model.get_region_features(pixels, 32 * boxes, index, box_format="xyxy_pixels")
    torch.testing.assert_close(in_pixels, regions)
    torch.testing.assert_close(tiny_model.get_region_features(pixels.flip(0), boxes), regions)  # in pairs
    assert tiny_model.get_region_features(pixels[:1], boxes[[0, 1, 0]]).shape == (3, 32)  # all on one image
    wide = torch.randn(1, 3, 32, 64)
    features = tiny_model.get_region_features(wide, boxes, torch.tensor([0, 0]), interpolate_pos_encoding=True)
    assert features.shape == (2, 32)
    with pytest.raises(ValueError, match="there are 2 images and 3 boxes"):
        tiny_model.get_region_features(pixels, boxes[[0, 1, 0]])
