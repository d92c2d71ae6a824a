"""Measures everything that rows have the labels for, in one pass over the images."""

import copy
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ..data.row_counts import SkippedRow, report_skip
from ..data.rows import Row
from ..inference.embedder import Embedder
from ..inference.reading import read_usable_texts
from ..inference.shards import Shards
from .benchmarks import count_rows
from .hard_negatives import hard_negative_probes
from .metrics import DEFAULT_KS
from .probes import LostImages, Measured, Probe, run_probes
from .regions import LocalisationProbe, located_phrases
from .results import metrics_to_json
from .retrieval import TEXT_SETS, retrieval_probes
from .task_rows import rows_without
from .zero_shot import Classes, classification_probes


def evaluate(
    model: Any,
    processor: Any,
    rows: Sequence[Row],
    *,
    protocol: str = "rows/v1",
    classes: Classes | None = None,
    conditioned: bool = True,
    ks: Sequence[int] = DEFAULT_KS,
    batch_size: int = 32,
    num_workers: int = 0,
    seed: int = 0,
) -> dict[str, Any]:
    """
    Measures whatever the rows have the labels for, see [`measure`].

    Args:
        model: A `BetaCLIPModel`, or any model with the features of `CLIPModel`, see [`load_model`]. Without a pooler
            there are no text-conditioned metrics; without patch features there are none of regions either, and no
            localisation.
        processor: Processor of the model.
        rows: A sized data set of rows; each image is read when it is needed.
        protocol: Name under which the metrics are reported.
        classes: Classes that the labels of rows and of their `regions` count from 0. Without it labels are ignored.
        conditioned: Whether to measure the text-conditioned pooler; `False` leaves out its scores and its attention.
        ks: Values of k of R@k.
        batch_size: Number of images, and of texts, that are encoded at a time.
        num_workers: Number of processes that read images; 0 reads them in this process.
        seed: Seed of the bootstrap intervals; the metrics themselves have no randomness.

    Returns:
        A dict, ready for JSON, of `protocol`, `figures` (for each metric, by its name, the `value`, `chance`, `low` and
        `high` end of the interval, `count` and the parts of its `name`), `counts`, `weights` (the chosen weights of
        weighted scores, by set of texts, score, direction and half of the images), `data_hash`, `skipped` (id, file,
        line and reason of each row that cannot be used; it is left out with all of its texts) and `seconds`.

    Raises:
        ValueError: if there is no row that can be used.
    """
    start = time.perf_counter()
    embedder = Embedder(model, processor, batch_size=batch_size, num_workers=num_workers)
    measured = measure(embedder, rows, classes=classes, conditioned=conditioned, ks=ks, seed=seed)
    return {
        "protocol": protocol,
        "figures": metrics_to_json(measured.metrics),
        "counts": measured.counts,
        "weights": measured.weights,
        "data_hash": measured.data_hash,
        "skipped": [row.to_json() for _, row in measured.lost],
        "seconds": round(time.perf_counter() - start, 1),
    }


def measure(
    embedder: Embedder,
    rows: Sequence[Row],
    *,
    text_sets: Sequence[str] = TEXT_SETS,
    classes: Classes | None = None,
    conditioned: bool = True,
    hierarchical: bool = True,
    ks: Sequence[int] = DEFAULT_KS,
    seed: int = 0,
) -> Measured:
    """
    Measures whatever the rows have the labels for, in one pass over the images.

    It measures retrieval if rows have captions (of `text_sets`, see [`retrieval_probes`]), `hard_negatives` of
    captions, `choices` of texts, negatives of `regions`, `phrases` with boxes and, with `classes`, a `label` of the
    image or of `regions`. `hierarchical` says whether to measure retrieval by sentences and phrases too, which scores
    each different sentence and phrase. The other arguments and the errors are those of [`evaluate`].

    A row that cannot be used is left out with its image and its texts: the result is that of the other rows alone. It
    is named, counted in `counts` and listed in `lost`. Only reading an image shows whether it can be used. Then the
    other rows are measured again, because texts are ranked against each other.

    With several processes each of them must call it, and all get the same result.
    """
    if len(rows) == 0:
        raise ValueError("rows must be at least one, but is 0")
    # The images are read later, batch by batch.
    texts, lost = read_usable_texts(rows)
    while True:
        remaining = [index for index in range(len(rows)) if index not in lost]
        if not remaining:
            first = next(iter(lost.values()))
            raise ValueError(
                f"rows must have a row that can be used, but none of {len(rows)} can, the first because {first.reason}"
            )
        try:
            measured = _measure_usable(
                _embedder_for(embedder, lost),
                rows_without(rows, lost),
                [texts[index] for index in remaining],
                text_sets=text_sets,
                classes=classes,
                conditioned=conditioned,
                hierarchical=hierarchical,
                ks=ks,
                seed=seed,
            )
        except LostImages as error:
            lost |= {remaining[place]: row for place, row in error.lost.items()}
            continue
        return _with_lost(measured, texts, lost, embedder.shards.processes.rank == 0)


