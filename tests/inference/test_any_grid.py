"""Images of several grids in one batch, against loops over images, places and texts, one at a time in float64."""

import copy

import pytest
import torch
from torch.nn.functional import normalize

from beta_clip_hf.evaluation.probes import run_probes
from beta_clip_hf.evaluation.regions import LocalisationProbe
from beta_clip_hf.inference.embedder import Embedder
from beta_clip_hf.inference.grids import for_model, grids_of, map_of_one_grid, padded_map
from beta_clip_hf.inference.hierarchical import TextParts, hierarchical_scores, text_hierarchies
from beta_clip_hf.inference.look import CAPTION, ShownText, look
from beta_clip_hf.inference.windows import best_window_candidates, best_window_scores
from beta_clip_hf.text.hierarchy import TextHierarchy
from evaluation.naive_metrics import pointing_hit, raster
from inference.any_grid import (
    KINDS,
    SIZES,
    Alone,
    embed_alone,
    loaded,
    model_folder,
    noise_images,
    pooled_in_loops,
    scores_in_loops,
    window_in_loops,
)


pytestmark = pytest.mark.slow

TEXTS = [
    TextHierarchy("A red dog on a beach. A dog.", ("A red dog on a beach.", "A dog."), ("a red dog", "a beach", "dog")),
    TextHierarchy("the beach", ("the beach",), ()),
]


@pytest.fixture(params=KINDS)
def system(request, tmp_path):
    return loaded(model_folder(tmp_path / "model", request.param))


@pytest.fixture
def any_grid(tmp_path):
    return loaded(model_folder(tmp_path / "model", "any grid"))


@pytest.mark.parametrize("place", ["attention", "window"])
def test_hierarchical_scores_equal_loops(system, place):
    model, processor = system
    images = noise_images()
    weights = (0.2, 0.3, 0.5)
    found = hierarchical_scores(model, processor, images, TEXTS, weights=weights, place=place, batch_size=4)
    expected = scores_in_loops(copy.deepcopy(model).double(), processor, images, TEXTS, weights, place)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-5)
    assert found.std(dim=0).min() > 1e-3


@pytest.mark.parametrize("place", ["attention", "window"])
def test_chosen_pairs_have_the_scores_of_all_pairs(any_grid, place):
    embedder = Embedder(*any_grid, batch_size=8)
    parts = TextParts(embedder, text_hierarchies(TEXTS))
    (batch,) = embedder.images([{"image": image} for image in noise_images()])
    # Two images share a grid.
    assert len(set(grids_of(batch.patches))) == len(SIZES) - 1
    all_pairs = parts.pair_scores(batch, place)
    image_M, text_M = torch.tensor([5, 0, 2, 3, 0]), torch.tensor([0, 1, 1, 0, 0])
    for pair_BT, chosen_M in zip(all_pairs, parts.candidate_scores(batch, place, image_M, text_M), strict=True):
        torch.testing.assert_close(chosen_M, pair_BT[image_M, text_M], rtol=0, atol=1e-6)


@pytest.mark.parametrize("garbage", [1e4, float("inf"), float("nan")])
def test_padding_never_wins(any_grid, garbage):
    embedder = Embedder(*any_grid, batch_size=8)
    (batch,) = embedder.images([{"image": image} for image in noise_images()])
    patches = batch.patches
    assert 0 < int(patches.mask.sum()) < patches.mask.numel()
    texts = embedder.texts(["a red dog", "the beach"], "phrase")
    spoilt = patches._replace(features=patches.features.masked_fill(~patches.mask[..., None], garbage))
    other = type(batch)(**{**vars(batch), "patches": spoilt})
    index = torch.arange(len(SIZES))
    answers = {
        "windows": lambda batch: best_window_scores(batch.patches, texts),
        "candidates": lambda batch: best_window_candidates(batch.patches, texts, index, index % 2),
        "pairs": lambda batch: embedder.pair_scores(batch, texts),
        "attention": lambda batch: embedder.attention(batch, texts[index % 2], index),
        "boxes": lambda batch: embedder.view_embeds(batch, [(0.0, 0.0, 1.0, 1.0)] * len(SIZES), index),
    }
    for name, answer in answers.items():
        expected = answer(batch)
        assert expected.isfinite().all(), name
        torch.testing.assert_close(answer(other), expected, rtol=0, atol=1e-6, msg=name)
    attention = embedder.attention(batch, texts[index % 2], index)
    assert (attention.masked_fill(patches.mask[:, None], 0) == 0).all()
    torch.testing.assert_close(attention.sum(-1), torch.ones(attention.shape[:2]))


def test_maps_go_into_a_batch_and_out_again():
    features = [torch.randn(6, 4), torch.randn(1, 4), torch.randn(5, 4)]
    patches = padded_map(features, [(2, 3), (1, 1), (1, 5)])
    assert patches.features.shape == (3, 6, 4) and patches.mask.sum(dim=1).tolist() == [6, 1, 5]
    assert for_model(patches) is patches
    square = map_of_one_grid(torch.randn(2, 6, 4), (3, 2))
    assert for_model(square) is square.features


