"""Regions in a batch: which are drawn, with which texts, and where their boxes lie after crop and resize."""

import logging
import random
from collections import Counter
from itertools import product

import pytest
import torch
from PIL import Image, ImageDraw
from torch.utils.data import DataLoader

from beta_clip_hf import BetaCLIPConfig, BetaCLIPDataCollator, BetaCLIPModel, BetaCLIPProcessor, SceneDataset
from beta_clip_hf.data.crop import crop_box
from beta_clip_hf.data.readers import load_rows


REGION_TENSORS = [
    "boxes", "hard_attention_mask", "hard_input_ids", "hard_region_index",
    "region_attention_mask", "region_image_index", "region_input_ids",
]  # fmt: skip


def region(number: int, negatives: int = 0, **fields) -> dict:
    """A tenth of the width of an image of 100 × 50 pixels, and a text that tells which."""
    region = {"box": [10 * number, 5, 10 * number + 10, 45], "text": f"thing {number}", **fields}
    if negatives:
        region["negatives"] = [f"no {number} {place}" for place in range(negatives)]
    return region


def row(name: str, regions: list[dict] | None, **fields) -> dict:
    image = Image.effect_mandelbrot((100, 50), (-2, -1, 1, 1), 20).convert("RGB")
    regions_field = {} if regions is None else {"regions": regions}
    return {"id": name, "image": image, "caption": "One thing. Another thing.", **regions_field, **fields}


ROWS = [
    row("nine", [region(number, negatives=number % 3) for number in range(9)]),
    row("none", None),
    row("two", [region(4, long_text="a long text of thing 4", negatives=12), region(7)]),
    row("empty", []),
]


@pytest.fixture
def squashing(tiny_tokenizer):
    return BetaCLIPProcessor.from_image_size(tiny_tokenizer, 32, short_max_length=77, squash=True)


@pytest.fixture
def collate(squashing):
    return lambda **options: BetaCLIPDataCollator(squashing, **{"num_regions": 3, **options})


