"""Benchmarks of long captions, one per image: Urban1K, ShareGPT4V-1k, DCI, Long-DCI, DOCCI, IIW."""

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ...data.rows import Row
from .layout import (
    Annotations,
    Place,
    convert_records,
    first_records,
    in_folder,
    located_errors,
    read_json,
    read_lines,
    require_text,
)


SHARE_CAPTIONS = "share-captioner_coco_lcs_sam_1246k_1107.json"
FILTERED_SHARE_CAPTIONS = "share-captioner_coco_lcs_sam_1246k_1107_filtered.json"
SHARE_LISTS = (SHARE_CAPTIONS, FILTERED_SHARE_CAPTIONS)
# Number of records at the start of either list that are the benchmark.
SHARE_TEST_RECORDS = 1000
DCI_ANNOTATIONS = ("densely_captioned_images/annotations", "annotations")
IIW_400 = ("IIW-400/data.jsonl", "iiw_IIW-400.jsonl")


def read_urban1k(place: Place) -> list[Annotations]:
    """Reads the first line of each file in `caption`, as Long-CLIP does. The image has the same name."""
    caption_folder = place.required("caption", "Urban1k/caption")
    image_folder = caption_folder.with_name("image")
    if not image_folder.is_dir() and caption_folder.with_name("images").is_dir():
        image_folder = caption_folder.with_name("images")
    files = sorted(caption_folder.glob("*.txt"))
    rows = [{"image": f"{file.stem}.jpg", "caption": _first_line(file)} for file in files]
    names_with_caption = {file.stem for file in files}
    names_with_image = {image.stem for image in image_folder.glob("*.jpg")}
    absent = [f"caption/{name}.txt" for name in sorted(names_with_image - names_with_caption)]
    return [Annotations("retrieval", rows, in_folder(image_folder), published={"images": 1000}, absent=absent)]


def read_sharegpt4v(place: Place) -> list[Annotations]:
    """
    Reads the first 1,000 records of the list, as Long-CLIP does: the second turn is the caption, its line breaks become
    spaces.

    The release of β-CLIP filters the list first, so its 1,000 may be others: they are another part.
    """
    # The list names images as "sam/images/….jpg".
    locate = in_folder(place.directory("sam", "data/sam").parent)
    parts = []
    for name, file_name in zip(("", "filtered"), SHARE_LISTS, strict=True):
        file = place.file(file_name)
        if file is not None:
            rows = list(convert_records(file, first_records(file, SHARE_TEST_RECORDS), _sharegpt4v_row))
            published = {"images": SHARE_TEST_RECORDS}
            parts.append(Annotations("retrieval", rows, locate, name=name, published=published))
    return parts


def read_dci(place: Place) -> list[Annotations]:
    """
    Reads the short and the extra caption of every image of all splits, joined by a space.

    LoTLIP and FLAIR join them by a line break, which CLIP's tokenizer takes for a space.
    """

    def join_captions(record: dict[str, Any]) -> str:
        return f"{record['short_caption'].strip()} {record['extra_caption'].strip()}".strip()

    rows = _dci_rows(place.required(*DCI_ANNOTATIONS), join_captions)
    return [Annotations("retrieval", rows, in_folder(_dci_images(place)), published={"images": 7805})]


def read_long_dci(place: Place) -> list[Annotations]:
    """
    Reads the extra caption alone, of the images that have one, as TULIP defines it.

    It is read from TULIP's table, or from DCI if the table is missing.
    """

    def convert(record: dict[str, Any]) -> Row:
        return _row(record["filepath"], record["title"], "title")

    def extra_caption(record: dict[str, Any]) -> str:
        return record["extra_caption"].strip()

    table = place.file("dci_long.csv")
    if table is None:
        rows = _dci_rows(place.required(*DCI_ANNOTATIONS), extra_caption)
    else:
        with open(table, encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, delimiter="\t")
            columns = list(reader.fieldnames or ())
            if not {"filepath", "title"} <= set(columns):
                raise ValueError(
                    f"{table} must be tab-separated with the columns filepath and title, but its columns are {columns}"
                )
            rows = list(convert_records(table, reader, convert))
    return [Annotations("retrieval", rows, in_folder(_dci_images(place)), published={"images": 7602})]


