"""Benchmarks of short captions, five per image: COCO-5k, and Flickr30k with 1,000 or all images."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ...data.rows import Row
from .layout import Annotations, Place, each, read_json, text, texts


CAPTIONS_PER_IMAGE = 5


def read_coco(place: Place) -> list[Annotations]:
    """The 5,000 images of val2017 with their first five captions, as Long-CLIP and the papers that follow it measure;
    and, as a part of its own, those of Karpathy's test split: as many images, but not the same ones."""
    parts = []
    if file := place.file("captions_val2017.json"):
        content = read_json(file)
        captions: dict[int, list[str]] = {}
        annotations = each(file, content["annotations"], lambda one: (one["image_id"], text(one["caption"], "caption")))
        for image_id, caption in annotations:
            captions.setdefault(image_id, []).append(caption)
        rows = [
            _row(f"val2017/{image['file_name']}", captions[image["id"]])
            for image in sorted(content["images"], key=lambda image: image["id"])
            if image["id"] in captions
        ]
        parts.append(
            Annotations(
                "retrieval",
                rows,
                place.coco_images(),
                published={"images": 5000, "captions": 25000, "captions in the file": 25014},
                counted={"captions in the file": len(content["annotations"])},
            )
        )
    if file := place.file("dataset_coco.json"):
        images = _of_test_split(read_json(file)["images"])
        parts.append(
            Annotations(
                "retrieval",
                list(
                    each(file, images, lambda image: _karpathy_row(f"{image['filepath']}/{image['filename']}", image))
                ),
                place.coco_images(),
                name="karpathy",
                published={"images": 5000, "captions": 25000, "captions in the file": 25010},
                counted={"captions in the file": sum(len(image["sentences"]) for image in images.values())},
                is_optional=bool(parts),
            )
        )
    return parts


def read_flickr30k(place: Place) -> list[Annotations]:
    """Karpathy's test split, and all images of his three splits together."""
    file = place.required("dataset_flickr30k.json")
    images = read_json(file)["images"]

    def row(image: Mapping[str, Any]) -> Row:
        return _karpathy_row(image["filename"], image)

    locate = flickr30k_images(place).__truediv__
    return [
        Annotations(
            "retrieval",
            list(each(file, _of_test_split(images), row)),
            locate,
            name="1k",
            published={"images": 1000, "captions": 5000},
        ),
        Annotations(
            "retrieval",
            list(each(file, images, row)),
            locate,
            name="31k",
            published={"images": 31014, "captions": 155070},
            is_optional=True,
        ),
    ]


def flickr30k_images(place: Place) -> Path:
    """The folder of Flickr30k's images, which Flickr30k Entities shares."""
    return place.directory("flickr30k-images", "flickr30k_images", "images", beside=("flickr30k",))


def _of_test_split(images: Iterable[Mapping[str, Any]]) -> dict[int, Mapping[str, Any]]:
    """Karpathy's test split, by the number of each record in the file."""
    return {number: image for number, image in enumerate(images, 1) if image["split"] == "test"}


def _karpathy_row(name: str, image: Mapping[str, Any]) -> Row:
    return _row(name, texts([sentence["raw"] for sentence in image["sentences"]], "sentences"))


def _row(name: str, captions: Iterable[str]) -> Row:
    return {"image": name, "captions": [caption.strip() for caption in captions][:CAPTIONS_PER_IMAGE]}
