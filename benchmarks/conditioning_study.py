"""Measures what text-conditioned scores gain over CLS: with β-CAL alone, and with mismatched-condition negatives.

    python benchmarks/conditioning_study.py scenes
    python benchmarks/conditioning_study.py photos --photos photos \\
        --merges bpe_simple_vocab_16e6.txt.gz

The study trains small models from scratch. Both methods get the same rows, order, texts, steps and optimiser; they
differ in `text_conditioned_loss_weight` alone. They are measured on rows that neither was trained on: retrieval by CLS,
by the scores of all pairs, by re-ranked shortlists and by the sum of both; and regions against their hard negatives.
For the first seed the study also measures recall and time of re-ranking over the length of the shortlist.

Differences are between scores of the same queries, averaged over the seeds. They are bold if the 95 % interval, a
bootstrap over images, excludes 0. The interval does not know what other seeds would give: the value of each seed is in
brackets. Times are CPU times, and the machine may be busy.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from report import markdown_table
from safetensors.torch import load_file
from torch import Tensor
from transformers.utils import logging

from beta_clip_hf import SceneDataset
from beta_clip_hf.evaluation.benchmarks import load_benchmark
from beta_clip_hf.evaluation.evaluator import measure
from beta_clip_hf.evaluation.intervals import bootstrap_interval
from beta_clip_hf.evaluation.metrics import hits_at_k, retrieval_ranks
from beta_clip_hf.evaluation.results import Metric, cluster_key, metrics_to_json, write_values
from beta_clip_hf.evaluation.scores import embedding_scores
from beta_clip_hf.evaluation.shortlists import best_candidates, reranked
from beta_clip_hf.files import write_json, write_text
from beta_clip_hf.inference.embedder import Embedder
from beta_clip_hf.inference.identity import environment
from beta_clip_hf.training.build import build_trainer
from beta_clip_hf.training.config import read_config


METHODS = {"β-CAL": 0.0, "+ mismatched negatives": 1.0}
TOWER = {"hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 4}
SCENES: dict[str, Any] = {
    "model.tokenizer": {"vocab_size": 1000},
    "model.squash_images": True,
    "model.from_scratch": {
        "projection_dim": 128,
        "pooler_num_attention_heads": 2,
        "text_config": {**TOWER, "num_hidden_layers": 2},
        "vision_config": {**TOWER, "num_hidden_layers": 4, "image_size": 64, "patch_size": 8},
    },
    "data.caption_mode": "full",
    "data.num_phrases": 6,
    "training.learning_rate": 1e-3,
    "training.learning_rate_end": 1e-5,
    "training.pooler_learning_rate_end": 1e-5,
    "training.warmup_steps": 0.1,
    "training.max_grad_norm": 1.0,
    "training.per_device_train_batch_size": 32,
}
PHOTOS_CONFIG = Path(__file__).parent.parent / "examples" / "configs" / "photos_tiny.yaml"
SCORES = ("cls", "all_pairs", "rerank@16", "sum")
METHOD_NAMES = tuple(METHODS)
DIRECTIONS = {"image_to_text": "image to text", "text_to_image": "text to image"}
SHORTLISTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
# This many queries are timed, one at a time.
TIMED = 20


def train(args: argparse.Namespace, weight: float, seed: int, folder: Path) -> tuple[Any, float]:
    """Returns a Trainer after training, and its seconds of CPU."""
    if args.data == "scenes":
        rows = {"scenes": 32 * args.steps, "level": "easy", "image_size": 64, "seed": 10 + seed}
        config = read_config(None, [*SCENES.items(), ("data.train", rows)])
    else:
        config = read_config(PHOTOS_CONFIG, [("data.train", str(args.photos / "train.jsonl"))])
        if args.merges:
            config["model"]["tokenizer"] = str(args.merges)
    config["model"]["config"] = {"text_conditioned_loss_weight": weight}
    config["training"] |= {
        "output_dir": str(folder),
        "max_steps": args.steps,
        "seed": seed,
        "use_cpu": True,
        "save_strategy": "no",
        "eval_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "logging_steps": max(1, args.steps // 10),
    }
    trainer = build_trainer(config)
    start = time.process_time()
    trainer.train()
    return trainer, time.process_time() - start


class TestPart(NamedTuple):
    """Rows to measure on."""

    rows: list[Any]
    squash: bool = False
    """Whether their images are squashed to a square."""


def test_parts(args: argparse.Namespace) -> dict[str, TestPart]:
    """Returns the rows to measure on, by part of the benchmark."""
    if args.data == "scenes":
        rows = SceneDataset(args.test_scenes, seed=1, level="easy", image_size=64)
        return {"": TestPart([without_phrases(row) for row in rows])}
    parts = {part.name: part for part in load_benchmark("photos", args.photos / "test.jsonl").parts}
    return {
        "": TestPart([without_phrases(row) for row in parts[""].rows]),
        "fg_ovd": TestPart(list(parts["fg_ovd"].rows), squash=True),
    }


def without_phrases(row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a row without its phrases: where they point is not measured here."""
    return {name: value for name, value in row.items() if name != "phrases"}