def read_docci(place: Place) -> list[Annotations]:
    """Reads the test split of the descriptions."""

    def convert(record: dict[str, Any]) -> Row | None:
        if record["split"] != "test":
            return None
        return _row(record["image_file"], record["description"], "description")

    file = place.required("docci_descriptions.jsonlines")
    rows = [row for row in convert_records(file, read_lines(file), convert) if row is not None]
    return [Annotations("retrieval", rows, in_folder(place.directory("images")), published={"images": 5000})]


def read_iiw(place: Place) -> list[Annotations]:
    """
    Reads IIW-400: human descriptions of images of DOCCI-AAR.

    With DOCCI_Test and DCI_Test, whose images are those of DOCCI and DCI, they are the 612 images on which LoTLIP and
    FLAIR report: another part.
    """
    image_folders = {
        "docci_aar": place.directory("images_aar", "docci_aar", beside=("docci",)),
        "docci": place.directory("docci", "images", beside=("docci",)),
        "dci": place.find("dci") or _dci_images(place),
    }

    def locate(image: str) -> Path:
        folder, _, name = image.partition("/")
        return image_folders[folder] / name

    rows = list(_iiw_rows(place.required(*IIW_400), "docci_aar"))
    parts = [Annotations("retrieval", rows, locate, published={"images": 400})]
    docci = place.file("DOCCI_Test/data.jsonl")
    dci = place.file("DCI_Test/data.jsonl")
    if docci is not None and dci is not None:
        rows = [*rows, *_iiw_rows(docci, "docci"), *_iiw_rows(dci, "dci")]
        parts.append(Annotations("retrieval", rows, locate, name="612", published={"images": 612}, is_optional=True))
    return parts


def _dci_rows(annotations: Path, caption_of: Callable[[dict[str, Any]], str]) -> list[Row]:
    """Makes a row of each file with a caption that is not empty."""
    rows = []
    for file in sorted(annotations.glob("*.json")):
        with located_errors(file):
            record = read_json(file)
            caption = caption_of(record)
            if caption:
                rows.append(_row(record["image"], caption, "caption"))
    return rows


def _dci_images(place: Place) -> Path:
    """Returns the folder of DCI's images, or the folder of SA-1B's archive that holds them, as FG-CLIP has it."""
    beside = ("dci", ".")
    photos = place.directory("densely_captioned_images/photos", "photos", beside=beside)
    if photos.is_dir():
        return photos
    return place.find("sam/images/138", beside=beside) or photos


def _iiw_rows(file: Path, folder: str) -> Iterator[Row]:
    def convert(record: dict[str, Any]) -> Row:
        # IIW-400 has the first key, the other files the second. Some names end in .jpg, some do not.
        key = "image"
        if "image/key" in record:
            key = "image/key"
        name = record[key]
        return _row(f"{folder}/{name.removesuffix('.jpg')}.jpg", record["IIW"], "IIW")

    return convert_records(file, read_lines(file), convert)


def _sharegpt4v_row(record: dict[str, Any]) -> Row:
    caption = record["conversations"][1]["value"].replace("\n", " ")
    return _row(record["image"], caption, "the second turn")


def _row(image: Any, caption: Any, field: str) -> Row:
    """Returns a row; `field` is the name of the caption in the file."""
    name = require_text(image, "the name of the image")
    return {"image": name, "caption": require_text(caption, field).strip()}


def _first_line(file: Path) -> str:
    lines = file.read_text(encoding="utf-8").strip().splitlines()
    if not lines:
        raise ValueError(f"{file} must hold a caption, but is empty")
    return lines[0].strip()
