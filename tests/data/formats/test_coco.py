"""COCO's files: captions and instances brought together, phrases, and errors that name annotation, file and field."""

import json
import logging
import pickle
import re

import pytest
from PIL import Image
from torch.utils.data import DataLoader

from beta_clip_hf.data.formats import coco, json_files
from beta_clip_hf.data.images import load_image
from beta_clip_hf.data.readers import load_rows
from beta_clip_hf.data.rows import check_row
from beta_clip_hf.training.setup.build import open_rows
from beta_clip_hf.training.setup.config import read_config


CATEGORIES = [
    {"supercategory": "animal", "id": 17, "name": "cat"},
    {"supercategory": "x", "id": 90, "name": "toothbrush"},
]


@pytest.fixture
def folder(tmp_path):
    """Four images of 64 × 48 pixels, val/0.png … val/3.png, each with its number as its colour."""
    (tmp_path / "val").mkdir()
    for number in range(4):
        Image.new("RGB", (64, 48), (number, 0, 0)).save(tmp_path / "val" / f"{number}.png")
    return tmp_path


def image(number: int, **fields) -> dict:
    return {"license": 4, "file_name": f"{number}.png", "height": 48, "width": 64, "id": 100 + number, **fields}


def caption(number: int, text: str = "A cat.", **fields) -> dict:
    return {"image_id": 100 + number, "id": 1000 + number, "caption": text, **fields}


def instance(number: int, *box, **fields) -> dict:
    return {
        "segmentation": [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]],
        "area": 12.5,
        "iscrowd": 0,
        "image_id": 100 + number,
        "bbox": list(box),
        "category_id": 17,
        "id": 2000 + number,
        **fields,
    }


def write(path, images, annotations, **fields):
    content = {"info": {"year": 2017}, "licenses": [], "images": images, "annotations": annotations, **fields}
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def files(folder):
    captions = [caption(1, "A cat."), caption(0, "One."), caption(0, "Two."), caption(2, "A dog.\n")]
    instances = [
        instance(0, 1.5, 2, 10, 20.25),
        instance(1, 0, 0, 64, 48, category_id=90),
        instance(0, 0, 0, 60, 40, iscrowd=1, segmentation={"counts": [1, 2], "size": [48, 64]}),
        instance(0, 30, 40, 0, 0.5, negatives=["a dog", "a cow"]),  # no width
    ]
    return [
        write(folder / "captions_val.json", [image(0), image(1), image(2)], captions),
        write(folder / "instances_val.json", [image(1), image(0), image(2)], instances, categories=CATEGORIES),
    ]


def numbers(rows) -> list[int]:
    return [load_image(row["image"]).getpixel((0, 0))[0] for row in rows]


def test_captions_and_instances_are_brought_together(folder, files, caplog):
    with caplog.at_level(logging.INFO):
        rows = load_rows(files, format="coco", image_root=folder / "val", strict=True)
    assert numbers(rows) == [0, 1, 2]
    assert rows[0] == {
        "id": "100",
        "image": str(folder / "val" / "0.png"),
        "captions": ["One.", "Two."],
        "caption": "One. Two.",
        "regions": [
            {"box": [1.5, 2, 11.5, 22.25], "text": "cat"},
            {"box": [30, 40, 30, 40.5], "text": "cat", "negatives": ["a dog", "a cow"]},
        ],
        "width": 64,
        "height": 48,
    }
    assert rows[1]["regions"] == [{"box": [0, 0, 64, 48], "text": "toothbrush"}]
    assert rows[2]["regions"] == []
    assert [check_row(row) for row in rows] == list(rows)
    assert [entry.getMessage() for entry in caplog.records] == [
        "instances_val.json: 1 annotations with iscrowd 1 are left out",
        "captions_val.json + instances_val.json: 3 rows read + 0 skipped = 3 in the source",
    ]


def test_the_order_of_files_and_of_their_images_decides(folder, files):
    for source in (files, [str(file) for file in files], str(folder / "*_val.json"), folder):
        assert numbers(load_rows(source, format="coco", image_root=folder / "val")) == [0, 1, 2]
    assert numbers(load_rows(files[::-1], format="coco", image_root=folder / "val")) == [1, 0, 2]


