"""Compares plain CLIP, β-CAL alone, and β-CAL with FG-CLIP's parts, trained from scratch on the same generated scenes.

    python benchmarks/scene_study.py --seeds 0 1 2 --output runs/scene_study

Each method gets the same pictures, captions, order, steps and optimiser. The methods differ in the other columns of a
row that they use (sentences and phrases; short captions, boxes, hard negatives). All are measured on the same scenes,
which none was trained on: retrieval of whole captions by CLS, the true caption among 5, and the true text of a region
among 11.
"""

import argparse
import json
import logging
import statistics
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch

from beta_clip_hf import (
    BetaCLIPConfig,
    BetaCLIPDataCollator,
    BetaCLIPModel,
    BetaCLIPProcessor,
    BetaCLIPTrainer,
    BetaCLIPTrainingArguments,
    SceneDataset,
)
from beta_clip_hf.data.scenes import scene_captions
from beta_clip_hf.data.tokenizers import train_clip_tokenizer
from beta_clip_hf.evaluation.evaluator import evaluate
from beta_clip_hf.files import write_json
from beta_clip_hf.inference.identity import environment


VISION_TOWER = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4}
TEXT_TOWER = {**VISION_TOWER, "num_hidden_layers": 2}


class Method(NamedTuple):
    """A way to train."""

    config: dict[str, Any]
    """The settings of the model that differ from the defaults."""
    collator: dict[str, Any]
    """The settings of the collator: which texts and regions of a row are used."""


METHODS = {
    "clip": Method({"use_pooler": False}, {"caption_mode": "caption_only"}),
    "beta_cal": Method({}, {"caption_mode": "full", "num_phrases": 6}),
    "beta_fg": Method(
        {"use_long_text_path": True, "use_regions": True},
        {"caption_mode": "full", "num_phrases": 6, "include_short_caption": True, "num_regions": 4},
    ),
}
METRICS = {
    "region, true among 11: region feature": "region_negatives/region/accuracy",
    "region, true among 11: CLS": "region_negatives/cls/accuracy",
    "region, true among 11: text-conditioned": "region_negatives/conditioned/accuracy",
    "caption, true among 5: CLS": "hard_negatives/cls/accuracy",
    "caption, true among 5: text-conditioned": "hard_negatives/conditioned/accuracy",
    "image to text R@1": "long/cls/image_to_text/R@1",
    "text to image R@1": "long/cls/text_to_image/R@1",
}


def build(method: str, args: argparse.Namespace, seed: int) -> tuple[BetaCLIPModel, BetaCLIPProcessor]:
    """Returns a new model of the method, and a processor, which differs in its text paths only."""
    tokenizer = train_clip_tokenizer(scene_captions(2000, seed=0, level=args.level), vocab_size=1000)
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    torch.manual_seed(seed)
    config = BetaCLIPConfig(
        projection_dim=128,
        pooler_num_attention_heads=2,
        text_config={**TEXT_TOWER, **ids, "vocab_size": len(tokenizer)},
        vision_config={**VISION_TOWER, "image_size": args.image_size, "patch_size": 8},
        **METHODS[method].config,
    )
    short_max_length = 77 if config.use_long_text_path else None
    processor = BetaCLIPProcessor.from_image_size(
        tokenizer, args.image_size, short_max_length=short_max_length, squash=True
    )
    return BetaCLIPModel(config), processor


def run(method: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Trains a model and measures it."""
    model, processor = build(method, args, seed)
    arguments = BetaCLIPTrainingArguments(
        output_dir=str(args.output / f"{method}_{seed}"),
        max_steps=args.steps,
        per_device_train_batch_size=args.batch_size,
        learning_rate=1e-3,
        learning_rate_end=1e-5,
        pooler_learning_rate=1e-3,
        pooler_learning_rate_end=1e-5,
        warmup_steps=args.steps // 10,
        logging_steps=max(1, args.steps // 20),
        save_strategy="no",
        max_grad_norm=1.0,
        report_to="none",
        disable_tqdm=True,
        seed=seed,
    )
    rows = SceneDataset(args.steps * args.batch_size, seed=10 + seed, level=args.level, image_size=args.image_size)
    collator = BetaCLIPDataCollator(processor, seed=seed, **METHODS[method].collator)
    trainer = BetaCLIPTrainer(model, arguments, collator, train_dataset=rows, processing_class=processor)
    start = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - start
    if args.save:
        trainer.save_model()
    test_rows = SceneDataset(args.test_scenes, seed=1, level=args.level, image_size=args.image_size)
    metrics = evaluate(model.eval(), processor, test_rows, protocol=f"scenes-{args.level}/study")["figures"]
    # Where phrases point is not part of the comparison, and a plain CLIP does not have it.
    values = {name: metric["value"] for name, metric in metrics.items() if metric["name"]["probe"] != "phrases"}
    return {"method": method, "seed": seed, "seconds": round(seconds, 1), "figures": values}


def table(results: list[dict[str, Any]]) -> str:
    """Formats the mean over the seeds and its standard error, in per cent."""
    lines = [f"{'':42}" + "".join(f"{method:>16}" for method in METHODS)]
    for label, name in METRICS.items():
        cells = [table_cell(results, method, name) for method in METHODS]
        lines.append(f"{label:42}" + "".join(cells))
    return "\n".join(lines)


def table_cell(results: list[dict[str, Any]], method: str, name: str) -> str:
    """Formats a metric of a method, 16 characters wide; a dash if the method does not have it."""
    values = []
    for result in results:
        if result["method"] == method and name in result["figures"]:
            values.append(100 * result["figures"][name])
    if not values:
        return f"{'–':>16}"
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):8.1f} ± {error:4.1f} "


def main() -> None:
    """Runs the study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/scene_study"), help="folder (%(default)s)")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS), help="(all)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="seeds to train with (0 1 2)")
    parser.add_argument("--steps", type=int, default=400, help="optimiser steps (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="scenes per step (%(default)s)")
    parser.add_argument("--test-scenes", type=int, default=400, help="scenes to measure on (%(default)s)")
    parser.add_argument("--level", default="easy", choices=["easy", "medium", "hard"], help="level (%(default)s)")
    parser.add_argument("--image-size", type=int, default=64, help="pixels, a multiple of 8 (%(default)s)")
    parser.add_argument("--save", action="store_true", help="keep the models")
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    args.output.mkdir(parents=True, exist_ok=True)
    for seed in args.seeds:
        for method in args.methods:
            settings = {name: str(value) for name, value in vars(args).items()}
            result = run(method, seed, args) | {"settings": settings}
            write_json(result, args.output / f"{method}_{seed}.json")
            sys.stdout.write(f"{method} {seed}: {result['seconds']} s\n")
            sys.stdout.flush()
    # Several processes may train at once, each some methods and seeds: the table has all results of the folder.
    results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(args.output.glob("*_*.json"))]
    write_json(environment(torch.device("cpu")), args.output / "environment.json")
    sys.stdout.write(table(results) + "\n")


if __name__ == "__main__":
    main()
