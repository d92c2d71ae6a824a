"""Weighted sums of scores, against the ranks by each sum of the whole matrices."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from beta_clip_hf.evaluation import retrieval, weighted
from beta_clip_hf.evaluation.fitted import fitted_ranks
from beta_clip_hf.evaluation.metrics import hits_at_k, retrieval_ranks
from beta_clip_hf.evaluation.retrieval import RetrievalProbe
from beta_clip_hf.evaluation.scores import embedding_scores, matrix_scores
from beta_clip_hf.evaluation.weighted import first_place_hits, weighted_ranks, weighted_sum
from beta_clip_hf.inference.embedder import Embedder
from evaluation.rank_helpers import generator, several_texts


CHOICES = {"first": (1.0, 0.0), "both": (0.5, 0.5), "more": (0.75, 0.25), "second": (0.0, 1.0)}


def planted(levels, num_images=9, num_texts=30):
    """Two scores, with many ties if there are few levels. Quarters of integers and their triples are exact."""
    shape = (2, num_images, num_texts)
    scores = torch.randint(levels, shape, generator=generator(levels), dtype=torch.int64).float()
    return list(scores), several_texts(num_images, num_texts, seed=levels)


@pytest.mark.parametrize("levels", [1, 2, 4, 100_000])
@pytest.mark.parametrize("in_cache", [1, 70, 10_000])
def test_first_places_and_ranks_are_those_of_whole_sums(levels, in_cache, monkeypatch):
    monkeypatch.setattr(weighted, "_SCORES_IN_CACHE", in_cache)
    scores, image_index_T = planted(levels)
    tried = {}
    for label, weights in CHOICES.items():
        total_BT = weighted_sum([part.double() for part in scores], weights)
        tried[label] = retrieval_ranks(matrix_scores(total_BT), image_index_T, 9)
    hits_NB, hits_NT = first_place_hits(scores, list(CHOICES.values()), image_index_T)
    for number, ranks in enumerate(tried.values()):
        assert torch.equal(hits_NB[number], hits_at_k(ranks.image_to_text, 1))
        assert torch.equal(hits_NT[number], hits_at_k(ranks.text_to_image, 1))
    found = weighted_ranks(scores, CHOICES, image_index_T)
    expected = fitted_ranks(tried, image_index_T, 9)
    assert found.weights == expected.weights
    for direction, expected_ranks in expected.ranks._asdict().items():
        for counts, expected_counts in zip(getattr(found.ranks, direction), expected_ranks, strict=True):
            assert torch.equal(counts, expected_counts)


def test_infinite_scores_have_an_order_and_nan_has_none():
    scores, image_index_T = planted(100_000)
    scores[0][0, image_index_T != 0] = torch.inf
    hits_NB, _ = first_place_hits(scores, [(1.0, 0.0)], image_index_T)
    assert hits_NB[0, 0] == 0
    scores[0][3, 4] = torch.nan
    with pytest.raises(ValueError, match="scores must not be NaN"):
        first_place_hits(scores, [(0.5, 0.5)], image_index_T)


def test_a_report_has_no_more_products_than_the_ranks_by_cls_alone(tiny_model, tiny_processor, monkeypatch):
    """CLS alone multiplies all images with all texts once for each direction, a report once for all its scores."""
    monkeypatch.setattr(retrieval, "RERANKED", (2, 5))
    captions = [[f"photo {image}", f"picture {image}"] for image in range(40)]
    probe = RetrievalProbe("short", Embedder(tiny_model, tiny_processor), captions)
    images_BD = torch.randn(40, 32, generator=generator(0))
    kept = {
        "image_embeds": images_BD,
        "digests": torch.arange(40).byte()[:, None].expand(40, 32),
        "pair_scores": torch.randn(40, 80, generator=generator(1)),
    }
    product = 2 * 40 * 80 * 32
    with FlopCounterMode(display=False) as alone:
        retrieval_ranks(embedding_scores(images_BD, probe.text_embeds_TD), probe.image_index_T, 40)
    with FlopCounterMode(display=False) as whole:
        ranks = probe._all_ranks(kept)
    assert set(ranks.by_score) == {"cls", "all_pairs", "rerank@2", "rerank@5", "sum"}
    # And one score, to ask for its device.
    assert alone.get_total_flops() - 2 * product == 2 * 32
    assert whole.get_total_flops() == product
