"""The losses of β-CLIP and FG-CLIP: pure functions on flat, L2-normalised embeddings.

Letters: B images, T texts of the batch (all granularities, flat), R regions, N hard texts, D projection width.

Every function computes in at least float32, also under autocast (float64 stays float64). `logit_scale` is the
multiplier s itself, not its logarithm. `gather` is passed in by the caller: it maps a tensor with a ragged first axis
to the same tensor of all processes, concatenated, and lets gradients through. With it every process gets the value of
the whole loss, and the mean of the processes' gradients is the gradient of the one-process batch: nothing is to be
multiplied.

Beyond `DENSE_LIMIT` logits the losses are computed by `tiled_beta_clip.py`, which never holds a T × T matrix: the same
numbers up to rounding, and the same gradients. What stands here is the readable twin. There, a gather that knows the
rows of each process (`ProcessGather` in `training/distributed.py`) divides the work as well, see [`_over_processes`].
"""

from collections.abc import Callable
from typing import Any

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
    rows = (image_embeds_BD, text_embeds_BD, None)
    return _over_processes(_dense_contrast, _tiled_contrast, *rows, gather, {"logit_scale": logit_scale})


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
    _check_kind(kind)
    settings = {"logit_scale": logit_scale, "beta": beta, "kind": kind}
    rows = (contextualized_embeds_TD, text_embeds_TD, image_index_T)
    return _over_processes(_dense_beta_cal, _tiled_beta_cal, *rows, gather, settings)


