import pytest
import torch

from beta_clip_hf.evaluation.pointing import (
    box_cells,
    centre_map,
    mass_inside_boxes,
    pointing_hits,
    sliding_windows,
    uniform_map,
)
from evaluation.naive_metrics import pointing_hit, raster


GRID = (4, 5)


def box_coverage(boxes, grid):
    return box_cells([boxes], grid).coverage_IYX[0]


# Edges at multiples of 1/40 and 1/50: the naive raster with ten points a side is then exact.
BOXES = [
    torch.tensor([[0.1, 0.2, 0.62, 0.55]]),
    torch.tensor([[0.0, 0.0, 1.0, 1.0]]),
    torch.tensor([[0.1, 0.1, 0.5, 0.5], [0.3, 0.3, 0.7, 0.9]]),  # overlapping
    torch.tensor([[0.42, 0.5, 0.48, 0.525]]),  # smaller than a cell, holds no centre
    torch.tensor([[0.3, 0.3, 0.3, 0.3]]),  # no area
]


@pytest.mark.parametrize("boxes", BOXES)
def test_coverage_equals_a_raster(boxes):
    torch.testing.assert_close(box_coverage(boxes, GRID), raster(boxes.tolist(), GRID, fine=10), atol=1e-6, rtol=0)


def test_coverage_of_overlaps_counts_once():
    twice = torch.tensor([[0.2, 0.2, 0.6, 0.6]] * 2)
    torch.testing.assert_close(box_coverage(twice, GRID), box_coverage(twice[:1], GRID))
    assert float(box_coverage(twice, GRID).sum()) == pytest.approx(0.16 * 20)


def test_boxes_beyond_the_map_count_only_inside_of_it():
    outside = torch.tensor([[-1.0, -1.0, 0.2, 0.25], [1.5, 0.0, 2.0, 1.0]])
    expected = torch.zeros(GRID, dtype=torch.float64)
    expected[0, 0] = 1
    torch.testing.assert_close(box_coverage(outside, GRID), expected)


def test_pointing_and_mass_equal_the_loops():
    generator = torch.Generator().manual_seed(0)
    heat = torch.randint(3, (len(BOXES), *GRID), generator=generator).double()
    hits = [pointing_hit(heat_map.tolist(), boxes.tolist()) for heat_map, boxes in zip(heat, BOXES, strict=True)]
    masses = [
        float((heat_map * raster(boxes.tolist(), GRID, 10)).sum() / heat_map.sum())
        for heat_map, boxes in zip(heat, BOXES, strict=True)
    ]
    assert any(0 < hit < 1 for hit in hits)
    assert pointing_hits(heat, box_cells(BOXES, GRID)).tolist() == pytest.approx(hits)
    assert mass_inside_boxes(heat, box_cells(BOXES, GRID)).tolist() == pytest.approx(masses, abs=1e-6)


def test_rows_run_down_and_columns_right():
    heat = torch.zeros(1, 4, 8)
    heat[0, 0, 7] = 1  # top right
    corners = {"top right": [0.5, 0.0, 1.0, 0.5], "bottom left": [0.0, 0.5, 0.5, 1.0]}
    hits = {name: float(pointing_hits(heat, box_cells([torch.tensor([box])], (4, 8)))) for name, box in corners.items()}
    masses = {
        name: float(mass_inside_boxes(heat, box_cells([torch.tensor([box])], (4, 8)))) for name, box in corners.items()
    }
    assert hits == masses == {"top right": 1.0, "bottom left": 0.0}


def test_a_constant_map_scores_the_area_of_the_box():
    boxes = box_cells([torch.tensor([[0.0, 0.0, 0.5, 1.0]]), torch.tensor([[0.0, 0.0, 0.25, 0.25]])], (8, 8))
    uniform = uniform_map((8, 8)).expand(2, 8, 8)
    assert pointing_hits(uniform, boxes).tolist() == pytest.approx([0.5, 1 / 16])
    assert mass_inside_boxes(uniform, boxes).tolist() == pytest.approx([0.5, 1 / 16])
    assert torch.equal(mass_inside_boxes(torch.zeros(2, 8, 8), boxes), mass_inside_boxes(uniform, boxes))


@pytest.mark.parametrize("grid", [(7, 7), (8, 8), (4, 6)])
def test_the_centre_baseline_looks_at_the_centre(grid):
    middle, corner = torch.tensor([[0.25, 0.25, 0.75, 0.75]]), torch.tensor([[0.0, 0.0, 0.25, 0.25]])
    maps = centre_map(grid).expand(2, *grid)
    assert pointing_hits(maps, box_cells([middle, corner], grid)).tolist() == [1.0, 0.0]
    mass = mass_inside_boxes(maps, box_cells([middle, corner], grid))
    assert mass[0] > 0.25 > mass[1] > 0


def test_a_phrase_without_boxes_is_a_miss():
    nothing = box_cells([torch.zeros(0, 4)], (3, 3))
    assert pointing_hits(torch.rand(1, 3, 3), nothing).tolist() == [0.0]
    assert mass_inside_boxes(torch.rand(1, 3, 3), nothing).tolist() == [0.0]


def test_bad_maps_are_refused():
    cells = box_cells(BOXES[:1], (2, 2))
    with pytest.raises(ValueError, match="not be negative"):
        mass_inside_boxes(torch.full((1, 2, 2), -1.0), cells)
    with pytest.raises(ValueError, match="finite"):
        pointing_hits(torch.full((1, 2, 2), torch.nan), cells)
    with pytest.raises(ValueError, match="like the cells"):
        pointing_hits(torch.rand(2, 2, 2), cells)
    with pytest.raises(ValueError, match="at least 1 phrase"):
        box_cells([], (2, 2))


def test_windows_stand_around_each_cell_and_end_at_the_border():
    windows = sliding_windows((2, 4), sides=(1 / 4, 1 / 2)).tolist()
    assert len(windows) == 2 * 8
    assert windows[0] == [0, 0.125, 0.25, 0.375]  # around (1/8, 1/4)
    assert windows[1] == [0.25, 0.125, 0.5, 0.375]  # one to the right
    assert windows[4] == [0, 0.625, 0.25, 0.875]  # below the first
    assert windows[8] == [0, 0, 0.375, 0.5]  # twice as large, and cut
    assert windows[15] == [0.625, 0.5, 1, 1]


@pytest.mark.parametrize("box", [[0.5, 0.1, 0.2, 0.9], [0.1, 0.9, 0.2, 0.5], [0.1, 0.2, torch.nan, 0.5]])
def test_a_box_that_ends_before_it_begins_is_refused(box):
    with pytest.raises(ValueError, match=r"boxes must be x1 <= x2 and y1 <= y2, but one is \[0\.\d"):
        box_cells([torch.zeros(0, 4), torch.tensor([[0.1, 0.1, 0.2, 0.2], box])], GRID)
