from itertools import chain

import pytest
import torch

from beta_clip_hf.evaluation.metrics import (
    chance_ranks,
    expected_ranks,
    hard_negative_accuracy,
    hard_negative_hits,
    hits_at_k,
    match_ranks,
    median_rank,
    recall_at_k,
)
from evaluation import naive_metrics as naive


def tied_scores(queries, candidates, levels, seed):
    """Scores of few distinct values, so that most are tied."""
    return torch.randint(levels, (queries, candidates), generator=torch.Generator().manual_seed(seed)).float()


@pytest.mark.parametrize("levels", [1, 2, 3, 100])
@pytest.mark.parametrize("k", [1, 2, 4, 6, 9])
def test_recall_equals_the_mean_over_all_orders_of_tied_candidates(levels, k):
    scores = tied_scores(12, 6, levels, seed=levels)
    relevant = torch.rand(12, 6, generator=torch.Generator().manual_seed(9)) < 0.4
    relevant[torch.arange(12), torch.arange(12) % 6] = True
    assert relevant.sum(1).unique().numel() > 1
    expected = naive.recall_at_k(scores.tolist(), relevant.tolist(), k)
    assert recall_at_k(scores, relevant, ks=(k,))[k] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("levels", [1, 2, 100])
def test_expected_rank_equals_the_mean_over_all_orders(levels):
    scores, relevant = tied_scores(8, 6, levels, seed=levels), torch.eye(6, dtype=torch.bool)[torch.arange(8) % 6]
    relevant[:3, 2] = True
    expected = [naive.expected_rank(*pair) for pair in zip(scores.tolist(), relevant.tolist(), strict=True)]
    assert expected_ranks(match_ranks(scores, relevant)).tolist() == pytest.approx(expected)
    assert median_rank(scores, relevant) == pytest.approx(float(torch.tensor(expected).double().quantile(0.5)))


def test_planted_ranks():
    scores = torch.tensor([[9.0, 1, 1, 1], [5, 4, 3, 2], [1, 2, 3, 4], [4, 3, 2, 1]])
    relevant = torch.tensor([0, 1, 1, 3])  # ranks 1, 2, 3, 4
    assert recall_at_k(scores, relevant, ks=(1, 2, 3, 4)) == {1: 0.25, 2: 0.5, 3: 0.75, 4: 1.0}
    assert median_rank(scores, relevant) == 2.5


def test_any_of_an_images_captions_is_a_hit():
    scores = torch.tensor([[0.1, 0.9, 0.2, 0.3], [0.8, 0.7, 0.1, 0.2]])
    image_index = torch.tensor([0, 0, 1, 1])
    relevant = image_index == torch.arange(2)[:, None]
    assert recall_at_k(scores, relevant, ks=(1, 2, 3)) == {1: 0.5, 2: 0.5, 3: 1.0}


def test_an_index_equals_its_mask():
    scores, index = tied_scores(20, 7, 4, seed=1), torch.arange(20) % 7
    mask = torch.nn.functional.one_hot(index, 7).bool()
    for by_index, by_mask in zip(match_ranks(scores, index), match_ranks(scores, mask), strict=True):
        assert torch.equal(by_index, by_mask)


@pytest.mark.parametrize("per_image", [1, 5])
def test_a_constant_model_is_at_chance_and_not_at_100_percent(per_image):
    num_images = 20
    image_index = torch.arange(num_images).repeat_interleave(per_image)
    relevant = image_index == torch.arange(num_images)[:, None]
    constant = torch.zeros(num_images, len(image_index))
    figures = recall_at_k(constant, relevant)
    chance = chance_ranks(len(image_index), relevant.sum(1))
    assert figures[1] == pytest.approx(1 / num_images)
    assert figures == {k: pytest.approx(float(hits_at_k(chance, k).mean())) for k in (1, 5, 10)}
    # A random model meets the same level, which no formula of ours goes into.
    noise = torch.rand(4000, len(image_index), generator=torch.Generator().manual_seed(0))
    measured = recall_at_k(noise, relevant[torch.arange(4000) % num_images])
    assert measured == {k: pytest.approx(level, abs=0.03) for k, level in figures.items()}


