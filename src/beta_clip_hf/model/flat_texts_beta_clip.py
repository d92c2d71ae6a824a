# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""
The texts and boxes of a flat batch, cleaned, checked and put in order: plain Python, before anything is tokenised.

Every check names the place of what is wrong, for example "regions[0][1].text".
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .boxes_beta_clip import Box, box_in_view, checked_pixel_box, cut_box
from .configuration_beta_clip import Granularity
from .image_views_beta_clip import view_of_image, width_and_height
from .text_cleaning_beta_clip import clean_checked_text, clean_text


@dataclass
class IndexedTexts:
    """T cleaned texts; `index` has the image, region or text that each of them belongs to."""

    texts: list[str] = field(default_factory=list)
    index: list[int] = field(default_factory=list)
    granularity: list[int] = field(default_factory=list)
    """The kind of each text, for the texts of hierarchies alone."""

    def count_by_index(self) -> list[int]:
        """Returns how many texts each image, region or text has, up to the last one that has any."""
        counts = [0] * (max(self.index, default=-1) + 1)
        for index in self.index:
            counts[index] += 1
        return counts


@dataclass
class FlatRegions:
    """R regions of a batch: `texts.index` has the image of each, `hard_texts.index` the region of each hard text."""

    boxes: list[Box] = field(default_factory=list)
    """xyxy in shares of what the model sees of the image, cut at its borders."""
    texts: IndexedTexts = field(default_factory=IndexedTexts)
    hard_texts: IndexedTexts = field(default_factory=IndexedTexts)


def check_kind_of_batch(*, text: Any, path: Any, hierarchies: Any, regions: Any, negatives: Any) -> None:
    """
    Checks that the arguments of a processor's call belong to one kind of batch: a plain one, or one of hierarchies.

    Raises:
        ValueError: if they do not.
    """
    if hierarchies is None:
        for name, value in (("regions", regions), ("negatives", negatives)):
            if value is not None:
                raise ValueError(f"{name} must come with hierarchies, but there are none")
        return
    if text is not None:
        raise ValueError("only one of text and hierarchies must be given, but both are")
    if path is not None:
        raise ValueError(f"path must be None with hierarchies, whose texts have a path each, but is {path!r}")


def check_one_per_image(hierarchies: Sequence[Any], num_images: int) -> None:
    """Raises `ValueError` if there are more or fewer hierarchies than images."""
    if len(hierarchies) != num_images:
        raise ValueError(f"hierarchies must be one per image, but are {len(hierarchies)} for {num_images} images")


def clean_plain_texts(text: Any) -> str | list[str]:
    """
    Cleans the texts of a plain batch: one, or a list of them.

    Raises:
        ValueError: if it is neither, or the list is empty.
    """
    if isinstance(text, str):
        return clean_text(text)
    check_list(text, "text", "a string or a list of strings")
    if len(text) == 0:
        raise ValueError("text must hold at least one, but is empty")
    for number, item in enumerate(text):
        if not isinstance(item, str):
            raise ValueError(f"text[{number}] must be a string, but is {item!r}")
    return [clean_text(item) for item in text]


def texts_of_hierarchies(hierarchies: Any) -> IndexedTexts:
    """
    Returns the texts of B images in the order of a flat batch, with the image and the kind of each.

    Raises:
        ValueError: if there is none, one is empty, or an image has something else for its texts.
    """
    check_list(hierarchies, "hierarchies", "a list with the texts of each image")
    flat = IndexedTexts()
    for image, hierarchy in enumerate(hierarchies):
        for kind, text in _texts_by_kind(hierarchy, f"hierarchies[{image}]"):
            cleaned = clean_text(text) if isinstance(text, str) else None
            if not cleaned:
                raise ValueError(f"a text must not be empty, but a {kind.name.lower()} of image {image} is")
            flat.texts.append(cleaned)
            flat.index.append(image)
            flat.granularity.append(kind)
    if not flat.texts:
        raise ValueError("hierarchies must hold at least one, but are empty")
    return flat


