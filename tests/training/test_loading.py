"""The type and the quantisation of weights: in `from_pretrained`, and in a configuration."""

import pytest
import torch
from transformers import CLIPModel

from beta_clip_hf import BetaCLIPModel, BetaCLIPProcessor
from beta_clip_hf.training.setup.build import build_trainer
from beta_clip_hf.training.setup.config import read_config
from beta_clip_hf.training.setup.loading import loading_arguments


@pytest.fixture
def start(tiny_clip_dir, tiny_tokenizer, tmp_path):
    """A plain CLIP in half precision, with its processor."""
    CLIPModel.from_pretrained(tiny_clip_dir).half().save_pretrained(tmp_path / "start")
    BetaCLIPProcessor.from_image_size(tiny_tokenizer, image_size=32).save_pretrained(tmp_path / "start")
    return tmp_path / "start"


def trainer_of(start, folder, model, **training):
    values = {"output_dir": str(folder), "use_cpu": True, "max_steps": 2, "per_device_train_batch_size": 4}
    overrides = [("model.from_pretrained", str(start)), ("data.train", {"scenes": 8, "image_size": 48})]
    overrides += [(f"model.{name}", value) for name, value in model.items()]
    overrides += [(f"training.{name}", value) for name, value in (values | training).items()]
    overrides += [("training.disable_tqdm", True), ("training.save_strategy", "no"), ("training.logging_steps", 1)]
    return build_trainer(read_config(None, overrides))


def dtypes(model):
    return {weight.dtype for weight in model.parameters()}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, torch.float32),
        ({"dtype": "auto"}, torch.float16),
        ({"dtype": "bfloat16"}, torch.bfloat16),
        ({"torch_dtype": "float64"}, torch.float64),
    ],
)
def test_the_type_of_weights(start, tmp_path, settings, expected):
    assert dtypes(trainer_of(start, tmp_path / "run", settings).model) == {expected}


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("switches", [{}, {"use_long_text_path": True, "use_regions": True}])
def test_from_pretrained_of_each_kind(start, tmp_path, name, switches):
    ours = tmp_path / "ours"
    BetaCLIPModel.from_pretrained(start, dtype=torch.float32, **switches).save_pretrained(ours)
    for source, changes in ((start, switches), (ours, {})):
        model = BetaCLIPModel.from_pretrained(source, **{name: torch.bfloat16}, **changes)
        assert dtypes(model) == {torch.bfloat16}
        assert model.get_image_features(torch.randn(1, 3, 32, 32).bfloat16()).pooler_output.dtype == torch.bfloat16


@pytest.mark.slow
@pytest.mark.parametrize("switch", ["load_in_8bit", "load_in_4bit"])
def test_a_quantised_base_is_trained_by_lora(start, tmp_path, switch):
    bitsandbytes = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    pytest.importorskip("peft", reason="peft is not installed")
    settings = {"quantization_config": {switch: True}}
    trainer = trainer_of(start, tmp_path / "run", settings, lora=4, freeze="vision_but_last_1", learning_rate=1e-2)
    layers = {name for name, module in trainer.model.named_modules() if isinstance(module, bitsandbytes.nn.Linear4bit)}
    layers |= {
        name for name, module in trainer.model.named_modules() if isinstance(module, bitsandbytes.nn.Linear8bitLt)
    }
    assert any("text_model" in name for name in layers) and not any("pooler" in name for name in layers)
    adapted = {name for name, weight in trainer.model.named_parameters() if "lora_" in name and weight.requires_grad}
    assert any("vision_model.encoder.layers.1." in name for name in adapted)
    assert not any("vision_model.encoder.layers.0." in name for name in adapted)
    before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()
    moved = {name for name, weight in trainer.model.named_parameters() if not torch.equal(weight, before[name])}
    assert adapted & moved and any("pooler.modules_to_save" in name for name in moved)
    trainer.save_model()
    merged = BetaCLIPModel.from_pretrained(tmp_path / "run", dtype=torch.float32)
    pixel_values = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        features = merged.get_image_features(pixel_values).pooler_output
        trained = trainer.model.eval().get_image_features(pixel_values).pooler_output.float()
    assert torch.cosine_similarity(features, trained).mean() > (0.98 if switch == "load_in_8bit" else 0.9)


def test_a_quantised_base_without_lora_is_an_error(start, tmp_path):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    with pytest.raises(ValueError, match="quantised weights must be trained with lora"):
        trainer_of(start, tmp_path / "run", {"quantization_config": {"load_in_8bit": True}})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dtype": "float32", "torch_dtype": "float16"}, "one of model.dtype and model.torch_dtype"),
        ({"dtype": "half"}, "model.dtype must be 'auto' or one of"),
        ({"quantization_config": "8bit"}, "model.quantization_config must be a mapping"),
    ],
)
def test_impossible_settings_are_an_error(settings, message):
    with pytest.raises(ValueError, match=message):
        loading_arguments(settings)


def test_a_model_from_scratch_is_not_loaded(tmp_path):
    config = read_config(None, [("model.from_scratch", {"projection_dim": 32}), ("model.dtype", "bfloat16")])
    config["model"]["tokenizer"] = {"vocab_size": 514}
    config["data"] = {"train": {"scenes": 4, "image_size": 48}}
    config["training"] = {"output_dir": str(tmp_path), "use_cpu": True}
    with pytest.raises(ValueError, match=r"model.dtype must be left out for a model from scratch"):
        build_trainer(config)
