"""
Metrics of localisation: does a heat map of a phrase look where the phrase's boxes are?

Letters: N phrases, M boxes of one phrase; H, W the grid of a heat map. Boxes are xyxy in units of the map's sides: the
map is [0, 1] x [0, 1], and row i of it has its centre at (i + 0.5) / H.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class BoxCells(NamedTuple):
    """Phrases' boxes on a grid; computed once, then any number of maps of these phrases are measured with it."""

    coverage_NHW: Tensor
    """(N, H, W) float64: the share of each cell that the union of the boxes covers; exact, overlaps count once."""
    centre_inside_NHW: Tensor
    """(N, H, W) bool: whether the centre of the cell lies in a box, borders included."""


def box_cells(boxes: Sequence[Tensor], grid: tuple[int, int]) -> BoxCells:
    """
    Lays boxes on a grid.

    Args:
        boxes: N tensors (M, 4), xyxy in units of the map's sides, of which what is outside of [0, 1] does not count;
            M = 0 covers nothing.
        grid: (H, W).

    Raises:
        ValueError: where there is no phrase, or a box ends before it begins.
    """
    if len(boxes) == 0:
        raise ValueError("boxes must be of at least 1 phrase, but are of 0")
    on_cpu = [boxes_M4.cpu().double() for boxes_M4 in boxes]
    for boxes_M4 in on_cpu:
        wrong_M = ~(boxes_M4[:, :2] <= boxes_M4[:, 2:]).all(dim=1)
        if wrong_M.any():
            raise ValueError(f"boxes must be x1 <= x2 and y1 <= y2, but one is {boxes_M4[wrong_M][0].tolist()}")
    centre_y, centre_x = _cell_centres(grid)
    return BoxCells(
        torch.stack([_coverage(boxes_M4.clamp(0, 1), grid) for boxes_M4 in on_cpu]),
        torch.stack([_inside_any(boxes_M4, centre_x, centre_y) for boxes_M4 in on_cpu]),
    )


def pointing_hits(heat_maps_NHW: Tensor, cells: BoxCells) -> Tensor:
    """
    (N,) float64: the pointing game. A hit is a map whose highest cell has its centre in one of the phrase's boxes;
    of several highest cells, the share that has. On a constant map this is the chance of a random cell.

    Bilinear upsampling is not offered: it never moves the highest point away from the centre of a cell.

    Args:
        heat_maps_NHW: (N, H, W), any finite numbers.
        cells: The phrases' boxes.

    Raises:
        ValueError: where shapes differ or a number is not finite.
    """
    heat_maps_NHW = _checked(heat_maps_NHW, cells)
    highest_NHW = heat_maps_NHW == heat_maps_NHW.amax(dim=(1, 2), keepdim=True)
    hits_N = (highest_NHW & cells.centre_inside_NHW).sum(dim=(1, 2))
    return hits_N / highest_NHW.sum(dim=(1, 2)).double()


def mass_inside_boxes(heat_maps_NHW: Tensor, cells: BoxCells) -> Tensor:
    """
    (N,) float64: the share of each map's mass that lies inside the phrase's boxes. A cell that is covered in part
    counts in part; a map that is zero everywhere counts as uniform.

    Args:
        heat_maps_NHW: (N, H, W), not negative.
        cells: The phrases' boxes.

    Raises:
        ValueError: where shapes differ, or a number is negative or not finite.
    """
    heat_maps_NHW = _checked(heat_maps_NHW, cells)
    if (heat_maps_NHW < 0).any():
        raise ValueError(f"heat maps must not be negative, but the least value is {float(heat_maps_NHW.min())}")
    is_zero_N11 = (heat_maps_NHW == 0).all(dim=2, keepdim=True).all(dim=1, keepdim=True)
    heat_maps_NHW = heat_maps_NHW.masked_fill(is_zero_N11, 1.0)
    return (heat_maps_NHW * cells.coverage_NHW).sum(dim=(1, 2)) / heat_maps_NHW.sum(dim=(1, 2))


def uniform_map(grid: tuple[int, int]) -> Tensor:
    """(H, W): the baseline that knows nothing, chance level of both localisation metrics."""
    return torch.ones(grid, dtype=torch.float64)


def centre_map(grid: tuple[int, int], sigma: float = 0.25) -> Tensor:
    """(H, W): the baseline that always looks at the middle, a Gaussian with a sigma of a quarter of each side."""
    centre_y, centre_x = _cell_centres(grid)
    distance_y, distance_x = (centre_y - 0.5).abs().round(decimals=9), (centre_x - 0.5).abs().round(decimals=9)
    return torch.exp(-(distance_y[:, None] ** 2 + distance_x**2) / (2 * sigma**2))


def sliding_windows(grid: tuple[int, int], sides: Sequence[float] = (1 / 4, 1 / 2, 3 / 4)) -> Tensor:
    """
    (S * H * W, 4): for each of S sizes, windows around the centres of all cells, row by row, cut at the borders.

    Args:
        grid: (H, W).
        sides: S sides of the windows, as shares of the map's.
    """
    centre_y, centre_x = _cell_centres(grid)
    centre_P2 = torch.cartesian_prod(centre_y, centre_x).flip(-1).repeat(1, 2)
    reach_S14 = torch.tensor(sides, dtype=torch.float64)[:, None, None] / 2 * torch.tensor([-1, -1, 1, 1])
    return (centre_P2 + reach_S14).flatten(0, 1).clamp(0, 1).float()


def _coverage(boxes_M4: Tensor, grid: tuple[int, int]) -> Tensor:
    # All edges, of cells and boxes, cut the map into pieces that lie wholly inside or outside of every box and cell.
    height, width = grid
    xs = torch.cat([torch.linspace(0, 1, width + 1, dtype=torch.float64), boxes_M4[:, 0::2].flatten()]).sort().values
    ys = torch.cat([torch.linspace(0, 1, height + 1, dtype=torch.float64), boxes_M4[:, 1::2].flatten()]).sort().values
    middle_x, middle_y = (xs[1:] + xs[:-1]) / 2, (ys[1:] + ys[:-1]) / 2
    area_YX = _inside_any(boxes_M4, middle_x, middle_y) * (ys.diff()[:, None] * xs.diff())
    row = (middle_y * height).long().clamp(max=height - 1)
    column = (middle_x * width).long().clamp(max=width - 1)
    cells = torch.zeros(height, width, dtype=torch.float64)
    return cells.index_put((row[:, None], column[None, :]), area_YX, accumulate=True) * (height * width)


def _inside_any(boxes_M4: Tensor, xs: Tensor, ys: Tensor) -> Tensor:
    """(len(ys), len(xs)) bool: which points of the lattice lie in a box, borders included."""
    x1, y1, x2, y2 = boxes_M4.T[:, :, None]
    inside_x, inside_y = (xs >= x1) & (xs <= x2), (ys >= y1) & (ys <= y2)
    return (inside_y[:, :, None] & inside_x[:, None, :]).any(dim=0)


def _cell_centres(grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    centre_y, centre_x = ((torch.arange(cells, dtype=torch.float64) + 0.5) / cells for cells in grid)
    return centre_y, centre_x


def _checked(heat_maps_NHW: Tensor, cells: BoxCells) -> Tensor:
    if heat_maps_NHW.shape != cells.coverage_NHW.shape:
        raise ValueError(
            f"heat maps must be {tuple(cells.coverage_NHW.shape)} like the cells, but are {tuple(heat_maps_NHW.shape)}"
        )
    if not heat_maps_NHW.isfinite().all():
        raise ValueError("heat maps must be finite, but at least one value is not")
    return heat_maps_NHW.cpu().double()
