"""One datum: what a row is, what is wrong with a bad one, and how its image and its texts are read.

A row is a plain dict. It has an `image` and a `caption` (or `captions`), and may have `sentences`, `phrases`,
`short_caption` and `regions` with their `box_format`; other columns are carried along untouched.
"""

import io
import os
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ..text.hierarchy import COLUMNS, TextHierarchy, build_text_hierarchy
from ..text.phrases import PhraseExtractor
from .fields import check_box, check_text, check_texts, is_box, is_inside, is_text, items, outside, shown


Row = dict[str, Any]

# What the boxes of `regions` are: pixels of the stored image, or shares of its sides.
BOX_FORMATS = ("xyxy_pixels", "xyxy_normalized")

# Columns of well-known data sets: they make the hint of an error concrete, nothing is renamed without being asked.
_USUAL_NAMES = {
    "image": ("filename", "image_path", "img", "path", "jpg", "filepath"),
    "caption": ("text", "long_caption", "description", "sentence", "title", "label"),
}
CAPTION_COLUMNS = ("caption", "captions", "conversations")


def check_columns(columns: Collection[str], where: str) -> None:
    """Makes sure that a source has the columns that a row needs.

    Args:
        columns: The names present, after renaming.
        where: Name of the source, for the message.

    Raises:
        ValueError: names the columns present and how to rename one.

    >>> check_columns(["image", "caption", "source"], "train.jsonl")
    """
    missing = [] if "image" in columns or "file_name" in columns else ["image"]
    if not any(name in columns for name in CAPTION_COLUMNS):
        missing.append("caption")
    if missing:
        guesses = {
            name: next((c for c in _USUAL_NAMES[name] if c in columns), f"your {name} column") for name in missing
        }
        hint = ", ".join(f'"{guess}": "{name}"' for name, guess in guesses.items())
        raise ValueError(
            f'{where} must have the columns "image" and "caption" (or "captions"), but its columns are '
            f"{sorted(columns)}; rename with columns={{{hint}}}"
        )


def rename_columns(record: Mapping[str, Any], columns: Mapping[str, str]) -> Row:
    """The record with its columns renamed, `{present: wanted}`; a wanted name that is there already gives way.

    >>> rename_columns({"text": "A cat.", "image": "cat.jpg"}, {"text": "caption"})
    {'image': 'cat.jpg', 'caption': 'A cat.'}
    """
    row = {name: value for name, value in record.items() if name not in columns}
    return row | {wanted: record[present] for present, wanted in columns.items() if present in record}


def check_row(record: Mapping[str, Any]) -> Row:
    """The record as a row that the rest of the package may rely on: fields checked, `None` taken as absent, image and
    caption found. The image may be called `file_name`, as in the metadata of an image folder, and is not looked at.
    `captions` are joined by a space; of ShareGPT4V's `conversations` the first "gpt" turn is the caption.

    A box of `regions` must lie in the image: within 0 and 1 where `box_format` is "xyxy_normalized", else within
    `width` and `height` where the row has both. It may reach over by 1 % of the side, as rounded annotations do.

    Raises:
        ValueError: "field must be …, but is …".

    >>> check_row({"image": "cat.jpg", "captions": ["A cat.", "It sleeps."], "phrases": None})["caption"]
    'A cat. It sleeps.'
    """
    row = {name: value for name, value in record.items() if value is not None}
    if "image" not in row and "file_name" in row:
        row["image"] = row.pop("file_name")
    if "image" not in row:
        raise ValueError("image must be there, but is missing")
    for field, check in _CHECKS.items():
        if field in row:
            check(row[field], field)
    absent = [name for name in COLUMNS if name not in row] if "phrase_sentences" in row else ()
    if absent:
        raise ValueError(f"{', '.join(absent)} must be there beside phrase_sentences, but is missing")
    if row.get("regions") and (size := _stated_size(row)):
        _check_places(row, *size)
    if "caption" not in row:
        if "captions" in row:
            row["caption"] = " ".join(row["captions"])
        elif "conversations" in row:
            row["caption"] = _answer(row.pop("conversations"))
    check_text(row.get("caption"), "caption")
    return row


def check_image_file(image: Any, field: str = "image") -> None:
    """Raises `ValueError` where `image` is the path of a file that does not exist; says nothing of other images."""
    if isinstance(image, (str, Path)) and not os.path.isfile(image):
        raise ValueError(f"{field} must be an existing file, but is {str(image)!r}")


