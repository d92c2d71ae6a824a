"""8 and 4 bits of bitsandbytes, and torchao, on a flat batch on the CPU."""

import pytest
import torch
from transformers import BitsAndBytesConfig, TorchAoConfig

from beta_clip_hf import BetaCLIPModel, BetaSiglip2Model
from integration.uses import all_uses, assert_similar_uses, flat_batch, new_model


@pytest.fixture
def directory(tiny_clip_config, tmp_path):
    new_model(tiny_clip_config).save_pretrained(tmp_path)
    return tmp_path


@pytest.fixture
def expected(directory):
    with torch.no_grad():
        return all_uses(BetaCLIPModel.from_pretrained(directory).eval(), flat_batch())


@pytest.mark.parametrize("flag", ["load_in_8bit", "load_in_4bit"])
@pytest.mark.parametrize("cls", [BetaCLIPModel, BetaSiglip2Model])
def test_flags_of_older_releases_are_answered(directory, cls, flag):
    with pytest.raises(ValueError, match=rf"{flag} must be .* quantization_config=BitsAndBytesConfig\({flag}=True\)"):
        cls.from_pretrained(directory, **{flag: True})


def test_bitsandbytes_8_bit(directory, expected):
    bitsandbytes = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    model = quantized(directory, load_in_8bit=True)
    assert isinstance(model.pooler.q_proj, bitsandbytes.nn.Linear8bitLt)
    assert not model.pooler.q_proj.weight.is_floating_point()
    assert_similar_uses(model, expected, 0.999)


def test_bitsandbytes_4_bit(directory):
    bitsandbytes = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    model = quantized(directory, load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    assert not model.pooler.q_proj.weight.is_floating_point()
    # How much 4 bits lose depends on the weights, and random weights lose much. So the twin has the rounded weights.
    twin = BetaCLIPModel.from_pretrained(directory).eval()
    for name, module in model.named_modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            weight = bitsandbytes.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
            with torch.no_grad():
                twin.get_submodule(name).weight.copy_(weight)
    with torch.no_grad():
        assert_similar_uses(model, all_uses(twin, flat_batch()), 0.999)


def quantized(directory, **options):
    return BetaCLIPModel.from_pretrained(
        directory, quantization_config=BitsAndBytesConfig(**options), device_map={"": "cpu"}
    ).eval()


def test_torchao(directory, expected):
    pytest.importorskip("torchao", reason="torchao is not installed")
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    model = BetaCLIPModel.from_pretrained(directory).eval()
    quantize_(model, Int8WeightOnlyConfig())
    assert type(model.pooler.q_proj.weight) is not torch.nn.Parameter
    assert_similar_uses(model, expected, 0.999)


def test_torchao_by_the_configuration(directory, expected):
    pytest.importorskip("torchao", reason="torchao is not installed")
    from torchao.quantization import Int8WeightOnlyConfig

    model = BetaCLIPModel.from_pretrained(directory, quantization_config=TorchAoConfig(Int8WeightOnlyConfig())).eval()
    assert type(model.pooler.q_proj.weight) is not torch.nn.Parameter
    assert_similar_uses(model, expected, 0.999)
