"""Each row is checked once, and each text cleaned once, on its way from the file to the batch."""

import copy
import json
import pickle
from collections import Counter

import pytest
from PIL import Image
from torch.utils.data import DataLoader

from beta_clip_hf import BetaCLIPDataCollator, BetaCLIPTrainer, BetaCLIPTrainingArguments
from beta_clip_hf.data import rows as rows_module
from beta_clip_hf.data.readers import load_rows
from beta_clip_hf.data.rows import CheckedRow, check_row, with_image
from beta_clip_hf.evaluation.evaluator import evaluate
from beta_clip_hf.model import text_cleaning_beta_clip as text_cleaning


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
    # A caption, two sentences, a short caption, phrases; a region with its true and its false text.
    assert len(cleanings) == sum(map(texts_of, batches)) >= NUM_ROWS * 8
    assert collator.skipped == 0


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
