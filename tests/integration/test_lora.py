"""LoRA by PEFT: training, checkpoints, loading, merging and publishing."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoProcessor

from beta_clip_cli.main import main
from beta_clip_hf import BetaCLIPModel, BetaCLIPProcessor
from beta_clip_hf.inference.models import load_model
from beta_clip_hf.release.hub import build_repository
from beta_clip_hf.training.parameters.lora import LoraSettings
from beta_clip_hf.training.parameters.names import plain_name
from integration.uses import all_uses, assert_equal_uses, flat_batch
from training.tiny_runs import StopAt, TensorRows, new_trainer


pytestmark = pytest.mark.slow

BLOCKS = {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"}
WHOLE = ("pooler.", "visual_projection.", "text_projection.", "long_text_projection.")
POSITIONS = ("text_model.embeddings.position_embedding.", "text_model.embeddings.long_position_embedding.")


@pytest.fixture
def peft():
    return pytest.importorskip("peft", reason="peft is not installed")


@pytest.fixture
def base(tiny_clip_dir):
    """A plain CLIP: the pooler, the scales and the long path of its β-CLIP are new."""
    return tiny_clip_dir


def load(base):
    torch.manual_seed(1)
    return BetaCLIPModel.from_pretrained(base, use_long_text_path=True, use_regions=True)


def trainer_of(base, folder, **settings):
    settings = {"lora": 4, "max_steps": 3, **settings}
    return new_trainer(None, folder, model=load(base), **settings)


def test_what_is_trained(peft, base, tmp_path):
    trainer = trainer_of(base, tmp_path)
    trained = {plain_name(name) for name, weight in trainer.model.named_parameters() if weight.requires_grad}
    lora = {name for name in trained if "lora_" in name}
    towers = {name.split(".")[0] for name in lora}
    assert towers == {"vision_model", "text_model"}
    assert {name.split(".lora_")[0].split(".")[-1] for name in lora} == BLOCKS
    scales = {name for name in trained if name.endswith("logit_scale")}
    assert scales == {"logit_scale", "pooler.logit_scale", "region_logit_scale", "hard_negative_logit_scale"}
    assert all(name.startswith((*WHOLE, *POSITIONS)) for name in trained - lora - scales)
    for beginning in (*WHOLE, *POSITIONS):
        assert any(name.startswith(beginning) for name in trained)
    # Adapters begin at zero: the model computes what it computed before.
    with torch.no_grad():
        assert_equal_uses(trainer.model.eval(), all_uses(load(base).eval(), flat_batch()))


@pytest.mark.parametrize(
    "settings",
    [
        {"lora": {"rank": 2, "alpha": 8, "dropout": 0.1, "targets": ["q_proj", "v_proj"], "rslora": True}},
        {"lora": {"dora": True}, "vision_checkpointing": "full", "text_checkpointing": "selective"},
        {"lora": '{"rank": 4}', "contrastive_batch_size": 8, "freeze_text_positions": True},
        {"lora": True, "layer_decay": 0.5, "freeze": ["vision"]},
    ],
)
def test_a_saved_adapter_is_the_trained_model(peft, base, tmp_path, settings):
    trainer = trainer_of(base, tmp_path, eval_rows=TensorRows(4, seed=1), **settings)
    before = load(base).eval()
    trainer.train()
    trainer.save_model()
    assert not (tmp_path / "model.safetensors").exists()
    with torch.no_grad():
        expected = all_uses(trainer.model.eval(), flat_batch())
        assert (expected["plan: text_embeds"] - all_uses(before, flat_batch())["plan: text_embeds"]).abs().max() > 1e-3
    loaded = BetaCLIPModel.from_pretrained(tmp_path)
    assert type(loaded) is BetaCLIPModel and not loaded.training
    assert_equal_uses(loaded, expected, tolerance=2e-5)
    for name in ("logit_scale", "region_logit_scale", "hard_negative_logit_scale"):
        assert torch.equal(loaded.get_parameter(name), trainer.model.get_parameter(f"base_model.model.{name}"))
    assert not torch.equal(loaded.logit_scale, before.logit_scale)
    assert loaded.state_dict().keys() == before.state_dict().keys()
    if settings.get("freeze_text_positions"):
        table = loaded.text_model.embeddings.long_position_embedding.weight
        assert torch.equal(table[:20], before.text_model.embeddings.long_position_embedding.weight[:20])
    # PEFT itself loads it, too.
    stock = peft.PeftModel.from_pretrained(load(base), tmp_path).eval()
    assert_equal_uses(stock, expected, tolerance=2e-5)


def test_a_frozen_tower_gets_no_adapter(peft, base, tmp_path):
    trainer = trainer_of(base, tmp_path, freeze="vision")
    trained = {plain_name(name) for name, weight in trainer.model.named_parameters() if weight.requires_grad}
    assert any(name.startswith("text_model.") and "lora_" in name for name in trained)
    assert not any("vision_model." in name or "visual_projection." in name for name in trained)


def test_groups_scales_and_rates_have_their_plain_names(peft, base, tmp_path):
    trainer = trainer_of(base, tmp_path, layer_decay=0.5)
    trainer.train()
    record = trainer.state.log_history[0]
    assert {"logit_scale", "pooler_logit_scale", "region_logit_scale"} <= record.keys()
    assert not any("base_model" in key or "modules_to_save" in key for key in record)
    assert record["text_block_0_learning_rate"] == pytest.approx(0.25 * record["learning_rate"])
    names = {id(weight): plain_name(name) for name, weight in trainer.model.named_parameters()}
    for group in trainer.optimizer.param_groups:
        for weight in group["params"]:
            assert (group["name"] == "pooler") == names[id(weight)].startswith("pooler.")


def test_a_resumed_run_goes_on_exactly(peft, base, tmp_path):
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "lora": {"rank": 4, "dropout": 0.2}}
    whole = trainer_of(base, tmp_path / "whole", **settings)
    whole.train()
    stopped = trainer_of(base, tmp_path / "stopped", callbacks=[StopAt(2)], **settings)
    stopped.train()
    resumed = trainer_of(base, tmp_path / "stopped", **settings)
    resumed.train(resume_from_checkpoint=True)
    expected = whole.model.state_dict()
    assert resumed.state.global_step == 4
    for name, weight in resumed.model.state_dict().items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=0, msg=lambda text, name=name: name + text)


def test_the_best_checkpoint_is_loaded(peft, base, tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1}
    trainer = trainer_of(base, tmp_path, eval_rows=TensorRows(6, seed=1), load_best_model_at_end=True, **settings)
    trainer.train()
    trainer.save_model()
    best = BetaCLIPModel.from_pretrained(trainer.state.best_model_checkpoint)
    saved = BetaCLIPModel.from_pretrained(tmp_path)
    for name, weight in best.state_dict().items():
        torch.testing.assert_close(weight, saved.state_dict()[name], rtol=0, atol=0)


@pytest.fixture
def adapter(peft, base, tmp_path, tiny_tokenizer):
    """A directory with a trained adapter and its processor."""
    trainer = trainer_of(base, tmp_path / "adapter", max_steps=1)
    trainer.train()
    trainer.save_model()
    BetaCLIPProcessor.from_image_size(tiny_tokenizer, image_size=32).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_export_merged(adapter, tmp_path, capsys):
    merged = tmp_path / "merged"
    assert main(["export", "merged", str(adapter), str(merged), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert "model.safetensors" in report["files"]
    assert not {"adapter_model.safetensors", "adapter_config.json"} & set(report["files"])
    expected = BetaCLIPModel.from_pretrained(adapter).state_dict()
    tensors = load_file(merged / "model.safetensors")
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, expected[name])
    assert BetaCLIPProcessor.from_pretrained(merged).max_length
    assert main(["export", "merged", str(merged), str(tmp_path / "again")]) == 1
    assert "must be the directory of an adapter, but is not: there is nothing to merge" in capsys.readouterr().err


def test_the_recipe(peft, project_dir, base, tiny_tokenizer, tmp_path):
    start = tmp_path / "start"
    load(base).save_pretrained(start)
    BetaCLIPProcessor.from_image_size(tiny_tokenizer, image_size=32).save_pretrained(start)
    words = ["train", "--config", str(project_dir / "examples/configs/lora.yaml"), "--model", str(start)]
    settings = (
        "data.train={scenes: 8, image_size: 48}", "training.use_cpu=true", "training.save_strategy=no",
        "training.disable_tqdm=true",
    )  # fmt: skip
    for setting in settings:
        words += ["--set", setting]
    output = tmp_path / "run"
    assert main([*words, "--steps", "2", "--batch-size", "4", "--output", str(output)]) == 0
    assert (output / "adapter_model.safetensors").exists() and not (output / "model.safetensors").exists()
    settings = json.loads((output / "adapter_config.json").read_text(encoding="utf-8"))
    assert settings["r"] == 16 and settings["lora_alpha"] == 32 and settings["use_rslora"]
    image_embeds = BetaCLIPModel.from_pretrained(output).get_image_features(flat_batch()["pixel_values"]).pooler_output
    assert image_embeds.isfinite().all()
    assert BetaCLIPProcessor.from_pretrained(output).max_length


def test_commands_take_an_adapter(adapter):
    loaded = load_model(str(adapter), torch.device("cpu"))
    assert loaded.has_trained_pooler and type(loaded.model) is BetaCLIPModel
    half = BetaCLIPModel.from_pretrained(adapter, dtype=torch.bfloat16, beta=0.25)
    assert half.dtype == torch.bfloat16 and half.config.beta == 0.25
    assert {weight.dtype for weight in half.parameters()} == {torch.bfloat16}


def test_auto_classes_take_an_adapter(adapter):
    expected = BetaCLIPModel.from_pretrained(adapter)
    loaded = AutoModel.from_pretrained(adapter).eval()
    assert isinstance(loaded, BetaCLIPModel)
    with torch.no_grad():
        assert_equal_uses(loaded, all_uses(expected, flat_batch()), tolerance=2e-5)
    assert type(AutoProcessor.from_pretrained(adapter)) is BetaCLIPProcessor


def test_an_adapter_without_the_pooler_of_its_model_is_refused(peft, base, tmp_path):
    model = BetaCLIPModel.from_pretrained(base)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    wrapped.save_pretrained(tmp_path)
    model.config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"an adapter must hold the pooler that its base model lacks, but .* does not"):
        BetaCLIPModel.from_pretrained(tmp_path)
    pixel_values = flat_batch()["pixel_values"]
    with torch.no_grad():
        expected = wrapped.eval().get_image_features(pixel_values).pooler_output
        found = BetaCLIPModel.from_pretrained(tmp_path, use_pooler=False).get_image_features(pixel_values).pooler_output
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_an_adapter_with_a_broken_weight_is_refused(adapter):
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith("layers.0.mlp.fc1.lora_B.weight"))
    tensors[name][0, 0] = float("nan")
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"must be finite, but .+ has NaN or infinity in .+layers.0.mlp.fc1.weight"):
        BetaCLIPModel.from_pretrained(adapter)


def test_an_adapter_is_not_quantised(adapter):
    with pytest.raises(ValueError, match="quantization_config must be left out for an adapter"):
        BetaCLIPModel.from_pretrained(adapter, quantization_config={"load_in_8bit": True})


def test_an_adapter_of_a_local_base_is_not_pushed(adapter, tmp_path):
    with pytest.raises(ValueError, match=r"the base model of an adapter must be on the Hub, but .+ export merged"):
        build_repository(adapter, tmp_path / "repository", "me/photos")


def test_an_adapter_is_pushed_as_one(adapter, tmp_path):
    path = adapter / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(config | {"base_model_name_or_path": "openai/clip-vit-base-patch16"}), encoding="utf-8")
    repository = tmp_path / "repository"
    build_repository(adapter, repository, "me/photos")
    names = {item.name for item in repository.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "config.json", "README.md"} <= names
    assert "model.safetensors" not in names
    card = (repository / "README.md").read_text(encoding="utf-8")
    assert "library_name: peft" in card and 'BetaCLIPModel.from_pretrained("me/photos")' in card


def test_without_the_package_an_adapter_is_one_sentence(adapter, monkeypatch):
    monkeypatch.setattr("beta_clip_hf.model.adapters_beta_clip.read_adapter", None)
    with pytest.raises(ValueError, match=r"a model must be loaded, but .+ holds an adapter: install beta-clip-hf"):
        BetaCLIPModel.from_pretrained(adapter)


def test_without_peft_the_package_is_named(tiny_clip_dir, tmp_path, monkeypatch):
    monkeypatch.setattr("beta_clip_hf.inference.adapters.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="LoRA adapters need peft: pip install peft"):
        trainer_of(tiny_clip_dir, tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ImportError, match="LoRA adapters need peft: pip install peft"):
        BetaCLIPModel.from_pretrained(tmp_path)


def test_a_model_from_a_configuration_is_an_error(peft, tiny_config, tmp_path):
    with pytest.raises(ValueError, match="lora must start from a saved model"):
        new_trainer(tiny_config, tmp_path, lora=4)


def test_targets_that_are_not_there_are_an_error(peft, base, tmp_path):
    with pytest.raises(ValueError, match=r"lora.targets must name linear layers .+ but \('query',\) names none"):
        trainer_of(base, tmp_path, lora={"targets": ["query"]})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"ranks": 4}, "lora must have the settings rank, alpha, .+ only, but has ranks"),
        ({8: 16, "ranks": 4}, "lora must have the settings rank, alpha, .+ only, but has 8, ranks"),
        ({"rank": 0}, "lora.rank must be an integer of at least 1, but is 0"),
        (0, "lora.rank must be an integer"),
        ({"alpha": -1}, "lora.alpha must be a number above 0"),
        ({"dropout": 1}, "lora.dropout must be a number of at least 0 and below 1"),
        ({"targets": []}, "lora.targets must be a list of names"),
        ({"dora": "yes"}, "lora.dora must be true or false"),
        ("eight", "lora must be a rank or a mapping"),
        (1.5, "lora must be a rank or a mapping"),
    ],
)
def test_impossible_settings_are_an_error(value, message):
    with pytest.raises(ValueError, match=message):
        LoraSettings.from_value(value)
