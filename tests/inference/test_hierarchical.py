"""Hierarchical scores against loops over images, texts and their parts, one at a time in float64."""

import copy

import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

from beta_clip_hf.inference.embedder import Embedder
from beta_clip_hf.inference.hierarchical import (
    DEFAULT_WEIGHTS,
    TextParts,
    Weights,
    best_places,
    check_weights,
    hierarchical_scores,
    part_scores,
    text_hierarchies,
)
from beta_clip_hf.inference.windows import window_sides
from beta_clip_hf.text.hierarchy import TextHierarchy, build_text_hierarchy


TEXTS = [
    "A red ball lies on the grass. A dog runs behind it.",
    "a dog",
    TextHierarchy("Two boats.", sentences=("Two boats.",), phrases=("a boat", "a boat", "the sea")),
    "!!!",
    TextHierarchy("A caption that stands alone"),
]


@pytest.fixture
def images():
    pixels = torch.randint(256, (3, 32, 32, 3), dtype=torch.uint8).numpy()
    return [Image.fromarray(image) for image in pixels]


def place_in_loops(model, patches_PD, text_D, place):
    """The score of one text by its best place in one image."""
    if place == "attention":
        pooled, _ = model.pooler(text_D[None], patches_PD[None], torch.zeros(1, dtype=torch.int64))
        return torch.cosine_similarity(pooled[0], text_D, dim=0)
    cosines = []
    map_YXD = patches_PD.unflatten(0, (4, 4))
    for side in window_sides((4, 4)):
        for row in range(5 - side):
            for column in range(5 - side):
                mean_D = map_YXD[row : row + side, column : column + side].flatten(0, 1).mean(dim=0)
                cosines.append(torch.cosine_similarity(mean_D, text_D, dim=0))
    return torch.stack(cosines).max()


@torch.no_grad()
def scores_in_loops(model, processor, images, texts, weights, place):
    model = copy.deepcopy(model).double()

    def embed(text):
        ids = processor(text=[text], return_tensors="pt")["input_ids"]
        return normalize(model.get_text_features(ids).pooler_output[0], dim=-1)

    scores = torch.zeros(len(images), len(texts), dtype=torch.float64)
    for i, image in enumerate(images):
        pixels = processor(images=image, return_tensors="pt")["pixel_values"].double()
        image_1D, patches_1PD = model.encode_images(pixels)
        for t, text in enumerate(texts):
            hierarchy = build_text_hierarchy(text) if isinstance(text, str) else text
            sentences = hierarchy.sentences or (hierarchy.caption,)
            phrases = hierarchy.phrases or sentences
            caption = torch.cosine_similarity(image_1D[0], embed(hierarchy.caption), dim=0)
            totals = [0.0, 0.0]
            for kind, parts in enumerate((sentences, phrases)):
                for part in parts:
                    totals[kind] += float(place_in_loops(model, patches_1PD[0], embed(part), place)) / len(parts)
            scores[i, t] = weights[0] * caption + weights[1] * totals[0] + weights[2] * totals[1]
    return scores


@pytest.mark.parametrize("place", ["attention", "window"])
@pytest.mark.parametrize("weights", [(0.5, 0.2, 0.3), (0, 0, 1), (1, 0, 0)])
def test_scores_equal_loops(tiny_model, tiny_processor, images, place, weights):
    expected = scores_in_loops(tiny_model, tiny_processor, images, TEXTS, weights, place)
    found = hierarchical_scores(tiny_model, tiny_processor, images, TEXTS, weights=weights, place=place, batch_size=2)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-5)
    assert found.std(dim=0).min() > 1e-5


@pytest.mark.parametrize("place", ["attention", "window"])
def test_chosen_pairs_have_the_scores_of_all_pairs(tiny_model, tiny_processor, images, place):
    embedder = Embedder(tiny_model, tiny_processor)
    parts = TextParts(embedder, text_hierarchies(TEXTS))
    (batch,) = embedder.images([{"image": image} for image in images])
    all_pairs = parts.pair_scores(batch, place)
    image_M, text_M = torch.tensor([2, 0, 1, 2, 0]), torch.tensor([0, 4, 2, 0, 3])
    chosen = parts.candidate_scores(batch, place, image_M, text_M)
    for pair_BT, chosen_M in zip(all_pairs, chosen, strict=True):
        torch.testing.assert_close(chosen_M, pair_BT[image_M, text_M], rtol=0, atol=1e-6)
        assert chosen_M[0] == chosen_M[3]
    nothing = torch.zeros(0, dtype=torch.int64)
    assert [len(scores) for scores in parts.candidate_scores(batch, place, nothing, nothing)] == [0, 0]


@pytest.mark.parametrize("place", ["attention", "window"])
def test_copies_of_texts_are_tied_to_the_last_bit(tiny_model, tiny_processor, images, place):
    texts = [TEXTS[0], *(f"a photo of {number} cats" for number in range(20)), TEXTS[0]]
    embedder = Embedder(tiny_model, tiny_processor)
    scores = part_scores(embedder, images, texts, place=place)
    for part_BT in scores[1:]:
        assert torch.equal(part_BT[:, 0], part_BT[:, -1])
        assert not torch.equal(part_BT[:, 0], part_BT[:, 1])


@pytest.mark.parametrize("place", ["attention", "window"])
def test_a_score_does_not_depend_on_the_other_texts(tiny_model, tiny_processor, images, place):
    """Nothing tells a score which text belongs to which image."""
    whole = hierarchical_scores(tiny_model, tiny_processor, images, TEXTS, place=place)
    turned = hierarchical_scores(tiny_model, tiny_processor, images[::-1], TEXTS[::-1], place=place)
    torch.testing.assert_close(turned.flip(0, 1), whole, rtol=0, atol=1e-6)
    alone = hierarchical_scores(tiny_model, tiny_processor, images[1:2], TEXTS[2:3], place=place)
    torch.testing.assert_close(alone, whole[1:2, 2:3], rtol=0, atol=1e-6)


def test_a_model_without_a_pooler_looks_for_windows(tiny_model, tiny_processor, images):
    with_windows = hierarchical_scores(tiny_model, tiny_processor, images, TEXTS, place="window")
    tiny_model.pooler = None
    assert best_places(Embedder(tiny_model, tiny_processor)) == ["window"]
    assert torch.equal(hierarchical_scores(tiny_model, tiny_processor, images, TEXTS), with_windows)
    with pytest.raises(ValueError, match="place must be one that a BetaCLIPModel can find"):
        hierarchical_scores(tiny_model, tiny_processor, images, TEXTS, place="attention")


def test_weights_are_checked(tiny_model, tiny_processor, images):
    assert check_weights([0.5, 0.25, 0.25]) == Weights(0.5, 0.25, 0.25)
    for wrong in ((1.0, 0.5, -0.5), (0.5, 0.5), (0.5, 0.5, 0.5), (float("nan"), 0, 1)):
        with pytest.raises(ValueError, match="weights must be three numbers from 0 whose sum is 1"):
            check_weights(wrong)
    for weights in DEFAULT_WEIGHTS.values():
        check_weights(weights)
    with pytest.raises(ValueError, match="images and texts must be at least one each, but are 3 and 0"):
        hierarchical_scores(tiny_model, tiny_processor, images, [])