def _embedder_for(embedder: Embedder, lost: Mapping[int, SkippedRow]) -> Embedder:
    """Returns the embedder. If rows are lost, it keeps its work in another folder: shards hold other rows then."""
    folder = embedder.shards.folder
    if not lost or folder is None:
        return embedder
    without = copy.copy(embedder)
    digest = hashlib.sha256(json.dumps(sorted(lost)).encode()).hexdigest()
    without.shards = Shards(folder / f"without-{digest[:16]}", embedder.shards.processes)
    return without


def _with_lost(measured: Measured, texts: Sequence[Row], lost: Mapping[int, SkippedRow], is_first: bool) -> Measured:
    """Adds the rows that cannot be used to a result. The first of several processes also names them in the log."""
    rows = []
    for index, row in sorted(lost.items()):
        location = row.location or f"rows[{index}]"
        rows.append((index, row._replace(location=location, id=row.id or location)))
    if is_first:
        for _, row in rows:
            report_skip(row, strict=False)
    counts = dict(measured.counts)
    if lost:
        counts["skipped_rows"] = len(lost)
        for name, number in count_rows(texts[index] for index in lost).items():
            # Whatever is counted by subset is counted in all, too.
            if name != "images" and "[" not in name:
                counts[f"skipped_{name}"] = number
    return measured._replace(counts=counts, lost=rows)


def _measure_usable(
    embedder: Embedder,
    rows: Sequence[Row],
    texts: list[Row],
    *,
    text_sets: Sequence[str],
    classes: Classes | None,
    conditioned: bool,
    hierarchical: bool,
    ks: Sequence[int],
    seed: int,
) -> Measured:
    """
    Measures rows whose texts can be used, see [`measure`].

    Raises:
        LostImages: if there are images that cannot be used.
    """
    conditioned = conditioned and embedder.has_pooler
    probes: list[Probe] = []
    if _have_captions(texts):
        probes += retrieval_probes(
            embedder,
            texts,
            wanted=text_sets,
            conditioned=conditioned,
            hierarchical=hierarchical,
            ks=ks,
            seed=seed,
        )
    probes += hard_negative_probes(embedder, texts, conditioned=conditioned, seed=seed)
    if embedder.has_patch_features and any(located_phrases(row) for row in texts):
        probes.append(LocalisationProbe(embedder, texts, conditioned=conditioned, seed=seed))
    if classes is not None:
        probes += classification_probes(embedder, texts, classes, seed=seed)
    if not probes:
        raise ValueError(
            f"rows must have captions or labels that {type(embedder.model).__name__} can be measured by, but their "
            f"columns are {sorted(texts[0])}"
        )
    measured = run_probes(embedder, rows, probes)
    data_hash = _hash_of_data(texts, classes, measured.data_hash)
    return measured._replace(data_hash=data_hash, counts={"images": len(rows)} | measured.counts)


def _have_captions(texts: Sequence[Row]) -> bool:
    """Tells whether the rows have captions: all of them, or none."""
    # Retrieval among a part of the images would look like retrieval among all of them.
    num_without = sum("caption" not in row for row in texts)
    if 0 < num_without < len(texts):
        raise ValueError(f"all rows must have a caption, or none, but {num_without} have none")
    return num_without == 0


def _hash_of_data(texts: Sequence[Row], classes: Classes | None, images_hash: str) -> str:
    """SHA-256 over all labels and images."""
    # The classes are part of the question: other prompts make other data of the same images.
    labels = [texts, *(classes or ())]
    digest = hashlib.sha256(json.dumps(labels, sort_keys=True, default=str).encode())
    digest.update(images_hash.encode())
    return digest.hexdigest()
