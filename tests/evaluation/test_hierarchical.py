"""Retrieval by sentences and phrases: its numbers are those of the scores, its weights those of the other half."""

import pytest
import torch
from PIL import Image

from beta_clip_hf.evaluation.evaluator import evaluate, measure
from beta_clip_hf.evaluation.hierarchical import WEIGHTS
from beta_clip_hf.evaluation.retrieval import retrieval_probes
from beta_clip_hf.inference.embedder import Embedder
from beta_clip_hf.inference.hierarchical import HIERARCHICAL_PLACES, TextParts, part_scores, text_hierarchies
from beta_clip_hf.inference.reading import read_usable_texts
from evaluation import naive_metrics
from evaluation.colours import ColourModel, ColourProcessor


NOUNS = ("dog", "cat", "boat", "tree", "house", "car", "ball", "bird")


@pytest.fixture
def rows():
    pixels = torch.randint(256, (len(NOUNS), 32, 32, 3), dtype=torch.uint8).numpy()
    rows = []
    for noun, image in zip(NOUNS, pixels, strict=True):
        rows.append({"image": Image.fromarray(image), "caption": f"A {noun} is red. A boy sees the {noun}."})
    return rows


@pytest.mark.parametrize("score", HIERARCHICAL_PLACES)
def test_each_half_is_ranked_by_the_weights_that_serve_the_other(tiny_model, tiny_processor, rows, score):
    result = evaluate(tiny_model, tiny_processor, rows, ks=(1, 3), batch_size=3)
    captions = [row["caption"] for row in rows]
    images = [row["image"] for row in rows]
    embedder = Embedder(tiny_model, tiny_processor)
    parts = part_scores(embedder, images, captions, place=HIERARCHICAL_PLACES[score])

    def recall(weights, direction, half, k):
        total_BT = parts.total(weights)
        scores = total_BT if direction == "image_to_text" else total_BT.T
        relevant = torch.eye(len(rows))[half::2].tolist()
        return naive_metrics.recall_at_k(scores[half::2].tolist(), relevant, k)

    for direction in ("image_to_text", "text_to_image"):
        chosen = result["weights"]["long"][score][direction]
        for name, other in (("even", 1), ("odd", 0)):
            recalls = [recall(weights, direction, other, 1) for weights in WEIGHTS]
            assert tuple(chosen[name]) == WEIGHTS[recalls.index(max(recalls))]
        for k in (1, 3):
            expected = (recall(chosen["even"], direction, 0, k) + recall(chosen["odd"], direction, 1, k)) / 2
            assert result["figures"][f"long/{score}/{direction}/R@{k}"]["value"] == pytest.approx(expected)


@pytest.fixture(autouse=True)
def few_orders(monkeypatch):
    """No two of these scores are tied: the order of the candidates is the only one, and need not be searched for."""
    monkeypatch.setattr(
        naive_metrics, "all_orders", lambda scores: [sorted(range(len(scores)), key=lambda i: -scores[i])]
    )


def test_the_weights_are_tried_in_steps_and_the_caption_alone_comes_first():
    assert WEIGHTS[0] == (1, 0, 0) and len(WEIGHTS) == len(set(WEIGHTS)) == 21
    assert all(sum(weights) == pytest.approx(1) and min(weights) >= 0 for weights in WEIGHTS)


def test_long_captions_have_the_parts_of_their_rows_and_short_ones_are_split(tiny_model, tiny_processor, rows):
    for row in rows:
        row.update(sentences=["its own sentence"], phrases=["its own phrase"], short_caption="A bird and a boat.")
    embedder = Embedder(tiny_model, tiny_processor)
    probes = retrieval_probes(embedder, read_usable_texts(rows)[0])
    texts = {probe.name: set(probe.hierarchical.parts.texts) for probe in probes}
    assert texts["long"] == {"its own sentence", "its own phrase"}
    assert texts["short"] == {"A bird and a boat.", "A bird", "a boat"}


def test_what_is_left_out(tiny_model, tiny_processor, rows):
    def hierarchical_names(**options):
        metrics = measure(Embedder(tiny_model, tiny_processor), rows, ks=(1,), **options).metrics
        return {metric.name.score for metric in metrics if "hierarchical" in metric.name.score}

    assert hierarchical_names() == {"hierarchical", "hierarchical_window"}
    assert hierarchical_names(conditioned=False) == {"hierarchical_window"}
    assert hierarchical_names(hierarchical=False) == set()


def test_a_pooler_that_leaks_the_text_tells_nothing():
    """v_{i|t} = u_t whatever the image: all images have the same score for a sentence."""
    embedder = Embedder(ColourModel(), ColourProcessor())
    parts = TextParts(embedder, text_hierarchies(["red", "green", "blue"]))
    images = [{"image": Image.new("RGB", (32, 32), colour)} for colour in ("red", "green", "blue")]
    (batch,) = embedder.images(images)
    for scores_BT in parts.pair_scores(batch, "attention"):
        assert torch.equal(scores_BT, torch.ones(3, 3))
    for scores_BT in parts.pair_scores(batch, "window"):
        assert scores_BT.argmax(dim=1).tolist() == [0, 1, 2]
