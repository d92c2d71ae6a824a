# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""Activations by operators that keep little for the backward pass, and have a fused operator for it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import ACT2FN, QuickGELUActivation


# QuickGELU(x) = x · sigmoid(1.702 x) = silu(1.702 x) / 1.702.
QUICK_GELU_FACTOR = 1.702


class FusedQuickGELU(QuickGELUActivation):
    """
    QuickGELU which, in training mode, is one fused operator between two products with a number.

    transformers' own has three operators, two of which keep a tensor of the inner layer's size. This one keeps one, and
    differs by rounding. In inference it is transformers' own, bit for bit.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Applies the activation to each number."""
        if not self.training:
            return super().forward(input)
        # In place: silu keeps what it was given, not what it returned.
        return F.silu(input * QUICK_GELU_FACTOR).mul_(1 / QUICK_GELU_FACTOR)


def fuse_in_training(activation: nn.Module) -> nn.Module:
    """Makes a QuickGELU of transformers a [`FusedQuickGELU`], in place, and returns the activation."""
    if type(activation) is QuickGELUActivation:
        # The class alone changes, so that a model has the same modules under the same names.
        activation.__class__ = FusedQuickGELU
    return activation


@dataclass(frozen=True)
class FusedActivation:
    """Describes activation(x) = function(factor · x) / factor by operators of torch."""

    factor: float
    function: Callable[[Tensor], Tensor]
    backward: Callable[[Tensor, Tensor], Tensor]
    """Returns the gradient of the function's input, from that of its output and the input."""


_QUICK_GELU = FusedActivation(QUICK_GELU_FACTOR, F.silu, torch.ops.aten.silu_backward)
_SILU = FusedActivation(1.0, F.silu, torch.ops.aten.silu_backward)
_GELU = FusedActivation(1.0, F.gelu, torch.ops.aten.gelu_backward)
_GELU_TANH = FusedActivation(
    1.0, partial(F.gelu, approximate="tanh"), partial(torch.ops.aten.gelu_backward, approximate="tanh")
)

# By the class of the module: a user may have replaced the one that the configuration names.
_FUSED: dict[type[nn.Module], FusedActivation] = {
    FusedQuickGELU: _QUICK_GELU,
    QuickGELUActivation: _QUICK_GELU,
    nn.SiLU: _SILU,
    type(ACT2FN["silu"]): _SILU,
    type(ACT2FN["gelu"]): _GELU,
    type(ACT2FN["gelu_pytorch_tanh"]): _GELU_TANH,
}


def fused_activation(activation: Any) -> FusedActivation | None:
    """Returns the operators of an activation, or `None` if it has no fused ones."""
    return _FUSED.get(type(activation))


__all__ = ["FusedActivation", "FusedQuickGELU", "fuse_in_training", "fused_activation"]
