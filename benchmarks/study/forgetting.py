"""
Measures what fine-tuning on long captions costs on short ones, and what keeps it.

    python -m benchmarks.study.forgetting run --seeds 0 1 2
    python -m benchmarks.study.forgetting table

`run` trains a plain CLIP on one-sentence captions alone, as most CLIPs on the Hub were. Then it fine-tunes this CLIP on
long captions, with each recipe, each share of replayed short captions and each seed. Without replay, the weights of the
base and of the fine-tuned model are also mixed. It writes one JSON for each fine-tuning and can be stopped and started
again. `table` prints the tables from these files alone.
"""

import argparse
import logging
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from beta_clip_hf import BetaCLIPModel
from beta_clip_hf.evaluation.results import Metric
from beta_clip_hf.inference.identity import environment, model_hash
from beta_clip_hf.release.interpolate import mix
from beta_clip_hf.visualize.tables import format_markdown_table

from .arms import ARMS, Arm
from .measure import measure_model
from .records import RESULTS, read_records, rounded, write_record
from .run import Run, commit, train
from .schedules import SCHEDULES, TEST_SCENES, TEST_SEED


logger = logging.getLogger(__name__)

RECIPES = ("plain", "ce", "recommended_captions")
"""Names of the arms that fine-tune. None of them takes boxes, which a collection of captioned photos lacks."""
REPLAYED_SHARES = (0.0, 0.1, 0.5)
ALPHAS = (0.25, 0.5, 0.75)
BASE_SCENES = 80_000
"""Scenes from which the base learns. Its captions are short, and it sees each scene once."""
TUNING_SCENES = 6_400
# One seed for the base: what differs between fine-tunings is what is asked.
_BASE_SEED = 50
METRICS = {
    "short R@1": "short/cls/text_to_image/R@1",
    "long R@1": "long/cls/text_to_image/R@1",
    "region among 11": "region_negatives/cls/accuracy",
}
"""Column of the tables → metric, all by the cosine of the image and the text."""


def base_run(scenes: int = BASE_SCENES) -> Run:
    """Returns the training of the base: plain CLIP from scratch, on short captions alone."""
    collator = {"caption_mode": "caption_only", "short_caption_probability": 1.0}
    arm = replace(ARMS["plain"], name="short_captions", collator=collator)
    return Run(arm, _BASE_SEED, "scratch", schedule=SCHEDULES["scratch", "easy"].shortened((scenes,)))


def tuning_run(recipe: str, replayed: float, seed: int, base: Path, scenes: int = TUNING_SCENES) -> Run:
    """
    Returns a fine-tuning on long captions.

    Args:
        recipe: Name of an arm, see [`RECIPES`].
        replayed: Share of the rows that are short pairs instead.
        seed: Seed of the scenes, the texts that are drawn of them, and new weights.
        base: Directory of the model to fine-tune.
        scenes: Number of training scenes.
    """
    arm: Arm = ARMS[recipe]
    arm = replace(arm, collator={**arm.collator, "short_caption_probability": replayed})
    return Run(arm, seed, "finetune", clip=base, schedule=SCHEDULES["finetune", "easy"].shortened((scenes,)))


def make_base(folder: Path, scenes: int = BASE_SCENES) -> Path:
    """Trains the base and saves it, unless it is there. Returns its directory."""
    if not folder.exists():
        trained = train(base_run(scenes), is_measured=False)
        trained.model.save_pretrained(folder)
        trained.processor.save_pretrained(folder)
    return folder


def chosen_numbers(metrics: Sequence[Metric]) -> dict[str, float | None]:
    """Returns the values of [`METRICS`], by the columns of the tables."""
    values = {str(metric.name): rounded(metric.value) for metric in metrics}
    return {column: values[name] for column, name in METRICS.items()}


