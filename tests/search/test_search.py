"""Searches: order, weights, re-ranking, filters, and mistaken queries."""

import pytest
import torch

from beta_clip_hf.data.images import load_image
from beta_clip_hf.inference.hierarchical import HIERARCHICAL_PLACES, hierarchical_scores
from beta_clip_hf.search.index import PhotoIndex, load_embedder
from beta_clip_hf.search.query import Query
from beta_clip_hf.search.rerank import DEFAULT_SCORE, SCORES, Reranking, attention_maps


pytestmark = pytest.mark.slow


TEXT = "A red car stands in front of a white house."


def outputs(embedder, texts, images):
    """The model's own embeddings and text-conditioned scores of every image with every text, one at a time."""
    model, processor = embedder.model, embedder.processor
    similarity, conditioned = torch.zeros(len(images), len(texts)), torch.zeros(len(images), len(texts))
    with torch.no_grad():
        for i, image in enumerate(images):
            for t, text in enumerate(texts):
                inputs = processor(images=load_image(image), text=[text], padding=True, return_tensors="pt")
                out = model(**inputs)
                seen = model.get_text_conditioned_image_features(**inputs)
                similarity[i, t] = out.image_embeds[0] @ out.text_embeds[0]
                conditioned[i, t] = seen[0] @ out.text_embeds[0]
    return similarity, conditioned


def test_all_images_in_the_order_of_their_scores(index, embedder):
    images = list(index.table.known())
    similarity, _ = outputs(embedder, [TEXT], images)
    hits = index.search(TEXT)
    order = similarity[:, 0].argsort(descending=True).tolist()
    assert [hit.image for hit in hits] == [images[position] for position in order]
    assert [hit.score for hit in hits] == pytest.approx(similarity[order, 0].tolist(), abs=1e-5)
    assert [hit.image for hit in index.search(TEXT, top=2, exact=True)] == [hit.image for hit in hits[:2]]


def test_weights_are_of_scores(index, embedder):
    images = list(index.table.known())
    query = Query(TEXT, phrases=[("a dog", 2.0), ("the sea", -0.5)])
    similarity, conditioned = outputs(embedder, [TEXT, "a dog", "the sea"], images)
    weights = torch.tensor([1, 2, -0.5]) / 3.5
    by_image = {hit.image: hit for hit in index.search(query, rerank=Reranking(6, "conditioned"))}
    assert [by_image[image].similarity for image in images] == pytest.approx((similarity @ weights).tolist(), abs=1e-5)
    assert [by_image[image].score for image in images] == pytest.approx((conditioned @ weights).tolist(), abs=1e-5)


def test_an_image_is_most_like_itself(index, photos):
    hits = index.search(Query(images=[(str(photos / "3.png"), 1.0)]), top=1)
    assert hits[0].image == str(photos / "3.png") and hits[0].similarity == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("store_patches", [False, True])
def test_the_best_are_ordered_by_how_the_texts_see_them(tmp_path, embedder, photos, store_patches):
    index = PhotoIndex.create(tmp_path / "index", embedder, store_patches=store_patches)
    index.add(photos)
    reranking = Reranking(4, "conditioned")
    plain, hits = index.search(TEXT), index.search(TEXT, rerank=reranking)
    images = [hit.image for hit in plain[:4]]
    _, conditioned = outputs(embedder, [TEXT], images)
    expected = dict(zip(images, conditioned[:, 0].tolist(), strict=True))
    tolerance = 2e-3 if store_patches else 1e-5  # float16
    assert {hit.image: hit.score for hit in hits[:4]} == pytest.approx(expected, abs=tolerance)
    assert [hit.score for hit in hits[:4]] == sorted([hit.score for hit in hits[:4]], reverse=True)
    assert [hit.image for hit in hits[4:]] == [hit.image for hit in plain[4:]]
    assert all(hit.reranked is None for hit in hits[4:])
    if store_patches:
        for photo in photos.rglob("*.png"):
            photo.unlink()
        assert [hit.score for hit in index.search(TEXT, rerank=reranking)] == [hit.score for hit in hits]
        stored = index.table.patches(images)[images[0]].features_PD
        assert stored.nbytes == 2 * 16 * 32


def test_images_that_are_gone_stay_behind(index, photos, caplog):
    (photos / "0.png").unlink()
    hits = index.search(TEXT, rerank=6)
    assert hits[-1].image == str(photos / "0.png") and hits[-1].reranked is None
    assert "1 of 6 images could not be opened again" in caplog.text


