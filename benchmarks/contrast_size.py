"""Measures whether it helps that the losses see the texts of all processes, by training with smaller contrasts.

    python benchmarks/contrast_size.py --seeds 0 1 2

A small model is trained on generated scenes, with the same rows, order, steps and optimiser. It contrasts either the
whole batch, as `gather_across_processes=True` does on any number of processes, or 2 or 4 equal shares of it, each by
itself. The shares are emulated in one process: the objective is the mean of the losses of the shares, whose gradient
is the mean over processes that DDP takes with `gather_across_processes=False`. The benchmark measures retrieval of
whole captions by CLS and EOS, on scenes that no model was trained on.
"""

import argparse
import logging
import statistics
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from report import OUTPUT, markdown_table, write_report
from torch import Tensor

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
from beta_clip_hf.model.loss_inputs_beta_clip import FlatEmbeds
from beta_clip_hf.model.objective_beta_clip import batch_objective


TOWER = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2}
METRICS = {
    "image to text R@1": "eval_i2t_r1",
    "text to image R@1": "eval_t2i_r1",
    "image to text R@10": "eval_i2t_r10",
    "text to image R@10": "eval_t2i_r10",
}


class ShareTrainer(BetaCLIPTrainer):
    """Contrasts each of `num_shares` equal parts of a batch by itself."""

    num_shares = 1

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Returns the mean of the losses of the shares."""

        def objective(embeds: FlatEmbeds, scales: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
            losses, parts_by_share = [], []
            for share in split_batch(embeds, self.num_shares):
                loss, parts = batch_objective(self.model.config, share, scales)
                losses.append(loss)
                parts_by_share.append(parts)
            mean_parts = {}
            for name in parts_by_share[0]:
                mean_parts[name] = torch.stack([parts[name] for parts in parts_by_share]).mean()
            return torch.stack(losses).mean(), mean_parts

        with self.model.loss_context(objective=objective):
            return super().compute_loss(model, inputs, *args, **kwargs)


def split_batch(embeds: FlatEmbeds, num_shares: int) -> list[FlatEmbeds]:
    """Returns the batches that as many processes would have, of equally many images. Texts of an image are adjacent."""
    assert embeds.caption_B is not None and embeds.short_J is not None and embeds.aligned_A is not None
    assert embeds.contextualized_TD is not None
    num_images = len(embeds.image_BD) // num_shares
    # The first text of each share, and the end of the last.
    text_ends_B = embeds.image_index_T.bincount().cumsum(0)
    edges = [0, *text_ends_B[num_images - 1 :: num_images].tolist()]
    shares = []
    for number, (start, stop) in enumerate(pairwise(edges)):
        first_image = number * num_images
        images, texts = slice(first_image, first_image + num_images), slice(start, stop)
        share = FlatEmbeds(
            image_BD=embeds.image_BD[images],
            text_TD=embeds.text_TD[texts],
            image_index_T=embeds.image_index_T[texts] - first_image,
            caption_B=embeds.caption_B[images] - start,
            short_J=within(embeds.short_J, start, stop),
            aligned_A=within(embeds.aligned_A, start, stop),
            contextualized_TD=embeds.contextualized_TD[texts],
        )
        shares.append(share)
    return shares


def within(index: Tensor, start: int, stop: int) -> Tensor:
    """Returns the indices between two texts, counted from the first."""
    return index[(index >= start) & (index < stop)] - start


def train(num_shares: int, seed: int, rows: list[dict[str, Any]], args: argparse.Namespace) -> dict[str, float]:
    """Trains a model and returns its retrieval, in per cent."""
    tokenizer = train_clip_tokenizer(scene_captions(2000, seed=0, level="easy"), vocab_size=1000)
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    torch.manual_seed(seed)
    config = BetaCLIPConfig(
        projection_dim=64,
        pooler_num_attention_heads=2,
        text_config={**TOWER, **ids, "vocab_size": len(tokenizer)},
        vision_config={**TOWER, "image_size": 64, "patch_size": 8},
    )
    model, processor = BetaCLIPModel(config), BetaCLIPProcessor.from_image_size(tokenizer, 64, squash=True)
    with tempfile.TemporaryDirectory() as folder:
        arguments = BetaCLIPTrainingArguments(
            output_dir=folder,
            max_steps=args.steps,
            per_device_train_batch_size=args.batch_size,
            learning_rate=2e-3,
            learning_rate_end=2e-5,
            pooler_learning_rate=2e-3,
            pooler_learning_rate_end=2e-5,
            warmup_steps=args.steps // 10,
            logging_steps=args.steps,
            save_strategy="no",
            max_grad_norm=1.0,
            report_to="none",
            disable_tqdm=True,
            seed=seed,
        )
        collator = BetaCLIPDataCollator(processor, num_phrases=args.phrases, seed=seed)
        trainer = ShareTrainer(model, arguments, collator, train_dataset=rows, processing_class=processor)
        trainer.num_shares = num_shares
        trainer.train()
        metrics = trainer.evaluate(SceneDataset(args.test_scenes, seed=1, level="easy", image_size=64))
    return {name: 100 * metrics[key] for name, key in METRICS.items()}


def markdown(runs: list[dict[str, Any]], batch_size: int) -> str:
    """Formats mean and standard deviation over the seeds; then of the difference to the whole batch, seed by seed."""
    by_shares: dict[int, list[dict[str, float]]] = {}
    for run in runs:
        by_shares.setdefault(run["shares"], []).append(run["figures"])
    rows = []
    for num_shares, results in sorted(by_shares.items()):
        cells = []
        for name in METRICS:
            cells.append(format_mean([result[name] for result in results]))
        rows.append([batch_size // num_shares, *cells])
    whole_results = by_shares.get(1, [])
    for num_shares, results in sorted(by_shares.items()):
        if num_shares == 1 or not whole_results:
            continue
        cells = []
        for name in METRICS:
            pairs = zip(results, whole_results, strict=True)
            cells.append(format_mean([result[name] - whole[name] for result, whole in pairs], "+"))
        rows.append([f"{batch_size // num_shares} – {batch_size}", *cells])
    return markdown_table(["images of a contrast", *METRICS], rows)


def format_mean(values: list[float], sign: str = "") -> str:
    """Formats mean and standard deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):{sign}.1f} ± {deviation:.1f}"


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="seeds to train with (0 1 2)")
    parser.add_argument("--shares", nargs="+", type=int, default=[1, 2, 4], help="contrasts of a batch (1 2 4)")
    parser.add_argument("--steps", type=int, default=250, help="optimiser steps (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="scenes per step, of all shares (%(default)s)")
    parser.add_argument("--phrases", type=int, default=4, help="largest number of phrases of a scene (%(default)s)")
    parser.add_argument("--test-scenes", type=int, default=500, help="scenes to measure on (%(default)s)")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder for JSON and table (%(default)s)")
    args = parser.parse_args()
    logging.disable(logging.INFO)
    runs = []
    for seed in args.seeds:
        rows = list(SceneDataset(args.steps * args.batch_size, seed=10 + seed, level="easy", image_size=64))
        for num_shares in args.shares:
            run = {"seed": seed, "shares": num_shares, "figures": train(num_shares, seed, rows, args)}
            runs.append(run)
            sys.stderr.write(f"{run}\n")
    title = f"Retrieval after training with a contrast over all rows or a share of them, {len(args.seeds)} seeds"
    write_report(args.output / "contrast_size", title, markdown(runs, args.batch_size), runs, settings=vars(args))


if __name__ == "__main__":
    main()
