"""Format "finehard": the data of FG-CLIP's second stage, with long and short captions, regions and hard negatives.

Source: FG-CLIP (arXiv 2505.05071). The fields are those that its training reads (`fgclip/train/train_fgclip.py`).
"""

from collections.abc import Collection, Mapping
from typing import Any

from ..fields import check_text, is_box, is_inside, is_list, is_text, items, outside, shown
from ..row_reader import RecordFormat
from ..rows import Row
from .json_files import json_files, json_tables
from .named_files import common_folder
from .source import OpenedSource, Source, SourceFormat


COLUMNS = ("caption", "short_caption", "f_path", "bbox_info")
SHORT_CAPTION_START = "a photo of "

# The published paths begin with a folder of the authors' own, which their training leaves out as well.
_AUTHORS_FOLDER = "grit-20m/data-12m/"


def finehard_row(record: Mapping[str, Any]) -> Row:
    """Checks a record of FineHARD and gives it the names of a row.

    Args:
        record: Has `caption`, `short_caption`, `f_path` and `bbox_info`, a list of objects with `bbox`
            (`[x1, y1, x2, y2]` in shares of the image's sides, and maybe a score), `short_expr`, `long_expr`,
            `flag_short_neg` (0 or 1) and `short_expr_negs` (a dict or list of texts; read if the flag is 1). Other
            fields stay.

    Returns:
        A row with `image`, `caption`, `short_caption` (which begins with "a photo of "), `regions` and `box_format`.

    Raises:
        ValueError: names a field that is missing or wrong as the record does: "bbox_info[2].short_expr must be …". A
            box may reach over the edge by 1 % of the side.
    """
    check_record(record)
    return to_row(record)


def check_record(record: Mapping[str, Any]) -> None:
    """Raises `ValueError` if a record is not FineHARD's, see [`finehard_row`]."""
    for field in ("caption", "short_caption", "f_path"):
        check_text(record.get(field), field)
    for index, info in enumerate(items(record.get("bbox_info"), "bbox_info")):
        _check_info(info, f"bbox_info[{index}]")


def to_row(record: Mapping[str, Any]) -> Row:
    """Gives a record that [`check_record`] has accepted the names of a row."""
    row = {name: value for name, value in record.items() if name not in ("f_path", "bbox_info")}
    row["image"] = record["f_path"].removeprefix(_AUTHORS_FOLDER)
    if not row["short_caption"].lower().startswith(SHORT_CAPTION_START):
        row["short_caption"] = SHORT_CAPTION_START + row["short_caption"]
    row["regions"] = [_region(info) for info in record["bbox_info"]]
    row["box_format"] = "xyxy_normalized"
    return row


def check_columns(columns: Collection[str], source: str) -> None:
    """Makes sure that a source has all four columns.

    Raises:
        ValueError: names the columns that are missing, those that are there, and how to rename one.
    """
    missing = [name for name in COLUMNS if name not in columns]
    if missing:
        hint = ", ".join(f'"your {name} column": "{name}"' for name in missing)
        raise ValueError(
            f"{source} must have the columns {COLUMNS}, but has no {', '.join(missing)}; its columns are "
            f"{sorted(columns)}; rename with columns={{{hint}}}"
        )


def _region(info: Mapping[str, Any]) -> dict[str, Any]:
    # A fifth number is the score of the detector, which training does not use.
    region = {"box": info["bbox"][:4], "text": info["short_expr"], "long_text": info["long_expr"]}
    if info["flag_short_neg"]:
        region["negatives"] = _texts(info["short_expr_negs"])
    return region


def _texts(negatives: Any) -> list[str]:
    if isinstance(negatives, Mapping):
        return list(negatives.values())
    return list(negatives)


def _check_info(info: Any, name: str) -> None:
    if not isinstance(info, Mapping):
        raise ValueError(f"{name} must be an object with a bbox and its texts, but is {shown(info)}")
    for field in ("short_expr", "long_expr"):
        if not is_text(info.get(field)):
            check_text(info.get(field), f"{name}.{field}")
    _check_box(info.get("bbox"), f"{name}.bbox")
    flag = info.get("flag_short_neg")
    if flag not in (0, 1):
        raise ValueError(f"{name}.flag_short_neg must be 0 or 1, but is {shown(flag)}")
    if flag:
        _check_negatives(info.get("short_expr_negs"), f"{name}.short_expr_negs")


def _check_box(value: Any, field: str) -> None:
    box = value
    if is_list(value) and len(value) == 5:
        box = value[:4]
    if not is_box(box):
        raise ValueError(
            f"{field} must be [x1, y1, x2, y2] or [x1, y1, x2, y2, score] with x1 <= x2 and y1 <= y2, but is "
            f"{shown(value)}"
        )
    if not is_inside(box, 1, 1):
        raise ValueError(outside(field, value, 1, 1))


def _check_negatives(value: Any, field: str) -> None:
    if not isinstance(value, Mapping) and not is_list(value):
        raise ValueError(f"{field} must be a dict or a list of texts where flag_short_neg is 1, but is {shown(value)}")
    if not value:
        raise ValueError(f"{field} must not be empty where flag_short_neg is 1, but is {shown(value)}")
    texts = _texts(value)
    # Names are formatted only where something is wrong: a region has ten negatives.
    if not all(map(is_text, texts)):
        keys = value
        if not isinstance(value, Mapping):
            keys = range(len(texts))
        for key, text in zip(keys, texts, strict=True):
            check_text(text, f"{field}[{key!r}]")


def _open(source: Source) -> OpenedSource:
    files = json_files(source.place)
    return OpenedSource(json_tables(files), common_folder(files), FINEHARD_RECORDS)


FINEHARD_RECORDS = RecordFormat(check_record, to_row, check_columns, image_field="f_path")
# Never told by the name of a file: `json_rows.py` looks into it.
FINEHARD = SourceFormat("finehard", _open)
