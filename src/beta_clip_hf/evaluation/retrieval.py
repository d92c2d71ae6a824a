"""
Retrieval both ways, by CLS and by text-conditioned scores.

An image pooled with its own caption, and compared across images, would leak which caption is its own. So the
conditioned score of image i and text t is v_{i|t} · u_t for EVERY pair that is compared, whoever belongs to whom.

Letters: B images, T texts, Q queries, C candidates, K candidates of a shortlist, D projection width.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..data.rows import Row
from ..inference.embedder import Embedder, ImageBatch, read_texts
from ..inference.shards import Kept
from .metrics import (
    DEFAULT_KS,
    DistinctEmbeddings,
    MatchRanks,
    RetrievalRanks,
    ScoreFunction,
    chance_ranks,
    embedding_scores,
    expected_ranks,
    hits_at_k,
    retrieval_ranks,
)
from .probes import run_probes
from .results import Figure, mean_figure
from .shortlists import Shortlists, ShortlistScores, best_candidates, reranked


logger = logging.getLogger(__name__)

TEXT_SETS = ("long", "short")
RERANKED = (16, 64, 256)  # the K of shortlists, as far as there are more candidates
MOST_PAIRS = 2**27  # scores of all pairs that are kept, 512 MiB; 5,000 images x 25,000 texts are fewer
CURVE = (1, 2, 3, 5, 10, 20, 30, 50, 100)  # the k of a recall curve
WORST, FIRST = 12, 3  # texts that are shown because they miss, and images found for each
WEIGHTS = tuple(tenth / 10 for tenth in range(11))  # of the conditioned score in a sum


class RetrievalEvaluator:
    """
    Retrieval of a whole data set: `RetrievalEvaluator()(model, processor, rows)` gives figures by name, as
    `long/cls/image_to_text/R@1` (see [`retrieval_probes`] and [`RetrievalProbe`]).

    Args:
        conditioned: Also score all pairs with the text-conditioned pooler; needs a model that has one.
        ks: The k of R@k.
        seed: Of the bootstrap intervals.
        batch_size, num_workers: See [`Embedder`].
    """

    def __init__(
        self,
        *,
        conditioned: bool = True,
        ks: Sequence[int] = DEFAULT_KS,
        seed: int = 0,
        batch_size: int = 32,
        num_workers: int = 0,
    ) -> None:
        self.conditioned, self.ks, self.seed = conditioned, tuple(ks), seed
        self.batch_size, self.num_workers = batch_size, num_workers

    def __call__(self, model: Any, processor: Any, rows: Sequence[Row]) -> dict[str, Figure]:
        embedder = Embedder(model, processor, batch_size=self.batch_size, num_workers=self.num_workers)
        texts = read_texts(rows)
        probes = retrieval_probes(embedder, texts, conditioned=self.conditioned, ks=self.ks, seed=self.seed)
        return run_probes(embedder, rows, probes).figures


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
    A probe named `long` for the whole captions, one per image, and one named `short` where all rows have `captions`
    (several per image: any of them is a hit) or a `short_caption`; as far as they are `wanted`.
    """
    text_sets = {"long": [[row["caption"]] for row in texts]}
    if all(row.get("captions") for row in texts):
        text_sets["short"] = [list(row["captions"]) for row in texts]
    elif all(row.get("short_caption") for row in texts):
        text_sets["short"] = [[row["short_caption"]] for row in texts]
    return [
        RetrievalProbe(
            name, embedder, captions, whole_captions=name == "long", conditioned=conditioned, ks=ks, seed=seed
        )
        for name, captions in text_sets.items()
        if name in wanted
    ]


