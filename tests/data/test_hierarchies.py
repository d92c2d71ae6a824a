"""Hierarchies of a source: the same rows with their texts, in shards that are whole, built once."""

import io
import json
import logging
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import torch
from PIL import Image

from beta_clip_hf import BetaCLIPDataCollator, PhraseExtractor
from beta_clip_hf.data import hierarchies
from beta_clip_hf.data.hierarchies import BuiltShard, build_hierarchies
from beta_clip_hf.data.images import load_image
from beta_clip_hf.data.readers import load_rows
from beta_clip_hf.data.regions import regions_of
from beta_clip_hf.data.row_texts import hierarchy_of
from beta_clip_hf.text.rule_tagger import tag_by_rules


BOXED = [{"text": "a red ball", "boxes": [[1, 1, 5, 5]]}, {"text": "balls", "kind": "many"}]
RECORDS = [
    {"caption": "A black dog runs through the grass. It is wet.", "licence": "CC0"},
    {"captions": [" Two red cubes next to a sphere.", "Cubes!"], "id": "cubes"},
    {"caption": "A red ball. Many other balls.", "phrases": BOXED},
    {"caption": ""},
    {"caption": "一只黑狗。A man sits on a chair.", "short_caption": " a man "},
    {"caption": "  A cat sleeps on a sofa.", "sentences": ["A cat sleeps", "on a sofa."]},
    {"caption": "A pair: \U0001f436, a dog.", "phrases": []},
]
ROWS = 6  # can be used


class CountedTagger:
    """The rules, counted; from one call on, the process ends as if its machine did."""

    def __init__(self, last_call: int | None = None) -> None:
        self.calls, self.last_call = 0, last_call

    def __call__(self, tokens) -> str:
        self.calls += 1
        if self.calls == self.last_call:
            os.kill(os.getpid(), signal.SIGKILL)
        return tag_by_rules(tokens)

    def __str__(self) -> str:
        return "counted rules"


