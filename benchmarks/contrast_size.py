"""Does it help that the losses see the texts of all processes? The same training with smaller and smaller contrasts.

    python benchmarks/contrast_size.py --seeds 0 1 2 --save runs/bench/contrast_size.json

A small model is trained on generated scenes, with the same rows, order, steps and optimiser. It contrasts either the
whole batch, as `gather_across_processes=True` does on any number of processes, or 2 or 4 equal shares of it, each by
itself. The shares are emulated in one process: the objective is the mean of the losses of the shares, whose gradient
is the mean over processes that DDP takes with `gather_across_processes=False`. Measured on scenes that none was trained
on: retrieval of whole captions by CLS and EOS.
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
from report import OUTPUT, write_report
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
from beta_clip_hf.model.objective_beta_clip import FlatEmbeds, batch_objective


TOWER = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2}
METRICS = {
    "image to text R@1": "eval_i2t_r1",
    "text to image R@1": "eval_t2i_r1",
    "image to text R@10": "eval_i2t_r10",
    "text to image R@10": "eval_t2i_r10",
}


class SharedOut(BetaCLIPTrainer):
    """Contrasts each of `shares` equal parts of a batch by itself."""

    shares = 1

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        def objective(embeds: FlatEmbeds, scales: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
            found = [batch_objective(self.model.config, part, scales) for part in parts_of(embeds, self.shares)]
            losses = {name: torch.stack([parts[name] for _, parts in found]).mean() for name in found[0][1]}
            return torch.stack([loss for loss, _ in found]).mean(), losses

        with self.model.loss_context(objective=objective):
            return super().compute_loss(model, inputs, *args, **kwargs)


def parts_of(embeds: FlatEmbeds, shares: int) -> list[FlatEmbeds]:
    """The batches that `shares` processes would have, of as many images each; texts of an image are adjacent."""
    assert embeds.caption_B is not None and embeds.short_J is not None and embeds.aligned_A is not None
    assert embeds.contextualized_TD is not None
    images = len(embeds.image_BD) // shares
    edges = [0, *(embeds.image_index_T.bincount().cumsum(0)[images - 1 :: images].tolist())]
    parts = []
    for share, (start, stop) in enumerate(pairwise(edges)):
        of_images, of_texts = slice(share * images, (share + 1) * images), slice(start, stop)
        short_J, aligned_A = (
            index[(index >= start) & (index < stop)] - start for index in (embeds.short_J, embeds.aligned_A)
        )
        parts.append(
            FlatEmbeds(
                image_BD=embeds.image_BD[of_images],
                text_TD=embeds.text_TD[of_texts],
                image_index_T=embeds.image_index_T[of_texts] - of_images.start,
                caption_B=embeds.caption_B[of_images] - start,
                short_J=short_J,
                aligned_A=aligned_A,
                contextualized_TD=embeds.contextualized_TD[of_texts],
            )
        )
    return parts


def train(shares: int, seed: int, rows: list[dict[str, Any]], args: argparse.Namespace) -> dict[str, float]:
    """The retrieval of one trained model, in per cent."""
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
        trainer = SharedOut(model, arguments, collator, train_dataset=rows, processing_class=processor)
        trainer.shares = shares
        trainer.train()
        metrics = trainer.evaluate(SceneDataset(args.test_scenes, seed=1, level="easy", image_size=64))
    return {name: 100 * metrics[key] for name, key in METRICS.items()}


def markdown(runs: list[dict[str, Any]], batch_size: int) -> str:
    """Mean and standard deviation over the seeds; below, of the difference to the whole batch, seed by seed."""
    lines = [f"| images of a contrast | {' | '.join(METRICS)} |", "|---" * (1 + len(METRICS)) + "|"]
    by_shares: dict[int, list[dict[str, float]]] = {}
    for run in runs:
        by_shares.setdefault(run["shares"], []).append(run["figures"])
    for shares, figures in sorted(by_shares.items()):
        cells = [spread([one[name] for one in figures]) for name in METRICS]
        lines.append(f"| {batch_size // shares} | {' | '.join(cells)} |")
    for shares, figures in sorted(by_shares.items()):
        if shares > 1 and 1 in by_shares:
            pairs = list(zip(figures, by_shares[1], strict=True))
            cells = [spread([one[name] - whole[name] for one, whole in pairs], "+") for name in METRICS]
            lines.append(f"| {batch_size // shares} – {batch_size} | {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: list[float], sign: str = "") -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):{sign}.1f} ± {deviation:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="(0 1 2)")
    parser.add_argument("--shares", nargs="+", type=int, default=[1, 2, 4], help="contrasts of a batch (1 2 4)")
    parser.add_argument("--steps", type=int, default=250, help="optimiser steps (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="scenes per step, of all shares (%(default)s)")
    parser.add_argument("--phrases", type=int, default=4, help="of a scene, at most (%(default)s)")
    parser.add_argument("--test-scenes", type=int, default=500, help="scenes to measure on (%(default)s)")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="for JSON and table (%(default)s)")
    args = parser.parse_args()
    logging.disable(logging.INFO)
    runs = []
    for seed in args.seeds:
        rows = list(SceneDataset(args.steps * args.batch_size, seed=10 + seed, level="easy", image_size=64))
        for shares in args.shares:
            runs.append({"seed": seed, "shares": shares, "figures": train(shares, seed, rows, args)})
            sys.stderr.write(f"{runs[-1]}\n")
    title = f"Retrieval after training with a contrast over all rows or a share of them, {len(args.seeds)} seeds"
    write_report(args.output / "contrast_size", title, markdown(runs, args.batch_size), runs, settings=vars(args))


if __name__ == "__main__":
    main()
