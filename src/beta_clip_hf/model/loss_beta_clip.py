# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""The losses of β-CLIP and FG-CLIP: pure functions of flat, L2-normalised embeddings.

Every function computes in at least float32, also under autocast (float64 stays float64). `logit_scale` is the
multiplier s itself, not its logarithm.

With several processes the caller passes `gather`: a [`Gather`], or a plain function from a tensor with a ragged first
axis to the same tensor of all processes, concatenated and differentiable. Every process then gets the value of the
whole loss, and the mean of the processes' gradients is the gradient of the one-process batch: no loss has to be
multiplied by the number of processes.

How the losses of paired rows are computed, with few rows or many, is in `paired_rows_beta_clip.py`.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from .gather_beta_clip import GatherArgument, adapted_gather
from .hard_lists_beta_clip import hard_lists
from .paired_rows_beta_clip import BetaCalContrast, PairedContrast, differentiable_zero, loss_over_all_rows
from .tiled_beta_clip import at_least_float32


def clip_loss(
    image_embeds_BD: Tensor, text_embeds_BD: Tensor, *, logit_scale: Tensor | float, gather: GatherArgument = None
) -> Tensor:
    r"""
    Computes CLIP's loss, the symmetric contrast of images and texts in pairs.

    With S_ij = s · image_i·text_j:

    ```
    ½ [mean_i −log softmax_j(S_ij)|_{j=i} + mean_i −log softmax_j(S_ji)|_{j=i}]
    ```

    Args:
        image_embeds_BD (`Tensor` of shape `(B, D)`): L2-normalised image embeddings.
        text_embeds_BD (`Tensor` of shape `(B, D)`): L2-normalised text embeddings; row i belongs to image i.
        logit_scale (`Tensor | float`): s, a multiplier.
        gather: Joins several processes, see the module: the rows of all processes form one batch.

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
    return loss_over_all_rows(PairedContrast(logit_scale), image_embeds_BD, text_embeds_BD, None, gather=gather)


def beta_cal_loss(
    contextualized_embeds_TD: Tensor,
    text_embeds_TD: Tensor,
    image_index_T: Tensor,
    *,
    logit_scale: Tensor | float,
    beta: float = 0.5,
    kind: str = "ce",
    text_id_T: Tensor | None = None,
    gather: GatherArgument = None,
) -> Tensor:
    r"""
    Computes β-CAL, the β-contextualised contrastive alignment loss, over all texts of the batch.

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
        beta (`float`): β in [0, 1]. With 0 a text's siblings are negatives in "ce", and take no part in "bce".
        kind (`"ce" | "bce"`): The form of the loss.
        text_id_T (`Tensor` of shape `(T,)`, integer, *optional*):
            Equal for texts that are the same (with `gather`, across processes). Where such texts i and j are of
            different images, j is left out of the softmax of i, and m_ij is 0. Without it they count as negatives.
        gather: Joins several processes, see the module: the texts of all processes form one batch.

    Returns:
        A scalar, in nats. No text at all gives a zero that can be differentiated.

    Raises:
        ValueError: if shapes disagree, β is outside of [0, 1], or `kind` is unknown.

    Source: arXiv 2512.12678, β-CAL. The authors' release lets padded columns into the softmax; texts here are flat and
    have none.

    >>> embeds = torch.eye(4)
    >>> round(beta_cal_loss(embeds, embeds, torch.tensor([0, 0, 1, 1]), logit_scale=10.0, beta=0.0).item(), 4)
    0.0001
    """
    _check_pairs(contextualized_embeds_TD, text_embeds_TD, "contextualized_embeds", "text_embeds")
    if image_index_T.shape != text_embeds_TD.shape[:1]:
        raise ValueError(
            f"image_index must have shape ({len(text_embeds_TD)},), one per text, but is {tuple(image_index_T.shape)}"
        )
    if text_id_T is not None and text_id_T.shape != image_index_T.shape:
        raise ValueError(
            f"text_id must have shape ({len(text_embeds_TD)},), one per text, but is {tuple(text_id_T.shape)}"
        )
    if not 0 <= beta <= 1:
        raise ValueError(f"beta must be in [0, 1], but is {beta}")
    _check_kind(kind)
    loss = BetaCalContrast(logit_scale, beta, kind)
    return loss_over_all_rows(loss, contextualized_embeds_TD, text_embeds_TD, image_index_T, text_id_T, gather=gather)


def text_conditioned_loss(
    scores_BT: Tensor,
    image_index_T: Tensor,
    *,
    logit_scale: Tensor | float,
    kind: str = "ce",
    gather: GatherArgument = None,
) -> Tensor:
    r"""
    Contrasts the text-conditioned scores of all pairs of an image and a text.

    The negatives are mismatched: an image is pooled for the texts of other images too, and must not look like them.

    With v_{i|t} image i as pooled for text t, u_t the text embedding, g(t) its image and S_it = s · v_{i|t}·u_t:

    ```
    "ce":  ½ mean_t [−log softmax_i(S_it)|_{i=g(t)} − log softmax_t'(S_{g(t)t'})|_{t'=t}]
    "bce": mean_it BCEWithLogits(S_it, 1 if g(t) = i else 0)
    ```

    β-CAL, whose rows are v_{g(t)|t}, pools an image for its own texts only. Here all texts of an image are equally its
    positives. β-CAL's weights amount to the same for any β: they sum to 1 over the texts t of an image, and S_it' is
    the same for all of them.

    Args:
        scores_BT (`Tensor` of shape `(B, T)`): v_{i|t}·u_t, as `BetaCLIPModel.score_pairs` computes them.
        image_index_T (`Tensor` of shape `(T,)`, integer): g, places among the B images.
        logit_scale (`Tensor | float`): s of the pooler, a multiplier.
        kind (`"ce" | "bce"`): The form of the loss.
        gather: Joins several processes, see the module. Each process passes the scores of its own images with the texts
            of all processes, and the place of each text's image among the images of all processes.

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
    processes, (scores_BT,) = adapted_gather(gather, scores_BT)
    logits_BT = at_least_float32(logit_scale) * at_least_float32(scores_BT)
    num_images = [count for (count,) in processes.row_counts(len(scores_BT))]
    num_texts = len(image_index_T)
    if num_texts == 0:
        return logits_BT.sum()

    first_image = sum(num_images[: processes.rank])
    place_B = first_image + torch.arange(len(scores_BT), device=scores_BT.device)
    is_own_BT = image_index_T == place_B[:, None]
    if kind == "bce":
        total = F.binary_cross_entropy_with_logits(logits_BT, is_own_BT.to(logits_BT.dtype), reduction="sum")
        return processes.sum(total / (sum(num_images) * num_texts))
    # Each process has the scores of a text with some of the images only, but those of an image with all texts.
    over_images_T = processes.logsumexp(logits_BT.logsumexp(dim=0))
    over_texts_B = logits_BT.logsumexp(dim=1)
    losses_BT = (over_images_T + over_texts_B[:, None]) / 2 - logits_BT
    # Each text has one image: over all processes the sum has one term per text.
    return processes.sum(losses_BT.masked_fill(~is_own_BT, 0).sum() / num_texts)