def decoded(batch, name: str, tokenizer) -> list[str]:
    return [tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") for ids in batch[name]]


def regions_in(batch, tokenizer) -> list[list[tuple]]:
    """Per image its regions as (text, box, hard texts)."""
    texts, hard = decoded(batch, "region_input_ids", tokenizer), decoded(batch, "hard_input_ids", tokenizer)
    images: list[list[tuple]] = [[] for _ in batch["pixel_values"]]
    hard_texts: list[list[str]] = [[] for _ in texts]
    for region, text in zip(batch["hard_region_index"].tolist(), hard, strict=True):
        hard_texts[region].append(text)
    for place, (image, text) in enumerate(zip(batch["region_image_index"], texts, strict=True)):
        images[image].append((text, tuple(batch["boxes"][place].tolist()), hard_texts[place]))
    return images


def test_a_batch_has_the_tensors_of_the_design(collate, squashing):
    batch = collate()(ROWS)
    assert sorted(batch) == sorted(
        [
            "attention_mask",
            "granularity",
            "image_index",
            "input_ids",
            "pixel_values",
            "plan",
            "return_loss",
            *REGION_TENSORS,
        ]
    )
    images = regions_in(batch, squashing.tokenizer)
    assert [len(regions) for regions in images] == [3, 0, 2, 0]
    for name in ("region_image_index", "hard_region_index"):
        assert (batch[name].diff() >= 0).all()
    for number, example in enumerate(ROWS):
        entries = {entry["text"].replace(" ", ""): entry for entry in example.get("regions", [])}
        for text, box, hard in images[number]:
            entry = entries["thing4" if "4" in text else text]
            x1, y1, x2, y2 = entry["box"]
            assert box == pytest.approx((x1 / 100, y1 / 50, x2 / 100, y2 / 50))
            negatives = entry.get("negatives", [])
            assert hard == [other.replace(" ", "") for other in ([entry["text"], *negatives] if negatives else [])]
    assert len(images[2][0][2]) == 13
    without = collate(num_regions=0)(ROWS)
    assert sorted(set(batch) - set(without)) == REGION_TENSORS
    assert all(torch.equal(batch[name], value) for name, value in without.items() if isinstance(value, torch.Tensor))


def test_a_batch_without_regions_has_the_tensors_too(collate):
    batch = collate()([ROWS[1], ROWS[3]])
    assert {name: tuple(batch[name].shape) for name in REGION_TENSORS} == {
        "boxes": (0, 4),
        "region_input_ids": (0, 1),
        "region_attention_mask": (0, 1),
        "hard_input_ids": (0, 1),
        "hard_attention_mask": (0, 1),
        "region_image_index": (0,),
        "hard_region_index": (0,),
    }


def test_regions_are_drawn_without_replacement_in_their_order(collate, squashing):
    collator = collate()
    drawn, together = Counter(), set()
    for epoch in range(200):
        collator.set_epoch(epoch)
        texts = decoded(collator(ROWS[:1]), "region_input_ids", squashing.tokenizer)
        assert len(texts) == 3 and texts == sorted(set(texts))
        drawn.update(texts)
        together.add(tuple(texts))
    # Each of nine is drawn with probability 1/3: 66.7 times, with a standard deviation of 6.7.
    assert len(drawn) == 9 and all(40 < count < 94 for count in drawn.values())
    assert len(together) > 60
    everything = collate(num_regions=99)(ROWS[:1])
    texts = decoded(everything, "region_input_ids", squashing.tokenizer)
    assert texts == [f"thing{number}" for number in range(9)]


def test_the_text_is_drawn_and_the_true_hard_text_is_the_short_one(collate, squashing):
    collator, texts = collate(), Counter()
    for epoch in range(60):
        collator.set_epoch(epoch)
        [[(text, _, hard), (other, _, _)]] = regions_in(collator([ROWS[2]]), squashing.tokenizer)
        texts[text] += 1
        assert hard[0] == "thing4" and other == "thing7"
    assert set(texts) == {"thing4", "alongtextofthing4"} and min(texts.values()) > 15
    absent = row("absent", [region(1, long_text=None, negatives=None)])
    assert regions_in(collator([absent]), squashing.tokenizer)[0][0][::2] == ("thing1", [])


@pytest.mark.parametrize("crop", [None, (0.4, 1.0)])
def test_what_a_row_gives_is_its_own(collate, squashing, crop):
    """It does not depend on its neighbours or on workers; it does on seed and epoch."""
    collator = collate(random_resized_crop=crop)
    whole = regions_in(collator(ROWS), squashing.tokenizer)
    assert regions_in(collator(ROWS[::-1]), squashing.tokenizer) == whole[::-1]
    assert [regions_in(collator([example]), squashing.tokenizer)[0] for example in ROWS] == whole
    loader = DataLoader(ROWS, batch_size=1, collate_fn=collator, num_workers=2)
    assert [regions_in(batch, squashing.tokenizer)[0] for batch in loader] == whole
    several = []
    for seed in (0, 1):
        other = collate(random_resized_crop=crop, seed=seed)
        for epoch in (0, 1):
            other.set_epoch(epoch)
            several.append(regions_in(other(ROWS), squashing.tokenizer))
    assert several[0] == whole and len({str(images) for images in several}) == 4


def test_regions_do_not_change_texts_and_crops(collate):
    for options in ({}, {"random_resized_crop": (0.4, 1.0)}):
        plain, with_regions = (collate(num_regions=number, **options)(ROWS) for number in (0, 3))
        tensors = {name: value for name, value in plain.items() if isinstance(value, torch.Tensor)}
        assert len(tensors) == 5 and all(torch.equal(with_regions[name], value) for name, value in tensors.items())


COLOURS = [(255, 0, 0), (0, 255, 0), (255, 255, 0), (0, 255, 255)]
# Apart from each other and from the borders, in an image of 160 × 90 pixels.
RECTANGLES = [(8, 10, 44, 40), (60, 6, 90, 80), (104, 12, 150, 36), (100, 52, 154, 84)]


def coloured_row(box_format: str = "xyxy_pixels") -> dict:
    image = Image.new("RGB", (160, 90), (0, 0, 255))
    regions = []
    for number, (x1, y1, x2, y2) in enumerate(RECTANGLES):
        ImageDraw.Draw(image).rectangle((x1, y1, x2 - 1, y2 - 1), fill=COLOURS[number])
        box = [x1, y1, x2, y2] if box_format == "xyxy_pixels" else [x1 / 160, y1 / 90, x2 / 160, y2 / 90]
        regions.append({"box": box, "text": str(number)})
    return {"id": "coloured", "image": image, "caption": "Colours.", "regions": regions, "box_format": box_format}


def visible_pixels(box, part) -> float:
    """By counting: the share of a rectangle's pixels that lie in a part of the image."""
    left, top, width, height = part
    x1, y1, x2, y2 = box
    pixels = list(product(range(x1, x2), range(y1, y2)))
    return sum(left <= x < left + width and top <= y < top + height for x, y in pixels) / len(pixels)


@pytest.mark.parametrize("squash", [True, False])
@pytest.mark.parametrize("box_format", ["xyxy_pixels", "xyxy_normalized"])
def test_boxes_follow_the_crop_pixel_by_pixel(tiny_tokenizer, squash, box_format):
    """Inside of a mapped box there is the rectangle's colour and nothing else, outside of it there is none of it."""
    processor = BetaCLIPProcessor.from_image_size(tiny_tokenizer, 64, squash=squash)
    processor.image_processor.do_normalize = False
    collator = BetaCLIPDataCollator(processor, num_regions=9, random_resized_crop=(0.2, 0.9))
    example, left_out, cut = coloured_row(box_format), 0, 0
    for epoch in range(40):
        collator.set_epoch(epoch)
        part = crop_box((160, 90), (0.2, 0.9), random.Random(f"0/{epoch}/coloured/crop"))
        visible = [visible_pixels(box, part) for box in RECTANGLES]
        batch = collator([example])
        numbers = [int(text) for text in decoded(batch, "region_input_ids", tiny_tokenizer)]
        assert numbers == [number for number in range(4) if visible[number] >= 0.5]
        left_out += 4 - len(numbers)
        cut += sum(0.5 <= share < 1 for share in visible)
        for number, box in zip(numbers, (batch["boxes"] * 64).tolist(), strict=True):
            assert min(box) >= 0 and max(box) <= 64
            colour = torch.tensor(COLOURS[number])[:, None, None] / 255
            is_colour = ((batch["pixel_values"][0] - colour).abs() < 0.35).all(dim=0)
            # Between two colours the resize mixes them, for as far as a pixel of the image and one of the result.
            margin = 1 + 64 / part[2], 1 + 64 / part[3]
            assert is_colour[inner(box, margin)].all()
            assert not is_colour[~inner(box, (-margin[0], -margin[1]))].any()
            assert inner(box, margin).any()
    assert left_out > 20 and cut > 20


def inner(box, margin) -> torch.Tensor:
    """Which of 64 × 64 pixels have their centre in the box, a margin away from its border where that is inside."""
    centre = torch.arange(64) + 0.5
    (x1, y1, x2, y2), (wide, high) = box, margin
    columns = ((x1 == 0) | (centre > x1 + wide)) & ((x2 == 64) | (centre < x2 - wide))
    rows = ((y1 == 0) | (centre > y1 + high)) & ((y2 == 64) | (centre < y2 - high))
    return rows[:, None] & columns[None]


def test_a_crop_draws_among_what_is_left_and_changes_no_text(collate, squashing):
    """With room for all, the crop only takes regions away; with room for some, those left move up."""
    regions = [region(number, long_text=f"long {number}") for number in range(10)]
    example, missing = row("ten", regions), 0
    for epoch in range(10):
        texts = {}
        for number in (4, 10):
            for crop in (None, (0.5, 0.6)):
                collator = collate(num_regions=number, random_resized_crop=crop)
                collator.set_epoch(epoch)
                texts[number, crop] = decoded(collator([example]), "region_input_ids", squashing.tokenizer)
        left = set(texts[10, (0.5, 0.6)])
        assert len(texts[10, None]) == 10 and left < set(texts[10, None])
        assert len(texts[4, (0.5, 0.6)]) == min(4, len(left)) and set(texts[4, (0.5, 0.6)]) <= left
        assert set(texts[4, None]) & left <= set(texts[4, (0.5, 0.6)])
        missing += len(set(texts[4, None]) - left)
    assert missing > 3


def test_a_region_half_seen_by_a_centre_crop_stays_and_one_less_seen_does_not(tiny_processor):
    """Of 100 × 50 pixels the middle is seen, 25 to 75: the first region is half in, the second less than half."""
    boxes = [[15, 0, 35, 50], [14, 0, 35, 50], [26, 1, 74, 49], [80, 0, 99, 50]]
    example = row("edge", [{"box": box, "text": str(number)} for number, box in enumerate(boxes)])
    batch = BetaCLIPDataCollator(tiny_processor, num_regions=9)([example])
    assert decoded(batch, "region_input_ids", tiny_processor.tokenizer) == ["0", "2"]
    expected = [[0, 0, 0.2, 1], [0.02, 0.02, 0.98, 0.98]]
    torch.testing.assert_close(batch["boxes"], torch.tensor(expected), atol=1e-6, rtol=0)


@pytest.mark.parametrize("crop", [None, (0.9, 1.0)])
def test_a_region_without_area_is_left_out(collate, squashing, crop):
    thin = [[50, 20, 50, 40], [40, 30, 60, 30], [50, 25, 50, 25], [50, 20, 50 + 1e-6, 40]]
    example = row("thin", [*({"box": box, "text": "thin"} for box in thin), {"box": [45, 20, 55, 30], "text": "wide"}])
    collator = collate(random_resized_crop=crop)
    for epoch in range(5):
        collator.set_epoch(epoch)
        assert decoded(collator([example]), "region_input_ids", squashing.tokenizer) == ["wide"]


def test_a_box_a_little_beyond_the_image_is_cut(collate):
    batch = collate()([row("over", [{"box": [50, 25, 100.5, 50.2], "text": "a"}])])
    torch.testing.assert_close(batch["boxes"], torch.tensor([[0.5, 0.5, 1, 1]]))


def test_phrases_with_one_box_are_regions_where_there_are_none(collate, squashing):
    phrases = [
        "a",
        {"text": "one", "boxes": [[0, 0, 50, 50]]},
        {"text": "two", "boxes": [[0, 0, 9, 9], [9, 9, 12, 12]]},
    ]
    batch = collate()([row("phrases", None, phrases=phrases), row("both", [region(1)], phrases=phrases)])
    assert regions_in(batch, squashing.tokenizer) == [
        [("one", (0, 0, 0.5, 1), [])],
        [("thing1", pytest.approx((0.1, 0.1, 0.2, 0.9)), [])],
    ]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (row("bad", [region(0), region(12)]), r"regions\[1\]\.box must lie in the image of 100 × 50 pixels"),
        (row("bad", [{"box": [5, 9, 3, 20], "text": "a"}]), r"regions\[0\]\.box must be \[x1, y1, x2, y2\]"),
        (row("bad", [{"box": [0, 0, 9, 9]}]), r"regions\[0\]\.text must be a string"),
        (row("bad", [region(1)], box_format="xyxy_normalized"), r"regions\[0\]\.box must lie in"),
        (
            row("bad", [region(1, text="&nbsp;")]),
            r"regions\[0\]\.text must be a text that is not empty, but is '&n",
        ),
        (
            row("bad", [{**region(1), "negatives": ["&#32;"]}]),
            r"regions\[0\]\.negatives\[0\] must be a text that is not",
        ),
    ],
)
def test_a_bad_region_is_a_counted_skip_of_its_row_or_an_error(collate, squashing, caplog, bad, reason):
    collator = collate(num_regions=9)
    with caplog.at_level(logging.WARNING):
        batch = collator([ROWS[0], bad, ROWS[2]])
    expected = collate(num_regions=9)([ROWS[0], ROWS[2]])
    assert regions_in(batch, squashing.tokenizer) == regions_in(expected, squashing.tokenizer)
    assert collator.skipped == 1
    [entry] = caplog.records
    assert entry.getMessage().startswith("bad is skipped: ")
    with pytest.raises(ValueError, match=f"^bad: {reason}"):
        collate(num_regions=9, strict=True)([ROWS[0], bad, ROWS[2]])


