"""Rows that name the same image are one photo with several captions."""

import json
import logging
import os

import pytest
from PIL import Image

from beta_clip_hf.data.grouping import group_rows, image_key
from beta_clip_hf.data.readers import load_rows


@pytest.fixture
def folder(tmp_path):
    for name in "abc":
        Image.new("RGB", (8, 8), (ord(name), 0, 0)).save(tmp_path / f"{name}.png")
    return tmp_path


def write_lines(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def image_bytes(folder, name):
    return (folder / f"{name}.png").read_bytes()


def test_rows_of_a_photo_are_one_row(folder, caplog):
    path = write_lines(
        folder / "train.jsonl",
        {"image": "a.png", "caption": "A dog.", "id": 7},
        {"image": "b.png", "caption": "A cat."},
        {"image": "./a.png", "caption": "It runs.", "licence": "CC0"},
        {"image": "c.png"},
        {"image": str(folder / "a.png"), "captions": ["Brown.", "A dog."]},
    )
    with caplog.at_level(logging.INFO):
        rows = load_rows(path)
    assert len(rows) == 2
    assert rows.num_read == 4
    assert rows[0]["captions"] == ["A dog.", "It runs.", "Brown."]
    assert rows[0]["caption"] == "A dog. It runs. Brown."
    assert (rows[0]["id"], rows[0]["licence"]) == ("7", "CC0")
    assert (rows[1]["caption"], rows[1]["captions"]) == ("A cat.", ["A cat."])
    assert rows[-1] == rows[1]
    with pytest.raises(IndexError):
        rows[2]
    grouping = [message for message in caplog.messages if "photos" in message]
    assert len(grouping) == 1
    assert grouping[0].startswith("train.jsonl: 4 rows are 2 photos: ")
    assert "train.jsonl: 4 rows read + 1 skipped = 5 in the source" in caplog.messages


def test_captions_without_a_full_stop_stay_sentences(folder):
    captions = ["a dog runs", "a brown dog", "Two dogs."]
    apart = write_lines(folder / "apart.jsonl", *[{"image": "a.png", "caption": caption} for caption in captions])
    listed = write_lines(folder / "listed.jsonl", {"image": "a.png", "captions": captions})
    for path in (apart, listed):
        row = load_rows(path)[0]
        assert row["captions"] == captions
        assert row["caption"] == "a dog runs. a brown dog. Two dogs."


def test_rows_are_kept_apart_if_asked(folder, caplog):
    path = write_lines(folder / "a.jsonl", *[{"image": "a.png", "caption": f"Number {n}."} for n in range(3)])
    with caplog.at_level(logging.INFO):
        rows = load_rows(path, group=False)
    assert [row["caption"] for row in rows] == ["Number 0.", "Number 1.", "Number 2."]
    assert not [message for message in caplog.messages if "photos" in message]


def test_photos_keep_their_order_and_rows_of_other_photos_lie_between(folder):
    records = [{"image": f"{name}.png", "caption": f"{name} {n}"} for n, name in enumerate("cabacbc")]
    rows = load_rows(write_lines(folder / "a.jsonl", *records))
    assert [row["captions"] for row in rows] == [["c 0", "c 4", "c 6"], ["a 1", "a 3"], ["b 2", "b 5"]]


def test_the_same_row_twice_is_one_row(folder):
    record = {"image": "a.png", "caption": "A dog sleeps. It dreams."}
    [row] = load_rows(write_lines(folder / "a.jsonl", record, record))
    assert row["caption"] == "A dog sleeps. It dreams."
    assert row["captions"] == ["A dog sleeps. It dreams."]
    assert row["sentences"] == ["A dog sleeps.", "It dreams."]


def test_a_long_caption_keeps_its_sentences(folder):
    long = "A dog sleeps on a mat. It dreams of bones."
    records = [{"image": "a.png", "caption": long}, {"image": "a.png", "caption": "A dog"}]
    [row] = load_rows(write_lines(folder / "a.jsonl", *records))
    assert row["captions"] == [long, "A dog"]
    assert row["sentences"] == ["A dog sleeps on a mat.", "It dreams of bones.", "A dog"]


def test_regions_negatives_and_phrases_are_joined(folder):
    hat = {"box": [0, 0, 1, 1], "text": "a hat"}
    shoe = {"box": [1, 1, 2, 2], "text": "a shoe"}
    first = {
        "image": "a.png",
        "caption": "A hat. Red.",
        "sentences": ["A hat.", "Red."],
        "phrases": ["a hat", {"text": "red", "sentence": 1}],
        "phrase_sentences": [0, 1],
        "phrase_kinds": ["noun", "noun"],
        "regions": [hat],
        "hard_negatives": ["A coat."],
    }
    second = {
        "image": "a.png",
        "caption": "A shoe.",
        "sentences": ["A shoe."],
        "phrases": [{"text": "a shoe", "sentence": 0}],
        "phrase_sentences": [0],
        "phrase_kinds": ["noun"],
        "regions": [hat, shoe],
    }
    [row] = load_rows(write_lines(folder / "a.jsonl", first, second))
    assert row["sentences"] == ["A hat.", "Red.", "A shoe."]
    assert row["phrases"] == ["a hat", {"text": "red", "sentence": 1}, {"text": "a shoe", "sentence": 2}]
    assert row["phrase_sentences"] == [0, 1, 2]
    assert row["phrase_kinds"] == ["noun"] * 3
    assert row["regions"] == [hat, shoe]
    assert row["hard_negatives"] == ["A coat."]
    # Phrases of one caption alone would be taken for those of the whole photo.
    [row] = load_rows(write_lines(folder / "a.jsonl", first, {"image": "a.png", "caption": "A shoe."}))
    assert "phrases" not in row
    assert "phrase_sentences" not in row


def test_rows_of_a_caption_bring_their_boxes_negatives_and_phrases(folder):
    """A row for each box is a common layout."""
    ball = {"box": [0, 0, 1, 1], "text": "a ball"}
    mat = {"box": [1, 1, 2, 2], "text": "a mat"}
    common = {"image": "a.png", "caption": "A ball on a mat."}
    first = {**common, "regions": [ball], "hard_negatives": ["A cat."], "phrases": ["a ball"], "phrase_kinds": ["noun"]}
    second = {**common, "regions": [mat], "hard_negatives": ["A dog."], "phrases": ["a ball", "a mat"]}
    second["phrase_kinds"] = ["noun", "noun"]
    [row] = load_rows(write_lines(folder / "a.jsonl", first, second))
    assert row["captions"] == [row["caption"]] == [common["caption"]]
    assert row["regions"] == [ball, mat]
    assert row["hard_negatives"] == ["A cat.", "A dog."]
    assert row["phrases"] == ["a ball", "a mat"] and row["phrase_kinds"] == ["noun", "noun"]
    # The first row has nothing of its own.
    [row] = load_rows(write_lines(folder / "a.jsonl", common, second))
    assert row["regions"] == [mat] and row["hard_negatives"] == ["A dog."] and row["phrases"] == second["phrases"]


def test_a_row_has_boxes_of_one_format(folder, caplog):
    pixels = {"box": [0, 0, 1, 1], "text": "a ball"}
    shares = {"box": [0.5, 0.5, 1, 1], "text": "a mat"}
    first = {"image": "a.png", "caption": "A ball.", "regions": [pixels]}
    second = {"image": "a.png", "caption": "A mat.", "box_format": "xyxy_normalized"}
    [row] = load_rows(write_lines(folder / "a.jsonl", first, second))
    assert row["regions"] == [pixels] and "box_format" not in row and "left out" not in caplog.text
    [row] = load_rows(write_lines(folder / "a.jsonl", first, {**second, "regions": [shares]}))
    assert row["regions"] == [pixels] and "box_format" not in row
    assert "regions of 1 of its rows are left out, because their box_format is not xyxy_pixels" in caplog.text
    [row] = load_rows(write_lines(folder / "a.jsonl", {**second, "regions": [shares]}, first))
    assert row["regions"] == [shares] and row["box_format"] == "xyxy_normalized"
    # The default, named or not, is one format.
    third = {"image": "a.png", "caption": "A dog.", "box_format": "xyxy_pixels", "regions": [{**pixels, "text": "dog"}]}
    [row] = load_rows(write_lines(folder / "a.jsonl", first, third))
    assert [region["text"] for region in row["regions"]] == ["a ball", "dog"]


def test_single_captions_are_lists_among_photos_with_several(folder):
    several = [{"image": "a.png", "caption": "One."}, {"image": "a.png", "caption": "Two."}]
    long = {"image": "b.png", "caption": "A dog sleeps on a mat. It dreams."}
    rows = load_rows(write_lines(folder / "a.jsonl", *several, long))
    assert rows[1]["captions"] == [long["caption"]]
    assert rows[1]["sentences"] == ["A dog sleeps on a mat.", "It dreams."]
    # A row that is there twice by accident changes nothing for the others.
    rows = load_rows(write_lines(folder / "a.jsonl", *several, long, {"image": "c.png", "caption": "A cat."}))
    assert ["captions" in row for row in rows] == [True, False, False]


def test_images_in_memory_are_known_by_their_content(folder):
    def image(name):
        return Image.open(folder / f"{name}.png").convert("RGB")

    kinds = {
        "bytes": lambda name: image_bytes(folder, name),
        "dict of bytes": lambda name: {"bytes": image_bytes(folder, name), "path": None},
        "dict of a path": lambda name: {"bytes": None, "path": str(folder / f"{name}.png")},
        "PIL": image,
        "PIL, not read yet": lambda name: Image.open(folder / f"{name}.png"),
        "path": lambda name: folder / f"{name}.png",
    }
    for kind, make in kinds.items():
        records = [{"image": make(name), "caption": f"{name}{n}"} for n, name in enumerate("aba")]
        assert [row["caption"] for row in load_rows(records)] == ["a0. a2", "b1"], kind
        assert image_key(make("a")) == image_key(make("a")) != image_key(make("b")), kind


def test_links_and_copies_are_photos_of_their_own(folder):
    os.link(folder / "a.png", folder / "copy.png")
    records = [{"image": "a.png", "caption": "One."}, {"image": "copy.png", "caption": "Two."}]
    assert len(load_rows(write_lines(folder / "a.jsonl", *records))) == 2


def test_images_inside_of_a_table_are_known_by_their_content(folder, monkeypatch, tmp_path_factory):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
    images = [{"bytes": image_bytes(folder, name), "path": f"{n}.png"} for n, name in enumerate("abab")]
    table = datasets.Dataset.from_dict({"image": images, "caption": list("wxyz")})
    for features in (table, table.cast_column("image", datasets.Image())):
        assert [row["captions"] for row in load_rows(features)] == [["w", "y"], ["x", "z"]]


def test_group_rows_keeps_the_images(folder):
    image = Image.new("RGB", (4, 4))
    rows = group_rows([{"image": image, "caption": "One."}, {"image": image, "caption": "Two."}])
    assert rows[0]["image"] is image
    single = [{"image": image, "caption": "One."}]
    assert group_rows(single) == single


def test_a_stream_warns_once(folder, caplog):
    from data.source_files import write_tar

    members = []
    for number, name in enumerate("aabb"):
        members += [(f"{number}.png", image_bytes(folder, name)), (f"{number}.txt", b"A caption.")]
    stream = load_rows(write_tar(folder / "a.tar", members))
    assert len(list(stream)) == 4
    assert len([message for message in caplog.messages if "several rows name the same image" in message]) == 1
