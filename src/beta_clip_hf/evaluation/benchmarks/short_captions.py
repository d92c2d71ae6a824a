"""Benchmarks of short captions, five per image: COCO-5k, and Flickr30k with 1,000 or all images."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ...data.rows import Row
from .layout import Annotations, Place, convert_records, in_folder, read_json, require_text, require_texts


CAPTIONS_PER_IMAGE = 5


def read_coco(place: Place) -> list[Annotations]:
    """
    Reads the 5,000 images of val2017 with their first five captions, as Long-CLIP and the papers that follow it do.

    The images of Karpathy's test split are another part: as many images, but not the same ones.
    """
    parts = []
    file = place.file("captions_val2017.json")
    if file is not None:
        parts.append(_read_coco_val2017(file, place))
    file = place.file("dataset_coco.json")
    if file is not None:
        # These are other images, so those who have val2017 need not have them.
        parts.append(_read_coco_karpathy(file, place, is_optional=bool(parts)))
    return parts


def _read_coco_val2017(file: Path, place: Place) -> Annotations:
    content = read_json(file)
    captions: dict[int, list[str]] = {}
    for image_id, caption in convert_records(file, content["annotations"], _coco_caption):
        captions.setdefault(image_id, []).append(caption)
    rows = []
    for image in sorted(content["images"], key=lambda image: image["id"]):
        if image["id"] in captions:
            rows.append(_row(f"val2017/{image['file_name']}", captions[image["id"]]))
    return Annotations(
        "retrieval",
        rows,
        place.coco_images(),
        published={"images": 5000, "captions": 25000, "captions in the file": 25014},
        counted={"captions in the file": len(content["annotations"])},
    )


def _read_coco_karpathy(file: Path, place: Place, *, is_optional: bool) -> Annotations:
    images = _test_split(read_json(file)["images"])

    def convert(image: Mapping[str, Any]) -> Row:
        return _karpathy_row(f"{image['filepath']}/{image['filename']}", image)

    return Annotations(
        "retrieval",
        list(convert_records(file, images, convert)),
        place.coco_images(),
        name="karpathy",
        published={"images": 5000, "captions": 25000, "captions in the file": 25010},
        counted={"captions in the file": sum(len(image["sentences"]) for image in images.values())},
        is_optional=is_optional,
    )


def read_flickr30k(place: Place) -> list[Annotations]:
    """Reads Karpathy's test split, and the images of his three splits together."""
    file = place.required("dataset_flickr30k.json")
    images = read_json(file)["images"]
    locate = in_folder(flickr30k_images(place))

    def convert(image: Mapping[str, Any]) -> Row:
        return _karpathy_row(image["filename"], image)

    test_split = Annotations(
        "retrieval",
        list(convert_records(file, _test_split(images), convert)),
        locate,
        name="1k",
        published={"images": 1000, "captions": 5000},
    )
    all_splits = Annotations(
        "retrieval",
        list(convert_records(file, images, convert)),
        locate,
        name="31k",
        published={"images": 31014, "captions": 155070},
        is_optional=True,
    )
    return [test_split, all_splits]


def flickr30k_images(place: Place) -> Path:
    """Returns the folder of Flickr30k's images, which Flickr30k Entities shares."""
    return place.directory("flickr30k-images", "flickr30k_images", "images", beside=("flickr30k",))


def _test_split(images: Iterable[Mapping[str, Any]]) -> dict[int, Mapping[str, Any]]:
    """Returns Karpathy's test split, by the number of each record in the file."""
    # Numbered before the choice, so that a message names a record by its place in the file.
    return {number: image for number, image in enumerate(images, 1) if image["split"] == "test"}


def _coco_caption(annotation: Mapping[str, Any]) -> tuple[int, str]:
    """Returns the id of the image and the caption."""
    return annotation["image_id"], require_text(annotation["caption"], "caption")


def _karpathy_row(name: str, image: Mapping[str, Any]) -> Row:
    captions = [sentence["raw"] for sentence in image["sentences"]]
    return _row(name, require_texts(captions, "sentences"))


def _row(name: str, captions: Iterable[str]) -> Row:
    stripped = [caption.strip() for caption in captions]
    return {"image": name, "captions": stripped[:CAPTIONS_PER_IMAGE]}
