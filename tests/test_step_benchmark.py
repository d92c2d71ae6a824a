"""The benchmark of the training step: its texts have the paper's lengths, and all its steps are the same step."""

import importlib

import pytest
import torch


pytestmark = pytest.mark.slow


TINY = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
CONFIG = {"projection_dim": 32, "text_config": TINY, "vision_config": {**TINY, "image_size": 32, "patch_size": 8}}


@pytest.fixture
def benchmark(project_dir, monkeypatch):
    """The module of the benchmark, with one preset, tiny, and no process of its own for each step."""
    monkeypatch.syspath_prepend(project_dir / "benchmarks")
    module = importlib.import_module("training_step")
    monkeypatch.setitem(module.PRESETS, "tiny", {"config": CONFIG})
    monkeypatch.setattr(module, "process_bytes", lambda preset, batch_size, name: 1 + len(name))
    monkeypatch.setattr(module, "matmul_rate", lambda device: 1e9)
    return module


def test_texts_have_the_lengths_of_the_papers_data(benchmark):
    step_batch = importlib.import_module("step_batch")
    long_BK, phrases_BK = step_batch.draw_lengths(5000)
    means = torch.stack([long_BK[:, 0].double().mean(), long_BK[:, 1:].double().mean(), phrases_BK.double().mean()])
    torch.testing.assert_close(means, torch.tensor([142, 30, 6.4]).double(), rtol=0.01, atol=0)
    assert phrases_BK.flatten().double().quantile(0.999) == 12 + 2
    for batch_size, padding in ((4, 2.95), (8, 3.1), (64, 3.6)):
        long_BK, phrases_BK = step_batch.draw_lengths(batch_size)
        padded = long_BK.numel() * long_BK.max() + phrases_BK.numel() * phrases_BK.max()
        assert padded / (long_BK.sum() + phrases_BK.sum()) == pytest.approx(padding, rel=0.02)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable. is deprecated")  # its new name is unknown to 5.17
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_disable. is deprecated")
def test_every_step_leaves_the_gradients_of_the_reference(benchmark):
    model = benchmark.build("tiny", "cpu")
    batch = benchmark.make_batch(2, 32, "cpu")
    steps = benchmark.settings(model, batch) | benchmark.parts_off(model, batch)
    steps["micro-batches"] = benchmark.micro_batches(model, batch)

    def gradients(step):
        step(lambda: None)
        return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    expected = gradients(steps.pop(benchmark.REFERENCE))
    for name, step in steps.items():
        found = gradients(step)
        for parameter, gradient in expected.items():
            # A softmax does not see a shift of all keys: the gradient of their bias is rounding.
            size = expected[parameter.replace("k_proj.bias", "k_proj.weight")].abs().max().item()
            assert size > 1e-6, parameter
            assert (found[parameter] - gradient).abs().max() <= 1e-4 * size, (name, parameter)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable. is deprecated")
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_disable. is deprecated")
def test_each_part_saves_work(benchmark, monkeypatch):
    monkeypatch.setattr(benchmark, "tensor_bytes", lambda model, step: (1 << 20, 2 << 20))
    measured = benchmark.measure("tiny", 4, "cpu", rounds=1)
    flops = {name: step["flops"] for name, step in measured["steps"].items()}
    for name in measured["groups"]["parts_off"]:
        if name != "eager attention":  # the same products
            assert flops[name] > flops["package"], name
    assert flops["equal texts once"] < flops["equal texts each time"]
    assert flops["package"] < flops["both selective"] < flops["both full"] < flops["reference"]
    table = benchmark.markdown([measured])
    assert all(f"| tiny: {name} | 4 |" in table for name in measured["steps"])
    assert len({line.count("|") for line in table.splitlines() if line.startswith("|")}) == 2


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable. is deprecated")
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_disable. is deprecated")
def test_each_setting_keeps_less(benchmark):
    model = benchmark.build("tiny", "cpu")
    steps = benchmark.settings(model, benchmark.make_batch(2, 32, "cpu"))
    kept, peak = {}, {}
    for name in ("package", "both selective", "both full"):
        kept[name], peak[name] = benchmark.tensor_bytes(model, steps[name])
        assert 0 < kept[name] < peak[name]
    assert kept["both full"] < kept["both selective"] < kept["package"]
    gradients = sum(parameter.grad.nbytes for parameter in model.parameters())
    assert peak["both full"] > gradients > kept["package"]  # they are made in the step, and counted
    # Of the package all that a backward pass needs is kept, and nothing else is alive at its start.
    saved: dict[int, int] = {}
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def save(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        steps["package"](lambda: None)
    assert sum(saved.values()) == pytest.approx(kept["package"], rel=0.05)
