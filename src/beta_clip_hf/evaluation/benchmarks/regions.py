"""Benchmarks of boxes: FG-OVD, COCO and LVIS box classification, phrases of Flickr30k Entities."""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from .layout import Annotations, Place, by_image, corners, each, naming, read_json, read_lines, text, texts, xyxy
from .short_captions import flickr30k_images


FG_OVD_FILES = {
    "hard": "h_attributes_llava.jsonl",
    "medium": "m_attributes_llava.jsonl",
    "easy": "e_attributes_llava.jsonl",
    "trivial": "shuffle_negatives_llava.jsonl",
}
FG_OVD_COUNTS = {"hard": 3545, "medium": 2968, "easy": 1299, "trivial": 3545}

# "[/EN#283585/people/other A young girl]": chain, types, phrase.
_PHRASE = re.compile(r"\[/EN#(\d+)/(\S+) ([^\]]+)\]")


def read_fg_ovd(place: Place) -> list[Annotations]:
    """The four files as they are, so with what is odd in them: 37 regions of hard, and the same 37 of trivial, have
    fewer than ten negatives, 4 of medium have their true text among the negatives, and one region is 0.07 × 0.08
    pixels."""
    files = {subset: place.file(name) for subset, name in FG_OVD_FILES.items()}

    def regions() -> Iterator[tuple[str, dict[str, Any]]]:
        for subset, file in files.items():
            if file:
                yield from each(file, read_lines(file), partial(_fg_ovd_region, subset))

    return [
        Annotations(
            "regions",
            by_image(regions(), "regions"),
            place.coco_images(),
            published={f"regions[{subset}]": number for subset, number in FG_OVD_COUNTS.items()},
            absent=[FG_OVD_FILES[subset] for subset, file in files.items() if file is None],
        )
    ]


def _fg_ovd_region(subset: str, record: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    (true_text,) = texts(record["pos_expression"], "pos_expression")
    region = {
        "box": xyxy(record["bbox"], "bbox"),
        "text": true_text,
        "negatives": texts(record["neg_expression"], "neg_expression"),
        "subset": subset,
        "id": f"{subset}:{record['sent_id']}",
    }
    return text(record["img_path"], "img_path"), region


def read_coco_boxes(place: Place) -> list[Annotations]:
    """The boxes of val2017 but for crowds, which are no single object."""
    file = place.required("instances_val2017.json")
    return [
        _boxes(
            file,
            read_json(file),
            lambda image: f"val2017/{image['file_name']}",
            place.coco_images(),
            published={"images in the file": 5000, "regions": 36335, "classes": 80},
        )
    ]


def read_lvis_boxes(place: Place) -> list[Annotations]:
    """The boxes of LVIS v1 val: those of its images that are in COCO's val2017, which the code of FG-CLIP measures; and
    all, for which train2017 must be there too."""
    file = place.required("lvis_v1_val.json")
    content = read_json(file)
    for image in content["images"]:
        image["name"] = "/".join(image["coco_url"].split("/")[-2:])
    of_val2017 = {**content, "images": [one for one in content["images"] if one["name"].startswith("val2017/")]}

    def name(image: Mapping[str, Any]) -> str:
        return image["name"]

    locate = place.coco_images()
    return [
        _boxes(file, of_val2017, name, locate, published={"images in the file": 4809, "classes": 1203}, name="val2017"),
        _boxes(
            file,
            content,
            name,
            locate,
            published={"images in the file": 19809, "regions": 244707, "classes": 1203},
            name="all",
            is_optional=True,
        ),
    ]


def read_phrases(place: Place) -> list[Annotations]:
    """The phrases of the test split that have boxes, in every caption in which they stand. The kind of a phrase is the
    first of its types."""
    sentences = place.required("Sentences")
    names = sentences.with_name("test.txt")
    if not names.is_file():
        raise ValueError(f"{names} must be the list of the test split, but is not there")
    images = [f"{name}.jpg" for name in names.read_text(encoding="utf-8").split()]
    phrases = [(image, phrase) for image in images for phrase in _entities(sentences.parent, Path(image).stem)]
    return [
        Annotations(
            "phrases",
            by_image(phrases, "phrases"),
            flickr30k_images(place).__truediv__,
            published={"images in the list": 1000, "phrases": 14481},
            counted={"images in the list": len(images)},
        )
    ]


def _boxes(
    file: Path,
    content: Mapping[str, Any],
    name_of: Callable[[Mapping[str, Any]], str],
    locate: Callable[[str], Path],
    **part: Any,
) -> Annotations:
    """Rows of a file in COCO's format; images without a box have none. Names of classes have spaces for underscores."""
    categories = sorted(content["categories"], key=lambda category: category["id"])
    class_names = [category["name"].replace("_", " ") for category in categories]
    labels = {category["id"]: label for label, category in enumerate(categories)}
    images = {image["id"]: name_of(image) for image in content["images"]}

    def region(one: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
        if one["image_id"] not in images or one.get("iscrowd"):
            return None
        label, box = labels[one["category_id"]], xyxy(one["bbox"], "bbox")
        return images[one["image_id"]], {"box": box, "text": class_names[label], "label": label, "id": str(one["id"])}

    regions = each(file, content["annotations"], region)
    rows = by_image((one for one in regions if one is not None), "regions")
    return Annotations(
        "boxes", rows, locate, class_names=class_names, counted={"images in the file": len(images)}, **part
    )


def _entities(folder: Path, name: str) -> Iterator[dict[str, Any]]:
    """The phrases with boxes of one image."""
    annotations, sentences = folder / "Annotations" / f"{name}.xml", folder / "Sentences" / f"{name}.txt"
    for file in (annotations, sentences):
        if not file.is_file():
            raise ValueError(f"{file} must be there for an image of the test split, but is not")
    boxes: dict[str, list[list[float]]] = {}
    with naming(annotations):
        for number, one in enumerate(ElementTree.parse(annotations).getroot().iter("object"), 1):
            if (box := one.find("bndbox")) is not None:
                left, top, right, bottom = (float(box.findtext(side, "")) for side in ("xmin", "ymin", "xmax", "ymax"))
                # The file counts pixels from 1 and the last one belongs to the box.
                edges = corners([left - 1, top - 1, right, bottom], f"box of object {number}")
                for chain in one.findall("name"):
                    boxes.setdefault(chain.text or "", []).append(edges)
    for chain, types, phrase in _PHRASE.findall(sentences.read_text(encoding="utf-8")):
        if chain in boxes:
            yield {"text": phrase, "boxes": boxes[chain], "kind": types.split("/")[0]}
