# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""The losses that FG-CLIP 2 adds: pure functions of flat, L2-normalised embeddings, and a module with a threshold.

What holds for `loss_beta_clip.py` holds here: at least float32, `logit_scale` is the multiplier s itself, and `gather`
makes each process return the loss of all rows. FG-CLIP 2's region loss is `region_loss`, its loss of pairs is
`hard_negative_loss`.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .gather_beta_clip import GatherArgument, adapted_gather
from .hard_lists_beta_clip import hard_lists
from .paired_rows_beta_clip import SigmoidContrast, differentiable_zero, loss_over_all_rows
from .tiled_beta_clip import at_least_float32


# Texts that are more similar than this are taken for the same.
SIMILAR = 0.95
# Of each text so many others are pushed away.
NUM_NEIGHBOURS = 10
MAX_RANK_THRESHOLD = 10.0
# Rows of the matrix of similarities that are computed at once.
_BLOCK = 1024


def sigmoid_loss(
    image_embeds_BD: Tensor,
    text_embeds_BD: Tensor,
    *,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float,
    gather: GatherArgument = None,
) -> Tensor:
    r"""
    Computes SigLIP's loss: each pair of an image and a text is told to belong together or not.

    ```
    1/B Σ_i Σ_j −log σ(y_ij (s · image_i·text_j + b)),   y_ij = 1 if i = j, else −1
    ```

    Args:
        image_embeds_BD (`Tensor` of shape `(B, D)`): L2-normalised image embeddings.
        text_embeds_BD (`Tensor` of shape `(B, D)`): L2-normalised text embeddings; row i belongs to image i.
        logit_scale (`Tensor | float`): s, a multiplier; not 0.
        logit_bias (`Tensor | float`): b.
        gather: Joins several processes, see the module: the rows of all processes form one batch.

    Returns:
        A scalar, in nats. An empty batch gives a zero that can be differentiated.

    Raises:
        ValueError: if the shapes differ or are not two-dimensional.

    Source: Zhai et al. 2023 (arXiv 2303.15343), algorithm 1; L_global of FG-CLIP 2 (arXiv 2510.10921).

    >>> embeds = torch.eye(4)
    >>> round(sigmoid_loss(embeds, embeds, logit_scale=20.0, logit_bias=-10.0).item(), 4)
    0.0002
    """
    if image_embeds_BD.ndim != 2 or image_embeds_BD.shape != text_embeds_BD.shape:
        raise ValueError(
            "image_embeds and text_embeds must have one shape (rows, width), but are "
            f"{tuple(image_embeds_BD.shape)} and {tuple(text_embeds_BD.shape)}"
        )
    loss = SigmoidContrast(logit_scale, logit_bias)
    return loss_over_all_rows(loss, image_embeds_BD, text_embeds_BD, gather=gather)


def intra_text_loss(
    text_embeds_RD: Tensor, *, leave_out_similar: bool = False, gather: GatherArgument = None
) -> Tensor:
    r"""
    Computes FG-CLIP 2's textual intra-modal contrast: texts of different regions are pushed apart.

    With S = E Eᵀ, where S_ii and every S_ij > 0.95 are set to 0:

    ```
    mean_i log Σ_{k ∈ the 10 largest of S_i} exp(S_ik)
    ```

    Args:
        text_embeds_RD (`Tensor` of shape `(R, D)`): L2-normalised embeddings of the texts of regions, of any number.
        leave_out_similar (`bool`):
            Whether S_ii and similarities above 0.95 are left out, instead of taking part as 0. The mean is then over
            the texts that have another one left. False, as in the release.
        gather: Joins several processes, see the module: the texts of all processes form one batch.

    Returns:
        A scalar. No text at all gives a zero that can be differentiated.

    Raises:
        ValueError: if the embeddings are not two-dimensional.

    Source: arXiv 2510.10921, L_TIC, as released.

    >>> round(intra_text_loss(torch.eye(3)).item(), 4)  # ln 3: three similarities of 0
    1.0986
    """
    if text_embeds_RD.ndim != 2:
        raise ValueError(f"text_embeds must have shape (rows, width), but are {tuple(text_embeds_RD.shape)}")
    processes, (text_RD,) = adapted_gather(gather, text_embeds_RD)
    text_RD = at_least_float32(text_RD)
    counts = [count for (count,) in processes.row_counts(len(text_RD))]
    all_ED = processes.sized(counts)(text_RD)
    if len(all_ED) == 0:
        return all_ED.sum()
    first_row = sum(counts[: processes.rank])
    # What the excluded similarities are set to.
    excluded = -torch.inf if leave_out_similar else 0.0
    nearest_RK, counts_RK = _neighbours(text_RD.detach(), all_ED.detach(), first_row, excluded)
    # Autocast would run this product in half precision.
    with torch.autocast(text_RD.device.type, enabled=False):
        similarity_RK = (all_ED[nearest_RK] @ text_RD[:, :, None])[:, :, 0]
    similarity_RK = similarity_RK.masked_fill(~counts_RK, excluded)
    has_other_R = counts_RK.any(dim=1) if leave_out_similar else torch.ones_like(counts_RK[:, 0])
    # A row of −∞ alone would have a gradient that is not a number.
    similarity_RK = similarity_RK.masked_fill(~has_other_R[:, None], 0.0)
    losses_R = similarity_RK.logsumexp(dim=1).masked_fill(~has_other_R, 0.0)
    total, count = processes.sum(torch.stack([losses_R.sum(), has_other_R.sum().to(losses_R)]))
    return total / count.clamp(min=1)


