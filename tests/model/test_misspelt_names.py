"""Names that a configuration, a model or a processor does not know: a slip is an error that names what was meant."""

import json
import logging
from dataclasses import fields

import pytest
from transformers import AutoConfig, AutoModel, AutoProcessor, CLIPConfig, GenerationConfig, Siglip2Config

from beta_clip_hf import (
    BetaCLIPConfig,
    BetaCLIPModel,
    BetaCLIPProcessor,
    BetaSiglip2Config,
    BetaSiglip2Model,
    BetaSiglip2Processor,
)
from model.fg_clip2_cases import word_tokenizer
from model.siglip2_batches import tiny_model as tiny_siglip2


CONFIGS = [BetaCLIPConfig, BetaSiglip2Config]
SLIPS = {
    "betta": "beta",
    "use_poler": "use_pooler",
    "alignement_loss": "alignment_loss",
    "pooler_num_attention_head": "pooler_num_attention_heads",
    "beta_cal_weight": "beta_cal_loss_weight",
    "text_confg": "text_config",
}
# What files of CLIP and SigLIP of any age hold, and tools write.
OTHERS = {
    "_name_or_path": "a/model", "_commit_hash": "0123", "architectures": ["CLIPModel"], "auto_map": {},
    "dtype": "float32", "torch_dtype": "float32", "transformers_version": "4.16.0",
    "text_config_dict": None, "vision_config_dict": None,
    "quantization_config": {}, "_attn_implementation": "eager", "attn_implementation": "eager", "use_cache": True,
    "id2label": {"0": "a"}, "torchscript": False, "use_bfloat16": False, "pruned_heads": {}, "tokenizer_class": None,
    "sep_token_id": None, "tf_legacy_loss": False, "keep_len": 20, "my_own_tag": "x",
}  # fmt: skip


@pytest.fixture
def siglip2_folder(tmp_path):
    tiny_siglip2().save_pretrained(tmp_path / "siglip2")
    processor = BetaSiglip2Processor.from_patch_size(word_tokenizer(), patch_size=4, max_length=8, long_max_length=20)
    processor.save_pretrained(tmp_path / "siglip2")
    return tmp_path / "siglip2"


@pytest.mark.parametrize("name", SLIPS)
@pytest.mark.parametrize("config_class", CONFIGS)
def test_a_slip_in_a_configuration_is_named(config_class, name):
    message = rf"{config_class.__name__} got an unexpected name '{name}': did you mean '{SLIPS[name]}'\?"
    with pytest.raises(TypeError, match=message):
        config_class(**{name: None})
    with pytest.raises(TypeError, match=message):
        config_class.from_dict(config_class().to_dict(), **{name: None})


@pytest.mark.parametrize("config_class", CONFIGS)
def test_a_slip_in_a_file_is_named(config_class, tmp_path):
    config_class().save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(stored | {"betta": 0.3}))
    with pytest.raises(TypeError, match="got an unexpected name 'betta': did you mean 'beta'"):
        AutoConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize("config_class", CONFIGS)
def test_names_of_transformers_pass(config_class, caplog):
    names = {**OTHERS, **dict.fromkeys(GenerationConfig().to_dict())}
    stock = CLIPConfig if config_class is BetaCLIPConfig else Siglip2Config
    names |= {field.name: None for field in fields(stock) if field.name not in config_class.__dataclass_fields__}
    for name, value in names.items():
        config_class(**{name: value})
    assert config_class(my_own_tag="x").my_own_tag == "x"
    assert "has no effect" not in caplog.text


@pytest.mark.parametrize("config_class", CONFIGS)
def test_a_size_of_a_tower_in_the_wrong_place_is_a_warning(config_class, caplog):
    with caplog.at_level(logging.WARNING):
        config_class(max_position_embeddings=77)
    assert f"max_position_embeddings of {config_class.__name__} has no effect: the sizes of towers" in caplog.text


@pytest.mark.parametrize("name", ["projection_dim", "text_path_of_kind"])
def test_what_follows_from_other_fields_cannot_be_set(name):
    message = f"{name} of BetaSiglip2Config must be left out, as it follows from other fields"
    with pytest.raises(TypeError, match=message):
        BetaSiglip2Config(**{name: 8})
    with pytest.raises(TypeError, match=message):
        BetaSiglip2Config.from_dict(BetaSiglip2Config().to_dict(), **{name: 8})


@pytest.mark.parametrize("load", [BetaCLIPModel.from_pretrained, AutoModel.from_pretrained])
@pytest.mark.parametrize("kind", ["ours", "siglip2"])
def test_a_slip_at_loading_is_named(load, kind, checkpoint, siglip2_folder):
    folder = checkpoint if kind == "ours" else siglip2_folder
    if kind == "siglip2" and load == BetaCLIPModel.from_pretrained:
        load = BetaSiglip2Model.from_pretrained
    with pytest.raises(TypeError, match=r"got an unexpected name 'use_poler': did you mean 'use_pooler'\?"):
        load(folder, use_poler=False)
    assert load(folder, beta=0.25).config.beta == 0.25


def test_a_slip_with_a_plain_clip_is_named(tiny_clip_dir):
    with pytest.raises(TypeError, match=r"BetaCLIPModel.from_pretrained got an unexpected name 'use_poler': did you"):
        BetaCLIPModel.from_pretrained(tiny_clip_dir, use_poler=False)


@pytest.mark.parametrize("load", [BetaCLIPProcessor.from_pretrained, AutoProcessor.from_pretrained])
def test_a_slip_of_a_processor_is_named(load, checkpoint, tiny_processor):
    with pytest.raises(TypeError, match=r"unexpected name 'max_lenght': did you mean 'max_length'\?"):
        load(checkpoint, max_lenght=20)
    assert load(checkpoint, max_length=20).max_length == 20
    parts = (tiny_processor.image_processor, tiny_processor.tokenizer)
    with pytest.raises(TypeError, match=r"BetaCLIPProcessor got an unexpected option 'short_maxlength': did you mean"):
        BetaCLIPProcessor(*parts, short_maxlength=20)
    with pytest.raises(TypeError, match="BetaCLIPProcessor got an unexpected option 'foo'"):
        BetaCLIPProcessor(*parts, foo=20)


@pytest.mark.parametrize("load", [BetaSiglip2Processor.from_pretrained, AutoProcessor.from_pretrained])
def test_a_slip_of_a_processor_of_siglip2_is_named(load, siglip2_folder):
    with pytest.raises(TypeError, match=r"unexpected name 'long_maxlength': did you mean 'long_max_length'\?"):
        load(siglip2_folder, long_maxlength=20)
    assert load(siglip2_folder, long_max_length=12).long_max_length == 12


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_length": 1}, "max_length must be an integer of at least 2, but is 1"),
        ({"long_max_length": "64"}, "long_max_length must be an integer of at least 2, but is '64'"),
        ({"text_path_of_kind": ["long", "short"]}, "text_path_of_kind must be 4 of .*, but is"),
        ({"text_path_of_kind": ["long", "short", "boxes", "short"]}, "text_path_of_kind must be 4 of .*, but is"),
    ],
)
def test_impossible_settings_of_a_processor_of_siglip2_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        BetaSiglip2Processor.from_patch_size(word_tokenizer(), **settings)
