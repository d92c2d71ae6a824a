"""What a training has changed, as a table for people."""

from collections.abc import Iterable, Mapping
from typing import Any

from ...visualize.log_keys import RECALL_DIRECTIONS, RECALL_KS, RecallKey


# Widths of the columns, in letters.
_LABEL_WIDTH, _NUMBER_WIDTH = 34, 9


def format_outcome(results: Mapping[str, Any]) -> str:
    """
    Formats the recalls before and after a training, with what chance gives.

    Args:
        results: The content of `train_results.json`.

    Returns:
        A table for each evaluation set; "" if nothing was evaluated.
    """
    before, after = results.get("before"), results.get("after")
    if not after:
        return ""
    names = (results.get("run") or {}).get("evaluated_sets") or [""]
    tables = [_table(name, before or {}, after) for name in names]
    checkpoint = results.get("best_checkpoint")
    if checkpoint:
        tables.append(f"The model is that of the best evaluation: {checkpoint}")
    return "\n\n".join(tables)


def _table(name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    images = after.get(RecallKey(name, "t2i", 1).images_key)
    title = f"{images:,} photos" if images else "photos"
    heading = f"{name}: {title}" if name else f"{title} to evaluate on"
    lines = [_line(heading, ["before", "after", "chance"])]
    for direction, words in RECALL_DIRECTIONS.items():
        for k in RECALL_KS:
            key = RecallKey(name, direction, k).key
            chance = min(1.0, k / images) if images else None
            shares = [before.get(key), after.get(key), chance]
            lines.append(_line(f"{words} R@{k}, %", map(_percent, shares)))
    return "\n".join(lines)


def _line(label: str, cells: Iterable[str]) -> str:
    return label.ljust(_LABEL_WIDTH) + "".join(cell.rjust(_NUMBER_WIDTH) for cell in cells)


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


__all__ = ["format_outcome"]
