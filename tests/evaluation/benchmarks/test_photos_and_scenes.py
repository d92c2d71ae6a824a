"""Tasks without a benchmark: photos, which are JSON Lines, and scenes, which are generated."""

import io
import json
import tarfile

import pytest
from PIL import Image

from beta_clip_hf.evaluation.benchmarks import load_benchmark
from evaluation.benchmarks.files import touch, write


@pytest.fixture
def photos(tmp_path):
    rows = [
        {
            "image": f"images/{number}.jpg",
            "captions": [f"Photo {number}.", "It is grey."],
            "phrases": [{"text": "a cat", "boxes": [[1, 2, 3, 4]], "kind": "human"}, {"text": "no box"}],
        }
        for number in range(3)
    ]
    write(tmp_path / "test.jsonl", rows)
    pair = {"positive": "A cat.", "negative": "A dog.", "subset": "swap_obj", "id": "3"}
    write(
        tmp_path / "eval" / "sugarcrepe.jsonl", [{"image": "images/1.jpg", **pair}, {"image": "images/1.jpg", **pair}]
    )
    write(tmp_path / "eval" / "valse.jsonl", [{"image": "images/2.jpg", **pair, "subset": "plurals", "id": 7}])
    region = {"box": [1, 2, 1, 4], "positive": "A cat.", "negatives": ["A dog.", "A cow."], "subset": "hard"}
    write(tmp_path / "eval" / "fgovd.jsonl", [{"image": "images/0.jpg", **region}])
    touch(tmp_path, (row["image"] for row in rows))
    return tmp_path


def test_photos_and_what_lies_beside_them(photos):
    reading = load_benchmark("photos", photos)
    kinds = {part.name: part.kind for part in reading.parts}
    assert kinds == {"": "retrieval", "fg_ovd": "regions", "sugarcrepe": "choices", "valse": "choices"}
    assert [part.name for part in reading.parts if part.squash] == ["fg_ovd"]
    main, fg_ovd, sugarcrepe, valse = reading.parts
    assert main.counts == {"images": 3, "captions": 6, "phrases": 6} and not reading.is_subset
    assert main.rows[2]["caption"] == "Photo 2. It is grey." and main.rows[2]["image"] == str(photos / "images/2.jpg")
    assert fg_ovd.rows[0]["regions"] == [
        {"text": "A cat.", "subset": "hard", "box": [1, 2, 1, 4], "negatives": ["A dog.", "A cow."]}
    ]
    assert sugarcrepe.counts == {"images": 1, "choices": 2, "choices[swap_obj]": 2}
    assert valse.rows[0]["choices"][0]["id"] == "plurals:7"
    assert load_benchmark("photos", photos / "test.jsonl").key == reading.key, "the file may be given too"


def test_a_photo_that_is_missing_costs_its_row(photos, caplog):
    (photos / "images" / "1.jpg").unlink()
    with pytest.raises(ValueError, match="Your photos must have a row that can be used, but all 1 were skipped"):
        load_benchmark("photos", photos)  # SugarCrepe is about this photo alone
    (photos / "eval" / "sugarcrepe.jsonl").unlink()
    caplog.clear()
    reading = load_benchmark("photos", photos)
    (main, *_) = reading.parts
    assert reading.subset_note == "1 row skipped" and len(main.rows) == 2
    (row,) = main.skipped
    assert (row.location, row.reason.startswith("image must be an existing file")) == ("test.jsonl:2", True)
    assert [record.getMessage() for record in caplog.records] == [f"test.jsonl:2 is skipped: {row.reason}"]


def test_a_bad_row_is_named_and_left_out(photos):
    write(
        photos / "test.jsonl",
        [{"image": "images/0.jpg", "caption": "A cat."}, {"image": "images/1.jpg", "caption": ""}],
    )
    (main, *_) = load_benchmark("photos", photos).parts
    (row,) = main.skipped
    assert row.location == "test.jsonl:2" and row.reason.startswith("caption must be") and len(main.rows) == 1


@pytest.mark.parametrize("rank", [0, 1])
def test_every_process_reads_all_rows_of_tars(rank, tmp_path, monkeypatch):
    for number in range(3):
        tar_of_a_photo(tmp_path / f"test-0000{number}.tar")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", str(rank))
    (part,) = load_benchmark("photos", tmp_path, reading={"group": False}).parts
    assert len(part.rows) == 3


def tar_of_a_photo(path):
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "PNG")
    with tarfile.open(path, "w") as tar:
        for name, content in {"a.png": file.getvalue(), "a.json": json.dumps({"caption": "A cat."}).encode()}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def test_photos_from_tars(tmp_path):
    tar_of_a_photo(tmp_path / "test-00000.tar")
    for source in (tmp_path / "test-00000.tar", tmp_path / "test-*.tar", tmp_path):
        (part,) = load_benchmark("photos", source).parts
        assert [row["caption"] for row in part.rows] == ["A cat."] and part.counts == {"images": 1, "captions": 1}


