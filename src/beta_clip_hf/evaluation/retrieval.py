"""
Measures retrieval in both directions, by CLS and by text-conditioned scores.

An image that is pooled with its own caption, and compared across images, would leak which caption is its own. So the
conditioned score of image i and text t is v_{i|t} · u_t for EVERY pair that is compared, whether they belong together
or not.
"""

import logging
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import torch

from ..data.row_texts import hierarchy_of
from ..data.rows import Row
from ..inference.embedder import Embedder, ImageBatch
from ..inference.hierarchical import text_hierarchies
from ..inference.shards import Kept
from ..inference.text_kinds import CAPTION, SHORT_CAPTION
from ..text.hierarchy import TextHierarchy
from .copies import first_copies, with_first_copies
from .hierarchical import (
    HierarchicalScores,
    candidates_of_pairs,
    hierarchical_ranks,
    hierarchical_reranked,
    joined_candidates,
)
from .metric_names import MetricName
from .metrics import (
    DEFAULT_KS,
    RetrievalRanks,
    chance_ranks,
    expected_ranks,
    hits_at_k,
    retrieval_ranks,
)
from .ranks_by_score import RanksByScore, rank_metrics, sum_ranks
from .results import Metric
from .scores import EVERYTHING, DistinctEmbeddings, ScoreFunction, embedding_scores, matrix_scores
from .shortlists import CandidateScores, ShortlistPairs, Shortlists, best_candidates


logger = logging.getLogger(__name__)

TEXT_SETS = ("long", "short")
RERANKED = (16, 64, 256)
"""The K of shortlists. Those that are not smaller than the number of images are left out."""
MOST_PAIRS = 2**27
"""Most scores of all pairs that are kept, 512 MiB; 5,000 images x 25,000 texts are fewer."""
CURVE = (1, 2, 3, 5, 10, 20, 30, 50, 100)
"""The k of a recall curve."""
NUM_MISSES = 12
"""Texts on the page of misses."""
NUM_FIRST = 3
"""Images on that page that are ranked first for a text."""
CHANCE = "chance"
"""The score of the curves of a model that scores everything alike."""


def curve_label(text_set: str, score: str) -> str:
    """Returns the label of the recall curves of a score, such as "long/cls"."""
    return f"{text_set}/{score}"


def retrieval_probes(
    embedder: Embedder,
    texts: Sequence[Row],
    *,
    wanted: Sequence[str] = TEXT_SETS,
    conditioned: bool = True,
    hierarchical: bool = True,
    ks: Sequence[int] = DEFAULT_KS,
    seed: int = 0,
) -> list["RetrievalProbe"]:
    """
    Makes the probes of retrieval that rows have the texts for.

    They are `long`, the whole captions, one per image; and `short` if all rows have `captions` (several per image: any
    of them is a hit) or a `short_caption`.

    Args:
        embedder: Encodes the texts.
        texts: Rows without their images.
        wanted: Names of the probes to make.
        conditioned: Whether to score with the text-conditioned pooler too.
        hierarchical: Whether to score by sentences and phrases too. Long captions have those of their rows, all others
            are split.
        ks: Values of k of R@k.
        seed: Seed of the bootstrap intervals.
    """
    text_sets = {"long": [[row["caption"]] for row in texts]}
    if all(row.get("captions") for row in texts):
        text_sets["short"] = [list(row["captions"]) for row in texts]
    elif all(row.get("short_caption") for row in texts):
        text_sets["short"] = [[row["short_caption"]] for row in texts]
    has_hierarchies = hierarchical and embedder.has_patch_features
    probes = []
    for name, captions in text_sets.items():
        if name not in wanted:
            continue
        is_long = name == "long"
        hierarchies = None
        if has_hierarchies:
            hierarchies = _hierarchies_of(captions, texts if is_long else None)
        probe = RetrievalProbe(
            name,
            embedder,
            captions,
            kind=CAPTION if is_long else SHORT_CAPTION,
            conditioned=conditioned,
            hierarchies=hierarchies,
            ks=ks,
            seed=seed,
        )
        probes.append(probe)
    return probes


def _hierarchies_of(captions: Sequence[Sequence[str]], rows: Sequence[Row] | None) -> Sequence[TextHierarchy]:
    """Returns the sentences and phrases of captions: those of their rows if given, otherwise the captions are split."""
    if rows is not None:
        return [hierarchy_of(row) for row in rows]
    return text_hierarchies(list(chain.from_iterable(captions)))


