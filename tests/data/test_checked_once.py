"""Each row is checked once, and each text cleaned once, on its way from the file to the batch."""

import copy
import json
import pickle
from collections import Counter
from dataclasses import replace

import pytest
from PIL import Image
from torch.utils.data import DataLoader

from beta_clip_hf import BetaCLIPDataCollator, BetaCLIPTrainer, BetaCLIPTrainingArguments
from beta_clip_hf.data import rows as rows_module
from beta_clip_hf.data.readers import load_rows
from beta_clip_hf.data.rows import CheckedRow, check_row, with_image
from beta_clip_hf.evaluation.evaluator import evaluate
from beta_clip_hf.model import text_cleaning_beta_clip as text_cleaning
from beta_clip_hf.text import hierarchy as hierarchy_module
from beta_clip_hf.text.hierarchy import TextHierarchy


NUM_ROWS = 6


@pytest.fixture
def checks(monkeypatch) -> Counter:
    """Counts the checks of each row, by its image."""
    counts: Counter[str] = Counter()
    check = rows_module.check_fields

    def counted(row) -> None:
        counts[str(row["image"])[-5:]] += 1
        check(row)

    monkeypatch.setattr(rows_module, "check_fields", counted)
    return counts


@pytest.fixture
def cleanings(monkeypatch) -> list[str]:
    """Lists the texts that are cleaned, one entry for each time."""
    texts: list[str] = []
    clean = text_cleaning._clean

    def counted(text: str) -> str:
        texts.append(text)
        return clean(text)

    monkeypatch.setattr(text_cleaning, "_clean", counted)
    return texts


@pytest.fixture
def blank_checks(monkeypatch) -> list[str]:
    """Lists the texts that a hierarchy checks for being blank, one entry for each time."""
    texts: list[str] = []
    check = hierarchy_module._check_text

    def counted(name: str, text: str) -> str:
        texts.append(text)
        return check(name, text)

    monkeypatch.setattr(hierarchy_module, "_check_text", counted)
    return texts


@pytest.fixture
def source(tmp_path):
    records = []
    for number in range(NUM_ROWS):
        Image.new("RGB", (40, 40), (40 * number, 0, 0)).save(tmp_path / f"{number}.png")
        region = {"box": [0, 0, 20, 20], "text": f"thing {number}", "negatives": [f"no thing {number}"]}
        caption = f"A dog of number {number} runs. A cat sleeps on chair {number}."
        records.append({"image": f"{number}.png", "caption": caption, "regions": [region]})
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def texts_of(batch) -> int:
    """Number of texts in a batch."""
    return sum(len(batch[name]) for name in ("input_ids", "region_input_ids", "hard_input_ids") if name in batch)


ONCE_EACH = {f"{number}.png": 1 for number in range(NUM_ROWS)}


def test_from_the_file_to_a_batch_of_the_trainer(source, tiny_model, tiny_processor, tmp_path, checks, cleanings):
    rows = load_rows(source)
    assert checks == ONCE_EACH and cleanings == []
    collator = BetaCLIPDataCollator(tiny_processor, num_regions=2, include_short_caption=True)
    arguments = BetaCLIPTrainingArguments(
        output_dir=str(tmp_path / "run"), per_device_train_batch_size=3, report_to="none", use_cpu=True
    )
    trainer = BetaCLIPTrainer(
        model=tiny_model,
        args=arguments,
        train_dataset=rows,
        data_collator=collator,
        processing_class=tiny_processor,
    )
    batches = list(trainer.get_train_dataloader())
    assert checks == ONCE_EACH
    # A caption, two sentences, a short caption, phrases; a region, whose text is also its true one, and a false text.
    num_texts = sum(map(texts_of, batches))
    assert len(cleanings) == num_texts - NUM_ROWS and num_texts >= NUM_ROWS * 8
    assert collator.skipped == 0


TEXTS_OF_A_ROW = {
    "image": Image.new("RGB", (40, 40)),
    "caption": "A dog runs. A cat sleeps.",
    "short_caption": "Two pets.",
    "sentences": ["A dog runs.", "A cat sleeps."],
    "phrases": ["a dog", {"text": "a cat"}],
}


@pytest.mark.parametrize(
    "left_out", [(), ("phrases",), ("sentences", "phrases"), ("short_caption",)], ids=lambda names: "+".join(names)
)
@pytest.mark.parametrize("caption_mode", ["sampled", "full", "caption_only"])
def test_each_text_is_checked_for_being_blank_once(tiny_processor, blank_checks, left_out, caption_mode):
    row = {name: value for name, value in TEXTS_OF_A_ROW.items() if name not in left_out}
    collator = BetaCLIPDataCollator(tiny_processor, caption_mode=caption_mode, include_short_caption=True)
    texts = collator.sample_texts(check_row(row))
    assert texts.caption and texts.short_caption
    assert row["caption"] in blank_checks and max(Counter(blank_checks).values()) == 1


def test_a_hierarchy_of_a_user_is_checked(blank_checks):
    hierarchy = TextHierarchy("A dog. A cat.", ("A dog.", "A cat."), ("a dog", "a cat"), short_caption="Pets.")
    assert Counter(blank_checks) == dict.fromkeys(["A dog. A cat.", "A dog.", "A cat.", "a dog", "a cat", "Pets."], 1)
    with pytest.raises(ValueError, match="caption must hold some text"):
        replace(hierarchy, caption=" ")