@torch.no_grad()
def _neighbours(text_RD: Tensor, all_ED: Tensor, first_row: int, excluded: float) -> tuple[Tensor, Tensor]:
    """
    Finds the most similar texts of each text, block by block, so that memory grows with the number of texts only.

    Args:
        text_RD: Some of the texts.
        all_ED: All texts.
        first_row: The place of the first of some among all.
        excluded: The similarity that a text and those that are too similar to it stand in line with.

    Returns:
        The places of the neighbours, `(R, K)`, 10 or as many as there are; and for each whether it counts: it is
        another text, and not too similar.
    """
    num_neighbours = min(NUM_NEIGHBOURS, len(all_ED))
    places = [torch.zeros(0, num_neighbours, dtype=torch.long, device=text_RD.device)]
    kept = [torch.zeros(0, num_neighbours, dtype=torch.bool, device=text_RD.device)]
    for start in range(0, len(text_RD), _BLOCK):
        block_mD = text_RD[start : start + _BLOCK]
        with torch.autocast(text_RD.device.type, enabled=False):
            similarity_mE = block_mD @ all_ED.T
        counts_mE = similarity_mE <= SIMILAR
        counts_mE.diagonal(first_row + start).fill_(False)
        nearest_mK = similarity_mE.masked_fill(~counts_mE, excluded).topk(num_neighbours, dim=1).indices
        places.append(nearest_mK)
        kept.append(counts_mE.gather(1, nearest_mK))
    return torch.cat(places), torch.cat(kept)


def hard_contrast_loss(
    region_embeds_RD: Tensor,
    hard_text_embeds_ND: Tensor,
    hard_region_index_N: Tensor,
    *,
    logit_scale: Tensor | float,
    gather: GatherArgument = None,
) -> Tensor:
    r"""
    Contrasts flagged regions with the hard texts of all of them.

    Of M flagged regions r_m, with e_m0 the true text of r_m, and e any true text or negative:

    ```
    ½ mean_m [ −log softmax_e(s r_m·e)|_{e = e_m0} − log softmax_{m'}(s r_m'·e_m0)|_{m' = m} ]
    ```

    Args:
        region_embeds_RD (`Tensor` of shape `(R, D)`): L2-normalised region embeddings, flagged or not.
        hard_text_embeds_ND (`Tensor` of shape `(N, D)`):
            L2-normalised text embeddings: for each flagged region its true text first, then its negatives.
        hard_region_index_N (`Tensor` of shape `(N,)`, int64): The region of each text, non-decreasing.
        logit_scale (`Tensor | float`): s of the hard negatives, a multiplier.
        gather: Joins several processes, see the module: the flagged regions of all processes form one batch.

    Returns:
        A scalar, in nats. No hard text at all gives a zero that can be differentiated.

    Raises:
        ValueError: if the shapes disagree.

    Source: the release of FG-CLIP 2; the paper (arXiv 2510.10921) has no such part.

    >>> regions, texts = torch.eye(3), torch.eye(3)[[0, 2, 1, 2]]
    >>> round(hard_contrast_loss(regions, texts, torch.tensor([0, 0, 1, 1]), logit_scale=50.0).item(), 4)
    0.0
    """
    processes, rows = adapted_gather(gather, region_embeds_RD, hard_text_embeds_ND)
    if processes is not gather and gather is not None:
        # A plain function has gathered the rows; the index counts through the regions of one process.
        counts = gather(torch.tensor([[len(region_embeds_RD), len(hard_text_embeds_ND)]], device=rows[0].device))
        first_P = counts[:, 0].cumsum(0) - counts[:, 0]
        hard_region_index_N = gather(hard_region_index_N) + first_P.repeat_interleave(counts[:, 1])
    region_RD, text_ND = rows
    lists = hard_lists(region_RD, text_ND, hard_region_index_N)
    true_text_MD = lists.text_ND[lists.is_true_N]
    true_region_MD = lists.region_ND[lists.is_true_N]
    negative_nD = lists.text_ND[~lists.is_true_N]
    sizes = processes.row_counts(len(true_text_MD), len(negative_nD))
    gather_true = processes.sized([num_true for num_true, _ in sizes])
    all_text_ED = gather_true(true_text_MD)
    all_region_ED = gather_true(true_region_MD)
    all_negative_ED = processes.sized([num_negatives for _, num_negatives in sizes])(negative_nD)
    if len(all_text_ED) == 0:
        return differentiable_zero(region_embeds_RD, hard_text_embeds_ND, logit_scale)

    scale = at_least_float32(logit_scale)
    first_row = sum(num_true for num_true, _ in sizes[: processes.rank])
    target_M = first_row + torch.arange(len(true_text_MD), device=true_text_MD.device)
    # Autocast would run these products in half precision: logits up to 100 need more digits than that.
    with torch.autocast(true_text_MD.device.type, enabled=False):
        logits_over_texts = scale * true_region_MD @ torch.cat([all_text_ED, all_negative_ED]).T
        logits_over_regions = scale * true_text_MD @ all_region_ED.T
    total = F.cross_entropy(logits_over_texts, target_M, reduction="sum")
    total = total + F.cross_entropy(logits_over_regions, target_M, reduction="sum")
    return processes.sum(total / (2 * len(all_text_ED)))


