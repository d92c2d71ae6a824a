"""An index of images whose grids differ: kept patch features, re-ranking, heat maps, and the path of a query."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image

from beta_clip_hf.inference.hierarchical import text_hierarchies
from beta_clip_hf.search.gallery import phrases_to_show, write_gallery
from beta_clip_hf.search.index import PhotoIndex, load_embedder
from beta_clip_hf.search.query import Query, embed_query
from beta_clip_hf.search.rerank import Reranking, attention_maps
from inference.any_grid import SIZES, Alone, embed_alone, loaded, model_folder, noise_images, scores_in_loops


pytestmark = pytest.mark.slow

QUERY = "A red dog on the beach. A dog."


@pytest.fixture(params=["budgets", "one size"])
def folder(request, tmp_path):
    folder = model_folder(tmp_path / "model", request.param)
    (tmp_path / "photos").mkdir()
    for number, image in enumerate(noise_images()):
        image.save(tmp_path / "photos" / f"{number}.png")
    return folder


@pytest.fixture
def embedder(folder):
    return load_embedder(folder, device="cpu", batch_size=4)


def index_of(embedder, tmp_path, name, **options):
    index = PhotoIndex.create(tmp_path / name, embedder, **options)
    index.add(tmp_path / "photos")
    return index


def test_reranked_scores_equal_loops(folder, embedder, tmp_path):
    model, processor = loaded(folder)
    names = {"hierarchical": "attention", "hierarchical_window": "window"}
    kept = index_of(embedder, tmp_path, "kept.index", store_patches=True)
    opened_again = index_of(embedder, tmp_path, "other.index")
    weights = (0.2, 0.3, 0.5)
    for name, place in names.items():
        hierarchies = text_hierarchies([QUERY])
        doubled = copy.deepcopy(model).double()
        expected = scores_in_loops(doubled, processor, noise_images(), hierarchies, weights, place)[:, 0]
        # Half precision is kept.
        for index, tolerance in ((kept, 2e-3), (opened_again, 2e-5)):
            hits = index.search(QUERY, top=10, rerank=Reranking(10, name, weights))
            found = {int(hit.image[-5]): hit.reranked for hit in hits}
            assert sorted(found) == list(range(len(SIZES)))
            for number, score in found.items():
                assert score == pytest.approx(float(expected[number]), abs=tolerance)
        assert expected.std() > 1e-3


def test_patches_are_kept_without_padding_and_move_with_their_photo(folder, embedder, tmp_path):
    index = index_of(embedder, tmp_path, "kept.index", store_patches=True)
    model, processor = loaded(folder)
    (tmp_path / "photos" / "0.png").rename(tmp_path / "photos" / "9.png")
    index.add(tmp_path / "photos")
    keys = [str(tmp_path / "photos" / f"{number or 9}.png") for number in range(len(SIZES))]
    stored = index.table.patches(keys)
    for key, image in zip(keys, noise_images(), strict=True):
        alone = Alone(copy.deepcopy(model).double(), processor, image)
        assert stored[key].grid == alone.grid
        np.testing.assert_allclose(stored[key].features_PD, alone.patches_PD.numpy(), rtol=2e-3, atol=2e-3)
    texts = embedder.texts(["a dog", "the beach"], "phrase")
    maps = attention_maps(keys, texts, index.table, embedder)
    for key in keys:
        assert maps[key].shape == (2, *stored[key].grid)
        torch.testing.assert_close(maps[key].sum(dim=(1, 2)), torch.ones(2))


def test_a_page_shows_a_heat_map_for_each_phrase(embedder, tmp_path):
    pytest.importorskip("matplotlib")
    index = index_of(embedder, tmp_path, "photos.index")
    query = Query(QUERY)
    page = write_gallery(tmp_path / "found.html", index.search(query), index, "found", phrases_to_show(query))
    text = page.read_text()
    num_phrases = len(phrases_to_show(query))
    assert text.count("<img") == 1 + len(SIZES) * (1 + num_phrases)


def test_a_query_takes_the_path_of_its_length(folder, embedder):
    model, processor = loaded(folder)
    paths = {"a red dog": "short", QUERY: "long", "a dog on the beach a dog on the beach": "long"}
    for text, path in paths.items():
        query = embed_query(Query(text, phrases=[("a dog", 2.0)]), embedder)
        torch.testing.assert_close(query.text_embeds_TD[0], embed_alone(model, processor, text, path))
        torch.testing.assert_close(query.text_embeds_TD[1], embed_alone(model, processor, "a dog", "box"))
        others = {"short", "long", "box"} - {path}
        if "long" not in others or len(text.split()) > 7:
            continue
        for other in others:
            assert (query.text_embeds_TD[0] - embed_alone(model, processor, text, other)).abs().max() > 1e-3


def test_an_index_of_a_single_thin_image(folder, embedder, tmp_path):
    (tmp_path / "one").mkdir()
    Image.new("RGB", (500, 2), "red").save(tmp_path / "one" / "thin.png")
    index = PhotoIndex.create(tmp_path / "one.index", embedder, store_patches=True)
    index.add(tmp_path / "one")
    for name in ("conditioned", "hierarchical", "hierarchical_window"):
        (hit,) = index.search("a red dog", rerank=Reranking(5, name))
        assert -1 <= hit.reranked <= 1
