"""FineHARD's files: lists and JSON Lines, records to rows, and errors in the source's own names."""

import copy
import json
import logging
import pickle
import re
import tracemalloc

import pytest
from PIL import Image
from torch.utils.data import DataLoader

from beta_clip_hf.data.formats.finehard import finehard_row
from beta_clip_hf.data.images import load_image
from beta_clip_hf.data.readers import load_rows
from beta_clip_hf.data.regions import regions_of
from beta_clip_hf.data.rows import check_row


@pytest.fixture
def folder(tmp_path):
    """Six images, images/0.png … images/5.png, each with its number as its colour."""
    (tmp_path / "images").mkdir()
    for number in range(6):
        Image.new("RGB", (8, 4), (number, 0, 0)).save(tmp_path / "images" / f"{number}.png")
    return tmp_path


def box(*sides, **fields) -> dict:
    return {
        "bbox": list(sides),
        "short_expr": "a red hat",
        "long_expr": "a red hat with a white ribbon",
        "flag_short_neg": 0,
        **fields,
    }


def record(number: int = 0, *boxes, **fields) -> dict:
    return {
        "caption": f"Picture {number}. It is long.",
        "short_caption": f"picture {number}",
        "f_path": f"images/{number}.png",
        "bbox_info": list(boxes),
        **fields,
    }


def write_lines(path, *records):
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in records))
    return path


def write_list(path, *records):
    path.write_text(json.dumps(records))
    return path


def numbers(rows) -> list[int]:
    return [load_image(row["image"]).getpixel((0, 0))[0] for row in rows]


def test_a_record_becomes_a_row():
    negatives = {f"neg_{number}": f"a hat of colour {number}" for number in range(10)}
    original = record(
        3,
        box(0.1, 0.2, 0.3, 0.4, 0.87),
        box(0, 0, 1, 1, flag_short_neg=1, short_expr_negs=negatives, short_expr="a man"),
        box(0.5, 0.5, 0.5, 0.9, flag_short_neg=1, short_expr_negs=["a blue hat"]),  # no width
        box(0, 0, 1, 1, short_expr_negs=negatives),  # not flagged: not read
        is_cn=False,
        source=None,
    )
    before = copy.deepcopy(original)
    row = finehard_row(original)
    assert original == before
    assert row == {
        "caption": "Picture 3. It is long.",
        "short_caption": "a photo of picture 3",
        "image": "images/3.png",
        "regions": [
            {"box": [0.1, 0.2, 0.3, 0.4], "text": "a red hat", "long_text": "a red hat with a white ribbon"},
            {
                "box": [0, 0, 1, 1],
                "text": "a man",
                "long_text": "a red hat with a white ribbon",
                "negatives": [f"a hat of colour {number}" for number in range(10)],
            },
            {
                "box": [0.5, 0.5, 0.5, 0.9],
                "text": "a red hat",
                "long_text": "a red hat with a white ribbon",
                "negatives": ["a blue hat"],
            },
            {"box": [0, 0, 1, 1], "text": "a red hat", "long_text": "a red hat with a white ribbon"},
        ],
        "box_format": "xyxy_normalized",
        "is_cn": False,
        "source": None,
    }
    assert check_row(row) == {name: value for name, value in row.items() if name != "source"}
    assert regions_of(check_row(row)) == row["regions"]


def test_the_example_of_the_documents(project_dir):
    blocks = re.findall(r"^```json\n(.*?)^```", (project_dir / "docs/data.md").read_text(encoding="utf-8"), re.M | re.S)
    [example] = [json.loads(block) for block in blocks if "bbox_info" in block]
    [region] = check_row(finehard_row(example))["regions"]
    assert region["negatives"] == ["a blue hat", "a red scarf"]
    [example] = [json.loads(block) for block in blocks if "regions" in block]
    assert check_row(example) == example


@pytest.mark.parametrize(
    ("short", "wanted"),
    [("a cat", "a photo of a cat"), ("a photo of a cat", "a photo of a cat"), ("A photo of it", "A photo of it")],
)
def test_the_short_caption_begins_once_as_a_photo(short, wanted):
    assert finehard_row(record(short_caption=short))["short_caption"] == wanted


