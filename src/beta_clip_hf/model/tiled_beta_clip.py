# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
r"""The contrastive losses tile by tile: their memory grows with the number of texts, not with its square.

S_ij = s · left_i·right_j is computed a tile at a time: for "ce" twice, once for the log-sum-exps and once for the
gradients; for "bce" once, as the gradient of a pair needs nothing of other tiles. What outlives a tile has M, E, M · D
or E · D numbers. These are the fast twins of the dense losses in `paired_rows_beta_clip.py`. Gradients of gradients are
not supported. `torch.compile` leaves these functions as they are: it would unroll the loops, anew for each number of
texts.

The left rows may be a part of all rows: `first_row` is the place of the first of them, and the partner of left row i is
right row `first_row + i`. So a process can compute its own rows against the columns of all processes, and the parts add
up to the loss of all E texts (v contextualised, u text embeddings):

```
"ce":   Σ_processes tiled_contrast(own v, all u, logsumexp) / E      exchanges u and a vector of E
"bce":  Σ_processes tiled_sigmoid(own v, all u) / E²                 exchanges u
```

Unlike those of `loss_beta_clip.py`, the gradients of all parts have to be added: those of the columns in the backward
pass of the gather that they came from, those of the parameters where a mean over processes is usual.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .logit_tiles_beta_clip import EmbedGradients, OnlineLogSumExp, row_dots, tiles_of


@torch.compiler.disable
def tiled_contrast(
    left_MD: Tensor,
    right_ED: Tensor,
    *,
    logit_scale: Tensor | float,
    first_row: int = 0,
    image_index_E: Tensor | None = None,
    beta: float = 0.0,
    text_id_E: Tensor | None = None,
    logsumexp: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    r"""
    Computes `beta_cal_loss` of kind "ce", or `clip_loss` (no `image_index`), or `region_loss` (`text_id`), as a sum.

    It is Σ_i ½ [−Σ_j ŵ_ij log softmax_j(S_ij) − Σ_j ŵ_ij log softmax_j(S_ji)] over the M rows i. Both directions come
    from the same tiles. The siblings of a row need no logits, only the sum of the embeddings of its image: with c_i
    texts on the image of row i, itself included, and W_i = 1 + β (c_i − 1),

    ```
    −Σ_j ŵ_ij log softmax_j(S_ij) = logsumexp_j(S_ij) − S_ii / W_i − β / W_i · s · left_i·(Σ_j right_j − right_i)
    ```

    Args:
        left_MD (`Tensor` of shape `(M, D)`): Rows `first_row … first_row + M - 1` of the left side; M may be 0.
        right_ED (`Tensor` of shape `(E, D)`): All rows of the right side, L2-normalised like the left.
        logit_scale (`Tensor | float`): s, a multiplier.
        first_row (`int`): The place of the first left row among all rows.
        image_index_E (`Tensor` of shape `(E,)`, integer, *optional*): The image of each text, in any order.
        beta (`float`): β in [0, 1].
        text_id_E (`Tensor` of shape `(E,)`, integer, *optional*):
            Rows of the same id are not each other's negatives; with `image_index`, rows of the same id on two images.
        logsumexp: Maps `(E,)` of each part to the log-sum-exp over the parts, `(E,)` and differentiable. Needed where
            the left rows are a part.

    Returns:
        A scalar, a sum (not a mean), in nats. Without a row it is a zero that can be differentiated. The sum over all
        parts is that over all rows. (A part alone counts its siblings twice in the first direction; over all rows both
        directions agree.)
    """
    left_MD, right_ED, scale = _operands(left_MD, right_ED, logit_scale)
    partner_M, row_lse_M, column_lse_E = _LogSumExp.apply(left_MD, right_ED, scale, first_row, text_id_E, image_index_E)
    if logsumexp is not None:
        column_lse_E = logsumexp(column_lse_E)
    column_lse_M = column_lse_E[first_row : first_row + len(left_MD)]
    positive_M, siblings = _positives(left_MD, right_ED, scale, partner_M, image_index_E, beta, first_row)
    return ((row_lse_M + column_lse_M) / 2 - positive_M).sum() - siblings


@torch.compiler.disable
def tiled_sigmoid(
    left_MD: Tensor,
    right_ED: Tensor,
    image_index_E: Tensor,
    *,
    logit_scale: Tensor | float,
    beta: float,
    first_row: int = 0,
    text_id_E: Tensor | None = None,
) -> Tensor:
    r"""
    Computes `beta_cal_loss` of kind "bce" as a sum: Σ_ij m_ij · BCEWithLogits(S_ij, y_ij) over M rows i, E columns j.

    Both directions are this one sum. Pairs of one image are found by comparing ids within a tile: exact whatever the
    sizes of images and the order of texts, and no large sum is subtracted from another. On a CPU, tiles whose ranges of
    ids do not overlap are not compared; where the texts of an image are adjacent, few tiles beside the diagonal remain.
    Gradients are computed in the forward pass, beside the value, so that no tile is computed twice.

    Args: As in `tiled_contrast`.

    Returns:
        A scalar, a sum (not a mean), in nats. Without a row it is a zero that can be differentiated.
    """
    left_MD, right_ED, scale = _operands(left_MD, right_ED, logit_scale)
    return _Sigmoid.apply(left_MD, right_ED, scale, image_index_E, beta, first_row, text_id_E)


def _positives(
    left_MD: Tensor,
    right_ED: Tensor,
    scale: Tensor,
    partner_M: Tensor,
    image_index_E: Tensor | None,
    beta: float,
    first_row: int,
) -> tuple[Tensor, Tensor | float]:
    """Returns S_ii / W_i of each row, and the sum over all rows of the terms of their siblings."""
    if image_index_E is None or beta == 0:
        return partner_M, 0.0
    # Images are renumbered by their first place in the sorted index: numbers below E, without a wait for the device.
    image_E = torch.searchsorted(image_index_E.sort().values, image_index_E)
    count_E = right_ED.new_zeros(len(right_ED)).index_add_(0, image_E, right_ED.new_ones(len(right_ED)))
    image_M = image_E[first_row : first_row + len(left_MD)]
    total_weight_M = 1 + beta * (count_E[image_M] - 1)
    siblings = _Siblings.apply(left_MD, right_ED, scale, image_E, beta / total_weight_M, first_row)
    return partner_M / total_weight_M, siblings


def _differentiable_once(backward: Callable) -> Callable:
    """
    Refuses gradients of gradients.

    torch's `once_differentiable` would let a graph of gradients be built without this part of it.
    """

    @wraps(backward)
    def checked(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "create_graph must be False for a tiled loss: it has no gradients of gradients, but is True"
            )
        return backward(ctx, *grads)

    return checked


class _LogSumExp(torch.autograd.Function):
    """
    Computes the logits of partners `(M,)`, the log-sum-exps of rows `(M,)` and those of columns `(E,)`.

    It keeps vectors only; the backward pass computes the tiles again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        left_MD: Tensor,
        right_ED: Tensor,
        scale: Tensor,
        first_row: int,
        text_id_E: Tensor | None,
        image_index_E: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        row_lse = OnlineLogSumExp(left_MD)
        column_lse = OnlineLogSumExp(right_ED)
        partner_M = left_MD.new_zeros(len(left_MD))
        for tile in tiles_of(left_MD, right_ED, scale, first_row):
            tile.leave_out(text_id_E, image_index_E)
            partner_M[tile.rows_with_partner] = tile.partners(tile.logits_me)
            row_lse.add(tile, tile.rows, dim=1)
            column_lse.add(tile, tile.columns, dim=0)
        state = (row_lse.shift_M, row_lse.sum_M, column_lse.shift_M, column_lse.sum_M)
        ctx.save_for_backward(left_MD, right_ED, scale, text_id_E, image_index_E, *state)
        ctx.first_row = first_row
        return partner_M, row_lse.value(), column_lse.value()

    @staticmethod
    @_differentiable_once
    def backward(
        ctx: Any, partner_grad_M: Tensor, row_grad_M: Tensor, column_grad_E: Tensor
    ) -> tuple[Tensor | None, ...]:
        left_MD, right_ED, scale, text_id_E, image_index_E, *state = ctx.saved_tensors
        row_shift_M, row_sum_M, column_shift_E, column_sum_E = state
        row_factor_M = row_grad_M / row_sum_M
        # The largest logit adds 1 to a sum. Only a column that has no logit of these rows has the sum 0.
        column_factor_E = column_grad_E / column_sum_E.clamp(min=1)
        gradients = EmbedGradients(ctx, left_MD, right_ED, scale)
        for tile in tiles_of(left_MD, right_ED, scale, ctx.first_row):
            tile.leave_out(text_id_E, image_index_E)
            # Softmax over the row, and over the column, each times the gradient of its log-sum-exp.
            grad_me = torch.sub(tile.logits_me, row_shift_M[tile.rows, None], out=tile.scratch_me)
            grad_me.exp_().mul_(row_factor_M[tile.rows, None])
            column_part_me = tile.logits_me.sub_(column_shift_E[tile.columns]).exp_()
            grad_me += column_part_me.mul_(column_factor_E[tile.columns])
            tile.partners(grad_me).add_(partner_grad_M[tile.rows_with_partner])
            gradients.add(tile, grad_me)
        return *gradients.finished(), None, None, None


