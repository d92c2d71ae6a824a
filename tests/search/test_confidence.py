"""A search may answer that nothing matches: the confidence of an image, and where it comes from."""

import json

import numpy as np
import pytest
import torch

from beta_clip_cli.main import main
from beta_clip_hf.search.calibration import NEAREST, Calibration, NullText, calibrate, null_texts
from beta_clip_hf.search.gallery import format_hits
from beta_clip_hf.search.index import PhotoIndex
from beta_clip_hf.search.null_texts import TEXTS_WITHOUT_MATCH
from beta_clip_hf.search.query import Query


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def embeddings():
    generator = np.random.default_rng(0)
    return unit(generator.normal(size=(40, 8)).astype(np.float32)), unit(
        generator.normal(size=(5, 8)).astype(np.float32)
    )


def test_the_calibration_is_that_of_plain_loops(embeddings):
    images, texts = embeddings
    captions = [f"caption {number % 20}" for number in range(39)] + [None]
    nulls = [NullText("far away", None), *(NullText(f"caption {n} and more", f"caption {n}") for n in range(4))]
    batches = [(captions[:7], images[:7]), (captions[7:], images[7:])]
    found = calibrate(nulls, texts, batches)
    mean = images.mean(0)
    for number, (null, text) in enumerate(zip(nulls, texts, strict=True)):
        others = [image @ text for image, caption in zip(images, captions, strict=True) if caption != null.caption]
        if null.caption is None:
            others = [image @ text for image in images]
        assert found.lifts[number] == pytest.approx(max(others) - mean @ text, abs=1e-6)
    assert found.words == [2, 4, 4, 4, 4] and found.num_images == 40
    assert np.allclose(found.mean_D, mean, atol=1e-6)
    assert calibrate(nulls, texts, []) is None
    # A collection of one caption leaves its own null texts without any image.
    alone = calibrate([NullText("a", "a"), NullText("b c", None)], texts[:2], [(["a"] * 40, images)])
    assert alone.words == [2] and len(alone.lifts) == 1


def test_confidence_is_the_share_of_null_texts_of_about_the_length_that_score_less():
    short, long = np.linspace(0, 1, NEAREST), np.linspace(2, 3, NEAREST)
    words, lifts = [2] * NEAREST + [40] * NEAREST, [*short, *long]
    calibration = Calibration(9, words, lifts, [False] * len(words), np.zeros(4))
    assert calibration.confidence(-1, 2) == 0 and calibration.confidence(9, 2) == pytest.approx(NEAREST / (NEAREST + 1))
    assert calibration.confidence(0.5, 3) == pytest.approx(0.5, abs=0.02)
    assert calibration.confidence(1.5, 3) > 0.98 and calibration.confidence(1.5, 30) == 0
    assert calibration.confidence(0.5, 0) == calibration.confidence(0.5, 1)
    # Texts of the collection that are as long as the query are a test of their own, which must be passed as well.
    with_captions = Calibration(9, words, lifts, [False] * NEAREST + [True] * NEAREST, np.zeros(4))
    assert with_captions.confidence(1.5, 30) == 0 and with_captions.confidence(2.5, 30) == pytest.approx(0.5, abs=0.02)
    assert with_captions.confidence(1.5, 3) > 0.98 and with_captions.confidence(9, 30) == pytest.approx(
        NEAREST / (NEAREST + 1)
    )
    assert not calibration.is_outdated(9) and calibration.is_outdated(8) and calibration.is_outdated(11)


def test_null_texts_are_captions_sentences_and_texts_from_elsewhere():
    captions = [f"A thing of number {number}. It is round." for number in range(500)] * 2
    texts = null_texts(captions)
    with_caption = [text for text in texts if text.caption]
    assert len(with_caption) == 300 and len({text.text for text in with_caption}) == 300
    assert all(text.text in (text.caption, text.caption.partition(" It")[0]) for text in with_caption)
    assert [text.text for text in null_texts([])] == list(TEXTS_WITHOUT_MATCH)
    assert len(set(TEXTS_WITHOUT_MATCH)) >= 100


