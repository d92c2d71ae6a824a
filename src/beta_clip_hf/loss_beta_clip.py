"""The losses of β-CLIP and FG-CLIP: pure functions on flat, L2-normalised embeddings.

Letters: B images, T texts of the batch (all granularities, flat), R regions, N hard texts, D projection width.

Every function computes in at least float32, also under autocast (float64 stays float64). `logit_scale` is the
multiplier s itself, not its logarithm. `gather` is passed in by the caller: it maps a tensor with a ragged first axis
to the same tensor of all processes, concatenated, and lets gradients through. With it every process computes the whole
loss, and the mean of the processes' gradients is the gradient of the one-process batch: nothing is to be multiplied.

Beyond `DENSE_LIMIT` logits the losses are computed by `tiled_beta_clip.py`, which never holds a T × T matrix: the same
numbers up to rounding, and the same gradients. What stands here is the readable twin.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from .tiled_beta_clip import at_least_float32, tiled_contrast, tiled_sigmoid


Gather = Callable[[Tensor], Tensor]

# Logits of the largest dense loss. At 1,500² both ways take the same time on a CPU, from 2,048² on tiles win.
DENSE_LIMIT = 2048**2


def clip_loss(
    image_embeds_BD: Tensor, text_embeds_BD: Tensor, *, logit_scale: Tensor | float, gather: Gather | None = None
) -> Tensor:
    r"""
    CLIP's loss: ½ [mean_i −log softmax_j(S_ij)|_{j=i} + mean_i −log softmax_j(S_ji)|_{j=i}], S_ij = s · image_i·text_j.

    Args:
        image_embeds_BD (`Tensor` of shape `(B, D)`): L2-normalised image embeddings.
        text_embeds_BD (`Tensor` of shape `(B, D)`): L2-normalised text embeddings; row i belongs to image i.
        logit_scale (`Tensor | float`): s, a multiplier.
        gather: see the module; the rows of all processes then form one batch.

    Returns:
        A scalar, in nats. An empty batch gives a zero that can be differentiated.

    Raises:
        ValueError: if the shapes differ or are not two-dimensional.

    Source: Radford et al. 2021, figure 3; arXiv 2512.12678, the global term.

    >>> embeds = torch.eye(4)
    >>> round(clip_loss(embeds, embeds, logit_scale=100.0).item(), 6)
    0.0
    """
    _check_pairs(image_embeds_BD, text_embeds_BD, "image_embeds", "text_embeds")
    return _symmetric_contrast(image_embeds_BD, text_embeds_BD, logit_scale, gather)


def beta_cal_loss(
    contextualized_embeds_TD: Tensor,
    text_embeds_TD: Tensor,
    image_index_T: Tensor,
    *,
    logit_scale: Tensor | float,
    beta: float = 0.5,
    kind: str = "ce",
    gather: Gather | None = None,
) -> Tensor:
    r"""
    β-CAL, the β-contextualised contrastive alignment loss, over all texts of the batch.

    With v_t the contextualised embedding of text t on its own image, u_t its text embedding, g(t) its image and
    S_ij = s · v_i·u_j:

    ```
    "ce":  w_ij = 1 if i = j, β if i ≠ j and g(i) = g(j), else 0;   ŵ_ij = w_ij / Σ_j w_ij
           ½ [mean_i −Σ_j ŵ_ij log softmax_j(S_ij) + mean_i −Σ_j ŵ_ij log softmax_j(S_ji)]
    "bce": y_ij = 1 if g(i) = g(j) else 0;   m_ij = β if i ≠ j and g(i) = g(j), else 1
           mean_ij m_ij · BCEWithLogits(S_ij, y_ij)
    ```

    Args:
        contextualized_embeds_TD (`Tensor` of shape `(T, D)`): v, L2-normalised.
        text_embeds_TD (`Tensor` of shape `(T, D)`): u, L2-normalised.
        image_index_T (`Tensor` of shape `(T,)`, integer): g. With `gather`, unique across processes.
        logit_scale (`Tensor | float`): s of the pooler, a multiplier.
        beta (`float`): β in [0, 1]. 0: a text's siblings are negatives in "ce", and take no part in "bce".
        kind (`"ce" | "bce"`): the form of the loss.
        gather: see the module; the texts of all processes then form one batch.

    Returns:
        A scalar, in nats. No text at all gives a zero that can be differentiated.

    Raises:
        ValueError: if shapes disagree, β is outside of [0, 1], or `kind` is unknown.

    Source: arXiv 2512.12678, β-CAL. The authors' release lets padded columns into the softmax; texts here are flat, so
    that there is none.

    >>> embeds = torch.eye(4)
    >>> round(beta_cal_loss(embeds, embeds, torch.tensor([0, 0, 1, 1]), logit_scale=10.0, beta=0.0).item(), 4)
    0.0001
    """
    _check_pairs(contextualized_embeds_TD, text_embeds_TD, "contextualized_embeds", "text_embeds")
    if image_index_T.shape != text_embeds_TD.shape[:1]:
        raise ValueError(
            f"image_index must have shape ({len(text_embeds_TD)},), one per text, but is {tuple(image_index_T.shape)}"
        )
    if not 0 <= beta <= 1:
        raise ValueError(f"beta must be in [0, 1], but is {beta}")
    if kind not in ("ce", "bce"):
        raise ValueError(f'kind must be "ce" or "bce", but is {kind!r}')
    if gather is not None:
        contextualized_embeds_TD, text_embeds_TD = gather(contextualized_embeds_TD), gather(text_embeds_TD)
        image_index_T = gather(image_index_T)
    if len(text_embeds_TD) == 0:
        return _differentiable_zero(contextualized_embeds_TD, text_embeds_TD, logit_scale)
    if len(text_embeds_TD) ** 2 > DENSE_LIMIT:
        return _tiled_beta_cal(contextualized_embeds_TD, text_embeds_TD, image_index_T, logit_scale, beta, kind)

    logits_TT = _similarity(contextualized_embeds_TD, text_embeds_TD, logit_scale)
    same_image_TT = image_index_T[:, None] == image_index_T[None, :]
    weights_TT = torch.full_like(logits_TT, 0.0 if kind == "ce" else 1.0)
    weights_TT.masked_fill_(same_image_TT, beta).fill_diagonal_(1.0)
    if kind == "bce":
        return F.binary_cross_entropy_with_logits(logits_TT, same_image_TT.to(logits_TT.dtype), weight=weights_TT)
    targets_TT = weights_TT / weights_TT.sum(dim=1, keepdim=True)
    return (F.cross_entropy(logits_TT, targets_TT) + F.cross_entropy(logits_TT.T, targets_TT)) / 2


def region_loss(
    region_embeds_RD: Tensor,
    region_text_embeds_RD: Tensor,
    *,
    logit_scale: Tensor | float,
    text_id_R: Tensor | None = None,
    gather: Gather | None = None,
) -> Tensor:
    r"""
    FG-CLIP's regional loss: the symmetric contrast of `clip_loss` between all boxes of the batch and their texts.

    Args:
        region_embeds_RD (`Tensor` of shape `(R, D)`): L2-normalised region embeddings.
        region_text_embeds_RD (`Tensor` of shape `(R, D)`): L2-normalised embeddings; row i describes region i.
        logit_scale (`Tensor | float`): s of the regions, a multiplier.
        text_id_R (`Tensor` of shape `(R,)`, integer, *optional*):
            Equal for regions with the same text (with `gather`, across processes): such regions are then left out of
            each other's negatives. Without it they count as negatives, as in the release.
        gather: see the module; the regions of all processes then form one batch.

    Returns:
        A scalar, in nats. No region at all gives a zero that can be differentiated.

    Raises:
        ValueError: if the shapes differ or are not two-dimensional, or `text_id` is not one per region.

    Source: arXiv 2505.05071, L_regional.

    >>> embeds = torch.eye(3)[[0, 1, 1]]
    >>> round(region_loss(embeds, embeds, logit_scale=100.0).item(), 4)  # two of three see an equal twin: ⅔ ln 2
    0.4621
    >>> round(region_loss(embeds, embeds, logit_scale=100.0, text_id_R=torch.tensor([7, 4, 4])).item(), 4)
    0.0
    """
    _check_pairs(region_embeds_RD, region_text_embeds_RD, "region_embeds", "region_text_embeds")
    if text_id_R is None:
        return _symmetric_contrast(region_embeds_RD, region_text_embeds_RD, logit_scale, gather)
    if text_id_R.shape != region_embeds_RD.shape[:1]:
        raise ValueError(
            f"text_id must have shape ({len(region_embeds_RD)},), one per region, but is {tuple(text_id_R.shape)}"
        )
    text_id_R = text_id_R if gather is None else gather(text_id_R)
    return _symmetric_contrast(region_embeds_RD, region_text_embeds_RD, logit_scale, gather, text_id_R)


def hard_negative_loss(
    region_embeds_RD: Tensor, hard_text_embeds_ND: Tensor, hard_region_index_N: Tensor, *, logit_scale: Tensor | float
) -> Tensor:
    r"""
    FG-CLIP's hard-negative loss: each flagged region picks its true text out of its own list, any number of them.

    mean over flagged regions r of −log softmax(s · [r·e_0, r·e_1, …])_0, where e_0, the first row of a region, is true.

    Args:
        region_embeds_RD (`Tensor` of shape `(R, D)`): L2-normalised region embeddings, flagged or not.
        hard_text_embeds_ND (`Tensor` of shape `(N, D)`):
            L2-normalised; for each flagged region its true text first, then its negatives.
        hard_region_index_N (`Tensor` of shape `(N,)`, int64): the region of each text, non-decreasing.
        logit_scale (`Tensor | float`): s of the hard negatives, a multiplier.

    Returns:
        A scalar, in nats. No hard text at all gives a zero that can be differentiated.

    Raises:
        ValueError: if the shapes disagree.

    Source: arXiv 2505.05071, L_hard (image to text only).

    >>> regions, texts = torch.eye(2), torch.eye(2)[[0, 1, 1, 0, 0]]
    >>> index = torch.tensor([0, 0, 1, 1, 1])
    >>> round(hard_negative_loss(regions, texts, index, logit_scale=1.0).item(), 4)  # ½[ln(1 + 1/e) + ln(1 + 2/e)]
    0.4324
    """
    if hard_region_index_N.shape != hard_text_embeds_ND.shape[:1]:
        raise ValueError(
            f"hard_region_index must have shape ({len(hard_text_embeds_ND)},), one per hard text, "
            f"but is {tuple(hard_region_index_N.shape)}"
        )
    if len(hard_text_embeds_ND) == 0:
        return _differentiable_zero(region_embeds_RD, hard_text_embeds_ND, logit_scale)
    own_region_ND = at_least_float32(region_embeds_RD)[hard_region_index_N]
    logits_N = at_least_float32(logit_scale) * (own_region_ND * at_least_float32(hard_text_embeds_ND)).sum(dim=-1)
    is_true_N = torch.ones_like(hard_region_index_N, dtype=torch.bool)
    is_true_N[1:] = hard_region_index_N[1:] != hard_region_index_N[:-1]
    list_index_N = is_true_N.cumsum(0) - 1
    true_logits = logits_N[is_true_N]
    # Log-sum-exp of each ragged list, shifted by its own true logit and clear of overflow by its own maximum.
    margins_N = logits_N - true_logits[list_index_N]
    peaks = torch.zeros_like(true_logits).scatter_reduce(0, list_index_N, margins_N.detach(), "amax")
    sums = torch.zeros_like(true_logits).index_add(0, list_index_N, (margins_N - peaks[list_index_N]).exp())
    return (peaks + sums.log()).mean()


def _symmetric_contrast(
    left_ND: Tensor,
    right_ND: Tensor,
    logit_scale: Tensor | float,
    gather: Gather | None,
    text_id_N: Tensor | None = None,
) -> Tensor:
    """Of the gathered rows; those of the same `text_id`, gathered as well, are not each other's negatives."""
    if gather is not None:
        left_ND, right_ND = gather(left_ND), gather(right_ND)
    if len(left_ND) == 0:
        return _differentiable_zero(left_ND, right_ND, logit_scale)
    if len(left_ND) ** 2 > DENSE_LIMIT:
        return tiled_contrast(left_ND, right_ND, logit_scale=logit_scale, text_id_M=text_id_N) / len(left_ND)
    logits_NN = _similarity(left_ND, right_ND, logit_scale)
    if text_id_N is not None:
        twin_NN = (text_id_N[:, None] == text_id_N[None, :]).fill_diagonal_(False)
        logits_NN = logits_NN.masked_fill(twin_NN, -torch.inf)
    targets_N = torch.arange(len(logits_NN), device=logits_NN.device)
    return (F.cross_entropy(logits_NN, targets_N) + F.cross_entropy(logits_NN.T, targets_N)) / 2


