# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""The one place where image files are opened: which formats, which files, and how large an image may be."""

import io
import math
import os
import stat
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from threading import Lock
from typing import Any

from PIL import Image, ImageFile, PngImagePlugin, UnidentifiedImageError


# Photos come in these. Pillow has more: EPS, for one, would start Ghostscript. HEIF and JXL need plugins.
IMAGE_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF", "HEIF", "JXL")
_ENVIRONMENT = "BETA_CLIP_IMAGE_"
_MEGA = 10**6
_SECONDS_TO_CONNECT = 60

# Bytes of a pixel in Pillow's memory by mode, and what the conversion to RGB takes beside them.
_BYTES_OF_MODES = {
    "RGB": (4, 0),
    "1": (1, 4),
    "L": (1, 4),
    "P": (1, 8),
    "LA": (4, 4),
    "PA": (4, 4),
    "RGBA": (4, 4),
    "CMYK": (4, 4),
    "YCbCr": (4, 4),
    "LAB": (4, 4),
}
# Grey of more bits goes through arrays of floats.
_BYTES_OF_OTHER_MODES = (4, 16)
# Bytes of a pixel that a decoder needs of its own.
_BYTES_OF_DECODERS = {"WEBP": 8, "AVIF": 8, "HEIF": 8, "JXL": 8, "JPEG2000": 16, "TIFF": 4}
# An image that is turned upright is there twice for a moment.
_BYTES_OF_TURNING = 4
_ORIENTATION, UPRIGHT = 0x0112, 1

_lock = Lock()
# How many images are being read, and Pillow's own limits, which are put back after the last one.
_readers = 0
_limits_of_pillow: tuple[Any, int, int] = (None, 0, 0)


@dataclass(frozen=True)
class ImageLimits:
    """
    Sets how large an image may be. Each limit is checked before a pixel is decoded.

    Args:
        side: Largest width and height in pixels.
        megapixels: Largest number of pixels in millions: twice the number at which Pillow warns.
        megabytes: Largest memory for decoding an image and making it RGB, and largest file that is downloaded. The
            default is below three times what a photo of 12 megapixels takes on its way through an image processor.
        metadata_megabytes: Largest size of the texts and profiles in a PNG, unpacked.

    Each is set for a process and its children by an environment variable, as `BETA_CLIP_IMAGE_MEGABYTES=2000`.
    """

    side: float = 100_000
    megapixels: float = 178.956970
    megabytes: float = 440
    metadata_megabytes: float = 64

    @classmethod
    def from_environment(cls) -> "ImageLimits":
        """
        Returns the limits of this process.

        Raises:
            ValueError: if a variable is no number above 0.
        """
        values = {}
        for field in fields(cls):
            variable = _ENVIRONMENT + field.name.upper()
            text = os.environ.get(variable)
            if text is None:
                continue
            try:
                values[field.name] = float(text)
            except ValueError:
                values[field.name] = 0.0
            # Written so that NaN, which compares as false, is refused as well.
            if not values[field.name] > 0:
                raise ValueError(f"{variable} must be a number above 0, but is {text!r}")
        return cls(**values)

    def check(self, image: Image.Image) -> None:
        """
        Checks an image that is opened, but not decoded.

        Raises:
            ValueError: if it is larger than a limit; the message names the variable to set.
        """
        width, height = image.size
        pixels = width * height
        megabytes = pixels * bytes_of_pixel(image) / _MEGA
        if max(width, height) > self.side:
            raise _too_large(image, f"a side may have {self.side:,.0f} pixels", "side")
        if pixels > self.megapixels * _MEGA:
            raise _too_large(image, f"an image may have {self.megapixels:,.0f} megapixels", "megapixels")
        if megabytes > self.megabytes:
            needed = f"reading it takes {megabytes:,.0f} MB, of at most {self.megabytes:,.0f}"
            raise _too_large(image, needed, "megabytes")


def _too_large(image: Image.Image, limit: str, name: str) -> ValueError:
    width, height = image.size
    return ValueError(
        f"it has {width} × {height} pixels, but {limit}: make it smaller, or set {_ENVIRONMENT}{name.upper()}"
    )


def bytes_of_pixel(image: Image.Image) -> int:
    """Returns the bytes of memory for each pixel of an image, from its decoder to RGB."""
    stored, converted = _BYTES_OF_MODES.get(image.mode, _BYTES_OF_OTHER_MODES)
    decoder = _BYTES_OF_DECODERS.get(image.format or "", 0)
    if image.info.get("progressive"):
        decoder = _bytes_of_coefficients(image)
    turning = _BYTES_OF_TURNING if _may_be_turned(image) else 0
    return stored + max(converted, decoder, turning)


