"""A record that is not as published is named with its file, and none is left out silently."""

import pytest

from beta_clip_hf.evaluation.benchmarks import load_benchmark
from beta_clip_hf.evaluation.benchmarks.regions import FG_OVD_FILES
from evaluation.benchmarks.files import write


FG_OVD = {
    "img_path": "val2017/1.jpg",
    "bbox": [1, 2, 3, 4],
    "pos_expression": ["A cup."],
    "neg_expression": ["A pot."],
    "sent_id": 1,
}
CHOICE = {"image": "1.jpg", "positive": "A cat.", "negative": "A dog.", "subset": "swap_obj", "id": "3"}
REGION = {"image": "1.jpg", "box": [1, 2, 3, 4], "positive": "A cat.", "negatives": ["A dog."], "subset": "hard"}
DOCCI = {"split": "test", "image_file": "1.jpg", "description": "A bee."}
COCO = {"images": [{"id": 1, "file_name": "1.jpg"}], "categories": [{"id": 1, "name": "cat"}]}
TURNS = [{"value": "Describe it."}, {"value": "A bee."}]


def in_photos(file, *records):
    return "photos", {"test.jsonl": [{"image": "1.jpg", "caption": "A bee."}], f"eval/{file}.jsonl": list(records)}


def in_entities(xml, sentence="[/EN#1/people A man] ."):
    files = {"test.txt": "1000\n", "Sentences/1000.txt": sentence, "Annotations/1000.xml": xml}
    return "phrases", files


def xml(xmin, xmax):
    box = f"<xmin>{xmin}</xmin><ymin>1</ymin><xmax>{xmax}</xmax><ymax>9</ymax>"
    return f"<annotation><object><name>1</name><bndbox>{box}</bndbox></object></annotation>"


BAD = {
    "xml_cut_short": (
        *in_entities("<annotation><object>"),
        r"1000\.xml must be as published, but is not: no element",
    ),
    "xml_without_a_side": (*in_entities(xml("", 9)), r"1000\.xml: could not convert string to float: ''"),
    "xml_box_turned_round": (*in_entities(xml(90, 9)), r"1000\.xml: box of object 1 must be \[x1, y1, x2, y2\]"),
    "own_box": (
        *in_photos("fgovd", REGION, {**REGION, "box": [1, 2, "a", 4]}),
        r"fgovd\.jsonl, record 2: box must be",
    ),
    "own_negatives": (
        *in_photos("fgovd", {**REGION, "negatives": []}),
        r"fgovd\.jsonl, record 1: negatives must be at least one text, but is \[\]",
    ),
    "own_foil": (
        *in_photos("sugarcrepe", CHOICE, CHOICE, {**CHOICE, "negative": ""}),
        r"sugarcrepe\.jsonl, record 3: negative must be a string that is not empty, but is ''",
    ),
    "own_id": (
        *in_photos("valse", {**CHOICE, "id": None} | {"subset": 3}),
        r"valse\.jsonl, record 1: subset must be",
    ),
    "own_image": (
        *in_photos("valse", {name: CHOICE[name] for name in CHOICE if name != "image"}),
        r"valse\.jsonl, record 1: 'image' must be there, but is missing",
    ),
    "fg_ovd_box": (
        "fg_ovd",
        {FG_OVD_FILES["hard"]: [FG_OVD, {**FG_OVD, "bbox": [1, 2, 3]}]},
        r"h_attributes_llava\.jsonl, record 2: bbox must be \[x, y, width, height\], but is \[1, 2, 3\]",
    ),
    "fg_ovd_width": ("fg_ovd", {FG_OVD_FILES["hard"]: [{**FG_OVD, "bbox": [1, 2, -3, 4]}]}, r"record 1: bbox must be"),
    "fg_ovd_negatives": (
        "fg_ovd",
        {FG_OVD_FILES["easy"]: [FG_OVD, FG_OVD, {**FG_OVD, "neg_expression": []}]},
        r"e_attributes_llava\.jsonl, record 3: neg_expression must be at least one text, but is \[\]",
    ),
    "docci": (
        "docci",
        {"docci_descriptions.jsonlines": [DOCCI, {**DOCCI, "description": " "}]},
        r"docci_descriptions\.jsonlines, record 2: description must be a string that is not empty, but is ' '",
    ),
    "iiw": ("iiw", {"IIW-400/data.jsonl": [{"image": "1.jpg", "IIW": None}]}, r"data\.jsonl, record 1: IIW must be"),
    "dci": (
        "long_dci",
        {"annotations/7.json": {"image": "1.jpg"}},
        r"7\.json: 'extra_caption' must be there, but is missing",
    ),
    "long_dci_with_commas": (
        "long_dci",
        {"dci_long.csv": "filepath,title\n1.jpg,A bee.\n"},
        r"dci_long\.csv must be tab-separated with the columns filepath and title, but its columns are "
        r"\['filepath,title'\]",
    ),
    "long_dci_title": (
        "long_dci",
        {"dci_long.csv": "filepath\ttitle\n1.jpg\tA bee.\n2.jpg\n"},
        r"dci_long\.csv, record 2: title must be a string that is not empty, but is missing",
    ),
    "sharegpt4v": (
        "sharegpt4v_1k",
        {
            "share-captioner_coco_lcs_sam_1246k_1107.json": [
                [{"image": "1.jpg", "conversations": TURNS}, {"image": "2.jpg", "conversations": TURNS[:1]}]
            ]
        },
        r"1107\.json, record 2 must be as published, but is not: list index out of range",
    ),
    "coco": (
        "coco",
        {"captions_val2017.json": [{**COCO, "annotations": [{"image_id": 1, "caption": ""}]}]},
        r"captions_val2017\.json, record 1: caption must be a string that is not empty",
    ),
    "flickr30k": (
        "flickr30k",
        {"dataset_flickr30k.json": [{"images": [{"split": "test", "filename": "1.jpg", "sentences": []}]}]},
        r"dataset_flickr30k\.json, record 1: sentences must be at least one text",
    ),
    "coco_boxes": (
        "coco_boxes",
        {"instances_val2017.json": [{**COCO, "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": []}]}]},
        r"instances_val2017\.json, record 1: bbox must be \[x, y, width, height\], but is \[\]",
    ),
    "sugarcrepe": (
        "sugarcrepe",
        {"add_att.json": [{"7": {"filename": "1.jpg", "caption": "A cat.", "negative_caption": ""}}]},
        r"add_att\.json, record 7: negative_caption must be a string that is not empty",
    ),
    "valse": (
        "valse",
        {"plurals.json": [{"a": {"mturk": {"caption": 3}, "image_file": "v7w_1.jpg", "dataset": "", "caption": "A."}}]},
        r"plurals\.json, record a: 'foil' must be there, but is missing",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_record_is_named(case, tmp_path):
    task, files, message = BAD[case]
    for name, content in files.items():
        write(tmp_path / name, content[0] if name.endswith(".json") and isinstance(content, list) else content)
    with pytest.raises(ValueError, match=message) as refusal:
        load_benchmark(task, tmp_path, allow_subset=True)
    assert "\n" not in str(refusal.value)