def test_boxes_are_not_looked_at_where_no_regions_are_wanted(collate):
    collator = collate(num_regions=0, strict=True)
    assert len(collator([row("bad", [region(12)])])["pixel_values"]) == 1


def test_scenes_give_regions_with_their_negatives(collate, squashing):
    scenes = SceneDataset(3, level="easy")
    rows = [scenes[index] for index in range(3)]
    images = regions_in(collate(num_regions=99, strict=True)(rows), squashing.tokenizer)
    for example, regions in zip(rows, images, strict=True):
        width, height = example["image"].size
        assert len(regions) == len(example["regions"]) > 0
        for region_of_row, (text, box, hard) in zip(example["regions"], regions, strict=True):
            assert text == region_of_row["text"].lower().replace(" ", "") == hard[0]
            assert len(hard) == 1 + len(region_of_row["negatives"]) == 11
            x1, y1, x2, y2 = region_of_row["box"]
            assert box == pytest.approx((x1 / width, y1 / height, x2 / width, y2 / height))


def test_real_photos(shared_dir, collate):
    rows = load_rows(shared_dir / "data/photos/train.jsonl")
    chosen = [rows[index] for index in range(16)]
    for crop in (None, (0.5, 1.0)):
        batch = collate(num_regions=4, random_resized_crop=crop, strict=True)(chosen)
        assert 8 < len(batch["boxes"]) <= 64
        assert batch["boxes"].min() >= 0 and batch["boxes"].max() <= 1
        assert (batch["boxes"][:, 2:] > batch["boxes"][:, :2]).all()