def run(args: argparse.Namespace, method: str, seed: int, folder: Path) -> None:
    """Trains one model, measures it, and writes its metrics, the values that they are the means of, and the curve."""
    trainer, seconds = train(args, METHODS[method], seed, folder)
    model, processor = trainer.model.eval(), trainer.processing_class
    metrics: list[Metric] = []
    parts = test_parts(args)
    for name, part in parts.items():
        for metric in measure(Embedder(model, processor, squash=part.squash), part.rows).metrics:
            metrics.append(replace(metric, name=replace(metric.name, part=name)))
    write_values(metrics, folder, "all")
    record = {
        "method": method,
        "seed": seed,
        "cpu_seconds_of_training": round(seconds, 1),
        "settings": {name: str(value) for name, value in vars(args).items()},
        "figures": metrics_to_json(metrics),
    }
    if seed == args.seeds[0]:
        record["curve"] = curve(Embedder(model, processor), parts[""].rows)
    write_json(record, folder / "result.json")


def curve(embedder: Embedder, rows: list[Any]) -> list[dict[str, float]]:
    """Returns, for each length of the shortlist, R@1 of whole captions both ways and the milliseconds for a text."""
    batches = list(embedder.images(rows))
    images_BD = torch.cat([batch.image_embeds_BD for batch in batches])
    patches_BPD = torch.cat([batch.patch_features_BPD for batch in batches])
    texts_TD = embedder.texts([row["caption"] for row in rows], whole_captions=True)
    # Each image has one caption, so B = T.
    index_B = torch.arange(len(rows))
    with torch.no_grad():
        conditioned_BT = embedder.model.score_pairs(patches_BPD, texts_TD)
    score = embedding_scores(images_BD, texts_TD)
    ranks = retrieval_ranks(score, index_B, len(rows))
    sizes = [size for size in SHORTLISTS if size < len(rows)]
    points = []
    for size in [*sizes, len(rows)]:
        shortlists = best_candidates(score, len(rows), len(rows), size).first(size)
        recall = {}
        for direction, direction_ranks, shortlist_QK, conditioned_QG in zip(
            DIRECTIONS, ranks, shortlists, (conditioned_BT, conditioned_BT.T), strict=True
        ):
            conditioned_QK = conditioned_QG.gather(1, shortlist_QK.clamp(min=0).long())
            new_ranks = reranked(direction_ranks, shortlist_QK, conditioned_QK, index_B, index_B)
            recall[direction] = float(hits_at_k(new_ranks, 1).mean())
        milliseconds = time_shortlist(embedder.model, patches_BPD, texts_TD, images_BD @ texts_TD.T, size)
        points.append({"k": size, **recall, "milliseconds": milliseconds})
    return points


@torch.no_grad()
def time_shortlist(model: Any, patches_BPD: Tensor, texts_TD: Tensor, cls_BT: Tensor, size: int) -> float:
    """Returns the median milliseconds of CPU to score a shortlist of that length for a text."""
    seconds = []
    for text in range(TIMED):
        shortlist_K = cls_BT[:, text].topk(size).indices
        start = time.process_time()
        model.score_candidates(patches_BPD, texts_TD[text : text + 1], shortlist_K, torch.tensor(0))
        seconds.append(time.process_time() - start)
    return 1000 * statistics.median(seconds)


def interval(values_I: Tensor, image_index_I: Tensor) -> str:
    """Formats a mean in per cent with its interval, bold if it excludes 0."""
    low, high = bootstrap_interval(values_I, image_index_I)
    words = f"{100 * values_I.double().mean():+.1f} ({100 * low:+.1f} – {100 * high:+.1f})"
    return f"**{words}**" if low > 0 or high < 0 else words


@dataclass(frozen=True)
class Study:
    """The results of all models in a folder."""

    records: list[dict[str, Any]]
    values: dict[str, list[dict[str, Tensor]]]
    """The values of each metric by its name, for each seed, by method."""

    @classmethod
    def read(cls, folder: Path, data: str) -> "Study":
        """Reads the results of all models that were trained on scenes or photos."""
        records = []
        values: dict[str, list[dict[str, Tensor]]] = {method: [] for method in METHODS}
        for path in sorted(folder.glob(f"{data}_*/result.json")):
            record = json.loads(path.read_text(encoding="utf-8"))
            records.append(record)
            values[record["method"]].append(load_file(path.parent / "values" / "all.safetensors"))
        return cls(records, values)

    def mean(self, method: str, name: str) -> Tensor:
        """Returns the values of a metric (I,), each averaged over the seeds."""
        return torch.stack([seed_values[name] for seed_values in self.values[method]]).mean(dim=0)

    def cell(self, method: str, name: str) -> str:
        """Formats a metric in per cent: its mean over the seeds, then each seed."""
        by_seed = [f"{100 * seed_values[name].mean():.1f}" for seed_values in self.values[method]]
        return f"{100 * self.mean(method, name).mean():.1f} ({', '.join(by_seed)})"


