"""
Metrics of localisation: does a heat map of a phrase look where the boxes of the phrase are?

The map is [0, 1] x [0, 1], and boxes are xyxy in these units. Row i of Y rows has its centre at (i + 0.5) / Y. I in
names of tensors counts phrases.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


# Standard deviation of the map of the middle, as a share of each side.
_CENTRE_DEVIATION = 0.25


class BoxCells(NamedTuple):
    """Boxes of phrases on a grid. They are computed once, and measure any number of maps of these phrases."""

    coverage_IYX: Tensor
    """(I, Y, X) float64: share of each cell that the union of the boxes covers; exact, overlaps count once."""
    centre_inside_IYX: Tensor
    """(I, Y, X) bool: whether the centre of the cell lies in a box, borders included."""


def box_cells(boxes: Sequence[Tensor], grid: tuple[int, int]) -> BoxCells:
    """
    Lays boxes on a grid.

    Args:
        boxes: For each phrase a tensor (R, 4) of boxes, xyxy in units of the sides of the map. What lies outside of
            [0, 1] does not count; R = 0 covers nothing.
        grid: Rows and columns, (Y, X).

    Raises:
        ValueError: if there is no phrase, or a box ends before it begins.
    """
    if len(boxes) == 0:
        raise ValueError("boxes must be of at least 1 phrase, but are of 0")
    centre_y, centre_x = _cell_centres(grid)
    coverage, centre_inside = [], []
    for phrase_boxes in boxes:
        boxes_R4 = phrase_boxes.cpu().double()
        is_wrong_R = ~(boxes_R4[:, :2] <= boxes_R4[:, 2:]).all(dim=1)
        if is_wrong_R.any():
            raise ValueError(f"boxes must be x1 <= x2 and y1 <= y2, but one is {boxes_R4[is_wrong_R][0].tolist()}")
        coverage.append(_coverage(boxes_R4.clamp(0, 1), grid))
        centre_inside.append(_inside_any(boxes_R4, centre_x, centre_y))
    return BoxCells(torch.stack(coverage), torch.stack(centre_inside))


def pointing_hits(heat_maps_IYX: Tensor, cells: BoxCells) -> Tensor:
    """
    Plays the pointing game: a map hits if the centre of its highest cell lies in one of the boxes of the phrase.

    Of several highest cells, the share that hits counts. On a constant map this is the chance of a random cell.

    Bilinear upsampling is not offered: it never moves the highest point away from the centre of a cell.

    Args:
        heat_maps_IYX: (I, Y, X), any finite numbers.
        cells: Boxes of the phrases.

    Returns:
        (I,) float64 in [0, 1].

    Raises:
        ValueError: if the shapes differ or a number is not finite.
    """
    heat_maps_IYX = _checked(heat_maps_IYX, cells)
    is_highest_IYX = heat_maps_IYX == heat_maps_IYX.amax(dim=(1, 2), keepdim=True)
    hits_I = (is_highest_IYX & cells.centre_inside_IYX).sum(dim=(1, 2))
    return hits_I / is_highest_IYX.sum(dim=(1, 2)).double()


def mass_inside_boxes(heat_maps_IYX: Tensor, cells: BoxCells) -> Tensor:
    """
    Computes the share of the mass of each map that lies inside the boxes of the phrase.

    A cell that is covered in part counts in part. A map that is zero everywhere counts as uniform.

    Args:
        heat_maps_IYX: (I, Y, X), not negative.
        cells: Boxes of the phrases.

    Returns:
        (I,) float64 in [0, 1].

    Raises:
        ValueError: if the shapes differ, or a number is negative or not finite.
    """
    heat_maps_IYX = _checked(heat_maps_IYX, cells)
    if (heat_maps_IYX < 0).any():
        raise ValueError(f"heat maps must not be negative, but the least value is {float(heat_maps_IYX.min())}")
    is_zero_I11 = (heat_maps_IYX == 0).all(dim=2, keepdim=True).all(dim=1, keepdim=True)
    heat_maps_IYX = heat_maps_IYX.masked_fill(is_zero_I11, 1.0)
    return (heat_maps_IYX * cells.coverage_IYX).sum(dim=(1, 2)) / heat_maps_IYX.sum(dim=(1, 2))


def uniform_map(grid: tuple[int, int]) -> Tensor:
    """Makes the (Y, X) map of a baseline that knows nothing. It is the chance level of both metrics."""
    return torch.ones(grid, dtype=torch.float64)


def centre_map(grid: tuple[int, int]) -> Tensor:
    """Makes the (Y, X) map of a baseline that always looks at the middle: a Gaussian."""
    centre_y, centre_x = _cell_centres(grid)
    # Cells that mirror each other must be tied exactly, so their distances are rounded to the same number.
    distance_y = (centre_y - 0.5).abs().round(decimals=9)
    distance_x = (centre_x - 0.5).abs().round(decimals=9)
    return torch.exp(-(distance_y[:, None] ** 2 + distance_x**2) / (2 * _CENTRE_DEVIATION**2))


def sliding_windows(grid: tuple[int, int], sides: Sequence[float] = (1 / 4, 1 / 2, 3 / 4)) -> Tensor:
    """
    Makes windows of several sizes around the centres of all cells, cut at the borders.

    Args:
        grid: Rows and columns, (Y, X).
        sides: Sides of the windows, as shares of those of the map.

    Returns:
        (sides · Y · X, 4), xyxy: all windows of the first size, row by row, then those of the next.
    """
    centre_y, centre_x = _cell_centres(grid)
    centre_xy = torch.cartesian_prod(centre_y, centre_x).flip(-1)
    centre_P4 = centre_xy.repeat(1, 2)
    half_sides = torch.tensor(sides, dtype=torch.float64)[:, None, None] / 2
    reach = half_sides * torch.tensor([-1, -1, 1, 1])
    return (centre_P4 + reach).flatten(0, 1).clamp(0, 1).float()


def _coverage(boxes_R4: Tensor, grid: tuple[int, int]) -> Tensor:
    """Computes the share of each cell that the union of the boxes covers, (Y, X)."""
    # All edges, of cells and boxes, cut the map into pieces that lie wholly inside or outside of every box and cell.
    height, width = grid
    x_edges = torch.cat([torch.linspace(0, 1, width + 1, dtype=torch.float64), boxes_R4[:, 0::2].flatten()])
    y_edges = torch.cat([torch.linspace(0, 1, height + 1, dtype=torch.float64), boxes_R4[:, 1::2].flatten()])
    x_edges, y_edges = x_edges.sort().values, y_edges.sort().values
    middle_x, middle_y = (x_edges[1:] + x_edges[:-1]) / 2, (y_edges[1:] + y_edges[:-1]) / 2
    areas = y_edges.diff()[:, None] * x_edges.diff()
    covered_areas = _inside_any(boxes_R4, middle_x, middle_y) * areas
    row = (middle_y * height).long().clamp(max=height - 1)
    column = (middle_x * width).long().clamp(max=width - 1)
    cells_YX = torch.zeros(height, width, dtype=torch.float64)
    cells_YX = cells_YX.index_put((row[:, None], column[None, :]), covered_areas, accumulate=True)
    return cells_YX * (height * width)


def _inside_any(boxes_R4: Tensor, xs: Tensor, ys: Tensor) -> Tensor:
    """Tells which points of a lattice lie in a box, borders included: (len(ys), len(xs)) bool."""
    x1, y1, x2, y2 = boxes_R4.T[:, :, None]
    is_inside_x = (xs >= x1) & (xs <= x2)
    is_inside_y = (ys >= y1) & (ys <= y2)
    return (is_inside_y[:, :, None] & is_inside_x[:, None, :]).any(dim=0)


def _cell_centres(grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Returns the centres of the rows, (Y,), and of the columns, (X,)."""
    height, width = grid
    centre_y = (torch.arange(height, dtype=torch.float64) + 0.5) / height
    centre_x = (torch.arange(width, dtype=torch.float64) + 0.5) / width
    return centre_y, centre_x


def _checked(heat_maps_IYX: Tensor, cells: BoxCells) -> Tensor:
    """Returns the maps in float64 on the CPU, after a check of shapes and numbers."""
    if heat_maps_IYX.shape != cells.coverage_IYX.shape:
        shape = tuple(cells.coverage_IYX.shape)
        raise ValueError(f"heat maps must be {shape} like the cells, but are {tuple(heat_maps_IYX.shape)}")
    if not heat_maps_IYX.isfinite().all():
        raise ValueError("heat maps must be finite, but at least one value is not")
    return heat_maps_IYX.cpu().double()
