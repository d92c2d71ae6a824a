# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""Contrastive losses of paired rows: dense for few rows, tile by tile for many, in one process or over several.

Row i on the left belongs to row i on the right: an image to its caption, a contextualised embedding to its text, a
region to its text.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .gather_beta_clip import GatherArgument, adapted_gather
from .tiled_beta_clip import at_least_float32, tiled_contrast, tiled_sigmoid


# Logits of the largest dense loss. At 1,500² both ways take the same time on a CPU, from 2,048² on tiles win.
DENSE_LIMIT = 2048**2


@dataclass
class PairedContrast:
    """The symmetric contrast of `clip_loss` and `region_loss`; rows of the same id are not each other's negatives."""

    logit_scale: Tensor | float

    def dense(self, left_ED: Tensor, right_ED: Tensor, text_id_E: Tensor | None) -> Tensor:
        """Returns the mean over rows."""
        logits_EE = _scaled_products(left_ED, right_ED, self.logit_scale)
        if text_id_E is not None:
            is_twin_EE = text_id_E[:, None] == text_id_E[None, :]
            is_twin_EE.diagonal().fill_(False)
            logits_EE = logits_EE.masked_fill(is_twin_EE, -torch.inf)
        targets_E = torch.arange(len(logits_EE), device=logits_EE.device)
        return (F.cross_entropy(logits_EE, targets_E) + F.cross_entropy(logits_EE.T, targets_E)) / 2

    def tiled_sum(
        self,
        left_MD: Tensor,
        right_ED: Tensor,
        text_id_E: Tensor | None,
        *,
        first_row: int,
        logsumexp: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Returns the sum over the left rows, which are a part of all rows from `first_row` on."""
        return tiled_contrast(
            left_MD,
            right_ED,
            logit_scale=self.logit_scale,
            first_row=first_row,
            text_id_E=text_id_E,
            logsumexp=logsumexp,
        )


@dataclass
class BetaCalContrast:
    """The contrast of `beta_cal_loss`; texts of one id on two images are not each other's negatives."""

    logit_scale: Tensor | float
    beta: float
    kind: str

    def dense(self, left_ED: Tensor, right_ED: Tensor, image_index_E: Tensor, text_id_E: Tensor | None) -> Tensor:
        """Returns the mean over rows, for "bce" the mean over pairs."""
        logits_EE = _scaled_products(left_ED, right_ED, self.logit_scale)
        is_same_image_EE = image_index_E[:, None] == image_index_E[None, :]
        weights_EE = torch.full_like(logits_EE, 0.0 if self.kind == "ce" else 1.0)
        weights_EE.masked_fill_(is_same_image_EE, self.beta)
        # `fill_diagonal_` would be compiled anew for each size.
        weights_EE.diagonal().fill_(1.0)
        is_left_out_EE = None
        if text_id_E is not None:
            is_left_out_EE = (text_id_E[:, None] == text_id_E[None, :]) & ~is_same_image_EE
        if self.kind == "bce":
            truth_EE = is_same_image_EE.to(logits_EE.dtype)
            if is_left_out_EE is not None:
                weights_EE = weights_EE.masked_fill(is_left_out_EE, 0.0)
            return F.binary_cross_entropy_with_logits(logits_EE, truth_EE, weight=weights_EE)
        targets_EE = weights_EE / weights_EE.sum(dim=1, keepdim=True)
        if is_left_out_EE is None:
            return (F.cross_entropy(logits_EE, targets_EE) + F.cross_entropy(logits_EE.T, targets_EE)) / 2
        row_loss = _cross_entropy_without(logits_EE, targets_EE, is_left_out_EE)
        # Which pairs are left out does not depend on the direction.
        return (row_loss + _cross_entropy_without(logits_EE.T, targets_EE, is_left_out_EE)) / 2

    def tiled_sum(
        self,
        left_MD: Tensor,
        right_ED: Tensor,
        image_index_E: Tensor,
        text_id_E: Tensor | None,
        *,
        first_row: int,
        logsumexp: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Returns the sum over the left rows, which are a part of all rows from `first_row` on."""
        if self.kind == "ce":
            return tiled_contrast(
                left_MD,
                right_ED,
                logit_scale=self.logit_scale,
                first_row=first_row,
                image_index_E=image_index_E,
                beta=self.beta,
                text_id_E=text_id_E,
                logsumexp=logsumexp,
            )
        # Nothing is normalised over columns here, so that no log-sum-exp is needed.
        total = tiled_sigmoid(
            left_MD,
            right_ED,
            image_index_E,
            logit_scale=self.logit_scale,
            beta=self.beta,
            first_row=first_row,
            text_id_E=text_id_E,
        )
        return total / len(right_ED)


@dataclass
class SigmoidContrast:
    """The contrast of `sigmoid_loss`: each pair is a decision, with a bias beside the scale."""

    logit_scale: Tensor | float
    logit_bias: Tensor | float

    def dense(self, left_ED: Tensor, right_ED: Tensor) -> Tensor:
        """Returns the sum over pairs, divided by the number of rows."""
        logits_EE = _scaled_products(left_ED, right_ED, self.logit_scale) + at_least_float32(self.logit_bias)
        # The logit of the right answer.
        is_pair_EE = torch.eye(len(logits_EE), dtype=torch.bool, device=logits_EE.device)
        return -F.logsigmoid(torch.where(is_pair_EE, logits_EE, -logits_EE)).sum() / len(logits_EE)

    def tiled_sum(
        self,
        left_MD: Tensor,
        right_ED: Tensor,
        *,
        first_row: int,
        logsumexp: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Returns the sum over the left rows, which are a part of all rows from `first_row` on."""
        # s · l·r + b is the product of one more dimension: s · (l, b / s)·(r, 1).
        left_MD, right_ED = at_least_float32(left_MD), at_least_float32(right_ED)
        shift = at_least_float32(self.logit_bias) / at_least_float32(self.logit_scale)
        ones_E1 = right_ED.new_ones(len(right_ED), 1)
        shift_M1 = shift * left_MD.new_ones(len(left_MD), 1)
        return tiled_sigmoid(
            torch.cat([left_MD, shift_M1], dim=1),
            torch.cat([right_ED, ones_E1], dim=1),
            # Each row is an image of its own.
            torch.arange(len(right_ED), device=right_ED.device),
            logit_scale=self.logit_scale,
            beta=1.0,
            first_row=first_row,
        )


def loss_over_all_rows(
    loss: PairedContrast | BetaCalContrast | SigmoidContrast,
    left_MD: Tensor,
    right_MD: Tensor,
    *ids_M: Tensor | None,
    gather: GatherArgument,
) -> Tensor:
    """
    Computes a loss of paired rows over the rows of all processes.

    Few rows are gathered, and every process computes the whole loss. Of many rows a process computes the share of its
    own left rows against the right rows of all: the work is divided, memory grows with the number of all rows and not
    with its square, and the left rows need not travel.

    Args:
        loss: The loss.
        left_MD, right_MD (`Tensor` of shape `(M, D)`): The rows of this process.
        ids_M (`Tensor` of shape `(M,)`, integer, *optional*): The ids of these rows that the loss takes, in its order.
        gather: Joins several processes.
    """
    processes, (left_MD, right_MD, *all_ids_M) = adapted_gather(gather, left_MD, right_MD, *ids_M)
    counts = [count for (count,) in processes.row_counts(len(left_MD))]
    processes = processes.sized(counts)
    right_ED = processes(right_MD)
    ids_E: list[Any] = [None if id_M is None else processes(id_M) for id_M in all_ids_M]
    num_rows = len(right_ED)
    if num_rows**2 > DENSE_LIMIT:
        first_row = sum(counts[: processes.rank])
        share = loss.tiled_sum(left_MD, right_ED, *ids_E, first_row=first_row, logsumexp=processes.logsumexp)
        return processes.sum(share / num_rows)
    left_ED = processes(left_MD)
    if num_rows == 0:
        zero = differentiable_zero(left_ED, right_ED, loss.logit_scale)
        return zero + at_least_float32(getattr(loss, "logit_bias", 0.0)) * 0.0
    return loss.dense(left_ED, right_ED, *ids_E)


def _cross_entropy_without(logits_EE: Tensor, targets_EE: Tensor, is_left_out_EE: Tensor) -> Tensor:
    """Returns the mean cross-entropy of the rows with their targets, with some pairs left out of the softmax."""
    logsumexp_E = logits_EE.masked_fill(is_left_out_EE, -torch.inf).logsumexp(dim=1)
    # Not `F.cross_entropy`: a target of 0 times the logarithm of a probability of 0 is not a number.
    return (logsumexp_E - (targets_EE * logits_EE).sum(dim=1)).mean()


def _scaled_products(left_ED: Tensor, right_ED: Tensor, logit_scale: Tensor | float) -> Tensor:
    """Returns the logits s · left_i·right_j."""
    # Autocast would run this product in half precision: logits up to 100 need more digits than that.
    with torch.autocast(left_ED.device.type, enabled=False):
        return at_least_float32(logit_scale) * (at_least_float32(left_ED) @ at_least_float32(right_ED).T)


def differentiable_zero(left: Tensor, right: Tensor, logit_scale: Tensor | float) -> Tensor:
    """Returns a 0 with zero gradients, so that the backward pass of a batch without rows works."""
    return at_least_float32(logit_scale) * (at_least_float32(left).sum() + at_least_float32(right).sum()) * 0.0


__all__ = ["BetaCalContrast", "PairedContrast", "SigmoidContrast", "differentiable_zero", "loss_over_all_rows"]