def test_one_file_is_known_by_its_content(folder, monkeypatch):
    annotations = [caption(0), instance(0, 0, 0, 9, 9), caption(3)]
    write(folder / "val" / "all.json", [image(0), image(3)], annotations, categories=CATEGORIES)
    with pytest.raises(ValueError, match=r"all\.json must be a JSON list of records, but is a dict"):
        load_rows(folder / "val" / "all.json", format="json")
    texts = []
    monkeypatch.setattr(
        json, "loads", lambda text, loads=json.loads, **options: texts.append(text) or loads(text, **options)
    )
    rows = load_rows(folder / "val" / "all.json")
    assert [b"images" in text for text in texts].count(True) == 1  # the whole file is parsed once
    monkeypatch.undo()
    assert numbers(rows) == [0, 3]
    assert len(rows[0]["regions"]) == 1
    indented = json.dumps(json.loads((folder / "val" / "all.json").read_text()), indent=1)
    (folder / "val" / "all.json").write_text(indented)
    assert list(load_rows(folder / "val" / "all.json")) == list(rows)


def test_the_example_of_the_documents(project_dir):
    blocks = re.findall(r"^```json\n(.*?)^```", (project_dir / "docs/data.md").read_text(encoding="utf-8"), re.M | re.S)
    [example] = [json.loads(block) for block in blocks if "annotations" in block]
    [row] = coco.CocoTable([("a.json", example)])
    assert row["captions"] == ["A man rides a small moped."]
    assert [region["text"] for region in row["regions"]] == ["motorcycle", "a red helmet"]


def test_texts_of_regions(folder):
    """A phrase comes before a caption (dense captions carry a category that says nothing), that before a category."""
    annotations = [
        caption(0),
        instance(0, 0, 0, 1, 1, phrase="a black cat", caption="no"),
        instance(0, 0, 0, 2, 2, caption="the cat on the left"),
        instance(0, 0, 0, 3, 3, caption=None, phrase=None),
        {"image_id": 100, "bbox": [0, 0, 4, 4], "phrase": "a tail"},  # nothing else, as in Visual Genome
    ]
    path = write(folder / "val" / "a.json", [image(0)], annotations, categories=CATEGORIES)
    [row] = load_rows(path, format="coco", strict=True)
    assert [region["text"] for region in row["regions"]] == ["a black cat", "the cat on the left", "cat", "a tail"]
    assert row["captions"] == ["A cat."]


def test_each_file_has_its_own_categories_and_ids_may_be_texts(folder):
    words = {"image_id": "100", "id": 5, "caption": "A cat."}
    first = write(folder / "a.json", [image(0)], [words, instance(0, 0, 0, 1, 1)], categories=CATEGORIES)
    other = [{"id": "17", "name": "dog"}]
    second = write(folder / "b.json", [], [instance(0, 0, 0, 2, 2)], categories=other)
    [row] = load_rows([first, second], format="coco", image_root=folder / "val", strict=True)
    assert [(region["box"][2], region["text"]) for region in row["regions"]] == [(1, "cat"), (2, "dog")]


def test_the_size_may_be_unknown(folder):
    bare = {"id": 100, "file_name": "0.png"}
    path = write(folder / "val" / "a.json", [bare], [caption(0), instance(0, 0, 0, 900, 900)], categories=CATEGORIES)
    [row] = load_rows(path, strict=True)
    assert row["regions"][0]["box"] == [0, 0, 900, 900]
    assert not {"width", "height"} & set(row)


