import base64
import io
import re

import pytest
import torch
from PIL import Image, ImageChops

from beta_clip_hf.demo import views
from beta_clip_hf.search.query import Hit
from beta_clip_hf.visualize.heat_maps import highest_of, overlay


CAPTION = "A red circle is above a blue square. The square is large."
HOSTILE = 'a "red" <img src=x onerror=alert(1)> circle & more'


@pytest.fixture(scope="module")
def model(collection):
    return collection.index.embedder.model


@pytest.fixture(scope="module")
def processor(collection):
    return collection.index.embedder.processor


@pytest.fixture(scope="module")
def seen(model, processor, collection):
    return views.explore(model, processor, collection.example(0).image, CAPTION)


def pictures(html):
    """The images of a piece of HTML, decoded."""
    uris = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    return [Image.open(io.BytesIO(base64.b64decode(uri))).convert("RGB") for uri in uris]


def same(first, second):
    return first.size == second.size and ImageChops.difference(first, second).getbbox() is None


def test_a_caption_becomes_sentences_and_phrases_to_choose_from(seen):
    choices = views.text_choices(seen.texts)
    assert [label for label, _ in choices][:2] == [CAPTION, "A red circle is above a blue square."]
    assert [value.partition("-")[0] for _, value in choices][:3] == ["caption", "sentence", "phrase"]
    assert {"A red circle", "a blue square", "The square"} <= {label for label, _ in choices}
    for place, (label, value) in enumerate(choices):
        assert views.place_of(value) == place and seen.texts[place].text == label
    assert views.first_choice(seen.texts) == "phrase-2"
    assert views.first_choice(views.split_texts(["circle"])) == "phrase-0"


@pytest.mark.parametrize("head", [None, 0, 5])
def test_a_heat_map_is_the_attention_of_that_text_and_head(seen, model, processor, collection, head):
    image, place = collection.example(0).image, 2
    maps = []
    with torch.no_grad():
        for one in seen.texts:
            inputs = processor(images=image, text=[one.text], padding=True, return_tensors="pt")
            _, attention_1HP = model.get_text_conditioned_image_features(**inputs, output_attentions=True)
            attention_HYX = attention_1HP[0].unflatten(-1, (4, 4))
            maps.append(attention_HYX.mean(dim=0) if head is None else attention_HYX[head])
    assert torch.allclose(seen.look.maps(head), torch.stack(maps), atol=1e-4)
    shown = seen.look.maps(head)
    assert same(seen.heat_map(place, head), overlay(views.shown_size(image), shown[place], highest_of(*shown)))
    plain, heat, _ = pictures(views.text_html(seen, place, head))
    assert same(heat, seen.heat_map(place, head)) and same(plain, views.shown_size(image))
    assert not same(heat, plain)


def test_heads_and_texts_differ(seen):
    assert not same(seen.heat_map(2, 0), seen.heat_map(2, 1)) and not same(seen.heat_map(2), seen.heat_map(4))


def test_images_are_shown_neither_tiny_nor_huge():
    assert views.shown_size(Image.new("L", (32, 64))).size == (256, 512)
    small = views.shown_size(Image.new("RGB", (2000, 1000)))
    assert small.size == (512, 256) and small.mode == "RGB"


def test_texts_are_escaped(seen, model, processor, collection):
    image = collection.example(0).image
    hostile = views.explore(model, processor, image, HOSTILE)
    shown = views.text_html(hostile, 0)
    compared = views.comparison_html(views.compare(model, processor, image, HOSTILE, f"{HOSTILE} <b>circles</b>"))
    hit = Hit(next(iter(collection.index.table.known())), 0.5, columns={"caption": HOSTILE})
    found = views.hit_html(collection.index, views.Found([hit], [HOSTILE]), 0)
    for html in (shown, compared, found):
        assert "<img src=x" not in html and "<b>" not in html
        for tag in re.findall(r"<img[^>]*>", html):
            assert re.fullmatch(r'<img src="data:image/png;base64,[\w+/=]+" alt="[^"<>]+">', tag)


def test_every_picture_says_what_it_shows(seen):
    html = views.text_html(seen, 2)
    assert 'alt="Where “A red circle” looks"' in html and 'alt="The image as the model sees it"' in html
    assert f"{seen.highest():.3g} times uniform attention" in html
    assert "<span>1.25 × uniform</span>" in views.scale_html(1.25)
    assert f"{float(seen.look.conditioned_T[2]):.3f}" in html and f"{float(seen.look.similarity_T[2]):.3f}" in html


