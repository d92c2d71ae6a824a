import json
import os

import pytest
import torch

from beta_clip_cli import main as cli
from beta_clip_hf.data.rows import load_image
from beta_clip_hf.search.gallery import phrases_to_show, write_gallery
from beta_clip_hf.search.index import PhotoIndex
from beta_clip_hf.search.query import Query
from beta_clip_hf.search.rerank import attention_maps


TEXT = "A red car stands in front of a white house."


@pytest.fixture
def index(tmp_path, embedder, photos):
    index = PhotoIndex.create(tmp_path / "photos.index", embedder)
    index.add(photos)
    return index


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
    assert [hit.image for hit in hits] == [images[place] for place in order]
    assert [hit.score for hit in hits] == pytest.approx(similarity[order, 0].tolist(), abs=1e-5)
    assert [hit.image for hit in index.search(TEXT, top=2, exact=True)] == [hit.image for hit in hits[:2]]


def test_weights_are_of_scores(index, embedder):
    images = list(index.table.known())
    query = Query(TEXT, phrases=[("a dog", 2.0), ("the sea", -0.5)])
    similarity, conditioned = outputs(embedder, [TEXT, "a dog", "the sea"], images)
    weights = torch.tensor([1, 2, -0.5]) / 3.5
    by_image = {hit.image: hit for hit in index.search(query, rerank=6)}
    assert [by_image[image].similarity for image in images] == pytest.approx((similarity @ weights).tolist(), abs=1e-5)
    assert [by_image[image].score for image in images] == pytest.approx((conditioned @ weights).tolist(), abs=1e-5)


def test_an_image_is_most_like_itself(index, photos):
    hits = index.search(Query(images=[(str(photos / "3.png"), 1.0)]), top=1)
    assert hits[0].image == str(photos / "3.png") and hits[0].similarity == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("store_patches", [False, True])
def test_the_best_are_ordered_by_how_the_texts_see_them(tmp_path, embedder, photos, store_patches):
    index = PhotoIndex.create(tmp_path / "index", embedder, store_patches=store_patches)
    index.add(photos)
    plain, hits = index.search(TEXT), index.search(TEXT, rerank=4)
    images = [hit.image for hit in plain[:4]]
    _, conditioned = outputs(embedder, [TEXT], images)
    expected = dict(zip(images, conditioned[:, 0].tolist(), strict=True))
    tolerance = 2e-3 if store_patches else 1e-5  # float16
    assert {hit.image: hit.score for hit in hits[:4]} == pytest.approx(expected, abs=tolerance)
    assert [hit.score for hit in hits[:4]] == sorted([hit.score for hit in hits[:4]], reverse=True)
    assert [hit.image for hit in hits[4:]] == [hit.image for hit in plain[4:]]
    assert all(hit.conditioned is None for hit in hits[4:])
    if store_patches:
        for photo in photos.rglob("*.png"):
            photo.unlink()
        assert [hit.score for hit in index.search(TEXT, rerank=4)] == [hit.score for hit in hits]
        stored = index.table.patches(images)[images[0]][0]
        assert stored.nbytes == 2 * 16 * 32


def test_images_that_are_gone_stay_behind(index, photos, caplog):
    (photos / "0.png").unlink()
    hits = index.search(TEXT, rerank=6)
    assert hits[-1].image == str(photos / "0.png") and hits[-1].conditioned is None
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


def test_the_page_shows_each_phrase_of_the_description(index, tmp_path, photos):
    assert phrases_to_show(Query(TEXT)) == [("A red car", 1.0), ("a white house", 1.0)]
    assert phrases_to_show(Query(TEXT, phrases=[("a dog", 1.0)])) == [("a dog", 1.0)]
    hits = index.search(TEXT, top=2)
    os.unlink(hits[1].image)
    page = write_gallery(tmp_path / "found.html", hits, index, "<b>bold</b>", phrases_to_show(Query(TEXT))).read_text()
    assert page.count("data:image/jpeg") == 1 + 3  # the scale; the image and its two heat maps
    assert "the image can no longer be opened" in page and "<b>bold" not in page


def test_the_commands(tmp_path, checkpoint, photos, capsys):
    (photos / "7.jpg").write_text("no image")
    index, page = str(tmp_path / "photos.index"), tmp_path / "found.html"
    assert cli.main(["index", str(photos), "--out", index, "--model", str(checkpoint), "--device", "cpu"]) == 0
    told = capsys.readouterr().out
    assert f"{index}: 6 images (6 new, 0 changed, 0 updated, 0 deleted, 0 unchanged, 1 unreadable)" in told
    assert told.startswith(f"unreadable: {photos / '7.jpg'}: image must be readable")
    assert cli.main(["index", str(photos), "--out", index, "--json", "--device", "cpu"]) == 0
    assert json.loads(capsys.readouterr().out)["unchanged"] == 6
    words = ["search", index, TEXT, "--phrase", "a dog:-0.5", "--image", str(photos / "1.png"), "--device", "cpu"]
    assert cli.main([*words, "--top", "2", "--rerank", "4", "--json", "--html", str(page)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [hit["rank"] for hit in found] == [1, 2] and found[0]["score"] == found[0]["conditioned"]
    html = page.read_text()
    assert html.count("<figcaption>not: a dog (−0.5)</figcaption>") == 2  # below the heat map of each hit
    assert f"<title>{TEXT}; not: a dog (−0.5); {photos / '1.png'}</title>" in html
    assert cli.main([*words, "--top", "3", "--where", "width < height"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert len(table) == 4 and table[1].split()[2] == str(photos / "1.png")
    assert cli.main([*words, "--where", "width < 0"]) == 0
    assert capsys.readouterr().out == "nothing was found\n"
    for wrong in (["index", str(photos), "--out", str(tmp_path / "new")], ["search", str(tmp_path / "new"), "a"]):
        assert cli.main(wrong) == 1 and "must be" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["absent", "empty", "absent.jsonl", "empty.jsonl"])
def test_a_mistaken_source_leaves_no_index_behind(tmp_path, checkpoint, capsys, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.jsonl").touch()
    index = tmp_path / "photos.index"
    assert cli.main(["index", str(tmp_path / name), "--out", str(index), "--model", str(checkpoint)]) == 1
    assert str(tmp_path / name) in capsys.readouterr().err and not index.exists()
