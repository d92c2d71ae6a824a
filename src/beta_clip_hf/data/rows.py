"""One datum: what a row is, what is wrong with a bad one, and how its image and its texts are read.

A row is a plain dict. It has an `image` and a `caption` (or `captions`), and may have `sentences`, `phrases`,
`short_caption` and `regions`; other columns are carried along untouched.
"""

import io
import math
import os
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from ..text.hierarchy import TextHierarchy, build_text_hierarchy
from ..text.phrases import PhraseExtractor


Row = dict[str, Any]

# Columns of well-known data sets: they make the hint of an error concrete, nothing is renamed without being asked.
_USUAL_NAMES = {
    "image": ("filename", "image_path", "img", "path", "jpg", "filepath"),
    "caption": ("text", "long_caption", "description", "sentence", "title", "label"),
}
_CAPTION_COLUMNS = ("caption", "captions", "conversations")


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
    if not any(name in columns for name in _CAPTION_COLUMNS):
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
    if "caption" not in row:
        if "captions" in row:
            row["caption"] = " ".join(row["captions"])
        elif "conversations" in row:
            row["caption"] = _answer(row.pop("conversations"))
    _check_text(row.get("caption"), "caption")
    return row


def check_image_file(image: Any) -> None:
    """Raises `ValueError` where `image` is the path of a file that does not exist; says nothing of other images."""
    if isinstance(image, (str, Path)) and not os.path.isfile(image):
        raise ValueError(f"image must be an existing file, but is {str(image)!r}")


def load_image(image: Any) -> Image.Image:
    """Reads and decodes an image.

    Args:
        image: A PIL image, a path, the bytes of an image file, or the dict `{"bytes": …, "path": …}` of `datasets`.

    Returns:
        A PIL image in RGB, turned as its EXIF orientation says. A transparent background loses its transparency only.

    Raises:
        ValueError: where it cannot be read, or is cut short; the message names the image.
    """
    if isinstance(image, Mapping):
        image = image.get("bytes") or image.get("path")
    if not isinstance(image, (Image.Image, str, Path, bytes)):
        raise ValueError(f"image must be a path, bytes or a PIL image, but is {_shown(image)}")
    try:
        if isinstance(image, Image.Image):
            return ImageOps.exif_transpose(image).convert("RGB")
        with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as opened:
            return ImageOps.exif_transpose(opened).convert("RGB")
    except Exception as error:  # each codec has exceptions of its own for a broken file
        name = f"{len(image)} bytes" if isinstance(image, bytes) else repr(str(image))
        raise ValueError(f"image must be readable, but is {name}: {error}") from error


def row_id(row: Mapping[str, Any]) -> str:
    """The row's `id`; a row that has none is known by its texts, so that its sampling is still reproducible."""
    if row.get("id") is not None:
        return str(row["id"])
    texts = [row.get(name) for name in _CAPTION_COLUMNS]
    return f"{zlib.crc32(repr(texts).encode()):08x}"


def hierarchy_of(row: Mapping[str, Any], extractor: PhraseExtractor | None = None) -> TextHierarchy:
    """The row's caption, sentences and phrases. What the row brings is kept (an empty list of phrases too: there are
    none then); what it does not bring is built from the caption.

    Args:
        row: A row as [`check_row`] gives it, or as `map_text_hierarchy` has left it.
        extractor: Finds phrases where the row brings none.
    """
    if row.get("phrase_sentences") is not None:  # built before, by map_text_hierarchy
        names = ("caption", "sentences", "phrases", "phrase_sentences", "phrase_kinds", "short_caption")
        return TextHierarchy.from_dict({name: row.get(name) for name in names})
    return build_text_hierarchy(
        row["caption"],
        sentences=row.get("sentences") or row.get("captions"),
        phrases=row.get("phrases"),
        short_caption=row.get("short_caption"),
        extractor=extractor,
    )


def _answer(conversations: Any) -> Any:
    if isinstance(conversations, (list, tuple)):
        for turn in conversations:
            if isinstance(turn, Mapping) and turn.get("from") == "gpt":
                return turn.get("value")
    raise ValueError(f'conversations must have a turn from "gpt", but is {_shown(conversations)}')


def _check_text(value: Any, field: str) -> None:
    if not _is_text(value):
        hint = '; rename it with columns={"caption": "captions"}' if field == "caption" and _is_list(value) else ""
        raise ValueError(f"{field} must be a string that is not empty, but is {_shown(value)}{hint}")


def _check_texts(value: Any, field: str) -> None:
    for index, text in enumerate(_items(value, field)):
        if not _is_text(text):  # asked first, because naming the field costs more than the check
            _check_text(text, f"{field}[{index}]")
    if field == "captions" and not value:
        raise ValueError("captions must not be empty, but is []")


def _check_phrases(value: Any, field: str) -> None:
    for index, phrase in enumerate(_items(value, field)):
        if isinstance(phrase, Mapping):
            _check_phrase(phrase, f"{field}[{index}]")
        elif not _is_text(phrase):
            _check_text(phrase, f"{field}[{index}]")


def _check_phrase(phrase: Mapping[str, Any], field: str) -> None:
    _check_text(phrase.get("text"), f"{field}.text")
    for index, box in enumerate(_items(phrase.get("boxes") or [], f"{field}.boxes")):
        if not _is_box(box):
            _check_box(box, f"{field}.boxes[{index}]")
    sentence = phrase.get("sentence")
    if sentence is not None and (not isinstance(sentence, int) or sentence < 0):
        raise ValueError(f"{field}.sentence must be the index of a sentence, but is {_shown(sentence)}")


def _check_regions(value: Any, field: str) -> None:
    for index, region in enumerate(_items(value, field)):
        where = f"{field}[{index}]"
        if not isinstance(region, Mapping):
            raise ValueError(f"{where} must have a box and a text, but is {_shown(region)}")
        _check_box(region.get("box"), f"{where}.box")
        _check_text(region.get("text"), f"{where}.text")
        _check_texts(region.get("negatives") or [], f"{where}.negatives")


def _check_box(value: Any, field: str) -> None:
    if not _is_box(value):
        raise ValueError(f"{field} must be [x1, y1, x2, y2] with x1 <= x2 and y1 <= y2, but is {_shown(value)}")


_CHECKS: dict[str, Callable[[Any, str], None]] = {
    "caption": _check_text,
    "captions": _check_texts,
    "sentences": _check_texts,
    "phrases": _check_phrases,
    "short_caption": _check_text,
    "regions": _check_regions,
}


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not value.isspace() and value != ""


def _is_box(value: Any) -> bool:
    """Four finite numbers in order. A box without area passes: real annotations have them."""
    if not _is_list(value) or len(value) != 4 or not all(isinstance(x, (int, float)) for x in value):
        return False
    x1, y1, x2, y2 = value
    return x1 <= x2 and y1 <= y2 and all(map(math.isfinite, value))


def _items(value: Any, field: str) -> Iterable[Any]:
    if not _is_list(value):
        raise ValueError(f"{field} must be a list, but is {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    text = "missing" if value is None else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
