import logging
import pickle
import random
import statistics
from dataclasses import replace
from itertools import product
from multiprocessing.reduction import ForkingPickler

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from beta_clip_hf import BetaCLIPDataCollator, Granularity, TextHierarchy
from beta_clip_hf.data.crop import crop_box, resized_part
from beta_clip_hf.data.readers import load_rows
from beta_clip_hf.model.batch_beta_clip import scaled_pixels


SENTENCES = [
    f"The {colour} ball lies on a {thing}."
    for colour, thing in product(("red", "green", "blue"), ("table", "chair", "box"))
]


def row(number: int, **fields) -> dict:
    image = Image.effect_mandelbrot((60 + number, 40), (-2, -1, 1, 1), 20).convert("RGB")
    caption = " ".join(random.Random(number).sample(SENTENCES, len(SENTENCES)))
    return {"id": f"row {number}", "image": image, "caption": caption, **fields}


ROWS = [row(number) for number in range(6)]
BROKEN = row(7, id="broken", image=b"no image")


@pytest.fixture
def collate(tiny_processor):
    return lambda **options: BetaCLIPDataCollator(tiny_processor, **options)


def texts_of(batch, processor) -> list[list[tuple[int, str]]]:
    """Per image, the granularity and the text of each of its texts."""
    images: list[list[tuple[int, str]]] = [[] for _ in batch["pixel_values"]]
    for image, kind, ids in zip(batch["image_index"], batch["granularity"], batch["input_ids"], strict=True):
        images[image].append((int(kind), processor.tokenizer.decode(ids, skip_special_tokens=True)))
    return images


def test_a_batch_has_the_tensors_of_the_design(collate):
    batch = collate()(ROWS)
    tensors = ["attention_mask", "granularity", "image_index", "input_ids", "pixel_values"]
    assert sorted(batch) == [*tensors, "plan", "return_loss"]
    assert type(batch) is dict
    assert batch["return_loss"] is True
    assert batch["pixel_values"].shape == (6, 3, 32, 32)
    assert batch["image_index"].diff().min() >= 0
    assert batch["image_index"].unique().tolist() == list(range(6))
    for image in range(6):
        kinds = batch["granularity"][batch["image_index"] == image].tolist()
        assert kinds[0] == Granularity.CAPTION
        assert kinds == sorted(kinds)
        assert kinds.count(Granularity.CAPTION) == 1
        assert kinds.count(Granularity.SENTENCE) == 5
        assert kinds.count(Granularity.PHRASE) > 3


def test_rows_keep_their_order(collate, tiny_processor):
    forth, back = collate()(ROWS), collate()(ROWS[::-1])
    assert texts_of(forth, tiny_processor) == texts_of(back, tiny_processor)[::-1]
    assert torch.equal(forth["pixel_values"], back["pixel_values"].flip(0))
    assert not torch.equal(forth["pixel_values"][0], forth["pixel_values"][1])


@pytest.mark.parametrize("crop", [None, (0.5, 1.0)])
def test_a_row_does_not_depend_on_its_neighbours(collate, tiny_processor, crop):
    collator = collate(random_resized_crop=crop)
    whole = collator(ROWS)
    for number, example in enumerate(ROWS):
        alone = collator([example])
        assert torch.equal(alone["pixel_values"][0], whole["pixel_values"][number])
        assert texts_of(alone, tiny_processor)[0] == texts_of(whole, tiny_processor)[number]


def test_seed_and_epoch_draw_other_texts_and_crops(collate):
    def drawn(seed, epoch):
        collator = collate(seed=seed, random_resized_crop=(0.3, 0.9))
        collator.set_epoch(epoch)
        return collator(ROWS[:1])["pixel_values"], collator.sample_texts(ROWS[0])

    pixels, texts = zip(*[drawn(seed, epoch) for seed, epoch in product((0, 1), (0, 1))], strict=True)
    for first in range(4):
        for second in range(first):
            assert texts[first] != texts[second]
            assert not torch.equal(pixels[first], pixels[second])
    again = drawn(1, 0)
    assert again[1] == texts[2]
    assert torch.equal(again[0], pixels[2])


def test_cropping_does_not_change_the_texts(collate):
    assert collate().sample_texts(ROWS[0]) == collate(random_resized_crop=(0.5, 1.0)).sample_texts(ROWS[0])


def test_a_row_without_an_id_is_known_by_its_texts(collate):
    anonymous = row(3)
    del anonymous["id"]
    assert collate().sample_texts(dict(anonymous)) == collate().sample_texts(dict(anonymous))


