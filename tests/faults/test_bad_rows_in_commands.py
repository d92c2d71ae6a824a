"""Kinds of bad rows × train, train --strict, evaluate, index and show: no crash, no fault, no row lost in silence."""

import json
import logging
import os

import pytest

from beta_clip_cli.main import main
from beta_clip_hf import BetaCLIPConfig, BetaCLIPModel, BetaCLIPProcessor
from beta_clip_hf.data.tokenizers import train_clip_tokenizer
from conftest import TINY_TEXT, TINY_VISION
from data.bad_rows import BAD_IMAGES, BAD_LINES, ODD_LINES, bad_image, fill_folder, row


pytestmark = pytest.mark.slow

GOOD_LINES = 2
# It divides the number of rows that reach the images: what does not fill a batch would not be read.
BATCH_SIZE = 19
BAD_IMAGE_LINES = {name: row(image=f"bad {number}.png", id=name) for number, name in enumerate(BAD_IMAGES)}
# Every kind stands in one file, behind two good rows. So a line is known by its number.
LINES = [row(), row(), *ODD_LINES.values(), *BAD_IMAGE_LINES.values(), *BAD_LINES.values()]
NUM_USED = GOOD_LINES + len(ODD_LINES)
BAD_IMAGE_NUMBERS = dict(zip(BAD_IMAGES, range(NUM_USED + 1, len(LINES)), strict=False))
BAD_LINE_NUMBERS = dict(zip(BAD_LINES, range(NUM_USED + len(BAD_IMAGES) + 1, len(LINES) + 1), strict=True))
BAD_NUMBERS = {**BAD_IMAGE_NUMBERS, **BAD_LINE_NUMBERS}


