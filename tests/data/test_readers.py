import csv
import json
import logging
import pickle
import tracemalloc

import pytest
from PIL import Image
from torch.utils.data import DataLoader

from beta_clip_hf.data.images import load_image
from beta_clip_hf.data.readers import RowDataset, RowStream, load_rows


@pytest.fixture
def folder(tmp_path):
    """Ten images, 0.png … 9.png, each with its number as its colour."""
    for number in range(10):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number}.png")
    return tmp_path


def record(number: int, **fields) -> dict:
    return {"image": f"{number}.png", "caption": f"Picture {number}.", **fields}


def write_lines(path, *lines):
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return path


def numbers(rows) -> list[int]:
    return [load_image(row["image"]).getpixel((0, 0))[0] for row in rows]


def test_jsonl(folder):
    path = write_lines(folder / "train.jsonl", record(0), "", record(1, licence="CC0"), record(2, id=77))
    rows = load_rows(path)
    assert isinstance(rows, RowDataset)
    assert [row["id"] for row in rows] == ["train.jsonl:1", "train.jsonl:3", "77"]
    assert [row["caption"] for row in rows] == ["Picture 0.", "Picture 1.", "Picture 2."]
    assert rows[1]["licence"] == "CC0"
    assert numbers(rows) == [0, 1, 2]
    assert rows[-1] == rows[2]
    with pytest.raises(IndexError):
        rows[3]
    assert rows.skipped == []


def test_jsonl_without_a_last_newline_and_with_a_byte_order_mark(folder):
    (folder / "a.jsonl").write_bytes(
        b"\xef\xbb\xbf" + json.dumps(record(0)).encode() + b"\r\n" + json.dumps(record(1)).encode()
    )
    assert numbers(load_rows(folder / "a.jsonl")) == [0, 1]


def test_several_files_of_json_lines(folder):
    (folder / "parts").mkdir()
    first = write_lines(folder / "parts" / "train-a.jsonl", record(0, image="../0.png"))
    second = write_lines(folder / "parts" / "train-b.jsonl", record(1, image="../1.png"), record(2))
    write_lines(folder / "parts" / "test-a.jsonl", record(3, image="../3.png"))
    for source in (folder / "parts", str(folder / "parts" / "train-*.jsonl"), [first, str(second)]):
        rows = load_rows(source)
        assert numbers(rows) == [0, 1]
        assert [row["id"] for row in rows] == ["train-a.jsonl:1", "train-b.jsonl:1"]
        assert [place for place, _ in rows.skipped] == ["train-b.jsonl:2"]
    assert numbers(load_rows([second, first], format="jsonl", image_root=folder / "parts")) == [1, 0]
    assert numbers(load_rows(folder / "parts", split="test")) == [3]
    with pytest.raises(ValueError, match=r"source must name existing JSON files, but is .*dev\.jsonl"):
        load_rows(folder / "parts", split="dev", format="jsonl")
    write_lines(folder / "parts" / "train.jsonl", record(4, image="../4.png"))
    assert numbers(load_rows(folder / "parts")) == [4]


def test_jsonl_of_real_photos(shared_dir):
    rows = load_rows(shared_dir / "data/photos/train.jsonl", strict=True)
    assert len(rows) == 842
    row = rows[16]
    assert row["id"] == "train.jsonl:17"
    assert row["caption"] == " ".join(row["captions"])
    boxes = []
    for phrase in row["phrases"]:
        boxes += phrase["boxes"]
    assert {len(box) for box in boxes} == {4}
    assert load_image(row["image"]).size == (row["width"], row["height"])
    assert len(load_rows(shared_dir / "data/photos", split="test")) == 565


BAD_LINES = {
    "a line that is cut": ('{"image": "1.png", "capt', "a record must be JSON"),
    "a list": ([1, 2], "a record must be a JSON object, but is a list"),
    "no such image": (record(1, image="absent.png"), "image must be an existing file, but is"),
    "no image": ({"caption": "A cat."}, "image must be there"),
    "empty caption": (record(1, caption=""), "caption must be a string that is not empty"),
    "no caption": ({"image": "1.png"}, "caption must be a string that is not empty, but is missing"),
    "captions that are no list": (record(1, captions="A cat."), "captions must be a list"),
    "box of three numbers": (record(1, phrases=[{"text": "x", "boxes": [[1, 2, 3]]}]), "phrases[0].boxes[0] must be"),
}