def test_filters(index):
    wide = index.search(TEXT, where="width > height")
    assert len(wide) == 3 and all(hit.columns["width"] == 60 for hit in wide)
    assert [hit.image for hit in index.search(TEXT, where="image LIKE '%below%'")] == [
        image for image in index.table.known() if "below" in image
    ]
    for wrong in ("nothing > 3", "width >", "width > 'wide"):
        with pytest.raises(ValueError, match="where must be a condition in SQL over image, caption, width"):
            index.search(TEXT, where=wrong)


def test_what_cannot_be_asked(index, tiny_clip_dir):
    for wrong, message in (
        (lambda: Query(), "must have a text, a phrase or an image"),
        (lambda: Query("  "), "must not be blank"),
        (lambda: Query(phrases=[("half a pair \ud83d", 1.0)]), r"UTF-8 can hold, but is 'half a pair \\ud83d'"),
        (lambda: Query("a", phrases=[("b", 0.0)]), "must be a number other than 0"),
        (lambda: index.search(Query(phrases=[("a", 1.0), ("a", -1.0)])), "must not cancel out"),
        (lambda: index.search("a", top=0), "top must be at least 1"),
        (lambda: index.search(Query(images=[(TEXT, 1.0)])), "must be readable"),
        (lambda: index.search(Query(images=[(index.search("a")[0].image, 1.0)]), rerank=2), "query without texts"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong()


def test_heat_maps_are_the_attention_of_the_model(index, embedder):
    images, texts = list(index.table.known())[:3], ["a car", "a house"]
    maps = attention_maps(images, embedder.texts(texts), index.table, embedder)
    for image in images:
        inputs = embedder.processor(images=load_image(image), text=texts, padding=True, return_tensors="pt")
        with torch.no_grad():
            _, attention = embedder.model.get_text_conditioned_image_features(**inputs, output_attentions=True)
        assert torch.allclose(maps[image], attention.mean(dim=1).view(2, 4, 4), atol=1e-5)


@pytest.mark.parametrize("score", ["hierarchical", "hierarchical_window"])
@pytest.mark.parametrize("store_patches", [False, True])
def test_reranking_by_sentences_and_phrases(tmp_path, embedder, photos, score, store_patches):
    index = PhotoIndex.create(tmp_path / "index", embedder, store_patches=store_patches)
    index.add(photos)
    query = Query(f"{TEXT} A dog sleeps.", phrases=[("the sea", -0.5)])
    weights = (0.2, 0.3, 0.5)
    hits = index.search(query, rerank=Reranking(4, score, weights))
    images = [hit.image for hit in hits[:4]]
    texts = [text for text, _ in query.weighted_texts()]
    scores = hierarchical_scores(
        embedder.model, embedder.processor, images, texts, weights=weights, place=HIERARCHICAL_PLACES[score]
    )
    expected = scores @ torch.tensor([1, -0.5]) / 1.5
    tolerance = 2e-3 if store_patches else 1e-5  # float16
    assert [hit.reranked for hit in hits[:4]] == pytest.approx(expected.tolist(), abs=tolerance)
    assert [hit.reranked for hit in hits[:4]] == sorted((hit.reranked for hit in hits[:4]), reverse=True)
    assert all(hit.reranked is None for hit in hits[4:])
    assert {hit.image for hit in hits[:4]} == {hit.image for hit in index.search(query)[:4]}


def test_the_score_of_reranking(index, tiny_clip_dir):
    assert Reranking(3).score == DEFAULT_SCORE == "hierarchical" and DEFAULT_SCORE in SCORES
    by_default = [hit.reranked for hit in index.search(TEXT, rerank=3)]
    assert by_default == [hit.reranked for hit in index.search(TEXT, rerank=Reranking(3, DEFAULT_SCORE))]
    for wrong, message in (
        (lambda: Reranking(-1), "rerank must be at least 0, but is -1"),
        (lambda: Reranking(1, "cls"), "rerank_score must be one of"),
        (lambda: Reranking(1, "hierarchical", (1, 1, 1)), "weights must be three numbers"),
        (lambda: Reranking(1, "conditioned", (1, 0, 0)), "rerank_weights must not be given for the conditioned score"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong()


def test_windows_need_no_pooler(tmp_path, tiny_clip_dir, tiny_processor, photos):
    tiny_processor.save_pretrained(tmp_path / "clip")
    for file in tiny_clip_dir.iterdir():
        (tmp_path / "clip" / file.name).write_bytes(file.read_bytes())
    index = PhotoIndex.create(tmp_path / "index", load_embedder(tmp_path / "clip", device="cpu"))
    index.add(photos)
    hits = index.search(TEXT, rerank=Reranking(6, "hierarchical_window"))
    assert all(hit.reranked is not None for hit in hits)
    for score in ("conditioned", "hierarchical"):
        with pytest.raises(ValueError, match="which has no trained pooler"):
            index.search(TEXT, rerank=Reranking(6, score))
