"""
The metrics of the `evaluate` library: `RecallAtK`, `HardNegativeAccuracy` and `PointingGame`, subclasses of
`evaluate.Metric`.

The folders under `metrics/` of the repository are these three for the Hub, where `evaluate.load` finds them. A class is
made when it is first asked for, as only that needs `evaluate`; its numbers come from the functions of this package.

Letters: Q queries, C candidates, N texts of one group, H, W the grid of a heat map, M boxes.
"""

from collections.abc import Callable, Sequence
from inspect import cleandoc
from typing import Any

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
        predictions: for each query its scores (C,) with all candidates, higher is better.
        references: for each query the indices of its relevant candidates, one or several; any of them is a hit.
        ks: the values of k.

    Returns:
        `recall_at_K` for each k, and beside it `recall_at_K_chance`, that of scores which are all alike.
    """
    scores_QC = _table(predictions)
    if not all(references):
        raise ValueError("references must name a relevant candidate of every query, but one is empty")
    query_R = torch.tensor([query for query, relevant in enumerate(references) for _ in relevant])
    candidate_R = torch.tensor([candidate for relevant in references for candidate in relevant])
    if not 0 <= int(candidate_R.min()) <= int(candidate_R.max()) < scores_QC.shape[1]:
        raise ValueError(f"references must be indices below {scores_QC.shape[1]}, but one is not")
    relevant_QC = torch.zeros_like(scores_QC, dtype=torch.bool).index_put((query_R, candidate_R), torch.tensor(True))
    ranks, chance = match_ranks(scores_QC, relevant_QC), chance_ranks(scores_QC.shape[1], relevant_QC.sum(dim=1))
    found = {}
    for k in ks:
        found[f"recall_at_{k}"] = float(hits_at_k(ranks, k).mean())
        found[f"recall_at_{k}_chance"] = float(hits_at_k(chance, k).mean())
    return found


def _hard_negative_accuracy(predictions: Sequence[Any], references: Sequence[int]) -> dict[str, float]:
    """
    Accuracy of choosing the true text among hard negatives, as in FG-OVD, SugarCrepe or VALSE. A tie for the best of n
    counts 1/n, so that scores which are all alike are at chance.

    Args:
        predictions: for each group its scores (N,), those of the true text and of one or more negatives.
        references: for each group the index of the true text, 0 where that stands first.

    Returns:
        `accuracy`, and beside it `accuracy_chance`, that of scores which are all alike.
    """
    groups = []
    for scores, true in zip(predictions, references, strict=True):
        if not 0 <= true < len(scores):
            raise ValueError(
                f"references must be indices below {len(scores)}, the texts of the group, but one is {true}"
            )
        groups.append([scores[true], *scores[:true], *scores[true + 1 :]])
    group_index_N = torch.arange(len(groups)).repeat_interleave(torch.tensor([len(group) for group in groups]))
    hits_G = hard_negative_hits(_numbers([score for group in groups for score in group]), group_index_N)
    chance = sum(1 / len(group) for group in groups) / len(groups)
    return {"accuracy": float(hits_G.mean()), "accuracy_chance": chance}


def _pointing_game(predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
    """
    The pointing game: the share of phrases whose heat map has its highest cell, by the cell's centre, in one of the
    phrase's boxes. Of several highest cells, the share that has.

    Args:
        predictions: for each phrase its heat map (H, W), rows from the top; the maps may differ in size.
        references: for each phrase its boxes (M, 4), x1, y1, x2, y2 in shares of the map's width and height.

    Returns:
        `pointing_game`, and beside it `pointing_game_chance`, that of maps which are the same everywhere.
    """
    hits, chance = [], []
    for heat_map, boxes in zip(predictions, references, strict=True):
        map_HW = _table(heat_map)
        if any(len(box) != 4 for box in boxes):
            raise ValueError("references must be boxes of four numbers each, but one is not")
        grid = map_HW.shape[0], map_HW.shape[1]
        cells = box_cells([_numbers(boxes).reshape(-1, 4)], grid)
        hits.append(pointing_hits(map_HW[None], cells))
        chance.append(pointing_hits(uniform_map(grid)[None], cells))
    return {
        "pointing_game": float(torch.cat(hits).mean()),
        "pointing_game_chance": float(torch.cat(chance).mean()),
    }


_Nested = str | list[Any]
_METRICS: dict[str, tuple[Callable[..., dict[str, float]], _Nested, _Nested]] = {
    "RecallAtK": (_recall_at_k, ["float64"], ["int64"]),
    "HardNegativeAccuracy": (_hard_negative_accuracy, ["float64"], "int64"),
    "PointingGame": (_pointing_game, [["float64"]], [["float64"]]),
}
"""What computes each metric, and the types of one prediction and one reference."""


def __getattr__(name: str) -> Any:
    if name not in _METRICS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = metric = _metric_class(name, *_METRICS[name])
    return metric


def _metric_class(
    name: str, compute: Callable[..., dict[str, float]], prediction: _Nested, reference: _Nested
) -> type[Any]:
    try:
        import datasets
        import evaluate
    except ImportError as error:
        raise ImportError(f'{name} needs evaluate and datasets: pip install "beta-clip-hf[eval]"') from error

    def feature(nested: _Nested) -> Any:
        return datasets.Value(nested) if isinstance(nested, str) else datasets.Sequence(feature(nested[0]))

    description, inputs = cleandoc(compute.__doc__ or "").split("\n\n", maxsplit=1)

    def _info(self: Any) -> Any:
        features = datasets.Features({"predictions": feature(prediction), "references": feature(reference)})
        return evaluate.MetricInfo(description=description, citation="", inputs_description=inputs, features=features)

    def _compute(self: Any, predictions: Any, references: Any, **settings: Any) -> dict[str, float]:
        if len(predictions) == 0:
            raise ValueError("predictions must be at least one, but are 0")
        return compute(predictions, references, **settings)

    members = {"__module__": __name__, "__doc__": compute.__doc__, "_info": _info, "_compute": _compute}
    return type(name, (evaluate.Metric,), members)


def _table(rows: Sequence[Any]) -> Tensor:
    """(rows, columns) float64."""
    lengths = sorted({len(row) for row in rows})
    if len(lengths) != 1:
        raise ValueError(f"predictions must be rows of one length, but have lengths {lengths}")
    return _numbers(rows)


def _numbers(nested: Sequence[Any]) -> Tensor:
    try:
        return torch.tensor(nested, dtype=torch.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"scores must be numbers, but are not: {error}") from error
