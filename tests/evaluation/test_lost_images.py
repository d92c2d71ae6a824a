"""Images and rows that cannot be used: the result is that of the others alone, and says what is left out."""

import json
import logging

import pytest
from PIL import Image

from beta_clip_hf.evaluation import evaluator, probes
from beta_clip_hf.evaluation.evaluator import evaluate
from beta_clip_hf.inference import reading
from ddp_helpers import run_processes
from evaluation.suite_helpers import command, results_of, tasks_of


pytestmark = pytest.mark.slow

COLOURS = ("red", "green", "blue", "white", "black", "yellow", "purple")


def rows(bad=(), count=7):
    """Rows with captions, phrases and choices. Those that are bad have an image that is none."""
    made = []
    for index in range(count):
        colour = COLOURS[index % len(COLOURS)]
        row = {
            "id": f"row {index}",
            "image": b"no image" if index in bad else Image.new("RGB", (40 + index, 30), colour),
            "captions": [f"A {colour} picture.", f"Number {index}."],
            "phrases": [{"text": f"the {colour}", "boxes": [[4, 4, 20, 20]], "kind": ("odd", "even")[index % 2]}],
            "choices": [{"text": f"It is {colour}.", "negatives": ["It is pink."], "subset": "colour"}],
        }
        made.append(row)
    return made


def others(bad):
    return [row for index, row in enumerate(rows()) if index not in bad]


@pytest.mark.parametrize("bad", [{0}, {6}, {4, 5, 6}, {1, 3}])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_result_is_that_of_the_other_rows(bad, batch_size, tiny_model, tiny_processor, monkeypatch, caplog):
    monkeypatch.setattr(probes, "IMAGES_PER_SHARD", 4)
    with caplog.at_level(logging.WARNING):
        result = evaluate(tiny_model, tiny_processor, rows(bad), batch_size=batch_size)
    expected = evaluate(tiny_model, tiny_processor, others(bad), batch_size=batch_size)
    assert result["figures"] == expected["figures"] and result["weights"] == expected["weights"]
    assert result["data_hash"] == expected["data_hash"] and expected["skipped"] == []
    assert {row["id"] for row in result["skipped"]} == {f"row {index}" for index in bad}
    counts = {name: number for name, number in result["counts"].items() if not name.startswith("skipped")}
    assert counts == expected["counts"] and counts["images"] + result["counts"]["skipped_rows"] == 7
    lost = len(bad)
    assert result["counts"]["skipped_captions"] == 2 * lost and result["counts"]["skipped_phrases"] == lost
    named = [record.getMessage() for record in caplog.records if "is skipped" in record.getMessage()]
    assert len(named) == lost and all("image must be readable" in line for line in named)


def test_a_second_pass_knows_the_same_rows(tiny_model, tiny_processor, monkeypatch):
    # So few pairs that only those of shortlists are scored, by a second pass.
    monkeypatch.setattr("beta_clip_hf.evaluation.retrieval.MOST_PAIRS", 1)
    monkeypatch.setattr("beta_clip_hf.evaluation.retrieval.RERANKED", (2, 4))
    monkeypatch.setattr("beta_clip_hf.evaluation.hierarchical.MOST_PART_SCORES", 1)
    result = evaluate(tiny_model, tiny_processor, rows({2, 6}))
    assert result["figures"] == evaluate(tiny_model, tiny_processor, others({2, 6}))["figures"]
    assert "long/rerank@2/text_to_image/R@1" in result["figures"]


class Table(list):
    """Rows of which some break when they are read, as a table that decodes images does."""

    def __getitem__(self, index):
        if index in (1, 4):
            raise OSError("broken")
        return super().__getitem__(index)


def test_a_row_that_breaks_its_table_or_a_check_costs_itself(tiny_model, tiny_processor):
    table = Table(rows())
    list.__getitem__(table, 2)["captions"] = [7]
    result = evaluate(tiny_model, tiny_processor, table)
    assert result["figures"] == evaluate(tiny_model, tiny_processor, others({1, 2, 4}))["figures"]
    reasons = {(row["id"], row["line"]): row["reason"] for row in result["skipped"]}
    assert set(reasons) == {("rows[1]", 1), ("row 2", 2), ("rows[4]", 4)}
    assert "broken" in reasons["rows[1]", 1] and reasons["row 2", 2].startswith("captions")


def test_an_image_that_breaks_the_processor_costs_itself(tiny_model, tiny_processor, monkeypatch):
    process = reading.within_memory

    def breaks(images, image_processor):
        if any(image.size == (42, 30) for image in images):
            raise RuntimeError("odd image")
        return process(images, image_processor)

    monkeypatch.setattr(reading, "within_memory", breaks)
    result = evaluate(tiny_model, tiny_processor, rows())
    (row,) = result["skipped"]
    assert row["id"] == "row 2" and "odd image" in row["reason"]


