"""COCO-5k and Flickr30k."""

import pytest

from beta_clip_hf.evaluation.benchmarks import load_benchmark
from evaluation.benchmarks.files import touch, write


@pytest.fixture
def coco(tmp_path):
    """Three images of val2017: of the first six captions, of the second five, of the third none."""
    images = [{"id": number, "file_name": f"{number:012d}.jpg"} for number in (139, 25, 724)]
    captions = [{"id": n, "image_id": 25 if n % 2 else 139, "caption": f"Caption {n}. "} for n in range(11)]
    write(tmp_path / "coco" / "annotations" / "captions_val2017.json", {"images": images, "annotations": captions})
    touch(tmp_path / "coco" / "val2017", (image["file_name"] for image in images))
    return tmp_path


def karpathy(name, split, sentences=5, **fields):
    raw = [{"raw": f" {name}, {number}.", "sentid": number} for number in range(sentences)]
    return {"filename": name, "split": split, "sentences": raw, "sentids": [], "imgid": 0, **fields}


def test_coco_takes_five_captions_of_each_image_of_val2017(coco):
    with pytest.raises(ValueError) as refusal:
        load_benchmark("coco", coco)
    for words in ("images must be 5,000, but are 2", "captions in the file must be 25,014, but are 11"):
        assert words in str(refusal.value)
    (part,) = load_benchmark("coco", coco, allow_subset=True).parts
    assert [row["image"].rpartition("/")[2] for row in part.rows] == [f"{n:012d}.jpg" for n in (25, 139)]
    assert part.rows[1]["captions"] == [f"Caption {n}." for n in (0, 2, 4, 6, 8)]
    assert part.counts == {"images": 2, "captions": 10} and "caption" not in part.rows[0]


def test_the_test_split_of_karpathy_is_another_part(coco):
    images = [
        karpathy("COCO_val2014_000000391895.jpg", "test", 6, filepath="val2014", cocoid=391895),
        karpathy("COCO_val2014_000000000001.jpg", "val", filepath="val2014", cocoid=1),
    ]
    write(coco / "coco" / "dataset_coco.json", {"images": images, "dataset": "coco"})
    assert [part.name for part in load_benchmark("coco", coco, allow_subset=True).parts] == [""], "no images of val2014"
    touch(coco / "coco" / "images" / "val2014", [images[0]["filename"]])
    part = load_benchmark("coco", coco, allow_subset=True).parts[1]
    assert part.name == "karpathy" and part.counts == {"images": 1, "captions": 5}
    assert (
        "1 instead of 25,010" not in part.subset_note and "6 instead of 25,010 captions in the file" in part.subset_note
    )
    (coco / "coco" / "annotations" / "captions_val2017.json").unlink()
    assert [part.name for part in load_benchmark("coco", coco, allow_subset=True).parts] == ["karpathy"]


def test_flickr30k_with_1k_and_31k_images(tmp_path):
    images = [karpathy(f"{n}.jpg", split) for n, split in enumerate(["test", "train", "val", "test"])]
    write(tmp_path / "dataset_flickr30k.json", {"images": images, "dataset": "flickr30k"})
    touch(tmp_path / "flickr30k-images", ["0.jpg", "3.jpg"])
    with pytest.raises(ValueError, match=r"Flickr30k \(1k\) must be whole, but images must be 1,000, but are 2"):
        load_benchmark("flickr30k", tmp_path)
    reading = load_benchmark("flickr30k", tmp_path, allow_subset=True)
    assert [part.name for part in reading.parts] == ["1k"], "most images of 31k are not there"
    assert reading.parts[0].rows[1]["captions"] == [f"3.jpg, {n}." for n in range(5)]
    touch(tmp_path / "flickr30k-images", ["1.jpg", "2.jpg"])
    reading = load_benchmark("flickr30k", tmp_path, allow_subset=True)
    assert [(part.name, part.counts) for part in reading.parts] == [
        ("1k", {"images": 2, "captions": 10}),
        ("31k", {"images": 4, "captions": 20}),
    ]
    assert reading.subset_note.startswith("1k: 2 instead of 1,000 images, 10 instead of 5,000 captions; 31k: 4 instead")


def test_flickr30k_whole_with_1k_images(tmp_path):
    splits = [("test", 1000), ("val", 14), ("train", 29)]
    images = []
    for split, number in splits:
        images += [karpathy(f"{split}{n}.jpg", split) for n in range(number)]
    write(tmp_path / "dataset_flickr30k.json", {"images": images})
    touch(tmp_path / "flickr30k-images", (f"test{n}.jpg" for n in range(1000)))
    (part,) = load_benchmark("flickr30k", tmp_path).parts
    assert part.name == "1k" and part.counts == {"images": 1000, "captions": 5000}