def text_conditioned_loss(
    scores_BT: Tensor,
    image_index_T: Tensor,
    *,
    logit_scale: Tensor | float,
    kind: str = "ce",
    gather: Any = None,
) -> Tensor:
    r"""
    The contrast of text-conditioned scores of all pairs of an image and a text, with mismatched negatives: an image is
    pooled for the texts of other images too, and must not look like them.

    With v_{i|t} image i as pooled for text t, u_t the text embedding, g(t) its image and S_it = s · v_{i|t}·u_t:

    ```
    "ce":  ½ mean_t [−log softmax_i(S_it)|_{i=g(t)} − log softmax_t'(S_{g(t)t'})|_{t'=t}]
    "bce": mean_it BCEWithLogits(S_it, 1 if g(t) = i else 0)
    ```

    β-CAL, whose rows are v_{g(t)|t}, contrasts what an image gives for its own texts only. Here the texts of an image
    are its positives all alike, which is what β-CAL's weights come to for any β: they sum to 1 over the texts t of an
    image, and S_it' is the same for all of them.

    Args:
        scores_BT (`Tensor` of shape `(B, T)`): v_{i|t}·u_t, as of `BetaCLIPModel.score_pairs`.
        image_index_T (`Tensor` of shape `(T,)`, integer): g, places among the B images.
        logit_scale (`Tensor | float`): s of the pooler, a multiplier.
        kind (`"ce" | "bce"`): the form of the loss.
        gather (*optional*):
            For several processes, with `rank`, `row_counts`, `sum` and `logsumexp` (`ProcessGather`). A process gives
            its own images with the texts of all processes, and the places of their images among those of all.

    Returns:
        A scalar, in nats. No text at all gives a zero that can be differentiated.

    Raises:
        ValueError: if shapes disagree, or `kind` is unknown.

    Source: after the text-conditioned sigmoid loss of FLAIR (arXiv 2412.03561), which has a bias beside s; "ce" is its
    counterpart in the form of β-CAL (arXiv 2512.12678).

    >>> scores = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    >>> round(text_conditioned_loss(scores, torch.tensor([0, 0, 1]), logit_scale=100.0).item(), 4)  # ⅓ ln 2: two share
    0.231
    >>> round(text_conditioned_loss(scores - 0.5, torch.tensor([0, 0, 1]), logit_scale=100.0, kind="bce").item(), 4)
    0.0
    """
    if scores_BT.ndim != 2 or image_index_T.shape != scores_BT.shape[1:]:
        raise ValueError(
            f"image_index must have one place for each of the texts of scores {tuple(scores_BT.shape)}, "
            f"but has shape {tuple(image_index_T.shape)}"
        )
    _check_kind(kind)
    counts, rank = [len(scores_BT)], 0
    if gather is not None:
        counts, rank = [rows for (rows,) in gather.row_counts(len(scores_BT))], gather.rank
    logits_BT = at_least_float32(logit_scale) * at_least_float32(scores_BT)
    image_B = sum(counts[:rank]) + torch.arange(len(scores_BT), device=scores_BT.device)
    own_BT = image_index_T == image_B[:, None]
    if len(image_index_T) == 0:
        return logits_BT.sum()
    if kind == "bce":
        total = F.binary_cross_entropy_with_logits(logits_BT, own_BT.to(logits_BT.dtype), reduction="sum")
        total = total / (sum(counts) * len(image_index_T))
    else:
        over_images_T, over_texts_B = logits_BT.logsumexp(dim=0), logits_BT.logsumexp(dim=1)
        if gather is not None:
            over_images_T = gather.logsumexp(over_images_T)
        losses_BT = (over_images_T + over_texts_B[:, None]) / 2 - logits_BT
        total = losses_BT.masked_fill(~own_BT, 0).sum() / len(image_index_T)
    return total if gather is None else gather.sum(total)


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
    if text_id_R is not None and text_id_R.shape != region_embeds_RD.shape[:1]:
        raise ValueError(
            f"text_id must have shape ({len(region_embeds_RD)},), one per region, but is {tuple(text_id_R.shape)}"
        )
    rows = (region_embeds_RD, region_text_embeds_RD, text_id_R)
    return _over_processes(_dense_contrast, _tiled_contrast, *rows, gather, {"logit_scale": logit_scale})


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
    # A list has the place of its first text, the true one, so that no size depends on the number of lists.
    first_N = torch.searchsorted(hard_region_index_N, hard_region_index_N)
    is_true_N = first_N == torch.arange(len(first_N), device=first_N.device)
    # Log-sum-exp of each ragged list, shifted by its own true logit and clear of overflow by its own maximum.
    margins_N = logits_N - logits_N[first_N]
    peaks_N = torch.zeros_like(margins_N).scatter_reduce(0, first_N, margins_N.detach(), "amax")
    sums_N = torch.zeros_like(margins_N).index_add(0, first_N, (margins_N - peaks_N[first_N]).exp())
    return (peaks_N + (sums_N + ~is_true_N).log()).sum() / is_true_N.sum()


def _over_processes(
    dense: Callable[..., Tensor],
    tiled: Callable[..., Tensor],
    left_ND: Tensor,
    right_ND: Tensor,
    id_N: Tensor | None,
    gather: Any,
    settings: dict[str, Any],
) -> Tensor:
    """
    A loss of pairs of rows, over the rows of all processes: `dense(left, right, id)` of few rows, `tiled` of many.

    Where the gather knows how many rows each process has, `tiled` gets the left rows of this process alone and the
    right rows of all: the work is divided, memory grows with the number of all rows and not with its square, and the
    left side stays where it is. With any other gather every process computes the whole.
    """
    counts = [len(left_ND)]
    if hasattr(gather, "sized"):
        counts = [rows for (rows,) in gather.row_counts(len(left_ND))]
        gather = gather.sized(counts)

    def of_all(own: Any) -> Any:
        return own if own is None or gather is None else gather(own)

    right_MD, id_M = of_all(right_ND), of_all(id_N)
    many = len(right_MD) ** 2 > DENSE_LIMIT
    if many and len(counts) > 1:
        place = {"first_row": sum(counts[: gather.rank]), "logsumexp": gather.logsumexp}
        return gather.sum(tiled(left_ND, right_MD, id_M, **settings, **place) / len(right_MD))
    left_MD = of_all(left_ND)
    if len(left_MD) == 0:
        return _differentiable_zero(left_MD, right_MD, settings["logit_scale"])
    if many:
        return tiled(left_MD, right_MD, id_M, **settings) / len(left_MD)
    return dense(left_MD, right_MD, id_M, **settings)


