"""
Measures a data set in one pass over its images.

Probes take what they measure from each encoded batch, so that no image is encoded twice, and no patch feature is kept
longer than its batch.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch

from ..data.row_counts import SkippedRow
from ..data.rows import Row
from ..inference.embedder import Embedder, ImageBatch
from ..inference.shards import Kept, joined, split
from .results import Metric


# A run that is stopped loses at most one shard per process.
IMAGES_PER_SHARD = 256
# The name under which a shard keeps the images that cannot be used, as bytes of JSON lines.
_LOST = "lost"


class LostImages(ValueError):
    """
    Says that some images cannot be used, after a pass over all of them. Nothing is measured then.

    Attributes:
        lost: These images, by their place in the data set.
    """

    def __init__(self, lost: Mapping[int, SkippedRow]) -> None:
        first = next(iter(lost.values()))
        super().__init__(f"all images must be usable, but {len(lost)} are not, first {first.location}: {first.reason}")
        self.lost = dict(lost)


class Probe(Protocol):
    """
    Something that is measured in one pass over the images.

    A probe keeps plain tensors of each batch. They are joined in the order of the images, whichever process has read
    them, and the metrics are computed from nothing else.
    """

    name: str
    """First part of the names of its metrics."""

    def measure(self, batch: ImageBatch) -> Kept:
        """Returns what to keep of a batch: the same names for every batch, any number of rows."""

    def metrics(self, kept: Kept) -> list[Metric]:
        """Returns the metrics, from what was kept of all batches."""

    def counts(self, kept: Kept) -> dict[str, int]:
        """Returns the numbers of images, texts or boxes that were measured, by name."""


@runtime_checkable
class TwoPassProbe(Probe, Protocol):
    """
    A probe that may go over the images a second time, to measure what depends on the first pass over all of them.

    What it keeps then is added to what it kept before.
    """

    def plan(self, kept: Kept) -> Kept | None:
        """Returns what the second pass needs, from all that the first has kept; `None` for no second pass."""

    def second_pass(self, plan: Kept) -> Callable[[ImageBatch], Kept]:
        """Returns a function for the second pass: what to keep of a batch, under names that the first has not used."""


@runtime_checkable
class ReportingProbe(Probe, Protocol):
    """A probe that has more to tell than metrics, for pictures."""

    def report(self, kept: Kept) -> dict[str, Any]:
        """Returns what the pictures need, ready for JSON."""


class Measured(NamedTuple):
    """Result of a pass over the images; the same in every process."""

    metrics: list[Metric]
    counts: dict[str, int]
    data_hash: str
    """SHA-256 over all images, in order."""
    reports: dict[str, dict[str, Any]]
    """What pictures need, by the name of the probe. Not all probes have a report."""
    image_digests: bytes = b""
    """SHA-256 of each image, 32 bytes each, in order."""
    lost: Sequence[tuple[int, SkippedRow]] = ()
    """The rows that cannot be used, with their places in the data set. Nothing of them was measured."""

    @property
    def weights(self) -> dict[str, Any]:
        """Returns the weights that scores have chosen on the queries, by the name of the probe."""
        return {name: report["weights"] for name, report in self.reports.items() if report.get("weights")}


def run_probes(embedder: Embedder, rows: Sequence[Row], probes: Sequence[Probe]) -> Measured:
    """
    Runs all probes in one pass over the images, and those that want it in a second pass.

    `embedder.shards` says which processes share the work and where it is kept. A batch holds the same images in any
    number of processes, so that the metrics are the same too.

    Raises:
        LostImages: in all processes, if there are images that cannot be used.
    """
    processes = embedder.shards.processes
    kept = _pass_over_images(embedder, rows, "images", lambda batch: _measure_batch(probes, batch))
    # Only the first process has what all of them have kept.
    plans = None
    if processes.rank == 0:
        plans = _second_pass_plans(probes, kept)
    plans = processes.broadcast(plans)
    if plans:
        kept |= _second_pass(embedder, rows, probes, plans)
    measured = None
    if processes.rank == 0:
        measured = _evaluate_probes(probes, kept)
    return processes.broadcast(measured)


def _measure_batch(probes: Sequence[Probe], batch: ImageBatch) -> Kept:
    digests = bytearray(b"".join(batch.digests))
    kept: Kept = {"digests": torch.frombuffer(digests, dtype=torch.uint8)}
    for number, probe in enumerate(probes):
        kept |= _numbered(number, probe.measure(batch))
    return kept


def _second_pass_plans(probes: Sequence[Probe], kept: Kept) -> dict[int, Kept]:
    """Returns the plans of the probes that want a second pass, by the number of the probe."""
    plans = {}
    for number, probe in enumerate(probes):
        if isinstance(probe, TwoPassProbe):
            plan = probe.plan(_kept_by_probe(kept, number))
            if plan is not None:
                plans[number] = plan
    return plans


def _second_pass(embedder: Embedder, rows: Sequence[Row], probes: Sequence[Probe], plans: Mapping[int, Kept]) -> Kept:
    measure_again = {}
    for number, plan in plans.items():
        probe = probes[number]
        assert isinstance(probe, TwoPassProbe)
        measure_again[number] = probe.second_pass(plan)

    def measure(batch: ImageBatch) -> Kept:
        kept: Kept = {}
        for number, measure_batch in measure_again.items():
            kept |= _numbered(number, measure_batch(batch))
        return kept

    return _pass_over_images(embedder, rows, "again", measure)


def _evaluate_probes(probes: Sequence[Probe], kept: Kept) -> Measured:
    metrics: list[Metric] = []
    counts: dict[str, int] = {}
    reports = {}
    for number, probe in enumerate(probes):
        kept_by_probe = _kept_by_probe(kept, number)
        metrics += probe.metrics(kept_by_probe)
        counts |= probe.counts(kept_by_probe)
        if isinstance(probe, ReportingProbe):
            reports[probe.name] = probe.report(kept_by_probe)
    digests = kept["digests"].numpy().tobytes()
    return Measured(metrics, counts, hashlib.sha256(digests).hexdigest(), reports, digests)


def _pass_over_images(
    embedder: Embedder, rows: Sequence[Row], name: str, measure: Callable[[ImageBatch], Kept]
) -> Kept:
    """
    Returns what is measured of all batches, joined, in the first process; nothing in the others.

    Raises:
        LostImages: in all processes, if there are images that cannot be used.
    """
    shards = split(range(len(rows)), IMAGES_PER_SHARD)

    def work(numbers: Sequence[int]) -> Iterator[Kept]:
        batches_of_shards = [split(shards[number], embedder.batch_size) for number in numbers]
        # One loader reads the batches of all shards: its workers need not start again for each shard.
        batches = embedder.read_images(rows, list(chain.from_iterable(batches_of_shards)), keeps_going=True)
        has_lost = False
        for batches_of_shard in batches_of_shards:
            kept = []
            for _ in batches_of_shard:
                processed = next(batches)
                has_lost = has_lost or bool(processed.lost)
                if has_lost:
                    # All is measured again without the lost images. The rest is read only to find all of them.
                    kept.append(_lost_to_kept(processed.lost))
                else:
                    kept.append(measure(embedder.encode_images(processed)))
            yield joined(kept)
        # The generator runs to its end, which closes the progress bar.
        next(batches, None)

    kept = embedder.shards.run(name, len(shards), work)
    lost = embedder.shards.processes.broadcast(_lost_of_kept(kept))
    if lost:
        raise LostImages(lost)
    return kept


def _lost_to_kept(lost: Mapping[int, SkippedRow]) -> Kept:
    """Returns images that cannot be used as what is kept of a batch: parts of several batches can be joined."""
    lines = "".join(json.dumps([index, *row]) + "\n" for index, row in lost.items())
    return {_LOST: torch.tensor(list(lines.encode()), dtype=torch.uint8)}


def _lost_of_kept(kept: Kept) -> dict[int, SkippedRow]:
    """Returns the images that [`_lost_to_kept`] has kept of all batches."""
    if _LOST not in kept:
        return {}
    lost = {}
    for line in bytes(kept[_LOST].tolist()).splitlines():
        index, *fields = json.loads(line)
        lost[index] = SkippedRow(*fields)
    return lost


# Tensors of all probes are kept in one dictionary, under names that begin with the number of their probe.


def _numbered(number: int, kept: Kept) -> Kept:
    return {f"{number}/{name}": tensor.cpu() for name, tensor in kept.items()}


def _kept_by_probe(kept: Kept, number: int) -> Kept:
    prefix = f"{number}/"
    return {name.removeprefix(prefix): tensor for name, tensor in kept.items() if name.startswith(prefix)}
