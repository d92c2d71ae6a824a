"""The results of the demo as HTML."""

import re

import pytest
import torch
from PIL import ImageChops

from beta_clip_hf.demo import markup, views
from beta_clip_hf.demo.views import Scores
from beta_clip_hf.search.query import Hit
from beta_clip_hf.visualize.heat_maps import highest_of, overlay

from .conftest import CAPTION
from .pictures import pictures_of, same


HOSTILE = 'a "red" <img src=x onerror=alert(1)> circle & more'


def test_a_caption_becomes_sentences_and_phrases_to_choose_from(seen):
    choices = markup.text_choices(seen.texts)
    assert [label for label, _ in choices][:2] == [CAPTION, "A red circle is above a blue square."]
    assert [value.partition("-")[0] for _, value in choices][:3] == ["caption", "sentence", "phrase"]
    assert {"A red circle", "a blue square", "The square"} <= {label for label, _ in choices}
    for place, (label, value) in enumerate(choices):
        assert markup.place_of(value) == place and seen.texts[place].text == label
    assert markup.first_choice(seen.texts) == "phrase-2"
    assert markup.first_choice(views.split_texts(["circle"])) == "phrase-0"


@pytest.mark.parametrize("head", [None, 0, 5])
def test_a_text_is_shown_beside_the_image(seen, collection, head):
    plain, heat, _ = pictures_of(markup.text_html(seen, 2, head))
    assert same(heat, seen.heat_map(2, head))
    assert same(plain, views.shown_size(collection.example(0).image))
    assert not same(heat, plain)


def test_texts_are_escaped(seen, model, processor, collection):
    image = collection.example(0).image
    hostile = views.explore(model, processor, image, HOSTILE)
    shown = markup.text_html(hostile, 0)
    compared = markup.comparison_html(views.compare(model, processor, image, HOSTILE, f"{HOSTILE} <b>circles</b>"))
    hit = Hit(next(iter(collection.index.table.known())), 0.5, columns={"caption": HOSTILE})
    found = markup.hit_html(collection.index, views.Found([hit], [HOSTILE]), 0)
    for html in (shown, compared, found):
        assert "<img src=x" not in html and "<b>" not in html
        for tag in re.findall(r"<img[^>]*>", html):
            assert re.fullmatch(r'<img src="data:image/png;base64,[\w+/=]+" alt="[^"<>]+">', tag)


def test_every_picture_says_what_it_shows(seen):
    html = markup.text_html(seen, 2)
    assert 'alt="Where “A red circle” looks"' in html and 'alt="The image as the model sees it"' in html
    assert f"{seen.highest():.3g} times uniform attention" in html
    assert "<span>1.25 × uniform</span>" in markup.scale_html(1.25)
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
    html = markup.comparison_html(compared)
    texts = compared.seen.texts
    assert [text.text for text in texts[:2]] == [first, second] and 0 < compared.num_only_first < len(texts) - 2
    # The last picture is the colour scale.
    heat_maps = pictures_of(html)[:-1]
    assert len(heat_maps) == len(texts) - 2
    for place, heat_map in enumerate(heat_maps, 2):
        assert same(heat_map, compared.seen.heat_map(place))
    assert html.count("✓") == 2 and html.index("Only in caption A") < html.index("Only in caption B")


@pytest.mark.parametrize(
    ("scores", "verdict"),
    [
        ([Scores(0.3, 0.2)], "Caption A fits better."),
        ([Scores(0.1, 0.2), Scores(0.3, 0.4)], "Caption B fits better, by both scores."),
        ([Scores(0.1, 0.1), Scores(0.1, 0.1)], "Both captions fit equally well."),
        (
            [Scores(0.1, 0.1), Scores(0.2, 0.1)],
            "The scores disagree: by CLS neither fits better, text-conditioned caption A.",
        ),
    ],
)
def test_the_verdict_is_that_of_the_scores(scores, verdict):
    assert markup.verdict_of(scores) == verdict


def test_a_hit_is_shown_with_the_heat_map_of_each_phrase(collection, model, processor):
    found = views.find(collection.index, "A red circle and a blue square", top=2, rerank=False)
    whole, first, second, _ = pictures_of(markup.hit_html(collection.index, found, 1))
    place = int(found.hits[1].columns["id"].rpartition("-")[2])
    image = collection.scenes[place]["image"]
    seen = views.explore(model, processor, image, "A red circle and a blue square")
    texts = [text.text for text in seen.texts]
    maps = [seen.look.maps()[texts.index(phrase)] for phrase in found.phrases]
    for shown, heat_YX in ((first, maps[0]), (second, maps[1])):
        expected = overlay(whole, heat_YX, highest_of(*maps))
        # The index keeps patches in float16.
        assert max(high for _, high in ImageChops.difference(shown, expected).getextrema()) <= 8
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
        htmls = (markup.comparison_html(compared), markup.hit_html(plain.index, found, 0), markup.text_html(seen, 0))
        assert all(markup.NO_POOLER in html for html in htmls)
