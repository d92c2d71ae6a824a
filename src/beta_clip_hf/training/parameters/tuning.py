"""Prepares a model for a fine-tuning, as the arguments of the Trainer say."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from ..arguments import BetaCLIPTrainingArguments
from .freezing import check_something_trains, freeze_parts, frozen_modules, parts_to_freeze
from .lora import LoraSettings, add_lora


def tuned_model(model: nn.Module, args: BetaCLIPTrainingArguments) -> nn.Module:
    """
    Returns a model of which only those parts are trained that the arguments say. It is changed in place.

    Raises:
        ImportError: if `lora` is given, but peft is not installed.
        ValueError: if the model has no such part, nothing is left to train, `lora` cannot be added, or weights are
            quantised but there is no `lora`.
    """
    parts = parts_to_freeze(args.freeze)
    if parts:
        freeze_parts(model, parts)
        check_something_trains(model, parts)
    settings = LoraSettings.from_value(args.lora)
    if settings is not None:
        return add_lora(model, settings, args.seed, frozen_modules(model, parts))
    if getattr(model, "is_quantized", False) and not hasattr(model, "peft_config"):
        raise ValueError("quantised weights must be trained with lora (training.lora: 16), but lora is not given")
    return model


def check_tuning(args: BetaCLIPTrainingArguments, arguments: Mapping[str, Any]) -> None:
    """
    Checks that the Trainer is not asked for settings that an optimiser of the caller cannot have.

    Args:
        args: The training arguments.
        arguments: Those of the Trainer, by name.

    Raises:
        ValueError: if `layer_decay` comes with an optimiser that is already made.
    """
    optimizer, _ = arguments.get("optimizers") or (None, None)
    if optimizer is not None and args.layer_decay != 1:
        raise ValueError(
            f"layer_decay must be 1 with an optimizer that is already made, but is {args.layer_decay}: "
            "use optimizer_cls_and_kwargs, or give the groups their learning rates"
        )


__all__ = ["check_tuning", "tuned_model"]
