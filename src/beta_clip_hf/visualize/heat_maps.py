"""
Heat maps over images, as images: in grey where a text looks no more than evenly, in colour where it looks more.

Letters: H, W rows and columns of patches.
"""

import math

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import interpolate


LEAST_HIGHEST = 1.25  # a map that is all but uniform is to look like one
_OPAQUE = 0.9  # at the top of the scale: the image still shines through


def relative_to_uniform(heat_HW: Tensor) -> Tensor:
    """
    A map in multiples of what a uniform one would have, float32 on the CPU; one that is zero everywhere is uniform.

    Raises:
        ValueError: where it is no map, or a value is negative or NaN.
    """
    heat_HW = torch.as_tensor(heat_HW).detach().float().cpu()
    if heat_HW.ndim != 2 or not heat_HW.numel():
        raise ValueError(f"a heat map must be (height, width), but is {tuple(heat_HW.shape)}")
    if not (heat_HW >= 0).all():
        raise ValueError("a heat map must not be negative or NaN, but at least one value is")
    mean = heat_HW.mean()
    return heat_HW / mean if mean > 0 else torch.ones_like(heat_HW)


def highest_of(*maps: Tensor) -> float:
    """The end of one colour scale for several maps, in multiples of uniform."""
    return max([LEAST_HIGHEST, *(float(relative_to_uniform(heat_HW).max()) for heat_HW in maps)])


def enlarged(image: Image.Image, shortest_side: int = 384) -> Image.Image:
    """The image so large that a heat map over it is smooth: a whole number of times as large, its pixels still square;
    one that is large enough is returned as it is."""
    factor = -(-shortest_side // min(image.size))
    return image if factor == 1 else image.resize((factor * image.width, factor * image.height), Image.Resampling.BOX)


def overlay(image: Image.Image, heat_HW: Tensor, highest: float | None = None) -> Image.Image:
    """
    The image in grey under a heat map. The colours are viridis, which rises in lightness for every kind of colour
    vision; up to 1, what a uniform map has, the image stays grey, and the colour covers it more and more above.

    Args:
        image: What the model sees: where the processor crops, `image.crop(view_of_image(...))`.
        heat_HW: (H, W), not negative, of any scale: attention of one head, or a mean over heads.
        highest: The end of the colour scale in multiples of uniform, from [`highest_of`] where pictures are to be
            compared; by default that of this map.

    Returns:
        An RGB image of the same size.

    Raises:
        ValueError: see [`relative_to_uniform`]; where `highest` is not above 1.
        ImportError: without matplotlib.
    """
    heat_HW = relative_to_uniform(heat_HW)
    highest = highest_of(heat_HW) if highest is None else highest
    if not (highest > 1 and math.isfinite(highest)):
        raise ValueError(f"highest must be above 1, but is {highest}")
    size = (image.height, image.width)
    fine = interpolate(heat_HW[None, None], size=size, mode="bicubic", align_corners=False)[0, 0]
    share = ((fine - 1) / (highest - 1)).clamp(0, 1)
    grey = torch.frombuffer(bytearray(image.convert("L").tobytes()), dtype=torch.uint8).view(size).float()
    grey = 51 + grey * 0.8  # no black, on which the dark end of the colours would be lost
    alpha = (_OPAQUE * share)[..., None]
    mixed = alpha * _colours(share) + (1 - alpha) * grey[..., None]
    return Image.fromarray(mixed.round().to(torch.uint8).numpy(), "RGB")


def colour_bar(highest: float, width: int = 440) -> Image.Image:
    """The colour scale of [`overlay`], from 1 × uniform to `highest`, on the grey that it lies on."""
    row = scale_colours(width).round().to(torch.uint8)
    bar = Image.new("RGB", (width, 48), "white")
    bar.paste(Image.fromarray(row.expand(20, width, 3).contiguous().numpy(), "RGB"), (0, 0))
    draw, font = ImageDraw.Draw(bar), ImageFont.load_default(20)  # large enough where pages show half the width
    draw.text((2, 22), "1 x uniform", fill="black", font=font)
    label = f"{highest:.3g} x uniform"
    draw.text((width - 2 - draw.textlength(label, font), 22), label, fill="black", font=font)
    return bar


def scale_colours(count: int) -> Tensor:
    """(count, 3) float32 in [0, 255]: what [`overlay`] makes of a medium grey, from uniform to the end of the scale."""
    share = torch.linspace(0, 1, count)
    alpha = (_OPAQUE * share)[:, None]
    return alpha * _colours(share) + (1 - alpha) * 153


def _colours(share: Tensor) -> Tensor:
    try:
        from matplotlib import colormaps
    except ImportError as error:
        raise ImportError('Heat maps need matplotlib: pip install "beta-clip-hf[search]"') from error
    return torch.from_numpy(colormaps["viridis"](share.numpy())[..., :3]).float() * 255
