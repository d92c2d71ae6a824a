"""Pictures of images whose grids differ: `show`, the demo, and the gallery of a training."""

import json
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from beta_clip_cli.main import main
from beta_clip_hf import BetaSiglip2Config, BetaSiglip2Model
from beta_clip_hf.release.convert_fg_clip2 import convert_fg_clip2_back
from beta_clip_hf.training.callbacks.gallery import GALLERY_DIR, AttentionGallery
from inference.any_grid import SIZES, loaded, model_folder, noise_images
from model.fg_clip2_cases import word_tokenizer
from model.siglip2_batches import TEXT, TOWER


pytest.importorskip("matplotlib")

pytestmark = pytest.mark.slow

SHOWN_TEXT = "A red dog on the beach. A dog."


@pytest.fixture(params=["budgets", "one size"])
def folder(request, tmp_path, monkeypatch):
    folder = model_folder(tmp_path / "model", request.param)
    for number, image in enumerate(noise_images()):
        image.save(tmp_path / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    return folder


def test_show_draws_any_shape(folder, capsys):
    # A wide image, a row of patches, and a column.
    for number, suffix in ((0, ".html"), (2, ".png"), (3, ".png")):
        width, height = SIZES[number]
        words = [
            "--model",
            "model",
            "--image",
            f"{number}.png",
            "--text",
            SHOWN_TEXT,
            "--box",
            f"0,0,{width},{height / 2}",
        ]
        assert main(["show", *words, "--output", f"seen{number}{suffix}", "--device", "cpu", "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        assert all(-1 <= text["conditioned"] <= 1 for text in report["texts"])
        assert {score["score"] for score in report["hierarchical"]} == {"hierarchical", "hierarchical_window"}
    with Image.open("seen3.png") as picture:
        assert picture.format == "PNG" and picture.width > 500


def test_the_demo_explores_and_compares(folder, tmp_path):
    pytest.importorskip("lancedb")
    from beta_clip_hf.demo import views
    from beta_clip_hf.demo.collection import open_collection

    with open_collection(model=str(folder), photos=str(tmp_path), device="cpu") as collection:
        embedder = collection.index.embedder
        for number, image in enumerate(noise_images()[1:4]):
            seen = views.explore(embedder.model, embedder.processor, image, SHOWN_TEXT)
            assert seen.heat_map(0).size == seen.view().size
            compared = views.compare(embedder.model, embedder.processor, image, "a red dog", f"the beach {number}")
            assert len(compared.scores()) == 2
        found = views.find(collection.index, SHOWN_TEXT, 3, rerank=True)
        assert len(views.thumbnails(collection.index, found)) == 3
        assert found.hits[0].reranked is not None


def test_the_gallery_of_a_training_has_a_picture_for_each_row(folder, tmp_path):
    model, processor = loaded(folder)
    rows = [{"image": image, "caption": SHOWN_TEXT} for image in noise_images()]
    trainer = SimpleNamespace(
        model=model.train(),
        processing_class=processor,
        is_fsdp_enabled=False,
        is_deepspeed_enabled=False,
        eval_dataset=rows,
        callback_handler=SimpleNamespace(callbacks=[]),
    )
    args = SimpleNamespace(output_dir=str(tmp_path), attention_gallery=3)
    state = SimpleNamespace(is_world_process_zero=True, global_step=7)
    AttentionGallery(trainer).on_evaluate(args, state, None)
    pictures = sorted((tmp_path / GALLERY_DIR / "step-7").glob("*.png"))
    assert len(pictures) == 3 and model.training


def test_both_captions_of_a_comparison_take_one_path(folder):
    from beta_clip_hf.demo import views

    model, processor = loaded(folder)
    image = noise_images()[0]
    short, long = "a dog", "A dog. The beach."
    with torch.no_grad():
        scores = views.compare(model, processor, image, short, long).scores()["whole image (CLS)"]
        turned = views.compare(model, processor, image, long, short).scores()["whole image (CLS)"]
    assert (scores.first, scores.second) == pytest.approx((turned.second, turned.first), abs=1e-6)
    beside_short = views.compare(model, processor, image, short, "the beach").scores()["whole image (CLS)"]
    assert abs(beside_short.first - scores.first) > 1e-3


def test_fg_clip_2_as_released_scores_regions_and_has_no_heat_maps(tmp_path, monkeypatch, capsys):
    """Its directory has neither a pooler nor scales of regions."""
    # Its layout has no other numbers of positions.
    text = {**TEXT, "max_position_embeddings": 64}
    vision = {**TOWER, "patch_size": 4, "num_patches": 64}
    model = BetaSiglip2Model(BetaSiglip2Config(text_config=text, vision_config=vision))
    model.save_pretrained(tmp_path / "ours")
    convert_fg_clip2_back(tmp_path / "ours", tmp_path / "theirs")
    word_tokenizer().save_pretrained(tmp_path / "theirs")
    noise_images()[0].save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    words = ["show", "--model", "theirs", "--image", "photo.png", "--text", "a red dog", "--device", "cpu"]
    assert main([*words, "--box", "0,0,30,20", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["pictures"] == ["photo-seen.png"] and report["texts"][0]["conditioned"] is None
    assert main(words) == 1
    assert "must have a trained pooler" in capsys.readouterr().err
