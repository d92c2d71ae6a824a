import io
import json
import logging

import numpy as np
import pytest
from PIL import Image

from beta_clip_hf import PhraseExtractor
from beta_clip_hf.data.columns import check_columns, rename_columns
from beta_clip_hf.data.images import check_image_file, load_image
from beta_clip_hf.data.regions import check_boxes_in_image, regions_of
from beta_clip_hf.data.row_texts import hierarchy_of
from beta_clip_hf.data.rows import check_row, row_id


BUILT = {"sentences": ["A cat."], "phrases": ["A cat"], "phrase_sentences": [0], "phrase_kinds": ["noun"]}


def row(**fields):
    return {"image": "cat.jpg", "caption": "A cat sleeps.", **fields}


def encoded(image: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("columns", "named"),
    [
        (["img", "text"], ["'img', 'text'", '"img": "image"', '"text": "caption"']),
        (["image", "description"], ['"description": "caption"']),
        (["caption"], ["'caption'", '"your image column": "image"']),
    ],
)
def test_wrong_columns_are_named_with_the_way_to_rename_them(columns, named):
    with pytest.raises(ValueError, match=r"train\.jsonl must have") as error:
        check_columns(columns, "train.jsonl")
    for part in named:
        assert part in str(error.value)


@pytest.mark.parametrize("caption", ["caption", "captions", "conversations"])
@pytest.mark.parametrize("image", ["image", "file_name"])
def test_columns_that_suffice(image, caption):
    check_columns([image, caption], "here")


def test_rename_columns_lets_the_old_owner_of_a_name_go():
    renamed = rename_columns({"caption": "old", "text": "new", "image": 1}, {"text": "caption"})
    assert renamed == {"caption": "new", "image": 1}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image": None}, "image must be there"),
        ({"caption": ""}, "caption must be a string that is not empty, but is ''"),
        ({"caption": " \n"}, "caption must be"),
        ({"caption": None}, "caption must be a string that is not empty, but is missing"),
        ({"caption": 7}, "caption must be a string that is not empty, but is 7"),
        ({"caption": ["A cat."]}, 'rename it with columns={"caption": "captions"}'),
        ({"captions": "A cat."}, "captions must be a list, but is 'A cat.'"),
        ({"captions": []}, "captions must not be empty"),
        ({"captions": ["A cat.", ""]}, r"captions[1] must be a string that is not empty, but is ''"),
        ({"sentences": "A cat."}, "sentences must be a list"),
        ({"phrases": {"text": "cat"}}, "phrases must be a list"),
        ({"phrases": ["cat", None]}, "phrases[1] must be a string that is not empty, but is missing"),
        ({"phrases": [{"boxes": []}]}, "phrases[0].text must be"),
        ({"phrases": [{"text": "cat", "boxes": [1, 2, 3, 4]}]}, "phrases[0].boxes[0] must be [x1, y1, x2, y2]"),
        ({"phrases": [{"text": "cat", "boxes": [[1, 2, 3]]}]}, "phrases[0].boxes[0] must be"),
        ({"phrases": [{"text": "cat", "boxes": [[0, 0, 1, 1], [3, 2, 1, 4]]}]}, "phrases[0].boxes[1] must be"),
        ({"phrases": [{"text": "cat", "boxes": [[0, 0, float("nan"), 4]]}]}, "phrases[0].boxes[0] must be"),
        ({"phrases": [{"text": "cat", "boxes": [["0", 0, 1, 4]]}]}, "phrases[0].boxes[0] must be"),
        ({"phrases": [{"text": "cat", "sentence": -1}]}, "phrases[0].sentence must be the index"),
        ({"phrase_sentences": [0]}, "sentences, phrases, phrase_kinds must be there beside phrase_sentences"),
        ({**BUILT, "phrase_sentences": ["0"]}, "phrase_sentences[0] must be the index of a sentence, but is '0'"),
        ({**BUILT, "phrase_sentences": 0}, "phrase_sentences must be a list"),
        ({**BUILT, "phrase_kinds": [None]}, "phrase_kinds[0] must be a string"),
        ({"short_caption": ""}, "short_caption must be"),
        ({"regions": ["cat"]}, "regions[0] must have a box and a text"),
        ({"regions": [{"text": "cat"}]}, "regions[0].box must be"),
        (
            {"regions": [{"text": "cat", "box": [0, 0, 1, 1], "negatives": "dog"}]},
            "regions[0].negatives must be a list",
        ),
        (
            {"regions": [{"text": "cat", "box": [0, 0, 1, 1], "negatives": ["dog", " "]}]},
            "regions[0].negatives[1] must be a string that is not empty",
        ),
        ({"regions": [{"text": "cat", "box": [0, 0, 1, 1], "long_text": ""}]}, "regions[0].long_text must be a string"),
        ({"regions": [{"text": "cat", "box": [0, 0, 1, 1]}, {"box": [0, 0, 1, 1]}]}, "regions[1].text must be"),
        ({"regions": [{"text": "cat", "box": [5, 0, 1, 1]}]}, "regions[0].box must be [x1, y1, x2, y2] with x1 <= x2"),
        ({"regions": [{"text": "cat", "box": [0, 0, float("inf"), 1]}]}, "regions[0].box must be"),
        ({"regions": [{"text": "cat", "box": [0, float("-inf"), 1, 1]}]}, "regions[0].box must be"),
        ({"regions": [{"text": "cat", "box": ["a", "b", "c", "d"]}]}, "regions[0].box must be"),
        ({"box_format": "xywh"}, "box_format must be one of ('xyxy_normalized', 'xyxy_pixels'), but is 'xywh'"),
        (
            {"caption": None, "conversations": [{"from": "human", "value": "?"}]},
            'conversations must have a turn from "gpt"',
        ),
    ],
)
def test_a_bad_field_is_named(fields, message):
    with pytest.raises(ValueError) as error:
        check_row(row(**fields))
    assert message in str(error.value)


