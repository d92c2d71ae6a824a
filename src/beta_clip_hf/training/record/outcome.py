"""What a training has changed, as a table for people."""

from collections.abc import Mapping
from typing import Any

from ...visualize.log_keys import EVALUATION, RECALL_DIRECTIONS, RECALL_KS, RecallKey


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
    images = after.get(f"{EVALUATION}_{name}_images" if name else f"{EVALUATION}_images")
    title = f"{images:,} photos" if images else "photos"
    lines = [f"{f'{name}: {title}' if name else title + ' to evaluate on':<34}{'before':>9}{'after':>9}{'chance':>9}"]
    for direction, words in RECALL_DIRECTIONS.items():
        for k in RECALL_KS:
            key = RecallKey(name, direction, k).key
            chance = min(1.0, k / images) if images else None
            cells = [before.get(key), after.get(key), chance]
            lines.append(f"{f'{words} R@{k}, %':<34}{''.join(map(_cell, cells))}")
    return "\n".join(lines)


def _cell(share: float | None) -> str:
    return f"{'–':>9}" if share is None else f"{100 * share:>9.1f}"


__all__ = ["format_outcome"]
