"""
One pass over the images of a data set. Probes take from it what they measure, so that no image is encoded twice and
no patch feature is kept longer than its batch.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch

from ..data.rows import Row
from ..inference.embedder import Embedder, ImageBatch
from ..inference.shards import Kept, joined, split
from .results import Figure


IMAGES_PER_SHARD = 256  # what a stop can cost


class Probe(Protocol):
    """
    Something that is measured in one pass over the images. What it keeps of each batch are plain tensors, which are
    joined in the order of the images, whichever process has read them, and are all that its figures are made of.
    """

    name: str
    """First part of its figures' names."""

    def measure(self, batch: ImageBatch) -> Kept:
        """What to keep of a batch: the same names for every batch, any number of rows."""

    def figures(self, kept: Kept) -> dict[str, Figure]:
        """The figures by name, of what was kept of all batches."""

    def counts(self, kept: Kept) -> dict[str, int]:
        """How many of what was measured, by name."""


@runtime_checkable
class TwoPassProbe(Probe, Protocol):
    """
    A probe that may go over the images once more, to measure what depends on what all of them have given. What it keeps
    then is added to what it kept before.
    """

    def plan(self, kept: Kept) -> Kept | None:
        """What the second pass needs, of what the first has kept of all batches; `None` for no second pass."""

    def second_pass(self, plan: Kept) -> Callable[[ImageBatch], Kept]:
        """What to keep of each batch in the second pass, under names that the first has not used."""


class Measured(NamedTuple):
    """What one pass over the images has given; the same in every process."""

    figures: dict[str, Figure]
    counts: dict[str, int]
    data_hash: str
    """SHA-256 over all images, in order."""
    reports: dict[str, dict[str, Any]]
    """Of the probes that have one, by their name: what a picture needs. JSON."""


def run_probes(embedder: Embedder, rows: Sequence[Row], probes: Sequence[Probe]) -> Measured:
    """
    One pass over the images for all probes, and a second one for those that want it, shared between processes and
    resumed as `embedder.shards` says. A batch holds the same images in any number of processes, so that the figures are
    the same too.
    """
    processes = embedder.shards.processes
    kept = _one_pass(embedder, rows, "images", lambda batch: _measured(probes, batch))
    plans = {}
    if processes.rank == 0:
        of_two = [(place, probe) for place, probe in enumerate(probes) if isinstance(probe, TwoPassProbe)]
        plans = {place: plan for place, probe in of_two if (plan := probe.plan(_of_probe(kept, place))) is not None}
    plans = processes.broadcast(plans)
    if plans:
        again = {place: probes[place].second_pass(plan) for place, plan in plans.items()}
        kept |= _one_pass(embedder, rows, "again", lambda batch: _named({i: of(batch) for i, of in again.items()}))
    result = None
    if processes.rank == 0:
        of_probes = [(probe, _of_probe(kept, place)) for place, probe in enumerate(probes)]
        result = Measured(
            {name: figure for probe, of_probe in of_probes for name, figure in probe.figures(of_probe).items()},
            {name: number for probe, of_probe in of_probes for name, number in probe.counts(of_probe).items()},
            hashlib.sha256(kept["digests"].numpy().tobytes()).hexdigest(),
            {probe.name: probe.report(of_probe) for probe, of_probe in of_probes if hasattr(probe, "report")},
        )
    return processes.broadcast(result)


def _one_pass(embedder: Embedder, rows: Sequence[Row], name: str, measure: Callable[[ImageBatch], Kept]) -> Kept:
    """What is measured of all batches, joined, in the first process."""
    shards = split(range(len(rows)), IMAGES_PER_SHARD)

    def work(numbers: Sequence[int]) -> Iterator[Kept]:
        batches = [split(shards[number], embedder.batch_size) for number in numbers]
        encoded = embedder.images(rows, [batch for of_shard in batches for batch in of_shard])
        for of_shard in batches:
            yield joined([measure(next(encoded)) for _ in of_shard])
        next(encoded, None)  # ends the progress bar

    return embedder.shards.run(name, len(shards), work)


def _measured(probes: Sequence[Probe], batch: ImageBatch) -> Kept:
    digests = torch.frombuffer(bytearray(b"".join(batch.digests)), dtype=torch.uint8)
    return {"digests": digests} | _named({place: probe.measure(batch) for place, probe in enumerate(probes)})


def _named(of_places: dict[int, Kept]) -> Kept:
    """What probes keep, under the place of each."""
    return {f"{place}/{name}": tensor.cpu() for place, kept in of_places.items() for name, tensor in kept.items()}


def _of_probe(kept: Kept, place: int) -> Kept:
    return {name.partition("/")[2]: tensor for name, tensor in kept.items() if name.startswith(f"{place}/")}
