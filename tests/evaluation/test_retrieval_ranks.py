"""Retrieval without the whole score matrix, against its twin that counts one by one."""

import doctest
from operator import mul

import pytest
import torch

from beta_clip_hf.evaluation.metrics import (
    expected_ranks,
    hits_at_k,
    match_ranks,
    retrieval_ranks,
)
from beta_clip_hf.evaluation.scores import embedding_scores
from evaluation import naive_metrics as naive
from evaluation.rank_helpers import as_rows, generator, piece_of, several_texts


@pytest.mark.parametrize("levels", [1, 2, 5, 1000])
@pytest.mark.parametrize("scores_at_a_time", [1, 17, 40, 10_000])
def test_any_size_of_piece_equals_the_count_one_by_one(levels, scores_at_a_time):
    scores_BT = torch.randint(levels, (7, 16), generator=generator(levels)).float()
    image_index_T = several_texts(7, 16, seed=levels)
    assert image_index_T.bincount().unique().numel() > 1
    ranks = retrieval_ranks(piece_of(scores_BT), image_index_T, 7, scores_at_a_time=scores_at_a_time)
    assert as_rows(ranks) == list(naive.retrieval_ranks(scores_BT.tolist(), image_index_T.tolist()))
    relevant_BT = image_index_T == torch.arange(7)[:, None]
    for found, expected in zip(ranks.image_to_text, match_ranks(scores_BT, relevant_BT), strict=True):
        assert torch.equal(found, expected)


def test_planted_retrieval():
    scores_BT = torch.tensor([[0.1, 0.9, 0.5, 0.5, 0.2], [0.3, 0.3, 0.8, 0.1, 0.7]])
    ranks = retrieval_ranks(piece_of(scores_BT), torch.tensor([0, 0, 1, 1, 0]), 2, scores_at_a_time=5)
    assert as_rows(ranks)[0] == [(0, 1, 1), (0, 1, 1)]  # texts 1 and 2 are the best of their images
    assert as_rows(ranks)[1] == [(1, 1, 1), (0, 1, 1), (0, 1, 1), (1, 1, 1), (1, 1, 1)]
    assert hits_at_k(ranks.text_to_image, 1).mean() == pytest.approx(2 / 5)
    assert expected_ranks(ranks.text_to_image).quantile(0.5) == 2


def test_never_more_than_the_scores_asked_for():
    scores_BT, image_index_T = torch.randn(9, 30), several_texts(9, 30, seed=0)
    sizes, seen = [], torch.zeros(9, 30, dtype=torch.long)

    def score(images, texts):
        piece = scores_BT[images, texts]
        seen[images, texts] += 1
        sizes.append(piece.numel())
        return piece

    retrieval_ranks(score, image_index_T, 9, scores_at_a_time=70)
    assert max(sizes) <= 70 and (seen == 2).all()  # once each way
    sizes.clear()
    retrieval_ranks(score, image_index_T, 9, scores_at_a_time=1)
    assert max(sizes) == 30  # one row is the least


@pytest.mark.parametrize("scores_at_a_time", [1, 300, 10_000])
def test_embeddings_equal_the_loop_over_their_products(scores_at_a_time):
    images_BD, texts_TD = torch.randn(12, 8, generator=generator(0)), torch.randn(29, 8, generator=generator(1))
    image_index_T = several_texts(12, 29, seed=3)
    ranks = retrieval_ranks(embedding_scores(images_BD, texts_TD), image_index_T, 12, scores_at_a_time=scores_at_a_time)
    products = []
    for image in images_BD.tolist():
        products.append([sum(map(mul, image, text)) for text in texts_TD.tolist()])
    assert as_rows(ranks) == list(naive.retrieval_ranks(products, image_index_T.tolist()))


def test_infinite_scores_are_ordered_both_ways():
    scores_BT = torch.tensor([[torch.inf, -torch.inf, 0.0], [-torch.inf, -torch.inf, torch.inf]])
    image_index_T = torch.tensor([1, 1, 0])
    ranks = retrieval_ranks(piece_of(scores_BT), image_index_T, 2, scores_at_a_time=2)
    assert as_rows(ranks) == list(naive.retrieval_ranks(scores_BT.tolist(), image_index_T.tolist()))
    assert as_rows(ranks)[0] == [(1, 1, 1), (1, 2, 2)]


def test_gradients_are_left_alone():
    images_BD = torch.randn(4, 8, requires_grad=True)
    ranks = retrieval_ranks(embedding_scores(images_BD, images_BD), torch.arange(4), 4)
    assert not ranks.image_to_text.ahead_Q.requires_grad
    assert match_ranks(images_BD @ images_BD.T, torch.arange(4)).ahead_Q.shape == (4,)


@pytest.mark.parametrize(
    ("image_index", "num_images", "message"),
    [
        ([], 0, "number of texts must be at least 1"),
        ([], 3, "number of texts must be at least 1"),
        ([0, 0, 2], 3, "image 1 has none"),
        ([0, 1], 3, "image 2 has none"),
        ([0, 3, 1], 3, r"below 3, but is 0 … 3"),
        ([0, -1, 1], 2, r"below 2, but is -1 … 1"),
    ],
)
def test_texts_that_do_not_fit_the_images_are_refused(image_index, num_images, message):
    scores_BT = torch.zeros(num_images, len(image_index))
    with pytest.raises(ValueError, match=message):
        retrieval_ranks(piece_of(scores_BT), torch.tensor(image_index, dtype=torch.long), num_images)


@pytest.mark.parametrize("place", [(0, 0), (4, 3), (3, 4)])
def test_one_nan_anywhere_is_an_error(place):
    scores_BT = torch.zeros(5, 5)
    scores_BT[place] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        retrieval_ranks(piece_of(scores_BT), torch.arange(5), 5, scores_at_a_time=5)
    scores_BT[place] = torch.inf
    with pytest.raises(ValueError, match="embeddings must be finite"):
        embedding_scores(scores_BT, torch.zeros(5, 5))


def test_the_example_of_the_page_on_metrics(project_dir):
    found = doctest.testfile(str(project_dir / "docs" / "metrics.md"), module_relative=False)
    assert found.failed == 0 and found.attempted == 9
