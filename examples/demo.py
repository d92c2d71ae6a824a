"""Shows in minutes, without a download, what β-CLIP adds to a CLIP: `make demo`.

A small CLIP that ships with the package is fine-tuned on generated scenes, plainly and as a β-CLIP. All three models
are measured on other scenes. With your own photos, fine_tune.py does the same.
"""

import argparse
import logging
import subprocess
import sys
from pathlib import Path

import torch

from beta_clip_hf import BetaCLIPDataCollator, BetaCLIPModel, BetaCLIPProcessor, BetaCLIPTrainer, SceneDataset, scenes
from beta_clip_hf import BetaCLIPTrainingArguments as TrainingArguments
from beta_clip_hf.evaluation.evaluator import evaluate
from beta_clip_hf.evaluation.results import format_side_by_side
from beta_clip_hf.files import write_json
from beta_clip_hf.inference.identity import environment
from beta_clip_hf.inference.models import load_model
from beta_clip_hf.inference.processes import own_device
from beta_clip_hf.training.setup.config import read_config
from beta_clip_hf.visualize import plot_training_curves
from beta_clip_hf.visualize.rows import draw_phrases, draw_region_choices


# What β-CLIP adds to the model, and what it reads of a scene: captions, sentences and phrases, regions, and negatives.
RECIPE = read_config(Path(__file__).parent / "configs" / "recommended.yaml")
BETA_CLIP, BETA_CLIP_TEXTS = RECIPE["model"]["config"] | {"pooler_num_attention_heads": 2}, RECIPE["data"]
# The control goes on as the CLIP was trained: with captions alone, of which some are short.
PLAIN, PLAIN_TEXTS = {"use_pooler": False}, {"caption_mode": "caption_only", "short_caption_probability": 0.3}
# Where several scores are named, each model shows the best of those that it has.
METRICS = {
    "long caption finds its image, R@1": "long/cls/text_to_image/R@1",
    "short caption finds its image, R@1": "short/cls/text_to_image/R@1",
    "true text of a region among 11, CLS": "region_negatives/cls/accuracy",
    "true text of a region among 11, best": [
        f"region_negatives/{score}/accuracy" for score in ("cls", "region", "conditioned")
    ],
    "true caption among 5, best": [f"hard_negatives/{score}/accuracy" for score in ("cls", "conditioned")],
    "noun points at its object, best": [
        f"phrases[noun]/{score}/pointing" for score in ("attention", "region_similarity")
    ],
}
TITLES = {"before": "before", "control": "plain fine-tuning", "after": "β-CLIP"}
NEXT = """
Next (after `source .venv/bin/activate`):
  beta-clip show --model {model} --image {photos}/2.png --text "{caption}"
  beta-clip index {photos} --model {model} --output {photos}.index
  beta-clip search {photos}.index "A red square and a blue circle." --rerank 20 --html {photos}.html
  beta-clip demo --model {model}
"""
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--output", type=Path, default=Path("runs/demo"), help="directory for all files (%(default)s)")
parser.add_argument("--level", default="easy", choices=["easy", "medium"], help="level of scenes (%(default)s)")
parser.add_argument("--steps", type=int, default=200, help="optimiser steps of 32 scenes (%(default)s)")
parser.add_argument("--test-scenes", type=int, default=300, help="scenes to measure on (%(default)s)")
parser.add_argument("--seed", type=int, default=0, help="seed of new weights and of sampling (%(default)s)")
parser.add_argument("--no-control", action="store_true", help="leave out the plain fine-tuning")
parser.add_argument("--from-scratch", action="store_true", help="train a new model instead, as from_scratch.py does")