def test_the_folder_of_the_authors_is_left_out_of_paths():
    assert finehard_row(record(f_path="grit-20m/data-12m/coyo_image_0/00069/000699825.jpg"))["image"] == (
        "coyo_image_0/00069/000699825.jpg"
    )
    assert finehard_row(record(f_path="data/grit-20m/data-12m/1.jpg"))["image"] == "data/grit-20m/data-12m/1.jpg"


def test_no_boxes_are_no_regions(folder):
    [row] = load_rows(write_lines(folder / "a.jsonl", record(1)), format="finehard", strict=True)
    assert (row["regions"], row["box_format"], row["id"]) == ([], "xyxy_normalized", "a.jsonl:1")


def without(entry: dict, name: str) -> dict:
    return {key: value for key, value in entry.items() if key != name}


GOOD = box(0.1, 0.1, 0.9, 0.9)
BAD_RECORDS = {
    "no caption": (without(record(), "caption"), "caption must be a string that is not empty, but is missing"),
    "empty short caption": (record(short_caption=" "), "short_caption must be a string that is not empty, but is ' '"),
    "no path": (without(record(), "f_path"), "f_path must be a string that is not empty, but is missing"),
    "path that is no text": (record(f_path=7), "f_path must be a string that is not empty, but is 7"),
    "no such image": (record(f_path="images/absent.png"), "f_path must be an existing file, but is"),
    "no bbox_info": (without(record(), "bbox_info"), "bbox_info must be a list, but is missing"),
    "bbox_info that is a dict": (record(bbox_info={"0": GOOD}), "bbox_info must be a list, but is {"),
    "entry that is no object": (record(0, [0, 0, 1, 1]), "bbox_info[0] must be an object with a bbox and its texts"),
    "no bbox": (record(0, GOOD, without(GOOD, "bbox")), "bbox_info[1].bbox must be [x1, y1, x2, y2] or"),
    "three numbers": (record(0, box(0, 0, 1)), "bbox_info[0].bbox must be [x1, y1, x2, y2] or"),
    "six numbers": (record(0, box(0, 0, 1, 1, 1, 1)), "bbox_info[0].bbox must be [x1, y1, x2, y2] or"),
    "x order": (record(0, GOOD, GOOD, box(0.5, 0, 0.4, 1)), "bbox_info[2].bbox must be [x1, y1, x2, y2] or"),
    "y order": (record(0, box(0, 0.5, 1, 0.4, 0.9)), "with x1 <= x2 and y1 <= y2, but is [0, 0.5, 1, 0.4, 0.9]"),
    "NaN": (record(0, box(0, float("nan"), 1, 1)), "bbox_info[0].bbox must be [x1, y1, x2, y2] or"),
    "pixels": (record(0, box(3, 4, 50, 60)), "bbox_info[0].bbox must lie in the image, between 0 and 1, but is [3, 4"),
    "outside": (record(0, GOOD, box(0.9, 0, 1.1, 1)), "bbox_info[1].bbox must lie in the image, between 0 and 1"),
    "no short_expr": (record(0, GOOD, without(GOOD, "short_expr")), "bbox_info[1].short_expr must be a string"),
    "empty long_expr": (record(0, {**GOOD, "long_expr": ""}), "bbox_info[0].long_expr must be a string that is not"),
    "no flag": (record(0, without(GOOD, "flag_short_neg")), "bbox_info[0].flag_short_neg must be 0 or 1, but is miss"),
    "flag 2": (record(0, {**GOOD, "flag_short_neg": 2}), "bbox_info[0].flag_short_neg must be 0 or 1, but is 2"),
    "flagged without": (
        record(0, {**GOOD, "flag_short_neg": 1}),
        "bbox_info[0].short_expr_negs must be a dict or a list of texts where flag_short_neg is 1, but is missing",
    ),
    "flagged, empty dict": (
        record(0, {**GOOD, "flag_short_neg": 1, "short_expr_negs": {}}),
        "bbox_info[0].short_expr_negs must not be empty where flag_short_neg is 1, but is {}",
    ),
    "flagged, empty list": (
        record(0, {**GOOD, "flag_short_neg": 1, "short_expr_negs": []}),
        "bbox_info[0].short_expr_negs must not be empty where flag_short_neg is 1, but is []",
    ),
    "flagged, one text": (
        record(0, {**GOOD, "flag_short_neg": 1, "short_expr_negs": "a blue hat"}),
        "bbox_info[0].short_expr_negs must be a dict or a list",
    ),
    "empty negative in a dict": (
        record(0, {**GOOD, "flag_short_neg": 1, "short_expr_negs": {"1": "a blue hat", "2": ""}}),
        "bbox_info[0].short_expr_negs['2'] must be a string that is not empty, but is ''",
    ),
    "empty negative in a list": (
        record(0, GOOD, {**GOOD, "flag_short_neg": 1, "short_expr_negs": ["a blue hat", None]}),
        "bbox_info[1].short_expr_negs[1] must be a string that is not empty, but is missing",
    ),
    "broken line": ('{"caption": "A c', "a record must be JSON"),
}