def result_of(run: Run, recipe: str, replayed: float, base: Path) -> dict[str, Any]:
    """
    Fine-tunes, measures, and returns the result, ready for JSON.

    Without replay, the result also has the mixtures of the base and the fine-tuned model.
    """
    trained = train(run, is_measured=False)
    model, processor = trained.model, trained.processor
    rows = run.test_rows()
    base_model = BetaCLIPModel.from_pretrained(base, dtype=torch.float32)
    # The state of a model is no copy of it: loading a mixture would change it.
    tuned_tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    metrics = {"1": chosen_numbers(measure_model(model, processor, rows, is_last=False))}
    alphas = () if replayed else ALPHAS
    for alpha in alphas:
        model.load_state_dict(mix(base_model.state_dict(), tuned_tensors, alpha))
        metrics[f"{alpha:g}"] = chosen_numbers(measure_model(model, processor, rows, is_last=False))
    return {
        "recipe": recipe,
        "replayed": replayed,
        "seed": run.seed,
        "scenes": run.schedule.points[-1],
        "base": model_hash(base_model)[:16],
        "test": {"seed": run.test_seed, "scenes": run.test_scenes},
        "commit": commit(),
        "environment": environment(torch.device(run.device)) | {"threads": torch.get_num_threads()},
        "metrics": metrics,
    }


def base_result(base: Path) -> dict[str, Any]:
    """Measures the base, and returns the result, ready for JSON."""
    # Any fine-tuning knows how to load the base: its arm has nothing new, and it is not trained.
    run = replace(tuning_run("plain", 0.0, 0, base), arm=ARMS["before"])
    trained = train(run)
    return {
        "recipe": "base",
        "scenes": BASE_SCENES,
        "base": model_hash(trained.model)[:16],
        "test": {"seed": TEST_SEED, "scenes": TEST_SCENES},
        "commit": commit(),
        "metrics": {"0": chosen_numbers(trained.evaluations.last)},
    }


def run_all(output: Path, folder: Path, seeds: Sequence[int]) -> None:
    """Runs what is missing: the first seed of all recipes and shares, then the next."""
    base = make_base(folder)
    if not (output / "base.json").exists():
        write_record(base_result(base), output / "base.json")
    for seed in seeds:
        for recipe in RECIPES:
            for replayed in REPLAYED_SHARES:
                path = output / f"{recipe}_{replayed:g}_{seed}.json"
                if not path.exists():
                    run = tuning_run(recipe, replayed, seed, base)
                    write_record(result_of(run, recipe, replayed, base), path)
                    logger.info("%s", path)


def means(records: Sequence[Mapping[str, Any]], alpha: str) -> dict[str, str]:
    """Returns the mean over the seeds and its range in per cent, by column: "45.2 (44.0 – 46.7)"."""
    cells = {}
    for column in METRICS:
        values = [100 * record["metrics"][alpha][column] for record in records]
        cells[column] = f"{statistics.mean(values):.1f} ({min(values):.1f} – {max(values):.1f})"
    return cells


def tables(records: Sequence[Mapping[str, Any]]) -> str:
    """Returns the two tables in Markdown: by the share of replayed short captions, and by alpha."""
    base = next(record for record in records if record["recipe"] == "base")
    base_cells = [f"{100 * base['metrics']['0'][column]:.1f}" for column in METRICS]
    by_replay = [["before", "", "", *base_cells]]
    by_alpha = [["before", "0", "", *base_cells]]
    for recipe in RECIPES:
        for replayed in REPLAYED_SHARES:
            runs = [r for r in records if r["recipe"] == recipe and r["replayed"] == replayed]
            if runs:
                by_replay.append([f"`{recipe}`", f"{replayed:g}", str(len(runs)), *means(runs, "1").values()])
        unreplayed = [r for r in records if r["recipe"] == recipe and r["replayed"] == 0]
        for alpha in (*map(str, ALPHAS), "1"):
            if unreplayed:
                by_alpha.append([f"`{recipe}`", alpha, str(len(unreplayed)), *means(unreplayed, alpha).values()])
    replay_table = format_markdown_table(["recipe", "replayed", "seeds", *METRICS], by_replay, is_padded=False)
    alpha_table = format_markdown_table(["recipe", "α", "seeds", *METRICS], by_alpha, is_padded=False)
    return f"{replay_table}\n\n{alpha_table}"


def main() -> None:
    """Runs what is missing, or prints the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.study.forgetting",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("action", choices=["run", "table"], help="run what is missing, or print the tables")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="(0 1 2)")
    parser.add_argument(
        "--base", type=Path, default=Path("runs/forgetting/base"), help="folder of the base (%(default)s)"
    )
    parser.add_argument("--output", type=Path, default=RESULTS / "forgetting_easy", help="folder of the results")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(1)
    if args.action == "run":
        run_all(args.output, args.base, args.seeds)
    else:
        sys.stdout.write(f"{tables(read_records(args.output))}\n")


if __name__ == "__main__":
    main()