def texts_of_negatives(negatives: Any, num_texts_of_image: Sequence[int]) -> IndexedTexts:
    """
    Returns the negatives of a flat batch's texts, with the text of each.

    Args:
        negatives: For each image a list for each of its texts.
        num_texts_of_image: How many texts each image has.

    Raises:
        ValueError: if the lists do not fit the texts, or a negative is empty.
    """
    check_list(negatives, "negatives", "a list per image")
    if len(negatives) != len(num_texts_of_image):
        raise ValueError(
            f"negatives must be a list per image, but are {len(negatives)} for {len(num_texts_of_image)} images"
        )
    flat = IndexedTexts()
    first_text = 0
    for image, (image_negatives, num_texts) in enumerate(zip(negatives, num_texts_of_image, strict=True)):
        check_list(image_negatives, f"negatives[{image}]", "a list for each text of the image")
        if len(image_negatives) != num_texts:
            raise ValueError(
                f"negatives[{image}] must have a list for each of {num_texts} texts, but has {len(image_negatives)}"
            )
        for number, text_negatives in enumerate(image_negatives):
            name = f"negatives[{image}][{number}]"
            check_list(text_negatives, name, "a list of texts")
            flat.texts += [clean_checked_text(negative, f"a text of {name}") for negative in text_negatives]
            flat.index += [first_text + number] * len(text_negatives)
        first_text += num_texts
    return flat


def flat_regions(regions: Any, images: Sequence[Any], box_format: str, image_processor: Any) -> FlatRegions:
    """
    Returns the regions of a batch in the order of their images.

    Args:
        regions: For each image its regions, as for [`BetaCLIPProcessor`].
        images: The B images as loaded; only their sizes are read.
        box_format: Format of all boxes.
        image_processor: Boxes follow its resize and crop.

    Raises:
        ValueError: if the lists do not fit the images, or a box or a text is wrong.
    """
    check_list(regions, "regions", "a list per image")
    if len(regions) != len(images):
        raise ValueError(f"regions must be a list per image, but are {len(regions)} for {len(images)} images")
    flat = FlatRegions()
    for image_number, image_regions in enumerate(regions):
        check_list(image_regions, f"regions[{image_number}]", "a list of regions")
        size = width_and_height(images[image_number])
        view = view_of_image(size, image_processor)
        for region_number, region in enumerate(image_regions):
            name = f"regions[{image_number}][{region_number}]"
            if not isinstance(region, Mapping):
                raise ValueError(f"{name} must have a box and a text, but is {region!r}")
            hard_texts = region.get("hard_texts") or ()
            check_list(hard_texts, f"{name}.hard_texts", "a list of texts")
            flat.hard_texts.texts += [clean_checked_text(text, f"{name}.hard_texts") for text in hard_texts]
            # The box of this region is appended below, so its index is the present length.
            flat.hard_texts.index += [len(flat.boxes)] * len(hard_texts)
            flat.texts.texts.append(clean_checked_text(region.get("text"), f"{name}.text"))
            flat.texts.index.append(image_number)
            box = checked_pixel_box(region.get("box"), box_format, size, f"{name}.box")
            flat.boxes.append(cut_box(box_in_view(box, view)))
    return flat


def check_list(value: Any, name: str, meaning: str) -> None:
    """Raises `ValueError` if a value is not a list, or something else with a length that is no string and no dict."""
    if isinstance(value, (str, bytes, Mapping)) or not (hasattr(value, "__len__") and hasattr(value, "__iter__")):
        raise ValueError(f"{name} must be {meaning}, but is {value!r}")


def _texts_by_kind(hierarchy: Any, name: str) -> Iterator[tuple[Granularity, Any]]:
    """Yields the texts of one image with their kinds, in the order of a flat batch."""
    if isinstance(hierarchy, str):
        yield Granularity.CAPTION, hierarchy
        return
    if not all(hasattr(hierarchy, part) for part in ("caption", "sentences", "phrases")):
        raise ValueError(f"{name} must be a caption, or have caption, sentences and phrases, but is {hierarchy!r}")
    yield Granularity.CAPTION, hierarchy.caption
    for sentence in hierarchy.sentences:
        yield Granularity.SENTENCE, sentence
    for phrase in hierarchy.phrases:
        yield Granularity.PHRASE, phrase
    if getattr(hierarchy, "short_caption", None):
        yield Granularity.SHORT_CAPTION, hierarchy.short_caption


__all__ = [
    "FlatRegions",
    "IndexedTexts",
    "check_list",
    "clean_plain_texts",
    "flat_regions",
    "texts_of_hierarchies",
    "texts_of_negatives",
]
