"""FG-OVD, COCO and LVIS boxes, Flickr30k Entities."""

import json

import pytest

from beta_clip_hf.evaluation.benchmarks import load_benchmark
from beta_clip_hf.evaluation.benchmarks.regions import FG_OVD_COUNTS, FG_OVD_FILES
from beta_clip_hf.evaluation.benchmarks.templates import IMAGENET_TEMPLATES
from beta_clip_hf.evaluation.protocols import protocol_of
from evaluation.benchmarks.files import touch, write


def region(image, sent_id, negatives=("A red cup.", "A blue cup.")):
    expressions = {"pos_expression": ["A white cup."], "neg_expression": list(negatives)}
    return {"img_path": image, "bbox": [10.5, 20.0, 30.0, 40.0], **expressions, "sent_id": sent_id}


def test_fg_ovd(tmp_path):
    for file in FG_OVD_FILES.values():
        write(tmp_path / "fgovd" / file, [region("val2017/1.jpg", 4), region("train2017/2.jpg", 5, ["A red cup."])])
    touch(tmp_path / "coco", ["val2017/1.jpg", "train2017/2.jpg"])
    with pytest.raises(ValueError, match=r"regions\[hard\] must be 3,545, but are 2"):
        load_benchmark("fg_ovd", tmp_path)
    (part,) = load_benchmark("fg_ovd", tmp_path, allow_subset=True).parts
    assert part.kind == "regions" and part.squash
    assert part.counts == {
        "images": 2, "regions": 8, **{f"regions[{subset}]": 2 for subset in FG_OVD_FILES}
    }  # fmt: skip
    assert part.rows[0]["regions"][1] == {
        "box": [10.5, 20.0, 40.5, 60.0],
        "text": "A white cup.",
        "negatives": ["A red cup.", "A blue cup."],
        "subset": "medium",
        "id": "medium:4",
    }
    (tmp_path / "fgovd" / FG_OVD_FILES["trivial"]).unlink()
    with pytest.raises(ValueError, match=r"1 files are not there \(shuffle_negatives_llava\.jsonl\)"):
        load_benchmark("fg_ovd", tmp_path)
    note = load_benchmark("fg_ovd", tmp_path, allow_subset=True).subset_note
    assert note.endswith("0 instead of 3,545 regions[trivial], without shuffle_negatives_llava.jsonl")


@pytest.mark.slow
def test_the_real_fg_ovd(shared_dir, tmp_path):
    source = shared_dir / "data" / "benchmarks"
    lines = []
    for file in FG_OVD_FILES.values():
        lines += (source / file).read_text("utf-8").splitlines()
    touch(tmp_path / "coco", {json.loads(line)["img_path"] for line in lines})
    (tmp_path / "fg_ovd").symlink_to(source)
    reading = load_benchmark("fg_ovd", tmp_path)
    (part,) = reading.parts
    assert not reading.is_subset
    assert {subset: part.counts[f"regions[{subset}]"] for subset in FG_OVD_FILES} == FG_OVD_COUNTS
    regions = {subset: [] for subset in FG_OVD_FILES}
    for row in part.rows:
        for region in row["regions"]:
            regions[region["subset"]].append((row["image"], region))
    with_few_negatives = {subset: set() for subset in regions}
    repeated = dict.fromkeys(regions, 0)
    for subset, pairs in regions.items():
        for image, region in pairs:
            if len(region["negatives"]) < 10:
                with_few_negatives[subset].add((image, *region["box"]))
            repeated[subset] += region["text"] in region["negatives"]
    assert {subset: len(boxes) for subset, boxes in with_few_negatives.items() if subset != "trivial"} == {
        "hard": 37,
        "medium": 0,
        "easy": 0,
    }
    assert with_few_negatives["hard"] == with_few_negatives["trivial"]
    assert repeated == {"hard": 0, "medium": 4, "easy": 0, "trivial": 0}
    tiny = [region["box"] for _, region in regions["hard"] if region["box"][2] - region["box"][0] < 1]
    assert tiny == [pytest.approx([132.86, 347.1, 132.93, 347.18])]
    assert any("/train2017/" in row["image"] for row in part.rows), "the images are not of val2017 alone"


@pytest.fixture
def instances():
    """Two images with boxes and one without, of three classes; one crowd."""
    categories = [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}, {"id": 44, "name": "beer_bottle"}]
    annotations = [
        {"id": 7, "image_id": 139, "category_id": 44, "bbox": [1, 2, 3, 4.5], "iscrowd": 0, "segmentation": [[1, 2]]},
        {"id": 8, "image_id": 25, "category_id": 90, "bbox": [0, 0, 9, 9], "iscrowd": 0},
        {"id": 9, "image_id": 139, "category_id": 1, "bbox": [5, 5, 5, 5], "iscrowd": 1},
    ]
    images = [
        {"id": number, "file_name": f"{number}.jpg", "coco_url": f"http://images.cocodataset.org/{folder}/{number}.jpg"}
        for number, folder in ((25, "train2017"), (139, "val2017"), (724, "val2017"))
    ]
    return {"images": images, "annotations": annotations, "categories": categories}


