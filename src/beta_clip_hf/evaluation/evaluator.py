"""What can be measured on rows: everything that they have the labels for, in one pass over the images."""

import hashlib
import json
import time
from collections.abc import Sequence
from typing import Any

from ..data.rows import Row
from ..inference.embedder import Embedder, read_texts
from .hard_negatives import HardNegativeProbe, caption_choices, region_choices, text_choices
from .metrics import DEFAULT_KS
from .probes import Measured, Probe, run_probes
from .regions import LocalisationProbe, located_phrases
from .results import figures_to_json
from .retrieval import TEXT_SETS, retrieval_probes
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
            there are no text-conditioned figures; without patch features also none of regions, and no localisation.
        processor: Its processor.
        rows: A sized data set of rows; each image is read when it is needed.
        protocol: Name under which the figures are reported.
        classes: What a `label` of rows or of their `regions` is of; without it labels are not looked at.
        conditioned: Whether to measure the text-conditioned pooler; False leaves out its scores and its attention.
        ks: The k of R@k.
        batch_size, num_workers: See [`Embedder`].
        seed: Of the bootstrap intervals; the figures themselves have no randomness.

    Returns:
        A dict of `protocol`, `figures` (by name, the fields of a [`Figure`]), `counts`, `data_hash` and `seconds`;
        ready for JSON.

    Raises:
        ValueError: where there are no rows, or a row is not valid. No row is left out: a figure over a part of the data
            would look like one over the whole.
    """
    start = time.perf_counter()
    embedder = Embedder(model, processor, batch_size=batch_size, num_workers=num_workers)
    measured = measure(embedder, rows, classes=classes, conditioned=conditioned, ks=ks, seed=seed)
    return {
        "protocol": protocol,
        "figures": figures_to_json(measured.figures),
        "counts": measured.counts,
        "data_hash": measured.data_hash,
        "seconds": round(time.perf_counter() - start, 1),
    }


def measure(
    embedder: Embedder,
    rows: Sequence[Row],
    *,
    text_sets: Sequence[str] = TEXT_SETS,
    classes: Classes | None = None,
    conditioned: bool = True,
    ks: Sequence[int] = DEFAULT_KS,
    seed: int = 0,
) -> Measured:
    """
    Retrieval where rows have captions (of `text_sets`, see [`retrieval_probes`]), `hard_negatives` of captions,
    `choices` of texts, negatives of `regions`, `phrases` with boxes, and, of `classes`, a `label` of the image or of
    `regions`: one pass over the images for all. Arguments and errors as in [`evaluate`]; with several processes it is
    collective, and all get the same.
    """
    if len(rows) == 0:
        raise ValueError("rows must be at least one, but is 0")
    texts = read_texts(rows)
    conditioned = conditioned and embedder.has_pooler
    probes: list[Probe] = []
    has_caption = ["caption" in row for row in texts]
    if any(has_caption) and not all(has_caption):
        raise ValueError(f"all rows must have a caption, or none, but {has_caption.count(False)} have none")
    if any(has_caption):
        probes += retrieval_probes(embedder, texts, wanted=text_sets, conditioned=conditioned, ks=ks, seed=seed)
    all_choices = {
        "hard_negatives": list(map(caption_choices, texts)),
        "choices": list(map(text_choices, texts)),
        "region_negatives": list(map(region_choices, texts)),
    }
    for name, choices in all_choices.items():
        if any(choices):
            settings: dict[str, Any] = {
                "whole_captions": name == "hard_negatives",
                "conditioned": conditioned,
                "seed": seed,
            }
            probes.append(HardNegativeProbe(name, embedder, choices, **settings))
    if embedder.has_patch_features and any(map(located_phrases, texts)):
        probes.append(LocalisationProbe(embedder, texts, conditioned=conditioned, seed=seed))
    if classes is not None:
        probes += classification_probes(embedder, texts, classes, seed=seed)
    if not probes:
        raise ValueError(
            f"rows must have captions or labels that {type(embedder.model).__name__} can be measured by, but their "
            f"columns are {sorted(texts[0])}"
        )
    measured = run_probes(embedder, rows, probes)
    all_labels = [texts, *(classes or ())]
    labels = hashlib.sha256(json.dumps(all_labels, sort_keys=True, default=str).encode())
    labels.update(measured.data_hash.encode())
    return measured._replace(data_hash=labels.hexdigest(), counts={"images": len(rows)} | measured.counts)
