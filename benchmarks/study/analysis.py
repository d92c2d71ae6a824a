"""Means over seeds, paired differences between arms, and the rule by which a difference answers a question."""

import functools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from beta_clip_hf.evaluation.intervals import bootstrap_interval

from .arms import ARMS
from .records import read_records, unpacked, unpacked_counts


WANTED_SEEDS = 3
"""Seeds that a claim needs."""
MARGIN = 0.03
"""Differences within this margin, in both directions, count as none."""
YES, NO, UNDECIDED, OPEN = "yes", "no", "not decidable here", "open"


@dataclass(frozen=True)
class Spread:
    """A metric of an arm over its seeds."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Returns the mean over the seeds."""
        return statistics.mean(self.values)

    @property
    def deviation(self) -> float | None:
        """Returns the standard deviation over the seeds; `None` with a single one."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


@dataclass(frozen=True)
class Comparison:
    """Asks how a metric of an arm differs from that of another one, or from another metric of the same arm."""

    arm: str
    other: str
    metric: str
    other_metric: str
    expectation: str = ""
    """"higher", "lower", "equal", "different" or "not higher"; empty for a difference that is only shown."""


@dataclass(frozen=True)
class Difference:
    """A paired difference of two metrics on the same items."""

    value: float
    low: float
    high: float
    """Ends of the 95 % interval over scenes, of the mean over the seeds."""
    by_seed: tuple[float, ...]

    @property
    def sign(self) -> int:
        """Returns 1 or -1 if the interval excludes 0 and all seeds agree with it, and 0 otherwise."""
        if self.low > 0 and min(self.by_seed) > 0:
            return 1
        if self.high < 0 and max(self.by_seed) < 0:
            return -1
        return 0

    @property
    def is_small(self) -> bool:
        """Tells whether the whole interval lies within the margin."""
        return self.low >= -MARGIN and self.high <= MARGIN

    def verdict(self, expectation: str) -> str:
        """Tells whether the difference is as expected: `YES`, `NO`, `UNDECIDED` or, with too few seeds, `OPEN`."""
        if not expectation:
            return ""
        if len(self.by_seed) < WANTED_SEEDS:
            return OPEN
        if expectation == "lower":
            return self._mirrored().verdict("higher")
        is_large = self.sign != 0 and abs(self.value) > MARGIN
        holds = {
            "higher": self.sign > 0,
            "equal": self.is_small,
            "different": self.sign != 0,
            "not higher": self.high <= MARGIN,
        }
        fails = {
            "higher": self.sign < 0 or self.is_small,
            "equal": is_large,
            "different": self.is_small,
            "not higher": is_large and self.sign > 0,
        }
        if holds[expectation]:
            return YES
        return NO if fails[expectation] else UNDECIDED

    def _mirrored(self) -> "Difference":
        return Difference(-self.value, -self.high, -self.low, tuple(-value for value in self.by_seed))


def combined(verdicts: Sequence[str], mode: str) -> str:
    """
    Answers a question by the verdicts of its comparisons.

    Args:
        verdicts: What [`Difference.verdict`] has returned, or `OPEN` for results that are missing.
        mode: "all": each comparison must hold. "any": a single one is enough.
    """
    decided, other = (NO, YES) if mode == "all" else (YES, NO)
    if decided in verdicts:
        return decided
    if OPEN in verdicts or not verdicts:
        return OPEN
    return other if all(verdict == other for verdict in verdicts) else UNDECIDED


@dataclass(frozen=True)
class Results:
    """All results of a start and a level."""

    start: str
    level: str
    records: dict[str, dict[int, dict[str, Any]]]
    """Record of each seed, by arm, in the order of the table of arms."""

    @classmethod
    def read(cls, folder: Path, start: str, level: str) -> "Results":
        """
        Reads the results of a folder.

        Raises:
            ValueError: if they were not measured on the same scenes, or are of an arm that is not in the table.
        """
        found: dict[str, dict[int, dict[str, Any]]] = {}
        tests = set()
        for record in read_records(folder):
            if record["arm"] not in ARMS:
                raise ValueError(f"results must be of arms of the study, but one of {folder.name} is {record['arm']!r}")
            found.setdefault(record["arm"], {})[record["seed"]] = record
            tests.add((record["test"]["seed"], record["test"]["scenes"]))
        if len(tests) > 1:
            raise ValueError(f"results of {folder.name} must be of the same test scenes, but are of {sorted(tests)}")
        records: dict[str, dict[int, dict[str, Any]]] = {}
        for name in ARMS:
            if name in found:
                records[name] = dict(sorted(found[name].items()))
        return cls(start, level, records)

    def all_records(self) -> list[dict[str, Any]]:
        """Returns the records of all arms and seeds."""
        records: list[dict[str, Any]] = []
        for by_seed in self.records.values():
            records += by_seed.values()
        return records

    def spread(self, arm: str, metric: str, point: int = -1) -> Spread | None:
        """Returns a metric over the seeds of an arm, at a point of its curve; `None` if the arm does not have it."""
        values = []
        for record in self.records.get(arm, {}).values():
            # Not every metric is measured at every point.
            if metric in record["metrics"] and record["metrics"][metric]["value"][point] is not None:
                values.append(record["metrics"][metric]["value"][point])
        return Spread(tuple(values)) if values else None

    def curve(self, arm: str, metric: str) -> list[tuple[int, Spread]]:
        """Returns scenes and spread of each point; fine-tuning begins with the plain CLIP, if that has the metric."""
        points = []
        before = self.spread("before", metric)
        if before is not None and arm != "before":
            points.append((0, before))
        records = list(self.records.get(arm, {}).values())
        if not records:
            return []
        for number, scenes in enumerate(records[0]["scenes"]):
            spread = self.spread(arm, metric, number)
            if spread is not None:
                points.append((scenes, spread))
        return points

    def chance(self, metric: str) -> float | None:
        """Returns the chance level of a metric, which is the same for all arms."""
        for record in self.all_records():
            if metric in record["metrics"]:
                return record["metrics"][metric]["chance"]
        return None

    def difference(self, comparison: Comparison) -> Difference | None:
        """Returns the paired difference over the seeds that both sides have; `None` if there is none."""
        sides = (comparison.arm, comparison.metric), (comparison.other, comparison.other_metric)
        first, second = [self._items_of_seeds(arm, metric) for arm, metric in sides]
        common = sorted(first.keys() & second.keys())
        if not common:
            return None
        differences = []
        clusters = []
        for seed in common:
            differences.append(first[seed][0] - second[seed][0])
            clusters += [first[seed][1], second[seed][1]]
        if len(set(clusters)) > 1:
            raise ValueError(f"both sides of {comparison} must be of the same items, but are not")
        mean_I = torch.stack(differences).mean(dim=0)
        ends = bootstrap_interval(mean_I, _image_index(clusters[0]))
        # An end at 0 is a tie. Rounding, which differs between machines, must not give it a sign.
        low, high = (round(end, 9) + 0.0 for end in ends)
        return Difference(float(mean_I.mean()), low, high, tuple(float(values_I.mean()) for values_I in differences))

    def _items_of_seeds(self, arm: str, metric: str) -> dict[int, tuple[Tensor, str]]:
        """Returns the items of a metric and their clusters by seed. What is not trained is the same for all seeds."""
        items = {}
        for seed, record in self.records.get(arm, {}).items():
            if metric in record["values"]:
                values = record["values"][metric]
                items[seed] = (unpacked(values["items"]), record["clusters"][values["clusters"]])
        if items and not ARMS[arm].is_trained:
            only = next(iter(items.values()))
            return dict.fromkeys(self._all_seeds(), only)
        return items

    def _all_seeds(self) -> list[int]:
        return sorted({record["seed"] for record in self.all_records()})


@functools.cache
def _image_index(counts: str) -> Tensor:
    """Returns the image of each item, from the packed numbers of items of each image."""
    counts_B = unpacked_counts(counts)
    return torch.arange(len(counts_B)).repeat_interleave(counts_B)