@pytest.mark.parametrize("kind", BAD_LINES)
def test_a_bad_row_is_skipped_logged_and_counted(folder, caplog, kind):
    line, reason = BAD_LINES[kind]
    path = write_lines(folder / "train.jsonl", record(0), line, record(2))
    with caplog.at_level(logging.WARNING):
        rows = load_rows(path)
    assert numbers(rows) == [0, 2]
    assert [row["id"] for row in rows] == ["train.jsonl:1", "train.jsonl:3"]
    [(location, why)] = rows.skipped
    assert location == "train.jsonl:2"
    assert reason in why
    assert [entry.getMessage() for entry in caplog.records] == [
        f"train.jsonl:2 is skipped: {why}",
        "train.jsonl: 2 rows read + 1 skipped = 3 in the source",
    ]


@pytest.mark.parametrize("kind", BAD_LINES)
def test_a_bad_row_is_an_error_if_strict(folder, kind):
    line, reason = BAD_LINES[kind]
    path = write_lines(folder / "train.jsonl", record(0), line, record(2))
    with pytest.raises(ValueError) as error:
        load_rows(path, strict=True)
    assert str(error.value).startswith("train.jsonl:2: ")
    assert reason in str(error.value)


def test_no_row_at_all(folder):
    with pytest.raises(ValueError, match=r"a\.jsonl must have a row that can be used, but has no row at all"):
        load_rows(write_lines(folder / "a.jsonl", ""))
    (folder / "a.jsonl").write_bytes(b"")
    with pytest.raises(ValueError, match="has no row at all"):
        load_rows(folder / "a.jsonl")
    with pytest.raises(ValueError, match="all 2 were skipped"):
        load_rows(write_lines(folder / "a.jsonl", record(0, caption=""), record(11)))


def test_wrong_columns_are_one_error(folder, caplog):
    path = write_lines(folder / "train.jsonl", *[{"img": "0.png", "text": "A cat."}] * 200)
    with pytest.raises(ValueError) as error:
        load_rows(path)
    assert str(error.value).startswith('train.jsonl must have the columns "image" and "caption"')
    assert "['img', 'text']" in str(error.value)
    assert 'columns={"img": "image", "text": "caption"}' in str(error.value)
    assert not caplog.records
    assert len(load_rows(path, columns={"img": "image", "text": "caption"}, group=False)) == 200
    with pytest.raises(ValueError, match=r"columns must rename what is there, but \['title'\] is not in"):
        load_rows(path, columns={"title": "caption"})


def test_image_root(folder, tmp_path_factory):
    elsewhere = write_lines(tmp_path_factory.mktemp("elsewhere") / "train.jsonl", record(3))
    assert numbers(load_rows(elsewhere, image_root=folder)) == [3]
    with pytest.raises(ValueError, match="all 1 were skipped"):
        load_rows(elsewhere)
    absolute = write_lines(elsewhere, record(4, image=str(folder / "4.png")))
    assert numbers(load_rows(absolute)) == [4]


