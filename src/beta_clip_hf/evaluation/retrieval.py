"""
Measures retrieval in both directions, by CLS and by text-conditioned scores.

An image that is pooled with its own caption, and compared across images, would leak which caption is its own. So the
conditioned score of image i and text t is v_{i|t} · u_t for EVERY pair that is compared, whether they belong together
or not.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..data.rows import Row
from ..inference.embedder import Embedder, ImageBatch
from ..inference.shards import Kept
from .metric_names import MEDIAN_RANK, MetricName
from .metrics import (
    DEFAULT_KS,
    MatchRanks,
    RetrievalRanks,
    chance_ranks,
    choose_ranks,
    expected_ranks,
    hits_at_k,
    retrieval_ranks,
)
from .results import Metric, mean_metric
from .scores import EVERYTHING, DistinctEmbeddings, ScoreFunction, embedding_scores
from .shortlists import CandidateScores, Shortlists, ShortlistScores, best_candidates, reranked


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
WEIGHTS = tuple(tenth / 10 for tenth in range(11))
"""Weights of the conditioned score in a sum."""


def curve_label(text_set: str, score: str) -> str:
    """Returns the label of the recall curves of a score, such as "long/cls"."""
    return f"{text_set}/{score}"


def retrieval_probes(
    embedder: Embedder,
    texts: Sequence[Row],
    *,
    wanted: Sequence[str] = TEXT_SETS,
    conditioned: bool = True,
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
        ks: Values of k of R@k.
        seed: Seed of the bootstrap intervals.
    """
    text_sets = {"long": [[row["caption"]] for row in texts]}
    if all(row.get("captions") for row in texts):
        text_sets["short"] = [list(row["captions"]) for row in texts]
    elif all(row.get("short_caption") for row in texts):
        text_sets["short"] = [[row["short_caption"]] for row in texts]
    probes = []
    for name, captions in text_sets.items():
        if name in wanted:
            whole_captions = name == "long"
            probe = RetrievalProbe(
                name, embedder, captions, whole_captions=whole_captions, conditioned=conditioned, ks=ks, seed=seed
            )
            probes.append(probe)
    return probes


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

    Copies of an image have the embedding and the scores of the first of them, so that they are tied exactly.

    Args:
        name: First part of the names of the metrics.
        embedder: Encodes the texts, all of them at once.
        captions: One or several captions of each image.
        whole_captions: Whether these are whole captions, see [`Embedder.texts`].
        conditioned: Whether to score with the text-conditioned pooler too.
        ks: Values of k of R@k.
        seed: Seed of the bootstrap intervals.
    """

    def __init__(
        self,
        name: str,
        embedder: Embedder,
        captions: Sequence[Sequence[str]],
        *,
        whole_captions: bool = False,
        conditioned: bool = True,
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
        self.text_embeds_TD = embedder.texts(self.texts, whole_captions=whole_captions)
        self.distinct_texts = DistinctEmbeddings(self.text_embeds_TD)
        # Only a second pass has these.
        self.shortlist_scores: ShortlistScores | None = None
        self._last_ranks: tuple[Kept, dict[str, RetrievalRanks]] | None = None

    def measure(self, batch: ImageBatch) -> Kept:
        """Keeps embeddings and digests of the images, and the scores of all pairs if there are not too many."""
        digests_B32 = torch.tensor([list(digest) for digest in batch.digests]).byte()
        kept = {"image_embeds": batch.image_embeds_BD, "digests": digests_B32}
        if self.all_pairs:
            # Each distinct text is scored once, so that copies of a text are tied to the last bit.
            scores_BU = self.embedder.pair_scores(batch, self.distinct_texts.embeds_UD)
            kept["pair_scores"] = self.distinct_texts.spread(scores_BU, 1)
        return kept

    def plan(self, kept: Kept) -> Kept | None:
        """Returns the shortlists, if only their pairs are to be scored."""
        if not self.conditioned or self.all_pairs:
            return None
        return self._shortlists(kept)._asdict() | {"first_B": first_copies(kept["digests"])}

    def second_pass(self, plan: Kept) -> Callable[[ImageBatch], Kept]:
        """Returns a function that scores the pairs of the shortlists."""
        shortlists = Shortlists(**{name: plan[name] for name in Shortlists._fields})
        scores = ShortlistScores(shortlists, self.distinct_texts, plan["first_B"])
        self.shortlist_scores = scores
        return lambda batch: scores.measure(self.embedder, batch)

    def counts(self, kept: Kept) -> dict[str, int]:
        """Returns the number of texts."""
        return {f"{self.name}_texts": len(self.image_index_T)}

    def metrics(self, kept: Kept) -> list[Metric]:
        """Returns R@k and median rank of each score in both directions."""
        chance = self._chance()
        images_B = torch.arange(len(kept["image_embeds"]))
        metrics: list[Metric] = []
        for score, ranks in self._all_ranks(kept).items():
            metrics += self._direction_metrics(
                score, "image_to_text", ranks.image_to_text, chance.image_to_text, images_B
            )
            metrics += self._direction_metrics(
                score, "text_to_image", ranks.text_to_image, chance.text_to_image, self.image_index_T
            )
        return metrics

    def report(self, kept: Kept) -> dict[str, Any]:
        """
        Returns what the pictures of retrieval show, ready for JSON.

        Returns:
            `curves`: R@k over k by direction and by label of the score, such as "long/cls". `misses`: the texts whose
            images `cls` ranks furthest behind, each with the `text`, the index of its `image`, the indices of the
            images that are ranked `first`, and the `rank` of its image.
        """
        curves: dict[str, dict[str, list[list[float]]]] = {}
        for score, ranks in {**self._all_ranks(kept), CHANCE: self._chance()}.items():
            for direction, direction_ranks in ranks._asdict().items():
                points = [[k, float(hits_at_k(direction_ranks, k).mean())] for k in CURVE]
                curves.setdefault(direction, {})[curve_label(self.name, score)] = points
        return {"curves": curves, "misses": self._misses(kept)}

    def _misses(self, kept: Kept) -> list[dict[str, Any]]:
        cls_score = self._cls_score(kept)
        ranks_T = expected_ranks(self._all_ranks(kept)["cls"].text_to_image)
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

    def _shortlists(self, kept: Kept) -> Shortlists:
        num_images, num_texts = len(kept["image_embeds"]), len(self.image_index_T)
        shortlists = best_candidates(self._cls_score(kept), num_images, num_texts, RERANKED[-1])
        # Rows of one matrix may differ in their last bits: copies of an image take the shortlist of the first.
        first_B = first_copies(kept["digests"])
        return shortlists._replace(texts_BK=shortlists.texts_BK[first_B], text_ends_BK=shortlists.text_ends_BK[first_B])

    def _all_ranks(self, kept: Kept) -> dict[str, RetrievalRanks]:
        """Returns the ranks by each score. Metrics and report both need them, so those of the same `kept` stay."""
        if self._last_ranks is None or self._last_ranks[0] is not kept:
            self._last_ranks = (kept, self._compute_ranks(kept))
        return self._last_ranks[1]

    def _compute_ranks(self, kept: Kept) -> dict[str, RetrievalRanks]:
        cls_score = self._cls_score(kept)
        num_images = len(kept["image_embeds"])
        ranks = {"cls": self._ranks(cls_score, num_images)}
        if not self.conditioned:
            return ranks
        if not self.all_pairs:
            assert self.shortlist_scores is not None
            scores = self.shortlist_scores.joined(kept)
            return ranks | self._reranked(ranks["cls"], self.shortlist_scores.shortlists, scores)
        pairs_BT = with_first_copies(kept["pair_scores"], kept["digests"])
        ranks["all_pairs"] = self._ranks(lambda images, texts: pairs_BT[images, texts], num_images)
        shortlists = self._shortlists(kept)
        scores = CandidateScores(
            texts_BK=pairs_BT.gather(1, shortlists.texts_BK.long()),
            images_TK=pairs_BT.T.gather(1, shortlists.images_TK.long()),
        )
        ranks |= self._reranked(ranks["cls"], shortlists, scores)
        # Both scores of a sum are added on the CPU, where those of all pairs are kept.
        ranks["sum"] = self._sum_ranks(cls_score(EVERYTHING, EVERYTHING).cpu(), pairs_BT)
        return ranks

    def _ranks(self, score: ScoreFunction, num_images: int) -> RetrievalRanks:
        return retrieval_ranks(score, self.image_index_T, num_images)

    def _reranked(
        self, ranks: RetrievalRanks, shortlists: Shortlists, scores: CandidateScores
    ) -> dict[str, RetrievalRanks]:
        """Returns the ranks after reranking, for each size of shortlists that is smaller than the number of images."""
        num_images = len(shortlists.texts_BK)
        images_B = torch.arange(num_images)
        reranked_ranks = {}
        for size in RERANKED:
            if size < num_images:
                first = shortlists.first(size)
                reranked_ranks[f"rerank@{size}"] = RetrievalRanks(
                    image_to_text=reranked(
                        ranks.image_to_text, first.texts_BK, scores.texts_BK[:, :size], images_B, self.image_index_T
                    ),
                    text_to_image=reranked(
                        ranks.text_to_image, first.images_TK, scores.images_TK[:, :size], self.image_index_T, images_B
                    ),
                )
        return reranked_ranks

    def _sum_ranks(self, cls_BT: Tensor, pairs_BT: Tensor) -> RetrievalRanks:
        """Returns the ranks by the sum of both scores, its weight chosen for each half of the queries on the other."""
        tried = []
        for weight in WEIGHTS:
            # lerp gives exactly `cls` for 0 and exactly `all_pairs` for 1.
            score = _mixed_score(cls_BT, pairs_BT, weight)
            tried.append(self._ranks(score, len(cls_BT)))
        is_odd_B = torch.arange(len(cls_BT)) % 2 == 1
        return RetrievalRanks(
            image_to_text=cross_fitted([ranks.image_to_text for ranks in tried], is_odd_B),
            text_to_image=cross_fitted([ranks.text_to_image for ranks in tried], is_odd_B[self.image_index_T]),
        )

    def _chance(self) -> RetrievalRanks:
        num_captions_B = torch.bincount(self.image_index_T)
        return RetrievalRanks(
            image_to_text=chance_ranks(len(self.image_index_T), num_captions_B),
            text_to_image=chance_ranks(len(num_captions_B), torch.ones_like(self.image_index_T)),
        )

    def _direction_metrics(
        self, score: str, direction: str, ranks: MatchRanks, chance: MatchRanks, image_Q: Tensor
    ) -> list[Metric]:
        metrics = []
        for k in self.ks:
            metric = mean_metric(
                MetricName(self.name, score, f"R@{k}", direction),
                hits_at_k(ranks, k),
                chance=float(hits_at_k(chance, k).mean()),
                cluster_index_I=image_Q,
                seed=self.seed,
            )
            metrics.append(metric)
        # `quantile` takes the middle between two ranks, and `median` would take the lower one.
        median = Metric(
            MetricName(self.name, score, MEDIAN_RANK, direction),
            value=float(expected_ranks(ranks).quantile(0.5)),
            chance=float(expected_ranks(chance).quantile(0.5)),
            count=len(image_Q),
        )
        return [*metrics, median]


def first_copies(digests_B32: Tensor) -> Tensor:
    """Returns for each image the index of the first image with the same digest, (B,) int64."""
    distinct, place_B = digests_B32.unique(dim=0, return_inverse=True)
    images_B = torch.arange(len(place_B))
    first_of_distinct = images_B.new_full((len(distinct),), len(images_B))
    return first_of_distinct.scatter_reduce(0, place_B, images_B, "amin")[place_B]


def with_first_copies(values: Tensor, digests_B32: Tensor) -> Tensor:
    """Returns values of B images, (B, …), in which all copies of an image have those of the first of them."""
    first_B = first_copies(digests_B32)
    has_copies = not torch.equal(first_B, torch.arange(len(first_B)))
    return values[first_B] if has_copies else values


def cross_fitted(tried: Sequence[MatchRanks], is_odd_Q: Tensor) -> MatchRanks:
    """
    Chooses for each half of the queries the setting that has the best R@1 on the other half; the first of equals.

    Args:
        tried: Ranks of all queries by each setting.
        is_odd_Q: (Q,) bool, which half each query is in.

    Returns:
        For each query its ranks by the setting that was chosen for it.
    """
    hits = [hits_at_k(ranks, 1) for ranks in tried]

    def best_on(is_chosen_Q: Tensor) -> MatchRanks:
        sums = [float(hits_Q[is_chosen_Q].sum()) for hits_Q in hits]
        return tried[sums.index(max(sums))]

    return choose_ranks(is_odd_Q, best_on(~is_odd_Q), best_on(is_odd_Q))


def _mixed_score(cls_BT: Tensor, pairs_BT: Tensor, weight: float) -> ScoreFunction:
    return lambda images, texts: torch.lerp(cls_BT[images, texts], pairs_BT[images, texts], weight)
