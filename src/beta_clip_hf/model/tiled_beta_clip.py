r"""The contrastive losses tile by tile: their memory grows with the number of texts, not with its square.

Letters: N left rows, M right rows (the columns of the logits), D width; n, m: rows and columns of one tile.

S_ij = s · left_i·right_j is computed a tile at a time: for "ce" twice, once for the log-sum-exps and once for the
gradients; for "bce" once, as the gradient of a pair needs nothing of other tiles. What outlives a tile has N, M, N · D
or M · D numbers. These are the fast twins of the dense losses in `loss_beta_clip.py`, which say what is computed.
Gradients of gradients are not supported, and `torch.compile` leaves these functions as they are: it would unroll the
loops, anew for each number of texts.

The left rows may be a part of all rows: `first_row` is the place of the first of them, and row i's own column, the one
it is paired with, is `first_row + i`. So a process can compute its own rows against the columns of all processes, and
the parts add up to the loss of all T texts (v contextualised, u text embeddings):

```
"ce":   Σ_processes tiled_contrast(own v, all u, logsumexp) / T      exchanges u and a vector of T
"bce":  Σ_processes tiled_sigmoid(own v, all u) / T²                 exchanges u
```

Here, other than in `loss_beta_clip.py`, the gradients of all parts have to be added: those of the columns in the
backward pass of the gather that they came from, those of the parameters where a mean over processes is usual.
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
    `beta_cal_loss` of kind "ce" or, without `image_index`, `clip_loss`, or with `text_id`, `region_loss`; as a sum.

    Σ_i ½ [−Σ_j ŵ_ij log softmax_j(S_ij) − Σ_j ŵ_ij log softmax_j(S_ji)] over the N rows i; both directions come from
    the same tiles. The siblings of a row need no logits, only the sum of the embeddings of its image: with c_i texts on
    the image of row i, itself included, and W_i = 1 + β (c_i − 1),

    ```
    −Σ_j ŵ_ij log softmax_j(S_ij) = logsumexp_j(S_ij) − S_ii / W_i − β / W_i · s · left_i·(Σ_j right_j − right_i)
    ```

    Args:
        left_MD (`Tensor` of shape `(N, D)`): rows `first_row … first_row + N - 1` of the left side; there may be none.
        right_ED (`Tensor` of shape `(M, D)`): all rows of the right side, L2-normalised like the left.
        logit_scale (`Tensor | float`): s, a multiplier.
        first_row (`int`): see the module.
        image_index_E (`Tensor` of shape `(M,)`, integer, *optional*): the image of each text, in any order.
        beta (`float`): β in [0, 1].
        text_id_E (`Tensor` of shape `(M,)`, integer, *optional*): rows of the same id are not each other's negatives.
        logsumexp: where the left rows are a part, it maps `(M,)` of each part to the log-sum-exp over the parts, `(M,)`
            and differentiable.

    Returns:
        A scalar, a sum (not a mean), in nats. No row gives a zero that can be differentiated. The sum over all parts is
        that over all rows (a part alone counts its siblings twice in the first direction: over all rows both agree).
    """
    left_MD, right_ED, scale = _operands(left_MD, right_ED, logit_scale)
    own_M, row_lse_M, column_lse_E = _LogSumExp.apply(left_MD, right_ED, scale, first_row, text_id_E, True)
    if logsumexp is not None:
        column_lse_E = logsumexp(column_lse_E)
    column_lse_M = column_lse_E[first_row : first_row + len(left_MD)]
    positive_M, siblings = _positives(left_MD, right_ED, scale, own_M, image_index_E, beta, first_row)
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
) -> Tensor:
    r"""
    `beta_cal_loss` of kind "bce", as a sum: Σ_ij m_ij · BCEWithLogits(S_ij, y_ij) over N rows i and M columns j.

    Both directions are this one sum. Pairs of one image are found by comparing ids within a tile: exact whatever the
    sizes of images and the order of texts, and no large sum is subtracted from another. On a CPU, tiles whose ranges of
    ids do not meet are not compared; where the texts of an image are adjacent these are all but a few beside the
    diagonal. Gradients are computed in the forward pass, beside the value, so that no tile is computed twice.

    Args: as in `tiled_contrast`.

    Returns:
        A scalar, a sum (not a mean), in nats. No row gives a zero that can be differentiated.
    """
    left_MD, right_ED, scale = _operands(left_MD, right_ED, logit_scale)
    return _Sigmoid.apply(left_MD, right_ED, scale, image_index_E, beta, first_row)


