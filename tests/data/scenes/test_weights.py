"""The two small models that ship: their files, the dtype that a user gets, and what they have learnt."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModel, AutoProcessor, CLIPModel, CLIPProcessor

from beta_clip_hf import BetaCLIPModel, BetaCLIPProcessor, SceneDataset
from beta_clip_hf.data.scenes import pretrained
from beta_clip_hf.evaluation.evaluator import evaluate
from beta_clip_hf.inference.models import load_model


NAMES = ("clip", "beta_clip")
CPU = torch.device("cpu")


def floating_dtypes(model) -> set[torch.dtype]:
    return {tensor.dtype for tensor in model.state_dict().values() if tensor.is_floating_point()}


@pytest.mark.parametrize("name", NAMES)
def test_the_files_of_a_model(name: str) -> None:
    folder = Path(pretrained(name))
    assert {path.name for path in folder.iterdir()} >= {
        "LICENSE", "README.md", "config.json", "model.safetensors", "processor_config.json", "results.json",
        "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    with safe_open(folder / "model.safetensors", "pt") as file:
        dtypes = {file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118
    assert dtypes == {"F16"}
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float32"
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "license: apache-2.0" in card and f"python benchmarks/shipped_models.py {name}" in card


def test_both_together_are_small() -> None:
    files = [path for path in Path(pretrained("clip")).parent.rglob("*") if path.is_file()]
    assert len(files) >= 12
    assert sum(path.stat().st_size for path in files) <= 8 * 10**6


@pytest.mark.parametrize("name", NAMES)
def test_every_loader_gives_float32(name: str) -> None:
    folder = pretrained(name)
    models = [BetaCLIPModel.from_pretrained(folder), AutoModel.from_pretrained(folder), load_model(folder, CPU).model]
    for model in models:
        assert floating_dtypes(model) == {torch.float32}
        assert model.dtype == torch.float32 and not model.training
    assert load_model(folder, CPU).has_trained_pooler == (name == "beta_clip")


def test_the_plain_clip_is_one_of_transformers() -> None:
    """Loaded by transformers or by us, it is the same model bit for bit; with us it may get a pooler."""
    folder = pretrained("clip")
    rows = [SceneDataset(4, seed=1, level="easy")[place] for place in range(4)]
    processor = BetaCLIPProcessor.from_pretrained(folder)
    assert isinstance(AutoProcessor.from_pretrained(folder), CLIPProcessor)
    words = {"text": [row["caption"] for row in rows], "padding": True, "return_tensors": "pt"}
    inputs = processor(images=[row["image"] for row in rows], **words)
    inputs = {name: inputs[name] for name in ("pixel_values", "input_ids", "attention_mask")}
    clip, ours = CLIPModel.from_pretrained(folder), BetaCLIPModel.from_pretrained(folder, pooler_num_attention_heads=2)
    with torch.no_grad():
        assert torch.equal(clip(**inputs).logits_per_image, ours(**inputs).logits_per_image)
    assert ours.config.text_config.max_position_embeddings == 248
    assert processor.max_length == 248


@pytest.mark.slow
def test_they_have_learnt() -> None:
    """Far from chance and as far from each other as their cards say, on scenes that neither has seen."""
    rows = SceneDataset(60, seed=1, level="easy")
    metrics = {}
    for name in NAMES:
        loaded = load_model(pretrained(name), CPU)
        figures = evaluate(loaded.model, loaded.processor, rows)["figures"]
        metrics[name] = {key: figure["value"] for key, figure in figures.items()}
    assert metrics["clip"]["long/cls/text_to_image/R@5"] > 0.8
    assert metrics["beta_clip"]["long/cls/text_to_image/R@5"] > 0.8
    best_of_clip = max(metrics["clip"][f"region_negatives/{score}/accuracy"] for score in ("cls", "region"))
    assert metrics["beta_clip"]["region_negatives/conditioned/accuracy"] > best_of_clip + 0.2


@pytest.mark.parametrize("name", NAMES)
def test_the_table_of_the_card_is_what_was_measured(name: str) -> None:
    folder = Path(pretrained(name))
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    card = (folder / "README.md").read_text(encoding="utf-8")
    for level in ("easy", "medium"):
        figure = results["levels"][level]["figures"]["long/cls/text_to_image/R@1"]
        ends = f"({100 * figure['low']:.1f} – {100 * figure['high']:.1f})"
        assert f"{100 * figure['value']:.1f} {ends}" in card
