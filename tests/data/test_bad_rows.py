"""Bad rows of many kinds × training, strict, evaluation, index and show: none is lost in silence or crashes."""

import io
import json
import logging
import os

import pytest
from PIL import Image

from beta_clip_hf import BetaCLIPDataCollator
from beta_clip_hf.data.collator import NoUsableRow
from beta_clip_hf.data.images import load_image
from beta_clip_hf.data.readers import load_rows
from beta_clip_hf.data.row_counts import SkipLog, SkippedRow, read_skipped
from beta_clip_hf.data.rows import check_row
from beta_clip_hf.evaluation.benchmarks.layout import Place
from beta_clip_hf.evaluation.benchmarks.photos_and_scenes import read_photos
from beta_clip_hf.inference.look import split_texts
from beta_clip_hf.inference.reading import ImageReader, read_texts
from beta_clip_hf.search.sources import ReadablePhotos, open_photos


GOOD = {"image": "good.png", "caption": "A red square. It is small."}
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"


def row(**fields):
    return json.dumps({**GOOD, **fields}).encode()


def nested(depth):
    return b'{"image": "good.png", "caption": "a", "extra": ' + b"[" * depth + b"]" * depth + b"}"


BOX = {"box": [0, 0, 4, 4], "text": "a corner"}
# Lines that no reader takes for a row.
BAD_LINES = {
    "no JSON": b"a red square",
    "half an object": b'{"image": "good.png", "caption": "a',
    "a list": b"[1, 2]",
    "a number": b"3",
    "null": b"null",
    "an empty object": b"{}",
    "no UTF-8": b'{"image": "good.png", "caption": "\xff\xfe"}',
    "zero bytes": b"\0" * 40,
    "nested 100,000 deep": nested(100_000),
    "a list nested 100,000 deep": b"[" * 100_000,
    "no image": b'{"caption": "A red square."}',
    "image null": row(image=None),
    "image of no file": row(image="missing.png"),
    "image with a zero byte": row(image="go\0od.png"),
    "image with a long name": row(image="a" * 5000),
    "image is a folder": row(image="folder"),
    "image is a pipe": row(image="pipe"),
    "image is a device": row(image="/dev/zero"),
    "image is an empty string": row(image=""),
    "no caption": b'{"image": "good.png"}',
    "caption null": row(caption=None),
    "caption empty": row(caption=""),
    "caption of white space": row(caption=" \t\n\u3000\u00a0"),
    "caption of zero width": row(caption="\u200b\u200d\ufeff\u2060"),
    "caption of Hangul fillers": row(caption="\u3164\u115f"),
    "caption of control characters": row(caption="\x00\x1b\x07"),
    "caption of direction marks": row(caption="\u202e\u202d\u2066"),
    "caption of variation selectors": row(caption="\ufe0f\ufe0e"),
    "caption of markers": row(caption="<|startoftext|> <|endoftext|>"),
    "caption of escaped markers": row(caption="&lt;|endoftext|&gt;"),
    "caption of &nbsp;": row(caption="&nbsp;&amp;nbsp;"),
    "caption with half an emoji": row(caption="A dog \ud83d."),
    "caption of 3 MB": row(caption="a dog " * 500_000),
    "caption a number": row(caption=5),
    "caption a list": row(caption=["a", "b"]),
    "caption an object": row(caption={"text": "a"}),
    "caption true": row(caption=True),
    "captions empty": b'{"image": "good.png", "captions": []}',
    "captions all blank": b'{"image": "good.png", "captions": ["", " "]}',
    "captions a string": b'{"image": "good.png", "captions": "a"}',
    "captions with a number": b'{"image": "good.png", "captions": ["a", 3]}',
    "captions of 20,000": b'{"image": "good.png", "captions": [' + b'"a",' * 19_999 + b'"a"]}',
    "sentences a string": row(sentences="a"),
    "sentences with a number": row(sentences=["a", 4]),
    "sentences all blank": row(sentences=["", "\u200b"]),
    "sentences with a list": row(sentences=[["a"]]),
    "phrases a string": row(phrases="a"),
    "phrases with a number": row(phrases=[1]),
    "phrases without a text": row(phrases=[{"boxes": []}]),
    "phrases of a list": row(phrases=[{"text": "a", "kind": ["noun"]}]),
    "phrases with a kind that is an object": row(phrases=[{"text": "a", "kind": {"a": 1}}]),
    "phrases of a sentence -1": row(phrases=[{"text": "a", "sentence": -1}]),
    "phrases of a sentence that is a list": row(phrases=[{"text": "a", "sentence": [0]}]),
    "phrases with boxes of words": row(phrases=[{"text": "a", "boxes": [["a", "b", "c", "d"]]}]),
    "phrases with boxes NaN": row(phrases=[{"text": "a", "boxes": [[0, 0, float("nan"), 1]]}]),
    "phrases with negatives a number": row(phrases=[{"text": "a", "negatives": 3}]),
    "phrases of 20,000": row(phrases=["a"] * 20_000),
    "phrase_sentences alone": row(phrase_sentences=[0]),
    "phrase_sentences of words": row(sentences=["a"], phrases=["a"], phrase_sentences=["x"], phrase_kinds=["noun"]),
    "short_caption a list": row(short_caption=["a"]),
    "short_caption of zero width": row(short_caption="\u200b"),
    "regions an object": row(regions={"box": [0, 0, 1, 1]}),
    "regions of numbers": row(regions=[3]),
    "regions without a box": row(regions=[{"text": "a"}]),
    "regions without a text": row(regions=[{"box": [0, 0, 1, 1]}]),
    "regions with three numbers": row(regions=[{"box": [0, 0, 1], "text": "a"}]),
    "regions with a box infinite": row(regions=[{"box": [0, 0, float("inf"), 1], "text": "a"}]),
    "regions turned around": row(regions=[{"box": [4, 4, 0, 0], "text": "a"}]),
    "regions with long_text a number": row(regions=[{**BOX, "long_text": 3}]),
    "regions with negatives of numbers": row(regions=[{**BOX, "negatives": [1]}]),
    "regions outside of the image": row(regions=[{"box": [0, 0, 99, 99], "text": "a"}], width=8, height=8),
    "box_format unknown": row(regions=[BOX], box_format="xywh"),
    "box_format a list": row(regions=[BOX], box_format=["xyxy"]),
    "conversations a number": b'{"image": "good.png", "conversations": 4}',
    "conversations without an answer": b'{"image": "good.png", "conversations": [{"from": "human", "value": "?"}]}',
    "conversations of lists": b'{"image": "good.png", "conversations": [["gpt", "a"]]}',
    "messages with a content of numbers": b'{"image": "good.png", "messages": [{"role": "assistant", "content": [3]}]}',
}
# Rows whose image cannot be used, which is found where it is decoded.
BAD_IMAGES = {
    "an empty file": b"",
    "text": b"a red square",
    "EPS": EPS,
    "half a PNG": None,
    "a PDF": b"%PDF-1.4\n%%EOF",
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "13,000 × 13,000 of one bit": None,
    "zeros": b"\0" * 1000,
}
# What may look odd, and is used.
ODD_LINES = {
    "sentence of &nbsp;": row(sentences=["A red square.", "&nbsp;"]),
    "sentence of zero width": row(sentences=["\u200b", "A red square."]),
    "an empty sentence": row(sentences=["", "A red square."]),
    "an empty phrase": row(phrases=["", "red square"]),
    "a phrase of markers": row(phrases=["<|endoftext|>", {"text": "red square", "boxes": None}]),
    "a blank one of captions": b'{"image": "good.png", "captions": ["A red square.", " ", "Red."]}',
    "caption of an emoji": row(caption="🙂"),
    "caption of a question mark": row(caption="?"),
    "caption of 10,000 words": row(caption="word " * 10_000),
    "caption with terminal escapes": row(caption="\x1b[31mred\x1b[0m square"),
    "width a word": row(regions=[BOX], width="wide", height=8),
    "width a list": row(regions=[BOX], width=[8], height=8),
    "nested columns": nested(50),
    "a thin image": row(image="thin.png"),
    "no phrases": row(phrases=[]),
    "null everywhere": row(sentences=None, phrases=None, regions=None, short_caption=None),
}