def _tiled_beta_cal(
    left_TD: Tensor, right_TD: Tensor, image_index_T: Tensor, logit_scale: Tensor | float, beta: float, kind: str
) -> Tensor:
    if kind == "bce":
        total = tiled_sigmoid(left_TD, right_TD, image_index_T, logit_scale=logit_scale, beta=beta)
        return total / len(left_TD) ** 2
    total = tiled_contrast(left_TD, right_TD, logit_scale=logit_scale, image_index_M=image_index_T, beta=beta)
    return total / len(left_TD)


def _similarity(left_ND: Tensor, right_MD: Tensor, logit_scale: Tensor | float) -> Tensor:
    # Autocast would run this product in half precision: logits up to 100 need more digits than that.
    with torch.autocast(left_ND.device.type, enabled=False):
        return at_least_float32(logit_scale) * (at_least_float32(left_ND) @ at_least_float32(right_MD).T)


def _differentiable_zero(left: Tensor, right: Tensor, logit_scale: Tensor | float) -> Tensor:
    return at_least_float32(logit_scale) * (at_least_float32(left).sum() + at_least_float32(right).sum()) * 0.0


def _check_pairs(left: Tensor, right: Tensor, left_name: str, right_name: str) -> None:
    if left.ndim != 2 or left.shape != right.shape:
        raise ValueError(
            f"{left_name} and {right_name} must have one shape (rows, width), "
            f"but are {tuple(left.shape)} and {tuple(right.shape)}"
        )


__all__ = ["beta_cal_loss", "clip_loss", "hard_negative_loss", "region_loss"]