def region_loss(
    region_embeds_RD: Tensor,
    region_text_embeds_RD: Tensor,
    *,
    logit_scale: Tensor | float,
    text_id_R: Tensor | None = None,
    gather: GatherArgument = None,
) -> Tensor:
    r"""
    Computes FG-CLIP's regional loss: the contrast of `clip_loss` between all boxes of the batch and their texts.

    With S_ij = s · region_i·text_j, where j runs over i and over the regions whose text is not known to be that of i:

    ```
    ½ [mean_i −log softmax_j(S_ij)|_{j=i} + mean_i −log softmax_j(S_ji)|_{j=i}]
    ```

    Args:
        region_embeds_RD (`Tensor` of shape `(R, D)`): L2-normalised region embeddings.
        region_text_embeds_RD (`Tensor` of shape `(R, D)`): L2-normalised embeddings; row i describes region i.
        logit_scale (`Tensor | float`): s of the regions, a multiplier.
        text_id_R (`Tensor` of shape `(R,)`, integer, *optional*):
            Equal for regions with the same text (with `gather`, across processes): such regions are left out of each
            other's negatives. Without it they count as negatives, as in the release.
        gather: Joins several processes, see the module: the regions of all processes form one batch.

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
    loss = PairedContrast(logit_scale)
    return loss_over_all_rows(loss, region_embeds_RD, region_text_embeds_RD, text_id_R, gather=gather)


def hard_negative_loss(
    region_embeds_RD: Tensor, hard_text_embeds_ND: Tensor, hard_region_index_N: Tensor, *, logit_scale: Tensor | float
) -> Tensor:
    r"""
    Computes FG-CLIP's hard-negative loss: each flagged region picks its true text out of a list of its own.

    With e_0 the first text of a flagged region r, the true one, and e_1, … its negatives, of any number:

    ```
    mean_r −log softmax(s · [r·e_0, r·e_1, …])_0
    ```

    Args:
        region_embeds_RD (`Tensor` of shape `(R, D)`): L2-normalised region embeddings, flagged or not.
        hard_text_embeds_ND (`Tensor` of shape `(N, D)`):
            L2-normalised text embeddings: for each flagged region its true text first, then its negatives.
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
    lists = hard_lists(region_embeds_RD, hard_text_embeds_ND, hard_region_index_N)
    if len(hard_text_embeds_ND) == 0:
        return differentiable_zero(region_embeds_RD, hard_text_embeds_ND, logit_scale)
    logits_N = at_least_float32(logit_scale) * (lists.region_ND * lists.text_ND).sum(dim=-1)
    # The true text is no negative of itself.
    margins_N = (logits_N - logits_N[lists.first_N]).masked_fill(lists.is_true_N, -torch.inf)
    return _mean_over_lists(margins_N, hard_region_index_N)


