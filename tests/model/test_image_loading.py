"""A processor reads images exactly as training does: orientation, grey of 16 bits, palettes, transparency, arrays."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from beta_clip_hf import BetaCLIPDataCollator, BetaCLIPProcessor
from beta_clip_hf.data.images import load_image
from beta_clip_hf.model.image_loading_beta_clip import load_images


def photo(width=48, height=30):
    """A picture that no turn and no mirror leaves as it is."""
    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([columns * 5, rows * 8, (columns * rows) % 251], axis=2)
    return Image.fromarray(pixels.astype(np.uint8))


def encoded(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def with_orientation(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(photo(), "JPEG", exif=exif, quality=95)


def transparent_palette():
    image = photo().quantize(16)
    return encoded(image, transparency=bytes([0, 128] + [255] * 14))


def one_transparent_color():
    return encoded(photo().quantize(16), transparency=3)


def grey_of_16_bits():
    return encoded(Image.fromarray((np.arange(48 * 30).reshape(30, 48) * 45).astype(np.uint16)))


FILES = {
    **{f"EXIF {orientation}": with_orientation(orientation) for orientation in range(1, 9)},
    "16 bits": grey_of_16_bits(),
    "palette with transparency": transparent_palette(),
    "palette with one transparent color": one_transparent_color(),
    "CMYK": encoded(photo().convert("CMYK"), "TIFF"),
    "grey": encoded(photo().convert("L")),
    "grey with alpha": encoded(photo().convert("LA")),
    "RGBA": encoded(photo().convert("RGBA")),
    "1 bit": encoded(photo().convert("1")),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", FILES)
def test_the_processor_sees_what_training_sees(name, tiny_processor, tmp_path):
    data = FILES[name]
    path = tmp_path / "photo"
    path.write_bytes(data)
    collator = BetaCLIPDataCollator(tiny_processor, caption_mode="caption_only")
    trained = collator([{"image": str(path), "caption": "a photo"}])["pixel_values"]
    for form in (data, path, str(path), {"bytes": data, "path": None}, Image.open(path)):
        plain = tiny_processor(images=form, return_tensors="pt")["pixel_values"]
        assert torch.equal(plain, trained)
        flat = tiny_processor(images=[form], hierarchies=["a photo"])["pixel_values"]
        assert torch.equal(flat, trained)
        in_list = tiny_processor(images=[form, form], text=["a"], return_tensors="pt")["pixel_values"]
        assert torch.equal(in_list, trained.expand(2, -1, -1, -1))


def test_all_orientations_show_the_same_upright_photo():
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    for orientation, turn in turns.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        # As a camera stores it: turned, with the tag that turns it back.
        stored = encoded(photo().transpose(turn), exif=exif)
        for form in (stored, Image.open(io.BytesIO(stored))):
            loaded = load_image(form)
            assert loaded.tobytes() == photo().tobytes(), orientation
            # What was turned once is not turned again, and the caller's image stays his.
            assert load_image(loaded).tobytes() == photo().tobytes()
    assert Image.open(io.BytesIO(stored)).getexif()[0x0112] == 8


def test_a_loaded_image_comes_back_as_it_is():
    image = photo()
    assert load_image(image) is image


def test_arrays_and_tensors_of_integers_give_the_pixels_of_their_picture(tiny_processor):
    pixels = np.asarray(photo())
    grey = np.asarray(photo().convert("L"))
    wanted = tiny_processor(images=photo(), return_tensors="pt")["pixel_values"]
    wanted_grey = tiny_processor(images=photo().convert("L"), return_tensors="pt")["pixel_values"]
    forms = (pixels, pixels.transpose(2, 0, 1), torch.tensor(pixels), torch.tensor(pixels).permute(2, 0, 1))
    for form in (*forms, pixels.astype(np.int64), pixels[None], torch.tensor(pixels)[None]):
        assert torch.equal(tiny_processor(images=form, return_tensors="pt")["pixel_values"], wanted)
        assert torch.equal(tiny_processor(images=form, hierarchies=["a"])["pixel_values"], wanted)
    for form in (grey, grey[:, :, None], grey[None], grey.astype(np.uint16) * 257):
        assert torch.equal(tiny_processor(images=[form], return_tensors="pt")["pixel_values"], wanted_grey)
    batch = torch.stack([forms[3], forms[3]])
    assert tiny_processor(images=batch, return_tensors="pt")["pixel_values"].shape == (2, 3, 32, 32)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("kind", [np.asarray, torch.tensor])
def test_floats_give_the_pixels_of_their_picture(tiny_processor, dtype, kind):
    pixels = np.asarray(photo())
    wanted = tiny_processor(images=photo(), return_tensors="pt")["pixel_values"]
    for floats in (pixels.astype(dtype), (pixels / 255).astype(dtype), (pixels + 0.3).clip(max=255).astype(dtype)):
        forms = (floats, floats.transpose(2, 0, 1).copy(), floats[None])
        for form in (*map(kind, forms), [kind(floats)]):
            for call in ({}, {"hierarchies": ["a"]}):
                assert torch.equal(tiny_processor(images=form, **call, return_tensors="pt")["pixel_values"], wanted)


def test_a_dark_image_of_a_batch_of_floats_stays_dark(tiny_processor):
    batch = np.stack([np.ones((32, 32, 3)), np.full((32, 32, 3), 200.0)])
    pixel_values = tiny_processor(images=batch, return_tensors="pt")["pixel_values"]
    integers = tiny_processor(images=batch.astype(np.uint8), return_tensors="pt")["pixel_values"]
    assert torch.equal(pixel_values, integers)


def test_floats_that_are_not_rescaled_and_stated_axes_are_left_to_the_image_processor(tiny_processor, monkeypatch):
    pixels = np.asarray(photo())
    shares = (pixels / 255).astype(np.float32)
    for options in ({"do_rescale": False}, {"rescale_factor": 0.5}):
        wanted = tiny_processor.image_processor(shares, **options, return_tensors="pt")["pixel_values"]
        for place in (options, {"images_kwargs": options}):
            processed = tiny_processor(images=shares, **place, return_tensors="pt")["pixel_values"]
            assert torch.equal(processed, wanted)
    monkeypatch.setattr(tiny_processor.image_processor, "do_rescale", False)
    processed = tiny_processor(images=shares, return_tensors="pt")["pixel_values"]
    assert torch.equal(processed, tiny_processor.image_processor(shares, return_tensors="pt")["pixel_values"])
    monkeypatch.undo()
    for options in ({"input_data_format": "channels_last"}, {"images_kwargs": {"input_data_format": "channels_last"}}):
        processed = tiny_processor(images=pixels, return_tensors="pt", **options)["pixel_values"]
        expected = tiny_processor.image_processor(pixels, return_tensors="pt", input_data_format="channels_last")
        assert torch.equal(processed, expected["pixel_values"])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([photo(), None], r"images\[1\]: image must be a path, bytes or a PIL image, but is missing"),
        ([7], r"images\[0\]: image must be a path, bytes or a PIL image, but is 7"),
        ("absent.jpg", "image must be readable, but is 'absent.jpg'"),
        (b"abc", "image must be readable, but is 3 bytes"),
        (np.zeros((5, 6, 7), np.uint8), r"an array must be \(height, width\), .* but has shape \(5, 6, 7\)"),
        (np.full((4, 5, 3), 300), "integers of an array must be within 0 and 255, but are within 300 and 300"),
        (np.full((4, 5, 3), -1), "integers of an array must be within 0 and 255, but are within -1 and -1"),
        (np.zeros((0, 5, 3), np.uint8), r"an array must be \(height, width\)"),
        (
            np.full((4, 5, 3), np.nan),
            r"floats of an array must be from 0 to 1 or .* from nan to nan: pass do_re",
        ),
        (np.full((4, 5, 3), -0.5), "floats of an array must be from 0 to 1 or .* but are from -0.5 to -0.5"),
        ([torch.full((3, 4, 5), 256.0)], r"images\[0\]: the floats of an array must be .* but are from 256 to 256"),
    ],
)
def test_what_is_no_image_is_named(tiny_processor, images, message):
    for options in ({"text": "a"}, {"hierarchies": ["a"]}):
        with pytest.raises(ValueError, match=message):
            tiny_processor(images=images, **options)


def test_boxes_follow_the_turned_image(tiny_tokenizer):
    processor = BetaCLIPProcessor.from_image_size(tiny_tokenizer, 32, squash=True)
    regions = [[{"box": [0, 0, 15, 24], "text": "a corner"}]]
    # Stored 48 wide and 30 high, and shown 30 wide and 48 high.
    boxes = processor(images=[with_orientation(6)], hierarchies=["a"], regions=regions)["boxes"]
    torch.testing.assert_close(boxes, torch.tensor([[0, 0, 0.5, 0.5]]))


def test_nested_lists_are_flat():
    assert [image.size for image in load_images([[photo()], [photo(20, 10), photo()]])] == [
        (48, 30),
        (20, 10),
        (48, 30),
    ]