@pytest.mark.slow
def test_a_text_without_a_match_has_the_confidence_of_its_rank_among_null_texts(index):
    """On real embeddings: of the texts of the calibration, a twentieth reaches a confidence of 0.95."""
    hits = [index.search(text, top=1)[0] for text in TEXTS_WITHOUT_MATCH]
    confidences = np.array([hit.confidence for hit in hits])
    assert ((confidences >= 0) & (confidences < 1)).all()
    for level in (0.5, 0.8, 0.95):
        assert np.mean(confidences >= level) == pytest.approx(1 - level, abs=0.12)
    first, *others = index.search("a red wall", top=6)
    assert all(first.confidence >= hit.confidence for hit in others)


@pytest.mark.slow
def test_nothing_matches_if_no_image_is_as_sure_as_asked(index, tmp_path, checkpoint, capsys):
    best = index.search("a red wall", top=1)[0].confidence
    assert index.search("a red wall", min_confidence=max(best, 0.01))[:1] if best >= 0.01 else True
    assert index.search("a red wall", min_confidence=0.999) == []
    words = ["search", index.table.path, "a red wall", "--device", "cpu", "--model", str(checkpoint)]
    assert main([*words, "--min-confidence", "0.999"]) == 0
    assert capsys.readouterr().out == "nothing matches: no image has a confidence of 0.999\n"
    assert main([*words, "--json", "--top", "2"]) == 0
    assert [hit["confidence"] for hit in json.loads(capsys.readouterr().out)] == [
        hit.confidence for hit in index.search("a red wall", top=2)
    ]
    table = format_hits(index.search("a red wall", top=3))
    assert "confidence" in table.splitlines()[0] and f"{best:.2f}" in table
    for wrong in (-0.1, 1, 1.5):
        with pytest.raises(ValueError, match="min_confidence must be at least 0 and less than 1"):
            index.search("a red wall", min_confidence=wrong)


@pytest.mark.slow
def test_what_has_no_confidence(index, photos):
    query = Query("a wall", images=[(str(photos / "0.png"), 1.0)])
    assert {hit.confidence for hit in index.search(query)} == {None}
    with pytest.raises(ValueError, match="its query has images"):
        index.search(query, min_confidence=0.5)
    # An index of an earlier version has no calibration, until it is brought up to date.
    index.table._database.drop_table("calibration")
    assert index.search("a wall")[0].confidence is None and "–" in format_hits(index.search("a wall"))
    with pytest.raises(ValueError, match="not calibrated: index again"):
        index.search("a wall", min_confidence=0.5)
    index.add(photos)
    assert index.search("a wall")[0].confidence is not None


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"precision": "int8"}, {"truncate_dim": 16}])
def test_smaller_embeddings_have_a_confidence_too(tmp_path, embedder, photos, options, index):
    smaller = PhotoIndex.create(tmp_path / "smaller", embedder, **options)
    smaller.add(photos)
    found = {hit.image: hit.confidence for hit in smaller.search("a red wall")}
    if "precision" in options:
        whole = {hit.image: hit.confidence for hit in index.search("a red wall")}
        assert found == {key: pytest.approx(value, abs=0.1) for key, value in whole.items()}
    assert len(found) == 6 and smaller.table.read_calibration().mean_D.shape == (smaller.table.embedding_size,)


@pytest.mark.slow
def test_only_a_collection_that_has_changed_much_is_measured_again(index, photos, monkeypatch):
    encoded = []
    descriptions = index.embedder.descriptions
    monkeypatch.setattr(
        index.embedder, "descriptions", lambda *args, **options: encoded.append(args) or descriptions(*args, **options)
    )
    index.add(photos)
    assert encoded == []
    (photos / "0.png").unlink()
    index.add(photos)
    assert len(encoded) == 1 and index.table.read_calibration().num_images == 5
    assert torch.is_tensor(descriptions(["a wall"]))