class Line(NamedTuple):
    """A row of the first table: a metric, and the CLS metric that it is compared with."""

    label: str
    name: str
    cls_name: str


def table_lines(data: str) -> list[Line]:
    """Returns the metrics of the first table."""
    lines = []
    for k in (1, 10):
        for direction, words in DIRECTIONS.items():
            cls_name = f"long/cls/{direction}/R@{k}"
            for score in SCORES:
                lines.append(Line(f"{words} R@{k}, {score}", f"long/{score}/{direction}/R@{k}", cls_name))
    regions = "region_negatives" if data == "scenes" else "fg_ovd/region_negatives"
    for score in ("cls", "conditioned", "region"):
        label = f"region, true among its negatives, {score}"
        lines.append(Line(label, f"{regions}/{score}/accuracy", f"{regions}/cls/accuracy"))
    return lines


def metric_row(study: Study, line: Line) -> list[str]:
    """Returns a row: chance, both methods, their difference, and what a score gains over CLS with each method."""
    plain, mismatched = METHOD_NAMES
    image_index_I = study.values[plain][0][cluster_key(line.name)]
    chance = 100 * study.records[0]["figures"][line.name]["chance"]
    row = [line.label, f"{chance:.1f}", study.cell(plain, line.name), study.cell(mismatched, line.name)]
    difference_I = study.mean(mismatched, line.name) - study.mean(plain, line.name)
    row.append(interval(difference_I, image_index_I))
    for method in METHODS:
        if line.name == line.cls_name:
            row.append("")
        else:
            gain_I = study.mean(method, line.name) - study.mean(method, line.cls_name)
            row.append(interval(gain_I, image_index_I))
    return row


def tables(folder: Path, data: str) -> str:
    """Formats both tables in Markdown: the metrics, and recall and time over the length of the shortlist."""
    study = Study.read(folder, data)
    known_names = study.values[METHOD_NAMES[0]][0]
    metric_rows = [metric_row(study, line) for line in table_lines(data) if line.name in known_names]
    curve_rows = []
    for record in study.records:
        for point in record.get("curve", []):
            recall = [f"{100 * point[direction]:.1f}" for direction in DIRECTIONS]
            curve_rows.append([record["method"], point["k"], *recall, f"{point['milliseconds']:.2f}"])
    times = []
    for record in study.records:
        times.append(f"{record['method']}, seed {record['seed']}: {record['cpu_seconds_of_training']} s")
    columns = ("", "chance", *METHODS, "difference", "gain over CLS", "… with mismatched negatives")
    curve_columns = ("", "K", *DIRECTIONS.values(), "milliseconds of CPU for one text")
    parts = [
        markdown_table(columns, metric_rows),
        markdown_table(curve_columns, curve_rows),
        f"CPU time of training: {'; '.join(times)}.",
    ]
    return "\n\n".join(parts)


def main() -> None:
    """Runs the study. Models that are there already are not trained again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=["scenes", "photos"], help="what to train and measure on")
    parser.add_argument("--photos", type=Path, help="folder with train.jsonl, test.jsonl and eval/fgovd.jsonl")
    parser.add_argument("--merges", type=Path, help="OpenAI's file of merges (learn from captions)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1], help="seeds to train with (0 1)")
    parser.add_argument("--steps", type=int, default=200, help="optimiser steps of 32 images (%(default)s)")
    parser.add_argument("--test-scenes", type=int, default=400, help="scenes to measure on (%(default)s)")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/conditioning"), help="folder for JSON and tables (%(default)s)"
    )
    args = parser.parse_args()
    if args.data == "photos" and args.photos is None:
        parser.error("photos needs --photos")
    logging.disable_progress_bar()
    for seed in args.seeds:
        for number, method in enumerate(METHODS):
            folder = args.output / f"{args.data}_{seed}_{number}"
            if not (folder / "result.json").exists():
                run(args, method, seed, folder)
                sys.stdout.write(f"{args.data}, {method}, seed {seed}: done\n")
                sys.stdout.flush()
    write_json(environment(torch.device("cpu")), args.output / "environment.json")
    text = f"{tables(args.output, args.data)}\n"
    write_text(args.output / f"{args.data}.md", text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
