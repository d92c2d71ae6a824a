"""`beta-clip evaluate`: a model, some tasks, and one results.json that says all that is needed to read its figures."""

import argparse
import hashlib
import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import torch

from ..configuration_beta_clip import BetaCLIPConfig
from ..data.rows import Row
from ..modeling_beta_clip import BetaCLIPModel
from ..processing_beta_clip import BetaCLIPProcessor
from .embedding import Embedder, Probe, read_texts, run_probes
from .hard_negatives import HardNegativeProbe, caption_groups, caption_kinds, region_boxes, region_groups
from .metrics import DEFAULT_KS
from .regions import LocalisationProbe, located_phrases
from .results import environment, figures_to_json, format_table, model_hash, write_results
from .retrieval import retrieval_probes


logger = logging.getLogger(__name__)

NUM_SCENES = 500
SCENES_SEED = 271828  # far from the seeds that people train with


@dataclass(frozen=True)
class Task:
    """A data set with a protocol. The name of the protocol changes whenever a figure would."""

    protocol: str
    summary: str
    load: Callable[[argparse.Namespace, BetaCLIPModel], Any]


def evaluate(
    model: Any,
    processor: Any,
    rows: Sequence[Row],
    *,
    protocol: str = "rows/v1",
    conditioned: bool = True,
    ks: Sequence[int] = DEFAULT_KS,
    batch_size: int = 32,
    num_workers: int = 0,
    seed: int = 0,
) -> dict[str, Any]:
    """
    Measures whatever the rows have the labels for, in one pass over the images: retrieval of the captions (see
    [`retrieval_probes`]), `hard_negatives` of captions, negatives of `regions`, and `phrases` with boxes.

    Args:
        model: A `BetaCLIPModel`. Without a pooler only figures by CLS are given, and no localisation.
        processor: Its `BetaCLIPProcessor`.
        rows: A sized data set of rows; each image is read when it is needed.
        protocol: Name under which the figures are reported.
        conditioned: Whether to measure the text-conditioned pooler; False leaves out its scores, and localisation.
        ks: The k of R@k.
        batch_size, num_workers: See [`Embedder`].
        seed: Of the bootstrap intervals; the figures themselves have no randomness.

    Returns:
        A dict of `protocol`, `figures` (by name, the fields of a [`Figure`]), `counts`, `data_hash` (of all but the
        images) and `seconds`; ready for JSON.

    Raises:
        ValueError: where there are no rows, or a row is not valid. No row is left out: a figure over a part of the data
            would look like one over the whole.
    """
    if len(rows) == 0:
        raise ValueError("rows must be at least one, but is 0")
    start = time.perf_counter()
    embedder = Embedder(model, processor, batch_size=batch_size, num_workers=num_workers)
    texts = read_texts(rows)
    conditioned = conditioned and embedder.has_pooler
    probes: list[Probe] = [*retrieval_probes(embedder, texts, conditioned=conditioned, ks=ks, seed=seed)]
    probes += _hard_negative_probes(embedder, texts, conditioned=conditioned, seed=seed)
    if conditioned and any(located_phrases(row) for row in texts):
        probes.append(LocalisationProbe(embedder, seed=seed))
    figures = run_probes(embedder, rows, probes)
    counts = {"images": len(rows)} | {name: number for probe in probes for name, number in probe.counts.items()}
    return {
        "protocol": protocol,
        "figures": figures_to_json(figures),
        "counts": counts,
        "data_hash": hashlib.sha256(json.dumps(texts, sort_keys=True, default=str).encode()).hexdigest(),
        "seconds": round(time.perf_counter() - start, 1),
    }