def load_image(image: Any) -> Image.Image:
    """Reads and decodes an image.

    Args:
        image: A PIL image, a path, the bytes of an image file, or the dict `{"bytes": …, "path": …}` of `datasets`.

    Returns:
        A PIL image in RGB, turned as its EXIF orientation says. A transparent background loses its transparency only;
        grey of 16 bits, or of floats within 0 and 1, becomes one of 8 bits.

    Raises:
        ValueError: where it cannot be read, is cut short, or has other numbers; the message names the image.
    """
    if isinstance(image, Mapping):
        image = image.get("bytes") or image.get("path")
    if not isinstance(image, (Image.Image, str, Path, bytes)):
        raise ValueError(f"image must be a path, bytes or a PIL image, but is {shown(image)}")
    try:
        if isinstance(image, Image.Image):
            return _in_rgb(ImageOps.exif_transpose(image))
        with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as opened:
            ImageOps.exif_transpose(opened, in_place=True)  # unlike the other way, no copy of an upright image
            opened.load()
            return _in_rgb(opened)
    except Exception as error:  # each codec has exceptions of its own for a broken file
        name = f"{len(image)} bytes" if isinstance(image, bytes) else repr(str(image))
        raise ValueError(f"image must be readable, but is {name}: {error}") from error


def _in_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        image = _in_8_bits(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _in_8_bits(image: Image.Image) -> Image.Image:
    """Of grey with more bits, which Pillow would cut off at 255. Some of its versions make mode I of 16 bits."""
    values = np.asarray(image)
    low, high = values.min(), values.max()
    white = 1 if image.mode == "F" else 255 if image.mode == "I" and high <= 255 else 65535
    if not (low >= 0 and high <= white):  # nor where one is NaN
        raise ValueError(f"its numbers must be within 0 and {white}, but are within {low:g} and {high:g}")
    return Image.fromarray((values.astype(np.float32) * (255 / white)).round().astype(np.uint8))


def row_id(row: Mapping[str, Any]) -> str:
    """The row's `id`; a row that has none is known by its texts, so that its sampling is still reproducible."""
    if row.get("id") is not None:
        return str(row["id"])
    texts = [row.get(name) for name in CAPTION_COLUMNS]
    return f"{zlib.crc32(repr(texts).encode()):08x}"


def hierarchy_of(row: Mapping[str, Any], extractor: PhraseExtractor | None = None) -> TextHierarchy:
    """The row's caption, sentences and phrases. What the row brings is kept (an empty list of phrases too: there are
    none then); what it does not bring is built from the caption.

    Args:
        row: A row as [`check_row`] gives it, or one whose hierarchy was built before (`beta-clip hierarchy`,
            `map_text_hierarchy`).
        extractor: Finds phrases where the row brings none.
    """
    if row.get("phrase_sentences") is not None:  # built before
        fields = {name: row.get(name) for name in ("caption", "short_caption", *COLUMNS)}
        fields["phrases"] = [phrase if isinstance(phrase, str) else phrase["text"] for phrase in row["phrases"]]
        return TextHierarchy.from_dict(fields)
    return build_text_hierarchy(
        row["caption"],
        sentences=row.get("sentences") or row.get("captions"),
        phrases=row.get("phrases"),
        short_caption=row.get("short_caption"),
        extractor=extractor,
    )


def regions_of(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The regions of a row that [`check_row`] has seen: `{"box", "text"}`, maybe with `"long_text"` and `"negatives"`.

    A row without regions gives its phrases that have exactly one box, as `{"box", "text"}`. Their boxes are pixels, so
    a row whose `box_format` is another gives none of them: what comes out is always what `box_format` says.

    >>> regions_of({"phrases": ["a cat", {"text": "a red chair", "boxes": [[2, 3, 40, 50]]}]})
    [{'box': [2, 3, 40, 50], 'text': 'a red chair'}]
    """
    if row.get("regions"):
        return list(row["regions"])
    return [{"box": phrase["boxes"][0], "text": phrase["text"]} for _, phrase in _phrases_with_a_box(row)]


def check_boxes_in_image(row: Mapping[str, Any], image_size: tuple[int, int]) -> None:
    """Makes sure that the boxes of [`regions_of`] lie in the image, but for 1 % of each side; for when it is loaded.

    Args:
        row: A row that [`check_row`] has seen.
        image_size: Width and height in pixels, as `Image.size`. Normalised boxes do not depend on it.

    Raises:
        ValueError: names the box.

    >>> check_boxes_in_image({"regions": [{"box": [0, 0, 641, 9], "text": "a cat"}]}, (640, 480))
    >>> check_boxes_in_image({"regions": [{"box": [0, 0, 999, 9], "text": "a cat"}]}, (640, 480))
    Traceback (most recent call last):
    ValueError: regions[0].box must lie in the image of 640 × 480 pixels, but is [0, 0, 999, 9]
    """
    _check_places(row, *((1, 1) if _is_normalized(row) else image_size))


def _stated_size(row: Row) -> tuple[float, float] | None:
    """The sides of the image in units of the regions' boxes, where the row says them."""
    if _is_normalized(row):
        return 1, 1
    width, height = row.get("width"), row.get("height")
    if isinstance(width, (int, float)) and isinstance(height, (int, float)) and width > 0 and height > 0:
        return width, height
    return None  # absent, or columns of another meaning


def _is_normalized(row: Mapping[str, Any]) -> bool:
    return row.get("box_format") == "xyxy_normalized"


def _check_places(row: Mapping[str, Any], width: float, height: float) -> None:
    for index, region in enumerate(row.get("regions") or ()):
        if not is_inside(region["box"], width, height):
            raise ValueError(outside(f"regions[{index}].box", region["box"], width, height))
    for index, phrase in () if row.get("regions") else _phrases_with_a_box(row):
        if not is_inside(phrase["boxes"][0], width, height):
            raise ValueError(outside(f"phrases[{index}].boxes[0]", phrase["boxes"][0], width, height))


def _phrases_with_a_box(row: Mapping[str, Any]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    if not _is_normalized(row):
        for index, phrase in enumerate(row.get("phrases") or ()):
            if isinstance(phrase, Mapping) and len(phrase.get("boxes") or ()) == 1:
                yield index, phrase


def _answer(conversations: Any) -> Any:
    if isinstance(conversations, (list, tuple)):
        for turn in conversations:
            if isinstance(turn, Mapping) and turn.get("from") == "gpt":
                return turn.get("value")
    raise ValueError(f'conversations must have a turn from "gpt", but is {shown(conversations)}')


def _check_captions(value: Any, field: str) -> None:
    check_texts(value, field)
    if not value:
        raise ValueError(f"{field} must not be empty, but is []")


def _check_phrases(value: Any, field: str) -> None:
    for index, phrase in enumerate(items(value, field)):
        if isinstance(phrase, Mapping):
            _check_phrase(phrase, f"{field}[{index}]")
        elif not is_text(phrase):
            check_text(phrase, f"{field}[{index}]")


def _check_phrase(phrase: Mapping[str, Any], field: str) -> None:
    check_text(phrase.get("text"), f"{field}.text")
    for index, box in enumerate(items(phrase.get("boxes") or [], f"{field}.boxes")):
        if not is_box(box):
            check_box(box, f"{field}.boxes[{index}]")
    sentence = phrase.get("sentence")
    if sentence is not None and (not isinstance(sentence, int) or sentence < 0):
        raise ValueError(f"{field}.sentence must be the index of a sentence, but is {shown(sentence)}")


def _check_indices(value: Any, field: str) -> None:
    for place, index in enumerate(items(value, field)):
        if not isinstance(index, int):
            raise ValueError(f"{field}[{place}] must be the index of a sentence, but is {shown(index)}")


def _check_regions(value: Any, field: str) -> None:
    for index, region in enumerate(items(value, field)):
        if not isinstance(region, Mapping):
            raise ValueError(f"{field}[{index}] must have a box and a text, but is {shown(region)}")
        if not (is_box(region.get("box")) and is_text(region.get("text"))):
            check_box(region.get("box"), f"{field}[{index}].box")
            check_text(region.get("text"), f"{field}[{index}].text")
        if region.get("long_text") is not None and not is_text(region["long_text"]):
            check_text(region["long_text"], f"{field}[{index}].long_text")
        if region.get("negatives"):
            check_texts(region["negatives"], f"{field}[{index}].negatives")


def _check_box_format(value: Any, field: str) -> None:
    if value not in BOX_FORMATS:
        raise ValueError(f"{field} must be one of {BOX_FORMATS}, but is {shown(value)}")


_CHECKS: dict[str, Callable[[Any, str], None]] = {
    "caption": check_text,
    "captions": _check_captions,
    "sentences": check_texts,
    "phrases": _check_phrases,
    "phrase_sentences": _check_indices,
    "phrase_kinds": check_texts,
    "short_caption": check_text,
    "regions": _check_regions,
    "box_format": _check_box_format,
}