@pytest.mark.parametrize("kind", BAD_RECORDS)
def test_a_bad_record_is_an_error_or_a_counted_skip(folder, caplog, kind):
    bad, reason = BAD_RECORDS[kind]
    path = write_lines(folder / "part-0001.jsonl", record(1, GOOD), bad, record(2))
    with caplog.at_level(logging.WARNING):
        rows = load_rows(path, format="finehard")
    assert numbers(rows) == [1, 2]
    [(location, why)] = rows.skipped
    assert location == "part-0001.jsonl:2"
    assert why.startswith(reason) or reason in why
    assert [entry.getMessage() for entry in caplog.records] == [
        f"part-0001.jsonl:2 is skipped: {why}",
        "part-0001.jsonl: 2 rows read + 1 skipped = 3 in the source",
    ]
    with pytest.raises(ValueError) as error:
        load_rows(path, format="finehard", strict=True)
    assert str(error.value) == f"part-0001.jsonl:2: {why}"


def test_boxes_may_overshoot_by_rounding(folder):
    sides = [-0.008, 0, 1.0099, 1.0]
    [row] = load_rows(write_lines(folder / "a.jsonl", record(1, box(*sides))), format="finehard", strict=True)
    assert row["regions"][0]["box"] == sides


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
@pytest.mark.parametrize("write", [write_lines, write_list])
@pytest.mark.parametrize("format", ["finehard", None])
def test_lists_and_lines_whatever_the_suffix(folder, write, suffix, format):
    path = write(folder / f"results{suffix}", record(0, GOOD), record(9), record(2, GOOD, GOOD))
    rows = load_rows(path, format=format)
    assert numbers(rows) == [0, 2]
    assert [len(row["regions"]) for row in rows] == [1, 2]
    assert [row["id"] for row in rows] == [f"results{suffix}:1", f"results{suffix}:3"]
    assert rows.skipped[0][0] == f"results{suffix}:2"


def test_a_file_of_one_record_and_one_with_a_byte_order_mark(folder):
    assert numbers(load_rows(write_lines(folder / "a.json", record(3)))) == [3]
    for content in (json.dumps([record(4)]), json.dumps(record(4)) + "\n" + json.dumps(record(5))):
        (folder / "b.json").write_bytes(b"\xef\xbb\xbf \n"[: 3 if content.startswith("{") else 5] + content.encode())
        assert numbers(load_rows(folder / "b.json", format="finehard"))[0] == 4


def test_several_files(folder):
    (folder / "jsonfiles").mkdir()
    first = write_list(folder / "jsonfiles" / "a.json", record(0), record(9))
    second = write_lines(folder / "jsonfiles" / "b.jsonl", "", record(1), record(2, GOOD))
    third = write_list(folder / "jsonfiles" / "c.jsonl", record(3))
    (folder / "jsonfiles" / "notes.txt").write_text("no rows")
    wanted = ["a.json:1", "b.jsonl:2", "b.jsonl:3", "c.jsonl:1"]
    for source in (folder / "jsonfiles", str(folder / "jsonfiles" / "*.json*"), [first, second, str(third)]):
        rows = load_rows(source, format="finehard", image_root=folder)
        assert numbers(rows) == [0, 1, 2, 3]
        assert [row["id"] for row in rows] == wanted
        assert [location for location, _ in rows.skipped] == ["a.json:2"]
        assert rows[-1] == rows[3] and rows[2]["regions"][0]["box"] == [0.1, 0.1, 0.9, 0.9]
    assert numbers(load_rows([third, first], format="finehard", image_root=folder)) == [3, 0]
    assert numbers(load_rows([second, third], image_root=folder)) == [1, 2, 3]  # known by their bbox_info
    with pytest.raises(ValueError, match=r"all 5 were skipped"):  # the images are not in jsonfiles
        load_rows(folder / "jsonfiles", format="finehard")
    assert numbers(load_rows([first, second], image_root=folder)) == [0, 1, 2]