class _Siblings(torch.autograd.Function):
    """
    Computes Σ_i share_i · s · left_i·siblings_i in O((M + E) D).

    siblings_i is the sum of the right rows of the image of row i, without its partner.
    """

    @staticmethod
    def forward(
        ctx: Any, left_MD: Tensor, right_ED: Tensor, scale: Tensor, image_E: Tensor, share_M: Tensor, first_row: int
    ) -> Tensor:
        ctx.rows = slice(first_row, first_row + len(left_MD))
        siblings_MD = _Siblings.sums(right_ED, image_E, ctx.rows)
        total = (share_M * row_dots(left_MD, siblings_MD)).sum()
        ctx.save_for_backward(left_MD, right_ED, scale, image_E, share_M, total)
        return scale * total

    @staticmethod
    @_differentiable_once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        left_MD, right_ED, scale, image_E, share_M, total = ctx.saved_tensors
        factor_M1 = (grad * scale * share_M)[:, None]
        left_grad_MD = None
        right_grad_ED = None
        if ctx.needs_input_grad[0]:
            left_grad_MD = _Siblings.sums(right_ED, image_E, ctx.rows).mul_(factor_M1)
        if ctx.needs_input_grad[1]:
            # A right row gets the gradients of all left rows of its image, but not that of its partner.
            pull_MD = left_MD * factor_M1
            right_grad_ED = torch.zeros_like(right_ED).index_add_(0, image_E[ctx.rows], pull_MD)[image_E]
            right_grad_ED[ctx.rows] -= pull_MD
        return left_grad_MD, right_grad_ED, grad * total, None, None, None

    @staticmethod
    def sums(right_ED: Tensor, image_E: Tensor, rows: slice) -> Tensor:
        """Returns the sum of the siblings of each of the rows, `(M, D)`."""
        per_image_ED = torch.zeros_like(right_ED).index_add_(0, image_E, right_ED)
        return per_image_ED[image_E[rows]].sub_(right_ED[rows])


