"""Models on SigLIP 2 towers behind the embedder: text paths, images by their own budget, evaluate, search."""

import json

import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

from beta_clip_hf import BetaSiglip2Model, BetaSiglip2Processor
from beta_clip_hf.inference.embedder import Embedder
from beta_clip_hf.inference.models import load_model
from evaluation.suite_helpers import command, tasks_of
from model.fg_clip2_cases import word_tokenizer
from model.siglip2_batches import tiny_model


CPU = torch.device("cpu")
SIZES = [(60, 40), (40, 60), (130, 90), (30, 30)]
TEXTS = ["A red dog", "a DOG on the beach", "a dog"]


@pytest.fixture
def folder(tmp_path):
    """A model with a pooler whose images take as many patches as they need."""
    model = tiny_model()
    processor = BetaSiglip2Processor.from_patch_size(
        word_tokenizer(), patch_size=4, dynamic_max_patches=True, max_length=8, long_max_length=20
    )
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def embedder(folder):
    loaded = load_model(str(folder), CPU)
    assert type(loaded.model) is BetaSiglip2Model and loaded.has_trained_pooler
    return Embedder(loaded.model, loaded.processor, batch_size=3)


@pytest.fixture
def photos(tmp_path):
    """Four images of four shapes, with captions and boxes, in the layout of the task."""
    rows = []
    for number, size in enumerate(SIZES):
        image = Image.new("RGB", size, ("red", "green", "blue", "yellow")[number])
        image.paste("orange", (0, 0, 8 + 4 * number, 20))
        image.save(tmp_path / f"{number}.png")
        phrases = [{"text": "a red dog", "boxes": [[10, 10, 10, 15]], "kind": "human"}]
        rows.append({"image": f"{number}.png", "captions": ["A dog.", f"A red {number}."], "phrases": phrases})
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def images_of(photos):
    return [Image.open(photos / f"{number}.png") for number in range(4)]


def test_texts_take_their_path_in_lower_case(embedder):
    model, processor = embedder.model, embedder.processor
    paths = {"short_caption": "short", "sentence": "short", "caption": "long", "phrase": "box", "region_text": "box"}
    for kind, path in paths.items():
        with torch.no_grad():
            inputs = processor(text=[text.lower() for text in TEXTS], path=path)
            expected = normalize(model.get_text_features(**inputs, path=path).pooler_output, dim=-1)
        torch.testing.assert_close(embedder.texts(TEXTS, kind), expected)
    model.config.caption_text_path = "short"
    torch.testing.assert_close(embedder.texts(TEXTS, "caption"), embedder.texts(TEXTS))


@pytest.mark.parametrize("dynamic", [True, False])
def test_encode(folder, photos, dynamic):
    processor = BetaSiglip2Processor.from_pretrained(folder, dynamic_max_patches=dynamic)
    processor.save_pretrained(folder)
    model = BetaSiglip2Model.from_pretrained(folder)
    for path in (None, "short", "long", "box"):
        with torch.no_grad():
            features = model.get_text_features(**processor(text=TEXTS, path=path), path=path).pooler_output
        torch.testing.assert_close(model.encode(texts=TEXTS, path=path), normalize(features, dim=-1))
    images = images_of(photos)
    embeds = model.encode(images=images, batch_size=3)
    for image, embeds_D in zip(images, embeds, strict=True):
        # An image alone has its own budget of patches.
        with torch.no_grad():
            features = model.get_image_features(**processor(images=[image])).pooler_output
        torch.testing.assert_close(embeds_D, normalize(features, dim=-1)[0], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"path must be one of .*, but is 'middle'"):
        model.encode(texts=TEXTS, path="middle")
    with pytest.raises(ValueError, match="processor must be a BetaSiglip2Processor, but is a str"):
        model.encode(texts=TEXTS, processor="a/directory")


def test_an_image_does_not_depend_on_its_batch(embedder, photos):
    model, processor = embedder.model, embedder.processor
    rows = [{"image": image} for image in images_of(photos)]
    batches = list(embedder.images(rows))
    assert [len(batch.rows) for batch in batches] == [3, 1]
    embeds = torch.cat([batch.image_embeds_BD for batch in batches])
    texts = embedder.texts(TEXTS)
    scores = torch.cat([embedder.pair_scores(batch, texts) for batch in batches])
    box = [0.1, 0.2, 0.7, 0.6]
    regions = [embedder.view_embeds(batch, [box] * len(batch.rows), torch.arange(len(batch.rows))) for batch in batches]
    for number, image in enumerate(images_of(photos)):
        alone = processor(images=[image])
        assert int(alone["spatial_shapes"].prod()) <= (256, 256, 784, 128)[number]
        with torch.no_grad():
            expected = normalize(model.get_image_features(**alone).pooler_output, dim=-1)[0]
            region = normalize(model.get_region_features(boxes=torch.tensor([box]), **alone), dim=-1)[0]
            pairs = model.score_pairs(model.get_patch_features(**alone), texts)[0]
        torch.testing.assert_close(embeds[number], expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(torch.cat(regions)[number], region, rtol=0, atol=1e-5)
        torch.testing.assert_close(scores[number], pairs, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_evaluate_measures_it(folder, photos, tmp_path):
    output = tmp_path / "output"
    words = ("--model", folder, "--data", photos, "--output", output, "--device", "cpu", "--tasks", "photos,scenes")
    assert command(*words, "--limit", 4) == 0
    tasks = tasks_of(output)
    assert tasks["photos"]["counts"]["images"] == 4
    figures = tasks["photos"]["figures"]
    assert {"short/cls/text_to_image/R@1", "short/all_pairs/image_to_text/R@1"} <= set(figures)
    assert {"hard_negatives/conditioned/accuracy", "region_negatives/region/accuracy"} <= set(
        tasks["scenes"]["figures"]
    )


@pytest.mark.slow
def test_photos_are_found_and_ranked_again(folder, photos, tmp_path):
    pytest.importorskip("lancedb")
    from beta_clip_hf.search.index import PhotoIndex, load_embedder
    from beta_clip_hf.search.rerank import Reranking

    embedder = load_embedder(folder, device="cpu", batch_size=3)
    index = PhotoIndex.create(tmp_path / "photos.index", embedder)
    index.add(photos)
    rows = [{"image": str(photos / f"{number}.png")} for number in range(4)]
    batches = list(embedder.images(rows))
    text = embedder.texts(["a red dog"])
    similarity = torch.cat([batch.image_embeds_BD for batch in batches]) @ text[0]
    hits = index.search("a red dog")
    assert [hit.image for hit in hits] == [
        rows[place]["image"] for place in similarity.argsort(descending=True).tolist()
    ]
    conditioned = torch.cat([embedder.pair_scores(batch, text) for batch in batches])[:, 0]
    again = index.search("a red dog", rerank=Reranking(4, "conditioned"))
    order = conditioned.argsort(descending=True).tolist()
    assert [hit.image for hit in again] == [rows[place]["image"] for place in order]