class RetrievalProbe:
    """
    Measures R@k and median rank of one set of texts in both directions. The scores are:

    - `cls`: the cosine of image and text embedding.
    - `rerank@K`: the K best candidates by `cls`, ordered by their text-conditioned scores; all others follow.
      Candidates that are tied at the end of the shortlist, and do not all fit in it, are among the others.
    - `all_pairs`: the text-conditioned score of every pair. It and `sum` are left out if there are more than
      `MOST_PAIRS`: then a second pass over the images scores the pairs of the shortlists alone.
    - `sum`: w · `all_pairs` + (1 − w) · `cls`, with the w in 0, 0.1, …, 1 that has the best R@1 on the other half of
      the queries: those of images with even indices choose for those with odd ones, and the other way round.
    - `hierarchical`: the cosine of the whole text, and the means of the text-conditioned scores of its sentences and of
      its phrases, with weights that are chosen in the same way; `hierarchical_window` takes the best window of the
      patch features in the place of the text-conditioned score. See [`HierarchicalScores`]. They are left out if there
      are too many pairs of images and parts.
    - `hierarchical@K`, `hierarchical_window@K`: the K best candidates by `cls` in the order of these scores, for the
      smallest K.

    Copies of an image have the embedding and the scores of the first of them, so that they are tied exactly.

    Args:
        name: First part of the names of the metrics.
        embedder: Encodes the texts, all of them at once.
        captions: One or several captions of each image.
        kind: The kind of the texts, see [`Embedder.texts`].
        conditioned: Whether to score with the text-conditioned pooler too.
        hierarchies: Sentences and phrases of each of the captions, flat. Without them there are no hierarchical scores.
        ks: Values of k of R@k.
        seed: Seed of the bootstrap intervals.
    """

    def __init__(
        self,
        name: str,
        embedder: Embedder,
        captions: Sequence[Sequence[str]],
        *,
        kind: str = SHORT_CAPTION,
        conditioned: bool = True,
        hierarchies: Sequence[TextHierarchy] | None = None,
        ks: Sequence[int] = DEFAULT_KS,
        seed: int = 0,
    ) -> None:
        self.name = name
        self.embedder = embedder
        self.ks = tuple(ks)
        self.seed = seed
        self.texts: list[str] = []
        for image_captions in captions:
            self.texts += image_captions
        num_captions_B = torch.tensor([len(image_captions) for image_captions in captions])
        self.image_index_T = torch.arange(len(captions)).repeat_interleave(num_captions_B)
        self.conditioned = conditioned and embedder.has_pooler
        # The scores of all pairs must fit into the memory of the first process.
        self.all_pairs = self.conditioned and len(captions) * len(self.texts) <= MOST_PAIRS
        if self.conditioned and not self.all_pairs:
            logger.warning(
                "%s: %d images x %d texts are too many to score all pairs: only the %d best of each by CLS are scored",
                name,
                len(captions),
                len(self.texts),
                RERANKED[-1],
            )
        self.text_embeds_TD = embedder.texts(self.texts, kind)
        self.distinct_texts = DistinctEmbeddings(self.text_embeds_TD)
        self.hierarchical: HierarchicalScores | None = None
        if hierarchies is not None:
            self.hierarchical = HierarchicalScores(embedder, hierarchies, len(captions), conditioned=conditioned)
        # Only a second pass has these: the pairs for the text-conditioned and for the hierarchical scores.
        self.conditioned_pairs: ShortlistPairs | None = None
        self.hierarchical_pairs: ShortlistPairs | None = None
        self._last_ranks: tuple[Kept, RanksByScore] | None = None

    def measure(self, batch: ImageBatch) -> Kept:
        """Keeps embeddings and digests of the images, and the scores of all pairs if there are not too many."""
        digests_B32 = torch.tensor([list(digest) for digest in batch.digests]).byte()
        kept = {"image_embeds": batch.image_embeds_BD, "digests": digests_B32}
        if self.all_pairs:
            # Each distinct text is scored once, so that copies of a text are tied to the last bit.
            scores_BU = self.embedder.pair_scores(batch, self.distinct_texts.embeds_UD)
            kept["pair_scores"] = self.distinct_texts.spread(scores_BU, 1)
        if self.hierarchical is not None and self.hierarchical.all_pairs:
            kept |= self.hierarchical.measure(batch)
        return kept

    def plan(self, kept: Kept) -> Kept | None:
        """Returns the shortlists, if only their pairs are to be scored."""
        has_all_conditioned = not self.conditioned or self.all_pairs
        has_all_hierarchical = self.hierarchical is None or self.hierarchical.all_pairs
        if has_all_conditioned and has_all_hierarchical:
            return None
        shortlists = self._shortlists(self._cls_score(kept), kept)
        return {**shortlists._asdict(), "first_B": first_copies(kept["digests"])}

    def second_pass(self, plan: Kept) -> Callable[[ImageBatch], Kept]:
        """Returns a function that scores the pairs of the shortlists."""
        shortlists = Shortlists(**{name: plan[name] for name in Shortlists._fields})
        if self.conditioned and not self.all_pairs:
            self.conditioned_pairs = ShortlistPairs(shortlists, plan["first_B"])
        if self.hierarchical is not None and not self.hierarchical.all_pairs:
            self.hierarchical_pairs = ShortlistPairs(shortlists.cut(RERANKED[0]), plan["first_B"])
        return self._measure_pairs

    def _measure_pairs(self, batch: ImageBatch) -> Kept:
        kept: Kept = {}
        if self.conditioned_pairs is not None:
            image_M, text_M = self.conditioned_pairs.of_batch(batch)
            places_M = self.distinct_texts.places(text_M)
            scores_M = self.embedder.candidate_scores(batch, self.distinct_texts.embeds_UD, image_M, places_M)
            kept |= self.conditioned_pairs.kept(batch, {"conditioned": scores_M})
        if self.hierarchical_pairs is not None:
            assert self.hierarchical is not None
            image_M, text_M = self.hierarchical_pairs.of_batch(batch)
            scores = self.hierarchical.measure_candidates(batch, self.text_embeds_TD, image_M, text_M)
            kept |= self.hierarchical_pairs.kept(batch, scores)
        return kept

    def counts(self, kept: Kept) -> dict[str, int]:
        """Returns the number of texts."""
        return {f"{self.name}_texts": len(self.image_index_T)}

    def metrics(self, kept: Kept) -> list[Metric]:
        """Returns R@k and median rank of each score in both directions."""
        chance = self._chance()._asdict()
        image_of_query = {
            "image_to_text": torch.arange(len(kept["image_embeds"])),
            "text_to_image": self.image_index_T,
        }
        by_score = self._all_ranks(kept).by_score
        by_direction = []
        for direction, image_Q in image_of_query.items():
            names = [MetricName(self.name, score, "", direction) for score in by_score]
            ranks = [getattr(score_ranks, direction) for score_ranks in by_score.values()]
            by_direction.append(rank_metrics(names, ranks, chance[direction], image_Q, ks=self.ks, seed=self.seed))
        # Score by score, and both directions of each.
        metrics: list[Metric] = []
        for both_directions in zip(*by_direction, strict=True):
            metrics += chain.from_iterable(both_directions)
        return metrics

    def report(self, kept: Kept) -> dict[str, Any]:
        """
        Returns what the pictures of retrieval show, ready for JSON.

        Returns:
            `curves`: R@k over k by direction and by label of the score, such as "long/cls". `misses`: the texts whose
            images `cls` ranks furthest behind, each with the `text`, the index of its `image`, the indices of the
            images that are ranked `first`, and the `rank` of its image. `weights`: by score and direction the weights
            that were chosen for the queries of `even` and of `odd` images.
        """
        all_ranks = self._all_ranks(kept)
        curves: dict[str, dict[str, list[list[float]]]] = {}
        for score, ranks in {**all_ranks.by_score, CHANCE: self._chance()}.items():
            for direction, direction_ranks in ranks._asdict().items():
                points = [[k, float(hits_at_k(direction_ranks, k).mean())] for k in CURVE]
                curves.setdefault(direction, {})[curve_label(self.name, score)] = points
        return {"curves": curves, "misses": self._misses(kept), "weights": all_ranks.weights}

    def _misses(self, kept: Kept) -> list[dict[str, Any]]:
        cls_score = self._cls_score(kept)
        ranks_T = expected_ranks(self._all_ranks(kept).by_score["cls"].text_to_image)
        # Stable, so that texts of equal rank come in the order of the data on every machine.
        worst = ranks_T.argsort(descending=True, stable=True)[:NUM_MISSES]
        misses = []
        for text in worst.tolist():
            scores_B = cls_score(EVERYTHING, slice(text, text + 1))[:, 0]
            first = scores_B.topk(min(NUM_FIRST, len(scores_B))).indices
            miss = {
                "text": self.texts[text],
                "image": int(self.image_index_T[text]),
                "rank": float(ranks_T[text]),
                "first": first.tolist(),
            }
            misses.append(miss)
        return misses

    def _cls_score(self, kept: Kept) -> ScoreFunction:
        images_BD = with_first_copies(kept["image_embeds"], kept["digests"])
        return embedding_scores(images_BD.to(self.text_embeds_TD.device), self.text_embeds_TD)

    def _shortlists(self, cls_score: ScoreFunction, kept: Kept) -> Shortlists:
        num_images, num_texts = len(kept["image_embeds"]), len(self.image_index_T)
        shortlists = best_candidates(cls_score, num_images, num_texts, RERANKED[-1])
        # Rows of one matrix may differ in their last bits: copies of an image take the shortlist of the first.
        first_B = first_copies(kept["digests"])
        return shortlists._replace(texts_BK=shortlists.texts_BK[first_B], text_ends_BK=shortlists.text_ends_BK[first_B])

    def _all_ranks(self, kept: Kept) -> RanksByScore:
        """Returns the ranks by each score. Metrics and report both need them, so those of the same `kept` stay."""
        if self._last_ranks is None or self._last_ranks[0] is not kept:
            self._last_ranks = (kept, self._compute_ranks(kept))
        return self._last_ranks[1]

    def _compute_ranks(self, kept: Kept) -> RanksByScore:
        cls_score = self._cls_score(kept)
        has_all_parts = self.hierarchical is not None and self.hierarchical.all_pairs
        if self.all_pairs or has_all_parts:
            # As large as the other scores of all pairs, on the device of the texts: it is computed once for all that
            # follows.
            cls_score = matrix_scores(cls_score(EVERYTHING, EVERYTHING))
        ranks = RanksByScore({}, {})
        ranks.add("cls", self._ranks(cls_score, len(kept["image_embeds"])))
        shortlists = None
        if self.all_pairs or has_all_parts:
            shortlists = self._shortlists(cls_score, kept)
        if self.conditioned:
            self._add_conditioned(ranks, cls_score, shortlists, kept)
        if self.hierarchical is not None:
            self._add_hierarchical(ranks, cls_score, shortlists, kept)
        return ranks

    def _add_conditioned(
        self, ranks: RanksByScore, cls_score: ScoreFunction, shortlists: Shortlists | None, kept: Kept
    ) -> None:
        if self.conditioned_pairs is not None:
            scores = self.conditioned_pairs.joined(kept, "conditioned")
            ranks.add_reranked(RERANKED, self.conditioned_pairs.shortlists, scores, self.image_index_T)
            return
        assert shortlists is not None
        device = self.text_embeds_TD.device
        pairs_BT = with_first_copies(kept["pair_scores"], kept["digests"]).to(device)
        ranks.add("all_pairs", self._ranks(matrix_scores(pairs_BT), len(pairs_BT)))
        scores = CandidateScores(
            texts_BK=pairs_BT.gather(1, shortlists.texts_BK.long().to(device)).cpu(),
            images_TK=pairs_BT.T.gather(1, shortlists.images_TK.long().to(device)).cpu(),
        )
        ranks.add_reranked(RERANKED, shortlists, scores, self.image_index_T)
        ranks.add_fitted("sum", sum_ranks(cls_score(EVERYTHING, EVERYTHING), pairs_BT, self.image_index_T))

    def _add_hierarchical(
        self, ranks: RanksByScore, cls_score: ScoreFunction, shortlists: Shortlists | None, kept: Kept
    ) -> None:
        assert self.hierarchical is not None
        if self.hierarchical_pairs is not None:
            shortlists = self.hierarchical_pairs.shortlists
        assert shortlists is not None
        shortlists = shortlists.cut(RERANKED[0])
        for name in self.hierarchical.places:
            if self.hierarchical_pairs is not None:
                candidates = joined_candidates(name, self.hierarchical_pairs, kept)
            else:
                scores = self.hierarchical.scores(name, cls_score(EVERYTHING, EVERYTHING), kept)
                ranks.add_fitted(name, hierarchical_ranks(scores, self.image_index_T))
                candidates = candidates_of_pairs(scores, shortlists)
            if RERANKED[0] < len(shortlists.texts_BK):
                first = shortlists.first(RERANKED[0])
                fitted = hierarchical_reranked(ranks.by_score["cls"], first, candidates, self.image_index_T)
                ranks.add_fitted(f"{name}@{RERANKED[0]}", fitted)

    def _ranks(self, score: ScoreFunction, num_images: int) -> RetrievalRanks:
        return retrieval_ranks(score, self.image_index_T, num_images)

    def _chance(self) -> RetrievalRanks:
        num_captions_B = torch.bincount(self.image_index_T)
        return RetrievalRanks(
            image_to_text=chance_ranks(len(self.image_index_T), num_captions_B),
            text_to_image=chance_ranks(len(num_captions_B), torch.ones_like(self.image_index_T)),
        )
