"""What text-conditioned scores gain or lose against CLS: β-CAL alone, and with mismatched-condition negatives.

    python benchmarks/conditioning_study.py scenes
    python benchmarks/conditioning_study.py photos --photos ../shared/data/photos \\
        --merges ../shared/data/clip_bpe/bpe_simple_vocab_16e6.txt.gz

Small models from scratch: the same rows, order, texts, steps and optimiser for both, which differ in
`text_conditioned_loss_weight` alone. They are measured on rows that neither was trained on: retrieval by CLS, by the
scores of all pairs, by re-ranked shortlists and by the sum of both; and regions against their hard negatives. Of the
first seed also recall and time of re-ranking over the length of the shortlist.

Differences are between scores of the same queries, of the mean over the seeds; bold where the 95 % interval, a
bootstrap over images, excludes 0. It does not know what other seeds would give: each seed's figure is in brackets.
Times are of the CPU: the machine may be busy.
"""

import argparse
import json
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers.utils import logging

from beta_clip_hf import SceneDataset
from beta_clip_hf.evaluation.benchmarks import load_benchmark
from beta_clip_hf.evaluation.evaluator import measure
from beta_clip_hf.evaluation.intervals import bootstrap_interval
from beta_clip_hf.evaluation.metrics import hits_at_k, retrieval_ranks
from beta_clip_hf.evaluation.results import Metric, metrics_to_json, write_values
from beta_clip_hf.evaluation.scores import embedding_scores
from beta_clip_hf.evaluation.shortlists import best_candidates, reranked
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
WAYS = {"image_to_text": "image to text", "text_to_image": "text to image"}
SHORTLISTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
TIMED = 20  # queries, one at a time


def train(args: argparse.Namespace, weight: float, seed: int, folder: Path) -> tuple[Any, float]:
    """A trained Trainer, and its seconds of CPU."""
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


def test_parts(args: argparse.Namespace) -> dict[str, tuple[list[Any], bool]]:
    """The rows to measure on, and whether their images are squashed, by part of the benchmark."""
    if args.data == "scenes":
        rows = SceneDataset(args.test_scenes, seed=1, level="easy", image_size=64)
        return {"": ([{name: row[name] for name in row if name != "phrases"} for row in rows], False)}
    parts = {part.name: part for part in load_benchmark("photos", args.photos / "test.jsonl").parts}
    captioned = [{name: row[name] for name in row if name != "phrases"} for row in parts[""].rows]
    return {"": (captioned, False), "fg_ovd": (list(parts["fg_ovd"].rows), True)}


def run(args: argparse.Namespace, method: str, seed: int, folder: Path) -> None:
    """Trains one model, measures it, and writes its metrics, the values that they are the means of, and the curve."""
    trainer, seconds = train(args, METHODS[method], seed, folder)
    model, processor = trainer.model.eval(), trainer.processing_class
    metrics: list[Metric] = []
    for part, (rows, squash) in test_parts(args).items():
        for metric in measure(Embedder(model, processor, squash=squash), rows).metrics:
            metrics.append(replace(metric, name=replace(metric.name, part=part)))
    write_values(metrics, folder, "all")
    record = {
        "method": method,
        "seed": seed,
        "cpu_seconds_of_training": round(seconds, 1),
        "settings": {name: str(value) for name, value in vars(args).items()},
        "figures": metrics_to_json(metrics),
    }
    if seed == args.seeds[0]:
        record["curve"] = curve(Embedder(model, processor), test_parts(args)[""][0])
    (folder / "result.json").write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def curve(embedder: Embedder, rows: list[Any]) -> list[dict[str, float]]:
    """Of each shortlist R@1 both ways, whole captions, and the median milliseconds to score it for one text."""
    batches = list(embedder.images(rows))
    images_BD, patches_BPD = (
        torch.cat([getattr(batch, name) for batch in batches]) for name in ("image_embeds_BD", "patch_features_BPD")
    )
    texts_TD = embedder.texts([row["caption"] for row in rows], whole_captions=True)
    index_B = torch.arange(len(rows))
    with torch.no_grad():
        pairs_BT = embedder.model.score_pairs(patches_BPD, texts_TD)
    cls_BT = images_BD @ texts_TD.T
    by_cls = embedding_scores(images_BD, texts_TD)
    ranks = retrieval_ranks(by_cls, index_B, len(rows))
    points = []
    for size in [*(size for size in SHORTLISTS if size < len(rows)), len(rows)]:
        recall = []
        shortlists = best_candidates(by_cls, len(rows), len(rows), size).first(size)
        for way, short, second in zip(ranks, shortlists, (pairs_BT, pairs_BT.T), strict=True):
            found = reranked(way, short, second.gather(1, short.clamp(min=0).long()), index_B, index_B)
            recall.append(float(hits_at_k(found, 1).mean()))
        milliseconds = time_of_shortlist(embedder.model, patches_BPD, texts_TD, cls_BT, size)
        points.append({"k": size, **dict(zip(WAYS, recall, strict=True)), "milliseconds": milliseconds})
    return points


