# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""The one place where images are read, for training and for inference alike: orientation, modes, numbers of a pixel."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from .image_files_beta_clip import UPRIGHT, check_lazy_image, download, opened_image, orientation_of


# Numbers of channels that an array may have: grey, grey with alpha, RGB, RGBA.
_CHANNELS = (1, 2, 3, 4)
# Longer values are cut in error messages.
_LONGEST_SHOWN, _LONGEST_PATH = 80, 300


def load_image(image: Any) -> Image.Image:
    """
    Reads and decodes an image.

    Args:
        image: A PIL image, a path, the bytes of an image file, or the dict `{"bytes": …, "path": …}` of `datasets`.

    Returns:
        A PIL image in RGB, turned as its EXIF orientation says. A transparent background only loses its transparency.
        Grey of 16 bits, or of floats from 0 to 1, becomes grey of 8 bits. An image that was loaded before comes back
        as it is.

    Raises:
        ValueError: if the image cannot be read, is cut short, or holds other numbers; the message names the image.
    """
    if isinstance(image, Mapping):
        image = image.get("bytes") or image.get("path")
    if not isinstance(image, (Image.Image, str, Path, bytes)):
        raise ValueError(f"image must be a path, bytes or a PIL image, but is {_shown(image)}")
    try:
        if isinstance(image, Image.Image):
            check_lazy_image(image)
            if orientation_of(image) != UPRIGHT:
                # Not in place: the image is the caller's.
                image = ImageOps.exif_transpose(image)
            image.load()
            return _to_rgb(image)
        with opened_image(image) as opened:
            opened.load()
            if orientation_of(opened) != UPRIGHT:
                # In place, because the other form keeps the image beside its copy.
                ImageOps.exif_transpose(opened, in_place=True)
            return _to_rgb(opened)
    # Each codec has exceptions of its own for a broken file.
    except Exception as error:
        name = repr(str(image)[:_LONGEST_PATH])
        if isinstance(image, bytes):
            name = f"{len(image)} bytes"
        # Without the path, which is there already and may be long.
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"image must be readable, but is {name}: {reason}") from error


def load_images(images: Any, channels_are_inferred: bool = True, floats_are_rescaled: bool = True) -> list[Any]:
    """
    Reads all images that a processor is called with.

    Args:
        images: An image, or a list of images, nested or not. An image is what [`load_image`] reads, an address that
            begins with "http", or an array or tensor: `(height, width)`, `(height, width, channels)` or `(channels,
            height, width)`, also with a first axis for several images.
        channels_are_inferred: Whether arrays may be converted. Where a caller says himself which axis of an array holds
            the channels, arrays are left for the image processor.
        floats_are_rescaled: Whether the image processor will divide numbers by 255. Floats are then colours, from 0 to
            255 or, if none is above 1, from 0 to 1. Otherwise they are left as they are.

    Returns:
        A flat list. Arrays of integers and of colours become PIL images, so that the same picture gives the same pixels
        in each form. Tensors on an accelerator are left as they are, but for colours from 0 to 1, which are multiplied
        by 255.

    Raises:
        ValueError: if an image cannot be read, an array has another shape, or colours are not within 0 and 255; the
            message names the image.
    """
    if isinstance(images, (list, tuple)):
        loaded = []
        for number, image in enumerate(images):
            try:
                loaded += load_images(image, channels_are_inferred, floats_are_rescaled)
            except ValueError as error:
                raise ValueError(f"images[{number}]: {error}") from error
        return loaded
    if isinstance(images, torch.Tensor) and images.device.type == "cpu":
        # Shares its memory; transformers takes arrays wherever it takes tensors.
        images = images.detach().float().numpy() if images.is_floating_point() else images.detach().numpy()
    if isinstance(images, str) and images.startswith(("http://", "https://")):
        images = download(images)
    if not isinstance(images, (np.ndarray, torch.Tensor)):
        return [load_image(images)]
    is_float = images.is_floating_point() if isinstance(images, torch.Tensor) else images.dtype.kind == "f"
    if is_float and floats_are_rescaled:
        # Before a batch is divided: a dark image of it would be taken for one of shares.
        images = _colors_to_255(images)
        is_float = isinstance(images, torch.Tensor)
    if images.ndim == 4:
        # Floats that are left are to be left.
        return load_images(list(images), channels_are_inferred, floats_are_rescaled=False)
    if isinstance(images, torch.Tensor) or is_float or not channels_are_inferred:
        return [images]
    return [load_image(_image_of_integers(images))]