@pytest.fixture
def folder(tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "good.png")
    Image.new("RGB", (40_000, 1), "red").save(tmp_path / "thin.png")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


def write(folder, line):
    path = folder / "test.jsonl"
    good = json.dumps(GOOD).encode()
    path.write_bytes(good + b"\n" + line + b"\n")
    return path


def bad_image(name):
    data = BAD_IMAGES[name]
    buffer = io.BytesIO()
    if name == "half a PNG":
        Image.effect_noise((80, 80), 90).save(buffer, "PNG")
        data = buffer.getvalue()[:1000]
    elif data is None:
        Image.new("1", (13_000, 13_000)).save(buffer, "PNG")
        data = buffer.getvalue()
    return data


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
def test_a_bad_line_in_evaluation_and_index(name, folder, tiny_processor):
    path = write(folder, BAD_LINES[name])
    photos = open_photos(path)
    readable = ReadablePhotos(photos, photos.keys())
    errors = [readable[key]["error"] for key in range(len(readable)) if "error" in readable[key]]
    # A row of an index needs no caption, but says what is wrong with everything else.
    assert len(photos.skipped) + photos.num_read == 2 and len(errors) <= 1
    assert all(len(error) < 1000 for error in errors)
    try:
        (annotations, *_) = read_photos(Place(folder, folder))
        ImageReader(read_texts(annotations.rows) and annotations.rows, tiny_processor.image_processor)([0])
    except ValueError as error:
        assert "2" in str(error) and len(str(error)) < 1000
    else:
        assert len(annotations.rows) == 1


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