def _dense_contrast(
    left_ND: Tensor, right_ND: Tensor, text_id_N: Tensor | None, *, logit_scale: Tensor | float
) -> Tensor:
    """Both directions; rows of the same `text_id` are not each other's negatives."""
    logits_NN = _similarity(left_ND, right_ND, logit_scale)
    if text_id_N is not None:
        twin_NN = text_id_N[:, None] == text_id_N[None, :]
        twin_NN.diagonal().fill_(False)
        logits_NN = logits_NN.masked_fill(twin_NN, -torch.inf)
    targets_N = torch.arange(len(logits_NN), device=logits_NN.device)
    return (F.cross_entropy(logits_NN, targets_N) + F.cross_entropy(logits_NN.T, targets_N)) / 2


def _tiled_contrast(left_ND: Tensor, right_MD: Tensor, text_id_M: Tensor | None, **settings: Any) -> Tensor:
    """The sum over the left rows."""
    return tiled_contrast(left_ND, right_MD, text_id_M=text_id_M, **settings)


def _dense_beta_cal(
    left_TD: Tensor, right_TD: Tensor, image_index_T: Tensor, *, logit_scale: Tensor | float, beta: float, kind: str
) -> Tensor:
    logits_TT = _similarity(left_TD, right_TD, logit_scale)
    same_image_TT = image_index_T[:, None] == image_index_T[None, :]
    weights_TT = torch.full_like(logits_TT, 0.0 if kind == "ce" else 1.0)
    weights_TT.masked_fill_(same_image_TT, beta).diagonal().fill_(1.0)  # `fill_diagonal_` is compiled for one size
    if kind == "bce":
        return F.binary_cross_entropy_with_logits(logits_TT, same_image_TT.to(logits_TT.dtype), weight=weights_TT)
    targets_TT = weights_TT / weights_TT.sum(dim=1, keepdim=True)
    return (F.cross_entropy(logits_TT, targets_TT) + F.cross_entropy(logits_TT.T, targets_TT)) / 2


def _tiled_beta_cal(left_ND: Tensor, right_MD: Tensor, image_index_M: Tensor, *, kind: str, **settings: Any) -> Tensor:
    """The sum over the left rows; of "bce", whose mean is over pairs, that of the means over columns."""
    if kind == "ce":
        return tiled_contrast(left_ND, right_MD, image_index_M=image_index_M, **settings)
    settings.pop("logsumexp", None)  # nothing is normalised over columns
    return tiled_sigmoid(left_ND, right_MD, image_index_M, **settings) / len(right_MD)


def _similarity(left_ND: Tensor, right_MD: Tensor, logit_scale: Tensor | float) -> Tensor:
    # Autocast would run this product in half precision: logits up to 100 need more digits than that.
    with torch.autocast(left_ND.device.type, enabled=False):
        return at_least_float32(logit_scale) * (at_least_float32(left_ND) @ at_least_float32(right_MD).T)


def _differentiable_zero(left: Tensor, right: Tensor, logit_scale: Tensor | float) -> Tensor:
    return at_least_float32(logit_scale) * (at_least_float32(left).sum() + at_least_float32(right).sum()) * 0.0


def _check_kind(kind: str) -> None:
    if kind not in ("ce", "bce"):
        raise ValueError(f'kind must be "ce" or "bce", but is {kind!r}')


def _check_pairs(left: Tensor, right: Tensor, left_name: str, right_name: str) -> None:
    if left.ndim != 2 or left.shape != right.shape:
        raise ValueError(
            f"{left_name} and {right_name} must have one shape (rows, width), "
            f"but are {tuple(left.shape)} and {tuple(right.shape)}"
        )


__all__ = ["beta_cal_loss", "clip_loss", "hard_negative_loss", "region_loss", "text_conditioned_loss"]