def _hard_negative_probes(embedder: Embedder, texts: Sequence[Row], **settings: Any) -> list[Probe]:
    """A probe of captions, and one of regions, where any row has negatives of that kind."""
    captions, kinds = [caption_groups(row) for row in texts], [caption_kinds(row) for row in texts]
    regions, boxes = [region_groups(row) for row in texts], [region_boxes(row) for row in texts]
    probes: list[Probe] = []
    if any(captions):
        are_named = list(map(len, kinds)) == list(map(len, captions))
        settings_of_captions = {"kinds": kinds if are_named else None, "whole_captions": True, **settings}
        probes.append(HardNegativeProbe("hard_negatives", embedder, captions, **settings_of_captions))
    if any(regions):
        probes.append(HardNegativeProbe("region_negatives", embedder, regions, boxes=boxes, **settings))
    return probes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `beta-clip evaluate`."""
    summaries = "; ".join(f"{name}: {task.summary}" for name, task in TASKS.items())
    parser.add_argument("--model", required=True, help="directory or Hub id of a β-CLIP (or plain CLIP) checkpoint")
    parser.add_argument("--tasks", required=True, help=f"one or several of {','.join(TASKS)}. {summaries}")
    parser.add_argument(
        "--data", help="rows as in training: a JSONL file, tars, or a directory with test.jsonl; for photos"
    )
    parser.add_argument("--output", required=True, help="directory for results.json")
    parser.add_argument("--batch-size", type=int, default=32, help="images, and texts, at a time (%(default)s)")
    parser.add_argument("--num-workers", type=int, default=0, help="processes that read images (%(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"], help="(%(default)s)")
    parser.add_argument("--limit", type=int, help="the first images only; the results say so")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap intervals (%(default)s)")
    parser.add_argument("--no-conditioned", action="store_true", help="leave out the text-conditioned pooler")


def run(args: argparse.Namespace) -> int:
    """Evaluates, writes the tables to the standard output and results.json to `args.output`."""
    names = list(dict.fromkeys(name.strip() for name in args.tasks.split(",")))
    for name in names:
        if name not in TASKS:
            raise ValueError(f"tasks must be of {', '.join(TASKS)}, but one is {name!r}")
    if args.limit is not None and args.limit < 1:
        raise ValueError(f"limit must be at least 1, but is {args.limit}")
    # The type tells a pooler that was trained from the fresh one that a plain CLIP is given.
    is_ours = BetaCLIPConfig.get_config_dict(args.model)[0].get("model_type") == BetaCLIPConfig.model_type
    model = BetaCLIPModel.from_pretrained(args.model, **({} if is_ours else {"use_pooler": False})).eval()
    if model.pooler is None and not args.no_conditioned:
        logger.warning("%s has no trained pooler: there are no text-conditioned figures", args.model)
    processor = BetaCLIPProcessor.from_pretrained(args.model)
    weights = model_hash(model)
    device = torch.device(args.device)
    model.to(device, getattr(torch, args.dtype))
    results: dict[str, Any] = {
        "schema": 1,
        "model": {"name": args.model, "sha256": weights, "parameters": sum(p.numel() for p in model.parameters())},
        "environment": environment(device),
        "settings": {name: getattr(args, name) for name in ("data", "batch_size", "dtype", "limit", "seed")},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "tasks": {},
    }
    for name in names:
        task = TASKS[name]
        result = evaluate(
            model,
            processor,
            _first(task.load(args, model), args.limit),
            protocol=task.protocol if args.limit is None else f"{task.protocol} (first {args.limit})",
            conditioned=is_ours and not args.no_conditioned,
            batch_size=args.batch_size,
            num_workers=args.num_workers,
            seed=args.seed,
        )
        results["tasks"][name] = result
        path = write_results(results, args.output)
        sys.stdout.write(format_table(name, result) + "\n\n")
    logger.info("results are in %s", path)
    return 0


def _first(rows: Any, limit: int | None) -> Any:
    return rows if limit is None else torch.utils.data.Subset(rows, range(min(limit, len(rows))))


def _load_photos(args: argparse.Namespace, model: BetaCLIPModel) -> Any:
    from ..data.readers import load_rows

    if args.data is None:
        raise ValueError("data must be a file of rows, or a directory with test.jsonl, for photos, but is not given")
    rows = load_rows(args.data, split="test", strict=True)
    return rows if hasattr(rows, "__len__") else list(rows)  # a stream's images stay in memory as they are on disk


def _load_scenes(args: argparse.Namespace, model: BetaCLIPModel) -> Any:
    from ..data.scenes import SceneDataset

    return SceneDataset(NUM_SCENES, seed=SCENES_SEED, image_size=model.vision_model.config.image_size)


TASKS = {
    "photos": Task("photos/v1", "captioned photos with phrases in boxes, JSONL", _load_photos),
    "scenes": Task("scenes/v1", f"{NUM_SCENES} generated scenes", _load_scenes),
}
