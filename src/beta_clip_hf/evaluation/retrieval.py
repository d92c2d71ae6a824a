"""
Retrieval both ways, by CLS and by text-conditioned scores of all pairs.

An image pooled with its own caption, and compared across images, would leak which caption is its own. So the
conditioned score of image i and text t is v_{i|t} · u_t for EVERY pair, `BetaCLIPModel.score_pairs`.

Letters: B images, T texts, D projection width.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..data.rows import Row
from .embedding import Embedder, ImageBatch, read_texts, run_probes
from .metrics import DEFAULT_KS, MatchRanks, chance_ranks, expected_ranks, hits_at_k, match_ranks
from .results import Figure, mean_figure


RANKED_AT_A_TIME = 1024  # rows of the score matrix; 1,024 x 155,070 float32 are 0.6 GiB


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
        return run_probes(embedder, rows, probes)


def retrieval_probes(
    embedder: Embedder, texts: Sequence[Row], *, conditioned: bool = True, ks: Sequence[int] = DEFAULT_KS, seed: int = 0
) -> list["RetrievalProbe"]:
    """
    A probe named `long` for the whole captions, one per image, and one named `short` where all rows have `captions`
    (several per image: any of them is a hit) or a `short_caption`.
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
    ]


class RetrievalProbe:
    """
    R@k and median rank of one set of texts, both ways. Its texts are encoded at once.

    Args:
        name: First part of the figures' names.
        embedder: Encodes the texts.
        captions: Per image its captions, one or several.
        whole_captions: Whether these are whole captions, see [`Embedder.texts`].
        conditioned: Whether to score all pairs with the pooler too.
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
        self.conditioned = conditioned and embedder.has_pooler
        flat = [caption for of_image in captions for caption in of_image]
        self.text_embeds_TD = embedder.texts(flat, whole_captions=whole_captions, progress=True)
        self.image_index_T = torch.arange(len(captions)).repeat_interleave(torch.tensor([len(c) for c in captions]))
        self.counts = {f"{name}_texts": len(flat)}
        self.image_embeds: list[Tensor] = []
        self.pair_scores: list[Tensor] = []

    def update(self, batch: ImageBatch) -> None:
        self.image_embeds.append(batch.image_embeds_BD)
        if self.conditioned:
            self.pair_scores.append(self.embedder.pair_scores(batch, self.text_embeds_TD).cpu())

    def figures(self) -> dict[str, Figure]:
        images_BD, texts_TD = torch.cat(self.image_embeds), self.text_embeds_TD
        figures = self._both_ways("cls", lambda images, texts: images_BD[images] @ texts_TD[texts].T)
        if self.conditioned:
            scores_BT = torch.cat(self.pair_scores)
            figures |= self._both_ways("conditioned", lambda images, texts: scores_BT[images, texts])
        return figures

    def _both_ways(self, score: str, scores_of: Callable[[slice, slice], Tensor]) -> dict[str, Figure]:
        image_index_T, everything = self.image_index_T, slice(None)
        num_images, num_texts = int(image_index_T.max()) + 1, len(image_index_T)
        image_to_text, text_to_image = [], []
        for part in _parts(num_images):
            relevant = torch.arange(part.start, part.stop)[:, None] == image_index_T
            image_to_text.append(match_ranks(scores_of(part, everything).cpu(), relevant))
        for part in _parts(num_texts):
            text_to_image.append(match_ranks(scores_of(everything, part).T.cpu(), image_index_T[part]))
        captions_B = torch.bincount(image_index_T)
        by_image = chance_ranks(num_texts, captions_B)
        by_text = chance_ranks(num_images, torch.ones_like(image_index_T))
        name = f"{self.name}/{score}"
        return {
            **self._figures(f"{name}/image_to_text", image_to_text, by_image, torch.arange(num_images)),
            **self._figures(f"{name}/text_to_image", text_to_image, by_text, image_index_T),
        }

    def _figures(self, name: str, parts: list[MatchRanks], chance: MatchRanks, image_Q: Tensor) -> dict[str, Figure]:
        ranks = MatchRanks(*map(torch.cat, zip(*parts, strict=True)))
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


def _parts(total: int) -> list[slice]:
    return [slice(first, min(first + RANKED_AT_A_TIME, total)) for first in range(0, total, RANKED_AT_A_TIME)]