@torch.no_grad()
def time_of_shortlist(model: Any, patches_BPD: Tensor, texts_TD: Tensor, cls_BT: Tensor, size: int) -> float:
    seconds = []
    for text in range(TIMED):
        shortlist_K = cls_BT[:, text].topk(size).indices
        start = time.process_time()
        model.score_candidates(patches_BPD, texts_TD[text : text + 1], shortlist_K, torch.tensor(0))
        seconds.append(time.process_time() - start)
    return 1000 * statistics.median(seconds)


def interval(values_N: Tensor, clusters_N: Tensor) -> str:
    """Mean in per cent with its interval."""
    low, high = bootstrap_interval(values_N, clusters_N)
    mean = f"{100 * values_N.double().mean():+.1f} ({100 * low:+.1f} – {100 * high:+.1f})"
    return f"**{mean}**" if low > 0 or high < 0 else mean


def tables(folder: Path, data: str) -> str:
    """
    Markdown: of each figure its mean over the seeds, and each seed's; the difference between the two methods; and what
    a conditioned score gains over CLS in each.
    """
    paths = sorted(folder.glob(f"{data}_*/result.json"))
    records = [json.loads(path.read_text()) for path in paths]
    by_method: dict[str, list[dict[str, Tensor]]] = {method: [] for method in METHODS}
    for record, path in zip(records, paths, strict=True):
        by_method[record["method"]].append(load_file(path.parent / "values" / "all.safetensors"))

    def mean(method: str, name: str) -> Tensor:
        return torch.stack([values[name] for values in by_method[method]]).mean(dim=0)

    def cell(method: str, name: str) -> str:
        seeds = [f"{100 * values[name].mean():.1f}" for values in by_method[method]]
        return f"{100 * mean(method, name).mean():.1f} ({', '.join(seeds)})"

    names = by_method["β-CAL"][0]
    chosen = {
        f"{label} R@{k}, {score}": (f"long/{score}/{way}/R@{k}", f"long/cls/{way}/R@{k}")
        for k in (1, 10)
        for way, label in WAYS.items()
        for score in SCORES
    }
    regions = "region_negatives" if data == "scenes" else "fg_ovd/region_negatives"
    for score in ("cls", "conditioned", "region"):
        chosen[f"region, true among its negatives, {score}"] = (
            f"{regions}/{score}/accuracy",
            f"{regions}/cls/accuracy",
        )
    lines = [f"| | chance | {' | '.join(METHODS)} | difference | gain over CLS | … with mismatched negatives |"]
    lines += ["|---" * 7 + "|"]
    for label, (name, base) in chosen.items():
        if name in names:
            clusters_N, chance = names[f"{name}#cluster"], 100 * records[0]["figures"][name]["chance"]
            cells = [label, f"{chance:.1f}", *(cell(method, name) for method in METHODS)]
            cells.append(interval(mean("+ mismatched negatives", name) - mean("β-CAL", name), clusters_N))
            for method in METHODS:
                cells.append("" if name == base else interval(mean(method, name) - mean(method, base), clusters_N))
            lines.append(f"| {' | '.join(cells)} |")
    lines += ["", f"| | K | {' | '.join(WAYS.values())} | milliseconds of CPU for one text |", "|---" * 5 + "|"]
    for record in records:
        for point in record.get("curve", []):
            recall = [f"{100 * point[way]:.1f}" for way in WAYS]
            lines.append(f"| {record['method']} | {point['k']} | {' | '.join(recall)} | {point['milliseconds']:.2f} |")
    times = [f"{record['method']}, seed {record['seed']}: {record['cpu_seconds_of_training']} s" for record in records]
    return "\n".join([*lines, "", f"CPU time of training: {'; '.join(times)}."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=["scenes", "photos"])
    parser.add_argument("--photos", type=Path, help="folder with train.jsonl, test.jsonl and eval/fgovd.jsonl")
    parser.add_argument("--merges", type=Path, help="OpenAI's file of merges; else a tokenizer is learnt from captions")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--steps", type=int, default=200, help="optimiser steps of 32 images (%(default)s)")
    parser.add_argument("--test-scenes", type=int, default=400, help="scenes to measure on (%(default)s)")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/conditioning"), help="for JSON and table (%(default)s)"
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
    (args.output / "environment.json").write_text(json.dumps(environment(torch.device("cpu")), indent=2) + "\n")
    table = tables(args.output, args.data)
    (args.output / f"{args.data}.md").write_text(table + "\n")
    sys.stdout.write(f"{table}\n")


if __name__ == "__main__":
    main()