def _bytes_of_coefficients(image: Image.Image) -> int:
    """Returns the bytes that libjpeg keeps for each pixel of a progressive JPEG: two for each sample."""
    # Of each colour: its name, its samples per block of pixels in both directions, its table.
    samples = [across * down for _, across, down, _ in getattr(image, "layer", ())]
    return math.ceil(2 * sum(samples) / max(samples, default=1))


def _may_be_turned(image: Image.Image) -> bool:
    if image.format == "PNG":
        # Asking a PNG for its EXIF decodes it.
        return "exif" in image.info
    return orientation_of(image) != UPRIGHT


def orientation_of(image: Image.Image) -> int:
    """Returns how a camera was held, as EXIF numbers it. EXIF that cannot be read says nothing: it is upright."""
    try:
        orientation: int = image.getexif().get(_ORIENTATION, UPRIGHT)
    # Each format has exceptions of its own, and the pixels are whole.
    except Exception:
        return UPRIGHT
    return orientation


@contextmanager
def opened_image(source: str | Path | bytes, limits: ImageLimits | None = None) -> Iterator[Image.Image]:
    """
    Opens an image file, without decoding it.

    Args:
        source: A path, or the bytes of a file.
        limits: How large it may be; those of the process by default.

    Raises:
        ValueError: if it is no regular file, of no format in `IMAGE_FORMATS`, or larger than [`ImageLimits`].
        OSError: if the file is not there, or cannot be read.
    """
    limits = limits or ImageLimits.from_environment()
    with ExitStack() as stack:
        stack.enter_context(_without_limits_of_pillow(limits))
        file: Any = io.BytesIO(source) if isinstance(source, bytes) else stack.enter_context(regular_file(source))
        # Only the formats that this installation has.
        Image.init()
        formats = [name for name in IMAGE_FORMATS if name in Image.OPEN]
        try:
            image = stack.enter_context(Image.open(file, formats=formats))
        except UnidentifiedImageError:
            raise ValueError(f"its content must be one of {', '.join(formats)}, but is damaged or another") from None
        limits.check(image)
        yield image


def check_lazy_image(image: Image.Image) -> None:
    """
    Checks an image that was opened elsewhere and may not be decoded yet.

    Raises:
        ValueError: if its format is not in `IMAGE_FORMATS`, or it is larger than [`ImageLimits`].
    """
    if not isinstance(image, ImageFile.ImageFile):
        return
    if image.format not in IMAGE_FORMATS:
        raise ValueError(f"its content must be one of {', '.join(IMAGE_FORMATS)}, but is {image.format}")
    ImageLimits.from_environment().check(image)


def download(address: str) -> bytes:
    """
    Downloads an image that a caller names by its address.

    Raises:
        ValueError: if it cannot be downloaded, or is larger than `ImageLimits.megabytes`.
    """
    most = int(ImageLimits.from_environment().megabytes * _MEGA)
    request = urllib.request.Request(address, headers={"User-Agent": "beta-clip-hf"})
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS_TO_CONNECT) as answer:
            content: bytes = answer.read(most + 1)
    except OSError as error:
        raise ValueError(f"image must be an address that answers, but is {address!r}: {error}") from error
    if len(content) > most:
        raise ValueError(f"image must have at most {most // _MEGA} MB, but {address!r} has more")
    return content


@contextmanager
def regular_file(path: str | Path) -> Iterator[Any]:
    """
    Opens a file that is no pipe, device or directory: those may block, or never end.

    Raises:
        ValueError: if it is one of them.
        OSError: if the file is not there, or cannot be read.
    """
    # Without waiting: a pipe would wait for somebody who writes.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError("it must be a regular file, but is a directory, pipe or device")
    with open(descriptor, "rb") as file:
        yield file


@contextmanager
def _without_limits_of_pillow(limits: ImageLimits) -> Iterator[None]:
    """Replaces Pillow's limits by ours while images are read. They are variables of the whole process."""
    global _readers, _limits_of_pillow
    with _lock:
        if _readers == 0:
            kept = (Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY)
            _limits_of_pillow = kept
        _readers += 1
        Image.MAX_IMAGE_PIXELS = None
        most = int(limits.metadata_megabytes * _MEGA)
        PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = most
    try:
        yield
    finally:
        with _lock:
            _readers -= 1
            if _readers == 0:
                kept = _limits_of_pillow
                Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY = kept


__all__ = [
    "IMAGE_FORMATS",
    "UPRIGHT",
    "ImageLimits",
    "bytes_of_pixel",
    "check_lazy_image",
    "download",
    "opened_image",
    "orientation_of",
    "regular_file",
]
