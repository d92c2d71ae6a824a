"""Regions of a row, and whether their boxes lie in the image."""

import json

import pytest

from beta_clip_hf.data.regions import check_boxes_in_image, regions_of
from beta_clip_hf.data.rows import check_row


def row(**fields):
    return {"image": "cat.jpg", "caption": "A cat sleeps.", **fields}


def region(*box, **fields):
    return {"box": list(box), "text": "a cat", **fields}


PLACES = {
    "normalised": ({"box_format": "xyxy_normalized"}, [0, 0.25, 1, 1], True),
    "normalised, rounded": ({"box_format": "xyxy_normalized"}, [-0.01, -0.009, 1.01, 1.009], True),
    "normalised, too far right": ({"box_format": "xyxy_normalized"}, [0, 0, 1.011, 1], False),
    "normalised, too far down": ({"box_format": "xyxy_normalized"}, [0, 0, 1, 1.02], False),
    "normalised, too far left": ({"box_format": "xyxy_normalized"}, [-0.02, 0, 1, 1], False),
    "normalised, too far up": ({"box_format": "xyxy_normalized"}, [0, -0.02, 1, 1], False),
    "normalised, but pixels": ({"box_format": "xyxy_normalized", "width": 640, "height": 480}, [5, 5, 90, 90], False),
    "pixels": ({"width": 640, "height": 480}, [0, 0, 640, 480], True),
    "pixels, rounded": ({"width": 640, "height": 480}, [-6.4, -4.8, 646.4, 484.8], True),
    "pixels, too wide": ({"width": 640, "height": 480}, [0, 0, 647, 480], False),
    "pixels, too high": ({"width": 640, "height": 480}, [0, 0, 640, 485], False),
    "pixels, sides exchanged": ({"width": 480, "height": 640}, [0, 0, 640, 480], False),
    "pixels, height unknown": ({"width": 640}, [0, 0, 9000, 9000], True),
    "pixels, sizes of nothing": ({"width": 0, "height": 0}, [0, 0, 9, 9], True),
    "pixels, sizes that are none": ({"width": "640", "height": True, "depth": 2}, [0, 0, 9000, 9000], True),
}


@pytest.mark.parametrize("kind", PLACES)
def test_a_region_lies_in_its_image(kind):
    fields, box, lies_inside = PLACES[kind]
    bad = row(regions=[region(0, 0, 0.5, 0.5), region(*box)], **fields)
    if lies_inside:
        assert check_row(bad) == bad
    else:
        image = "image, between 0 and 1" if "box_format" in fields else f"image of {fields['width']} × "
        with pytest.raises(ValueError) as error:
            check_row(bad)
        assert str(error.value).startswith(f"regions[1].box must lie in the {image}")
        assert str(error.value).endswith(f"but is {box}")


def test_boxes_of_phrases_are_not_held_against_the_stated_size():
    """They are pixels whatever `box_format` says, and are looked at with the image itself."""
    phrases = [{"text": "a cat", "boxes": [[0, 0, 900, 900]]}]
    for fields in ({"box_format": "xyxy_normalized"}, {"width": 640, "height": 480}, {"regions": [], "width": 1}):
        check_row(row(phrases=phrases, **fields))
    with pytest.raises(ValueError, match=r"phrases\[0\]\.boxes\[0\] must lie in the image of 640 × 480 pixels, but is"):
        check_boxes_in_image(row(phrases=phrases), (640, 480))


def test_regions_of_a_row():
    both = row(regions=[region(0, 0, 9, 9, negatives=["a dog"])], phrases=[{"text": "a hat", "boxes": [[1, 1, 2, 2]]}])
    assert regions_of(both) == [{"box": [0, 0, 9, 9], "text": "a cat", "negatives": ["a dog"]}]
    phrases = [
        "a tail",
        {"text": "a hat", "boxes": [[1, 1, 2, 2]], "kind": "noun", "sentence": 0},
        {"text": "two ears", "boxes": [[1, 1, 2, 2], [3, 1, 4, 2]]},
        {"text": "a paw", "boxes": []},
        {"text": "an eye", "boxes": None},
    ]
    for regions in ([], None):
        assert regions_of(row(regions=regions, phrases=phrases)) == [{"box": [1, 1, 2, 2], "text": "a hat"}]
    assert regions_of(row()) == []
    assert regions_of(row(phrases=phrases, box_format="xyxy_pixels")) != []
    assert regions_of(row(phrases=phrases, box_format="xyxy_normalized")) == []  # pixels are no shares


def test_boxes_are_held_against_the_image_when_it_is_loaded():
    regions = [region(0, 0, 640, 480), region(600, 0, 646, 484), region(600, 0, 650, 480)]
    check_boxes_in_image(row(regions=regions[:2]), (640, 480))
    with pytest.raises(ValueError) as error:
        check_boxes_in_image(row(regions=regions), (640, 480))
    assert str(error.value) == ("regions[2].box must lie in the image of 640 × 480 pixels, but is [600, 0, 650, 480]")
    with pytest.raises(ValueError, match=r"regions\[0\]\.box must lie in the image of 480 × 640 pixels"):
        check_boxes_in_image(row(regions=regions), (480, 640))
    shares = row(regions=[region(0, 0, 1, 1)], box_format="xyxy_normalized")
    check_boxes_in_image(shares, (640, 480))
    with pytest.raises(
        ValueError, match=r"regions\[0\]\.box must lie in the image, between 0 and 1, but is \[0, 0, 2, 1\]"
    ):
        check_boxes_in_image({**shares, "regions": [region(0, 0, 2, 1)]}, (640, 480))
    check_boxes_in_image(row(), (640, 480))


def test_boxes_of_real_photos_lie_in_them(shared_dir):
    with open(shared_dir / "data/photos/train.jsonl", encoding="utf-8") as file:
        rows = [check_row(json.loads(line)) for line in file]
    boxes = 0
    for checked in rows:
        check_boxes_in_image(checked, (checked["width"], checked["height"]))
        boxes += len(regions_of(checked))
    assert boxes > 500
