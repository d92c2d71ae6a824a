"""A small gallery of attention pictures at each evaluation, in files and in the tools that watch a run."""

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerCallback, TrainerControl, TrainerState

from ...data.images import load_image
from ...data.rows import check_row
from ...inference.look import look, split_texts
from ...visualize.look import write_look
from ...visualize.style import require_matplotlib
from ..arguments import BetaCLIPTrainingArguments
from ..parameters.names import unwrapped


GALLERY_DIR = "attention"
"""The directory in the output directory that holds a folder of pictures for each evaluation."""
_MOST_PHRASES = 5


class AttentionGallery(TrainerCallback):
    """
    Draws where the phrases of the first evaluation rows look, after each evaluation.

    The pictures are written to `attention/step-N/` and sent to TensorBoard, Weights & Biases and trackio, as far as the
    run reports to them, under `eval/attention/…`.

    Args:
        trainer: The Trainer.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if the model has no pooler, or its weights are sharded.
    """

    def __init__(self, trainer: Any) -> None:
        require_matplotlib()
        if getattr(unwrapped(trainer.model), "pooler", None) is None:
            raise ValueError("attention_gallery must be 0 for a model without a pooler, which has no attention to draw")
        if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            raise ValueError("attention_gallery must be 0 with FSDP and DeepSpeed: one process draws the pictures")
        self.trainer = trainer
        self.drawn_step: int | None = None

    def on_evaluate(
        self, args: BetaCLIPTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Draws the pictures of this step, once for all evaluation sets."""
        if not state.is_world_process_zero or self.drawn_step == state.global_step:
            return
        self.drawn_step = state.global_step
        folder = Path(args.output_dir) / GALLERY_DIR / f"step-{state.global_step}"
        pictures = {}
        for index, row in enumerate(self._rows(args.attention_gallery)):
            path = self._draw(row, folder / f"{index}.png")
            pictures[f"eval/attention/{index}"] = np.asarray(load_image(path))
        for callback in self.trainer.callback_handler.callbacks:
            show_pictures(callback, pictures, state.global_step)

    def _rows(self, count: int) -> list[Any]:
        """Returns the first rows of the (first) evaluation set."""
        rows = self.trainer.eval_dataset
        if isinstance(rows, dict):
            rows = next(iter(rows.values()))
        if hasattr(rows, "__len__"):
            return [rows[index] for index in range(min(count, len(rows)))]
        return list(islice(rows, count))

    def _draw(self, record: Any, path: Path) -> Path:
        row = check_row(record)
        texts = split_texts([row["caption"]], most_phrases=_MOST_PHRASES)[: 1 + _MOST_PHRASES]
        model: Any = unwrapped(self.trainer.model)
        is_training = model.training
        model.eval()
        try:
            seen = look(model, self.trainer.processing_class, row["image"], texts)
        finally:
            model.train(is_training)
        (picture,) = write_look(path, seen, texts)
        return picture


def show_pictures(callback: Any, pictures: dict[str, np.ndarray], step: int) -> None:
    """
    Sends pictures to the tool of one of transformers' callbacks; other callbacks get none.

    Args:
        callback: A callback of the Trainer.
        pictures: (height, width, 3) uint8, by the names that they get.
        step: The optimiser step.
    """
    tool = type(callback).__name__
    if tool == "TensorBoardCallback" and callback.tb_writer is not None:
        for name, pixels in pictures.items():
            callback.tb_writer.add_image(name, pixels, step, dataformats="HWC")
    elif tool == "WandbCallback":
        import wandb

        # The callback of transformers logs the step as a value too, so that steps of its own do not matter.
        pictures_of_wandb = {name: wandb.Image(pixels) for name, pixels in pictures.items()}
        wandb.log({**pictures_of_wandb, "train/global_step": step})
    elif tool == "TrackioCallback":
        import trackio

        pictures_of_trackio = {name: trackio.Image(pixels) for name, pixels in pictures.items()}
        trackio.log({**pictures_of_trackio, "train/global_step": step})


__all__ = ["GALLERY_DIR", "AttentionGallery", "show_pictures"]
