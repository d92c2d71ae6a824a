"""Boxes follow the image processor. The tests draw them, and look where their pixels are in what the model sees."""

from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from transformers import CLIPImageProcessorPil
from transformers.utils import is_torchvision_available

from beta_clip_hf import BetaCLIPProcessor
from beta_clip_hf.model.boxes_beta_clip import (
    box_in_view,
    checked_pixel_box,
    corner_box,
    cut_box,
    has_area,
    pixel_box,
    seen_box,
    visible_share,
)
from beta_clip_hf.model.image_views_beta_clip import boxes_in_view, seen_size, view_of_image


BACKENDS = [CLIPImageProcessorPil]
if is_torchvision_available():
    from transformers import CLIPImageProcessor

    BACKENDS.append(CLIPImageProcessor)


def clip_processor(size, crop=None, backend=CLIPImageProcessorPil, **kwargs):
    crop_size = {"height": crop, "width": crop} if crop else None
    return backend(size=size, crop_size=crop_size, do_center_crop=bool(crop), do_normalize=False, **kwargs)


OPTIONS = {
    "clip": {"size": {"shortest_edge": 64}, "crop": 64},
    "squash": {"size": {"height": 64, "width": 64}},
    "crop of a larger resize": {"size": {"shortest_edge": 96}, "crop": 64},
    "padding": {"size": {"shortest_edge": 40}, "crop": 64},
    "no resize": {"size": {"shortest_edge": 64}, "crop": 64, "do_resize": False},
}
PROCESSORS = {name: clip_processor(**options) for name, options in OPTIONS.items()}