def test_sharegpt4v_json(folder):
    def turns(caption):
        return [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": caption}]

    records = [
        {"id": "000000000009", "image": "0.png", "conversations": turns("A black square. It is small.")},
        {"image": "1.png", "caption": "Another."},
        {"image": "2.png", "conversations": [{"from": "human", "value": "?"}]},
    ]
    (folder / "share.json").write_text(json.dumps(records))
    rows = load_rows(folder / "share.json")
    assert [row["id"] for row in rows] == ["000000000009", "share.json:2"]
    assert [row["caption"] for row in rows] == ["A black square. It is small.", "Another."]
    assert rows.skipped[0][0] == "share.json:3"


@pytest.mark.parametrize("text", ['{"image": "0.png"}', "[1,"])
def test_json_that_is_no_list(folder, text):
    (folder / "a.json").write_text(text)
    with pytest.raises(ValueError, match=r"a\.json must be"):
        load_rows(folder / "a.json")


def test_lines_and_lists_are_told_apart_by_their_content(folder):
    lines = write_lines(folder / "lines.json", record(0), "", record(1))
    assert [row["id"] for row in load_rows(lines)] == ["lines.json:1", "lines.json:3"]
    (folder / "list.jsonl").write_text(json.dumps([record(2), record(3)], indent=1))
    assert [row["id"] for row in load_rows(folder / "list.jsonl")] == ["list.jsonl:1", "list.jsonl:2"]
    with pytest.raises(ValueError, match=r"lines\.json must be JSON, but is not"):  # what is asked for is not guessed
        load_rows(lines, format="json")
    with pytest.raises(ValueError, match="must have a row that can be used"):
        load_rows(folder / "list.jsonl", format="jsonl")


def test_regions_of_rows(folder):
    regions = [{"box": [0, 0, 8, 8], "text": "a square", "long_text": "a black square", "negatives": ["a disc"]}]
    shares = [{"box": [0, 0, 1, 1], "text": "a square"}]
    path = write_lines(
        folder / "a.jsonl",
        record(0, regions=regions, width=8, height=8),
        record(1, regions=shares, box_format="xyxy_normalized"),
        record(2, regions=regions, width=4, height=8),
        record(3, regions=regions, box_format="xyxy_normalized"),
    )
    rows = load_rows(path)
    assert [row["regions"] for row in rows] == [regions, shares]
    assert rows.skipped == [
        ("a.jsonl:3", "regions[0].box must lie in the image of 4 × 8 pixels, but is [0, 0, 8, 8]"),
        ("a.jsonl:4", "regions[0].box must lie in the image, between 0 and 1, but is [0, 0, 8, 8]"),
    ]


def test_image_folder_with_csv(folder):
    with open(folder / "metadata.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "caption", "captions", "phrases"])
        writer.writerow(["0.png", "A black square.", "", '["a square"]'])
        writer.writerow(["1.png", "", '["One.", "Two."]', ""])
        writer.writerow(["2.png", "A square.", "not JSON", ""])
        writer.writerow(["3.png", "", "", ""])
    rows = load_rows(folder)
    assert [row["caption"] for row in rows] == ["A black square.", "One. Two."]
    assert rows[0]["phrases"] == ["a square"]
    assert "captions" not in rows[0]
    assert [location for location, _ in rows.skipped] == ["metadata.csv:3", "metadata.csv:4"]


def test_image_folder_with_jsonl_of_a_split(folder):
    (folder / "test").mkdir()
    (folder / "5.png").rename(folder / "test" / "5.png")
    write_lines(folder / "metadata.jsonl", {"file_name": "1.png", "text": "One."})
    write_lines(folder / "test" / "metadata.jsonl", {"file_name": "5.png", "text": "Five."})
    assert numbers(load_rows(folder, columns={"text": "caption"})) == [1]
    assert numbers(load_rows(folder, columns={"text": "caption"}, split="test")) == [5]
    assert numbers(load_rows(folder, format="imagefolder", columns={"text": "caption"}, split="test")) == [5]


def test_list_of_dicts():
    image = Image.new("RGB", (4, 4), (9, 0, 0))
    rows = load_rows([{"image": image, "caption": "Nine."}, {"image": image, "caption": ""}, "no dict"])
    assert numbers(rows) == [9]
    assert rows[0]["id"] == "rows[0]"
    assert [location for location, _ in rows.skipped] == ["rows[1]", "rows[2]"]


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("absent.jsonl", {}, r"source must name existing JSON files, but is 'absent\.jsonl'"),
        ("absent", {}, "source must be an existing file or directory"),
        ("absent-*.tar", {}, "source must name existing tar files"),
        (7, {}, "source must be a path, a list"),
        ([], {}, "must have a row"),
        (["a.json", "b.jsonl"], {}, r"source must name existing JSON files, but is 'a\.json'"),
        (["a.jsonl"], {"format": "jsonl"}, r"source must name existing JSON files, but is 'a\.jsonl'"),
        (__file__, {}, r"source must end in \.jsonl, .* or have its format given, but is '.*test_readers\.py'"),
        ("a.jsonl", {"format": "xml"}, r"format must be one of \('rows', .*\), but is 'xml'"),
        ("a.jsonl", {"streaming": True}, "streaming must be False for the format 'jsonl'"),
    ],
)
def test_a_source_that_cannot_be_opened(source, options, message):
    with pytest.raises(ValueError, match=message):
        load_rows(source, **options)


def test_folder_without_metadata_is_named(folder):
    with pytest.raises(ValueError, match=r"an image folder must hold one of \('metadata\.jsonl'"):
        load_rows(folder, format="imagefolder")


@pytest.mark.parametrize("kind", ["jsonl", "json"])
def test_workers_may_be_spawned(folder, kind):
    records = [record(number) for number in range(10)]
    if kind == "jsonl":
        rows = load_rows(write_lines(folder / "a.jsonl", *records))
    else:
        (folder / "a.json").write_text(json.dumps(records))
        rows = load_rows(folder / "a.json")
    assert list(pickle.loads(pickle.dumps(rows))) == list(rows)
    loader = DataLoader(rows, num_workers=2, collate_fn=numbers, batch_size=3)
    assert list(loader) == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]


def test_rows_stay_on_the_disk(folder):
    """A row costs its place in the file (24 bytes), whatever it says."""
    count = 2000
    path = write_lines(folder / "a.jsonl", *[record(1, caption="A square. " * 100)] * count)
    tracemalloc.start()
    rows = load_rows(path, group=False)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(rows) == count
    assert used / count < 60