OF_2 = "of annotation 2002 in c.json"
BAD_ANNOTATIONS = {
    "negative width": (instance(2, 5, 5, -1, 3), f"bbox {OF_2} must be [x, y, width, height] in pixels, no side neg"),
    "negative height": (instance(2, 5, 5, 1, -3), f"bbox {OF_2} must be [x, y, width, height] in pixels"),
    "three numbers": (instance(2, 5, 5, 1), f"bbox {OF_2} must be [x, y, width, height] in pixels"),
    "texts": (instance(2, "5", "5", "1", "1"), f"bbox {OF_2} must be [x, y, width, height] in pixels"),
    "a number": (
        instance(2, bbox=7),
        f"bbox {OF_2} must be [x, y, width, height] in pixels, no side negative, but is 7",
    ),
    "xyxy": (
        instance(2, 40, 30, 60, 45),
        f"bbox {OF_2} must lie in the image of 64 × 48 pixels, but is [40, 30, 60, 45]",
    ),
    "left of it": (instance(2, -3, 0, 9, 9), f"bbox {OF_2} must lie in the image of 64 × 48 pixels"),
    "NaN": (instance(2, 0, 0, float("nan"), 9), f"bbox {OF_2} must be [x, y, width, height] in pixels"),
    "unknown category": (
        instance(2, 0, 0, 9, 9, category_id=3),
        f"category_id {OF_2} must be the id of a category wit",
    ),
    "no text": (instance(2, 0, 0, 9, 9, category_id=None), f"phrase {OF_2}, a caption or a category_id must be there"),
    "empty phrase": (
        instance(2, 0, 0, 9, 9, phrase=""),
        f"phrase {OF_2} must be a string that is not empty, but is ''",
    ),
    "empty caption": (caption(2, " "), "caption of annotation 1002 in c.json must be a string that is not empty"),
    "no id": (caption(2, "", id=None), "caption of annotations[1] in c.json must be a string that is not empty"),
    "no bbox": (
        instance(2, bbox=None),
        f"bbox {OF_2} must be [x, y, width, height] in pixels, no side negative, but is mis",
    ),
    "negatives": (instance(2, 0, 0, 9, 9, negatives="dog"), f"negatives {OF_2} must be a list, but is 'dog'"),
    "empty negative": (
        instance(2, 0, 0, 9, 9, negatives=["a", ""]),
        f"negatives[1] {OF_2} must be a string that is no",
    ),
}


@pytest.mark.parametrize("kind", BAD_ANNOTATIONS)
def test_a_bad_annotation_is_an_error_of_its_image(folder, caplog, kind):
    bad, reason = BAD_ANNOTATIONS[kind]
    images = [image(0), image(2), image(3)]
    annotations = [caption(0), bad, caption(2, id=7), caption(3), instance(3, 60, 40, 4.5, 8.4)]  # rounding is fine
    path = write(folder / "val" / "c.json", images, annotations, categories=CATEGORIES)
    with caplog.at_level(logging.WARNING):
        rows = load_rows(path, format="coco")
    assert numbers(rows) == [0, 3]
    [(location, why)] = rows.skipped
    assert location == "c.json, image 102"
    assert why.startswith(reason)
    assert caplog.records[0].getMessage() == f"c.json, image 102 is skipped: {why}"
    assert caplog.records[1].getMessage() == "c.json: 2 rows read + 1 skipped = 3 in the source"
    with pytest.raises(ValueError) as error:
        load_rows(path, format="coco", strict=True)
    assert str(error.value) == f"c.json, image 102: {why}"


LOST = {
    "unknown image": (caption(9), "c.json, annotation 1009", "image_id must be the id of an image, but is 109"),
    "unknown image of a box": (
        instance(9, 0, 0, 1, 1),
        "c.json, annotation 2009",
        "image_id must be the id of an image, but is 109",
    ),
    "no image": ({"caption": "A cat."}, "c.json, annotations[1]", "image_id must be a number or a string, but is miss"),
    "no object": ("A cat.", "c.json, annotations[1]", "image_id must be a number or a string, but is 'A cat.'"),
}


@pytest.mark.parametrize("kind", LOST)
def test_an_annotation_of_no_image_is_counted(folder, kind):
    bad, where, reason = LOST[kind]
    path = write(folder / "val" / "c.json", [image(0), image(1)], [caption(0), bad, caption(1)])
    rows = load_rows(path, format="coco")
    assert numbers(rows) == [0, 1]
    [(location, why)] = rows.skipped
    assert location == where
    assert why.startswith(reason)
    with pytest.raises(ValueError, match=f"^{where.replace('[', '.').replace(']', '.')}: image_id must be"):
        load_rows(path, format="coco", strict=True)


