"""
How sure a search is that an image matches: its score against those of queries that have no match in the collection.

The score of an image is compared with the mean score of all images for the same query, because some texts are close to
every image. This lift is then compared with the largest lifts of texts without a match. These are captions and first
sentences of the collection, each without the images that it describes, and descriptions of things that few collections
have. Short and long texts differ, so a query is compared with texts of about its length, and with each of the two
kinds by itself: what counts is the kind by which it is less sure.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..text.sentences import split_sentences
from .null_texts import TEXTS_WITHOUT_MATCH


# The number of captions that are queries without a match, as are the first sentences of half of them. With 100, the
# shares vary 1.5 times as much from one sample to another.
CAPTIONS = 200
# A query is compared with this many texts of a kind, those nearest to its length.
NEAREST = 100
# A query is only compared with texts of the collection if its length differs from theirs by no more than this factor.
LENGTH_RATIO = 2
# A calibration is used until the collection has grown or shrunk by this share.
OUTDATED_AFTER = 0.1


class NullText(NamedTuple):
    """A query without a match."""

    text: str
    caption: str | None
    """The caption that it comes from: images with this caption are left out. `None` leaves out no image."""


class Calibration(NamedTuple):
    """
    Holds what texts without a match score in a collection.

    Its fields can be written as JSON, but for the mean.
    """

    num_images: int
    """Number of images of the collection when it was measured."""
    words: list[int]
    """Number of words of each text."""
    lifts: list[float]
    """For each text, the score of the best image less the mean score of all images."""
    are_own: list[bool]
    """For each text, whether it comes from the collection."""
    mean_D: np.ndarray
    """(D,) the mean embedding of all images."""

    def is_outdated(self, num_images: int) -> bool:
        """Tells whether the collection has changed so much that it should be measured again."""
        return abs(num_images - self.num_images) > OUTDATED_AFTER * self.num_images

    def confidence(self, lift: float, num_words: float) -> float:
        """
        Returns the share of texts without a match whose best image has a smaller lift, in [0, 1).

        Args:
            lift: The score of an image less the mean score of all images for the query.
            num_words: Length of the query.
        """
        distance_N = np.abs(np.log(np.array(self.words)) - np.log(max(num_words, 1)))
        are_own_N = np.array(self.are_own, dtype=bool)
        shares = []
        for is_own in (False, True):
            indices_N = np.flatnonzero(are_own_N == is_own)
            nearest = indices_N[np.argsort(distance_N[indices_N], kind="stable")[:NEAREST]]
            # A phrase has less of a lift than any whole caption, also where it matches.
            if is_own and (len(nearest) == 0 or np.median(distance_N[nearest]) > np.log(LENGTH_RATIO)):
                continue
            below = np.count_nonzero(np.array(self.lifts)[nearest] < lift)
            # With one more text, that of the query: of 100 texts none can tell more than 100 of 101.
            shares.append(below / (len(nearest) + 1))
        return float(min(shares))


def null_texts(captions: Sequence[str]) -> list[NullText]:
    """
    Returns queries without a match.

    Args:
        captions: Captions of the collection. Evenly spaced ones are taken.
    """
    distinct = list(dict.fromkeys(captions))
    count = min(CAPTIONS, len(distinct))
    texts = [NullText(text, None) for text in TEXTS_WITHOUT_MATCH]
    for index in range(count):
        caption = distinct[index * len(distinct) // count]
        texts.append(NullText(caption, caption))
        sentences = split_sentences(caption)
        if len(sentences) > 1 and index % 2 == 0:
            texts.append(NullText(sentences[0], caption))
    return texts


def calibrate(
    texts: Sequence[NullText], text_embeds_ND: np.ndarray, batches: Iterable[tuple[Sequence[Any], np.ndarray]]
) -> Calibration | None:
    """
    Measures what texts without a match score.

    Args:
        texts: N texts, as from [`null_texts`].
        text_embeds_ND: (N, D) their embeddings.
        batches: The captions of all images of the collection, and their embeddings (G, D), in parts.

    Returns:
        The calibration; `None` without images.
    """
    best_N = np.full(len(texts), -np.inf)
    sum_D, num_images = np.zeros(text_embeds_ND.shape[1]), 0
    captions_N = np.array([text.caption for text in texts], dtype=object)
    for captions, vectors_GD in batches:
        num_images += len(vectors_GD)
        sum_D += vectors_GD.sum(0, dtype=np.float64)
        scores_NG = text_embeds_ND @ vectors_GD.T
        # An image without a caption is described by no text of the list.
        is_own_NG = captions_N[:, None] == np.array([caption or 0 for caption in captions], dtype=object)[None]
        scores_NG[is_own_NG] = -np.inf
        best_N = np.maximum(best_N, scores_NG.max(1))
    if not num_images:
        return None
    mean_D = sum_D / num_images
    lifts_N = best_N - text_embeds_ND @ mean_D
    # If all images have the same caption, nothing is left to compare it with.
    is_known_N = np.isfinite(lifts_N)
    known = [text for text, is_known in zip(texts, is_known_N, strict=True) if is_known]
    return Calibration(
        num_images=num_images,
        words=[count_words(text.text) for text in known],
        lifts=lifts_N[is_known_N].tolist(),
        are_own=[text.caption is not None for text in known],
        mean_D=mean_D.astype(np.float32),
    )


def count_words(text: str) -> int:
    """Returns the number of words of a text, 1 at least."""
    return max(1, len(text.split()))
