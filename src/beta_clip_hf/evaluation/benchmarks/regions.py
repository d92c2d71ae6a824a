"""Benchmarks of boxes: FG-OVD, COCO and LVIS box classification, phrases of Flickr30k Entities."""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from .layout import (
    Annotations,
    Place,
    convert_records,
    corners_from_size,
    group_by_image,
    in_folder,
    located_errors,
    read_json,
    read_lines,
    require_box,
    require_text,
    require_texts,
)
from .short_captions import flickr30k_images
from .templates import IMAGENET_TEMPLATES


FG_OVD_FILES = {
    "hard": "h_attributes_llava.jsonl",
    "medium": "m_attributes_llava.jsonl",
    "easy": "e_attributes_llava.jsonl",
    "trivial": "shuffle_negatives_llava.jsonl",
}
FG_OVD_COUNTS = {"hard": 3545, "medium": 2968, "easy": 1299, "trivial": 3545}

# "[/EN#283585/people/other A young girl]": chain, types, phrase. A chain is one entity in all captions of an image.
_PHRASE = re.compile(r"\[/EN#(\d+)/(\S+) ([^\]]+)\]")


def read_fg_ovd(place: Place) -> list[Annotations]:
    """
    Reads the four files as they are published, oddities included.

    37 regions of hard, and the same 37 of trivial, have fewer than ten negatives; 4 of medium have their true text
    among the negatives; one region is 0.07 × 0.08 pixels.
    """
    files = {subset: place.file(name) for subset, name in FG_OVD_FILES.items()}
    annotations = Annotations(
        "regions",
        group_by_image(_fg_ovd_regions(files), "regions"),
        place.coco_images(),
        published={f"regions[{subset}]": count for subset, count in FG_OVD_COUNTS.items()},
        absent=[FG_OVD_FILES[subset] for subset, file in files.items() if file is None],
    )
    return [annotations]


