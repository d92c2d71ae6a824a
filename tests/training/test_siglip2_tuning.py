"""Freezing, rates of layers, a moving average and adapters on SigLIP 2 towers."""

import json

import pytest
import torch

from beta_clip_cli.main import main
from beta_clip_hf import BetaSiglip2Model, BetaSiglip2Processor
from beta_clip_hf.inference.models import load_model
from beta_clip_hf.release.directories import read_any_model
from beta_clip_hf.training.arguments import BetaCLIPTrainingArguments
from beta_clip_hf.training.parameters.freezing import PARTS, check_something_trains, freeze_parts, parts_to_freeze
from beta_clip_hf.training.parameters.groups import decayed_names, parameter_groups
from beta_clip_hf.training.parameters.names import plain_name
from beta_clip_hf.training.setup.build import build_trainer
from beta_clip_hf.training.setup.config import read_config
from beta_clip_hf.training.setup.recipe import with_recipe
from model.siglip2_batches import flat_batch, tiny_model
from training.siglip2_recipes import SCENES, SMALL, train
from training.tiny_runs import StopAt


FIRST_VISION = ("vision_model.embeddings.", "vision_model.encoder.layers.0.")
FIRST_TEXT = ("text_model.embeddings.", "text_model.encoder.layers.0.")
VISION_HEADS = ("vision_model.head.", "patch_head.")
TEXT_HEADS = ("text_model.head.", "long_text_head.", "box_text_head.")
# The beginnings of the names of frozen parameters.
FROZEN = {
    "vision": ("vision_model.", "patch_head."),
    "text": ("text_model.", "long_text_head.", "box_text_head."),
    "embeddings": ("vision_model.embeddings.", "text_model.embeddings."),
    "vision_embeddings": ("vision_model.embeddings.",),
    "text_embeddings": ("text_model.embeddings.",),
    "projections": (*VISION_HEADS, *TEXT_HEADS),
    "pooler": ("pooler.",),
    "logit_scales": (
        "logit_scale", "logit_bias", "pooler.logit_scale", "region_logit_scale", "hard_negative_logit_scale",
    ),
    "vision_but_last_1": FIRST_VISION,
    "text_but_last_1": FIRST_TEXT,
    "towers_but_last_1": (*FIRST_VISION, *FIRST_TEXT),
    "text_but_last_2": FIRST_TEXT[:1],
}  # fmt: skip
# Powers of the decay in a tower of two blocks; all others keep their rate.
POWERS = {
    "vision_model.embeddings.": 3,
    "vision_model.encoder.layers.0.": 2,
    "vision_model.encoder.layers.1.": 1,
    "text_model.embeddings.": 3,
    "text_model.encoder.layers.0.": 2,
    "text_model.encoder.layers.1.": 1,
}


def config_file(project_dir, recipe):
    return project_dir / f"examples/configs/{recipe}.yaml"


@pytest.mark.parametrize("name", FROZEN)
def test_each_name_freezes_its_parameters(name):
    assert set(PARTS) <= FROZEN.keys()
    model = tiny_model()
    freeze_parts(model, parts_to_freeze(name))
    frozen = {parameter for parameter, weight in model.named_parameters() if not weight.requires_grad}
    assert frozen == {parameter for parameter, _ in model.named_parameters() if parameter.startswith(FROZEN[name])}
    assert frozen


def test_a_bias_alone_is_nothing_to_train():
    model = tiny_model(use_pooler=False)
    freeze_parts(model, ["vision", "text"])
    assert model.logit_bias.requires_grad
    with pytest.raises(ValueError, match=r"something besides logit scales must be left to train, but freeze="):
        check_something_trains(model, ["vision", "text"])


class Wrapper(torch.nn.Module):
    """Puts a word before each name, as DDP does."""

    def __init__(self, model):
        super().__init__()
        self.module = model