def test_there_are_enough_kinds():
    assert len(BAD_NUMBERS) >= 60 and len(BAD_NUMBERS) == len(BAD_LINES) + len(BAD_IMAGES)
    assert max(BAD_NUMBERS.values()) == len(LINES) == NUM_USED + len(BAD_NUMBERS)
    assert (NUM_USED + len(BAD_IMAGES)) % BATCH_SIZE == 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, and a file of rows of all kinds. Each good image has a file of its own, so that each row is a photo."""
    folder = tmp_path_factory.mktemp("rows")
    fill_folder(folder)
    for number, name in enumerate(BAD_IMAGES):
        (folder / f"bad {number}.png").write_bytes(bad_image(name))
    lines = []
    for number, line in enumerate(LINES):
        image = f"good {number}.png"
        os.link(folder / "good.png", folder / image)
        lines.append(line.replace(b'"image": "good.png"', f'"image": "{image}"'.encode()))
    (folder / "rows.jsonl").write_bytes(b"\n".join(lines))
    tokenizer = train_clip_tokenizer([], vocab_size=514)
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = {**TINY_TEXT, **ids, "pad_token_id": tokenizer.pad_token_id, "vocab_size": len(tokenizer)}
    text["max_position_embeddings"] = 248
    config = BetaCLIPConfig(text_config=text, vision_config=TINY_VISION, projection_dim=32)
    BetaCLIPModel(config).save_pretrained(folder / "model")
    BetaCLIPProcessor.from_image_size(tokenizer, image_size=32).save_pretrained(folder / "model")
    return folder


def words_of_training(folder, rows, output, batch_size):
    words = ["train", "--model", folder / "model", "--train-data", rows, "--output", output, "--no-group"]
    settings = ("use_cpu=true", "save_strategy=no", "disable_tqdm=true", "report_to=none", "logging_steps=1")
    words += ["--epochs", 1, "--batch-size", batch_size]
    for setting in settings:
        words += ["--set", f"training.{setting}"]
    return [str(word) for word in words]


def named_rows(caplog):
    """Locations of the rows that the log names as skipped, each as often as it is named."""
    found = []
    for record in caplog.records:
        location, skipped, _ = record.getMessage().partition(" is skipped: ")
        if skipped:
            found.append(location)
    return found


def assert_each_is_named_once(caplog):
    expected = [f"rows.jsonl:{number}" for number in sorted(BAD_NUMBERS.values())]
    assert sorted(named_rows(caplog), key=lambda location: int(location.partition(":")[2])) == expected


def test_train_names_and_counts_every_kind(folder, tmp_path, caplog):
    output = tmp_path / "run"
    with caplog.at_level(logging.WARNING):
        assert main(words_of_training(folder, folder / "rows.jsonl", output, BATCH_SIZE)) == 0
    assert_each_is_named_once(caplog)
    listed = [json.loads(line) for line in (output / "skipped.jsonl").read_text().splitlines()]
    assert sorted(row["line"] for row in listed) == sorted(BAD_NUMBERS.values())
    assert {row["file"] for row in listed} == {"rows.jsonl"} and all(row["reason"] for row in listed)
    results = json.loads((output / "train_results.json").read_text())
    assert results["skipped_rows"]["training"] == len(BAD_IMAGES)


@pytest.mark.parametrize("name", [*BAD_LINES, *BAD_IMAGES])
def test_strict_training_stops_at_every_kind(name, folder, tmp_path, capsys):
    # Beside the images.
    rows = folder / "strict.jsonl"
    line = BAD_LINES[name] if name in BAD_LINES else BAD_IMAGE_LINES[name]
    rows.write_bytes(row() + b"\n" + line + b"\n")
    assert main([*words_of_training(folder, rows, tmp_path / "run", 1), "--strict"]) == 1
    error = capsys.readouterr().err
    sentence = error.strip().splitlines()[-1]
    assert sentence.startswith("beta-clip: error: ") and "strict.jsonl:2" in sentence and len(sentence) < 1500
    assert "Traceback" not in error


def test_evaluate_names_and_counts_every_kind(folder, tmp_path, caplog):
    words = [
        "evaluate",
        "--model",
        folder / "model",
        "--tasks",
        "photos",
        "--data",
        folder / "rows.jsonl",
        "--no-group",
    ]
    words += ["--output", tmp_path, "--device", "cpu", "--no-pictures"]
    with caplog.at_level(logging.WARNING):
        assert main([str(word) for word in words]) == 0
    assert_each_is_named_once(caplog)
    result = json.loads((tmp_path / "results.json").read_text())["tasks"]["photos"]
    assert result["counts"]["images"] == NUM_USED and result["counts"]["skipped_rows"] == len(BAD_NUMBERS)
    assert {row["line"] for row in result["skipped"]} == set(BAD_NUMBERS.values()) and result["subset"]


def test_index_names_and_counts_every_kind(folder, tmp_path, capsys):
    pytest.importorskip("lancedb")
    words = ["index", folder / "rows.jsonl", "--output", tmp_path / "index", "--model", folder / "model", "--json"]
    assert main([str(word) for word in words]) == 0
    report = json.loads(capsys.readouterr().out)
    # A photo that is searched for needs no caption, so some rows are used that no training could use.
    assert report["new"] == report["images"] and report["images"] + len(report["unreadable"]) == len(LINES)
    assert all(0 < len(reason) < 1000 for reason in report["unreadable"].values())
    for name, number in BAD_IMAGE_NUMBERS.items():
        locations = [
            place for place in report["unreadable"] if place.endswith((f"bad {number - NUM_USED - 1}.png", name))
        ]
        assert len(locations) == 1, name


def fields_of(line):
    """Image and caption of a line, if both are strings, as somebody would type them."""
    try:
        fields = json.loads(line)
        return fields["image"], fields["caption"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


SHOWN = {}
for kind, kind_line in {**BAD_LINES, **BAD_IMAGE_LINES, **ODD_LINES}.items():
    shown_fields = fields_of(kind_line)
    # The others differ from a good row in what `show` does not take.
    if shown_fields and shown_fields != fields_of(row()) and all(isinstance(field, str) for field in shown_fields):
        SHOWN[kind] = shown_fields


@pytest.mark.parametrize("name", SHOWN)
def test_show_draws_or_tells_every_kind(name, folder, tmp_path, capsys):
    image, caption = SHOWN[name]
    output = tmp_path / "seen.png"
    words = ["show", "--model", folder / "model", "--image", folder / image, "--text", caption, "--output", output]
    code = main([str(word) for word in words])
    error = capsys.readouterr().err
    assert code == (0 if name in ODD_LINES else 1) and "Traceback" not in error
    assert output.exists() == (code == 0)
    if code:
        sentence = error.strip().splitlines()[-1]
        assert sentence.startswith("beta-clip: error: ") and len(sentence) < 1500
