# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""L2-normalised embeddings, with a backward pass of few operators."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .tiled_beta_clip import at_least_float32


# The default of torch's `normalize`.
_LEAST_NORM = 1e-12


class UnitVectors(torch.autograd.Function):
    r"""
    Computes `F.normalize(embeds, dim=-1)`: x / |x|, whose gradient is (g − u (g·u)) / |x| with u = x / |x|.

    torch takes 17 operators for the gradient, most of them for norms below 1e-12, and this 5. A vector that is shorter
    than 1e-12 is divided by 1e-12, and its gradient is that of the formula, which differs from torch's unless the
    vector is 0.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(embeds: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the unit vectors and the norms."""
        norms = _norms(embeds)
        return embeds / norms, norms

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        """Keeps what torch's own keeps."""
        (embeds,) = inputs
        _, norms = output
        ctx.mark_non_differentiable(norms)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(embeds, norms)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None, _: None) -> Tensor | None:
        """Computes the gradient, by operators that can be differentiated again."""
        if gradient is None:
            return None
        embeds, norms = ctx.saved_tensors
        if torch.is_grad_enabled():
            norms = _norms(embeds)
        units = embeds / norms
        along = (gradient * units).sum(dim=-1, keepdim=True)
        return torch.addcmul(gradient, units, along, value=-1) / norms


def _norms(embeds: Tensor) -> Tensor:
    return torch.linalg.vector_norm(embeds, dim=-1, keepdim=True).clamp_min(_LEAST_NORM)


def normalize(embeds: Tensor) -> Tensor:
    """L2-normalises the last axis in at least float32 (half precision comes back as float32, float64 stays)."""
    embeds = at_least_float32(embeds)
    if torch.compiler.is_compiling() or not (embeds.requires_grad and torch.is_grad_enabled()):
        return F.normalize(embeds, dim=-1)
    units, _ = UnitVectors.apply(embeds)
    return units


__all__ = ["UnitVectors", "normalize"]
