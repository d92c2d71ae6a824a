"""Urban1K, ShareGPT4V-1k, DCI, Long-DCI, DOCCI and IIW, each in its own layout."""

import json

import pytest

from beta_clip_hf.evaluation.benchmarks import layout, load_benchmark
from beta_clip_hf.evaluation.benchmarks.long_captions import FILTERED_SHARE_CAPTIONS, SHARE_CAPTIONS
from evaluation.benchmarks.files import touch, write


def subset(name, folder):
    return load_benchmark(name, folder, allow_subset=True)


def captions(part):
    return {row["image"].rpartition("/")[2]: row["caption"] for row in part.rows}


def test_urban1k_whole(tmp_path):
    for number in range(1, 1001):
        write(tmp_path / "urban1k" / "caption" / f"{number}.txt", f"Street {number}. \nA second line.\n")
    touch(tmp_path / "urban1k" / "image", (f"{number}.jpg" for number in range(1, 1001)))
    reading = load_benchmark("urban1k", tmp_path)
    (part,) = reading.parts
    assert (part.name, part.kind, part.squash) == ("", "retrieval", False)
    assert part.counts == {"images": 1000, "captions": 1000} and not reading.is_subset
    assert captions(part)["7.jpg"] == "Street 7."
    assert part.rows[0]["image"] == str(tmp_path / "urban1k" / "image" / "1.jpg")
    assert load_benchmark("urban1k", tmp_path / "urban1k").key == reading.key, "the folder itself may be given"

    (tmp_path / "urban1k" / "image" / "12.jpg").unlink()
    with pytest.raises(ValueError, match=r"Urban1K must be whole, but 1 of 1,000 images are not there \(12\.jpg"):
        load_benchmark("urban1k", tmp_path)
    part_of_it = subset("urban1k", tmp_path)
    assert part_of_it.subset_note == "999 of 1,000 images" and part_of_it.is_subset
    assert part_of_it.parts[0].missing == ("12.jpg",) and "12.jpg" not in captions(part_of_it.parts[0])
    assert part_of_it.key != reading.key


def test_urban1k_in_part(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / "Urban1k" / "caption" / f"{name}.txt", f"Street {name}.")
    touch(tmp_path / "Urban1k" / "image", ["a.jpg", "b.jpg", "c.jpg"])
    with pytest.raises(ValueError) as refusal:
        load_benchmark("urban1k", tmp_path)
    for words in ("images must be 1,000, but are 2", "1 files are not there (caption/c.txt)", "--allow-subset"):
        assert words in str(refusal.value)
    assert "https://huggingface.co/datasets/BeichenZhang/Urban1k" in str(refusal.value)
    assert subset("urban1k", tmp_path).subset_note == "2 instead of 1,000 images, without caption/c.txt"
    write(tmp_path / "Urban1k" / "caption" / "b.txt", "\n")
    with pytest.raises(ValueError, match=r"b\.txt must hold a caption, but is empty"):
        subset("urban1k", tmp_path)


def share_record(number, **turn):
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": f"Photo {number}.\nIt is large. "}]
    return {"id": f"sa_{number}", "image": f"sam/images/sa_{number}.jpg", "conversations": turns, **turn}


@pytest.mark.parametrize("indent", [None, 1])
def test_sharegpt4v_takes_the_first_thousand(tmp_path, indent, monkeypatch):
    monkeypatch.setattr(layout, "_CHUNK", 1000)  # many reads of a file, each of which ends within a record
    records = [share_record(number) for number in range(1003)]
    write(tmp_path / SHARE_CAPTIONS, json.dumps(records, indent=indent))
    write(tmp_path / FILTERED_SHARE_CAPTIONS, records[2:])
    touch(tmp_path, (record["image"] for record in records))
    main, filtered = load_benchmark("sharegpt4v_1k", tmp_path).parts
    assert [row["caption"] for row in main.rows] == [f"Photo {number}. It is large." for number in range(1000)]
    assert (main.name, filtered.name) == ("", "filtered") and main.data_hash != filtered.data_hash
    assert filtered.rows[0]["image"] == str(tmp_path / "sam/images/sa_2.jpg")


def test_sharegpt4v_in_part(tmp_path):
    write(tmp_path / SHARE_CAPTIONS, [share_record(1), share_record(2)])
    touch(tmp_path, ["sam/images/sa_2.jpg"])
    with pytest.raises(ValueError, match=r"images must be 1,000, but are 2; 1 of 2 images are not there \(sam/images/"):
        load_benchmark("sharegpt4v_1k", tmp_path)
    assert captions(subset("sharegpt4v_1k", tmp_path).parts[0]) == {"sa_2.jpg": "Photo 2. It is large."}
    write(tmp_path / SHARE_CAPTIONS, json.dumps([share_record(1)])[:-30])
    with pytest.raises(ValueError, match="must be JSON"):
        subset("sharegpt4v_1k", tmp_path)
    write(tmp_path / SHARE_CAPTIONS, {"not": "a list"})
    with pytest.raises(ValueError, match="must be a JSON list"):
        subset("sharegpt4v_1k", tmp_path)


