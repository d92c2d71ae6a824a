"""
Heat maps over images, as images.

A place stays grey where a text looks no more than evenly, and is coloured the more the text looks there. A heat map is
(Y, X), one value per patch.
"""

import math

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate


LEAST_HIGHEST = 1.25
"""Least end of a colour scale: without it, the noise of an almost uniform map would look like a strong map."""
NOWHERE_EVENNESS = 0.99
"""From here on a map says nothing. Maps of a new pooler reach 1.000; of the β-CLIP that ships, half are below 0.975."""
NOWHERE = (
    "This model looks nowhere in particular: for each of these texts its attention is almost even, so heat maps are "
    "grey. Its pooler is not trained, or knows nothing of what is shown."
)
"""Said beside maps of which [`looks_nowhere`] is true."""
_OPAQUE = 0.9
"""Opacity of the colour at the end of the scale, which lets the image shine through everywhere."""
_MEDIUM_GREY = 153
_LONGEST_ENLARGED = 2048


def relative_to_uniform(heat_YX: Tensor) -> Tensor:
    """
    Scales a map to multiples of a uniform map.

    Args:
        heat_YX: (Y, X), not negative, of any scale.

    Returns:
        (Y, X) float32 on the CPU with the mean 1. A map that is zero everywhere counts as uniform.

    Raises:
        ValueError: if it is not a map, or a value is negative or NaN.
    """
    heat_YX = torch.as_tensor(heat_YX).detach().float().cpu()
    if heat_YX.ndim != 2 or heat_YX.numel() == 0:
        raise ValueError(f"a heat map must be (height, width), but is {tuple(heat_YX.shape)}")
    # Not `any(heat < 0)`, which is False for NaN.
    if not (heat_YX >= 0).all():
        raise ValueError("a heat map must not be negative or NaN, but at least one value is")
    mean = heat_YX.mean()
    if mean > 0:
        return heat_YX / mean
    return torch.ones_like(heat_YX)


def highest_of(*maps: Tensor) -> float:
    """Returns the end of one colour scale for several maps, in multiples of uniform."""
    highest = LEAST_HIGHEST
    for heat_YX in maps:
        highest = max(highest, float(relative_to_uniform(heat_YX).max()))
    return highest


def evenness(heat_YX: Tensor) -> float:
    """
    Returns over which share of an image a text looks: 1 for a uniform map, 1/P for one that is a single patch.

    It is exp(H)/P with the entropy H of the map and its P patches.

    Args:
        heat_YX: (Y, X), not negative, of any scale.

    Raises:
        ValueError: if it is not a map, see [`relative_to_uniform`].
    """
    shares_P = relative_to_uniform(heat_YX).flatten().double()
    shares_P = shares_P / len(shares_P)
    # 0 · log 0 is 0.
    entropy = -torch.special.xlogy(shares_P, shares_P).sum()
    return float(entropy.exp()) / len(shares_P)


def looks_nowhere(*maps: Tensor) -> bool:
    """Tells whether no map is much else than uniform, so that all are grey. Without a map it is False."""
    return bool(maps) and all(evenness(heat_YX) >= NOWHERE_EVENNESS for heat_YX in maps)


def enlarged(image: Image.Image, shortest_side: int = 384) -> Image.Image:
    """
    Enlarges an image so that a heat map over it is smooth.

    The factor is a whole number, and pixels stay square. An image that is large enough is returned as it is. A thin
    image is enlarged less.
    """
    factor = min(math.ceil(shortest_side / min(image.size)), _LONGEST_ENLARGED // max(image.size))
    if factor <= 1:
        return image
    return image.resize((factor * image.width, factor * image.height), Image.Resampling.BOX)


def overlay(image: Image.Image, heat_YX: Tensor, highest: float | None = None) -> Image.Image:
    """
    Draws an image in grey under a heat map.

    The colours are viridis, whose lightness rises for every kind of colour vision. The image stays grey up to 1, the
    value of a uniform map; above it the colour covers the image more and more.

    Args:
        image: What the model sees: where the processor crops, `image.crop(view_of_image(...))`.
        heat_YX: (Y, X), not negative, of any scale: attention of one head, or a mean over heads.
        highest: End of the colour scale in multiples of uniform, from [`highest_of`] if several pictures are to be
            compared; by default that of this map.

    Returns:
        An RGB image of the same size.

    Raises:
        ValueError: if the map is not one, see [`relative_to_uniform`], or `highest` is not above 1.
        ImportError: if matplotlib is not installed.
    """
    heat_YX = relative_to_uniform(heat_YX)
    if highest is None:
        highest = highest_of(heat_YX)
    if not (highest > 1 and math.isfinite(highest)):
        raise ValueError(f"highest must be above 1, but is {highest}")
    size = (image.height, image.width)
    # From here on the axes are those of the image's pixels, no longer those of its patches.
    smooth = interpolate(heat_YX[None, None], size=size, mode="bicubic", align_corners=False)[0, 0]
    # Bicubic interpolation swings beyond the values of the map.
    strength = ((smooth - 1) / (highest - 1)).clamp(0, 1)
    grey = torch.frombuffer(bytearray(image.convert("L").tobytes()), dtype=torch.uint8).view(size).float()
    # No black: the dark end of the colours would be lost on it.
    grey = 51 + grey * 0.8
    return _image(_mixed(strength, grey))


def scale_label(highest: float) -> str:
    """Describes the two ends of the colour scale, as text below [`scale_image`]."""
    return f"attention, from 1 × uniform (left) to {highest:.3g} × uniform (right)"


def scale_image(width: int, height: int) -> Image.Image:
    """Draws the colour scale alone, from uniform on the left to its end on the right."""
    return _image(scale_colours(width).expand(height, width, 3))


def scale_colours(count: int) -> Tensor:
    """
    Returns the colours of [`overlay`] on a medium grey, from uniform to the end of the scale.

    Returns:
        (count, 3) float32 in [0, 255].
    """
    strength = torch.linspace(0, 1, count)
    return _mixed(strength, torch.full_like(strength, _MEDIUM_GREY))


def _mixed(strength: Tensor, grey: Tensor) -> Tensor:
    """Lays colours of some strengths in [0, 1] over greys in [0, 255], and adds an axis of 3 for RGB."""
    try:
        from matplotlib import colormaps
    except ImportError as error:
        raise ImportError("heat maps need matplotlib: pip install matplotlib") from error
    colours = torch.from_numpy(colormaps["viridis"](strength.numpy())[..., :3]).float() * 255
    opacity = (_OPAQUE * strength)[..., None]
    return opacity * colours + (1 - opacity) * grey[..., None]


def _image(pixels: Tensor) -> Image.Image:
    """Converts (height, width, 3) floats in [0, 255] to an image."""
    return Image.fromarray(pixels.round().to(torch.uint8).contiguous().numpy(), "RGB")
