# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""Checks of the arguments of a model's `forward` that mean something for one kind of batch alone."""

from collections.abc import Mapping
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from transformers.utils.generic import TransformersKwargs

from .similar_names_beta_clip import did_you_mean


# What wrappers and transformers hand to any model, None or False where nobody asked for it: PEFT the first three,
# generic code of training and generation the last two. The decorator of `forward` takes `return_dict`.
_UNSET_ARGUMENTS = ("inputs_embeds", "output_attentions", "output_hidden_states", "num_items_in_batch", "use_cache")
# By these PEFT hands over its prompts.
_PROMPT_ARGUMENTS = ("inputs_embeds", "past_key_values")
_KNOWN_ARGUMENTS = frozenset({*_UNSET_ARGUMENTS, *TransformersKwargs.__annotations__})


def check_unset(arguments: Mapping[str, Tensor | None], missing: str) -> None:
    """Raises `ValueError` if one of the arguments is given, which mean nothing without the missing one."""
    for name, value in arguments.items():
        if value is not None:
            raise ValueError(f"{name} needs {missing} beside it, but {missing} is missing")


def checked_arguments_of_plain_batch(kwargs: dict[str, Any], forward: Any) -> dict[str, Any]:
    """
    Checks the names of the arguments of a plain batch that are not in the signature of `forward`.

    `CLIPModel` takes any name without a word, so that a batch with a misspelt `image_index` would be a plain one.

    Returns:
        The arguments that are set. `CLIPModel` does not take `inputs_embeds`, which PEFT hands to it unset.

    Raises:
        TypeError: If one is known neither to this model nor to transformers; the message names the most similar one.
        ValueError: If one is a prompt of PEFT.
    """
    for name in _PROMPT_ARGUMENTS:
        if kwargs.get(name) is not None:
            raise ValueError(_refusal(name, kwargs[name]))
    for name in kwargs:
        if name not in _KNOWN_ARGUMENTS:
            similar = did_you_mean(name, {*_KNOWN_ARGUMENTS, *signature(forward).parameters})
            raise TypeError(f"forward got an unexpected keyword argument {name!r}{similar}")
    return {name: value for name, value in kwargs.items() if value is not None}


def check_one_of(**arguments: Any) -> None:
    """Raises `ValueError` unless exactly one of two arguments is given."""
    if sum(value is not None for value in arguments.values()) != 1:
        raise ValueError(f"exactly one of {' and '.join(arguments)} must be given")


def check_not_traced(image_index: Tensor | None) -> None:
    """Raises `ValueError` if a batch with `image_index` is traced: texts of other lengths would get wrong features."""
    if image_index is not None and torch.jit.is_tracing():
        raise ValueError(
            "a batch with image_index must not be traced by torch.jit.trace, which would keep the lengths of its texts "
            "for all batches: use torch.export with the collator's plan, or torch.compile"
        )


def check_arguments_of_flat_batch(kwargs: dict[str, Any], config: Any) -> None:
    """
    Checks the arguments of a batch with `image_index` that are not in the signature. None of them has an effect.

    Raises:
        TypeError: If one is not known.
        ValueError: If one is known, but asks for what a flat batch does not offer.
    """
    for name in ("output_attentions", "output_hidden_states"):
        # The configuration may ask for them, too.
        if kwargs.get(name) is None and getattr(config, name, False):
            raise ValueError(_refusal(name, True))
    for name, value in kwargs.items():
        if name in ("gather", "objective"):
            raise TypeError(f"{name} is an argument of `loss_context`, and not of forward")
        if name not in (*_UNSET_ARGUMENTS, *_PROMPT_ARGUMENTS):
            raise TypeError(f"forward got an unexpected keyword argument {name!r} for a batch with image_index")
        # Not `in`: a tensor has no single truth value to compare.
        if value is not None and value is not False:
            raise ValueError(_refusal(name, value))


def _refusal(name: str, value: Any) -> str:
    """Returns the sentence for an argument that a batch with `image_index` has no use for."""
    if name == "output_attentions":
        return (
            "output_attentions must be False for a batch with image_index, whose texts share rows: use "
            "get_text_conditioned_image_features for the attention of the pooler, or a batch without image_index"
        )
    if name == "output_hidden_states":
        return (
            "output_hidden_states must be False for a batch with image_index, whose texts share rows: use "
            "get_patch_features for those of images, or a batch without image_index"
        )
    if name in _PROMPT_ARGUMENTS:
        return (
            f"{name} must be left unset, because texts come as input_ids: of PEFT's methods use one that changes "
            "weights, such as LoRA, and not prompts"
        )
    shown = "a tensor" if isinstance(value, Tensor) else repr(value)
    return f"{name} must be left unset for a batch with image_index, but is {shown}"


__all__ = [
    "check_arguments_of_flat_batch",
    "check_not_traced",
    "check_one_of",
    "check_unset",
    "checked_arguments_of_plain_batch",
]