def test_an_error_that_is_no_rows_is_raised(tiny_model, tiny_processor, monkeypatch):
    def breaks(self, indices):
        if len(indices) > 1:
            raise RuntimeError("the machine is broken")
        return read(self, indices)

    read = reading.ImageReader._read
    monkeypatch.setattr(reading.ImageReader, "_read", breaks)
    with pytest.raises(RuntimeError, match="the machine is broken"):
        evaluate(tiny_model, tiny_processor, rows())


def test_no_row_that_can_be_used_is_an_error(tiny_model, tiny_processor):
    with pytest.raises(ValueError, match=r"but none of 7 can, the first because .*image"):
        evaluate(tiny_model, tiny_processor, rows(bad=range(7)))


def test_images_may_break_between_two_passes(tiny_model, tiny_processor, monkeypatch):
    bad, load_image = {1}, reading.load_image
    measured = evaluator._measure_usable

    def measure(*args, **kwargs):
        try:
            return measured(*args, **kwargs)
        finally:
            bad.add(5)

    def load(image):
        if {41: 1, 45: 5}.get(image.size[0]) in bad:
            raise ValueError("image must be readable, but is gone")
        return load_image(image)

    monkeypatch.setattr(reading, "load_image", load)
    monkeypatch.setattr(evaluator, "_measure_usable", measure)
    result = evaluate(tiny_model, tiny_processor, rows())
    assert [row["id"] for row in result["skipped"]] == ["row 1", "row 5"] and result["counts"]["images"] == 5


def _two_processes(rank, model, processor, bad):
    probes.IMAGES_PER_SHARD = 2
    result = evaluate(model, processor, rows(bad), batch_size=1)
    return result["figures"], result["skipped"], result["data_hash"]


@pytest.mark.parametrize("bad", [{0, 1}, {6}])
def test_a_process_may_lose_all_its_images(bad, tiny_model, tiny_processor):
    first, second = run_processes(_two_processes, tiny_model, tiny_processor, bad)
    expected = evaluate(tiny_model, tiny_processor, others(bad), batch_size=1)
    assert first == second
    assert first[0] == expected["figures"] and first[2] == expected["data_hash"]
    assert [row["id"] for row in first[1]] == [f"row {index}" for index in sorted(bad)]


def test_the_command_lists_what_it_skips_and_takes_up_its_work(checkpoint, photos, tmp_path, monkeypatch, capsys):
    lines = (photos / "test.jsonl").read_text().splitlines()
    extra = [
        '{"image": "3.png", "captions": ["A cut one.", "Half."]}',
        "no JSON",
        '{"image": "none.png", "caption": "a"}',
    ]
    Image.new("RGB", (90, 90), "red").save(photos / "3.png")
    (photos / "3.png").write_bytes((photos / "3.png").read_bytes()[:60])
    (photos / "test.jsonl").write_text("\n".join([*lines, *extra]))
    arguments = ["--model", checkpoint, "--data", photos, "--tasks", "photos", "--batch-size", 1]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert command(*arguments, "--output", whole) == 0
    assert "skipped rows 3" in capsys.readouterr().out
    result = tasks_of(whole)["photos"]
    assert result["counts"]["images"] == 3 and result["counts"]["skipped_rows"] == 3 and result["subset"]
    assert result["protocol"] == "photos/v1 (2 rows skipped) (without 1 unreadable image)"
    listed = [json.loads(line) for line in (whole / "skipped.jsonl").read_text().splitlines()]
    assert {(row["task"], row["file"], row["line"]) for row in listed} == {
        ("photos", "test.jsonl", n) for n in (4, 5, 6)
    }
    # A run that is stopped in either of its passes takes up its work, and ends with the same files.
    monkeypatch.setattr(probes, "IMAGES_PER_SHARD", 1)
    load_image, read = reading.load_image, []

    def stops(image):
        read.append(image)
        if len(read) in (3, 8):
            raise KeyboardInterrupt
        return load_image(image)

    monkeypatch.setattr(reading, "load_image", stops)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            command(*arguments, "--output", stopped)
    command(*arguments, "--output", stopped)
    assert results_of(stopped) == results_of(whole)
    assert (stopped / "skipped.jsonl").read_bytes() == (whole / "skipped.jsonl").read_bytes()
    assert not (stopped / "unfinished").exists()
    # Whoever mends the rows gets a result of all, and no list.
    Image.new("RGB", (90, 90), "red").save(photos / "3.png")
    (photos / "test.jsonl").write_text("\n".join([*lines, extra[0]]))
    command(*arguments, "--output", stopped)
    assert tasks_of(stopped)["photos"]["counts"]["images"] == 4 and not tasks_of(stopped)["photos"]["subset"]
    assert not (stopped / "skipped.jsonl").exists()