def fine_tune(output: Path, config: dict, texts: dict, args: argparse.Namespace) -> list[dict]:
    """Fine-tunes the small CLIP, as one would a checkpoint of the Hub, and saves it. Returns the log."""
    # The weights of the pooler are new.
    torch.manual_seed(args.seed)
    model = BetaCLIPModel.from_pretrained(scenes.pretrained("clip"), **config)
    processor = BetaCLIPProcessor.from_pretrained(scenes.pretrained("clip"))
    arguments = TrainingArguments(
        str(output), max_steps=args.steps, per_device_train_batch_size=32, seed=args.seed, warmup_steps=20,
        learning_rate=5e-4, learning_rate_end=1e-5, pooler_learning_rate=1e-3, pooler_learning_rate_end=1e-5,
        max_grad_norm=1.0, logging_steps=max(1, args.steps // 30), save_strategy="no", report_to="none",
    )  # fmt: skip
    # Scenes of seed 0; those of seed 1 are measured on.
    rows = SceneDataset(32 * args.steps, seed=0, level=args.level)
    collator = BetaCLIPDataCollator(processor, seed=args.seed, **texts)
    trainer = BetaCLIPTrainer(model, arguments, collator, train_dataset=rows, processing_class=processor)
    trainer.train()
    trainer.save_model()
    return trainer.state.log_history


def measure(folder: str | Path, rows: SceneDataset) -> dict:
    """Loads a model as it was saved, and measures everything that the rows have labels for."""
    model, processor, _ = load_model(str(folder), own_device())
    return evaluate(model, processor, rows, protocol=f"scenes-{rows.level}/demo")


def draw(output: Path, rows: SceneDataset) -> list[Path]:
    """Draws where phrases look, and which text is chosen for each region before and after."""
    before = load_model(scenes.pretrained("clip"), own_device())[:2]
    after = load_model(str(output / "model"), own_device())[:2]
    paths = [draw_phrases(*after, rows[number], output / f"attention_{number}.png") for number in range(3)]
    paths.append(draw_region_choices(*before, rows[2], output / "hard_negatives_before.png"))
    paths.append(draw_region_choices(*after, rows[2], output / "hard_negatives_after.png"))
    return paths


def main() -> None:
    """Fine-tunes twice, measures three models, draws, and prints one table."""
    args = parser.parse_args()
    if args.from_scratch:
        script = str(Path(__file__).with_name("from_scratch.py"))
        sys.exit(subprocess.call([sys.executable, script, *filter("--from-scratch".__ne__, sys.argv[1:])]))
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    test_rows = SceneDataset(args.test_scenes, seed=1, level=args.level)
    results, seconds = {"before": measure(scenes.pretrained("clip"), test_rows)}, {}
    if not args.no_control:
        control_log = fine_tune(args.output / "control", PLAIN, PLAIN_TEXTS, args)
        seconds["control_seconds"] = round(control_log[-1]["train_runtime"], 1)
        results["control"] = measure(args.output / "control", test_rows)
    log = fine_tune(args.output / "model", BETA_CLIP, BETA_CLIP_TEXTS, args)
    seconds["training_seconds"] = round(log[-1]["train_runtime"], 1)
    results["after"] = measure(args.output / "model", test_rows)

    settings = {name: value for name, value in vars(args).items() if name != "output"}
    record = {"settings": settings, "environment": environment(own_device()), **seconds, **results}
    paths = [args.output / "model", write_json(record, args.output / "results.json")]
    paths += [plot_training_curves(log, args.output / "curves.png"), *draw(args.output, test_rows)]
    photos = args.output / "photos"
    photos.mkdir(exist_ok=True)
    for number, row in enumerate(SceneDataset(50, seed=1, level=args.level, image_size=128)):
        row["image"].save(photos / f"{number}.png")

    columns = {TITLES[name]: result for name, result in results.items()}
    table = format_side_by_side(columns, METRICS, f"{args.test_scenes} scenes that no model has seen, %")
    sys.stdout.write(f"\n{table}\n\nbest: by the best of the scores that the model has\n\nWritten:\n")
    sys.stdout.write("".join(f"  {path}\n" for path in paths))
    sys.stdout.write(NEXT.format(model=args.output / "model", photos=photos, caption=test_rows[2]["caption"]))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted: `make demo` begins again\n")
        sys.exit(130)
