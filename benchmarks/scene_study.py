"""Plain CLIP, β-CAL alone, and β-CAL with FG-CLIP's parts, from scratch on the same generated scenes.

    python benchmarks/scene_study.py --seeds 0 1 2 --output runs/scene_study

Each method gets the same pictures, captions, order, steps and optimiser; they differ in what else they take from a row
(sentences and phrases; short captions, boxes, hard negatives). All are measured on the same scenes, which none was
trained on: retrieval of whole captions by CLS, the true caption among 5, and the true text of a region among 11.
"""

import argparse
import json
import logging
import statistics
import sys
import time
from pathlib import Path
from typing import Any

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
from beta_clip_hf.inference.identity import environment


VISION_TOWER = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4}
TEXT_TOWER = {**VISION_TOWER, "num_hidden_layers": 2}
# What a method changes in the configuration of the model, and what it takes from a row.
METHODS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "clip": ({"use_pooler": False}, {"caption_mode": "caption_only"}),
    "beta_cal": ({}, {"caption_mode": "full", "num_phrases": 6}),
    "beta_fg": (
        {"use_long_text_path": True, "use_regions": True},
        {"caption_mode": "full", "num_phrases": 6, "include_short_caption": True, "num_regions": 4},
    ),
}
FIGURES = {
    "region, true among 11: region feature": "region_negatives/region/accuracy",
    "region, true among 11: CLS": "region_negatives/cls/accuracy",
    "region, true among 11: text-conditioned": "region_negatives/conditioned/accuracy",
    "caption, true among 5: CLS": "hard_negatives/cls/accuracy",
    "caption, true among 5: text-conditioned": "hard_negatives/conditioned/accuracy",
    "image to text R@1": "long/cls/image_to_text/R@1",
    "text to image R@1": "long/cls/text_to_image/R@1",
}


def build(method: str, args: argparse.Namespace, seed: int) -> tuple[BetaCLIPModel, BetaCLIPProcessor]:
    """A new model of the method, and the processor that is the same for all but its text paths."""
    tokenizer = train_clip_tokenizer(scene_captions(2000, seed=0, level=args.level), vocab_size=1000)
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    torch.manual_seed(seed)
    config = BetaCLIPConfig(
        projection_dim=128,
        pooler_num_attention_heads=2,
        text_config={**TEXT_TOWER, **ids, "vocab_size": len(tokenizer)},
        vision_config={**VISION_TOWER, "image_size": args.image_size, "patch_size": 8},
        **METHODS[method][0],
    )
    short = 77 if config.use_long_text_path else None
    processor = BetaCLIPProcessor.from_image_size(tokenizer, args.image_size, short_max_length=short, squash=True)
    return BetaCLIPModel(config), processor


def run(method: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Trains one model and measures it."""
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
    collator = BetaCLIPDataCollator(processor, seed=seed, **METHODS[method][1])
    trainer = BetaCLIPTrainer(model, arguments, collator, train_dataset=rows, processing_class=processor)
    start = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - start
    if args.save:
        trainer.save_model()
    test_rows = SceneDataset(args.test_scenes, seed=1, level=args.level, image_size=args.image_size)
    figures = evaluate(model.eval(), processor, test_rows, protocol=f"scenes-{args.level}/study")["figures"]
    values = {name: figures[name]["value"] for name in figures if not name.startswith("phrases")}
    return {"method": method, "seed": seed, "seconds": round(seconds, 1), "figures": values}


def table(results: list[dict[str, Any]]) -> str:
    """Mean over the seeds and its standard error, in per cent."""
    lines = [f"{'':42}" + "".join(f"{method:>16}" for method in METHODS)]
    for label, name in FIGURES.items():
        cells = []
        for method in METHODS:
            values = [100 * r["figures"][name] for r in results if r["method"] == method and name in r["figures"]]
            error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
            cells.append(f"{statistics.mean(values):8.1f} ± {error:4.1f} " if values else f"{'–':>16}")
        lines.append(f"{label:42}" + "".join(cells))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/scene_study"), help="(%(default)s)")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=400, help="optimiser steps (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="scenes per step (%(default)s)")
    parser.add_argument("--test-scenes", type=int, default=400, help="scenes to measure on (%(default)s)")
    parser.add_argument("--level", default="easy", choices=["easy", "medium", "hard"], help="(%(default)s)")
    parser.add_argument("--image-size", type=int, default=64, help="pixels, a multiple of 8 (%(default)s)")
    parser.add_argument("--save", action="store_true", help="keep the models")
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    args.output.mkdir(parents=True, exist_ok=True)
    for seed in args.seeds:
        for method in args.methods:
            result = run(method, seed, args) | {"settings": {name: str(v) for name, v in vars(args).items()}}
            (args.output / f"{method}_{seed}.json").write_text(json.dumps(result, indent=2) + "\n")
            sys.stdout.write(f"{method} {seed}: {result['seconds']} s\n")
            sys.stdout.flush()
    # All that the directory holds: methods and seeds may be run by several processes at once.
    results = [json.loads(path.read_text()) for path in sorted(args.output.glob("*_*.json"))]
    (args.output / "environment.json").write_text(json.dumps(environment(torch.device("cpu")), indent=2) + "\n")
    sys.stdout.write(table(results) + "\n")


if __name__ == "__main__":
    main()
