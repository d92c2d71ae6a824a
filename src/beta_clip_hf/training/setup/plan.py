"""The plan of a run: told before its first step, and how long it takes once some steps are measured."""

import logging
import math
import sys
import time
import warnings
from datetime import timedelta
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState

from ...inference.feeding import usable_cores
from ..arguments import BetaCLIPTrainingArguments
from ..parameters.names import used_parameters


logger = logging.getLogger(__name__)

# After so many steps the time of a step is known well enough.
MEASURED_STEPS = 20
# With fewer, a new pooler has hardly moved from its random values.
FEW_STEPS = 200
# Bytes that a weight takes: itself; and, if it is trained, its gradient and the two moments of AdamW.
_WEIGHT_BYTES, _TRAINED_BYTES = 4, 16


def count_steps(trainer: Any) -> int | None:
    """Returns the number of optimiser steps of a whole run; `None` for a stream, which has no length."""
    args = trainer.args
    if args.max_steps >= 0:
        return int(args.max_steps)
    if not hasattr(trainer.train_dataset, "__len__"):
        return None
    return math.ceil(args.num_train_epochs * _steps_of_epoch(trainer))


def _batches_of_epoch(trainer: Any) -> int:
    images = trainer.args.train_batch_size * trainer.args.world_size
    batches = len(trainer.train_dataset) / images
    return math.floor(batches) if trainer.args.dataloader_drop_last else math.ceil(batches)


def _steps_of_epoch(trainer: Any) -> int:
    return max(1, math.ceil(_batches_of_epoch(trainer) / trainer.args.gradient_accumulation_steps))


class Plan(TrainerCallback):
    """
    Logs the plan of a run, and after some steps how long the rest takes and how much memory it needs.

    Args:
        trainer: The Trainer.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self._first_step = 0
        self._start_time = 0.0

    def tell(self) -> None:
        """Logs what is ahead. A run of few steps is a warning."""
        trainer = self.trainer
        steps = count_steps(trainer)
        if not trainer.is_world_process_zero() or trainer.args.trains_nothing:
            return
        self._tell_workers()
        for line in (self._data_line(), self._steps_line(steps), self._weights_line()):
            logger.info("plan: %s", line)
        if steps is not None and steps < FEW_STEPS:
            logger.warning(
                "only %d optimiser steps are ahead: a model learns little in fewer than %d; take a smaller batch, "
                "fewer training.gradient_accumulation_steps, or more --steps",
                steps,
                FEW_STEPS,
            )

    def _tell_workers(self) -> None:
        """Says once what torch would repeat in each epoch: that there are more workers than cores."""
        workers, cores = self.trainer.args.dataloader_num_workers, usable_cores()
        if workers > cores:
            warnings.filterwarnings("ignore", message="This DataLoader will create")
            logger.info(
                "%d workers read images, on %d cores: as many workers as cores are probably faster "
                "(training.dataloader_num_workers)",
                workers,
                cores,
            )

    def _data_line(self) -> str:
        rows, eval_rows = self.trainer.train_dataset, self.trainer.eval_dataset
        line = "a stream of photos to train on"
        if hasattr(rows, "__len__"):
            line = f"{len(rows):,} photos to train on"
        if eval_rows is None:
            return f"{line}, none to evaluate on"
        if isinstance(eval_rows, dict):
            return f"{line}, {len(eval_rows)} sets to evaluate on"
        if hasattr(eval_rows, "__len__"):
            return f"{line}, {len(eval_rows):,} to evaluate on"
        return f"{line}, a stream to evaluate on"

    def _steps_line(self, steps: int | None) -> str:
        args = self.trainer.args
        images = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        line = f"steps of {images:,} photos"
        if steps is not None:
            line = f"{steps:,} {line}"
        if args.gradient_accumulation_steps > 1:
            line += f" in {args.gradient_accumulation_steps} batches"
        if hasattr(self.trainer.train_dataset, "__len__") and steps is not None:
            passes = steps / _steps_of_epoch(self.trainer)
            line += f"; {_batches_of_epoch(self.trainer):,} batches in an epoch, {passes:.3g} epochs"
        return line

    def _weights_line(self) -> str:
        args = self.trainer.args
        sizes = [(weight.numel(), weight.requires_grad) for _, weight in used_parameters(self.trainer.model)]
        total = sum(size for size, _ in sizes)
        trained = sum(size for size, is_trained in sizes if is_trained)
        weights = f"{trained / 1e6:.1f} of {total / 1e6:.1f} million weights are trained"
        if args.lora:
            weights += ", adapters (LoRA) and new parts"
        elif trained == total:
            weights = f"all {total / 1e6:.1f} million weights are trained"
        else:
            weights += ", the others are frozen"
        memory = trained * _TRAINED_BYTES + (total - trained) * _WEIGHT_BYTES
        return (
            f"{weights}; learning rates {args.learning_rate:g} to {args.learning_rate_end:g}, pooler "
            f"{args.pooler_learning_rate:g} to {args.pooler_learning_rate_end:g}; {_gigabytes(memory)} for weights, "
            "gradients and optimiser, and activations on top"
        )

    def on_step_end(
        self, args: BetaCLIPTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measures from the end of the first step on: that step also sets up what the others use."""
        if not self._first_step:
            self._first_step, self._start_time = state.global_step, time.monotonic()
        done = state.global_step - self._first_step
        if done != MEASURED_STEPS - 1 or not state.is_world_process_zero:
            return
        # A GPU may still be computing what was asked of it.
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds = (time.monotonic() - self._start_time) / done
        rest = state.max_steps - state.global_step
        peak = _memory_peak()
        peak_text = f"; the memory peak is {_gigabytes(peak)}" if peak else ""
        logger.info(
            "plan: a step takes %.2g s, so the other %d steps take about %s, and evaluations come on top%s",
            seconds,
            rest,
            timedelta(seconds=round(seconds * rest)),
            peak_text,
        )


def _memory_peak() -> int:
    """Returns the largest number of bytes in use so far: of the GPU, or of the process."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    try:
        import resource
    except ImportError:
        # Windows has no such counter in Python.
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # macOS counts bytes, and Linux kibibytes.
    return peak if sys.platform == "darwin" else peak * 1024


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.2g} GB"


__all__ = ["FEW_STEPS", "MEASURED_STEPS", "Plan", "count_steps"]