def test_captions_are_compared_by_both_scores(model, processor, collection):
    image, first, second = collection.example(1)
    compared = views.compare(model, processor, image, first, second)
    expected = {}
    with torch.no_grad():
        for text in (first, second):
            inputs = processor(images=image, text=[text], padding=True, return_tensors="pt")
            output = model(**inputs)
            conditioned = model.get_text_conditioned_image_features(**inputs)[0] @ output.text_embeds[0]
            scores = (output.image_embeds[0] @ output.text_embeds[0], conditioned)
            for name, score in zip(compared.scores(), scores, strict=True):
                expected.setdefault(name, []).append(float(score))
    for name, pair in compared.scores().items():
        assert pair == pytest.approx(expected[name], abs=1e-5)
    html = views.comparison_html(compared)
    texts = compared.seen.texts
    assert [one.text for one in texts[:2]] == [first, second] and 0 < compared.of_first < len(texts) - 2
    heat = pictures(html)[:-1]  # the last is the colour scale
    assert len(heat) == len(texts) - 2
    assert all(same(one, compared.seen.heat_map(2 + place)) for place, one in enumerate(heat))
    assert html.count("✓") == 2 and html.index("Only in caption A") < html.index("Only in caption B")


def test_what_differs_between_captions():
    same_phrases = ("A cube is red.", "A cube is blue.")
    assert views.differences("A red cube and a ball.", "a ball and a red cube, a dog")[1] == ["a dog"]
    assert views.differences(*same_phrases) == (["A cube is red."], ["A cube is blue."])
    many = ", ".join(f"a {word} cube" for word in ("red", "blue", "green", "black", "white", "pink"))
    assert len(views.differences(many, "a ball")[0]) == views.MOST_DIFFERENT
    with pytest.raises(ValueError, match="must differ"):
        views.differences("A cube.", " a cube")


def test_the_verdict_is_that_of_the_scores():
    assert views.verdict_of([(0.3, 0.2)]) == "Caption A fits better."
    assert views.verdict_of([(0.1, 0.2), (0.3, 0.4)]) == "Caption B fits better, by both scores."
    assert views.verdict_of([(0.1, 0.1), (0.1, 0.1)]) == "Both captions fit equally well."
    assert views.verdict_of([(0.1, 0.1), (0.2, 0.1)]).endswith(
        "by CLS neither fits better, text-conditioned caption A."
    )


def test_what_is_found_is_shown_in_order(collection):
    text = "A red circle and a blue square"
    found = views.find(collection.index, text, top=3, rerank=False)
    hits = collection.index.search(text, top=3)
    assert found.hits == hits and found.phrases == ["A red circle", "a blue square"]
    shown = views.thumbnails(collection.index, found)
    assert [label.partition(" — ")[0] for _, label in shown] == [f"{n}. {h.score:.3f}" for n, h in enumerate(hits, 1)]
    assert [label.partition(" — ")[2] for _, label in shown] == [hit.columns["caption"] for hit in hits]
    assert views.find(collection.index, text, top=3, rerank=True).hits == collection.index.search(
        text, top=3, rerank=30
    )


def test_a_hit_is_shown_with_the_heat_map_of_each_phrase(collection, model, processor):
    found = views.find(collection.index, "A red circle and a blue square", top=2, rerank=False)
    whole, first, second, _ = pictures(views.hit_html(collection.index, found, 1))
    place = int(found.hits[1].columns["id"].rpartition("-")[2])
    image = collection.scenes[place]["image"]
    seen = views.explore(model, processor, image, "A red circle and a blue square")
    maps = [seen.look.maps()[[one.text for one in seen.texts].index(phrase)] for phrase in found.phrases]
    for shown, heat_YX in ((first, maps[0]), (second, maps[1])):
        expected = overlay(whole, heat_YX, highest_of(*maps))
        assert max(high for _, high in ImageChops.difference(shown, expected).getextrema()) <= 8  # patches in float16
        assert not same(shown, whole)


def test_a_model_without_a_pooler_is_compared_by_cls_alone(checkpoint, processor, collection, tmp_path):
    from beta_clip_hf import BetaCLIPModel
    from beta_clip_hf.demo.collection import open_collection

    BetaCLIPModel.from_pretrained(checkpoint, use_pooler=False).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    with open_collection(model=str(tmp_path), num_scenes=3, device="cpu") as plain:
        image, first, second = plain.example(0)
        compared = views.compare(plain.index.embedder.model, processor, image, first, second)
        assert list(compared.scores()) == ["whole image (CLS)"]
        found = views.find(plain.index, first, top=2, rerank=False)
        seen = views.explore(plain.index.embedder.model, processor, image, first)
        htmls = (views.comparison_html(compared), views.hit_html(plain.index, found, 0), views.text_html(seen, 0))
        assert all(views.NO_POOLER in html for html in htmls)


def test_another_kind_of_model_is_told_in_a_sentence(collection, processor):
    with pytest.raises(ValueError, match="must be a β-CLIP or an FG-CLIP for this, but is a Linear"):
        views.explore(torch.nn.Linear(1, 1), processor, collection.example(0).image, "a cat")