def test_caption_modes(collate):
    whole = ROWS[0]["caption"]
    sampled = collate().sample_texts(ROWS[0])
    assert sampled.caption != whole
    assert len(sampled.sentences) == 5
    assert all(sentence.rstrip(".") in sampled.caption for sentence in sampled.sentences)
    full = collate(caption_mode="full").sample_texts(ROWS[0])
    assert full == replace(sampled, caption=whole)
    assert collate(caption_mode="caption_only").sample_texts(ROWS[0]) == TextHierarchy(whole)


def test_numbers_of_sentences_and_phrases(collate):
    texts = collate(num_sentences=2, num_phrases=3).sample_texts(ROWS[0])
    assert (len(texts.sentences), len(texts.phrases)) == (2, 3)
    assert collate(num_phrases=0).sample_texts(ROWS[0]).phrases == ()
    everything = collate(num_sentences=99, num_phrases=999).sample_texts(ROWS[0])
    assert everything.sentences == tuple(sentence + "." for sentence in ROWS[0]["caption"][:-1].split(". "))


@pytest.mark.parametrize("mode", ["sampled", "full", "caption_only"])
def test_every_row_gives_a_short_caption_of_granularity_3(collate, tiny_processor, mode):
    several = {"captions": ["Two dogs run.", "Dogs on grass.", "A park with dogs."]}
    rows = [
        row(0, short_caption="balls", **several),
        {"id": "coco", "image": ROWS[0]["image"], **several},
        row(1),
        row(2, sentences=["It is a box.", "Here."]),
    ]
    collator = collate(include_short_caption=True, caption_mode=mode)
    shorts = set()
    for epoch in range(12):
        collator.set_epoch(epoch)
        images = texts_of(collator(rows), tiny_processor)
        for image in images:
            assert [kind for kind, _ in image].count(Granularity.SHORT_CAPTION) == 1
        assert len(images) == 4 and all(image[-1][0] == Granularity.SHORT_CAPTION for image in images)
        first = rows[2]["caption"].split(". ")[0].lower() + "."
        assert [image[-1][1].replace(" ", "") for image in images[::2]] == ["balls", first.replace(" ", "")]
        assert images[3][-1][1].replace(" ", "") == "itisabox."
        shorts.add(images[1][-1][1].replace(" ", ""))
    assert shorts == {text.lower().replace(" ", "") for text in several["captions"]}
    assert (collate(caption_mode=mode)(rows)["granularity"] < Granularity.SHORT_CAPTION).all()


def test_short_captions_change_nothing_else(collate):
    for example in (ROWS[0], row(0, captions=SENTENCES)):
        plain = collate().sample_texts(example)
        assert replace(collate(include_short_caption=True).sample_texts(example), short_caption=None) == plain
        assert plain.short_caption is None


@pytest.mark.slow
def test_short_pairs_replace_a_share_of_the_rows_and_leave_the_others_alone(collate):
    rows = [row(number, id=f"{number}", short_caption="some balls") for number in range(40)]
    for mode in ("sampled", "caption_only"):
        plain, never, always = (collate(caption_mode=mode, short_caption_probability=p) for p in (0, 0.0, 1))
        some = collate(caption_mode=mode, short_caption_probability=0.3)
        pair, pairs_of = TextHierarchy("some balls"), []
        for epoch in range(10):
            for collator in (plain, never, always, some):
                collator.set_epoch(epoch)
            before = [plain.sample_texts(example) for example in rows]
            assert [never.sample_texts(example) for example in rows] == before and pair not in before
            assert [always.sample_texts(example) for example in rows] == [pair] * len(rows)
            after = [some.sample_texts(example) for example in rows]
            assert all(new in (old, pair) for new, old in zip(after, before, strict=True))
            pairs_of.append([place for place, new in enumerate(after) if new == pair])
        assert 0.2 < sum(map(len, pairs_of)) / 400 < 0.4
        assert len({tuple(pairs) for pairs in pairs_of}) == 10, "each epoch draws anew"
    again = collate(caption_mode=mode, short_caption_probability=0.3)
    again.set_epoch(9)
    assert [again.sample_texts(example) for example in rows] == after


def test_a_short_pair_has_its_short_caption_in_both_places_where_it_is_wanted(collate):
    collator = collate(short_caption_probability=1, include_short_caption=True)
    for example in (ROWS[0], row(0, captions=SENTENCES), row(0, short_caption="balls")):
        texts = collator.sample_texts(example)
        assert texts == TextHierarchy(texts.caption, short_caption=texts.caption)
    assert texts.caption == "balls"