def test_a_model_with_two_text_paths_takes_the_batch(collate, tiny_clip_config):
    values = tiny_clip_config.to_dict()
    text = {**values["text_config"], "max_position_embeddings": 77}
    config = BetaCLIPConfig(
        text_config=text,
        vision_config=values["vision_config"],
        projection_dim=32,
        use_long_text_path=True,
        use_regions=True,
    )
    model = BetaCLIPModel(config)
    word = "word " * 300
    rows = [ROWS[0], row("long", [region(1, negatives=2)], caption=word, sentences=[word], short_caption=word)]
    output = model(**collate(include_short_caption=True)(rows))
    parts = {"clip_loss", "short_clip_loss", "beta_cal_loss", "region_loss", "hard_negative_loss"}
    assert set(output.losses) == parts
    assert all(loss.isfinite() and loss > 0 for loss in output.losses.values())
    assert model(**collate(include_short_caption=True)(ROWS[1::2])).loss.isfinite()


@pytest.mark.parametrize("two_paths", [True, False])
def test_the_plan_of_a_batch_changes_nothing(tiny_clip_dir, tiny_tokenizer, two_paths):
    """The plan of the collator is the one that the model takes: it makes none of its own, which would wait."""
    torch.manual_seed(0)
    model = BetaCLIPModel.from_pretrained(tiny_clip_dir, use_long_text_path=two_paths, use_regions=True).eval()
    short = 77 if two_paths else None
    processor = BetaCLIPProcessor.from_image_size(tiny_tokenizer, 32, short_max_length=short, squash=True)
    rows = [SceneDataset(4, level="easy", image_size=32)[index] for index in range(4)]
    settings = {"num_regions": 2, "num_phrases": 5, "include_short_caption": True}
    collator = BetaCLIPDataCollator(processor, packing_capacity=70, packing_row_multiple=5, **settings)
    batch = collator(rows)
    packing = batch["plan"].packing
    assert len(packing.last_T) == sum(len(batch[f"{kind}input_ids"]) for kind in ("", "region_", "hard_"))
    assert len(packing.text_FC) % 5 == 0 and packing.text_FC.shape[1] >= 80
    expected = model(**batch | {"plan": None})

    def refuse(*args, **kwargs):
        raise AssertionError("the model makes a plan of its own")

    model.plan_texts = model._plan_batch = refuse
    found = model(**batch)
    torch.testing.assert_close(found.loss, expected.loss)
    assert found.losses.keys() >= {"clip_loss", "beta_cal_loss", "region_loss", "hard_negative_loss"}
    del model.plan_texts, model._plan_batch
    model.config.region_loss_weight = 0  # fewer texts than were planned: the model plans again
    assert "region_loss" not in model(**batch).losses
