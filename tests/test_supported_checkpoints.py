"""The README's table of supported checkpoints: each tick is done, on a tiny checkpoint of that kind."""

import io
import json
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoModel, CLIPModel, Siglip2Model

from beta_clip_cli.main import main
from beta_clip_hf import BetaCLIPModel, BetaCLIPProcessor, BetaSiglip2Model, BetaSiglip2Processor
from supported_checkpoints import MAKERS, ON_SIGLIP2, make_checkpoint


PROJECT = Path(__file__).resolve().parent.parent
TRAINING = [
    "data.train={scenes: 4, image_size: 32}", "data.num_phrases=2", "data.num_sentences=1",
    "model.config.use_pooler=true",
    "training.per_device_train_batch_size=2", "training.max_steps=1", "training.use_cpu=true",
    "training.save_strategy=no", "training.disable_tqdm=true", "training.dataloader_num_workers=0",
    "training.gradient_accumulation_steps=1", "training.warmup_steps=0", "training.learning_rate=1e-2",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """Returns a function that makes the checkpoint of a kind, once."""
    root = tmp_path_factory.mktemp("checkpoints")
    folders = {}

    def get(kind):
        if kind not in folders:
            folders[kind] = make_checkpoint(kind, root / str(len(folders)) / "model")
        return folders[kind]

    return get


def classes_of(kind):
    return (BetaSiglip2Model, BetaSiglip2Processor) if kind in ON_SIGLIP2 else (BetaCLIPModel, BetaCLIPProcessor)


def load(kind, folder, work):
    """Every tensor of the checkpoint is used, and a text has an embedding."""
    model_class, processor_class = classes_of(kind)
    model, info = model_class.from_pretrained(folder, output_loading_info=True)
    assert not info["unexpected_keys"]
    texts = processor_class.from_pretrained(folder)(text=["a red disc"], return_tensors="pt")
    with torch.no_grad():
        assert model.get_text_features(**texts).pooler_output.shape == (1, 32)


def fine_tune(kind, folder, work):
    """One step moves the weights, and the result loads."""
    recipe = "beta_siglip2" if kind in ON_SIGLIP2 else "beta_clip_ce"
    words = ["train", "--config", str(PROJECT / f"examples/configs/{recipe}.yaml"), "--model", str(folder)]
    for setting in TRAINING:
        words += ["--set", setting]
    assert main([*words, "--output", str(work / "run")]) == 0
    model_class, _ = classes_of(kind)
    name = "vision_model.post_layernorm.weight"
    tuned, base = model_class.from_pretrained(work / "run"), model_class.from_pretrained(folder)
    assert tuned.pooler is not None and not torch.equal(tuned.get_parameter(name), base.get_parameter(name))


def evaluate(kind, folder, work):
    """Retrieval of generated scenes is measured."""
    words = ["--tasks", "scenes", "--limit", "4", "--device", "cpu", "--output", str(work)]
    assert main(["evaluate", "--model", str(folder), *words]) == 0
    metrics = json.loads((work / "results.json").read_text())["tasks"]["scenes"]["figures"]
    assert 0 <= metrics["long/cls/text_to_image/R@1"]["value"] <= 1


def search(kind, folder, work):
    """Photos are indexed, and found by a text."""
    pytest.importorskip("lancedb")
    (work / "photos").mkdir()
    for color in ("red", "blue"):
        Image.new("RGB", (40, 32), color).save(work / f"photos/{color}.png")
    index = str(work / "index")
    assert main(["index", str(work / "photos"), "--output", index, "--model", str(folder), "--device", "cpu"]) == 0
    output = io.StringIO()
    with redirect_stdout(output):
        assert main(["search", index, "a red photo", "--device", "cpu", "--json"]) == 0
    assert len(json.loads(output.getvalue())) == 2


def export(kind, folder, work):
    """The stock class of transformers loads what is written."""
    form, stock_class = ("siglip2", Siglip2Model) if kind in ON_SIGLIP2 else ("clip", CLIPModel)
    assert main(["export", form, str(folder), str(work / "out")]) == 0
    assert type(AutoModel.from_pretrained(work / "out")) is stock_class


USES = {"load": load, "fine-tune": fine_tune, "evaluate": evaluate, "search": search, "export": export}


@pytest.mark.slow
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("kind", MAKERS)
def test_a_tick_is_true(folder_of, kind, use, tmp_path):
    USES[use](kind, folder_of(kind), tmp_path)


def test_the_table_of_the_readme_is_that_of_the_tests():
    lines = (PROJECT / "README.md").read_text(encoding="utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("|checkpoint|"))
    assert lines[start].strip("|").split("|") == ["checkpoint", *USES]
    rows = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        name, *ticks = line.strip("|").split("|")
        rows[name] = ticks
    assert list(rows) == list(MAKERS)
    assert all(ticks == ["✓"] * len(USES) for ticks in rows.values())