@pytest.mark.parametrize("wrap", [lambda model: model, Wrapper, torch.compile], ids=["none", "module", "compile"])
def test_rates_and_weight_decay_of_all_parameters(tmp_path, wrap):
    args = BetaCLIPTrainingArguments(
        str(tmp_path), use_cpu=True, learning_rate=1e-3, pooler_learning_rate=1e-2, layer_decay=0.5, weight_decay=0.3
    )
    model = tiny_model()
    wrapped = wrap(model)
    seen = {}
    for group in parameter_groups(wrapped, args, decayed_names(wrapped)):
        seen |= dict.fromkeys(group["params"], (group["lr"], group["weight_decay"]))
    named = dict(model.named_parameters())
    assert len(seen) == len(named)
    for name, parameter in named.items():
        power = next((power for beginning, power in POWERS.items() if name.startswith(beginning)), 0)
        rate = 1e-2 if name.startswith("pooler.") else 1e-3 * 0.5**power
        assert seen[parameter] == (pytest.approx(rate), 0.3 if parameter.ndim >= 2 else 0.0), name


@pytest.mark.slow
def test_one_line_each_in_a_recipe(project_dir, siglip2, tmp_path):
    """What is frozen stays, rates of layers are logged, the average lies beside the model."""
    settings = (
        "training.freeze=[vision, logit_scales]", "training.layer_decay=0.5", "training.ema_decay=0.5",
        "training.freeze_text_positions=true", "training.max_steps=2", "training.save_strategy=no",
    )  # fmt: skip
    (_, record) = train(config_file(project_dir, "beta_fg2"), siglip2, tmp_path, *settings)
    assert record["text_block_0_learning_rate"] == pytest.approx(0.25 * record["learning_rate"])
    torch.manual_seed(0)
    before = BetaSiglip2Model.from_pretrained(siglip2, use_pooler=True, use_regions=True).state_dict()
    after = BetaSiglip2Model.from_pretrained(tmp_path).state_dict()
    average = BetaSiglip2Model.from_pretrained(tmp_path / "ema").state_dict()
    kept = (*FROZEN["vision"], *FROZEN["logit_scales"])
    for name, tensor in after.items():
        if name.startswith(kept):
            assert torch.equal(tensor, before[name]), name
    table = "text_model.embeddings.long_position_embedding.weight"
    assert torch.equal(after[table][:20], before[table][:20]) and not torch.equal(after[table][20:], before[table][20:])
    for name in ("long_text_head.weight", "box_text_head.weight", "text_model.encoder.layers.1.mlp.fc1.weight"):
        assert not torch.equal(after[name], before[name]), name
        between = (average[name] - before[name]).norm() / (after[name] - before[name]).norm()
        assert 0.3 < between < 0.95, name


@pytest.mark.slow
def test_a_bound_below_the_scale_is_told(project_dir, siglip2, tmp_path, caplog):
    model = BetaSiglip2Model.from_pretrained(siglip2)
    with torch.no_grad():
        model.logit_scale.fill_(4.7625)
    model.save_pretrained(tmp_path / "model")
    BetaSiglip2Processor.from_pretrained(siglip2).save_pretrained(tmp_path / "model")
    steps = ("training.max_steps=1", "training.save_strategy=no")
    recipe = config_file(project_dir, "beta_siglip2")
    train(recipe, tmp_path / "model", tmp_path / "free", *steps)
    assert "logit_scale_max" not in caplog.text
    train(recipe, tmp_path / "model", tmp_path / "bound", *steps, "training.logit_scale_max=100")
    assert "logit_scale is 117, and becomes logit_scale_max=100 with the first step" in caplog.text


@pytest.mark.parametrize("model_type", ["beta_siglip2", "fgclip2", "siglip2", "siglip", "clip"])
def test_the_recipe_for_photos_has_a_pooler_and_no_bound(tmp_path, model_type):
    stored = {"model_type": model_type, "vision_config": {"hidden_size": 32}}
    (tmp_path / "config.json").write_text(json.dumps(stored))
    filled = with_recipe({"model": {"from_pretrained": str(tmp_path)}, "data": {}, "training": {}}, 50)
    is_clip = model_type == "clip"
    # An FG-CLIP calls itself "clip", and has no pooler either.
    assert filled["model"]["config"]["use_pooler"] is True
    assert filled["training"].get("logit_scale_max") == (None if is_clip else 0)
    assert filled["training"]["learning_rate"] == 3e-4