def test_an_image_without_phrases_and_one_of_ten_thousand_words(collate):
    rows = [row(0, phrases=[]), row(1, caption="One ball lies near nine other balls today. " * 1250)]
    batch = collate(caption_mode="full")(rows)
    kinds = batch["granularity"][batch["image_index"] == 0].tolist()
    assert kinds == [0] + [1] * 5
    assert batch["input_ids"].shape[1] == 248
    eos = batch["input_ids"].max()
    assert (batch["input_ids"] == eos).any(dim=1).all()


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (BROKEN, "image must be readable, but is 8 bytes"),
        (row(8, id="absent", image="absent.jpg"), r"image must be readable, but is 'absent\.jpg'"),
        (row(8, caption=" "), "caption must be a string that is not empty"),
        (row(8, caption="&nbsp;"), "caption must be a text that is not empty, but is '&nbsp;'"),
        (row(8, phrases="a ball"), "phrases must be a list"),
        ({"id": "bare", "text": "A ball."}, "image must be there"),
    ],
)
def test_a_bad_row_is_skipped_logged_and_counted(collate, tiny_processor, caplog, bad, reason):
    collator = collate()
    with caplog.at_level(logging.WARNING):
        batch = collator([ROWS[0], bad, ROWS[1]])
    assert texts_of(batch, tiny_processor) == texts_of(collate()(ROWS[:2]), tiny_processor)
    assert batch["pixel_values"].shape[0] == 2
    assert collator.skipped == 1
    [entry] = caplog.records
    assert entry.getMessage().startswith(f"{bad['id']} is skipped: ")
    with pytest.raises(ValueError, match=f"^{bad['id']}: {reason}"):
        collate(strict=True)([ROWS[0], bad, ROWS[1]])


def test_a_batch_without_a_good_row(collate):
    with pytest.raises(
        ValueError, match="a batch must have a row that can be used, but all 2 were skipped: broken, broken"
    ):
        collate()([BROKEN, BROKEN])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"caption_mode": "long"}, r"caption_mode must be one of \('sampled', 'full', 'caption_only'\), but is 'long'"),
        ({"num_sentences": 0}, "num_sentences must be at least 1, but is 0"),
        ({"num_phrases": -1}, "num_phrases must not be negative, but is -1"),
        (
            {"random_resized_crop": (0.0, 1.0)},
            r"random_resized_crop must be a range within \(0, 1\], but is \(0.0, 1.0\)",
        ),
        ({"random_resized_crop": (0.9, 0.5)}, "random_resized_crop must be a range"),
        ({"num_regions": -2}, "num_regions must not be negative, but is -2"),
        ({"short_caption_probability": 1.5}, r"short_caption_probability must be in \[0, 1\], but is 1.5"),
    ],
)
def test_arguments_out_of_range(collate, options, message):
    with pytest.raises(ValueError, match=message):
        collate(**options)


def test_workers_change_nothing_see_the_epoch_and_share_the_count(collate):
    rows = [*ROWS[:3], BROKEN, *ROWS[3:]]

    def epochs(workers):
        collator = collate(random_resized_crop=(0.5, 1.0))
        loader = DataLoader(
            rows, batch_size=2, collate_fn=collator, num_workers=workers, persistent_workers=workers > 0
        )
        passes = []
        for epoch in (0, 1):
            collator.set_epoch(epoch)
            passes.append(list(loader))
        assert collator.skipped == 2
        return passes

    alone, shared = epochs(0), epochs(2)
    for batch, other_batch in zip(alone[0] + alone[1], shared[0] + shared[1], strict=True):
        assert all(
            torch.equal(torch.as_tensor(batch[name]), torch.as_tensor(other_batch[name]))
            for name in batch
            if name != "plan"
        )
    assert not torch.equal(alone[0][0]["pixel_values"], alone[1][0]["pixel_values"])


def test_a_collator_sent_to_a_spawned_worker_shares_epoch_and_count(collate):
    collator = collate()
    sent = pickle.loads(ForkingPickler.dumps(collator))
    first = sent.sample_texts(ROWS[0])
    collator.set_epoch(1)
    assert first != sent.sample_texts(ROWS[0]) == collator.sample_texts(ROWS[0])
    sent([ROWS[0], BROKEN])
    assert collator.skipped == 1