def test_a_row_with_everything_passes_untouched():
    full = row(
        captions=["A cat sleeps.", "It is black."],
        sentences=["A cat sleeps."],
        phrases=["a cat", {"text": "black", "boxes": [[0, 0, 1.5, 2]], "sentence": 1, "kind": "noun"}],
        short_caption="a cat",
        regions=[
            {"box": [3, 0, 3, 1], "text": "a paw", "negatives": ["a tail"]},  # zero width, as in FG-OVD
            {"box": [0, 0, 640, 480], "text": "a cat", "long_text": "a black cat that sleeps", "negatives": []},
        ],
        box_format="xyxy_pixels",
        width=640,
        height=480,
        licence="CC0",
    )
    assert check_row(full) == full


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
    for one in rows:
        check_boxes_in_image(one, (one["width"], one["height"]))
        boxes += len(regions_of(one))
    assert boxes > 500


def test_none_is_absent_and_captions_are_joined():
    assert check_row(row(caption=None, captions=["A cat.", "It sleeps."], phrases=None)) == {
        "image": "cat.jpg",
        "captions": ["A cat.", "It sleeps."],
        "caption": "A cat. It sleeps.",
    }


def test_the_caption_of_a_conversation_is_the_answer():
    turns = [{"from": "human", "value": "<image>\nDescribe it."}, {"from": "gpt", "value": "A cat."}]
    assert check_row({"image": "x", "conversations": turns}) == {"image": "x", "caption": "A cat."}
    assert check_row(row(conversations=turns))["caption"] == "A cat sleeps."


def test_row_id_is_its_own_or_that_of_its_texts():
    assert row_id({"id": 7}) == "7"
    assert row_id(row()) == row_id({**row(), "image": "dog.jpg"})
    assert row_id(row()) != row_id(row(caption="A dog."))


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


def test_hierarchy_of_keeps_what_the_row_brings():
    captions = ["A black dog runs on the grass .", "A dog plays"]
    phrases = [{"text": "the grass", "boxes": [[0, 0, 2, 2]], "kind": "human"}, "A dog"]
    hierarchy = hierarchy_of(check_row({"image": "x", "captions": captions, "phrases": phrases}))
    assert hierarchy.caption == " ".join(captions)
    assert hierarchy.sentences == tuple(captions)
    assert hierarchy.phrases == ("the grass", "A dog")
    assert hierarchy.phrase_sentences[0] == 0
    assert hierarchy.phrase_sentences[1] == 1
    assert hierarchy_of(row(phrases=[])).phrases == ()
    assert hierarchy_of(row(short_caption="a cat")).short_caption == "a cat"


def test_hierarchy_of_builds_what_is_missing():
    hierarchy = hierarchy_of(row(caption="A white cat sleeps. It is on a red chair."))
    assert hierarchy.sentences == ("A white cat sleeps.", "It is on a red chair.")
    assert {"A white cat", "a red chair"} <= set(hierarchy.phrases)
    nouns = hierarchy_of(row(caption="A white cat is on a red chair."), PhraseExtractor(kinds=["noun"]))
    assert set(nouns.phrase_kinds) == {"noun"}


def test_hierarchy_of_a_row_that_map_text_hierarchy_has_seen():
    built = hierarchy_of(row(caption="A cat sleeps. It is on a chair.", short_caption="cat"))
    assert built.phrases
    assert hierarchy_of(check_row({"image": "x", "id": "1", **built.to_dict()})) == built


def test_a_caption_of_ten_thousand_words(caplog):
    sentence = "The quick brown fox sat on a small red box near nine dogs. "
    with caplog.at_level(logging.WARNING):
        hierarchy = hierarchy_of(check_row(row(caption=sentence * 770)))
    assert len(hierarchy.sentences) == 770
    assert not caplog.records
