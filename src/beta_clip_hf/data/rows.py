"""Describes a row, and checks it once.

A row is a plain dict. It has an `image` and a `caption` (or `captions`), and may have `sentences`, `phrases`,
`short_caption` and `regions` with their `box_format`. Other columns are carried along untouched.

Rows are checked where they enter the package: by the readers, and by whatever takes rows from a user (the collator,
`evaluate`). [`check_row`] returns a [`CheckedRow`], which is not checked a second time.
"""

import zlib
from collections.abc import Callable, Mapping
from typing import Any

from ..text.hierarchy import HIERARCHY_COLUMNS
from ..text.sampling import join_captions
from .columns import CAPTION_COLUMNS
from .fields import (
    check_box,
    check_list_of_texts,
    check_text,
    check_texts,
    is_blank_text,
    is_box,
    is_list,
    is_text,
    items,
    shown,
)
from .records import as_value_error
from .regions import ROW_BOX_FORMATS, check_boxes_in_stated_size


Row = dict[str, Any]

# Names of the answering model in conversations.
_MODEL_SPEAKERS = ("gpt", "assistant")


class CheckedRow(dict[str, Any]):
    """A row that has passed [`check_row`], with its caption in `caption` and without `None`.

    It counts as checked until one of its checked fields is replaced. A plain copy (`{**row}`) is an unchecked row
    again. A change inside of a list, as `row["phrases"].append(…)`, is not noticed.
    """

    location = ""
    """Where a reader has found the row, as in "train.jsonl:17"; empty for other rows."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        super().__init__(fields)
        self._checked_values = self._current_values()

    @property
    def is_unchanged(self) -> bool:
        """Whether every checked field still holds the object that was checked."""
        pairs = zip(self._current_values(), self._checked_values, strict=True)
        # Identity, not equality: comparing long lists would cost as much as checking them.
        return all(current is checked for current, checked in pairs)

    def _current_values(self) -> list[Any]:
        return [self.get(name) for name in _CHECKED_FIELDS]


def check_row(record: Mapping[str, Any]) -> CheckedRow:
    """Makes a row of a record that the rest of the package may rely on. A row that is checked already is returned.

    All fields are checked, `None` counts as absent, and image and caption are found. The image may be called
    `file_name`, as in the metadata of an image folder; it is not looked at. `captions` are joined to one text
    (see [`join_captions`]). Of ShareGPT4V's `conversations`, or of `messages`, the first turn of "gpt" or "assistant"
    is the caption.

    A box of `regions` must lie in the image: within 0 and 1 if `box_format` is "xyxy_normalized", else within `width`
    and `height` where the row has both. It may reach over by 1 % of the side, as rounded annotations do.

    Blank sentences, phrases and items of `captions` are passed over; a row is not lost for them. Texts that show
    nothing (zero width, markers), that are no Unicode, or that have more than a million characters are not texts.

    Raises:
        ValueError: "field must be …, but is …".

    >>> check_row({"image": "cat.jpg", "captions": ["A cat.", "It sleeps."], "phrases": None})["caption"]
    'A cat. It sleeps.'
    """
    if isinstance(record, CheckedRow) and record.is_unchanged:
        return record
    try:
        row = _present_fields(record)
        check_fields(row)
        row = _with_caption(row)
        check_text(row.get("caption"), "caption")
        return CheckedRow(row)
    # A record may hold values of any kind. What they break concerns this record alone.
    except Exception as error:
        raise as_value_error(error) from error


def row_checked_before(record: Mapping[str, Any]) -> CheckedRow:
    """Makes the row of a record that [`check_row`] has passed before, without checking it again.

    Data sets use it: they check all records when they are opened, and read each again when it is asked for.

    Raises:
        ValueError: if there is no image, which is the one column that the first pass may leave unread.
    """
    row = _present_fields(record)
    _check_has_image(row)
    return CheckedRow(_with_caption(row))


def check_fields(row: Mapping[str, Any]) -> None:
    """Checks the fields of a row, but not that it has a caption.

    Raises:
        ValueError: names the first field that is wrong.
    """
    _check_has_image(row)
    for field, check in _CHECKS.items():
        if field in row:
            check(row[field], field)
    if "phrase_sentences" in row:
        absent = [name for name in HIERARCHY_COLUMNS if name not in row]
        if absent:
            raise ValueError(f"{', '.join(absent)} must be there beside phrase_sentences, but is missing")
        _check_hierarchy(row)
    if row.get("regions"):
        check_boxes_in_stated_size(row)


def _check_hierarchy(row: Mapping[str, Any]) -> None:
    """Checks that the columns of a stored hierarchy belong together: a sentence and a kind for each phrase."""
    num_phrases, num_sentences = len(row["phrases"]), len(row["sentences"])
    for name in ("phrase_sentences", "phrase_kinds"):
        num_items = len(row[name])
        if num_items != num_phrases:
            raise ValueError(f"{name} must have an item for each of the {num_phrases} phrases, but has {num_items}")
    for place, index in enumerate(row["phrase_sentences"]):
        if not 0 <= index < num_sentences:
            raise ValueError(
                f"phrase_sentences[{place}] must be the index of a sentence, from 0 to {num_sentences - 1}, but is "
                f"{shown(index)}"
            )


def with_image(row: Row, image: Any) -> Row:
    """Copies a row with another image. A checked row stays one: a check only asks that there is an image."""
    copied = {**row, "image": image}
    if isinstance(row, CheckedRow) and row.is_unchanged:
        checked = CheckedRow(copied)
        checked.location = row.location
        return checked
    return copied


def without_blank_captions(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns a record without its blank `captions`, or the record itself if none or all of them are blank.

    One blank caption does not cost a photo that has others. Captions that are not texts stay, and are refused later.
    """
    captions: Any = record.get("captions")
    if not is_list(captions):
        return record
    kept = [caption for caption in captions if not _is_blank(caption)]
    if not kept or len(kept) == len(captions):
        return record
    return {**record, "captions": kept}


