"""Trains a small β-CLIP from random weights: `make demo DEMO_ARGS=--from-scratch`.

It learns from generated scenes, is measured on others before and after, and its phrases are drawn.
"""

import argparse
import logging
import sys
from pathlib import Path

import torch

from beta_clip_hf import BetaCLIPDataCollator, BetaCLIPModel, BetaCLIPProcessor, BetaCLIPTrainer, SceneDataset
from beta_clip_hf import BetaCLIPTrainingArguments as TrainingArguments
from beta_clip_hf.evaluation.evaluator import evaluate
from beta_clip_hf.evaluation.results import format_side_by_side
from beta_clip_hf.files import write_json
from beta_clip_hf.inference.identity import environment
from beta_clip_hf.training.setup.build import build_model
from beta_clip_hf.visualize import plot_training_curves
from beta_clip_hf.visualize.rows import draw_phrases


TOWER = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4}
METRICS = {
    "image to text R@1": "long/cls/image_to_text/R@1",
    "text to image R@1": "long/cls/text_to_image/R@1",
    "text to image R@1, text-conditioned": "long/all_pairs/text_to_image/R@1",
    "true caption among 5": "hard_negatives/cls/accuracy",
    "true caption among 5, text-conditioned": "hard_negatives/conditioned/accuracy",
    "  true, or with a colour that is not there": "hard_negatives[replace]/conditioned/accuracy",
    "  true, or with two colours exchanged": "hard_negatives[colour]/conditioned/accuracy",
    "pointing game, attention of noun phrases": "phrases[noun]/attention/pointing",
}
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--output", type=Path, default=Path("runs/demo"), help="directory for all files (%(default)s)")
parser.add_argument("--level", default="easy", choices=["easy", "medium", "hard"], help="level of scenes (%(default)s)")
parser.add_argument("--steps", type=int, default=200, help="optimiser steps (%(default)s)")
parser.add_argument("--batch-size", type=int, default=32, help="scenes per step (%(default)s)")
parser.add_argument("--test-scenes", type=int, default=200, help="scenes to measure on (%(default)s)")
parser.add_argument("--image-size", type=int, default=64, help="pixels, a multiple of 8 (%(default)s)")
parser.add_argument("--seed", type=int, default=0, help="seed of weights and sampling (%(default)s)")
args = parser.parse_args()
logging.basicConfig(level=logging.INFO, format="%(message)s")
torch.manual_seed(args.seed)
scenes = {"level": args.level, "image_size": args.image_size}
# Training uses seed 0: no test scene is trained on.
test_rows = SceneDataset(args.test_scenes, seed=1, **scenes)
# Few wide heads learn where to look in fewer steps.
settings = {"tokenizer": {"vocab_size": 1000}, "from_scratch": {
    "projection_dim": 128, "pooler_num_attention_heads": 2, "text_config": TOWER | {"num_hidden_layers": 2},
    "vision_config": TOWER | {"image_size": args.image_size, "patch_size": 8},
}}  # fmt: skip
model, processor = build_model(settings, SceneDataset(2000, **scenes))
before = evaluate(model, processor, test_rows, protocol=f"scenes-{args.level}/demo")
arguments = TrainingArguments(
    str(args.output / "model"), max_steps=args.steps, per_device_train_batch_size=args.batch_size, seed=args.seed,
    learning_rate=1e-3, learning_rate_end=1e-5, pooler_learning_rate_end=1e-5, warmup_steps=args.steps // 10,
    max_grad_norm=1.0, logging_steps=max(1, args.steps // 30), save_strategy="no", report_to="none",
)  # fmt: skip
collator = BetaCLIPDataCollator(processor, num_phrases=6, seed=args.seed)
rows = SceneDataset(args.steps * args.batch_size, **scenes)
trainer = BetaCLIPTrainer(model, arguments, collator, train_dataset=rows, processing_class=processor)
seconds = trainer.train().metrics["train_runtime"]
trainer.save_model()
# The saved model is measured.
model = BetaCLIPModel.from_pretrained(args.output / "model").eval()
processor = BetaCLIPProcessor.from_pretrained(args.output / "model")
after = evaluate(model, processor, test_rows, protocol=f"scenes-{args.level}/demo")
numbers = {name: value for name, value in vars(args).items() if name != "output"}
results = {"settings": numbers, "environment": environment(model.device), "training_seconds": round(seconds, 1)}
paths = [write_json(results | {"before": before, "after": after}, args.output / "results.json")]
paths.append(plot_training_curves(trainer.state.log_history, args.output / "curves.png"))
for number in range(3):
    paths.append(draw_phrases(model, processor, test_rows[number], args.output / f"attention_{number}.png"))
table = format_side_by_side({"before": before, "after": after}, METRICS, "scenes it has not seen, in per cent")
sys.stdout.write(f"\n{table}\n\n{args.steps} steps of {args.batch_size} scenes in {seconds:.0f} s; ")
sys.stdout.write("saved and loaded back from\n" + "".join(f"  {path}\n" for path in [args.output / "model", *paths]))
