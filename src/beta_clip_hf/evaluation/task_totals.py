"""Adds up what the parts of a task have measured."""

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any

from ..data.row_counts import SkippedRow
from ..inference.image_sample import ImageSample
from .benchmarks import Part
from .probes import Measured
from .results import Metric


@dataclass
class TaskTotals:
    """Holds what the parts of a task have measured so far. Names of what a named part has begin with its name."""

    metrics: list[Metric] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    weights: dict[str, Any] = field(default_factory=dict)
    """Weights that scores have chosen on the queries, by set of texts."""
    skipped: list[SkippedRow] = field(default_factory=list)
    """Rows that were left out, by the reader or because their image cannot be read."""
    num_unreadable: int = 0
    """Number of images that cannot be read."""
    data_hashes: list[str] = field(default_factory=list)
    image_digests: bytearray = field(default_factory=bytearray)
    """SHA-256 of each image, 32 bytes each."""

    def add(self, part: Part, measured: Measured) -> None:
        """Adds the result of one part."""
        prefix = f"{part.name}/" if part.name else ""
        for metric in measured.metrics:
            self.metrics.append(replace(metric, name=replace(metric.name, part=part.name)))
        for counted, number in measured.counts.items():
            self.counts[prefix + counted] = number
        for text_set, chosen in measured.weights.items():
            self.weights[prefix + text_set] = chosen
        self.skipped += part.skipped
        self.skipped += [row for _, row in measured.lost]
        self.num_unreadable += len(measured.lost)
        self.data_hashes.append(measured.data_hash)
        self.image_digests += measured.image_digests

    def to_json(self) -> dict[str, Any]:
        """Returns the fields of the result in results.json that are the same as, or sums of, those of the parts."""
        counts = dict(self.counts)
        if self.skipped:
            counts["skipped_rows"] = len(self.skipped)
        return {
            "counts": counts,
            "skipped": [row.to_json() for row in self.skipped],
            "weights": self.weights,
            "data_hash": hashlib.sha256("".join(self.data_hashes).encode()).hexdigest(),
            "images": ImageSample.of_digests(self.image_digests).to_json(),
        }