def _is_blank(caption: Any) -> bool:
    return caption is None or (isinstance(caption, str) and not caption.strip())


def row_id(row: Mapping[str, Any]) -> str:
    """Returns the row's `id`.

    A row without one is known by its texts, so that what is drawn of it is still reproducible.
    """
    if row.get("id") is not None:
        return str(row["id"])
    texts = [row.get(name) for name in CAPTION_COLUMNS]
    return f"{zlib.crc32(repr(texts).encode()):08x}"


def _present_fields(record: Mapping[str, Any]) -> Row:
    row = {name: value for name, value in record.items() if value is not None}
    if "image" not in row and "file_name" in row:
        row["image"] = row.pop("file_name")
    # Conversations may be about several images. A row is about one.
    if "image" not in row and is_list(row.get("images")) and len(row["images"]) == 1:
        row["image"] = row.pop("images")[0]
    return row


def _with_caption(row: Row) -> Row:
    """Puts the caption in its place, if it is in another column."""
    if "caption" in row:
        return row
    if "captions" in row:
        # Blank ones are left out.
        captions = [caption for caption in row["captions"] if not is_blank_text(caption)]
        return {**row, "captions": captions, "caption": join_captions(captions)}
    for name in ("conversations", "messages"):
        if name in row:
            rest = {column: value for column, value in row.items() if column != name}
            return {**rest, "caption": _first_answer(row[name], name)}
    return row


def _first_answer(conversations: Any, field: str) -> Any:
    """Returns the first turn of the model, named `from` and `value` or `role` and `content`."""
    if is_list(conversations):
        for turn in conversations:
            if not isinstance(turn, Mapping):
                continue
            if turn.get("from") in _MODEL_SPEAKERS:
                return turn.get("value")
            if turn.get("role") in _MODEL_SPEAKERS:
                return _text_of_content(turn.get("content"))
    raise ValueError(f'{field} must have a turn from "gpt" or "assistant", but is {shown(conversations)}')


def _text_of_content(content: Any) -> Any:
    """Joins the texts of a content that is a list of typed parts, as `[{"type": "text", "text": …}]`."""
    if not is_list(content):
        return content
    texts = [part.get("text") for part in content if isinstance(part, Mapping) and part.get("type") == "text"]
    return " ".join(text for text in texts if isinstance(text, str))


def _check_has_image(row: Mapping[str, Any]) -> None:
    if "image" not in row:
        raise ValueError("image must be there, but is missing")


def _check_captions(value: Any, field: str) -> None:
    check_list_of_texts(value, field)
    if not value:
        raise ValueError(f"{field} must not be empty, but is []")


def _check_phrases(value: Any, field: str) -> None:
    for index, phrase in enumerate(items(value, field)):
        if isinstance(phrase, Mapping):
            _check_phrase(phrase, f"{field}[{index}]")
        elif not (is_text(phrase) or is_blank_text(phrase)):
            check_text(phrase, f"{field}[{index}]")


def _check_phrase(phrase: Mapping[str, Any], field: str) -> None:
    if not is_blank_text(phrase.get("text")):
        check_text(phrase.get("text"), f"{field}.text")
    if not isinstance(phrase.get("kind") or "", str):
        raise ValueError(f"{field}.kind must be a string, but is {shown(phrase['kind'])}")
    for index, box in enumerate(items(phrase.get("boxes") or [], f"{field}.boxes")):
        if not is_box(box):
            check_box(box, f"{field}.boxes[{index}]")
    sentence = phrase.get("sentence")
    # A boolean is an int for Python.
    if sentence is not None and (type(sentence) is not int or sentence < 0):
        raise ValueError(f"{field}.sentence must be the index of a sentence, but is {shown(sentence)}")
    if phrase.get("negatives"):
        check_texts(phrase["negatives"], f"{field}.negatives")


def _check_sentence_indices(value: Any, field: str) -> None:
    for place, index in enumerate(items(value, field)):
        if type(index) is not int:
            raise ValueError(f"{field}[{place}] must be the index of a sentence, but is {shown(index)}")


def _check_regions(value: Any, field: str) -> None:
    for index, region in enumerate(items(value, field)):
        if not isinstance(region, Mapping):
            raise ValueError(f"{field}[{index}] must have a box and a text, but is {shown(region)}")
        # Names are formatted only where something is wrong: a data set has millions of regions.
        if not (is_box(region.get("box")) and is_text(region.get("text"))):
            check_box(region.get("box"), f"{field}[{index}].box")
            check_text(region.get("text"), f"{field}[{index}].text")
        if region.get("long_text") is not None and not is_text(region["long_text"]):
            check_text(region["long_text"], f"{field}[{index}].long_text")
        if region.get("negatives"):
            check_texts(region["negatives"], f"{field}[{index}].negatives")


def _check_box_format(value: Any, field: str) -> None:
    if value not in ROW_BOX_FORMATS:
        raise ValueError(f"{field} must be one of {ROW_BOX_FORMATS}, but is {shown(value)}")


_CHECKS: dict[str, Callable[[Any, str], None]] = {
    "caption": check_text,
    "captions": _check_captions,
    "sentences": check_list_of_texts,
    "phrases": _check_phrases,
    "phrase_sentences": _check_sentence_indices,
    "phrase_kinds": check_texts,
    "short_caption": check_text,
    "regions": _check_regions,
    "box_format": _check_box_format,
}
_CHECKED_FIELDS = ("image", *_CHECKS)
