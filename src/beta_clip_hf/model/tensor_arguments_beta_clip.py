# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""Arguments of a model's methods that are tensors, but come as lists or numpy arrays."""

from collections.abc import Callable, Mapping
from functools import wraps
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from .patch_map_beta_clip import PatchMap


# Shapes that towers read on the CPU, wherever the model is.
_READ_ON_CPU = ("spatial_shapes", "image_sizes")
# Whole numbers, also where there are none, whose kind an empty list does not say.
_WHOLE_NUMBERS = ("input_ids", "index", "shapes", "mask")


def takes_lists(method: Callable[..., Any]) -> Callable[..., Any]:
    """
    Makes a method of a model take lists of numbers and numpy arrays for its tensors: those that it annotates so.

    They are moved to the model's device. Tensors are passed on as they are. What is no tensor of numbers raises
    `ValueError`, in a sentence that names the argument.
    """
    parameters = list(signature(method).parameters.values())[1:]
    # Annotations may be types or text.
    is_tensor = {parameter.name: "Tensor" in str(parameter.annotation) for parameter in parameters}
    names = list(is_tensor)

    @wraps(method)
    def taking_lists(self: Any, *args: Any, **kwargs: Any) -> Any:
        # A graph has tensors only, and this loop has no place in it.
        if torch.compiler.is_compiling():
            return method(self, *args, **kwargs)
        by_place = list(args)
        for place, (name, value) in enumerate(zip(names, args, strict=False)):
            if is_tensor[name]:
                by_place[place] = _tensor(value, name, self)
        by_name = {}
        for name, value in kwargs.items():
            by_name[name] = _tensor(value, name, self) if is_tensor.get(name) else value
        return method(self, *by_place, **by_name)

    return taking_lists


def check_tensors(arguments: Mapping[str, Any]) -> None:
    """Raises `ValueError` if an argument that is given is no tensor."""
    for name, value in arguments.items():
        if value is not None and not isinstance(value, Tensor):
            raise ValueError(f"{name} must be a tensor, as a processor and a collator make it, but is {_kind(value)}")


def _tensor(value: Any, name: str, model: Any) -> Any:
    """
    Returns numbers as a tensor on the model's device; `None`, tensors and patch maps are returned as they are.

    Raises:
        ValueError: if the value holds no numbers, or lists of several lengths.
    """
    if value is None or isinstance(value, Tensor | PatchMap):
        return value
    try:
        tensor = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(
            f"{name} must be a tensor, or numbers in lists of equal length or a numpy array, but is {_kind(value)}"
        ) from error
    if tensor.numel() == 0 and any(part in name for part in _WHOLE_NUMBERS):
        tensor = tensor.long()
    elif tensor.is_floating_point():
        # numpy's numbers have 64 bits, which the model would not take.
        tensor = tensor.float()
    return tensor if name in _READ_ON_CPU else tensor.to(model.device)


def _kind(value: Any) -> str:
    """Describes what a user gave, in few words."""
    return f"a {type(value).__name__}: {str(value)[:60]}"


__all__ = ["check_tensors", "takes_lists"]