def test_coco_boxes(instances, tmp_path):
    write(tmp_path / "coco" / "annotations" / "instances_val2017.json", instances)
    touch(tmp_path / "coco" / "images" / "val2017", ["139.jpg"])
    with pytest.raises(ValueError) as refusal:
        load_benchmark("coco_boxes", tmp_path)
    for words in ("regions must be 36,335, but are 2", "classes must be 80, but are 3", "1 of 2 images are not there"):
        assert words in str(refusal.value)
    (part,) = load_benchmark("coco_boxes", tmp_path, allow_subset=True).parts
    assert part.class_names == ("person", "beer bottle", "toothbrush") and part.kind == "boxes" and part.squash
    assert part.templates == IMAGENET_TEMPLATES
    assert part.rows == [
        {
            "image": str(tmp_path / "coco" / "images" / "val2017" / "139.jpg"),
            "regions": [{"box": [1, 2, 4, 6.5], "text": "beer bottle", "label": 1, "id": "7"}],
        }
    ]


def test_the_templates_are_those_of_imagenet(shared_dir):
    """In the order of OpenAI's notebook, which is also that of FG-CLIP's code."""
    stored = json.loads((shared_dir / "data/text/imagenet_openai_classnames_templates.json").read_text())
    assert list(IMAGENET_TEMPLATES) == stored["templates"]


def test_boxes_have_the_second_version_of_their_protocol():
    """The first had one prompt, so its numbers are others."""
    for task in ("coco_boxes", "lvis_boxes"):
        protocol = protocol_of(task)
        assert protocol.name == f"{task}/v2" and "80 templates" in protocol.task and "boxes[plain]" in protocol.task
    assert protocol_of("fg_ovd").name == "fg_ovd/v1"


def test_lvis_boxes_of_val2017_and_of_all_images(instances, tmp_path):
    write(tmp_path / "lvis_v1_val.json", instances)
    touch(tmp_path, ["val2017/139.jpg"])
    with pytest.raises(ValueError, match=r"LVIS boxes \(val2017\).*images in the file must be 4,809, but are 2"):
        load_benchmark("lvis_boxes", tmp_path)
    (part,) = load_benchmark("lvis_boxes", tmp_path, allow_subset=True).parts
    assert part.name == "val2017" and [row["image"][-15:] for row in part.rows] == ["val2017/139.jpg"]
    touch(tmp_path, ["train2017/25.jpg"])
    _, whole = load_benchmark("lvis_boxes", tmp_path, allow_subset=True).parts
    assert whole.name == "all" and whole.counts == {"images": 2, "regions": 2}
    labels = set()
    for row in whole.rows:
        labels |= {region["label"] for region in row["regions"]}
    assert labels == {1, 2}


XML = """<annotation><filename>36979.jpg</filename><size><width>500</width><height>375</height><depth>3</depth></size>
<object><name>1</name><name>2</name><bndbox><xmin>1</xmin><ymin>11</ymin><xmax>100</xmax><ymax>375</ymax></bndbox></object>
<object><name>2</name><bndbox><xmin>200</xmin><ymin>11</ymin><xmax>300</xmax><ymax>99</ymax></bndbox></object>
<object><name>3</name><scene>1</scene><nobndbox>0</nobndbox></object></annotation>"""
SENTENCES = """[/EN#2/people/other Two young men] stand in [/EN#3/scene a park] .
[/EN#1/people A man] points at [/EN#0/notvisual it] and [/EN#2/people the pair] .
"""


@pytest.fixture
def entities(tmp_path):
    root = tmp_path / "flickr30k_entities"
    write(root / "test.txt", "36979\n65567\n")
    for name in ("36979", "65567", "1"):
        write(root / "Annotations" / f"{name}.xml", XML)
        write(root / "Sentences" / f"{name}.txt", SENTENCES)
    touch(tmp_path / "flickr30k" / "flickr30k-images", ["36979.jpg", "1.jpg"])
    return tmp_path


def test_phrases_are_those_with_boxes_of_the_test_split(entities):
    with pytest.raises(ValueError) as refusal:
        load_benchmark("phrases", entities)
    for words in ("images in the list must be 1,000, but are 2", "phrases must be 14,481, but are 6", "65567.jpg"):
        assert words in str(refusal.value)
    (part,) = load_benchmark("phrases", entities, allow_subset=True).parts
    both = [[0, 10, 100, 375], [199, 10, 300, 99]]
    assert part.rows == [
        {
            "image": str(entities / "flickr30k" / "flickr30k-images" / "36979.jpg"),
            "phrases": [
                {"text": "Two young men", "boxes": both, "kind": "people"},
                {"text": "A man", "boxes": both[:1], "kind": "people"},
                {"text": "the pair", "boxes": both, "kind": "people"},
            ],
        }
    ]


def test_phrases_need_the_list_of_the_split(entities):
    (entities / "flickr30k_entities" / "test.txt").unlink()
    with pytest.raises(ValueError, match=r"test\.txt must be the list of the test split"):
        load_benchmark("phrases", entities, allow_subset=True)