# Parquet, the Hub's data sets.


@pytest.fixture
def datasets(monkeypatch, tmp_path_factory):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.1, raising=False)  # 5 s each by default
    return datasets


@pytest.fixture
def parquet(datasets, folder):
    """Nine images within the file; row 3 has no caption, image 5 is broken."""
    images = [{"bytes": (folder / f"{number}.png").read_bytes(), "path": None} for number in range(9)]
    images[5]["bytes"] = b"broken"
    captions = [f"Picture {number}." if number != 3 else None for number in range(9)]
    phrases = [["a square"] if number == 2 else None for number in range(9)]
    table = datasets.Dataset.from_dict({"photo": images, "caption": captions, "phrases": phrases})
    table.cast_column("photo", datasets.Image()).to_parquet(folder / "table" / "train.parquet")
    return folder / "table"


def test_parquet(parquet):
    rows = load_rows(parquet / "train.parquet", columns={"photo": "image"})
    assert isinstance(rows, RowDataset)
    assert [row["id"] for row in rows] == [f"train.parquet:{number}" for number in (0, 1, 2, 4, 5, 6, 7, 8)]
    assert rows.skipped == [("train.parquet:3", "caption must be a string that is not empty, but is missing")]
    assert rows[2]["phrases"] == ["a square"]
    assert "phrases" not in rows[0]
    assert set(rows[4]["image"]) == {"bytes", "path"}  # the broken one: not decoded here
    assert numbers(rows[index] for index in range(8) if index != 4) == [0, 1, 2, 4, 6, 7, 8]
    assert len(load_rows(parquet, columns={"photo": "image"})) == 8
    with pytest.raises(
        ValueError, match=r"must have the columns .* but its columns are \['caption', 'photo', 'phrases'\]"
    ):
        load_rows(parquet)


def test_parquet_as_a_stream(parquet, caplog):
    rows = load_rows(parquet, columns={"photo": "image"}, streaming=True)
    assert isinstance(rows, RowStream)
    first = list(rows)
    assert [row["caption"][8] for row in first] == list("01245678")
    assert rows.skipped == 1
    assert "caption must be" in caplog.text
    ids = [row["id"] for row in first]
    assert len(set(ids)) == 8
    shuffled = load_rows(parquet, columns={"photo": "image"}, streaming=True, shuffle_buffer=9, seed=1)
    orders = []
    for epoch in (0, 1, 0):
        shuffled.set_epoch(epoch)
        orders.append([row["id"] for row in shuffled])
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(ids)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_streamed_data_set_is_read_once_by_its_workers(parquet, workers):
    rows = load_rows(parquet, columns={"photo": "image"}, streaming=True)
    loader = DataLoader(rows, num_workers=workers, batch_size=None)
    assert sorted(row["caption"][8] for row in loader) == list("01245678")
    assert rows.skipped == 1


def test_a_streamed_data_set_is_split_over_processes(parquet, monkeypatch):
    rows = load_rows(parquet, columns={"photo": "image"}, streaming=True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    parts = []
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        parts.append([row["caption"][8] for row in rows])
    assert all(parts)
    assert sorted(parts[0] + parts[1]) == list("01245678")


def test_dataset_objects(datasets, folder):
    paths = datasets.Dataset.from_dict({"image": ["0.png", "absent.png"], "text": ["Zero.", "None."]})
    rows = load_rows(paths, image_root=folder, columns={"text": "caption"})
    assert numbers(rows) == [0]
    assert rows.skipped[0][0] == "dataset:1"
    by_split = datasets.DatasetDict({"train": paths, "test": paths})
    assert len(load_rows(by_split, split="test", image_root=folder, columns={"text": "caption"})) == 1
    with pytest.raises(ValueError, match=r"split must be one of \['test', 'train'\], but is 'dev'"):
        load_rows(by_split, split="dev")
    by_split.save_to_disk(folder / "saved")
    assert numbers(load_rows(folder / "saved", image_root=folder, columns={"text": "caption"})) == [0]


def test_a_directory_that_datasets_cannot_open(datasets, tmp_path):
    (tmp_path / "notes.md").write_text("nothing here")
    with pytest.raises(ValueError, match="source must be a data set that `datasets` can open"):
        load_rows(tmp_path)


def test_without_datasets_the_message_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    (tmp_path / "a.parquet").touch()
    with pytest.raises(ImportError, match=r"pip install datasets"):
        load_rows(tmp_path / "a.parquet")
