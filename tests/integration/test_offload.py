"""accelerate's offloading, and `device_map`, on a flat batch."""

import pytest
import torch

from beta_clip_hf import BetaCLIPModel
from integration.uses import all_uses, assert_equal_uses, flat_batch, new_model


accelerate = pytest.importorskip("accelerate")


@pytest.fixture
def model(tiny_clip_config):
    return new_model(tiny_clip_config)


@pytest.fixture
def expected(model):
    with torch.no_grad():
        return all_uses(model, flat_batch())


def test_disk_offload(model, expected, tmp_path):
    accelerate.disk_offload(model, tmp_path / "disk", execution_device=torch.device("cpu"))
    assert model.pooler.q_proj.weight.is_meta
    assert_equal_uses(model, expected, 0)


def test_cpu_offload(model, expected):
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    assert model.pooler.q_proj.weight.is_meta
    assert_equal_uses(model, expected, 0)


def test_device_map(model, expected, tmp_path):
    model.save_pretrained(tmp_path / "model")
    device_map = {name: "cpu" for name, _ in model.named_children()}
    device_map |= {"text_model": "disk", "pooler": "disk"}
    scales = [name for name, parameter in model.named_parameters() if "." not in name]
    device_map |= dict.fromkeys(scales, "cpu")
    loaded = BetaCLIPModel.from_pretrained(tmp_path / "model", device_map=device_map, offload_folder=tmp_path / "disk")
    assert loaded.pooler.q_proj.weight.is_meta
    assert_equal_uses(loaded, expected, 0)
