"""Bad rows of many kinds × training, strict, evaluation, index and show: none is lost in silence or crashes."""

import json
import logging

import pytest

from beta_clip_hf import BetaCLIPDataCollator
from beta_clip_hf.data.collator import NoUsableRow
from beta_clip_hf.data.images import load_image
from beta_clip_hf.data.readers import load_rows
from beta_clip_hf.data.row_counts import SkipLog, SkippedRow, read_skipped
from beta_clip_hf.data.rows import check_row
from beta_clip_hf.evaluation.benchmarks import load_benchmark
from beta_clip_hf.inference.look import split_texts
from beta_clip_hf.inference.reading import ImageReader
from beta_clip_hf.search.sources import ReadablePhotos, open_photos
from data.bad_rows import BAD_IMAGES, BAD_LINES, GOOD, ODD_LINES, bad_image, fill_folder, row


@pytest.fixture
def folder(tmp_path):
    fill_folder(tmp_path)
    return tmp_path


def write(folder, line):
    path = folder / "test.jsonl"
    good = json.dumps(GOOD).encode()
    path.write_bytes(good + b"\n" + line + b"\n")
    return path


def is_sentence(error, name):
    message = str(error.value)
    return name in message and len(message) < 1000 and "Traceback" not in message


@pytest.fixture
def collator(tiny_processor):
    return BetaCLIPDataCollator(tiny_processor, num_regions=2, num_phrase_negatives=1, include_short_caption=True)


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_is_skipped_named_and_counted(name, folder, tiny_processor, caplog):
    path = write(folder, BAD_LINES[name])
    with caplog.at_level(logging.WARNING):
        rows = load_rows(path, group=False)
    assert len(rows) == 1 and rows.num_read + len(rows.skipped) == 2
    [(location, reason)] = rows.skipped
    assert location == "test.jsonl:2" and 0 < len(reason) < 500
    assert any(record.getMessage().startswith("test.jsonl:2 is skipped: ") for record in caplog.records)
    with pytest.raises(ValueError, match=r"test\.jsonl:2") as error:
        load_rows(path, strict=True)
    assert is_sentence(error, "test.jsonl:2")


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_in_evaluation_and_index(name, folder):
    path = write(folder, BAD_LINES[name])
    photos = open_photos(path)
    readable = ReadablePhotos(photos, photos.keys())
    errors = [readable[key]["error"] for key in range(len(readable)) if "error" in readable[key]]
    # A row of an index needs no caption, but says what is wrong with everything else.
    assert len(photos.skipped) + photos.num_read == 2 and len(errors) <= 1
    assert all(len(error) < 1000 for error in errors)
    (part,) = load_benchmark("photos", folder).parts
    assert len(part.rows) == 1
    (skipped,) = part.skipped
    assert skipped.location == "test.jsonl:2" and 0 < len(skipped.reason) < 500


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_a_bad_image_costs_its_row(name, folder, tiny_processor, collator, caplog, tmp_path):
    (folder / "bad.png").write_bytes(bad_image(name))
    path = write(folder, row(image="bad.png", id="the bad one"))
    rows = load_rows(path)
    assert len(rows) == 2
    collator.skip_log.path = tmp_path / "skipped.jsonl"
    for _ in range(2):
        batch = collator([rows[0], rows[1]])
        assert len(batch["pixel_values"]) == 1
    assert collator.skipped == 2
    (skipped,) = read_skipped(collator.skip_log.path)
    assert (skipped["id"], skipped["file"], skipped["line"]) == ("the bad one", "test.jsonl", 2)
    assert "bad.png" in skipped["reason"]
    # Named once, not once for each epoch.
    assert sum("is skipped" in record.getMessage() for record in caplog.records) == 1
    with pytest.raises(NoUsableRow, match=r"all 1 were skipped: the bad one"):
        collator([rows[1]])
    # What the Trainer of transformers leaves of rows by default.
    with pytest.raises(ValueError, match=r"rows must be mappings with fields, .* set remove_unused_columns=False"):
        collator([{}, {}])
    with pytest.raises(ValueError, match=r"test\.jsonl:2: image must be readable"):
        BetaCLIPDataCollator(tiny_processor, strict=True)([rows[0], rows[1]])
    photos = open_photos(path)
    readable = ReadablePhotos(photos, photos.keys())
    assert ["error" in readable[number] for number in range(2)] == [False, True]
    with pytest.raises(ValueError, match="row the bad one: image must be readable"):
        ImageReader(rows, tiny_processor.image_processor)([1])
    # What `show` does first.
    with pytest.raises(ValueError, match=r"image must be readable.*bad\.png"):
        load_image(folder / "bad.png")


@pytest.mark.parametrize("name", ODD_LINES)
@pytest.mark.parametrize("mode", ["sampled", "full", "caption_only"])
def test_an_odd_line_is_used(name, mode, folder, tiny_processor):
    rows = load_rows(write(folder, ODD_LINES[name]), strict=True)
    row = rows[len(rows) - 1]
    collator = BetaCLIPDataCollator(tiny_processor, caption_mode=mode, include_short_caption=True, strict=True)
    batch = collator([row])
    texts = tiny_processor.tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True)
    assert all(text.strip() for text in texts)
    assert split_texts([row["caption"]], most_phrases=3)


@pytest.mark.parametrize("value", [None, 3, "a", [], object(), {"image": object()}, {"caption": "a"}, {1: 2}])
def test_a_row_of_any_kind_costs_itself(value, collator, folder):
    good = {**GOOD, "image": str(folder / "good.png")}
    assert len(collator([good, value])["pixel_values"]) == 1
    assert collator.skipped == 1


def test_a_row_that_breaks_while_it_is_checked_is_a_value_error():
    class Odd(dict):
        def items(self):
            raise RuntimeError("odd")

    with pytest.raises(ValueError, match="a row must be readable, but is not: RuntimeError: odd"):
        check_row(Odd())


def test_the_list_of_skipped_rows_is_shared_and_follows_no_link(tmp_path):
    path = tmp_path / "skipped.jsonl"
    logs = [SkipLog(), SkipLog()]
    for log in logs:
        log.path = path
    row = SkippedRow("7", "train.jsonl:7", "image must be readable")
    assert [log.add(row) for log in logs] == [True, False]
    assert logs[1].add(row._replace(reason="another"))
    path.write_bytes(path.read_bytes() + b'{"broken": \n[]\n')
    assert [skipped["reason"] for skipped in read_skipped(path)] == ["image must be readable", "another"]
    assert SkippedRow("a", "rows[3]", "r").to_json() == {"id": "a", "file": "rows", "line": 3, "reason": "r"}
    assert SkippedRow("a", "a", "r").to_json()["line"] is None
    target = tmp_path / "target"
    target.write_text("mine")
    path.unlink()
    path.symlink_to(target)
    log = SkipLog()
    log.path = path
    log.add(row)
    assert target.read_text() == "mine"