def test_tars_of_another_split_are_given_as_a_glob_or_a_range(tmp_path):
    for number in range(2):
        tar_of_a_photo(tmp_path / f"val-0000{number}.tar")
    with pytest.raises(ValueError, match=r"val-00000\.tar.*or give the tars themselves, as a glob"):
        load_benchmark("photos", tmp_path)
    for pattern in ("val-*.tar", "val-{00000..00001}.tar"):
        (part,) = load_benchmark("photos", f"{tmp_path}/{pattern}", reading={"group": False}).parts
        assert len(part.rows) == 2


def test_rows_of_another_split_are_read_if_asked(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "1.png")
    (tmp_path / "train.jsonl").write_text('{"image": "1.png", "caption": "A cat."}\n')
    with pytest.raises(ValueError, match=r"split must be 'train', as .* has no other, but is 'test'"):
        load_benchmark("photos", tmp_path)
    (part,) = load_benchmark("photos", tmp_path, reading={"split": "train"}).parts
    assert [row["caption"] for row in part.rows] == ["A cat."]


def test_how_rows_are_read_is_passed_on(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "1.png")
    Image.new("RGB", (8, 8), "red").save(tmp_path / "2.png")
    lines = ["name;text", "1.png;A cat.", "1.png;It sleeps.", "2.png;A dog."]
    (tmp_path / "test.csv").write_text("\n".join(lines))
    reading = {"columns": {"name": "image", "text": "caption"}}
    (part,) = load_benchmark("photos", tmp_path / "test.csv", reading=reading).parts
    assert [row["caption"] for row in part.rows] == ["A cat. It sleeps.", "A dog."]
    assert part.counts == {"images": 2, "captions": 3}
    (part,) = load_benchmark("photos", tmp_path / "test.csv", reading={**reading, "group": False, "skip": 1}).parts
    assert [row["caption"] for row in part.rows] == ["It sleeps.", "A dog."]


def test_rows_of_a_photo_in_plain_json_lines(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "1.png")
    rows = [{"image": "1.png", "caption": f"Caption {number}."} for number in range(5)]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (part,) = load_benchmark("photos", tmp_path).parts
    assert part.counts == {"images": 1, "captions": 5}
    (part,) = load_benchmark("photos", tmp_path, reading={"group": False}).parts
    assert part.counts == {"images": 5, "captions": 5}


@pytest.mark.parametrize(
    "names",
    [
        ["eval/fgovd.jsonl", "eval/valse.jsonl"],  # eval is of photos that test.jsonl names
        ["1.jpg", "2.jpg"],
        ["docci/docci_descriptions.jsonlines", "docci/images/1.jpg"],
        ["photos/images/1.jpg"],
    ],
)
def test_a_folder_without_rows_is_refused_with_what_is_missing(names, tmp_path):
    touch(tmp_path, names)
    for source in (tmp_path, tmp_path / "none-*.tar"):
        with pytest.raises(ValueError, match=r"must hold photos, with test\.jsonl or tars of rows, but does not"):
            load_benchmark("photos", source)


def test_photos_in_other_layouts_that_training_reads(tmp_path):
    row = {"file_name": "1.jpg", "caption": "A cat."}
    for number, name in enumerate(("metadata.jsonl", "test/metadata.jsonl", "test-00000-of-00001.jsonl")):
        root = tmp_path / str(number)
        write(root / name, [row])
        touch((root / name).parent, ["1.jpg"])
        (part,) = load_benchmark("photos", root).parts
        assert [row["image"] for row in part.rows] == [str((root / name).parent / "1.jpg")]


def test_the_real_photos(shared_dir):
    reading = load_benchmark("photos", shared_dir / "data" / "photos")
    assert {part.name: part.counts["images"] for part in reading.parts}[""] == 565
    counts = {part.name: part.counts for part in reading.parts}
    assert counts[""]["captions"] == 2826 and counts[""]["phrases"] == 1468
    assert counts["fg_ovd"]["regions"] == 666 and counts["sugarcrepe"]["choices"] == 489
    assert counts["valse"]["choices"] == 120 and not reading.is_subset


def test_scenes_need_no_files():
    small, large = (load_benchmark("scenes", image_size=size) for size in (32, 64))
    (part,) = small.parts
    assert len(part.rows) == part.counts["images"] == 500 and part.rows[3]["image"].size == (32, 32)
    assert small.key != large.key and small.key == load_benchmark("scenes", "anywhere", image_size=32).key