def test_what_is_seen_is_what_the_model_gives(system):
    model, processor = system
    doubled = copy.deepcopy(model).double()
    texts = ["a red dog", "the beach"]
    for image in noise_images():
        seen = look(
            model, processor, image, texts, boxes=[(0, 0, 1, 1), (0, 0, 0.5, 0.5)], box_format="xyxy_normalized"
        )
        alone = Alone(doubled, processor, image)
        assert seen.view.size == image.size and seen.attention_THYX.shape[-2:] == alone.grid
        for number, text in enumerate(texts):
            text_D = embed_alone(doubled, processor, text, "box")
            conditioned, attention_HP = pooled_in_loops(doubled, alone, text_D)
            found_HP = seen.attention_THYX[number].flatten(1).double()
            torch.testing.assert_close(found_HP, attention_HP, rtol=0, atol=1e-4)
            assert float(seen.conditioned_T[number]) == pytest.approx(conditioned, abs=1e-4)
            assert float(seen.window_T[number]) == pytest.approx(window_in_loops(alone, text_D), abs=1e-4)
            cosine = float(torch.cosine_similarity(alone.embed_D, text_D, dim=0))
            assert float(seen.similarity_T[number]) == pytest.approx(cosine, abs=1e-4)
        inputs = processor(images=[image])
        with torch.no_grad():
            boxes = torch.tensor([[0, 0, 1, 1], [0, 0, 0.5, 0.5]])
            regions_RD = normalize(model.get_region_features(boxes=boxes, **inputs), dim=-1)
        expected = regions_RD @ torch.stack([embed_alone(model, processor, text, "box") for text in texts]).T
        torch.testing.assert_close(seen.region_scores_RT, expected, rtol=0, atol=1e-4)


def test_captions_of_one_sentence_take_the_path_of_short_captions(any_grid):
    model, processor = any_grid
    image = noise_images()[0]

    def similarity(*texts):
        return look(model, processor, image, [ShownText(text, CAPTION) for text in texts]).similarity_T

    def expected(text, path):
        with torch.no_grad():
            image_D = normalize(model.get_image_features(**processor(images=[image])).pooler_output[0], dim=-1)
        return float(image_D @ embed_alone(model, processor, text, path))

    short, long = "a dog", "A dog. A beach."
    # One sentence, but more than the eight positions of the short path.
    cut = "a dog a dog a dog a dog a dog"
    assert float(similarity(short)[0]) == pytest.approx(expected(short, "short"), abs=1e-5)
    assert float(similarity(cut)[0]) == pytest.approx(expected(cut, "long"), abs=1e-5)
    assert similarity(short, long).tolist() == pytest.approx(
        [expected(short, "long"), expected(long, "long")], abs=1e-5
    )
    assert abs(expected(short, "long") - expected(short, "short")) > 1e-3


def test_pointing_and_mass_equal_loops(system):
    model, processor = system
    images = noise_images()
    boxes = [[0.0, 0.0, 0.5, 1.0], [0.25, 0.0, 0.75, 0.5]]
    rows = []
    for (width, height), image in zip(SIZES, images, strict=True):
        phrases = []
        for text, box in zip(("a red dog", "the beach"), boxes, strict=True):
            phrases.append(
                {"text": text, "boxes": [[box[0] * width, box[1] * height, box[2] * width, box[3] * height]]}
            )
        rows.append({"image": image, "caption": "a dog", "phrases": phrases})
    doubled = copy.deepcopy(model).double()
    hits, masses = [], []
    for image in images:
        alone = Alone(doubled, processor, image)
        for text, box in zip(("a red dog", "the beach"), boxes, strict=True):
            _, attention_HP = pooled_in_loops(doubled, alone, embed_alone(doubled, processor, text, "box"))
            heat = attention_HP.mean(dim=0).unflatten(0, alone.grid)
            hits.append(pointing_hit(heat.tolist(), [box]))
            masses.append(float((heat * raster([box], alone.grid, 60)).sum() / heat.sum()))
    for batch_size in (1, 4):
        embedder = Embedder(model, processor, batch_size=batch_size)
        measured = run_probes(embedder, rows, [LocalisationProbe(embedder, rows)])
        figures = {str(metric.name): metric for metric in measured.metrics}
        assert figures["phrases/attention/pointing"].value == pytest.approx(sum(hits) / len(hits))
        assert figures["phrases/attention/mass_inside"].value == pytest.approx(sum(masses) / len(masses), abs=1e-6)
        assert {"phrases/patch_similarity/pointing", "phrases/region_similarity/mass_inside"} <= set(figures)
    assert 0 < sum(hits) < len(hits)


def test_encode_gives_the_embeddings_of_processor_and_model(system):
    model, processor = system
    images = noise_images()
    for path in (None, "short", "long", "box"):
        texts = ["a RED dog", "the beach", "a red dog"]
        embeds = model.encode(texts=texts, path=path)
        expected = torch.stack([embed_alone(model, processor, text, path) for text in texts])
        torch.testing.assert_close(embeds, expected)
        assert torch.equal(embeds[0], embeds[2])
    with torch.no_grad():
        alone = [model.get_image_features(**processor(images=[image])).pooler_output for image in images]
    features_BD = torch.cat(alone)
    close = {"rtol": 0, "atol": 1e-4}
    for batch_size in (1, 4):
        options = {"images": images, "batch_size": batch_size}
        torch.testing.assert_close(model.encode(**options), normalize(features_BD, dim=-1), **close)
        torch.testing.assert_close(model.encode(**options, normalize=False), features_BD, **close)
        cut = model.encode(**options, truncate_dim=10)
        torch.testing.assert_close(cut, normalize(features_BD[:, :10], dim=-1), **close)
    assert model.encode(images=images[0]).shape == (32,)
    assert model.encode(images=images, precision="binary").shape == (6, 4)
    assert model.encode(texts=[]).shape == model.encode(images=[]).shape == (0, 32)
    with pytest.raises(ValueError, match=r"path must be one of .*, but is 'middle'"):
        model.encode(texts=["a"], path="middle")
    with pytest.raises(ValueError, match="path must be left out for images, but is 'box'"):
        model.encode(images=images, path="box")
    with pytest.raises(ValueError, match="processor must be a BetaSiglip2Processor, but is a str"):
        model.encode(texts=["a"], processor="a/directory")