def test_ranks_of_parts_concatenate():
    scores, index = tied_scores(9, 5, 3, seed=2), torch.arange(9) % 5
    parts = [match_ranks(scores[part], index[part]) for part in (slice(0, 4), slice(4, 9))]
    for whole, first, second in zip(match_ranks(scores, index), *parts, strict=True):
        assert torch.equal(whole, torch.cat([first, second]))


def test_infinite_scores_are_ordered():
    scores = torch.tensor([[-torch.inf, -torch.inf, 0.0], [torch.inf, 1.0, torch.inf]])
    assert recall_at_k(scores, torch.tensor([0, 0]), ks=(1, 2)) == {1: 0.25, 2: 0.75}
    everything = torch.ones(2, 3, dtype=torch.bool)
    assert recall_at_k(torch.full((2, 3), -torch.inf), everything, ks=(1,)) == {1: 1.0}


@pytest.mark.parametrize(
    ("scores", "relevant", "message"),
    [
        (torch.tensor([[0.0, torch.nan]]), torch.tensor([0]), "NaN"),
        (torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.bool), "query 0 has none"),
        (torch.zeros(2, 3), torch.ones(3, 2, dtype=torch.bool), "like scores"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), "indices below 3"),
        (torch.zeros(2, 3), torch.tensor([0]), "an index each"),
        (torch.zeros(3), torch.tensor([0]), "queries, candidates"),
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), "at least 1"),
    ],
)
def test_bad_scores_are_refused(scores, relevant, message):
    with pytest.raises(ValueError, match=message):
        recall_at_k(scores, relevant)


def test_hard_negatives_are_ragged_and_ties_count_one_over_n():
    groups = [[3.0, 1.0], [1.0, 1.0, 1.0], [2.0, 2.0, 1.0, 0.0], [0.0, 1.0], [5.0] + [5.0] * 9]
    scores = torch.tensor(list(chain.from_iterable(groups)))
    index = torch.arange(len(groups)).repeat_interleave(torch.tensor([len(group) for group in groups]))
    assert hard_negative_hits(scores, index).tolist() == pytest.approx([1, 1 / 3, 1 / 2, 0, 1 / 10])
    assert hard_negative_accuracy(scores, index) == pytest.approx(naive.hard_negative_accuracy(groups))
    assert hard_negative_hits(scores, index * 7 + 3).tolist() == hard_negative_hits(scores, index).tolist()


def test_a_table_of_hard_negatives_equals_the_loop():
    scores = tied_scores(200, 4, 3, seed=5)
    expected = naive.hard_negative_accuracy(scores.tolist())
    assert 0.2 < expected < 0.5
    assert hard_negative_accuracy(scores) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("scores", "index", "message"),
    [
        (torch.zeros(3), torch.tensor([0, 1, 1]), "group 0 has none"),
        (torch.zeros(4), torch.tensor([0, 0, 1, 0]), "non-decreasing"),
        (torch.zeros(4), torch.tensor([0, 0, 1]), r"must both have the shape \(texts,\)"),
        (torch.tensor([0.0, torch.nan]), torch.tensor([0, 0]), "NaN"),
        (torch.zeros(0), torch.zeros(0, dtype=torch.long), "at least 1"),
        (torch.zeros(4), None, "groups, texts"),
    ],
)
def test_bad_groups_are_refused(scores, index, message):
    with pytest.raises(ValueError, match=message):
        hard_negative_accuracy(scores, index)


def test_integer_scores_are_ranked_as_the_same_numbers():
    scores, relevant = tied_scores(12, 6, 3, seed=0), torch.arange(12) % 6
    for whole in (scores.long(), scores.to(torch.uint8)):
        assert recall_at_k(whole, relevant) == recall_at_k(scores, relevant)
        assert median_rank(whole, relevant) == median_rank(scores, relevant)
