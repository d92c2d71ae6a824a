"""Measures retrieval by the hierarchical scores of [`beta_clip_hf.inference.hierarchical`]."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from ..inference.embedder import Embedder, ImageBatch
from ..inference.hierarchical import ATTENTION, HIERARCHICAL_PLACES, PartScores, TextParts, Weights, best_places
from ..inference.shards import Kept
from ..text.hierarchy import TextHierarchy
from .copies import with_first_copies
from .fitted import FittedRanks, fitted_ranks
from .metrics import RetrievalRanks
from .shortlists import Candidates, CandidateScores, ShortlistPairs, Shortlists, reranked_both_ways
from .weighted import weighted_ranks


MOST_PART_SCORES = 2**22
"""Most scores of images with sentences and phrases for which all pairs are measured; with more, shortlists alone."""
CAPTION = "hierarchical/caption"
"""Name of the scores of whole texts among those that a second pass keeps."""
WEIGHT_STEPS = 5
"""Each weight is a multiple of 1 over this number."""


def _weight_grid() -> tuple[Weights, ...]:
    """Lists all weights. The first is the caption alone, which wins if the others are no better."""
    grid = []
    for caption in range(WEIGHT_STEPS, -1, -1):
        for sentences in range(WEIGHT_STEPS - caption, -1, -1):
            phrases = WEIGHT_STEPS - caption - sentences
            grid.append(Weights(caption / WEIGHT_STEPS, sentences / WEIGHT_STEPS, phrases / WEIGHT_STEPS))
    return tuple(grid)


WEIGHTS = _weight_grid()
"""Weights of caption, sentences and phrases that are tried."""


class CandidateParts(NamedTuple):
    """Scores of the candidates of shortlists by the parts of their texts."""

    texts: PartScores
    """(B, K) scores of the texts of each image."""
    images: PartScores
    """(T, K) scores of the images of each text."""


class HierarchicalScores:
    """
    The scores of images with texts by the sentences and phrases of the texts, for the probe of retrieval.

    Args:
        embedder: Encodes the sentences and phrases.
        hierarchies: The texts, T of them.
        num_images: Number of images.
        conditioned: Whether to score with the text-conditioned pooler too, if there is one.
    """

    def __init__(
        self, embedder: Embedder, hierarchies: Sequence[TextHierarchy], num_images: int, *, conditioned: bool = True
    ) -> None:
        places = best_places(embedder)
        if not conditioned and ATTENTION in places:
            places.remove(ATTENTION)
        self.places = {name: place for name, place in HIERARCHICAL_PLACES.items() if place in places}
        self.parts = TextParts(embedder, hierarchies)
        # All texts may have fewer different parts than there are texts.
        scores_of_image = max(len(self.parts.texts), len(hierarchies))
        self.all_pairs = num_images * scores_of_image <= MOST_PART_SCORES

    def measure(self, batch: ImageBatch) -> Kept:
        """Returns the scores of all pairs of a batch, (B, T) for each kind of parts."""
        kept = {}
        for name, place in self.places.items():
            sentences_BT, phrases_BT = self.parts.pair_scores(batch, place)
            kept[f"{name}/sentences"] = sentences_BT
            kept[f"{name}/phrases"] = phrases_BT
        return kept

    def measure_candidates(self, batch: ImageBatch, text_embeds_TD: Tensor, image_M: Tensor, text_M: Tensor) -> Kept:
        """
        Returns the scores of chosen pairs of a batch, (M,) for the whole texts and for each kind of parts.

        Args:
            batch: B images.
            text_embeds_TD: Embeddings of the whole texts.
            image_M, text_M: Place in the batch of the image, and the text, of each pair; int64 on the CPU.
        """
        device = text_embeds_TD.device
        products_MD = batch.image_embeds_BD[image_M.to(device)] * text_embeds_TD[text_M.to(device)]
        kept = {CAPTION: products_MD.sum(dim=-1)}
        for name, place in self.places.items():
            sentences_M, phrases_M = self.parts.candidate_scores(batch, place, image_M, text_M)
            kept[f"{name}/sentences"] = sentences_M
            kept[f"{name}/phrases"] = phrases_M
        return kept

    def scores(self, name: str, caption_BT: Tensor, kept: Kept) -> PartScores:
        """
        Returns the scores of all pairs of a kind, (B, T), from what all batches have kept.

        Args:
            name: One of [`HIERARCHICAL_PLACES`].
            caption_BT: Scores of the whole texts.
            kept: What [`measure`](HierarchicalScores.measure) has returned, joined.
        """
        digests = kept["digests"]
        device = caption_BT.device
        sentences_BT = with_first_copies(kept[f"{name}/sentences"], digests).to(device)
        phrases_BT = with_first_copies(kept[f"{name}/phrases"], digests).to(device)
        return PartScores(caption_BT, sentences_BT, phrases_BT)


def candidates_of_pairs(scores: PartScores, shortlists: Shortlists) -> CandidateParts:
    """Returns the scores of the candidates of shortlists from those of all pairs, (B, T)."""
    device = scores.caption.device
    texts_BK = shortlists.texts_BK.long().to(device)
    images_TK = shortlists.images_TK.long().to(device)
    return CandidateParts(
        texts=PartScores(*(part_BT.gather(1, texts_BK).cpu() for part_BT in scores)),
        images=PartScores(*(part_BT.T.gather(1, images_TK).cpu() for part_BT in scores)),
    )


def joined_candidates(name: str, pairs: ShortlistPairs, kept: Kept) -> CandidateParts:
    """
    Returns the scores of the candidates of shortlists from what all batches of a second pass have kept.

    Args:
        name: One of [`HIERARCHICAL_PLACES`].
        pairs: Pairs of the shortlists.
        kept: What [`HierarchicalScores.measure_candidates`] has returned, joined.
    """
    caption = pairs.joined(kept, CAPTION)
    sentences = pairs.joined(kept, f"{name}/sentences")
    phrases = pairs.joined(kept, f"{name}/phrases")
    return CandidateParts(
        texts=PartScores(caption.texts_BK, sentences.texts_BK, phrases.texts_BK),
        images=PartScores(caption.images_TK, sentences.images_TK, phrases.images_TK),
    )


def hierarchical_ranks(scores: PartScores, image_index_T: Tensor) -> FittedRanks:
    """
    Computes the ranks by a hierarchical score, its weights chosen for each half of the queries on the other.

    Args:
        scores: (B, T) scores of all pairs.
        image_index_T: (T,) int64, the image of each text.
    """
    return weighted_ranks(scores, {weights: weights for weights in WEIGHTS}, image_index_T)


def hierarchical_reranked(
    ranks: RetrievalRanks, candidates: Candidates, scores: CandidateParts, image_index_T: Tensor
) -> FittedRanks:
    """
    Computes the ranks after shortlists are ordered by a hierarchical score, its weights chosen as for all pairs.

    Args:
        ranks: Ranks by the first score alone.
        candidates: Shortlists by the first score.
        scores: Scores of the candidates.
        image_index_T: (T,) int64, the image of each text.
    """
    tried = {}
    for weights in WEIGHTS:
        totals = CandidateScores(scores.texts.total(weights), scores.images.total(weights))
        tried[weights] = reranked_both_ways(ranks, candidates, totals, image_index_T)
    return fitted_ranks(tried, image_index_T, len(candidates.texts_BK))
