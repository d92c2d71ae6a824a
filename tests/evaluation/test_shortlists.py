"""Shortlists and their order by a second score, against enumeration; no order of the data decides."""

import pytest
import torch

from beta_clip_hf.evaluation.metrics import SCORES_AT_A_TIME, hits_at_k, match_ranks
from beta_clip_hf.evaluation.shortlists import best_candidates, best_of_rows, reranked
from evaluation import naive_metrics


def planted(seed=0, num_images=40):
    """Scores of images and texts, two of each image, by two methods; with ties."""
    generator = torch.Generator().manual_seed(seed)
    image_index_T = torch.arange(num_images).repeat_interleave(2)
    own_BT = (torch.arange(num_images)[:, None] == image_index_T).float()
    first, second = (
        (own_BT * strength + torch.randn(own_BT.shape, generator=generator)).round(decimals=1) for strength in (1, 2)
    )
    return first, second, image_index_T


@pytest.mark.parametrize("size", [1, 2, 5, 39])
def test_a_reranked_shortlist_stands_before_all_others_in_its_new_order(size):
    first_BT, second_BT, image_index_T = planted()
    images_B = torch.arange(40)
    shortlists = best_candidates(lambda images, texts: first_BT[images, texts], 40, 80, 39).first(size)
    for first, second, short, label_Q, label_C in (
        (first_BT, second_BT, shortlists[0], images_B, image_index_T),
        (first_BT.T, second_BT.T, shortlists[1], image_index_T, images_B),
    ):
        relevant = label_Q[:, None] == label_C
        scores = second.gather(1, short.clamp(min=0).long())
        ranks = reranked(match_ranks(first, relevant), short, scores, label_Q, label_C)
        combined = first.clone()
        for query, candidates in enumerate(short.tolist()):
            chosen = [candidate for candidate in candidates if candidate >= 0]
            combined[query, chosen] = second[query, chosen] + 1000
        inside = (combined > 500).logical_and(relevant).any(dim=1)
        assert inside.any()
        assert all(torch.equal(*pair) for pair in zip(ranks, match_ranks(combined, relevant), strict=True))


def reranked_hits(firsts, seconds, label_Q, label_C, size, k):
    short, _ = best_candidates(lambda i, t: firsts[i, t], *firsts.shape, firsts.shape[1]).first(size)
    ranks = match_ranks(firsts, label_Q[:, None] == label_C)
    scores = seconds.gather(1, short.clamp(min=0).long())
    return float(hits_at_k(reranked(ranks, short, scores, label_Q, label_C), k).mean())


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("k", [1, 2, 4])
def test_reranking_with_ties_is_the_mean_over_their_orders_and_none_of_the_data(size, k):
    generator = torch.Generator().manual_seed(size)
    firsts, seconds = (torch.randint(3, (30, 5), generator=generator).float() for _ in range(2))
    label_Q, label_C = torch.randint(3, (30,), generator=generator), torch.tensor([0, 1, 2, 0, 1])
    found = reranked_hits(firsts, seconds, label_Q, label_C, size, k)
    relevant = (label_Q[:, None] == label_C).tolist()
    expected = naive_metrics.reranked_recall_at_k(firsts.tolist(), seconds.tolist(), relevant, size, k)
    assert found == pytest.approx(expected) and 0 < found < 1
    order = torch.tensor([3, 1, 4, 0, 2])
    assert reranked_hits(firsts[:, order], seconds[:, order], label_Q, label_C[order], size, k) == pytest.approx(found)


def test_a_shortlist_of_everything_is_the_second_score_alone():
    first_BT, second_BT, image_index_T = planted()
    relevant = torch.arange(40)[:, None] == image_index_T
    everything = torch.arange(80).expand(40, -1)
    ranks = reranked(match_ranks(first_BT, relevant), everything, second_BT, torch.arange(40), image_index_T)
    assert all(
        torch.equal(first, second) for first, second in zip(ranks, match_ranks(second_BT, relevant), strict=True)
    )


def test_the_best_candidates_of_both_ways(monkeypatch):
    scores_BT = torch.randn(7, 23, generator=torch.Generator().manual_seed(0))
    monkeypatch.setitem(SCORES_AT_A_TIME, "cpu", 40)  # in several pieces
    found = best_candidates(lambda images, texts: scores_BT[images, texts], 7, 23, 9)
    assert torch.equal(found.texts_BK.long(), scores_BT.argsort(dim=1, descending=True)[:, :9])
    assert torch.equal(found.images_TK.long(), scores_BT.T.argsort(dim=1, descending=True))  # there are only 7
    assert torch.equal(found.text_ends_BK.long(), torch.arange(1, 10).expand(7, -1))


@pytest.mark.parametrize("kind", ["distinct", "tied", "constant", "infinite"])
@pytest.mark.parametrize(("num_candidates", "count"), [(1, 1), (40, 10), (43, 9), (43, 43), (400, 3)])
def test_the_best_of_rows_are_those_of_topk(kind, num_candidates, count):
    scores_QG = torch.randn(11, num_candidates, generator=torch.Generator().manual_seed(count))
    if kind == "tied":
        scores_QG = scores_QG.round()
    elif kind == "constant":
        scores_QG.zero_()
    elif kind == "infinite":
        scores_QG[:, count // 2 :] = -torch.inf
    values_QK, index_QK = best_of_rows(scores_QG, count)
    assert torch.equal(values_QK, scores_QG.topk(count, dim=1).values)
    assert torch.equal(scores_QG.gather(1, index_QK), values_QK)
    assert all(len(set(row)) == count for row in index_QK.tolist())


def test_of_the_tied_at_the_end_of_a_shortlist_all_are_taken_or_none():
    scores = torch.tensor([[9.0, 5, 5, 5, 1, 1], [0, 0, 0, 0, 0, 0]])
    found = best_candidates(lambda images, texts: scores[images, texts], 2, 6, 5)
    taken = {}
    for size in (1, 3, 4, 5):
        taken[size] = [sorted(set(row) - {-1}) for row in found.first(size)[0].tolist()]
    assert taken == {1: [[0], []], 3: [[0], []], 4: [[0, 1, 2, 3], []], 5: [[0, 1, 2, 3], []]}
