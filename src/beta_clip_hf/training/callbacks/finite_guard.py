"""The guard against losses, gradients and weights that are not finite, and against an fp16 scale that collapses."""

import logging
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState

from ..arguments import BetaCLIPTrainingArguments
from ..distributed import local_part


logger = logging.getLogger(__name__)

# fp16 halves its scale at each overflow. A run that has come down so far from 65,536 does not recover.
_LEAST_SCALE = 2.0**-10
_REMEDY = "A lower learning rate, or bf16 instead of fp16, often helps."


class NonFiniteGuard(TrainerCallback):
    r"""
    Stops a run whose loss or weights are not finite, before anything is logged, evaluated or saved.

    [`watch`] only updates a number on the device. It is read, and agreed on by all processes, when the Trainer is
    about to log, evaluate or save: these wait for the device in any case. Before a save the weights are checked too,
    so that a gradient that overflowed under a finite loss does not reach a checkpoint.

    With `max_bad_steps`, a step whose loss or gradient is not finite is passed over and counted: it changes neither
    weights nor moments. A fused optimiser leaves it out on the device; for another one each step waits for the device.
    Under fp16 its scaler passes over such steps.

    Args:
        last_checkpoint: Says where the last good checkpoint is, for the message; `None` if there is none.
        fp16_scale: Returns the scale of the loss under fp16; `None` without fp16.

    Raises:
        FloatingPointError: with the range of steps in which it happened and the last good checkpoint.
    """

    def __init__(
        self, last_checkpoint: Callable[[], str | None], fp16_scale: Callable[[], float | None] = lambda: None
    ) -> None:
        # 0 or, once a loss was not finite, NaN.
        self.trace: Tensor | None = None
        self.last_good_step = 0
        self.last_checkpoint = last_checkpoint
        self.fp16_scale = fp16_scale
        # Steps that were passed over: those that are not read from the device yet, and all others.
        self.unread_bad_steps: Tensor | None = None
        self.bad_steps = 0

    def state(self, processes: Any) -> int:
        """Returns what a checkpoint keeps: the number of steps that were passed over. All processes have the same."""
        return self._read_bad_steps()

    def restore(self, state: int) -> None:
        """Goes on counting in a resumed run."""
        self.bad_steps = int(state)

    def _read_bad_steps(self) -> int:
        if self.unread_bad_steps is not None:
            self.bad_steps += int(self.unread_bad_steps)
            self.unread_bad_steps = None
        return self.bad_steps

    @torch.no_grad()
    def watch(self, loss: Tensor) -> None:
        """Remembers whether a loss was NaN or infinite, without waiting for the device."""
        # 0 for a number, NaN for all else: one operator, where `isfinite` has five.
        trace = loss - loss
        self.trace = trace if self.trace is None else self.trace + trace

    def check(self, args: BetaCLIPTrainingArguments, state: TrainerState, model: nn.Module, weights: bool) -> None:
        """
        Raises if any process has seen a value that is not finite since the last check. All processes must call it.

        Args:
            args, state, model: Those of the Trainer.
            weights: Whether the weights are checked as well as the losses.

        Raises:
            FloatingPointError: if a loss or a weight of any process is NaN or infinite.
        """
        scale = self.fp16_scale()
        if scale is not None and scale < _LEAST_SCALE:
            raise FloatingPointError(
                f"the fp16 scale of the loss must not collapse, but is {scale:.2g} after step {state.global_step}: the "
                f"gradient overflows at every step; training stops, {self._kept()}. Train in bf16 or float32"
            )
        if self._is_bad_anywhere(args, model, weights):
            raise FloatingPointError(
                "the loss and the weights must be finite, but are not since one of the steps "
                f"{self.last_good_step + 1} to {state.global_step}; training stops, {self._kept()}. {_REMEDY}"
            )
        if self._read_bad_steps() > args.max_bad_steps:
            raise FloatingPointError(
                f"the loss and the gradient must be finite in all but {args.max_bad_steps} steps (max_bad_steps), but "
                f"are not in {self.bad_steps} up to step {state.global_step}; training stops, {self._kept()}. {_REMEDY}"
            )
        self.trace = None
        self.last_good_step = state.global_step

    def _kept(self) -> str:
        checkpoint = self.last_checkpoint()
        return f"the last good checkpoint is {checkpoint}" if checkpoint else "no checkpoint was saved"

    @torch.no_grad()
    def on_pre_optimizer_step(
        self,
        args: BetaCLIPTrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module,
        optimizer: Any,
        **kwargs: Any,
    ) -> None:
        """Passes over the step if its loss or gradient is not finite. A fused optimiser waits for no device."""
        if not args.max_bad_steps or args.fp16:
            return
        gradients = [local_part(parameter.grad) for parameter in model.parameters() if parameter.grad is not None]
        if not gradients:
            return
        is_bad = ~torch.stack([norm.isfinite() for norm in torch._foreach_norm(gradients)]).all()
        if self.trace is not None:
            is_bad = is_bad | self.trace.isnan()
        found_inf = is_bad.float()
        if args.world_size > 1:
            dist.all_reduce(found_inf, op=dist.ReduceOp.MAX)
        inner = getattr(optimizer, "optimizer", optimizer)
        if inner.defaults.get("fused"):
            # With this, the kernel leaves the step out.
            inner.grad_scale, inner.found_inf = None, found_inf
            for gradient in gradients:
                gradient.masked_fill_(found_inf > 0, 0)
        elif found_inf.item() > 0:
            # Without a gradient an optimiser leaves a weight and its moments alone; with one of 0 it would not.
            for parameter in model.parameters():
                parameter.grad = None
        if self.unread_bad_steps is None:
            self.unread_bad_steps = torch.zeros_like(found_inf)
        self.unread_bad_steps += found_inf
        self.trace = None

    @torch.no_grad()
    def _is_bad_anywhere(self, args: BetaCLIPTrainingArguments, model: nn.Module, weights: bool) -> bool:
        device = next(model.parameters()).device
        trace = torch.zeros((), device=device) if self.trace is None else self.trace
        bad = trace.isnan()
        if weights:
            # Each process looks at its own part of what is sharded.
            finite = torch.stack([local_part(parameter).isfinite().all() for parameter in model.parameters()])
            bad = bad | ~finite.all()
        # Not every backend reduces booleans.
        bad_anywhere = bad.float()
        if args.world_size > 1:
            dist.all_reduce(bad_anywhere, op=dist.ReduceOp.MAX)
        return bool(bad_anywhere.item())

    def on_train_begin(
        self, args: BetaCLIPTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Starts from the step that the run begins with."""
        self.trace = None
        self.last_good_step = state.global_step

    def on_step_end(
        self,
        args: BetaCLIPTrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module,
        **kwargs: Any,
    ) -> None:
        """Checks the losses before a log record, and the weights too before an evaluation or a save."""
        uses_weights = control.should_save or control.should_evaluate
        if control.should_log or uses_weights:
            self.check(args, state, model, weights=uses_weights)

    def on_epoch_end(
        self,
        args: BetaCLIPTrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module,
        **kwargs: Any,
    ) -> None:
        """Checks as [`on_step_end`] does: logs, evaluations and saves may be due once an epoch."""
        self.on_step_end(args, state, control, model)

    def on_train_end(
        self,
        args: BetaCLIPTrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module,
        **kwargs: Any,
    ) -> None:
        """Checks losses and weights before the final model is saved."""
        self.check(args, state, model, weights=True)


__all__ = ["NonFiniteGuard"]
