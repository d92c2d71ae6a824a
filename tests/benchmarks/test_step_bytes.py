"""The memory of a training step: exact bytes of a small model, counted without computing it."""

import importlib

import pytest
import torch


TINY = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
CONFIG = {"projection_dim": 32, "text_config": TINY, "vision_config": {**TINY, "image_size": 32, "patch_size": 8}}

# Kept and peak. A change of these numbers is a change of what a training step takes.
EXPECTED = {
    ("float32", "package"): (27_560_788, 31_912_808),
    ("float32", "half blocks off"): (35_532_244, 39_884_264),
    ("float32", "text full, vision selective"): (14_576_852, 26_288_272),
    ("float32", "reference"): (17_320_060, 158_071_156),
    ("bfloat16", "package"): (18_539_348, 22_891_688),
    ("bfloat16", "half blocks off"): (24_717_780, 29_072_680),
    ("bfloat16", "text full, vision selective"): (11_379_924, 17_352_208),
    ("bfloat16", "reference"): (16_495_996, 155_588_468),
}


@pytest.fixture
def step_bytes(project_dir, monkeypatch):
    """The module of the benchmark, with a tiny preset."""
    monkeypatch.syspath_prepend(project_dir / "benchmarks")
    module = importlib.import_module("step_bytes")
    monkeypatch.setitem(module.PRESETS, "tiny", {"config": CONFIG})
    return module


def test_a_block_keeps_ten_widths_of_numbers_for_a_token(step_bytes):
    from beta_clip_hf import BetaCLIPConfig, BetaCLIPModel

    model = BetaCLIPModel(BetaCLIPConfig(**CONFIG)).train()
    layer = model.text_model.encoder.layers[0]
    hidden = torch.randn(3, 16, 32, requires_grad=True)
    outputs = []
    kept = {}
    for half_blocks in (True, False):
        model.half_blocks = half_blocks
        with step_bytes.ByteCounter() as counter:
            outputs.append(model.block_runner.run_layer(layer, hidden, None))
            kept[half_blocks] = counter.alive
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=1e-6)
    # Queries, keys and values; what attention gives; the sum after it; the inner layer of the MLP; the output.
    widths = 3 + 1 + 1 + 4 + 1
    # Attention also keeps a number for each token and head.
    assert kept[True] == 4 * 3 * 16 * (widths * 32 + 4)
    # The inner layer twice, both outputs of layer norms with the two numbers of each.
    assert kept[False] == kept[True] + 4 * 3 * 16 * (4 * 32 + 2 * (32 + 2))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable. is deprecated")  # its new name is unknown to 5.17
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_disable. is deprecated")
def test_bytes_of_a_step(step_bytes):
    result = step_bytes.count("tiny", 16)
    found = {}
    for dtype, steps in result["bytes"].items():
        for name in ("package", "half blocks off", "text full, vision selective", "reference"):
            found[dtype, name] = tuple(steps[name].values())
    assert found == EXPECTED
    table = step_bytes.markdown([result])
    assert table.count("B = 16, float32: ") == table.count("B = 16, bfloat16: ") == 7
