"""A process alone: it has a device, and its collective methods return what they are given."""

import pytest
import torch

from beta_clip_hf.inference.processes import Processes, launched_processes, own_device


def test_a_process_alone_keeps_its_values():
    processes = Processes()
    assert (processes.count, processes.rank) == (1, 0)
    assert processes.broadcast("value") == "value" and processes.gather("value") == ["value"]


def test_without_a_launcher_nothing_is_joined(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with launched_processes():
        assert not torch.distributed.is_initialized()


def test_the_device_is_cuda_if_there_is_any():
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert own_device().type == own_device(None).type == expected
    assert own_device("cpu") == torch.device("cpu")


def test_each_process_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch, "empty", lambda *_, device: None)
    assert own_device("cuda") == torch.device("cuda:3")
    assert own_device("cuda:1") == torch.device("cuda:1")


@pytest.mark.parametrize("name", ["toaster", "cuda:99"])
def test_a_device_that_is_not_here_is_named(name):
    with pytest.raises(ValueError, match=f"device must be one that torch can use here, as cpu, but is '{name}'"):
        own_device(name)