def rank_loss(
    region_embeds_RD: Tensor,
    hard_text_embeds_ND: Tensor,
    hard_region_index_N: Tensor,
    *,
    logit_scale: Tensor | float,
    threshold: Tensor | float = 0.0,
    gather: GatherArgument = None,
) -> tuple[Tensor, Tensor]:
    r"""
    Computes FG-CLIP 2's cross-modal rank loss: the true text of a region beats each negative by a margin.

    With e_m0 the true text of flagged region r_m, and e_mk its negatives, of any number:

    ```
    mean_mk max(0, τ + s r_m·e_mk − s r_m·e_m0)
    next τ = clamp(mean_m s r_m·e_m0 − mean_mk s r_m·e_mk, 0, 10),  without a gradient
    ```

    Args:
        region_embeds_RD, hard_text_embeds_ND, hard_region_index_N: As in [`hard_contrast_loss`].
        logit_scale (`Tensor | float`): s of the hard negatives, a multiplier.
        threshold (`Tensor | float`): τ, which the step before gave; 0 at first.
        gather: Joins several processes, see the module. The means are over the lists of all processes.

    Returns:
        The loss, a scalar, and the next τ. Without a negative the loss is a zero that can be differentiated, and τ
        stays.

    Raises:
        ValueError: if the shapes disagree.

    Source: arXiv 2510.10921, L_CMR, as released: with logits where the paper has cosines.

    >>> regions, texts = torch.eye(2), torch.eye(2)[[0, 1]]
    >>> loss, threshold = rank_loss(regions, texts, torch.tensor([0, 0]), logit_scale=2.0, threshold=3.0)
    >>> loss.item(), threshold.item()
    (1.0, 2.0)
    """
    lists = hard_lists(region_embeds_RD, hard_text_embeds_ND, hard_region_index_N)
    logits_N = at_least_float32(logit_scale) * (lists.region_ND * lists.text_ND).sum(dim=-1)
    hinges_N = (threshold + logits_N - logits_N[lists.first_N]).clamp(min=0)
    is_negative_N = ~lists.is_true_N
    # A product, and not a selection, whose size a GPU would have to be asked for. Without any rows the sums keep the
    # graph.
    sums = [
        (hinges_N * is_negative_N).sum(),
        is_negative_N.sum().to(logits_N),
        (logits_N * lists.is_true_N).sum().detach(),
        lists.is_true_N.sum().to(logits_N),
        (logits_N * is_negative_N).sum().detach(),
    ]
    hinge, num_negatives, positive, num_true, negative = _sum_over_processes(torch.stack(sums), gather)
    gap = positive / num_true.clamp(min=1) - negative / num_negatives.clamp(min=1)
    next_threshold = gap.detach().clamp(0, MAX_RANK_THRESHOLD)
    next_threshold = torch.where(num_negatives > 0, next_threshold, torch.as_tensor(threshold).to(next_threshold))
    return hinge / num_negatives.clamp(min=1), next_threshold.detach()


def _sum_over_processes(values: Tensor, gather: GatherArgument) -> Tensor:
    """Returns the sum of a few numbers over processes."""
    processes, (rows,) = adapted_gather(gather, values[None])
    # A plain function has gathered one row of each process, and the only process is left.
    return processes.sum(rows.sum(dim=0))


class RankLoss(nn.Module):
    """Computes [`rank_loss`] and keeps its threshold from step to step, in the checkpoint too."""

    threshold: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("threshold", torch.zeros(()))

    def forward(
        self,
        region_embeds_RD: Tensor,
        hard_text_embeds_ND: Tensor,
        hard_region_index_N: Tensor,
        *,
        logit_scale: Tensor | float,
        gather: GatherArgument = None,
    ) -> Tensor:
        """Returns the loss; in training mode the threshold becomes that of the next step."""
        loss, next_threshold = rank_loss(
            region_embeds_RD,
            hard_text_embeds_ND,
            hard_region_index_N,
            logit_scale=logit_scale,
            threshold=self.threshold.clone(),
            gather=gather,
        )
        if self.training:
            self.threshold.copy_(next_threshold)
        return loss


__all__ = ["RankLoss", "hard_contrast_loss", "intra_text_loss", "rank_loss", "sigmoid_loss"]
