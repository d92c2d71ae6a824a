"""
Scores of images with texts, for [`beta_clip_hf.evaluation.metrics.retrieval_ranks`].

A score is asked for in pieces, so that the matrix of all images and all texts need not be in memory.
"""

from collections.abc import Callable

import torch
from torch import Tensor


ScoreFunction = Callable[[slice, slice], Tensor]
"""score(images, texts): scores of a slice of the images with a slice of the texts, one row per image; higher is
better."""

EVERYTHING = slice(None)


def embedding_scores(image_embeds_BD: Tensor, text_embeds_TD: Tensor) -> ScoreFunction:
    """
    Returns a function for the dot products of images and texts, in float32, or float64 if both sides are.

    Equal embeddings have equal scores on a side that is asked for as a whole. A matrix product alone does not give
    that: its kernels sum in another order at the edges of a matrix, so copies of one text differ in the last bit, and
    ties are lost. So each distinct embedding is multiplied once.

    Half precision is raised before the product: rounding a score to bfloat16 leaves 128 values between 1/4 and 1/2, and
    creates ties where there are none.

    Args:
        image_embeds_BD: (B, D), normalised for cosines.
        text_embeds_TD: (T, D).

    Raises:
        ValueError: if the shapes do not fit, or a number is not finite.
    """
    sides = (image_embeds_BD, text_embeds_TD)
    is_matrix = all(side.ndim == 2 for side in sides)
    if not is_matrix or image_embeds_BD.shape[1] != text_embeds_TD.shape[1]:
        shapes = " and ".join(str(tuple(side.shape)) for side in sides)
        raise ValueError(f"embeddings must be (images, width) and (texts, width), but are {shapes}")
    if not all(_is_finite(side) for side in sides):
        raise ValueError("embeddings must be finite, but at least one number is not")
    is_double = all(side.dtype == torch.float64 for side in sides)
    dtype = torch.float64 if is_double else torch.float32
    distinct_images = DistinctEmbeddings(image_embeds_BD.detach().to(dtype))
    distinct_texts = DistinctEmbeddings(text_embeds_TD.detach().to(dtype))

    def score(images: slice, texts: slice) -> Tensor:
        scores = distinct_images.rows(images) @ distinct_texts.rows(texts).T
        if images == EVERYTHING:
            scores = distinct_images.spread(scores, 0)
        if texts == EVERYTHING:
            scores = distinct_texts.spread(scores, 1)
        return scores

    return score


def _is_finite(embeds_MD: Tensor) -> bool:
    """Tells whether all numbers are finite, without a tensor of as many answers."""
    if embeds_MD.numel() == 0:
        return True
    return all(bool(extreme.isfinite()) for extreme in embeds_MD.aminmax())


def matrix_scores(scores_BT: Tensor) -> ScoreFunction:
    """Returns a function for the scores in a (B, T) matrix."""
    return lambda images, texts: scores_BT[images, texts]


class DistinctEmbeddings:
    """
    Embeddings of M rows and the U distinct ones among them.

    What is computed of a distinct embedding and spread has the same value for all of its copies, whatever the kernels
    do.

    Args:
        embeds_MD: (M, D).
    """

    def __init__(self, embeds_MD: Tensor) -> None:
        self.embeds_MD = embeds_MD
        # Without copies the rows stay in their order: nothing has to be spread.
        self.embeds_UD: Tensor = embeds_MD
        self._place_M: Tensor | None = None
        # Copies agree in their first two numbers, and few others do. To sort whole rows takes their memory again.
        _, start_M, num_alike = embeds_MD[:, :2].unique(dim=0, return_inverse=True, return_counts=True)
        may_be_copy_M = num_alike[start_M] > 1
        candidates_SD = embeds_MD[may_be_copy_M]
        if len(candidates_SD) == 0:
            return
        distinct_SD, place_S = candidates_SD.unique(dim=0, return_inverse=True)
        if len(distinct_SD) == len(candidates_SD):
            return
        others_VD = embeds_MD[~may_be_copy_M]
        self.embeds_UD = torch.cat([others_VD, distinct_SD])
        self._place_M = torch.empty_like(start_M)
        self._place_M[~may_be_copy_M] = torch.arange(len(others_VD), device=start_M.device)
        self._place_M[may_be_copy_M] = len(others_VD) + place_S

    def rows(self, part: slice) -> Tensor:
        """Returns the embeddings of a slice of the rows; for all rows only the distinct ones, to be spread."""
        if part == EVERYTHING:
            return self.embeds_UD
        return self.embeds_MD[part]

    def spread(self, scores: Tensor, dim: int) -> Tensor:
        """Returns the scores of all M rows, from those of the U distinct ones, which lie along `dim`."""
        if self._place_M is None:
            return scores
        return scores.index_select(dim, self._place_M)

    def places(self, row_index: Tensor) -> Tensor:
        """Returns where in `embeds_UD` the embeddings of some rows are, int64."""
        if self._place_M is None:
            return row_index
        return self._place_M.to(row_index.device)[row_index]


def check_no_nan(scores: Tensor) -> Tensor:
    """
    Returns the scores.

    Raises:
        ValueError: if one is NaN: it has no place in an order.
    """
    # The largest of some numbers is NaN if any of them is, and takes no memory to find.
    if scores.numel() and scores.max().isnan():
        raise ValueError("scores must not be NaN, but at least one is")
    return scores