def red_rectangle_as_the_model_sees_it(image_size, box, processor):
    """Draws the box, runs the processor, and reads off where the red is: the mapping by experiment."""
    image = Image.new("RGB", image_size, (0, 0, 255))
    x1, y1, x2, y2 = box
    ImageDraw.Draw(image).rectangle((x1, y1, x2 - 1, y2 - 1), fill=(255, 0, 0))
    pixels = processor(image, return_tensors="pt")["pixel_values"][0]
    red = pixels[0] > 0.5
    assert red.any()
    columns, rows = red.any(0).nonzero()[:, 0], red.any(1).nonzero()[:, 0]
    size = torch.tensor([red.shape[1], red.shape[0]] * 2)
    return torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) / size


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("image_size", [(160, 96), (90, 200), (101, 77), (64, 64)])
def test_a_box_lands_where_the_processor_puts_its_pixels(backend, name, image_size):
    width, height = image_size
    box = [width // 2 - 20, height // 2 - 12, width // 2 + 24, height // 2 + 20]
    processor = clip_processor(**OPTIONS[name], backend=backend)
    expected = red_rectangle_as_the_model_sees_it(image_size, box, processor)
    (mapped,) = boxes_in_view([box], image_size, processor)
    torch.testing.assert_close(torch.tensor(mapped), expected, atol=1.5 / 64, rtol=0)


def test_a_box_at_the_edge_is_cut_and_one_outside_is_dropped():
    boxes = [[0, 0, 60, 50], [0, 0, 40, 50], [150, 0, 200, 100]]  # the view is 50..150
    assert boxes_in_view(boxes, (200, 100), PROCESSORS["clip"]) == [pytest.approx((0.0, 0.0, 0.1, 0.5))]
    assert boxes_in_view(boxes[1:], (200, 100), PROCESSORS["clip"]) == []
    assert len(boxes_in_view(boxes, (200, 100), PROCESSORS["squash"])) == 3


def test_the_view_of_an_image_is_what_a_crop_of_it_shows():
    image = Image.radial_gradient("L").convert("RGB").resize((120, 70))
    seen = PROCESSORS["clip"](image, return_tensors="pt")["pixel_values"]
    cropped = PROCESSORS["squash"](image.crop(view_of_image(image.size, PROCESSORS["clip"])), return_tensors="pt")
    torch.testing.assert_close(seen, cropped["pixel_values"], atol=0.02, rtol=0)


def test_an_unknown_kind_of_size_is_refused():
    processor = clip_processor({"shortest_edge": 64, "longest_edge": 80}, 64)
    with pytest.raises(ValueError, match="shortest_edge"):
        view_of_image((200, 100), processor)


@pytest.mark.parametrize("name", OPTIONS)
def test_the_seen_size_is_that_of_the_pixels(name):
    width, height = seen_size(PROCESSORS[name])
    image = Image.new("RGB", (90, 50))
    assert PROCESSORS[name](image, return_tensors="pt")["pixel_values"].shape == (1, 3, height, width)


@pytest.mark.parametrize(
    "processor",
    [
        clip_processor({"shortest_edge": 64}),
        clip_processor({"height": 64, "width": 64}, do_resize=False),
    ],
)
def test_images_of_different_sizes_have_no_seen_size(processor):
    with pytest.raises(ValueError, match="the image processor must give images of one size"):
        seen_size(processor)


def test_formats_of_boxes_name_the_same_pixels():
    for box_format, box in {
        "xyxy_pixels": (20, 10, 60, 40),
        "xywh_pixels": (20, 10, 40, 30),
        "xyxy_normalized": (0.1, 0.1, 0.3, 0.4),
    }.items():
        assert pixel_box(box, box_format, (200, 100)) == pytest.approx((20, 10, 60, 40))
    with pytest.raises(ValueError, match=r"box_format must be one of \('xyxy_normalized', .*, but is 'pixels'"):
        pixel_box((0, 0, 1, 1), "pixels", (200, 100))


def test_a_seen_box_is_converted_moved_and_cut():
    view = (50, 0, 150, 100)
    for box_format, box in {
        "xyxy_pixels": (20, 10, 60, 40),
        "xywh_pixels": (20, 10, 40, 30),
        "xyxy_normalized": (0.1, 0.1, 0.3, 0.4),
    }.items():
        assert seen_box(box, box_format, (200, 100), view) == pytest.approx((0, 0.1, 0.1, 0.4))
    assert corner_box((20, 10, 40, 30)) == (20, 10, 60, 40)


def test_a_box_that_a_user_wrote_is_checked():
    assert checked_pixel_box(torch.tensor([20, 10, 40, 30]), "xywh_pixels", (200, 100), "box") == (20, 10, 60, 40)
    for box in (None, [1, 2, 3], "left", [0, 0, 1, float("inf")]):
        with pytest.raises(ValueError, match="the box must be four finite numbers"):
            checked_pixel_box(box, "xyxy_pixels", (200, 100), "the box")


def test_shares_that_are_seen_against_counted_pixels():
    """Integer boxes and views: every pixel is in or out, so counting them is exact."""
    view = (4, 3, 14, 11)
    for x1, x2 in [(0, 3), (0, 6), (2, 20), (5, 9), (13, 16), (14, 18), (6, 6)]:
        for y1, y2 in [(0, 3), (1, 9), (4, 5), (10, 30), (7, 7)]:
            pixels = list(product(range(x1, x2), range(y1, y2)))
            seen = [(x, y) for x, y in pixels if 4 <= x < 14 and 3 <= y < 11]
            box = box_in_view((x1, y1, x2, y2), view)
            assert visible_share(box) == pytest.approx(len(seen) / len(pixels) if pixels else 0)
            cut = cut_box(box)
            assert (cut[2] - cut[0]) * (cut[3] - cut[1]) * 10 * 8 == pytest.approx(len(seen))
            assert has_area(cut) == bool(seen)
            assert all(0 <= share <= 1 for share in cut)


def test_a_side_that_float32_cannot_hold_is_no_area():
    thin = (0.7, 0.2, 0.7 + 1e-9, 0.9)
    assert torch.tensor(thin)[0] == torch.tensor(thin)[2]
    assert not has_area(thin) and visible_share(thin) == 0
    assert has_area((0.7, 0.2, 0.7001, 0.9))


@pytest.mark.parametrize("backend", BACKENDS)
def test_squashing_is_resizing_to_the_square_before_clip(backend, tiny_tokenizer):
    """What FG-CLIP's own code does by hand."""
    stock = backend(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    before = stock.to_dict()
    processor = BetaCLIPProcessor(stock, tiny_tokenizer)
    picture = Image.effect_mandelbrot((90, 50), (-2, -1, 1, 1), 20).convert("RGB")
    cropped = processor(images=picture, return_tensors="pt")["pixel_values"]
    assert processor.squash_images() is processor
    squashed = processor(images=picture, return_tensors="pt")["pixel_values"]
    by_hand = stock(picture.resize((32, 32), Image.Resampling.BICUBIC), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(squashed, by_hand, atol=0 if backend is CLIPImageProcessorPil else 0.05, rtol=0)
    assert (squashed - cropped).abs().mean() > 0.1
    assert stock.to_dict() == before, "the caller's image processor is not changed"
    again = processor.squash_images()(images=picture, return_tensors="pt")["pixel_values"]
    assert torch.equal(again, squashed)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("squash", [True, False])
@pytest.mark.parametrize("box_format", ["xyxy_pixels", "xywh_pixels", "xyxy_normalized"])
@pytest.mark.parametrize("image_size", [(300, 100), (120, 180), (131, 97)])
def test_the_pixels_in_a_box_are_those_of_the_rectangle(backend, squash, box_format, image_size, tiny_tokenizer):
    """A coloured rectangle that a centre crop cuts on one side: inside of the mapped box its colour, outside not."""
    stock = backend(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}, do_normalize=False)
    processor = BetaCLIPProcessor(stock, tiny_tokenizer)
    if squash:
        processor.squash_images()
    width, height = image_size
    x1, y1, x2, y2 = width // 10, height // 4, width * 6 // 10, height * 3 // 4
    box = {
        "xyxy_pixels": [x1, y1, x2, y2],
        "xywh_pixels": [x1, y1, x2 - x1, y2 - y1],
        "xyxy_normalized": [x1 / width, y1 / height, x2 / width, y2 / height],
    }[box_format]
    image = Image.new("RGB", image_size, (0, 0, 255))
    ImageDraw.Draw(image).rectangle((x1, y1, x2 - 1, y2 - 1), fill=(255, 0, 0))
    for picture in (image, np.array(image), torch.from_numpy(np.array(image)).permute(2, 0, 1)):
        batch = processor(
            images=[picture], hierarchies=["a"], regions=[[{"box": box, "text": "red"}]], box_format=box_format
        )
        left, top, right, bottom = (batch["boxes"][0] * 64).tolist()
        centre = torch.arange(64) + 0.5
        # Within a pixel of the border the resize mixes the colours.
        inside, outside = (
            ((centre > top + margin) & (centre < bottom - margin))[:, None]
            & ((centre > left + margin) & (centre < right - margin))
            for margin in (1.5, -1.5)
        )
        assert inside.sum() > 100 and (~outside).sum() > 100
        red = batch["pixel_values"][0, 0]
        assert red[inside].min() > 0.9
        assert red[~outside].max() < 0.1
    assert squash or (left == 0) == (width > height)


def test_a_box_of_which_nothing_is_seen_has_no_area(tiny_processor):
    image = Image.new("RGB", (96, 32))  # 32..64 is seen
    boxes = [[0, 0, 30, 32], [70, 3, 96, 20], [40, 5, 40, 9]]
    regions = [[{"box": box, "text": "a"} for box in boxes]]
    mapped = tiny_processor(images=[image], hierarchies=["a"], regions=regions)["boxes"]
    assert mapped.shape == (3, 4) and mapped.min() >= 0 and mapped.max() <= 1
    assert ((mapped[:, 2] - mapped[:, 0]) * (mapped[:, 3] - mapped[:, 1])).tolist() == [0, 0, 0]
