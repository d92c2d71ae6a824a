"""
Shortlists: the best candidates of each query by a first score, and their order by a second one.

Letters: B images, T texts, Q queries, C candidates, K candidates of a shortlist, N pairs.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..inference.embedder import Embedder, ImageBatch
from ..inference.shards import Kept
from .metrics import SCORES_AT_A_TIME, DistinctEmbeddings, MatchRanks, ScoreFunction, parts_of


class Shortlists(NamedTuple):
    """The best candidates of retrieval both ways, best first, integers. The two K may differ."""

    texts_BK: Tensor
    images_TK: Tensor
    text_ends_BK: Tensor
    """Of each candidate the place of the last one that is tied with it: so long must a shortlist be to hold them all.
    Where more are tied than there are places, it is K + 1."""
    image_ends_TK: Tensor

    def first(self, size: int) -> tuple[Tensor, Tensor]:
        """
        (B, K) and (T, K): the shortlists of a smaller size, as far as there are so many candidates. Of those tied at
        its end all are taken, or none where not all fit, in whose place is -1: no order of the data decides.
        """
        texts_BK, images_TK, text_ends_BK, image_ends_TK = (side[:, :size] for side in self)
        return texts_BK.masked_fill(text_ends_BK > size, -1), images_TK.masked_fill(image_ends_TK > size, -1)


def best_candidates(score: ScoreFunction, num_images: int, num_texts: int, size: int) -> Shortlists:
    """
    The `size` best candidates of each image and of each text, or all where there are fewer, on the CPU. The whole
    score matrix is never held.
    """
    everything = slice(None)
    texts = [_best(score(part, everything), size) for part in parts_of(num_images, num_texts, SCORES_AT_A_TIME)]
    images = [_best(score(everything, part).T, size) for part in parts_of(num_texts, num_images, SCORES_AT_A_TIME)]
    (texts_BK, text_ends_BK), (images_TK, image_ends_TK) = (
        map(torch.cat, zip(*parts, strict=True)) for parts in (texts, images)
    )
    return Shortlists(texts_BK, images_TK, text_ends_BK, image_ends_TK)


def _best(scores_QC: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The best candidates of each query, int32, and for each the place of the last one of its score, int16."""
    best = scores_QC.topk(min(size + 1, scores_QC.shape[1]), dim=1)
    ends_QK = torch.searchsorted(-best.values, -best.values[:, :size].contiguous(), right=True)
    return best.indices[:, :size].int().cpu(), ends_QK.short().cpu()


def reranked(ranks: MatchRanks, short_QK: Tensor, scores_QK: Tensor, label_Q: Tensor, label_C: Tensor) -> MatchRanks:
    """
    Ranks after the candidates of a shortlist are put in the order of a second score, before all others, which keep
    their places. So the others must not be better by the first score than any of the shortlist, or tied with one.

    Args:
        ranks: By the first score alone.
        short_QK: (Q, K) integer, the best candidates of each query by the first score; -1 for none.
        scores_QK: (Q, K), the second score of each; higher is better.
        label_Q, label_C: (Q,) and (C,) int64: a candidate is relevant for the queries of its label.
    """
    present_QK = short_QK >= 0
    relevant_QK = present_QK & (label_C[short_QK.clamp(min=0).long()] == label_Q[:, None])
    best_Q1 = scores_QK.masked_fill(~relevant_QK, -torch.inf).amax(dim=1, keepdim=True)
    ahead_QK, tied_QK = (scores_QK > best_Q1) & present_QK, (scores_QK == best_Q1) & present_QK
    inside_Q = relevant_QK.any(dim=1)
    of_shortlist = MatchRanks(ahead_QK.sum(dim=1), tied_QK.sum(dim=1), (tied_QK & relevant_QK).sum(dim=1))
    return MatchRanks(*(torch.where(inside_Q, new_Q, old_Q) for new_Q, old_Q in zip(of_shortlist, ranks, strict=True)))


class ShortlistScores:
    """
    The text-conditioned scores of all pairs of shortlists, image by image: a text's candidates are in many batches, so
    what it needs of an image is found by the image.

    Args:
        shortlists: Of all images and texts.
        texts: The embeddings of all texts; copies of one are scored once, so that they stay tied.
        first_B: (B,) int64, of each image the first one that it is a copy of, or itself: for its texts this is scored.
    """

    def __init__(self, shortlists: Shortlists, texts: DistinctEmbeddings, first_B: Tensor) -> None:
        self.shortlists, self.texts, self.first_B = shortlists, texts, first_B
        # Places in the flat images_TK, image by image: those of image i are from ends[i] to ends[i + 1].
        self.image_N = first_B.int()[shortlists.images_TK.flatten().long()]
        self.order_N = self.image_N.argsort(stable=True)
        counts_B = torch.bincount(self.image_N, minlength=len(first_B))
        self.ends = [0, *counts_B.cumsum(0).tolist()]

    def measure(self, embedder: Embedder, batch: ImageBatch) -> Kept:
        """Of a batch of consecutive images: the scores of their shortlists, and of those that they are in."""
        first, count = int(batch.image_index_B[0]), len(batch.rows)
        texts_bK = self.shortlists.texts_BK[first : first + count].long()
        places_N = self.order_N[self.ends[first] : self.ends[first + count]]
        width = self.shortlists.images_TK.shape[1]
        own_N = torch.arange(count).repeat_interleave(texts_bK.shape[1])
        image_N = torch.cat([own_N, self.image_N[places_N].long() - first])
        text_N = self.texts.places(torch.cat([texts_bK.flatten(), places_N // width]))
        scores_N = embedder.candidate_scores(batch, self.texts.embeds_UD, image_N, text_N).cpu()
        return {"texts_BK": scores_N[: texts_bK.numel()].view_as(texts_bK), "images_N": scores_N[texts_bK.numel() :]}

    def joined(self, kept: Kept) -> tuple[Tensor, Tensor]:
        """(B, K) and (T, K): the scores in the order of the shortlists, of what all batches have given in their order;
        float32."""
        images_N = torch.empty_like(kept["images_N"])
        images_N[self.order_N] = kept["images_N"]
        return kept["texts_BK"][self.first_B], images_N.view_as(self.shortlists.images_TK)