@pytest.fixture
def dci(tmp_path):
    """Three images, of which the second has no extra caption."""
    root = tmp_path / "dci" / "densely_captioned_images"
    for number, extra in enumerate(["A pump in a yard. ", "", "Two\nbalconies."]):
        record = {"image": f"sa_{number}.jpg", "short_caption": f"Image {number}.", "extra_caption": extra}
        write(root / "annotations" / f"{9 - number}.json", record)
    touch(root / "photos", (f"sa_{number}.jpg" for number in range(3)))
    return tmp_path


def test_dci_and_long_dci_are_two_tasks(dci):
    with pytest.raises(ValueError, match="images must be 7,805, but are 3"):
        load_benchmark("dci", dci)
    with pytest.raises(ValueError, match="images must be 7,602, but are 2"):
        load_benchmark("long_dci", dci)
    (whole,), (long,) = subset("dci", dci).parts, subset("long_dci", dci).parts
    assert captions(whole) == {
        "sa_0.jpg": "Image 0. A pump in a yard.", "sa_1.jpg": "Image 1.", "sa_2.jpg": "Image 2. Two\nbalconies."
    }  # fmt: skip
    assert captions(long) == {"sa_0.jpg": "A pump in a yard.", "sa_2.jpg": "Two\nbalconies."}
    assert [row["image"][-8:] for row in whole.rows] == ["sa_2.jpg", "sa_1.jpg", "sa_0.jpg"], "by the annotation's name"


def test_long_dci_from_its_own_table(dci):
    from_dci = subset("long_dci", dci)
    table = 'filepath\ttitle\nsa_2.jpg\t"Two\nbalconies."\nsa_0.jpg\tA pump in a yard. \n'
    write(dci / "long_dci" / "dci_long.csv", table)
    (part,) = subset("long_dci", dci).parts
    assert part.rows == from_dci.parts[0].rows and part.data_hash == from_dci.parts[0].data_hash


def test_dci_in_the_folders_of_fg_clip(dci):
    root = dci / "dci" / "densely_captioned_images"
    (dci / "dci" / "sam" / "images").mkdir(parents=True)
    (root / "photos").rename(dci / "dci" / "sam" / "images" / "138")
    assert len(subset("dci", dci / "dci").parts[0].rows) == 3


def test_docci_is_the_test_split(tmp_path):
    records = [
        {
            "example_id": f"{split}_0000{n}",
            "split": split,
            "image_file": f"{split}_0000{n}.jpg",
            "description": f"{n}. ",
        }
        for n, split in enumerate(["train", "test", "qual_test", "test"])
    ]
    write(tmp_path / "docci_descriptions.jsonlines", records)
    touch(tmp_path / "images", ["test_00001.jpg"])
    with pytest.raises(ValueError, match=r"images must be 5,000, but are 2; 1 of 2 images .*test_00003\.jpg"):
        load_benchmark("docci", tmp_path)
    assert captions(subset("docci", tmp_path).parts[0]) == {"test_00001.jpg": "1."}
    write(tmp_path / "docci_descriptions.jsonlines", '{"split": "test"}\n{"split": \n')
    with pytest.raises(ValueError, match=r"docci_descriptions\.jsonlines:2 must be a JSON object"):
        subset("docci", tmp_path)
    write(tmp_path / "docci_descriptions.jsonlines", '{"split": "test"}\n')
    with pytest.raises(ValueError, match=r"docci_descriptions\.jsonlines, record 1: 'image_file' must be there"):
        subset("docci", tmp_path)


def test_iiw_400_and_612(tmp_path):
    write(
        tmp_path / "iiw" / "IIW-400" / "data.jsonl", [{"image/key": "aar_test_04600", "IIW": "Bees. ", "IIW-P5B": "?"}]
    )
    touch(tmp_path / "docci" / "images_aar", ["aar_test_04600.jpg"])
    with pytest.raises(ValueError, match="images must be 400, but are 1"):
        load_benchmark("iiw", tmp_path)
    (alone,) = subset("iiw", tmp_path).parts
    assert captions(alone) == {"aar_test_04600.jpg": "Bees."}
    write(tmp_path / "iiw" / "DOCCI_Test" / "data.jsonl", [{"image": "test_02967", "IIW": "Trees.", "DOCCI": "?"}])
    write(tmp_path / "iiw" / "DCI_Test" / "data.jsonl", [{"image": "sa_1.jpg", "IIW": "A pump.", "ex_id": "1"}])
    assert len(subset("iiw", tmp_path).parts) == 1, "the images of the other 212 are not there"
    touch(tmp_path, ["docci/images/test_02967.jpg", "dci/densely_captioned_images/photos/sa_1.jpg"])
    same, larger = subset("iiw", tmp_path).parts
    assert same.rows == alone.rows and larger.name == "612"
    assert captions(larger) == {"aar_test_04600.jpg": "Bees.", "test_02967.jpg": "Trees.", "sa_1.jpg": "A pump."}


def test_the_real_descriptions_of_iiw_400(shared_dir, tmp_path):
    file = shared_dir / "data" / "text" / "iiw_IIW-400.jsonl"
    (tmp_path / file.name).symlink_to(file)
    keys = [json.loads(line)["image/key"] for line in file.read_text(encoding="utf-8").splitlines()]
    touch(tmp_path / "images_aar", (f"{key}.jpg" for key in keys))
    (part,) = load_benchmark("iiw", tmp_path).parts
    assert part.counts == {"images": 400, "captions": 400}
    assert all(row["caption"] for row in part.rows)
