"""Trainer callbacks: bounds on parameters, checkpointing of the towers, the sampling epoch."""

import logging
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import TrainerCallback, TrainerControl, TrainerState

from ...model.positions_beta_clip import KEPT_TEXT_POSITIONS
from ...model.towers_beta_clip import CLIPTowers
from ..arguments import BetaCLIPTrainingArguments
from ..distributed import local_part, whole_tensor
from ..parameters.names import used_parameters
from .recomputation import keep_linear_outputs


logger = logging.getLogger(__name__)

# The position table that was stretched. In a model with two text paths it is the table of the long path.
STRETCHED_POSITIONS = (
    "text_model.embeddings.long_position_embedding.weight",
    "text_model.embeddings.position_embedding.weight",
)
# A logit scale so close to a bound has reached it.
_AT_BOUND = 1e-4


class ParameterBounds(TrainerCallback):
    r"""
    Keeps parameters within their bounds after each optimiser step.

    Logit scales are clamped to [0, ln `logit_scale_max`]. Frozen text positions get back the values that they had when
    the training began.

    Freezing acts twice. A hook zeroes the gradient of the frozen rows, so that they add nothing to the gradient norm
    and have no moments in the optimiser. The rows are also written back after the step, because weight decay and some
    optimisers move a row whose gradient is zero.
    """

    def __init__(self) -> None:
        self.logit_scales: list[nn.Parameter] = []
        self.table: nn.Parameter | None = None
        # For this process's part of the table: which rows are frozen `(rows, 1)`, and all its values.
        self.is_frozen: Any = None
        self.frozen_values: Tensor | None = None
        self.hook: Any = None
        self.warned_scales: set[str] = set()

    def on_train_begin(
        self,
        args: BetaCLIPTrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module,
        **kwargs: Any,
    ) -> None:
        """Finds the logit scales and, if they are frozen, copies the first text positions."""
        parameters = dict(used_parameters(model))
        scales = [parameters[name] for name in parameters if name.endswith("logit_scale")]
        # A frozen scale stays as it is, whatever it is.
        self.logit_scales = [scale for scale in scales if scale.requires_grad]
        if args.logit_scale_max:
            _warn_of_larger_scales(parameters, args.logit_scale_max)
        if args.freeze_text_positions:
            table = _stretched_table(parameters)
            self.table = table
            self.is_frozen = _frozen_places(table)
            self.frozen_values = local_part(table.detach()).clone()
            if table.requires_grad:
                self.hook = _register_hook(table, self.is_frozen)

    @torch.no_grad()
    def on_optimizer_step(
        self, args: BetaCLIPTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Clamps the logit scales and writes the frozen rows back."""
        if args.logit_scale_max:
            for logit_scale in self.logit_scales:
                logit_scale.clamp_(0, math.log(args.logit_scale_max))
        if self.table is not None and self.frozen_values is not None:
            rows = local_part(self.table)
            rows.copy_(torch.where(self.is_frozen, self.frozen_values, rows))

    def on_log(
        self,
        args: BetaCLIPTrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Warns once of each logit scale that has drifted to a bound, where it no longer learns."""
        for name, value in (logs or {}).items():
            if not name.endswith("logit_scale") or name in self.warned_scales:
                continue
            if value <= 1 + _AT_BOUND:
                meaning = "it tells no image from another"
            elif args.logit_scale_max and value >= args.logit_scale_max * (1 - _AT_BOUND):
                meaning = "it is as sharp as logit_scale_max allows"
            else:
                continue
            self.warned_scales.add(name)
            logger.warning("%s has drifted to %.4g by step %d: %s", name, value, state.global_step, meaning)

    def on_train_end(
        self, args: BetaCLIPTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Removes the gradient hook and forgets the table."""
        if self.hook is not None:
            self.hook.remove()
        self.hook = None
        self.table = None
        self.is_frozen = None
        self.frozen_values = None


def _warn_of_larger_scales(parameters: dict[str, nn.Parameter], bound: float) -> None:
    """Warns of each logit scale that the first step would clamp."""
    for name, parameter in parameters.items():
        # A model without storage has no values to compare.
        if name.endswith("logit_scale") and parameter.requires_grad and not parameter.is_meta:
            # A scale that is sharded lies with one process.
            value = whole_tensor(parameter.detach()).exp().item()
            # CLIP's own scale is the bound itself, up to rounding.
            if value > bound * (1 + _AT_BOUND):
                logger.warning(
                    "%s is %.4g, and becomes logit_scale_max=%g with the first step: to keep it, set a larger bound, "
                    "or 0 for none",
                    name,
                    value,
                    bound,
                )


def _stretched_table(parameters: dict[str, nn.Parameter]) -> nn.Parameter:
    for stretched in STRETCHED_POSITIONS:
        if stretched in parameters:
            return parameters[stretched]
    raise ValueError("freeze_text_positions needs a table of text positions, but the model has none")


def _frozen_places(table: nn.Parameter) -> Tensor:
    """Returns which rows of this process's part of the table are frozen, `(rows, 1)` bool."""
    row = torch.arange(len(table), device=table.device)[:, None]
    is_frozen = row < KEPT_TEXT_POSITIONS
    if isinstance(table, DTensor):
        # Sharded in the same way, so that the parts fit.
        is_frozen = distribute_tensor(is_frozen, table.device_mesh, table.placements)
    return local_part(is_frozen)


def _register_hook(table: nn.Parameter, is_frozen: Tensor) -> Any:
    """Makes the gradient of frozen rows zero, and returns the handle of the hook."""
    if not isinstance(table, DTensor):
        # A hook must not change the gradient in place: autograd may still use it elsewhere.
        return table.register_hook(lambda gradient: gradient.masked_fill(is_frozen, 0))

    def zero_rows(parameter: Tensor) -> None:
        assert parameter.grad is not None
        local_part(parameter.grad).masked_fill_(is_frozen, 0)

    # autograd sees the gathered table only. FSDP2 calls this hook once the shard has its gradient.
    return table.register_post_accumulate_grad_hook(zero_rows)


class CheckpointedTowers(TrainerCallback):
    """Sets what the towers keep for the backward pass before the first step: gradient checkpointing, half blocks."""

    def on_train_begin(
        self,
        args: BetaCLIPTrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module,
        **kwargs: Any,
    ) -> None:
        """Switches the checkpointing of both towers on, and half blocks off, where the arguments ask for it."""
        if not args.half_blocks:
            # The model may be inside of an adapter.
            for module in model.modules():
                if isinstance(module, CLIPTowers):
                    module.half_blocks = False
        elif args.torch_compile:
            logger.info("half blocks are not used in a compiled model, which saves memory in its own ways")
        _checkpoint_tower(model.get_submodule("vision_model"), args.vision_checkpointing)
        _checkpoint_tower(model.get_submodule("text_model"), args.text_checkpointing)


def _checkpoint_tower(tower: Any, kind: str) -> None:
    if kind == "none":
        return
    # The reentrant kind does not take a context function, and DDP's search for unused parameters fails with it.
    settings: dict[str, Any] = {"use_reentrant": False}
    if kind == "selective":
        settings["context_fn"] = keep_linear_outputs
    # transformers has renamed the method; its older releases know the second name only.
    enable = getattr(tower, "activation_checkpointing_enable", None) or tower.gradient_checkpointing_enable
    enable(settings)


class SamplingEpoch(TrainerCallback):
    """Tells the collator the number of each epoch, also in a resumed run, and reports the rows that it skipped."""

    def __init__(self, collator: Any) -> None:
        self.collator = collator

    def on_epoch_begin(
        self, args: BetaCLIPTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Sets the epoch of the collator, from which it draws its random texts and crops."""
        if hasattr(self.collator, "set_epoch"):
            self.collator.set_epoch(int(state.epoch or 0))

    def on_train_end(
        self, args: BetaCLIPTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Warns of skipped rows."""
        skipped = int(getattr(self.collator, "skipped", 0))
        if skipped:
            logger.warning("%d rows could not be used in training and were skipped; each is in the log", skipped)


__all__ = ["CheckpointedTowers", "ParameterBounds", "SamplingEpoch"]