def text_negative_loss(
    scores_T: Tensor, negative_scores_n: Tensor, negative_text_index_n: Tensor, *, logit_scale: Tensor | float
) -> Tensor:
    r"""
    Contrasts each flagged text of a batch with negatives of its own, which are false of its image.

    With c_0 the score of a flagged text t with its image, and c_1, … those of its negatives, of any number:

    ```
    mean_t −log softmax(s · [c_0, c_1, …])_0
    ```

    A score may be the cosine with the image embedding, image_{g(t)}·u, or the text-conditioned one, v_{g(t)|u}·u, for
    which the image is pooled for each of the texts.

    Args:
        scores_T (`Tensor` of shape `(T,)`): The score of each text with its image, flagged or not.
        negative_scores_n (`Tensor` of shape `(n,)`): The score of each negative with the image of its text.
        negative_text_index_n (`Tensor` of shape `(n,)`, int64): The text of each negative, non-decreasing.
        logit_scale (`Tensor | float`): s, a multiplier.

    Returns:
        A scalar, in nats. No negative at all gives a zero that can be differentiated.

    Raises:
        ValueError: if the shapes disagree.

    Source: NegCLIP (arXiv 2210.01936) has such captions as further columns of CLIP's contrast; here each text has a
    list of its own, as a region has in FG-CLIP (arXiv 2505.05071).

    >>> scores, negative_scores = torch.tensor([1.0, 0.3, 1.0]), torch.tensor([0.0, 0.0, 0.0])
    >>> index = torch.tensor([0, 2, 2])
    >>> round(text_negative_loss(scores, negative_scores, index, logit_scale=1.0).item(), 4)  # as hard_negative_loss
    0.4324
    """
    if negative_scores_n.ndim != 1 or negative_text_index_n.shape != negative_scores_n.shape:
        raise ValueError(
            f"negative_text_index must have one place for each of negative_scores {tuple(negative_scores_n.shape)}, "
            f"but has shape {tuple(negative_text_index_n.shape)}"
        )
    if len(negative_scores_n) == 0:
        return differentiable_zero(scores_T, negative_scores_n, logit_scale)
    true_scores_n = at_least_float32(scores_T)[negative_text_index_n]
    margins_n = at_least_float32(logit_scale) * (at_least_float32(negative_scores_n) - true_scores_n)
    return _mean_over_lists(margins_n, negative_text_index_n)


def _mean_over_lists(margins_N: Tensor, list_index_N: Tensor) -> Tensor:
    """
    Returns the mean over lists of the cross-entropy of their true text, log(1 + Σ exp margin).

    Args:
        margins_N: The logit of each negative, less that of the true text of its list. There is at least one.
        list_index_N: A number for the list of each negative, non-decreasing.
    """
    # Each list is kept at the place of its first member: no size depends on the number of lists, which a GPU would have
    # to be asked for.
    first_N = torch.searchsorted(list_index_N, list_index_N)
    num_lists = (first_N == torch.arange(len(first_N), device=first_N.device)).sum()
    # The largest margin is subtracted so that nothing overflows. The true text has the margin 0.
    peaks_N = torch.zeros_like(margins_N).scatter_reduce(0, first_N, margins_N.detach(), "amax")
    sums_N = torch.zeros_like(margins_N).index_add(0, first_N, (margins_N - peaks_N[first_N]).exp())
    # At places that keep no list, the peak and the sum are 0: the true text alone makes the logarithm 0.
    return (peaks_N + (sums_N + (-peaks_N).exp()).log()).sum() / num_lists


def _check_kind(kind: str) -> None:
    if kind not in ("ce", "bce"):
        raise ValueError(f'kind must be "ce" or "bce", but is {kind!r}')


def _check_pairs(left: Tensor, right: Tensor, left_name: str, right_name: str) -> None:
    if left.ndim != 2 or left.shape != right.shape:
        raise ValueError(
            f"{left_name} and {right_name} must have one shape (rows, width), "
            f"but are {tuple(left.shape)} and {tuple(right.shape)}"
        )


__all__ = [
    "beta_cal_loss",
    "clip_loss",
    "hard_negative_loss",
    "region_loss",
    "text_conditioned_loss",
    "text_negative_loss",
]