# Adapters


@pytest.fixture
def peft():
    return pytest.importorskip("peft", reason="peft is not installed")


def lora_trainer(project_dir, siglip2, folder, *settings, resume=False):
    settings = (f"data.train={SCENES}", *SMALL, "training.lora=4", f"training.output_dir={folder}", *settings)
    settings = [f"model.from_pretrained={siglip2}", "training.max_steps=4", *settings]
    pairs = [setting.split("=", 1) for setting in settings]
    return build_trainer(read_config(config_file(project_dir, "beta_fg2"), pairs), resume=resume)


@pytest.mark.slow
def test_adapters_and_what_is_trained_whole(peft, project_dir, siglip2, tmp_path):
    model = lora_trainer(project_dir, siglip2, tmp_path, "training.save_strategy=no").model
    trained = {plain_name(name) for name, weight in model.named_parameters() if weight.requires_grad}
    adapters = {name for name in trained if "lora_" in name}
    assert {name.split(".")[0] for name in adapters} == {"vision_model", "text_model"}
    whole = (*VISION_HEADS, *TEXT_HEADS, "pooler.", *FROZEN["logit_scales"])
    whole += tuple(f"text_model.embeddings.{kind}position_embedding." for kind in ("", "long_"))
    assert all(name.startswith(whole) for name in trained - adapters)
    for beginning in whole:
        assert any(name.startswith(beginning) for name in trained), beginning


@pytest.mark.slow
def test_a_saved_adapter_is_the_trained_model(peft, project_dir, siglip2, tmp_path):
    saving = ("training.save_strategy=steps", "training.save_steps=2")
    whole = lora_trainer(project_dir, siglip2, tmp_path / "whole", *saving)
    whole.train()
    whole.save_model()
    batch = flat_batch()
    batch = {name: batch[name] for name in ("pixel_attention_mask", "spatial_shapes")}
    batch["pixel_values"] = torch.randn(3, 18, 192)
    texts = torch.randint(3, 90, (3, 196))
    loaded = BetaSiglip2Model.from_pretrained(tmp_path / "whole")
    assert type(loaded) is BetaSiglip2Model and not loaded.training
    trained = whole.model.eval().base_model.model
    with torch.no_grad():
        for found, expected in (
            (loaded.get_text_features(texts, path="long"), trained.get_text_features(texts, path="long")),
            (loaded.get_image_features(**batch), trained.get_image_features(**batch)),
        ):
            torch.testing.assert_close(found.pooler_output, expected.pooler_output, rtol=1e-5, atol=1e-5)
        found, expected = loaded.get_patch_features(**batch), trained.get_patch_features(**batch)
        torch.testing.assert_close(found.features, expected.features, rtol=1e-5, atol=1e-5)
    for name in ("logit_scale", "logit_bias", "region_logit_scale"):
        assert torch.equal(loaded.get_parameter(name), trained.get_parameter(name)), name
    assert loaded.rank_loss.threshold == trained.rank_loss.threshold > 0
    assert load_model(str(tmp_path / "whole"), torch.device("cpu")).has_trained_pooler
    half = BetaSiglip2Model.from_pretrained(tmp_path / "whole", dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16 and half.logit_scale.dtype == torch.float32

    stopped = lora_trainer(project_dir, siglip2, tmp_path / "stopped", *saving)
    stopped.add_callback(StopAt(2))
    stopped.train()
    resumed = lora_trainer(project_dir, siglip2, tmp_path / "stopped", *saving, resume=True)
    resumed.train(resume_from_checkpoint=True)
    for name, tensor in whole.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], tensor, rtol=0, atol=0, msg=name)

    assert main(["export", "merged", str(tmp_path / "whole"), str(tmp_path / "merged")]) == 0
    merged = read_any_model(tmp_path / "merged").state_dict()
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(merged[name], tensor), name
    assert BetaSiglip2Processor.from_pretrained(tmp_path / "merged").long_max_length == 196
