"""LoRA under FSDP2 on two processes: losses, steps, adapters and resumed runs are those of DDP."""

import pytest
import torch
from accelerate import FullyShardedDataParallelPlugin
from safetensors.torch import load_file

from beta_clip_hf import BetaCLIPModel
from ddp_helpers import run_processes
from integration.test_fsdp2_trainer import FSDP, SHARDED, STEPS, assert_equal_weights, train


has_fsdp2 = "fsdp_version" in FullyShardedDataParallelPlugin.__dataclass_fields__
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not has_fsdp2, reason="accelerate is too old for FSDP2")]
pytest.importorskip("peft", reason="peft is not installed")

SCALES = ("logit_scale", "pooler.logit_scale", "region_logit_scale", "hard_negative_logit_scale")


def load(base):
    torch.manual_seed(1)
    return BetaCLIPModel.from_pretrained(base, use_long_text_path=True, use_regions=True)


def in_process(rank, base, folder):
    found = {}
    for name, kind in {"ddp": {}, "fsdp": FSDP}.items():
        output = f"{folder}/{name}"
        settings = {"lora": 4, "save_strategy": "steps", "save_steps": 2, **kind}
        found[name] = train(None, output, model=load(base), **settings)
        resumed_from = f"{output}/checkpoint-2"
        found[f"{name} resumed"] = train(None, output, resumed_from, model=load(base), **settings)
    with pytest.raises(ValueError) as caught:
        train(None, folder, model=load(base), lora=4, **SHARDED)
    found["refusal"] = str(caught.value)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def found_by_rank(tiny_clip_dir, folder):
    return run_processes(in_process, str(tiny_clip_dir), str(folder))


def test_steps_are_those_of_ddp(found_by_rank):
    for found in found_by_rank:
        ddp, fsdp = found["ddp"], found["fsdp"]
        assert (ddp["kind"], fsdp["kind"]) == ("MULTI_CPU", "FSDP")
        assert len(ddp["log"]) == len(fsdp["log"]) == STEPS
        for record, expected in zip(fsdp["log"], ddp["log"], strict=True):
            for name in ("loss", "clip_loss", "beta_cal_loss", "region_loss", "grad_norm", "logit_scale"):
                assert record[name] == pytest.approx(expected[name], rel=1e-5)
        adapters = [name for name, gradient in ddp["gradients"].items() if "lora_B" in name and gradient.any()]
        assert len(adapters) == 24
        assert_equal_weights(fsdp["weights"], ddp["weights"])
        assert fsdp["after"] == ddp["after"]


def test_a_resumed_run_goes_on_as_it_would_have(found_by_rank):
    for found in found_by_rank:
        assert_equal_weights(found["fsdp resumed"]["weights"], found["fsdp"]["weights"], 1e-7)


def test_saved_adapters_are_whole_and_those_of_ddp(found_by_rank, folder, tiny_clip_dir):
    for place in ("", "checkpoint-2", "checkpoint-4"):
        assert not (folder / "fsdp" / place / "model.safetensors").exists()
        expected = load_file(folder / "ddp" / place / "adapter_model.safetensors")
        assert_equal_weights(load_file(folder / "fsdp" / place / "adapter_model.safetensors"), expected)
    merged, expected = (BetaCLIPModel.from_pretrained(folder / name) for name in ("fsdp", "ddp"))
    assert_equal_weights(merged.state_dict(), expected.state_dict())
    untrained = load(tiny_clip_dir)
    trained_layer = "vision_model.encoder.layers.0.mlp.fc1.weight"
    assert not torch.equal(merged.get_parameter(trained_layer), untrained.get_parameter(trained_layer))
    for name in SCALES[:3]:
        assert merged.get_parameter(name).shape == ()
        assert merged.get_parameter(name) != untrained.get_parameter(name)


def test_sharded_checkpoints_are_refused(found_by_rank):
    for found in found_by_rank:
        assert "fsdp_state_dict_type must be FULL_STATE_DICT with lora, but is SHARDED_STATE_DICT" in found["refusal"]
