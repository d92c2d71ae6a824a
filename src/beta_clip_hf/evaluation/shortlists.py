"""
Shortlists: the best candidates of each query by a first score, and their order by a second one.

Letters: B images, T texts, Q queries, C candidates, K candidates of a shortlist, N pairs.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .embedding import Embedder, ImageBatch
from .metrics import SCORES_AT_A_TIME, DistinctEmbeddings, MatchRanks, ScoreFunction, parts_of
from .shards import Kept


class Shortlists(NamedTuple):
    """The best candidates of retrieval both ways, best first, int32; or their scores. The two K may differ."""

    texts_BK: Tensor
    images_TK: Tensor

    def first(self, size: int) -> "Shortlists":
        """The shortlists of a smaller size, as far as there are so many candidates."""
        return Shortlists(self.texts_BK[:, :size], self.images_TK[:, :size])


def best_candidates(score: ScoreFunction, num_images: int, num_texts: int, size: int) -> Shortlists:
    """
    The `size` best candidates of each image and of each text, or all where there are fewer, on the CPU. The whole
    score matrix is never held. Of candidates that are tied at the end of a shortlist, some are taken.
    """
    everything = slice(None)
    texts = [
        score(part, everything).topk(min(size, num_texts), dim=1).indices.int().cpu()
        for part in parts_of(num_images, num_texts, SCORES_AT_A_TIME)
    ]
    images = [
        score(everything, part).T.topk(min(size, num_images), dim=1).indices.int().cpu()
        for part in parts_of(num_texts, num_images, SCORES_AT_A_TIME)
    ]
    return Shortlists(torch.cat(texts), torch.cat(images))


def reranked(ranks: MatchRanks, short_QK: Tensor, scores_QK: Tensor, label_Q: Tensor, label_C: Tensor) -> MatchRanks:
    """
    Ranks after the candidates of a shortlist are put in the order of a second score, before all others, which keep
    their places.

    Args:
        ranks: By the first score alone.
        short_QK: (Q, K) integer, the K best candidates of each query by the first score.
        scores_QK: (Q, K), the second score of each; higher is better.
        label_Q, label_C: (Q,) and (C,) int64: a candidate is relevant for the queries of its label.
    """
    relevant_QK = label_C[short_QK.long()] == label_Q[:, None]
    best_Q1 = scores_QK.masked_fill(~relevant_QK, -torch.inf).amax(dim=1, keepdim=True)
    tied_QK = scores_QK == best_Q1
    inside_Q = relevant_QK.any(dim=1)
    of_shortlist = MatchRanks((scores_QK > best_Q1).sum(dim=1), tied_QK.sum(dim=1), (tied_QK & relevant_QK).sum(dim=1))
    return MatchRanks(*(torch.where(inside_Q, new_Q, old_Q) for new_Q, old_Q in zip(of_shortlist, ranks, strict=True)))


class ShortlistScores:
    """
    The text-conditioned scores of all pairs of shortlists, image by image: a text's candidates are in many batches, so
    what it needs of an image is found by the image.

    Args:
        shortlists: Of all images and texts.
        texts: The embeddings of all texts; copies of one are scored once, so that they stay tied.
    """

    def __init__(self, shortlists: Shortlists, texts: DistinctEmbeddings) -> None:
        self.shortlists, self.texts = shortlists, texts
        # Places in the flat images_TK, image by image: those of image i are from ends[i] to ends[i + 1].
        image_N = shortlists.images_TK.flatten()
        self.order_N = image_N.argsort(stable=True)
        counts_B = torch.bincount(image_N, minlength=len(shortlists.texts_BK))
        self.ends = [0, *counts_B.cumsum(0).tolist()]

    def measure(self, embedder: Embedder, batch: ImageBatch) -> Kept:
        """Of a batch of consecutive images: the scores of their shortlists, and of those that they are in."""
        first, count = int(batch.image_index_B[0]), len(batch.rows)
        texts_bK = self.shortlists.texts_BK[first : first + count].long()
        places_N = self.order_N[self.ends[first] : self.ends[first + count]]
        width = self.shortlists.images_TK.shape[1]
        image_N = torch.cat(
            [
                torch.arange(count).repeat_interleave(texts_bK.shape[1]),
                self.shortlists.images_TK.flatten()[places_N].long() - first,
            ]
        )
        text_N = self.texts.places(torch.cat([texts_bK.flatten(), places_N // width]))
        scores_N = embedder.candidate_scores(batch, self.texts.embeds_UD, image_N, text_N).cpu()
        return {"texts_BK": scores_N[: texts_bK.numel()].view_as(texts_bK), "images_N": scores_N[texts_bK.numel() :]}

    def joined(self, kept: Kept) -> Shortlists:
        """The scores in the order of the shortlists, of what all batches have given in their order; float32."""
        images_N = torch.empty_like(kept["images_N"])
        images_N[self.order_N] = kept["images_N"]
        return Shortlists(kept["texts_BK"], images_N.view_as(self.shortlists.images_TK))
