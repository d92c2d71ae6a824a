"""Heat maps over images: where they are coloured, and on what scale."""

import pytest
import torch
from matplotlib import colormaps
from PIL import Image

from beta_clip_hf.visualize.heat_maps import (
    enlarged,
    evenness,
    highest_of,
    looks_nowhere,
    overlay,
    scale_image,
    scale_label,
)


def is_grey(pixel):
    return max(pixel) - min(pixel) <= 1


def test_colour_is_where_the_map_is_above_uniform():
    heat = torch.zeros(4, 4)
    # In the upper right corner.
    heat[0, 3] = 1
    image = overlay(Image.new("RGB", (80, 40), "white"), heat)
    assert image.size == (80, 40) and image.mode == "RGB"
    highest = torch.tensor(colormaps["viridis"](1.0)[:3]) * 255
    expected = (0.9 * highest + 0.1 * 255).tolist()
    assert image.getpixel((75, 2)) == pytest.approx(expected, abs=6)
    assert all(is_grey(image.getpixel(place)) for place in ((5, 5), (5, 35), (75, 35)))


def test_a_uniform_map_and_one_of_zeros_leave_the_image_grey():
    photo = Image.new("RGB", (20, 20), "red")
    for heat in (torch.full((3, 3), 7.0), torch.zeros(3, 3)):
        assert is_grey(overlay(photo, heat).getpixel((10, 10)))


def test_one_scale_for_several_maps():
    strong = torch.tensor([[9.0, 1, 1, 1]])
    weak = torch.tensor([[3.0, 1, 1, 1]])
    assert highest_of(strong, weak) == pytest.approx(3) and highest_of() == highest_of(torch.ones(2, 2)) == 1.25
    photo = Image.new("RGB", (40, 10), "white")
    alone = overlay(photo, weak).getpixel((2, 5))
    shared = overlay(photo, weak, highest_of(strong, weak)).getpixel((2, 5))
    assert alone == overlay(photo, strong).getpixel((2, 5)) != shared


def test_the_bar_has_the_colours_of_the_overlay():
    bar, mean_grey = scale_image(201, 20), Image.new("RGB", (2, 2), (127, 127, 127))
    heat = torch.zeros(2, 2)
    # 4 x uniform in one corner, 0 in the others.
    heat[0, 0] = 4
    # The corner is at the end of the scale, or in the middle of it.
    for highest, place in ((4.0, 200), (7.0, 100)):
        assert bar.getpixel((place, 5)) == pytest.approx(overlay(mean_grey, heat, highest).getpixel((0, 0)), abs=2)
    assert is_grey(bar.getpixel((0, 5))) and bar.size == (201, 20)
    assert scale_label(1.25) == "attention, from 1 × uniform (left) to 1.25 × uniform (right)"


@pytest.mark.parametrize("heat", [torch.ones(3), torch.tensor([[-1.0, 1]]), torch.tensor([[float("nan"), 1]])])
def test_what_is_no_map(heat):
    with pytest.raises(ValueError, match="a heat map must"):
        overlay(Image.new("RGB", (8, 8)), heat)


def test_a_scale_must_have_a_range():
    with pytest.raises(ValueError, match="highest must be above 1"):
        overlay(Image.new("RGB", (8, 8)), torch.ones(2, 2), highest=1.0)


def test_small_images_are_drawn_larger_and_large_ones_as_they_are():
    image = Image.new("RGB", (3, 2), "white")
    image.putpixel((2, 1), (255, 0, 0))
    large = enlarged(image, shortest_side=7)
    assert large.size == (12, 8)
    assert large.getpixel((8, 4)) == large.getpixel((11, 7)) == (255, 0, 0)
    assert large.getpixel((7, 7)) == large.getpixel((8, 3)) == (255, 255, 255)
    assert enlarged(image, shortest_side=2) is image


def test_a_model_that_looks_nowhere_is_told_from_one_that_looks_somewhere():
    even, spot = torch.ones(6, 6), torch.zeros(6, 6)
    spot[2, 3] = 4.0
    assert evenness(even) == pytest.approx(1) and evenness(spot) == pytest.approx(1 / 36)
    half = torch.cat([torch.ones(3, 6), torch.zeros(3, 6)])
    assert evenness(half) == pytest.approx(0.5) and evenness(10 * half) == evenness(half)
    assert evenness(torch.zeros(2, 2)) == 1
    noise = even + 0.05 * torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    assert looks_nowhere(even, noise) and not looks_nowhere(even, spot) and not looks_nowhere()
    with pytest.raises(ValueError, match="negative or NaN"):
        evenness(torch.full((2, 2), float("nan")))