def test_the_files_of_a_directory_are_sorted(folder, monkeypatch):
    for number in (3, 1, 4, 0, 2):
        write_lines(folder / f"part-{number}.jsonl", record(number))
    found = sorted(folder.iterdir(), reverse=True)
    monkeypatch.setattr(type(folder), "iterdir", lambda self: iter(found))
    assert numbers(load_rows(folder, format="finehard")) == [0, 1, 2, 3, 4]


def test_files_of_one_name_are_told_apart(folder):
    for place in "xy":
        (folder / place).mkdir()
    files = [write_lines(folder / place / "part.jsonl", record(number)) for place, number in (("x", 1), ("y", 2))]
    rows = load_rows(files, format="finehard")
    for same in (rows, pickle.loads(pickle.dumps(rows))):
        assert [row["id"] for row in same] == ["x/part.jsonl:1", "y/part.jsonl:1"]
    write_lines(folder / "y" / "part.jsonl", record(9))
    assert load_rows(files, format="finehard").skipped[0][0] == "y/part.jsonl:1"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("absent.jsonl", r"source must name existing JSON files, but is '.*absent\.jsonl'"),
        ("part-*.json", "source must name existing JSON files"),
        ("images", "source must name existing JSON files, but is '.*images'"),
        ([], r"source must be a path of JSON files, a glob or a list of those, but is \[\]"),
        ([{"caption": "A cat."}], "source must be a path of JSON files"),
    ],
)
def test_sources_that_are_not_there(folder, monkeypatch, source, message):
    monkeypatch.chdir(folder)
    with pytest.raises(ValueError, match=message):
        load_rows(source, format="finehard")


def test_columns(folder):
    renamed = [{"path" if name == "f_path" else name: value for name, value in record(1).items()}] * 150
    path = write_lines(folder / "a.jsonl", *renamed)
    with pytest.raises(ValueError) as error:
        load_rows(path, format="finehard")
    assert str(error.value).startswith("a.jsonl must have the columns ('caption', 'short_caption', 'f_path', 'bbox_inf")
    assert "but has no f_path; its columns are ['bbox_info', 'caption', 'path', 'short_caption']" in str(error.value)
    assert len(load_rows(path, format="finehard", columns={"path": "f_path"}, group=False)) == 150
    with pytest.raises(ValueError, match="streaming must be False for the format 'finehard'"):
        load_rows(path, format="finehard", streaming=True)


@pytest.mark.parametrize("text", ["[1,", '[{"caption": ', "[] []"])
def test_a_list_that_is_cut(folder, text):
    (folder / "a.json").write_text(text)
    with pytest.raises(ValueError, match=r"a\.json must be JSON, but is not"):
        load_rows(folder / "a.json", format="finehard")


@pytest.mark.slow
def test_lines_stay_on_the_disk(folder):
    """A row of JSON Lines costs its place in the file, whatever it says; several files are no different."""
    count = 1000
    lines = [record(1, *[box(0, 0, 1, 1, long_expr="a red hat " * 50)] * 4)] * count
    files = [write_lines(folder / name, *lines) for name in ("a.jsonl", "b.jsonl")]
    tracemalloc.start()
    rows = load_rows(files, format="finehard", strict=True, group=False)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(rows) == 2 * count
    assert used / len(rows) < 60


@pytest.mark.parametrize("write", [write_lines, write_list])
def test_workers_may_be_spawned(folder, write):
    records = [record(number, GOOD) for number in range(3)]
    files = [write(folder / name, *records) for name in ("a.jsonl", "b.jsonl")]
    rows = load_rows(files, format="finehard", group=False)
    assert list(pickle.loads(pickle.dumps(rows))) == list(rows)
    loader = DataLoader(rows, num_workers=1, collate_fn=numbers, batch_size=4)
    assert list(loader) == [[0, 1, 2, 0], [1, 2]]
