"""Scores of embeddings: precision, and ties of copies to the last bit."""

import pytest
import torch
from torch.nn.functional import normalize

from beta_clip_hf.evaluation.metrics import chance_ranks, hits_at_k, retrieval_ranks
from beta_clip_hf.evaluation.scores import embedding_scores
from evaluation import naive_metrics as naive
from evaluation.rank_helpers import as_rows, generator, several_texts


def copied(rows, distinct, seed, width=512):
    """Normalised embeddings of which all but a few are copies, and which of them each is."""
    distinct_index = torch.randint(distinct, (rows,), generator=generator(seed))
    embeds = normalize(torch.randn(distinct, width, generator=generator(seed + 1)), dim=-1)
    return embeds[distinct_index], distinct_index


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
    embeds = normalize(torch.randn(2, 512, generator=generator(0)), dim=-1)
    image_index_T = torch.arange(19).repeat_interleave(5)
    score = embedding_scores(embeds[:1].expand(19, -1), embeds[1:].expand(95, -1))
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


def test_embeddings_of_different_widths_are_refused():
    with pytest.raises(ValueError, match=r"are \(2, 3\) and \(2, 4\)"):
        embedding_scores(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"are \(3,\) and \(2, 3\)"):
        embedding_scores(torch.zeros(3), torch.zeros(2, 3))
