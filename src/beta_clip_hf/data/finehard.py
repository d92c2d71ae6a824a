"""FineHARD, the data of FG-CLIP's second stage: images with a long and a short caption, regions, hard negatives.

Source: FG-CLIP (arXiv 2505.05071); the fields are those that its training reads (`fgclip/train/train_fgclip.py`).
"""

from collections.abc import Collection, Mapping
from typing import Any

from .fields import check_text, is_box, is_inside, is_list, is_text, items, outside, shown
from .row_dataset import RecordFormat
from .rows import Row


COLUMNS = ("caption", "short_caption", "f_path", "bbox_info")
SHORT_CAPTION_START = "a photo of "

# The published paths begin with a folder of the authors' own, which their training leaves out as well.
_AUTHORS_FOLDER = "grit-20m/data-12m/"


def finehard_row(record: Mapping[str, Any]) -> Row:
    """A record of FineHARD with the names of a row.

    Args:
        record: `caption`, `short_caption`, `f_path`, and `bbox_info`: a list of `bbox` (`[x1, y1, x2, y2]` in shares of
            the image's sides, and maybe a score), `short_expr`, `long_expr`, `flag_short_neg` (0 or 1) and
            `short_expr_negs` (a dict or list of any number of texts; read where the flag is 1). Other fields stay.

    Returns:
        `image`, `caption`, `short_caption` (which begins with "a photo of "), `regions` and `box_format`.

    Raises:
        ValueError: for a field that is missing or wrong, by its own name: "bbox_info[2].short_expr must be …". A box
            may reach over the edge by 1 % of the side.
    """
    for field in ("caption", "short_caption", "f_path"):
        check_text(record.get(field), field)
    row = {name: value for name, value in record.items() if name not in ("f_path", "bbox_info")}
    row["image"] = record["f_path"].removeprefix(_AUTHORS_FOLDER)
    if not row["short_caption"].lower().startswith(SHORT_CAPTION_START):
        row["short_caption"] = SHORT_CAPTION_START + row["short_caption"]
    row["regions"] = [_region(info, index) for index, info in enumerate(items(record.get("bbox_info"), "bbox_info"))]
    row["box_format"] = "xyxy_normalized"
    return row


def check_columns(columns: Collection[str], where: str) -> None:
    """Makes sure that a source has all four columns.

    Raises:
        ValueError: names the columns that are missing, those present, and how to rename one.
    """
    missing = [name for name in COLUMNS if name not in columns]
    if missing:
        hint = ", ".join(f'"your {name} column": "{name}"' for name in missing)
        raise ValueError(
            f"{where} must have the columns {COLUMNS}, but has no {', '.join(missing)}; its columns are "
            f"{sorted(columns)}; rename with columns={{{hint}}}"
        )


FINEHARD = RecordFormat(finehard_row, check_columns, image_field="f_path")


def _region(info: Any, index: int) -> dict[str, Any]:
    where = f"bbox_info[{index}]"
    if not isinstance(info, Mapping):
        raise ValueError(f"{where} must be an object with a bbox and its texts, but is {shown(info)}")
    for field in ("short_expr", "long_expr"):
        if not is_text(info.get(field)):
            check_text(info.get(field), f"{where}.{field}")
    region = {"box": _box(info.get("bbox"), where), "text": info["short_expr"], "long_text": info["long_expr"]}
    flag = info.get("flag_short_neg")
    if flag not in (0, 1):
        raise ValueError(f"{where}.flag_short_neg must be 0 or 1, but is {shown(flag)}")
    if flag:
        region["negatives"] = _negatives(info.get("short_expr_negs"), f"{where}.short_expr_negs")
    return region


def _box(value: Any, where: str) -> list[float]:
    box = value[:4] if is_list(value) and len(value) == 5 else value
    if not is_box(box):
        raise ValueError(
            f"{where}.bbox must be [x1, y1, x2, y2] or [x1, y1, x2, y2, score] with x1 <= x2 and y1 <= y2, but is "
            f"{shown(value)}"
        )
    if not is_inside(box, 1, 1):
        raise ValueError(outside(f"{where}.bbox", value, 1, 1))
    return box


def _negatives(value: Any, field: str) -> list[str]:
    if not isinstance(value, Mapping) and not is_list(value):
        raise ValueError(f"{field} must be a dict or a list of texts where flag_short_neg is 1, but is {shown(value)}")
    if not value:
        raise ValueError(f"{field} must not be empty where flag_short_neg is 1, but is {shown(value)}")
    texts = list(value.values() if isinstance(value, Mapping) else value)
    if not all(map(is_text, texts)):
        for name, text in zip(value if isinstance(value, Mapping) else range(len(texts)), texts, strict=True):
            check_text(text, f"{field}[{name!r}]")
    return texts
