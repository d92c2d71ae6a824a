"""Retrieval without the whole score matrix, against its twin that counts one by one."""

import doctest

import pytest
import torch
from torch.nn.functional import normalize

from beta_clip_hf.evaluation.metrics import (
    chance_ranks,
    expected_ranks,
    hits_at_k,
    match_ranks,
    retrieval_ranks,
)
from beta_clip_hf.evaluation.scores import embedding_scores
from evaluation import naive_metrics as naive


def generator(seed):
    return torch.Generator().manual_seed(seed)


def piece_of(scores_BT):
    return lambda images, texts: scores_BT[images, texts]


def several_texts(num_images, num_texts, seed):
    """An image for each text, in no order, such that every image has one."""
    others = torch.randint(num_images, (num_texts - num_images,), generator=generator(seed))
    return torch.cat([torch.arange(num_images), others])[torch.randperm(num_texts, generator=generator(seed))]


def as_rows(ranks):
    return [list(zip(*(column.tolist() for column in side), strict=True)) for side in ranks]


def copied(rows, distinct, seed, width=512):
    """Normalised embeddings of which all but a few are copies, and which of them each is."""
    of_row = torch.randint(distinct, (rows,), generator=generator(seed))
    return normalize(torch.randn(distinct, width, generator=generator(seed + 1)), dim=-1)[of_row], of_row


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
    products = [[sum(a * b for a, b in zip(i, t, strict=True)) for t in texts_TD.tolist()] for i in images_BD.tolist()]
    assert as_rows(ranks) == list(naive.retrieval_ranks(products, image_index_T.tolist()))


@pytest.mark.parametrize(("num_images", "num_texts"), [(1, 5), (5, 5), (7, 17), (33, 257), (64, 65)])
@pytest.mark.parametrize("scores_at_a_time", [1, 600, 10**6])
def test_copies_of_an_embedding_are_tied_exactly(num_images, num_texts, scores_at_a_time):
    """A plain matrix product fails this at most of these sizes: its kernels add in another order at the edges."""
    images_BD, image_of_B = copied(num_images, 3, seed=num_images)
    texts_TD, text_of_T = copied(num_texts, 4, seed=num_texts)
    image_index_T = several_texts(num_images, num_texts, seed=1)
    score = embedding_scores(images_BD, texts_TD)
    everything = slice(None)
    for scores in (score(everything, everything), score(slice(0, 1), everything)):
        for text in text_of_T.unique():
            assert (scores[:, text_of_T == text].diff(dim=1) == 0).all()
    for scores in (score(everything, everything), score(everything, slice(0, 2))):
        for image in image_of_B.unique():
            assert (scores[image_of_B == image].diff(dim=0) == 0).all()
    ranks = retrieval_ranks(score, image_index_T, num_images, scores_at_a_time=scores_at_a_time)
    exact_BT = (images_BD.double() @ texts_TD.double().T).float().double().mul(2**12).round()  # copies surely agree
    assert as_rows(ranks) == list(naive.retrieval_ranks(exact_BT.tolist(), image_index_T.tolist()))


@pytest.mark.parametrize("scores_at_a_time", [1, 100, 10**6])
def test_embeddings_that_are_all_alike_are_at_chance(scores_at_a_time):
    one = normalize(torch.randn(2, 512, generator=generator(0)), dim=-1)
    image_index_T = torch.arange(19).repeat_interleave(5)
    score = embedding_scores(one[:1].expand(19, -1), one[1:].expand(95, -1))
    ranks = retrieval_ranks(score, image_index_T, 19, scores_at_a_time=scores_at_a_time)
    chance = chance_ranks(95, torch.bincount(image_index_T)), chance_ranks(19, torch.ones_like(image_index_T))
    assert as_rows(ranks) == as_rows(chance)
    assert hits_at_k(ranks.image_to_text, 1).mean() == pytest.approx(1 / 19)


def test_half_precision_is_raised_before_the_product():
    images_BD, texts_TD = (normalize(torch.randn(50, 64, generator=generator(s)), dim=-1).bfloat16() for s in (0, 1))
    score = embedding_scores(images_BD, texts_TD)
    everything = slice(None)
    assert torch.equal(
        score(everything, everything), embedding_scores(images_BD.float(), texts_TD.float())(*[everything] * 2)
    )
    assert score(everything, everything).dtype == torch.float32
    # Scores rounded to bfloat16 are ranked as they are: with more ties.
    index_T = torch.arange(50)
    exact = retrieval_ranks(score, index_T, 50)
    rounded = retrieval_ranks(lambda *piece: score(*piece).bfloat16(), index_T, 50)
    assert (exact.text_to_image.tied_Q == 1).all() and (rounded.text_to_image.tied_Q > 1).any()
    doubles = embedding_scores(images_BD.double(), texts_TD.double())(everything, everything)
    assert doubles.dtype == torch.float64


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


def test_embeddings_of_different_widths_are_refused():
    with pytest.raises(ValueError, match=r"are \(2, 3\) and \(2, 4\)"):
        embedding_scores(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"are \(3,\) and \(2, 3\)"):
        embedding_scores(torch.zeros(3), torch.zeros(2, 3))


def test_the_example_of_the_page_on_metrics(project_dir):
    found = doctest.testfile(str(project_dir / "docs" / "metrics.md"), module_relative=False)
    assert found.failed == 0 and found.attempted == 9
