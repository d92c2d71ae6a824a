"""Benchmarks of long captions, one per image: Urban1K, ShareGPT4V-1k, DCI, Long-DCI, DOCCI, IIW."""

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ...data.rows import Row
from .layout import Annotations, Place, each, first_records, naming, read_json, read_lines, text


SHARE_CAPTIONS = "share-captioner_coco_lcs_sam_1246k_1107.json"
FILTERED_SHARE_CAPTIONS = "share-captioner_coco_lcs_sam_1246k_1107_filtered.json"
DCI_ANNOTATIONS = ("densely_captioned_images/annotations", "annotations")
IIW_400 = ("IIW-400/data.jsonl", "iiw_IIW-400.jsonl")


def read_urban1k(place: Place) -> list[Annotations]:
    """Of each file in `caption` the first line, as Long-CLIP reads it; the image has the same name."""
    captions = place.required("caption", "Urban1k/caption")
    images = next((path for name in ("image", "images") if (path := captions.with_name(name)).is_dir()), None)
    images = images or captions.with_name("image")
    files = sorted(captions.glob("*.txt"))
    rows = [{"image": f"{file.stem}.jpg", "caption": _first_line(file)} for file in files]
    without_caption = sorted({image.stem for image in images.glob("*.jpg")} - {file.stem for file in files})
    absent = [f"caption/{name}.txt" for name in without_caption]
    return [Annotations("retrieval", rows, images.__truediv__, published={"images": 1000}, absent=absent)]


def read_sharegpt4v(place: Place) -> list[Annotations]:
    """The first 1,000 records of the list, as Long-CLIP takes them: the second turn is the caption, its line breaks are
    spaces. The release of β-CLIP filters the list first, so its 1,000 may be others: a part of its own."""
    images = place.directory("sam", "data/sam").parent
    parts = []
    for name, file_name in (("", SHARE_CAPTIONS), ("filtered", FILTERED_SHARE_CAPTIONS)):
        if file := place.file(file_name):
            rows = list(each(file, first_records(file, 1000), _sharegpt4v_row))
            parts.append(Annotations("retrieval", rows, images.__truediv__, name=name, published={"images": 1000}))
    return parts


def read_dci(place: Place) -> list[Annotations]:
    """Short and extra caption of every image of all splits, joined by a space, as LoTLIP and FLAIR do with a line
    break, which CLIP's tokenizer takes for a space."""

    def caption(record: dict[str, Any]) -> str:
        return f"{record['short_caption'].strip()} {record['extra_caption'].strip()}".strip()

    rows = _dci_rows(place.required(*DCI_ANNOTATIONS), caption)
    return [Annotations("retrieval", rows, _dci_images(place).__truediv__, published={"images": 7805})]


def read_long_dci(place: Place) -> list[Annotations]:
    """The extra caption alone, of the images that have one, as TULIP defines it; from its own table or from DCI."""
    if table := place.file("dci_long.csv"):
        with open(table, encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, delimiter="\t")
            if not {"filepath", "title"} <= set(reader.fieldnames or ()):
                raise ValueError(
                    f"{table} must be tab-separated with the columns filepath and title, but its columns are "
                    f"{list(reader.fieldnames or ())}"
                )
            rows = list(each(table, reader, lambda record: _row(record["filepath"], record["title"], "title")))
    else:
        rows = _dci_rows(place.required(*DCI_ANNOTATIONS), lambda record: record["extra_caption"].strip())
    return [Annotations("retrieval", rows, _dci_images(place).__truediv__, published={"images": 7602})]


def read_docci(place: Place) -> list[Annotations]:
    """The test split of the descriptions."""

    def row(record: dict[str, Any]) -> Row | None:
        of_test = record["split"] == "test"
        return _row(record["image_file"], record["description"], "description") if of_test else None

    file = place.required("docci_descriptions.jsonlines")
    rows = [one for one in each(file, read_lines(file), row) if one is not None]
    return [Annotations("retrieval", rows, place.directory("images").__truediv__, published={"images": 5000})]


def read_iiw(place: Place) -> list[Annotations]:
    """IIW-400: human descriptions of images of DOCCI-AAR. With DOCCI_Test and DCI_Test, which have their images from
    DOCCI and DCI, they are the 612 that LoTLIP and FLAIR report on: a part of its own."""
    roots = {
        "docci_aar": place.directory("images_aar", "docci_aar", beside=("docci",)),
        "docci": place.directory("docci", "images", beside=("docci",)),
        "dci": place.find("dci") or _dci_images(place),
    }

    def locate(image: str) -> Path:
        folder, _, name = image.partition("/")
        return roots[folder] / name

    rows = list(_iiw_rows(place.required(*IIW_400), "docci_aar"))
    parts = [Annotations("retrieval", rows, locate, published={"images": 400})]
    docci, dci = place.file("DOCCI_Test/data.jsonl"), place.file("DCI_Test/data.jsonl")
    if docci and dci:
        rows = [*rows, *_iiw_rows(docci, "docci"), *_iiw_rows(dci, "dci")]
        parts.append(Annotations("retrieval", rows, locate, name="612", published={"images": 612}, is_optional=True))
    return parts


def _dci_rows(annotations: Path, caption: Callable[[dict[str, Any]], str]) -> list[Row]:
    """One row for each file that gives a caption."""
    rows = []
    for file in sorted(annotations.glob("*.json")):
        with naming(file):
            record = read_json(file)
            if whole := caption(record):
                rows.append(_row(record["image"], whole, "caption"))
    return rows


def _dci_images(place: Place) -> Path:
    """The folder of DCI's images: that of DCI, or that of their archive of SA-1B, as FG-CLIP has it."""
    beside = ("dci", ".")
    own = place.directory("densely_captioned_images/photos", "photos", beside=beside)
    return own if own.is_dir() else place.find("sam/images/138", beside=beside) or own


def _iiw_rows(file: Path, folder: str) -> Iterator[Row]:
    def row(record: dict[str, Any]) -> Row:
        name = record["image/key"] if "image/key" in record else record["image"]
        return _row(f"{folder}/{name.removesuffix('.jpg')}.jpg", record["IIW"], "IIW")

    return each(file, read_lines(file), row)


def _sharegpt4v_row(record: dict[str, Any]) -> Row:
    caption = record["conversations"][1]["value"].replace("\n", " ")
    return _row(record["image"], caption, "the second turn")


def _row(image: Any, caption: Any, field: str) -> Row:
    """A row; `field` is the name that its caption has in the file."""
    return {"image": text(image, "the name of the image"), "caption": text(caption, field).strip()}


def _first_line(file: Path) -> str:
    lines = file.read_text(encoding="utf-8").strip().splitlines()
    if not lines:
        raise ValueError(f"{file} must hold a caption, but is empty")
    return lines[0].strip()