@pytest.fixture
def source(tmp_path) -> Path:
    """Seven records, the fourth without a caption, in photos/list.jsonl beside their images."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(len(RECORDS)):
        Image.new("RGB", (8, 8), (30 * number, 0, 0)).save(folder / f"{number}.png")
    write(folder / "list.jsonl", RECORDS)
    return folder / "list.jsonl"


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch) -> None:
    monkeypatch.setattr(hierarchies, "BLOCK_ROWS", 2)


def write(path: Path, records: list[dict]) -> None:
    lines = [json.dumps({"image": f"{number}.png", **record}) for number, record in enumerate(records)]
    path.write_text("\n".join(lines) + "\n")


def build(source, output, **options) -> Path:
    return build_shard(source, output, **options).path


def build_shard(source, output, **options) -> BuiltShard:
    return build_hierarchies(source, output, **{"num_proc": 1, **options})


def test_the_rows_stay_what_they_are_and_bring_their_texts(source, tmp_path) -> None:
    build(source, tmp_path / "built")
    before, after = load_rows(source), load_rows(tmp_path / "built", strict=True)
    assert len(after) == len(before) == ROWS
    for old, new in zip(before, after, strict=True):
        assert hierarchy_of(new) == hierarchy_of(old)
        assert {"sentences", "phrases", "phrase_sentences", "phrase_kinds"} <= new.keys()
        for name in old.keys() - {"caption", "image", "short_caption"}:
            assert new[name] == old[name]
        assert os.path.samefile(new["image"], old["image"])
        assert regions_of(new) == regions_of(old)
    assert after[0]["id"] == "list.jsonl:1" and after[0]["licence"] == "CC0" and after[1]["id"] == "cubes"
    assert after[0]["phrases"] == ["A black dog", "runs through", "the grass"]
    assert regions_of(after[2]) == [{"box": [1, 1, 5, 5], "text": "a red ball"}]


def test_training_takes_them_as_they_are(source, tmp_path, tiny_processor) -> None:
    """The same batches as of the source, and nothing is extracted."""
    build(source, tmp_path / "built")
    tagger = CountedTagger()
    collator = BetaCLIPDataCollator(tiny_processor, num_sentences=2, extractor=PhraseExtractor(tagger))
    batches, calls = [], []
    for rows in (load_rows(source), load_rows(tmp_path / "built")):
        batches.append(collator([row for row in rows if row["id"] != "list.jsonl:7"]))  # half a pair has no UTF-8
        calls.append(tagger.calls)
    assert calls[0] == calls[1] > 0
    for name in ("pixel_values", "input_ids", "image_index", "granularity"):
        assert torch.equal(batches[0][name], batches[1][name])


@pytest.mark.parametrize("parts", [1, 2, 3, 7, 9])
def test_all_shards_are_the_whole_in_order(source, tmp_path, parts) -> None:
    build(source, tmp_path / "whole")
    for part in reversed(range(parts)):
        build(source, tmp_path / "parts", shard=(part, parts))
    shards = sorted((tmp_path / "parts").glob("*.jsonl"))
    assert len(shards) == parts
    assert b"".join(shard.read_bytes() for shard in shards) == (
        (tmp_path / "whole" / "train-00000-of-00001.jsonl").read_bytes()
    )
    every = [row["caption"] for row in load_rows(tmp_path / "whole")]
    for these in (tmp_path / "parts", str(tmp_path / "parts" / "*.jsonl"), shards):
        assert [row["caption"] for row in load_rows(these)] == every


def test_several_processes_write_the_same(source, tmp_path) -> None:
    alone = build(source, tmp_path / "alone").read_bytes()
    assert build(source, tmp_path / "together", num_proc=2).read_bytes() == alone
    assert len(alone.splitlines()) == ROWS


def test_a_second_run_extracts_nothing(source, tmp_path, caplog) -> None:
    tagger = CountedTagger()
    options = {"extractor": PhraseExtractor(tagger)}
    path = build(source, tmp_path / "built", **options)
    first, stamp = tagger.calls, path.stat().st_mtime_ns
    assert first > 5
    with caplog.at_level(logging.INFO):
        assert build(source, tmp_path / "built", **options) == path
    assert tagger.calls == first and path.stat().st_mtime_ns == stamp
    assert "is there already" in caplog.text
    build(source, tmp_path / "built", shard=(0, 1), num_proc=2, **options)
    assert tagger.calls == first


def test_other_rows_settings_or_bytes_are_built_again(source, tmp_path) -> None:
    def calls(kinds=("noun", "verb", "relation")) -> int:
        tagger = CountedTagger()
        build(source, tmp_path / "built", extractor=PhraseExtractor(tagger, kinds=kinds))
        return tagger.calls

    path = tmp_path / "built" / "train-00000-of-00001.jsonl"
    assert calls() > 0 and calls() == 0
    assert calls(["noun"]) > 0 and calls(["noun"]) == 0
    assert load_rows(path)[0]["phrases"] == ["A black dog", "the grass"]
    for change in ({"caption": "A white dog."}, {"licence": "none"}, {"caption": None}):
        write(source, [{**RECORDS[0], **change}, *RECORDS[1:]])
        assert calls() > 0 and calls() == 0
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    assert calls() > 0 and path.read_bytes() == whole and calls() == 0
    path.with_suffix(".info.json").write_text("{")
    assert calls() > 0 and calls() == 0


def test_a_killed_run_leaves_nothing_that_is_taken_for_whole(source, tmp_path, caplog) -> None:
    output = tmp_path / "built"
    tagger = CountedTagger(last_call=7)
    process = multiprocessing.get_context("fork").Process(
        target=build, args=(source, output), kwargs={"extractor": PhraseExtractor(tagger)}
    )
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    [left] = output.iterdir()
    assert left.name.startswith(".train-00000-of-00001.jsonl.")
    with pytest.raises(ValueError, match="source must"):
        load_rows(output, format="jsonl")
    path = build(source, output)
    assert "was interrupted before and is built from its start" in caplog.text
    assert sorted(file.name for file in output.iterdir()) == [path.with_suffix(".info.json").name, path.name]
    assert path.read_bytes() == build(source, tmp_path / "whole").read_bytes()


def test_an_old_shard_is_no_proof_for_a_run_that_was_killed(source, tmp_path) -> None:
    path = build(source, tmp_path / "built")
    old = path.read_bytes()
    with pytest.raises(ValueError, match=r"list\.jsonl:4: caption must be"):
        build(source, tmp_path / "built", strict=True, extractor=PhraseExtractor(kinds=["noun"]))
    assert path.read_bytes() == old
    assert [file for file in path.parent.iterdir() if file != path] == []
    tagger = CountedTagger()
    build(source, tmp_path / "built", extractor=PhraseExtractor(tagger))
    assert tagger.calls > 0


def test_bad_rows_are_named_and_counted(source, tmp_path, caplog) -> None:
    path = build(source, tmp_path / "built")
    assert "list.jsonl:4 is skipped: caption must be a string" in caplog.text
    info = json.loads(path.with_suffix(".info.json").read_text())
    assert (info["rows"], info["skipped"]) == (ROWS, 1)
    with pytest.raises(ValueError, match='"text": "caption"'):
        write(source, [{"text": "A dog."}])
        build(source, tmp_path / "other")
    build(source, tmp_path / "other", columns={"text": "caption"})
    assert load_rows(tmp_path / "other")[0]["phrases"] == ["A dog"]


def test_rows_that_were_built_before_are_taken_as_they_are(source, tmp_path) -> None:
    first = build(source, tmp_path / "built")
    tagger = CountedTagger()
    second = build(tmp_path / "built", tmp_path / "again", extractor=PhraseExtractor(tagger))
    assert second.read_bytes() == first.read_bytes() and tagger.calls == 0


def test_coco_and_finehard(source, tmp_path) -> None:
    content = {
        "images": [{"id": 9, "file_name": "0.png", "width": 8, "height": 8}],
        "annotations": [
            {"id": 1, "image_id": 9, "caption": "A man rides a small moped."},
            {"id": 2, "image_id": 9, "bbox": [1, 1, 4, 4], "phrase": "a red helmet"},
        ],
    }
    (source.parent / "coco.json").write_text(json.dumps(content))
    box = {"bbox": [0.1, 0.1, 0.5, 0.5], "short_expr": "a hat", "long_expr": "a red hat", "flag_short_neg": 0}
    record = {"caption": "A man in a hat.", "short_caption": "a man", "f_path": "1.png", "bbox_info": [box]}
    (source.parent / "hard.jsonl").write_text(json.dumps(record) + "\n")
    for name in ("coco.json", "hard.jsonl"):
        build(source.parent / name, tmp_path / name)
        old, new = load_rows(source.parent / name)[0], load_rows(tmp_path / name)[0]
        assert hierarchy_of(new) == hierarchy_of(old) and regions_of(new) == regions_of(old)
        assert new["phrases"] and new.get("box_format") == old.get("box_format")


def test_a_data_set_on_the_disk(source, tmp_path) -> None:
    datasets = pytest.importorskip("datasets")
    columns = {"image": ["0.png", "1.png"], "caption": ["A dog runs.", "A cat on a sofa."]}
    datasets.Dataset.from_dict(columns).save_to_disk(tmp_path / "saved")
    build(tmp_path / "saved", tmp_path / "built", image_root=source.parent)
    rows = load_rows(tmp_path / "built", strict=True)
    assert [row["phrases"] for row in rows] == [["A dog"], ["A cat", "A cat on a sofa", "a sofa"]]


def test_images_inside_of_a_source_are_written_to_files(source, tmp_path) -> None:
    black, red = (Image.new("RGB", (8, 8), (level, 0, 0)) for level in (0, 250))
    content = io.BytesIO()
    red.save(content, "JPEG")
    records = [
        {"image": black, "caption": "A dog runs."},
        {"image": content.getvalue(), "caption": "A cat on a sofa."},
        {"image": {"bytes": content.getvalue(), "path": None}, "caption": "A sofa."},
        {"image": 7, "caption": "No image."},
        {"image": b"broken", "caption": "Not decoded here."},
    ]
    built = build_shard(records, tmp_path / "built")
    assert (built.rows, built.read, built.skipped) == (3, 4, 1)
    rows = load_rows(tmp_path / "built", strict=True)
    assert [row["caption"] for row in rows] == ["A dog runs.", "A cat on a sofa. A sofa.", "Not decoded here."]
    assert load_image(rows[0]["image"]).getpixel((0, 0)) == (0, 0, 0)
    assert Path(rows[1]["image"]).read_bytes() == content.getvalue()
    assert {path.suffix for path in (tmp_path / "built" / "images").iterdir()} == {".png", ".jpeg", ".img"}
    # What is there already is known by its content, and not built again.
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "built").rglob("*")}
    assert build_shard(records, tmp_path / "built") == built
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "built").rglob("*")} == written


def test_rows_of_a_photo_and_what_belongs_to_no_row(source, tmp_path) -> None:
    coco = {
        "images": [{"id": 1, "file_name": "0.png"}, {"id": 2, "file_name": "0.png"}],
        "annotations": [
            {"image_id": 1, "caption": "A dog runs."},
            {"image_id": 2, "caption": "A dog."},
            {"image_id": 9, "caption": "Of no image."},
        ],
    }
    (source.parent / "coco.json").write_text(json.dumps(coco))
    built = [build_shard(source.parent / "coco.json", tmp_path / "built", shard=(part, 2)) for part in range(2)]
    assert [(shard.rows, shard.read, shard.skipped) for shard in built] == [(0, 0, 0), (1, 2, 1)]
    [row] = load_rows(tmp_path / "built")
    assert row["captions"] == ["A dog runs.", "A dog."]
    apart = build_shard(source.parent / "coco.json", tmp_path / "apart", group=False)
    assert (apart.rows, apart.read, apart.skipped) == (2, 2, 1)


def test_image_paths_lead_from_the_output_through_a_link(source, tmp_path, monkeypatch) -> None:
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "away")
    monkeypatch.chdir(source.parent)
    build("list.jsonl", tmp_path / "link")
    assert load_rows(tmp_path / "link", strict=True)[0]["image"].endswith("../../photos/0.png")


def test_shards_of_one_number_and_all_of_them(source, tmp_path) -> None:
    output = tmp_path / "built"
    build(source, output, shard=(1, 3))
    with pytest.raises(ValueError, match=r"the shards of train in .* must be all of one number, but are 1 of 3"):
        load_rows(output)
    with pytest.raises(ValueError, match=r"output must have shards of one number only, but .* has some of 3"):
        build(source, output)
    build(source, output, split="test")
    assert len(load_rows(output, split="test")) == ROWS
    for part in (0, 2):
        build(source, output, shard=(part, 3))
    assert len(load_rows(output)) == ROWS
    with pytest.raises(ValueError, match=r"output must have no list\.jsonl"):
        build(source, source.parent, split="list")
