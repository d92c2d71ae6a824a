"""What happens around the steps: bounds on parameters, checkpointing, the sampling epoch, the guard against NaN."""

import logging
import math
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_utils import get_last_checkpoint

from ..model.positions_beta_clip import KEPT_TEXT_POSITIONS
from .arguments import BetaCLIPTrainingArguments
from .recomputation import keep_linear_outputs


logger = logging.getLogger(__name__)

# The stretched table: of a model with two text paths that of the long one.
STRETCHED_POSITIONS = (
    "text_model.embeddings.long_position_embedding.weight",
    "text_model.embeddings.position_embedding.weight",
)


class ParameterBounds(TrainerCallback):
    r"""
    After each optimiser step: logit scales back into [0, ln `logit_scale_max`], frozen text positions back to what they
    were.

    Freezing acts twice. A hook zeroes the gradient of the frozen rows, so that they have no share in the gradient norm
    and no moments in the optimiser; and the rows are written back after the step, because weight decay, or any other
    optimiser, moves a row whose gradient is zero.
    """

    def __init__(self) -> None:
        self.logit_scales: list[nn.Parameter] = []
        self.table: nn.Parameter | None = None
        self.frozen_rows: Tensor | None = None
        self.hook: Any = None

    def on_train_begin(
        self,
        args: BetaCLIPTrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module,
        **kwargs: Any,
    ) -> None:
        parameters = dict(model.named_parameters())
        self.logit_scales = [parameters[name] for name in parameters if name.endswith("logit_scale")]
        if args.freeze_text_positions:
            self.table = table = next(parameters[name] for name in STRETCHED_POSITIONS if name in parameters)
            self.frozen_rows = table.detach()[:KEPT_TEXT_POSITIONS].clone()
            self.hook = table.register_hook(_without_frozen_rows) if table.requires_grad else None

    @torch.no_grad()
    def on_optimizer_step(
        self, args: BetaCLIPTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if args.logit_scale_max:
            for logit_scale in self.logit_scales:
                logit_scale.clamp_(0, math.log(args.logit_scale_max))
        if self.table is not None and self.frozen_rows is not None:
            self.table[:KEPT_TEXT_POSITIONS] = self.frozen_rows

    def on_train_end(
        self, args: BetaCLIPTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.hook is not None:
            self.hook.remove()
        self.table = self.frozen_rows = self.hook = None


def _without_frozen_rows(gradient: Tensor) -> Tensor:
    gradient = gradient.clone()
    gradient[:KEPT_TEXT_POSITIONS] = 0
    return gradient


class CheckpointedTowers(TrainerCallback):
    """Before the first step: gradient checkpointing in the towers whose arguments say so."""

    def on_train_begin(
        self,
        args: BetaCLIPTrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module,
        **kwargs: Any,
    ) -> None:
        for name, kind in (("vision_model", args.vision_checkpointing), ("text_model", args.text_checkpointing)):
            if kind != "none":
                tower: Any = model.get_submodule(name)
                # The second name is the older one.
                enable = getattr(tower, "activation_checkpointing_enable", None) or tower.gradient_checkpointing_enable
                enable({"use_reentrant": False} | ({"context_fn": keep_linear_outputs} if kind == "selective" else {}))


class SamplingEpoch(TrainerCallback):
    """Tells the collator which epoch it samples for, a resumed one too, and reports at the end what it had to skip."""

    def __init__(self, collator: Any) -> None:
        self.collator = collator

    def on_epoch_begin(
        self, args: BetaCLIPTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if hasattr(self.collator, "set_epoch"):
            self.collator.set_epoch(int(state.epoch or 0))

    def on_train_end(
        self, args: BetaCLIPTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        skipped = int(getattr(self.collator, "skipped", 0))
        if skipped:
            logger.warning("%d rows could not be used in training and were skipped; each is in the log", skipped)


class NonFiniteGuard(TrainerCallback):
    r"""
    Stops a run whose loss or weights are no longer finite, before anything is logged, evaluated or saved.

    [`watch`] only ORs into a flag on the device. The flag is read, agreed on by all processes, where the Trainer is
    about to log, evaluate or save: there the device is waited for in any case. Weights are looked at as well before a
    save, so that a gradient that overflowed under a finite loss does not reach a checkpoint.

    Raises:
        FloatingPointError: with the range of steps in which it happened and the last good checkpoint.
    """

    def __init__(self) -> None:
        self.bad: Tensor | None = None
        self.last_good_step = 0
        self.last_checkpoint: str | None = None

    @torch.no_grad()
    def watch(self, loss: Tensor) -> None:
        """Remember whether a loss was NaN or infinite, without a wait for the device."""
        bad = ~loss.detach().isfinite()
        self.bad = bad if self.bad is None else self.bad | bad

    def check(self, args: BetaCLIPTrainingArguments, state: TrainerState, model: nn.Module, weights: bool) -> None:
        """Raise if any process has seen something that is not finite since the last check. Collective."""
        device = next(model.parameters()).device
        bad = torch.zeros((), dtype=torch.bool, device=device) if self.bad is None else self.bad
        if weights:
            with torch.no_grad():
                bad = bad | ~torch.stack([parameter.isfinite().all() for parameter in model.parameters()]).all()
        bad_anywhere = bad.float()
        if args.world_size > 1:
            dist.all_reduce(bad_anywhere, op=dist.ReduceOp.MAX)
        if not bad_anywhere.item():
            self.bad, self.last_good_step = None, state.global_step
            return
        last = self.last_checkpoint
        kept = f"the last good checkpoint is {last}" if last else "no checkpoint was saved"
        raise FloatingPointError(
            f"the loss and the weights must be finite, but are not since one of the steps {self.last_good_step + 1} to "
            f"{state.global_step}; training stops, {kept}. A lower learning rate, or bf16 instead of fp16, often helps."
        )

    def on_train_begin(
        self, args: BetaCLIPTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.bad, self.last_good_step = None, state.global_step
        self.last_checkpoint = get_last_checkpoint(args.output_dir) if state.global_step else None

    def on_save(
        self, args: BetaCLIPTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.last_checkpoint = str(Path(args.output_dir, f"checkpoint-{state.global_step}"))

    def on_step_end(
        self,
        args: BetaCLIPTrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module,
        **kwargs: Any,
    ) -> None:
        saves = control.should_save or control.should_evaluate
        if control.should_log or saves:
            self.check(args, state, model, weights=saves)

    def on_epoch_end(
        self,
        args: BetaCLIPTrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module,
        **kwargs: Any,
    ) -> None:
        self.on_step_end(args, state, control, model)

    def on_train_end(
        self,
        args: BetaCLIPTrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module,
        **kwargs: Any,
    ) -> None:
        self.check(args, state, model, weights=True)


__all__ = ["CheckpointedTowers", "NonFiniteGuard", "ParameterBounds", "SamplingEpoch"]