def _colors_to_255(images: np.ndarray | torch.Tensor) -> np.ndarray | torch.Tensor:
    """
    Returns colours from 0 to 255, in an array as integers. Where none is above 1, they were shares of white.

    Raises:
        ValueError: if a number is negative, above 255 or NaN.
    """
    if 0 in images.shape:
        return images
    lowest, highest = float(images.min()), float(images.max())
    # Written so that NaN, which compares as false, is refused as well.
    is_in_range = lowest >= 0 and highest <= 255
    if not is_in_range:
        raise ValueError(
            f"the floats of an array must be from 0 to 1 or from 0 to 255, but are from {lowest:g} to {highest:g}: "
            "pass do_rescale=False for other numbers"
        )
    factor = 255 if highest <= 1 else 1
    if isinstance(images, torch.Tensor):
        return images * factor
    # In single precision: half precision has too few digits near 255.
    return (images.astype(np.float32) * factor).round().astype(np.uint8)


def _image_of_integers(array: np.ndarray) -> Image.Image:
    """
    Makes a PIL image of an array of integers or booleans.

    Raises:
        ValueError: if no image has its shape or its numbers.
    """
    has_channels_first = array.ndim == 3 and array.shape[0] in _CHANNELS and array.shape[2] not in _CHANNELS
    if has_channels_first:
        array = array.transpose(1, 2, 0)
    has_channels_last = array.ndim == 3 and array.shape[2] in _CHANNELS
    if array.size == 0 or not (array.ndim == 2 or has_channels_last):
        raise ValueError(
            "an array must be (height, width), (height, width, channels) or (channels, height, width) with 1 to 4 "
            f"channels, but has shape {array.shape}"
        )
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.dtype in (np.bool_, np.uint8):
        return Image.fromarray(np.ascontiguousarray(array))
    lowest, highest = int(array.min()), int(array.max())
    if array.ndim == 2 and array.dtype == np.uint16:
        return Image.fromarray(np.ascontiguousarray(array))
    if lowest < 0 or highest > 255:
        raise ValueError(
            f"the integers of an array must be within 0 and 255, but are within {lowest} and {highest}; only grey of "
            "16 bits (uint16) may have more"
        )
    return Image.fromarray(np.ascontiguousarray(array.astype(np.uint8)))


def _to_rgb(image: Image.Image) -> Image.Image:
    # Pillow would cut grey of more than 8 bits off at 255.
    if image.mode == "F" or image.mode.startswith("I"):
        image = _to_8_bits(image)
    if image.mode == "RGB":
        return image
    if image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
        # The colours are the same; Pillow warns about the direct way.
        image = image.convert("RGBA")
    return image.convert("RGB")


def _to_8_bits(image: Image.Image) -> Image.Image:
    """
    Scales grey of 16 bits, or of floats from 0 to 1, to 8 bits.

    Raises:
        ValueError: if a number is out of range or NaN.
    """
    values = np.asarray(image)
    lowest, highest = values.min(), values.max()
    if image.mode == "F":
        white = 1
    # Some versions of Pillow read grey of 16 bits as mode I, which has 32.
    elif image.mode == "I" and highest <= 255:
        white = 255
    else:
        white = 65535
    # Written so that NaN, which compares as false, is refused as well.
    is_in_range = lowest >= 0 and highest <= white
    if not is_in_range:
        raise ValueError(f"its numbers must be within 0 and {white}, but are within {lowest:g} and {highest:g}")
    return Image.fromarray((values.astype(np.float32) * (255 / white)).round().astype(np.uint8))


def _shown(value: Any) -> str:
    """Formats a value for an error message, cut to 80 characters. `None` is shown as "missing"."""
    if value is None:
        return "missing"
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 3]}..."


__all__ = ["load_image", "load_images"]
