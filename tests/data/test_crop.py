"""Torch's resize of a part, against PIL's."""

import numpy as np
import pytest
from PIL import Image

from beta_clip_hf.data.crop import resized_part


@pytest.mark.parametrize("size", [(24, 24), (40, 16), (150, 90)])
def test_a_part_is_resized_as_pil_does(size) -> None:
    """But for rounding; PIL would look beyond the edges of the part, so it is cut out first."""
    pixels = np.random.default_rng(0).integers(0, 256, (80, 120, 3), dtype=np.uint8)
    left, top, width, height = part = (10, 5, 90, 60)
    cut = Image.fromarray(pixels[top : top + height, left : left + width])
    expected = np.asarray(cut.resize(size, Image.Resampling.BICUBIC), dtype=int)
    found = np.asarray(resized_part(Image.fromarray(pixels), part, size), dtype=int)
    assert found.shape == expected.shape == (size[1], size[0], 3)
    assert np.abs(found - expected).max() <= 2 and np.abs(found - expected).mean() < 0.1
    assert expected.std() > 10


def test_nothing_outside_of_the_part_is_seen() -> None:
    image = Image.new("RGB", (60, 40), "red")
    image.paste("blue", (10, 10, 30, 30))
    assert resized_part(image, (10, 10, 20, 20), (8, 8)).getcolors() == [(64, (0, 0, 255))]
