"""Images of every kind become RGB of 8 bits, and errors name the image."""

import io

import numpy as np
import pytest
from PIL import Image

from beta_clip_hf.data.images import check_image_file, load_image


def encoded(image: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def test_load_image_reads_every_kind(tmp_path):
    image = Image.new("RGB", (6, 4), (200, 10, 30))
    image.save(tmp_path / "a.png")
    data = encoded(image)
    for kind in (image, tmp_path / "a.png", str(tmp_path / "a.png"), data, {"bytes": data, "path": None}):
        loaded = load_image(kind)
        assert (loaded.mode, loaded.size, loaded.getpixel((5, 3))) == ("RGB", (6, 4), (200, 10, 30))
    assert load_image({"bytes": None, "path": str(tmp_path / "a.png")}).size == (6, 4)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_load_image_gives_rgb_for_every_mode(mode):
    assert load_image(Image.new(mode, (3, 2))).mode == "RGB"


@pytest.mark.parametrize(
    ("kind", "format", "options"),
    [
        ("I;16", "PNG", {}),
        ("I;16", "TIFF", {}),
        ("I;16B", "TIFF", {"big_endian": True}),
        ("I", "TIFF", {}),
        ("I of 8 bits", "TIFF", {}),
        ("F", "TIFF", {}),
    ],
)
def test_grey_of_more_bits_is_that_of_eight(kind, format, options):
    grey = np.arange(256, dtype=np.uint8).reshape(8, 32)
    numbers = {
        "I;16": grey.astype(np.uint16) * 257,
        "I;16B": grey.astype(np.uint16) * 257,
        "I": grey.astype(np.int32) * 257,
        "I of 8 bits": grey.astype(np.int32),
        "F": grey.astype(np.float32) / 255,
    }[kind]
    image = Image.fromarray(numbers)
    expected = load_image(Image.fromarray(grey)).tobytes()
    assert load_image(image).tobytes() == expected
    assert load_image(encoded(image, format, **options)).tobytes() == expected


@pytest.mark.parametrize(
    ("number", "kind", "told"),
    [
        (-0.5, np.float32, "within 0 and 1, but are within -0.5 and 1"),
        (300, np.float32, "within 0 and 1, but are within 1 and 300"),
        (np.nan, np.float32, "within 0 and 1, but are within nan and nan"),
        (-1, np.int32, "within 0 and 255, but are within -1 and 1"),
        (70_000, np.int32, "within 0 and 65535, but are within 1 and 70000"),
    ],
)
def test_numbers_that_are_no_grey_are_refused(number, kind, told):
    file = encoded(Image.fromarray(np.array([[1, number], [1, 1]], kind)), "TIFF")
    with pytest.raises(ValueError, match=f"image must be readable, but is .* bytes: its numbers must be {told}"):
        load_image(file)


def test_load_image_turns_as_exif_says():
    image = Image.new("RGB", (6, 4))
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the first row is the right side
    loaded = load_image(encoded(image, exif=exif))
    assert loaded.size == (4, 6)
    assert loaded.getpixel((3, 0)) == (255, 255, 255)


def test_load_image_names_what_it_cannot_read(tmp_path):
    whole = encoded(Image.effect_noise((64, 64), 50), "JPEG")
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.jpg").write_text("no image")
    for name in ("cut.jpg", "text.jpg", "absent.jpg"):
        with pytest.raises(ValueError, match=f"image must be readable, but is .*{name}"):
            load_image(tmp_path / name)
    with pytest.raises(ValueError, match="but is 3 bytes"):
        load_image(b"abc")
    for nothing in (None, 7, {"bytes": None, "path": None}):
        with pytest.raises(ValueError, match="image must be a path, bytes or a PIL image"):
            load_image(nothing)


def test_check_image_file_asks_for_paths_only(tmp_path):
    (tmp_path / "a.jpg").touch()
    for fine in (tmp_path / "a.jpg", b"bytes", {"bytes": None, "path": None}, Image.new("L", (1, 1))):
        check_image_file(fine)
    with pytest.raises(ValueError, match=r"image must be an existing file, but is '.*b\.jpg'"):
        check_image_file(str(tmp_path / "b.jpg"))