def _fg_ovd_regions(files: Mapping[str, Path | None]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the image and the region of each record of the files that exist."""
    for subset, file in files.items():
        if file is not None:
            yield from convert_records(file, read_lines(file), partial(_fg_ovd_region, subset))


def _fg_ovd_region(subset: str, record: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    (true_text,) = require_texts(record["pos_expression"], "pos_expression")
    region = {
        "box": corners_from_size(record["bbox"], "bbox"),
        "text": true_text,
        "negatives": require_texts(record["neg_expression"], "neg_expression"),
        "subset": subset,
        "id": f"{subset}:{record['sent_id']}",
    }
    return require_text(record["img_path"], "img_path"), region


def read_coco_boxes(place: Place) -> list[Annotations]:
    """Reads the boxes of val2017 without those of crowds, which are not single objects."""
    file = place.required("instances_val2017.json")
    content = read_json(file)
    names = {image["id"]: f"val2017/{image['file_name']}" for image in content["images"]}
    published = {"images in the file": 5000, "regions": 36335, "classes": 80}
    return [_boxes(file, content, names, place.coco_images(), published=published)]


def read_lvis_boxes(place: Place) -> list[Annotations]:
    """
    Reads the boxes of LVIS v1 val in two parts: those of the images in COCO's val2017, which FG-CLIP's code measures,
    and all boxes, which need train2017 too.
    """
    file = place.required("lvis_v1_val.json")
    content = read_json(file)
    locate = place.coco_images()
    # The URL ends in the folder and the name of the image.
    names = {image["id"]: "/".join(image["coco_url"].split("/")[-2:]) for image in content["images"]}
    names_in_val2017 = {image_id: name for image_id, name in names.items() if name.startswith("val2017/")}
    val2017 = _boxes(
        file,
        content,
        names_in_val2017,
        locate,
        published={"images in the file": 4809, "classes": 1203},
        name="val2017",
    )
    all_images = _boxes(
        file,
        content,
        names,
        locate,
        published={"images in the file": 19809, "regions": 244707, "classes": 1203},
        name="all",
        is_optional=True,
    )
    return [val2017, all_images]


def _boxes(
    file: Path,
    content: Mapping[str, Any],
    names: Mapping[int, str],
    locate: Callable[[str], Path],
    **options: Any,
) -> Annotations:
    """
    Makes a part of a file in COCO's format. Images without a box have no row.

    The templates are ImageNet's, as in FG-CLIP's code (`in_1K/coco_box_cls.py`).

    Args:
        file: The file, for messages.
        content: Its content.
        names: The names of the images of the part, by their ids.
        locate: The function that locates an image by its name.
        options: Other fields of [`Annotations`].
    """
    categories = sorted(content["categories"], key=lambda category: category["id"])
    # LVIS writes "baseball_bat" where a text would say "baseball bat".
    class_names = [category["name"].replace("_", " ") for category in categories]
    labels = {category["id"]: label for label, category in enumerate(categories)}

    def convert(annotation: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
        if annotation["image_id"] not in names or annotation.get("iscrowd"):
            return None
        label = labels[annotation["category_id"]]
        region = {
            "box": corners_from_size(annotation["bbox"], "bbox"),
            "text": class_names[label],
            "label": label,
            "id": str(annotation["id"]),
        }
        return names[annotation["image_id"]], region

    regions = convert_records(file, content["annotations"], convert)
    rows = group_by_image((region for region in regions if region is not None), "regions")
    counted = {"images in the file": len(names)}
    return Annotations(
        "boxes",
        rows,
        locate,
        counted=counted,
        class_names=class_names,
        templates=IMAGENET_TEMPLATES,
        **options,
    )


def read_phrases(place: Place) -> list[Annotations]:
    """
    Reads the phrases of the test split that have boxes, once for each caption that has the phrase.

    The kind of a phrase is the first of its types.
    """
    sentences = place.required("Sentences")
    list_file = sentences.with_name("test.txt")
    if not list_file.is_file():
        raise ValueError(f"{list_file} must be the list of the test split, but is not there")
    names = list_file.read_text(encoding="utf-8").split()
    phrases = []
    for name in names:
        for phrase in _entities(sentences.parent, name):
            phrases.append((f"{name}.jpg", phrase))
    annotations = Annotations(
        "phrases",
        group_by_image(phrases, "phrases"),
        in_folder(flickr30k_images(place)),
        published={"images in the list": 1000, "phrases": 14481},
        counted={"images in the list": len(names)},
    )
    return [annotations]


def _entities(folder: Path, name: str) -> Iterator[dict[str, Any]]:
    """Yields the phrases of an image that have boxes."""
    boxes_file = folder / "Annotations" / f"{name}.xml"
    sentences_file = folder / "Sentences" / f"{name}.txt"
    for file in (boxes_file, sentences_file):
        if not file.is_file():
            raise ValueError(f"{file} must be there for an image of the test split, but is not")
    boxes = _boxes_by_chain(boxes_file)
    for chain, types, phrase in _PHRASE.findall(sentences_file.read_text(encoding="utf-8")):
        if chain in boxes:
            yield {"text": phrase, "boxes": boxes[chain], "kind": types.split("/")[0]}


def _boxes_by_chain(file: Path) -> dict[str, list[list[float]]]:
    """Reads the boxes of an image by chain. An object may belong to several chains, or have no box."""
    boxes: dict[str, list[list[float]]] = {}
    with located_errors(file):
        for number, element in enumerate(ElementTree.parse(file).getroot().iter("object"), 1):
            bounds = element.find("bndbox")
            if bounds is None:
                continue
            left, top, right, bottom = (float(bounds.findtext(side, "")) for side in ("xmin", "ymin", "xmax", "ymax"))
            # The file counts pixels from 1, and the last pixel belongs to the box.
            box = require_box([left - 1, top - 1, right, bottom], f"box of object {number}")
            for chain in element.findall("name"):
                boxes.setdefault(chain.text or "", []).append(box)
    return boxes
