"""
Shortlists: the best candidates of each query by a first score, and their order by a second one.

M in names of tensors is the number of pairs of an image and a text.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..inference.embedder import ImageBatch
from ..inference.shards import Kept
from .metrics import MatchRanks, RetrievalRanks, choose_ranks, row_slices, scores_that_suit
from .scores import EVERYTHING, ScoreFunction


class Candidates(NamedTuple):
    """Indices of candidates of retrieval in both directions; -1 for none."""

    texts_BK: Tensor
    """(B, K) texts of each image."""
    images_TK: Tensor
    """(T, K) images of each text."""


class CandidateScores(NamedTuple):
    """Scores of candidates, in their order."""

    texts_BK: Tensor
    images_TK: Tensor


class Shortlists(NamedTuple):
    """Holds the best candidates of retrieval in both directions, best first, as integers. The two K may differ."""

    texts_BK: Tensor
    images_TK: Tensor
    text_ends_BK: Tensor
    """For each candidate the place, from 1, of the last one that is tied with it: a shortlist of that size holds all of
    them. If more are tied than there are places, it is K + 1."""
    image_ends_TK: Tensor

    def cut(self, size: int) -> "Shortlists":
        """Returns the shortlists of a smaller size."""
        return Shortlists(*(entries[:, :size] for entries in self))

    def first(self, size: int) -> Candidates:
        """
        Returns the shortlists of a smaller size, or of all candidates if there are fewer.

        Of candidates that are tied at the end of a shortlist all are in it or, if not all fit, none. The places of
        these hold -1: the order of the data decides nothing.
        """
        texts_BK = self.texts_BK[:, :size]
        images_TK = self.images_TK[:, :size]
        return Candidates(
            texts_BK=texts_BK.masked_fill(self.text_ends_BK[:, :size] > size, -1),
            images_TK=images_TK.masked_fill(self.image_ends_TK[:, :size] > size, -1),
        )


def best_candidates(score: ScoreFunction, num_images: int, num_texts: int, size: int) -> Shortlists:
    """
    Finds the best candidates of each image and of each text, on the CPU, without the whole score matrix.

    Args:
        score: First score of images with texts.
        num_images: Number of images, B.
        num_texts: Number of texts, T.
        size: Number of candidates of each query, K; all of them if there are fewer.
    """
    scores_at_a_time = scores_that_suit(score)
    text_parts = []
    for images in row_slices(num_images, num_texts, scores_at_a_time):
        text_parts.append(_best(score(images, EVERYTHING), size))
    image_parts = []
    for texts in row_slices(num_texts, num_images, scores_at_a_time):
        # The columns of a large matrix are copied first: to read them where they are takes several times as long.
        image_parts.append(_best(score(EVERYTHING, texts).contiguous().T, size))
    return Shortlists(
        texts_BK=torch.cat([part.index_QK for part in text_parts]),
        images_TK=torch.cat([part.index_QK for part in image_parts]),
        text_ends_BK=torch.cat([part.end_QK for part in text_parts]),
        image_ends_TK=torch.cat([part.end_QK for part in image_parts]),
    )


class _Best(NamedTuple):
    """Holds the best candidates of some queries."""

    index_QK: Tensor
    """int32, which is half the memory of what topk returns."""
    end_QK: Tensor
    """int16: for each candidate the place of the last one with the same score."""


def _best(scores_QG: Tensor, size: int) -> _Best:
    # One more than the shortlist holds tells whether there is a tie across its end.
    values_QK, index_QK = best_of_rows(scores_QG, min(size + 1, scores_QG.shape[1]))
    # The place of the last one of each run of equal scores, and behind that the nearest such place to the right.
    length = values_QK.shape[1]
    place_K = torch.arange(1, length + 1, device=values_QK.device)
    is_last_QK = torch.ones_like(values_QK, dtype=torch.bool)
    is_last_QK[:, :-1] = values_QK[:, :-1] != values_QK[:, 1:]
    end_QK = torch.where(is_last_QK, place_K, length).flip(1).cummin(dim=1).values.flip(1)
    return _Best(index_QK[:, :size].int().cpu(), end_QK[:, :size].short().cpu())


def best_of_rows(scores_QG: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """
    Returns the highest scores of each row and their indices, as `topk` does, in less time.

    The `count` groups with the highest maxima hold the `count` highest scores, so the others are left out.

    Args:
        scores_QG: (Q, G).
        count: Number of scores, at most G.

    Returns:
        Scores and int64 indices, both (Q, count), the highest first. Which of tied ones come first is not said.
    """
    num_candidates = scores_QG.shape[1]
    # So there are as many groups as scores in the groups that are kept.
    group_size = round((num_candidates / count) ** 0.5)
    num_groups = num_candidates // group_size
    if group_size == 1 or num_groups < count:
        values_QK, index_QK = scores_QG.topk(count, dim=1)
        return values_QK, index_QK
    # A group is every n-th column of n groups: a maximum of whole rows is the fastest one.
    num_grouped = group_size * num_groups
    if scores_QG.stride(1) == 1:
        highest_QG = scores_QG[:, :num_grouped].unflatten(1, (group_size, num_groups)).amax(dim=1)
    else:
        # Columns lie in one piece, as in a transposed matrix: the same maximum takes 50 times as long along rows.
        highest_GQ = scores_QG.T[:num_grouped].unflatten(0, (group_size, num_groups)).amax(dim=0)
        highest_QG = highest_GQ.T.contiguous()
    group_QK = highest_QG.topk(count, dim=1, sorted=False).indices
    first_column_S = num_groups * torch.arange(group_size, device=scores_QG.device)
    kept_QW = (first_column_S[:, None] + group_QK[:, None]).flatten(1)
    # The last columns fill no group.
    rest_W = torch.arange(num_grouped, num_candidates, device=scores_QG.device)
    kept_QW = torch.cat([kept_QW, rest_W.expand(len(scores_QG), -1)], dim=1)
    values_QK, place_QK = scores_QG.gather(1, kept_QW).topk(count, dim=1)
    return values_QK, kept_QW.gather(1, place_QK)


def reranked(ranks: MatchRanks, short_QK: Tensor, scores_QK: Tensor, label_Q: Tensor, label_G: Tensor) -> MatchRanks:
    """
    Computes the ranks after the candidates of a shortlist are ordered by a second score, ahead of all others.

    The others keep their places. So none of them may be better by the first score than any of the shortlist, or tied
    with one.

    Args:
        ranks: Ranks by the first score alone.
        short_QK: (Q, K) integer, the best candidates of each query by the first score; -1 for none.
        scores_QK: (Q, K), the second score of each candidate; higher is better.
        label_Q: (Q,) int64, label of each query.
        label_G: (G,) int64, label of each candidate: it is relevant for the queries of its label.
    """
    is_present_QK = short_QK >= 0
    # Index 0 stands in for none: what is not present is not relevant either.
    label_QK = label_G[short_QK.clamp(min=0).long()]
    is_relevant_QK = is_present_QK & (label_QK == label_Q[:, None])
    best_Q1 = scores_QK.masked_fill(~is_relevant_QK, -torch.inf).amax(dim=1, keepdim=True)
    is_ahead_QK = (scores_QK > best_Q1) & is_present_QK
    is_tied_QK = (scores_QK == best_Q1) & is_present_QK
    shortlist_ranks = MatchRanks(
        ahead_Q=is_ahead_QK.sum(dim=1),
        tied_Q=is_tied_QK.sum(dim=1),
        tied_relevant_Q=(is_tied_QK & is_relevant_QK).sum(dim=1),
    )
    return choose_ranks(is_relevant_QK.any(dim=1), shortlist_ranks, ranks)


def reranked_both_ways(
    ranks: RetrievalRanks, candidates: Candidates, scores: CandidateScores, image_index_T: Tensor
) -> RetrievalRanks:
    """
    Computes the ranks after the shortlists of both directions are ordered by a second score, see [`reranked`].

    Args:
        ranks: Ranks by the first score alone.
        candidates: Shortlists by the first score.
        scores: The second score of each candidate.
        image_index_T: (T,) int64, the image of each text.
    """
    images_B = torch.arange(len(candidates.texts_BK))
    return RetrievalRanks(
        image_to_text=reranked(ranks.image_to_text, candidates.texts_BK, scores.texts_BK, images_B, image_index_T),
        text_to_image=reranked(ranks.text_to_image, candidates.images_TK, scores.images_TK, image_index_T, images_B),
    )


class ShortlistPairs:
    """
    Lists all pairs of shortlists image by image, to be scored batch by batch.

    The candidates of one text are in many batches. So the pairs of all texts are sorted by their image, and each batch
    takes those of its images.

    Args:
        shortlists: Shortlists of all images and texts.
        first_B: (B,) int64: for each image the first one that it is a copy of, or itself. Its texts are scored with
            this one.
    """

    def __init__(self, shortlists: Shortlists, first_B: Tensor) -> None:
        self.shortlists = shortlists
        self.first_B = first_B
        # Pairs are numbered by their places in the flat images_TK.
        self.image_M = first_B.int()[shortlists.images_TK.flatten().long()]
        self.order_M = self.image_M.argsort(stable=True)
        # Sorted by image, the pairs of image i are from ends[i] to ends[i + 1].
        num_pairs_B = torch.bincount(self.image_M, minlength=len(first_B))
        self.ends = [0, *num_pairs_B.cumsum(0).tolist()]

    def of_batch(self, batch: ImageBatch) -> tuple[Tensor, Tensor]:
        """
        Returns the pairs of a batch of consecutive images: with their candidates, and with texts they are one of.

        Returns:
            The place in the batch of the image, and the text, of each of M pairs, both (M,) int64.
        """
        first_image = int(batch.image_index_B[0])
        num_images = len(batch.rows)
        texts_BK = self.shortlists.texts_BK[first_image : first_image + num_images].long()
        # Pairs of the shortlists of texts whose image is in the batch.
        pair_M = self.order_M[self.ends[first_image] : self.ends[first_image + num_images]]
        pair_image_M = self.image_M[pair_M].long() - first_image
        pair_text_M = pair_M // self.shortlists.images_TK.shape[1]
        own_image_M = torch.arange(num_images).repeat_interleave(texts_BK.shape[1])
        return torch.cat([own_image_M, pair_image_M]), torch.cat([texts_BK.flatten(), pair_text_M])

    def kept(self, batch: ImageBatch, scores: Kept) -> Kept:
        """Returns the scores of the pairs of a batch, each (M,), so that those of all batches can be joined."""
        num_candidates = self.shortlists.texts_BK.shape[1]
        num_own = len(batch.rows) * num_candidates
        kept = {}
        for name, scores_M in scores.items():
            kept[f"{name}/texts_BK"] = scores_M[:num_own].view(-1, num_candidates).cpu()
            kept[f"{name}/images_N"] = scores_M[num_own:].cpu()
        return kept

    def joined(self, kept: Kept, name: str) -> CandidateScores:
        """Returns the scores of a name in the order of the shortlists, from what all batches have kept; float32."""
        images_N = kept[f"{name}/images_N"]
        images_M = torch.empty_like(images_N)
        images_M[self.order_M] = images_N
        return CandidateScores(
            texts_BK=kept[f"{name}/texts_BK"][self.first_B],
            images_TK=images_M.view_as(self.shortlists.images_TK),
        )
