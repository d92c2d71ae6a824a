"""A small β-CLIP from nothing to a checkpoint, without a network: `make demo`, or `python examples/demo.py --help`.

It trains on generated scenes, measures the model on other scenes before and after, saves it, loads it back with
`from_pretrained`, and draws its loss curves and where each phrase of a caption looks.
"""

import argparse
import logging
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
from beta_clip_hf.evaluation.results import environment, write_json
from beta_clip_hf.visualize import plot_phrase_attention, plot_training_curves


TRAIN_SEED, TEST_SEED = 0, 1  # of the scenes: what is measured was never trained on
VISION_TOWER = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4}
TEXT_TOWER = {**VISION_TOWER, "num_hidden_layers": 2}
ROWS_OF_TABLE = {
    "image to text R@1": "long/cls/image_to_text/R@1",
    "text to image R@1": "long/cls/text_to_image/R@1",
    "text to image R@1, text-conditioned": "long/all_pairs/text_to_image/R@1",
    "true caption among 5": "hard_negatives/cls/accuracy",
    "true caption among 5, text-conditioned": "hard_negatives/conditioned/accuracy",
    "  true, or with a colour that is not there": "hard_negatives[replace]/conditioned/accuracy",
    "  true, or with two colours exchanged": "hard_negatives[colour]/conditioned/accuracy",
    "pointing game, attention of noun phrases": "phrases[noun]/attention/pointing",
}


def build(level: str, image_size: int) -> tuple[BetaCLIPModel, BetaCLIPProcessor]:
    """A model with random weights and its processor; the tokenizer learns the words of the scenes' captions."""
    tokenizer = train_clip_tokenizer(scene_captions(2000, seed=TRAIN_SEED, level=level), vocab_size=1000)
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = BetaCLIPConfig(
        projection_dim=128,
        pooler_num_attention_heads=2,  # few wide heads: so small a model learns where to look in fewer steps
        text_config={**TEXT_TOWER, **ids, "vocab_size": len(tokenizer)},
        vision_config={**VISION_TOWER, "image_size": image_size, "patch_size": 8},
    )
    return BetaCLIPModel(config), BetaCLIPProcessor.from_image_size(tokenizer, image_size)


def train(model: BetaCLIPModel, processor: BetaCLIPProcessor, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Trains, saves model and processor to `OUTPUT/model`, and returns the Trainer's log."""
    arguments = BetaCLIPTrainingArguments(
        output_dir=str(args.output / "model"),
        max_steps=args.steps,
        per_device_train_batch_size=args.batch_size,
        learning_rate=1e-3,
        learning_rate_end=1e-5,
        pooler_learning_rate=1e-3,
        pooler_learning_rate_end=1e-5,
        warmup_steps=args.steps // 10,
        logging_steps=max(1, args.steps // 30),
        save_strategy="no",
        max_grad_norm=1.0,
        report_to="none",
        seed=args.seed,
    )
    rows = SceneDataset(args.steps * args.batch_size, seed=TRAIN_SEED, level=args.level, image_size=args.image_size)
    collator = BetaCLIPDataCollator(processor, num_phrases=6, seed=args.seed)
    trainer = BetaCLIPTrainer(model, arguments, collator, train_dataset=rows, processing_class=processor)
    trainer.train()
    trainer.save_model()
    return trainer.state.log_history


def draw_attention(model: BetaCLIPModel, processor: BetaCLIPProcessor, row: dict[str, Any], path: Path) -> Path:
    """One picture of a scene: where each noun phrase of its caption looks, with the boxes where it should."""
    phrases = [phrase for phrase in row["phrases"] if phrase["kind"] == "noun"][:7]
    texts = [phrase["text"] for phrase in phrases]
    inputs = processor(images=row["image"], text=texts, padding=True, return_tensors="pt").to(model.device)
    with torch.no_grad():
        _, attention_THP = model.get_text_conditioned_image_features(**inputs, output_attentions=True)
    side = model.config.vision_config.image_size // model.config.vision_config.patch_size
    boxes = [torch.tensor(phrase["boxes"]) / torch.tensor(row["image"].size * 2) for phrase in phrases]
    maps_THW = attention_THP.mean(dim=1).unflatten(-1, (side, side))  # mean of the heads
    return plot_phrase_attention(row["image"], texts, maps_THW, path, boxes)


def table(before: dict[str, Any], after: dict[str, Any]) -> str:
    """The figures of the untrained and the trained model beside the chance level, in per cent."""
    lines = [f"{'on scenes it has not seen':42}{'chance':>8}{'before':>8}{'after':>8}"]
    for label, name in ROWS_OF_TABLE.items():
        figures = before["figures"][name], after["figures"][name]
        cells = (figures[0]["chance"], figures[0]["value"], figures[1]["value"])
        lines.append(f"{label:42}" + "".join(f"{100 * cell:8.1f}" for cell in cells))
    return "\n".join(lines)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/demo"), help="for all artefacts (%(default)s)")
    parser.add_argument("--steps", type=int, default=200, help="optimiser steps (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="scenes per step (%(default)s)")
    parser.add_argument("--test-scenes", type=int, default=200, help="scenes to measure on (%(default)s)")
    parser.add_argument("--level", default="easy", choices=["easy", "medium", "hard"], help="(%(default)s)")
    parser.add_argument("--image-size", type=int, default=64, help="pixels, a multiple of 8 (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and sampling (%(default)s)")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.manual_seed(args.seed)
    test_rows = SceneDataset(args.test_scenes, seed=TEST_SEED, level=args.level, image_size=args.image_size)
    model, processor = build(args.level, args.image_size)
    before = evaluate(model, processor, test_rows, protocol=f"scenes-{args.level}/demo")

    start = time.perf_counter()
    log = train(model, processor, args)
    seconds = time.perf_counter() - start

    model = BetaCLIPModel.from_pretrained(args.output / "model").eval()  # what is measured is what was saved
    processor = BetaCLIPProcessor.from_pretrained(args.output / "model")
    after = evaluate(model, processor, test_rows, protocol=f"scenes-{args.level}/demo")

    settings = {name: value for name, value in vars(args).items() if name != "output"}
    results = {"settings": settings, "environment": environment(model.device), "training_seconds": round(seconds, 1)}
    paths = [write_json(results | {"before": before, "after": after}, args.output / "results.json")]
    paths.append(plot_training_curves(log, args.output / "curves.png"))
    paths += [draw_attention(model, processor, test_rows[i], args.output / f"attention_{i}.png") for i in range(3)]
    sys.stdout.write(f"\n{table(before, after)}\n\n")
    sys.stdout.write(f"{args.steps} steps of {args.batch_size} scenes in {seconds:.0f} s; saved and loaded back from\n")
    sys.stdout.write("\n".join(f"  {path}" for path in [args.output / "model", *paths]) + "\n")


if __name__ == "__main__":
    main()