def test_each_text_of_a_row_with_regions_and_negatives_is_cleaned_once(tiny_processor, cleanings):
    regions = [
        {"box": [0, 0, 20, 20], "text": "a brown dog", "negatives": ["a brown cat", "a white dog"]},
        {"box": [9, 9, 40, 40], "text": "a ball", "long_text": "a big red ball", "negatives": ["a cube"]},
        {"box": [5, 5, 30, 30], "text": "a chair"},
    ]
    row = {**TEXTS_OF_A_ROW, "id": "pets", "regions": regions}
    collator = BetaCLIPDataCollator(tiny_processor, num_regions=3, include_short_caption=True)
    expected = {
        *("A dog runs. A cat sleeps.", "A dog runs.", "A cat sleeps.", "Two pets.", "a dog", "a cat"),
        *("a brown dog", "a brown cat", "a white dog", "a ball", "a cube", "a chair"),
    }
    long_texts = set()
    for epoch in range(10):
        collator.set_epoch(epoch)
        cleanings.clear()
        batch = collator([row])
        assert max(Counter(cleanings).values()) == 1
        assert len(batch["region_input_ids"]) == 3 and len(batch["hard_input_ids"]) == 5
        # The long text of a region is drawn in some epochs. Its short text stands against the negatives in all.
        assert set(cleanings) - {"a big red ball"} == expected
        long_texts.add("a big red ball" in cleanings)
    assert long_texts == {True, False}


def test_the_short_caption_of_a_short_pair_is_cleaned_once(tiny_processor, cleanings):
    collator = BetaCLIPDataCollator(tiny_processor, include_short_caption=True, short_caption_probability=1.0)
    batch = collator([TEXTS_OF_A_ROW])
    assert cleanings == ["Two pets."] and len(batch["input_ids"]) == 2


def test_rows_of_a_user_are_checked_by_the_collator(tiny_processor, checks, cleanings):
    image = Image.new("RGB", (40, 40))
    collator = BetaCLIPDataCollator(tiny_processor)
    batch = collator([{"image": image, "caption": f"A dog of number {number}."} for number in range(NUM_ROWS)])
    assert sum(checks.values()) == NUM_ROWS
    assert len(cleanings) == texts_of(batch)


@pytest.mark.parametrize("origin", ["a file", "a user"])
def test_evaluate(source, tiny_model, tiny_processor, checks, cleanings, origin):
    if origin == "a file":
        rows = load_rows(source)
    else:
        records = map(json.loads, source.read_text().splitlines())
        rows = [{**record, "image": str(source.parent / record["image"])} for record in records]
    evaluate(tiny_model, tiny_processor, rows)
    assert checks == ONCE_EACH
    assert max(Counter(cleanings).values()) == 1
    captions = {f"A dog of number {number} runs. A cat sleeps on chair {number}." for number in range(NUM_ROWS)}
    assert captions <= set(cleanings)


def test_a_text_is_cleaned_for_callers_who_hand_over_raw_text(tiny_processor, cleanings):
    tiny_processor(hierarchies=[" a &amp;amp; b ", "a caf\u00c3\u00a9"])
    assert len(cleanings) == 2
    cleaned = text_cleaning.clean_text(" a &amp;amp; b ")
    assert cleaned == "a & b" and text_cleaning.clean_text(cleaned) is cleaned
    assert len(cleanings) == 3


def row(**fields) -> dict:
    return {"image": "cat.jpg", "caption": "A cat.", "captions": ["A cat."], "width": 100_000, **fields}


def test_a_checked_row_is_a_dict_that_is_not_checked_again(checks):
    checked = check_row(row())
    assert isinstance(checked, CheckedRow) and checked == row() and json.loads(json.dumps(checked)) == row()
    assert check_row(checked) is checked
    for same in (copy.copy(checked), copy.deepcopy(checked), pickle.loads(pickle.dumps(checked))):
        assert check_row(same) is same and same == checked
    other = with_image(checked, "dog.jpg")
    assert check_row(other) is other and other["image"] == "dog.jpg" and checked["image"] == "cat.jpg"
    assert not isinstance(with_image(row(), "dog.jpg"), CheckedRow)
    checked["id"] = "7"
    assert check_row(checked) is checked
    assert sum(checks.values()) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda checked: checked.update(caption=""),
        lambda checked: checked.pop("caption"),
        lambda checked: checked.pop("image"),
        lambda checked: checked.__setitem__("phrases", "a cat"),
        lambda checked: checked.clear(),
    ],
)
def test_a_checked_row_that_is_changed_is_checked_again(change, tiny_processor):
    checked = check_row({"image": Image.new("RGB", (8, 8)), "caption": "A cat.", "id": "changed"})
    change(checked)
    with pytest.raises(ValueError, match="must be"):
        check_row(checked)
    with pytest.raises(ValueError, match=r"must be"):
        BetaCLIPDataCollator(tiny_processor, strict=True)([checked])


def test_rows_of_workers_stay_checked(source, checks):
    received = list(DataLoader(load_rows(source), num_workers=1, batch_size=None, collate_fn=lambda row: row))
    assert len(received) == NUM_ROWS
    assert all(check_row(row) is row for row in received)
    assert checks == ONCE_EACH