def _positives(
    left_MD: Tensor,
    right_ED: Tensor,
    scale: Tensor,
    own_M: Tensor,
    image_index_E: Tensor | None,
    beta: float,
    first_row: int,
) -> tuple[Tensor, Tensor | float]:
    """S_ii / W_i of each row, and the sum over all rows of what their siblings give."""
    if image_index_E is None or beta == 0:
        return own_M, 0.0
    # An image is named by its first place in the sorted index: numbers below M, without a wait for the device.
    image_E = torch.searchsorted(image_index_E.sort().values, image_index_E)
    count_E = right_ED.new_zeros(len(right_ED)).index_add_(0, image_E, right_ED.new_ones(len(right_ED)))
    total_weight_M = 1 + beta * (count_E[image_E[first_row : first_row + len(left_MD)]] - 1)
    return own_M / total_weight_M, _Siblings.apply(left_MD, right_ED, scale, image_E, beta / total_weight_M, first_row)


def _differentiable_once(backward: Callable) -> Callable:
    """As torch's `once_differentiable`, which would let a graph of gradients be built and leave this part out of it."""

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
    `(left (N, D), right (M, D), scale (), first_row, id (M,) or None, columns)` -> own logits (N,), log-sum-exp of rows
    (N,) and, if `columns`, of columns (M,). Keeps vectors only; the backward pass computes the tiles anew.
    """

    @staticmethod
    def forward(
        ctx: Any, left_MD: Tensor, right_ED: Tensor, scale: Tensor, first_row: int, id_E: Tensor | None, columns: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        of_rows, of_columns = OnlineLogSumExp(left_MD), OnlineLogSumExp(right_ED)
        own_M = left_MD.new_zeros(len(left_MD))
        for tile in tiles_of(left_MD, right_ED, scale, first_row):
            tile.leave_out_equal(id_E)
            own_M[tile.own_rows] = tile.own(tile.logits_me)
            of_rows.add(tile, tile.rows, dim=1)
            if columns:
                of_columns.add(tile, tile.columns, dim=0)
        state = (of_rows.shift_M, of_rows.sum_M, of_columns.shift_M, of_columns.sum_M)
        ctx.save_for_backward(left_MD, right_ED, scale, id_E, *state)
        ctx.first_row, ctx.columns = first_row, columns
        return own_M, of_rows.value(), of_columns.value()

    @staticmethod
    @_differentiable_once
    def backward(ctx: Any, own_grad_M: Tensor, row_grad_M: Tensor, column_grad_E: Tensor) -> tuple[Tensor | None, ...]:
        left_MD, right_ED, scale, id_E, row_shift_M, row_sum_M, column_shift_E, column_sum_E = ctx.saved_tensors
        # The largest logit alone gives 1 to a sum; only a column that got no logit of these rows has 0.
        row_factor_M, column_factor_E = row_grad_M / row_sum_M, column_grad_E / column_sum_E.clamp(min=1)
        gradients = EmbedGradients(ctx, left_MD, right_ED, scale)
        for tile in tiles_of(left_MD, right_ED, scale, ctx.first_row):
            tile.leave_out_equal(id_E)
            rows, columns = tile.rows, tile.columns
            grad_me = torch.sub(tile.logits_me, row_shift_M[rows, None], out=tile.scratch_me)
            grad_me.exp_().mul_(row_factor_M[rows, None])
            if ctx.columns:
                grad_me += tile.logits_me.sub_(column_shift_E[columns]).exp_().mul_(column_factor_E[columns])
            tile.own(grad_me).add_(own_grad_M[tile.own_rows])
            gradients.add(tile, grad_me)
        return *gradients.finished(), None, None, None


class _Siblings(torch.autograd.Function):
    """
    `(left (N, D), right (M, D), scale (), image (M,), share (N,), first_row)` -> Σ_i share_i · s · left_i·siblings_i,
    where siblings_i is the sum of right over the image of row i without its own column. O((N + M) D).
    """

    @staticmethod
    def forward(
        ctx: Any, left_MD: Tensor, right_ED: Tensor, scale: Tensor, image_E: Tensor, share_M: Tensor, first_row: int
    ) -> Tensor:
        ctx.own = slice(first_row, first_row + len(left_MD))
        total = (share_M * row_dots(left_MD, _Siblings.sums(right_ED, image_E, ctx.own))).sum()
        ctx.save_for_backward(left_MD, right_ED, scale, image_E, share_M, total)
        return scale * total

    @staticmethod
    @_differentiable_once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        left_MD, right_ED, scale, image_E, share_M, total = ctx.saved_tensors
        left_grad_MD, right_grad_ED, factor_M1 = None, None, (grad * scale * share_M)[:, None]
        if ctx.needs_input_grad[0]:
            left_grad_MD = _Siblings.sums(right_ED, image_E, ctx.own).mul_(factor_M1)
        if ctx.needs_input_grad[1]:
            pull_MD = left_MD * factor_M1
            right_grad_ED = torch.zeros_like(right_ED).index_add_(0, image_E[ctx.own], pull_MD)[image_E]
            right_grad_ED[ctx.own] -= pull_MD
        return left_grad_MD, right_grad_ED, grad * total, None, None, None

    @staticmethod
    def sums(right_ED: Tensor, image_E: Tensor, own: slice) -> Tensor:
        per_image_ED = torch.zeros_like(right_ED).index_add_(0, image_E, right_ED)
        return per_image_ED[image_E[own]].sub_(right_ED[own])


class _Sigmoid(torch.autograd.Function):
    """
    `(left (N, D), right (M, D), scale (), image_index (M,), beta, first_row)` -> (), the sum over all pairs. Keeps
    the gradients, not what they are computed from.
    """

    @staticmethod
    def forward(
        ctx: Any,
        left_MD: Tensor,
        right_ED: Tensor,
        scale: Tensor,
        image_index_E: Tensor,
        beta: float,
        first_row: int,
    ) -> Tensor:
        gradients, total = EmbedGradients(ctx, left_MD, right_ED, scale), left_MD.new_zeros(())
        for tile in tiles_of(left_MD, right_ED, scale, first_row):
            truth_me, same_me = tile.logits_me.neg_(), tile.equal(image_index_E)
            if same_me is not None:
                sign_me = torch.where(same_me, -1, torch.ones_like(truth_me))
                weight_me = torch.where(same_me, beta, torch.ones_like(truth_me))
                tile.own(weight_me).fill_(1)
                truth_me *= sign_me  # now −S, or S for a pair of one image: the logit of the right answer
            log_me = F.logsigmoid(truth_me)
            total -= (log_me if same_me is None else log_me.mul_(weight_me)).sum()
            if gradients.needed:
                grad_me = torch.sigmoid(truth_me.neg_(), out=tile.scratch_me)
                gradients.add(tile, grad_me if same_me is None else grad_me.mul_(weight_me).mul_(sign_me))
        ctx.save_for_backward(*gradients.finished())
        return total

    @staticmethod
    @_differentiable_once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return *(None if kept is None else grad * kept for kept in ctx.saved_tensors), None, None, None


def _operands(left_MD: Tensor, right_ED: Tensor, scale: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
    """Both sides in at least float32, and s as a scalar of their dtype and device; differentiable."""
    left_MD, right_ED = at_least_float32(left_MD), at_least_float32(right_ED)
    scalar = scale.reshape(()).to(left_MD) if isinstance(scale, Tensor) else left_MD.new_full((), scale)
    if torch.is_grad_enabled():
        return left_MD, right_ED, scalar
    return left_MD.detach(), right_ED.detach(), scalar.detach()  # else gradients would be computed for nobody


def at_least_float32(x: Any) -> Any:
    """A tensor of half precision as float32; anything else as it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32)) if isinstance(x, Tensor) else x


__all__ = ["at_least_float32", "tiled_contrast", "tiled_sigmoid"]