class _Sigmoid(torch.autograd.Function):
    """Computes the sum over all pairs, and in the same pass the gradients, which it keeps."""

    @staticmethod
    def forward(
        ctx: Any,
        left_MD: Tensor,
        right_ED: Tensor,
        scale: Tensor,
        image_index_E: Tensor,
        beta: float,
        first_row: int,
        text_id_E: Tensor | None,
    ) -> Tensor:
        gradients = EmbedGradients(ctx, left_MD, right_ED, scale)
        total = left_MD.new_zeros(())
        for tile in tiles_of(left_MD, right_ED, scale, first_row):
            is_same_me = tile.equal(image_index_E)
            # The logit of the right answer: −S, or S for a pair of one image.
            truth_me = tile.logits_me.neg_()
            # Most tiles hold pairs of weight 1 only.
            weight_me = None
            if is_same_me is not None:
                sign_me = torch.where(is_same_me, -1, torch.ones_like(truth_me))
                truth_me *= sign_me
                weight_me = torch.where(is_same_me, beta, torch.ones_like(truth_me))
                tile.partners(weight_me).fill_(1)
            left_out_me = tile.left_out(text_id_E, image_index_E)
            if left_out_me is not None:
                weight_me = torch.ones_like(truth_me) if weight_me is None else weight_me
                weight_me.masked_fill_(left_out_me, 0)
            terms_me = F.logsigmoid(truth_me)
            if weight_me is not None:
                terms_me.mul_(weight_me)
            total -= terms_me.sum()
            if gradients.needed:
                grad_me = torch.sigmoid(truth_me.neg_(), out=tile.scratch_me)
                if weight_me is not None:
                    grad_me.mul_(weight_me)
                if is_same_me is not None:
                    grad_me.mul_(sign_me)
                gradients.add(tile, grad_me)
        ctx.save_for_backward(*gradients.finished())
        return total

    @staticmethod
    @_differentiable_once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        embed_grads = [None if kept is None else grad * kept for kept in ctx.saved_tensors]
        return *embed_grads, None, None, None, None


def _operands(left_MD: Tensor, right_ED: Tensor, scale: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
    """Returns both sides in at least float32, and s as a scalar of their dtype and device; differentiable."""
    left_MD = at_least_float32(left_MD)
    right_ED = at_least_float32(right_ED)
    # Not `new_tensor`, which would warn about a copy and lose the gradient of s.
    scalar = scale.reshape(()).to(left_MD) if isinstance(scale, Tensor) else left_MD.new_full((), scale)
    if torch.is_grad_enabled():
        return left_MD, right_ED, scalar
    # Otherwise an operand that requires a gradient would have gradients computed that nobody asks for.
    return left_MD.detach(), right_ED.detach(), scalar.detach()


def at_least_float32(x: Any) -> Any:
    """Returns a tensor of half precision as float32, and anything else unchanged."""
    is_half = isinstance(x, Tensor) and x.dtype in (torch.float16, torch.bfloat16)
    return x.float() if is_half else x


__all__ = ["at_least_float32", "tiled_contrast", "tiled_sigmoid"]