BAD_IMAGES = {
    "no caption": (image(1), "c.json, image 101", "caption must be in an annotation of the image, but is in none"),
    "no file_name": (image(2, file_name=None), "c.json, image 102", "file_name must be a string that is not empty"),
    "no such file": (image(2, file_name="9.png"), "c.json, image 102", "file_name must be an existing file, but is"),
    "width": (image(2, width=0), "c.json, image 102", "width must be a number of pixels, but is 0"),
    "height": (image(2, height="48"), "c.json, image 102", "height must be a number of pixels, but is '48'"),
    "no id": (image(2, id=None), "c.json, images[1]", "id must be a number or a string, but is missing"),
    "no object": ([102], "c.json, images[1]", "id must be a number or a string, but is [102]"),
}


@pytest.mark.parametrize("kind", BAD_IMAGES)
def test_a_bad_image_is_counted(folder, kind):
    bad, where, reason = BAD_IMAGES[kind]
    annotations = [caption(0), caption(3)] + ([caption(2)] if where.endswith("102") else [])
    path = write(folder / "val" / "c.json", [image(0), bad, image(3)], annotations)
    rows = load_rows(path, format="coco")
    assert numbers(rows) == [0, 3]
    [(location, why)] = rows.skipped
    assert location == where
    assert why.startswith(reason)


def test_files_that_contradict_each_other(folder):
    first = write(folder / "val" / "a.json", [image(0), image(1)], [caption(0), caption(1)])
    second = write(folder / "val" / "b.json", [image(0), image(1, file_name="2.png")], [])
    rows = load_rows([first, second], format="coco")
    assert numbers(rows) == [0]
    assert rows.skipped == [
        (
            "a.json + b.json, image 101",
            "file_name must be the same wherever the image is listed, but is '1.png' and, in b.json, '2.png'",
        )
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "c.json must be a JSON object with the lists .* but is a list"),
        ({"images": []}, r"c.json must be a JSON object with the lists .* but has the keys \['images'\]"),
        ({"images": {}, "annotations": []}, "images of c.json must be a list, but is {}"),
        ({"images": [], "annotations": None}, "annotations of c.json must be a list, but is missing"),
        ({"images": [], "annotations": [], "categories": {"1": "cat"}}, "categories of c.json must be a list"),
        (
            {"images": [image(0)], "annotations": [instance(0, 0, 0, 1, 1)], "categories": CATEGORIES},
            r'c.json must have annotations with a caption and no bbox, but has none; give the file of .* \["captions',
        ),
    ],
)
def test_files_that_are_not_cocos(folder, content, message):
    (folder / "c.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        load_rows(folder / "c.json", format="coco")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"rows": []}',
            r"c.json must be a JSON list of records, or an object .* but has the keys \['rows'\]; or give th",
        ),
        ("7", "c.json must be a JSON list of records, or an object .* but is int; or give the format, one of .*'coco'"),
        ('{"images": [', "c.json must be JSON, but is not"),
        ("", "c.json must be JSON, but is not"),
    ],
)
def test_a_json_file_of_unknown_content(folder, text, message):
    (folder / "c.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_rows(folder / "c.json")


def test_polygons_are_left_out_as_a_file_is_read(files):
    content = json_files.read_json(files[1], object_hook=coco.without_polygons)
    assert [sorted(entry) for entry in content["annotations"][:2]] == [
        ["area", "bbox", "category_id", "id", "image_id", "iscrowd"]
    ] * 2


def test_workers_may_be_spawned(folder, files):
    rows = load_rows(files, format="coco", image_root=folder / "val")
    assert list(pickle.loads(pickle.dumps(rows))) == list(rows)
    assert list(DataLoader(rows, num_workers=1, collate_fn=numbers, batch_size=2)) == [[0, 1], [2]]


def test_a_list_of_files_in_a_configuration(folder, files):
    (folder / "run.yaml").write_text(
        f"data:\n  train:\n    source: [{files[0]}, {files[1]}]\n    format: coco\n    image_root: {folder / 'val'}\n"
    )
    config = read_config(folder / "run.yaml")
    rows = open_rows(config["data"]["train"], seed=0, strict=True, shuffle=True)
    assert [len(row["regions"]) for row in rows] == [2, 1, 0]
