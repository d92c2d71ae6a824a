"""
Metrics of the `evaluate` library: `RecallAtK`, `HardNegativeAccuracy` and `PointingGame`, subclasses of
`evaluate.Metric`.

The folders under `metrics/` of the repository are these three for the Hub, where `evaluate.load` finds them. A class is
made when it is first imported, because only that needs `evaluate`. Its numbers come from functions of this package.
"""

from collections.abc import Callable, Sequence
from inspect import cleandoc
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .metrics import DEFAULT_KS, chance_ranks, hard_negative_hits, hits_at_k, match_ranks
from .pointing import box_cells, pointing_hits, uniform_map


def _recall_at_k(
    predictions: Sequence[Any], references: Sequence[Any], ks: Sequence[int] = DEFAULT_KS
) -> dict[str, float]:
    """
    Recall at k of retrieval: the share of queries that have a relevant candidate among the first k. Tied candidates
    count as in a random order, so that scores which are all alike are at chance.

    Args:
        predictions: for each query its scores with all candidates, higher is better.
        references: for each query the indices of its relevant candidates, one or several; any of them is a hit.
        ks: the values of k.

    Returns:
        `recall_at_K` for each k, and `recall_at_K_chance`, that of scores which are all alike.
    """
    scores_QG = _table(predictions)
    num_candidates = scores_QG.shape[1]
    is_relevant_QG = torch.zeros_like(scores_QG, dtype=torch.bool)
    # The number of relevant candidates differs from query to query, so they are marked in a table.
    for query, candidates in enumerate(references):
        if len(candidates) == 0:
            raise ValueError("references must name a relevant candidate of every query, but one is empty")
        if not 0 <= min(candidates) <= max(candidates) < num_candidates:
            raise ValueError(f"references must be indices below {num_candidates}, but one is not")
        is_relevant_QG[query, candidates] = True
    ranks = match_ranks(scores_QG, is_relevant_QG)
    chance = chance_ranks(num_candidates, is_relevant_QG.sum(dim=1))
    recalls = {}
    for k in ks:
        recalls[f"recall_at_{k}"] = float(hits_at_k(ranks, k).mean())
        recalls[f"recall_at_{k}_chance"] = float(hits_at_k(chance, k).mean())
    return recalls


def _hard_negative_accuracy(predictions: Sequence[Any], references: Sequence[int]) -> dict[str, float]:
    """
    Accuracy of choosing the true text among hard negatives, as in FG-OVD, SugarCrepe or VALSE. If n are tied for the
    best, the group counts 1/n, so that scores which are all alike are at chance.

    Args:
        predictions: for each group its scores, those of the true text and of one or more negatives.
        references: for each group the index of the true text, 0 if it comes first.

    Returns:
        `accuracy`, and `accuracy_chance`, that of scores which are all alike.
    """
    scores: list[float] = []
    sizes = []
    for group_scores, true in zip(predictions, references, strict=True):
        if not 0 <= true < len(group_scores):
            raise ValueError(
                f"references must be indices below {len(group_scores)}, the texts of the group, but one is {true}"
            )
        # The true text comes first, as `hard_negative_hits` wants it.
        scores += [group_scores[true], *group_scores[:true], *group_scores[true + 1 :]]
        sizes.append(len(group_scores))
    group_index_N = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    hits_I = hard_negative_hits(_numbers(scores), group_index_N)
    chance = sum(1 / size for size in sizes) / len(sizes)
    return {"accuracy": float(hits_I.mean()), "accuracy_chance": chance}


def _pointing_game(predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
    """
    The pointing game: the share of phrases whose heat map has its highest cell, by the centre of the cell, in one of
    the boxes of the phrase. Of several highest cells it is the share that has.

    Args:
        predictions: for each phrase its heat map, a list of rows from the top; the maps may differ in size.
        references: for each phrase its boxes, each x1, y1, x2, y2 in shares of the width and height of the map.

    Returns:
        `pointing_game`, and `pointing_game_chance`, that of maps which are the same everywhere.
    """
    hits, chance = [], []
    for heat_map, boxes in zip(predictions, references, strict=True):
        map_YX = _table(heat_map)
        if any(len(box) != 4 for box in boxes):
            raise ValueError("references must be boxes of four numbers each, but one is not")
        height, width = map_YX.shape
        cells = box_cells([_numbers(boxes).reshape(-1, 4)], (height, width))
        hits.append(pointing_hits(map_YX[None], cells))
        chance.append(pointing_hits(uniform_map((height, width))[None], cells))
    return {
        "pointing_game": float(torch.cat(hits).mean()),
        "pointing_game_chance": float(torch.cat(chance).mean()),
    }


_Nested = str | list[Any]
"""A type of `datasets`, or a list of one nested type."""


class _Recipe(NamedTuple):
    """Holds the function of a metric and the types of its inputs."""

    compute: Callable[..., dict[str, float]]
    prediction: _Nested
    """Type of the prediction of one item."""
    reference: _Nested
    """Type of the reference of one item."""


_RECIPES = {
    "RecallAtK": _Recipe(_recall_at_k, ["float64"], ["int64"]),
    "HardNegativeAccuracy": _Recipe(_hard_negative_accuracy, ["float64"], "int64"),
    "PointingGame": _Recipe(_pointing_game, [["float64"]], [["float64"]]),
}


def __getattr__(name: str) -> Any:
    """Makes a metric when it is first imported from this module."""
    if name not in _RECIPES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # In the module, so that it is made once and can be pickled by its name.
    metric = _metric_class(name, _RECIPES[name])
    globals()[name] = metric
    return metric


def _metric_class(name: str, recipe: _Recipe) -> type[Any]:
    try:
        import datasets
        import evaluate
    except ImportError as error:
        raise ImportError(f"{name} needs evaluate and datasets: pip install evaluate datasets") from error

    def feature(nested: _Nested) -> Any:
        if isinstance(nested, str):
            return datasets.Value(nested)
        return datasets.Sequence(feature(nested[0]))

    documentation = recipe.compute.__doc__ or ""
    description, inputs = cleandoc(documentation).split("\n\n", maxsplit=1)

    def _info(self: Any) -> Any:
        features = datasets.Features(
            {"predictions": feature(recipe.prediction), "references": feature(recipe.reference)}
        )
        return evaluate.MetricInfo(description=description, citation="", inputs_description=inputs, features=features)

    def _compute(self: Any, predictions: Any, references: Any, **settings: Any) -> dict[str, float]:
        if len(predictions) == 0:
            raise ValueError("predictions must be at least one, but are 0")
        return recipe.compute(predictions, references, **settings)

    members = {"__module__": __name__, "__doc__": documentation, "_info": _info, "_compute": _compute}
    return type(name, (evaluate.Metric,), members)


def _table(rows: Sequence[Any]) -> Tensor:
    """Returns a (rows, columns) tensor, float64."""
    lengths = sorted({len(row) for row in rows})
    if len(lengths) != 1:
        raise ValueError(f"predictions must be rows of one length, but have lengths {lengths}")
    return _numbers(rows)


def _numbers(nested: Sequence[Any]) -> Tensor:
    try:
        return torch.tensor(nested, dtype=torch.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"scores must be numbers, but are not: {error}") from error