class RetrievalProbe:
    """
    R@k and median rank of one set of texts, both ways. Its texts are encoded at once. Scores:

    - `cls`: the cosine of image and text embedding.
    - `rerank@K`: the K best candidates by `cls`, put in the order of their text-conditioned scores; the others follow.
      Those that are tied at the end of the shortlist and do not all fit in it are among the others.
    - `all_pairs`: the text-conditioned score of every pair. Left out, as is `sum`, where there are more than
      `MOST_PAIRS`: then a second pass over the images scores the pairs of the shortlists alone.
    - `sum`: w · `all_pairs` + (1 − w) · `cls`, with the w in 0, 0.1, …, 1 that has the best R@1 on the other half of
      the queries: those of images with even places choose for those with odd ones, and the other way round.

    Copies of one image have the embedding and the scores of the first of them, so that they are tied exactly.

    Args:
        name: First part of the figures' names.
        embedder: Encodes the texts.
        captions: Per image its captions, one or several.
        whole_captions: Whether these are whole captions, see [`Embedder.texts`].
        conditioned: Whether to score with the pooler too.
        ks, seed: See [`RetrievalEvaluator`].
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
        self.name, self.embedder, self.ks, self.seed = name, embedder, tuple(ks), seed
        self.texts = flat = [caption for of_image in captions for caption in of_image]
        self.conditioned = conditioned and embedder.has_pooler
        self.all_pairs = self.conditioned and len(captions) * len(flat) <= MOST_PAIRS
        if self.conditioned and not self.all_pairs:
            logger.warning(
                "%s: %d images x %d texts are too many to score all pairs: of each only the %d best by CLS are scored",
                *(name, len(captions), len(flat), RERANKED[-1]),
            )
        self.text_embeds_TD = embedder.texts(flat, whole_captions=whole_captions)
        self.distinct_texts = DistinctEmbeddings(self.text_embeds_TD)
        self.shortlist_scores: ShortlistScores | None = None  # of a second pass
        self._last_ranks: tuple[Kept, dict[str, RetrievalRanks]] | None = None
        self.image_index_T = torch.arange(len(captions)).repeat_interleave(torch.tensor([len(c) for c in captions]))

    def measure(self, batch: ImageBatch) -> Kept:
        kept = {"image_embeds": batch.image_embeds_BD, "digests": torch.tensor([*map(list, batch.digests)]).byte()}
        if self.all_pairs:
            scores_BU = self.embedder.pair_scores(batch, self.distinct_texts.embeds_UD)
            kept["pair_scores"] = self.distinct_texts.spread(scores_BU, 1)
        return kept

    def plan(self, kept: Kept) -> Kept | None:
        """The shortlists, where the pairs of no others are to be scored."""
        if not self.conditioned or self.all_pairs:
            return None
        return self._shortlists(kept)._asdict() | {"first_B": first_copies(kept["digests"])}

    def second_pass(self, plan: Kept) -> Callable[[ImageBatch], Kept]:
        first_B = plan["first_B"]
        shortlists = Shortlists(**{name: plan[name] for name in Shortlists._fields})
        self.shortlist_scores = scores = ShortlistScores(shortlists, self.distinct_texts, first_B)
        return lambda batch: scores.measure(self.embedder, batch)

    def counts(self, kept: Kept) -> dict[str, int]:
        return {f"{self.name}_texts": len(self.image_index_T)}

    def figures(self, kept: Kept) -> dict[str, Figure]:
        ranks = self._all_ranks(kept)
        return {name: figure for score in ranks for name, figure in self._both_ways(score, ranks[score]).items()}

    def report(self, kept: Kept) -> dict[str, Any]:
        """
        `curves`: R@k over k by direction and by label of the score, such as "long/cls"; and `misses`: the texts whose
        images `cls` puts furthest behind, each with the places of its `image` and of the `first` ones found, and its
        `rank`.
        """
        by_cls = self._by_cls(kept)
        curves: dict[str, dict[str, list[list[float]]]] = {}
        for score, ranks in {**self._all_ranks(kept), "chance": self._chance()}.items():
            for direction, direction_ranks in ranks._asdict().items():
                points = [[k, float(hits_at_k(direction_ranks, k).mean())] for k in CURVE]
                curves.setdefault(direction, {})[f"{self.name}/{score}"] = points
        ranks_T = expected_ranks(self._ranks(by_cls, len(kept["image_embeds"])).text_to_image)
        worst = ranks_T.argsort(descending=True, stable=True)[:WORST].tolist()
        first = {t: by_cls(slice(None), slice(t, t + 1))[:, 0] for t in worst}
        misses = [
            {
                "text": self.texts[t],
                "image": int(self.image_index_T[t]),
                "rank": float(ranks_T[t]),
                "first": first[t].topk(min(FIRST, len(first[t]))).indices.tolist(),
            }
            for t in worst
        ]
        return {"curves": curves, "misses": misses}

    def _by_cls(self, kept: Kept) -> ScoreFunction:
        texts_TD = self.text_embeds_TD
        images_BD = of_first_copies(kept["image_embeds"], kept["digests"])
        return embedding_scores(images_BD.to(texts_TD.device), texts_TD)

    def _shortlists(self, kept: Kept) -> Shortlists:
        counts = len(kept["image_embeds"]), len(self.image_index_T)
        found, first_B = best_candidates(self._by_cls(kept), *counts, RERANKED[-1]), first_copies(kept["digests"])
        return found._replace(texts_BK=found.texts_BK[first_B], text_ends_BK=found.text_ends_BK[first_B])

    def _all_ranks(self, kept: Kept) -> dict[str, RetrievalRanks]:
        """The ranks by each score; of the same `kept` they are found once, as figures and report need them both."""
        if self._last_ranks is None or self._last_ranks[0] is not kept:
            self._last_ranks = kept, self._found_ranks(kept)
        return self._last_ranks[1]

    def _found_ranks(self, kept: Kept) -> dict[str, RetrievalRanks]:
        by_cls, num_images = self._by_cls(kept), len(kept["image_embeds"])
        ranks = {"cls": self._ranks(by_cls, num_images)}
        if not self.conditioned:
            return ranks
        if self.all_pairs:
            pairs_BT = of_first_copies(kept["pair_scores"], kept["digests"])
            ranks["all_pairs"] = self._ranks(lambda i, t: pairs_BT[i, t], num_images)
            shortlists = self._shortlists(kept)
            scores = tuple(
                side.gather(1, best.long()) for side, best in zip((pairs_BT, pairs_BT.T), shortlists[:2], strict=True)
            )
        else:
            assert self.shortlist_scores is not None
            shortlists, scores = self.shortlist_scores.shortlists, self.shortlist_scores.joined(kept)
        for size in RERANKED:
            if size < num_images:
                best = shortlists.first(size)
                ranks[f"rerank@{size}"] = self._reranked(ranks["cls"], best, [side[:, :size] for side in scores])
        if self.all_pairs:
            ranks["sum"] = self._sum(by_cls(slice(None), slice(None)).cpu(), pairs_BT)
        return ranks

    def _ranks(self, score: ScoreFunction, num_images: int) -> RetrievalRanks:
        return retrieval_ranks(score, self.image_index_T, num_images)

    def _reranked(self, ranks: RetrievalRanks, best: Sequence[Tensor], scores: Sequence[Tensor]) -> RetrievalRanks:
        """`best` and `scores`: the candidates of shortlists, (B, K) texts and (T, K) images, and their scores."""
        images_B = torch.arange(len(best[0]))
        return RetrievalRanks(
            reranked(ranks.image_to_text, best[0], scores[0], images_B, self.image_index_T),
            reranked(ranks.text_to_image, best[1], scores[1], self.image_index_T, images_B),
        )

    def _sum(self, cls_BT: Tensor, pairs_BT: Tensor) -> RetrievalRanks:
        """Ranks by the sum of both scores, its weight chosen for each half of the queries on the other half."""

        def mixed(weight: float) -> ScoreFunction:
            return lambda images, texts: torch.lerp(cls_BT[images, texts], pairs_BT[images, texts], weight)

        tried = [self._ranks(mixed(weight), len(cls_BT)) for weight in WEIGHTS]
        is_odd_B = torch.arange(len(cls_BT)) % 2 == 1
        return RetrievalRanks(
            *(
                cross_fitted([getattr(ranks, way) for ranks in tried], is_odd_Q)
                for way, is_odd_Q in zip(RetrievalRanks._fields, (is_odd_B, is_odd_B[self.image_index_T]), strict=True)
            )
        )

    def _both_ways(self, score: str, ranks: RetrievalRanks) -> dict[str, Figure]:
        chance, name = self._chance(), f"{self.name}/{score}"
        images_B = torch.arange(len(ranks.image_to_text.ahead_Q))
        return {
            **self._figures(f"{name}/image_to_text", ranks.image_to_text, chance.image_to_text, images_B),
            **self._figures(f"{name}/text_to_image", ranks.text_to_image, chance.text_to_image, self.image_index_T),
        }

    def _chance(self) -> RetrievalRanks:
        captions_B = torch.bincount(self.image_index_T)
        return RetrievalRanks(
            chance_ranks(len(self.image_index_T), captions_B),
            chance_ranks(len(captions_B), torch.ones_like(self.image_index_T)),
        )

    def _figures(self, name: str, ranks: MatchRanks, chance: MatchRanks, image_Q: Tensor) -> dict[str, Figure]:
        figures = {
            f"{name}/R@{k}": mean_figure(
                hits_at_k(ranks, k),
                chance=float(hits_at_k(chance, k).mean()),
                cluster_index_N=image_Q,
                seed=self.seed,
            )
            for k in self.ks
        }
        median, chance_median = (float(expected_ranks(one).quantile(0.5)) for one in (ranks, chance))
        return figures | {f"{name}/median_rank": Figure(median, chance_median, count=len(image_Q))}


def first_copies(digests_B32: Tensor) -> Tensor:
    """(B,) int64: of each image the first one that has its digest."""
    distinct, place_B = digests_B32.unique(dim=0, return_inverse=True)
    images_B = torch.arange(len(place_B))
    return images_B.new_full((len(distinct),), len(images_B)).scatter_reduce(0, place_B, images_B, "amin")[place_B]


def of_first_copies(values_BX: Tensor, digests_B32: Tensor) -> Tensor:
    """(B, X): the rows, those of copies of an image as the first one's."""
    first_B = first_copies(digests_B32)
    return values_BX if torch.equal(first_B, torch.arange(len(first_B))) else values_BX[first_B]


def cross_fitted(tried: Sequence[MatchRanks], is_odd_Q: Tensor) -> MatchRanks:
    """For each half of the queries the ranks of that one of several settings which has the best R@1 on the other half;
    the first of equals."""
    hits = [hits_at_k(ranks, 1) for ranks in tried]
    of_odd, of_even = (
        tried[max(range(len(tried)), key=lambda i: float(hits[i][chosen_Q].sum()))]
        for chosen_Q in (~is_odd_Q, is_odd_Q)
    )
    return MatchRanks(*(torch.where(is_odd_Q, odd, even) for odd, even in zip(of_odd, of_even, strict=True)))