def test_real_photos(shared_dir, collate, tiny_processor):
    rows = load_rows(shared_dir / "data/photos/train.jsonl")
    batch = collate(random_resized_crop=(0.5, 1.0), strict=True)([rows[index] for index in range(8)])
    assert batch["pixel_values"].shape == (8, 3, 32, 32)
    images = texts_of(batch, tiny_processor)
    for image in range(8):
        phrases = [text for kind, text in images[image] if kind == Granularity.PHRASE]
        assert len(phrases) == len(rows[image]["phrases"])


def test_a_model_takes_the_batch(collate, tiny_model):
    output = tiny_model(**collate()(ROWS[:3]))
    assert set(output.losses) == {"clip_loss", "beta_cal_loss"}
    assert torch.isfinite(output.loss)


def test_crop_boxes_are_torchvisions():
    """Area uniform in the scale, ratio log-uniform in 3/4 … 4/3, place uniform."""
    rng = random.Random(0)
    boxes = [crop_box((400, 300), (0.25, 0.5), rng) for _ in range(4000)]
    areas = [width * height / (400 * 300) for _, _, width, height in boxes]
    ratios = [width / height for _, _, width, height in boxes]
    lefts = [left / (400 - width) for left, _, width, _ in boxes]
    assert 0.24 < min(areas) < 0.26 and 0.49 < max(areas) < 0.51
    assert statistics.mean(areas) == pytest.approx(0.375, abs=0.005)
    assert 0.74 < min(ratios) < 0.77 and 1.30 < max(ratios) < 1.35
    assert statistics.median(ratios) == pytest.approx(1.0, abs=0.02)
    assert statistics.mean(lefts) == pytest.approx(0.5, abs=0.02)
    for left, top, width, height in boxes:
        assert left >= 0 and top >= 0 and left + width <= 400 and top + height <= 300


def test_crop_of_an_image_that_no_attempt_fits_is_central():
    assert crop_box((1000, 10), (1.0, 1.0), random.Random(0)) == (493, 0, 13, 10)
    assert crop_box((10, 1000), (1.0, 1.0), random.Random(0)) == (0, 493, 10, 13)
    assert crop_box((1, 1), (0.01, 0.02), random.Random(0)) == (0, 0, 1, 1)


def test_crop_shows_the_part_that_it_names():
    image = Image.linear_gradient("L").convert("RGB")  # value = row
    _, top, _, height = part = crop_box(image.size, (0.3, 0.4), random.Random(5))
    cropped = resized_part(image, part, (64, 64))
    assert cropped.size == (64, 64)
    assert cropped.getpixel((0, 32))[0] == pytest.approx(top + height / 2, abs=2)
    assert cropped.getpixel((63, 0))[0] == pytest.approx(top, abs=3)


@pytest.mark.parametrize("crop", [None, (0.5, 1.0)])
def test_bytes_and_their_scale_are_the_pixels_of_the_processor(collate, tiny_model, crop):
    scaled = collate(random_resized_crop=crop)(ROWS)
    batch = collate(random_resized_crop=crop, uint8_pixels=True)(ROWS)
    assert batch["pixel_values"].dtype == torch.uint8
    assert batch["pixel_values"].nbytes * 4 == scaled["pixel_values"].nbytes
    # In float64, as the processor's settings define them.
    image_processor = collate().processor.image_processor
    mean, std = (torch.tensor(getattr(image_processor, name)).double() for name in ("image_mean", "image_std"))
    shares = batch["pixel_values"].double() / 255
    exact = (shares - mean[:, None, None]) / std[:, None, None]
    found = scaled_pixels(batch["pixel_values"], batch["pixel_scale"])
    assert found.dtype == torch.float32 and found.std() > 0.1
    torch.testing.assert_close(found.double(), exact, atol=1e-6, rtol=0)
    torch.testing.assert_close(found, scaled["pixel_values"], atol=1e-6, rtol=0)
    with torch.no_grad():
        outputs, expected = tiny_model(**batch), tiny_model(**scaled)
    torch.testing.assert_close(outputs.loss, expected.loss, atol=1e-4, rtol=0)
    torch.testing.assert_close(outputs.image_embeds, expected.image_embeds, atol=1e-5, rtol=0)


def test_a_processor_that_does_not_normalise_gives_no_bytes(collate):
    collate().processor.image_processor.do_normalize = False
    with pytest.raises(ValueError, match="uint8_pixels must be False"):
        collate(uint8_pixels=True)
