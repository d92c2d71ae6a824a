"""The benchmark for GPUs runs on a CPU too: each section gives its numbers, and a fault stays local."""

import importlib
import json
import sys
import time

import pytest


pytestmark = pytest.mark.slow


TINY = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
CONFIG = {"projection_dim": 32, "text_config": TINY, "vision_config": {**TINY, "image_size": 32, "patch_size": 8}}


@pytest.fixture
def gpu(project_dir, monkeypatch):
    """The program, with a tiny model in the place of the small one."""
    monkeypatch.syspath_prepend(project_dir / "benchmarks")
    module = importlib.import_module("gpu")
    training_step = importlib.import_module("training_step")
    monkeypatch.setitem(training_step.PRESETS, "quick", {"config": CONFIG})
    return module


@pytest.fixture
def run(gpu, monkeypatch, tmp_path):
    """Runs the program. Returns its exit code and what it wrote."""

    def run_program(*words):
        command = ["gpu.py", "--smoke", "--device", "cpu", "--output", str(tmp_path), *words]
        monkeypatch.setattr(sys, "argv", command)
        code = gpu.main()
        return code, json.loads((tmp_path / "gpu.json").read_text())

    return run_program


def test_every_section_gives_its_numbers(gpu, run, capsys):
    # The others start processes or compile.
    names = [name for name in gpu.SECTIONS if name not in ("arms", "compiled")]
    code, results = run("--only", *names)
    assert code == 0, results
    assert list(results) == [*names, "seconds"]
    for kind, tolerance in (("float32", 1e-6), ("bfloat16", 0.1)):
        parity = results["parity"][kind]
        assert parity["relative_error_of_gradients"] <= tolerance
        assert parity["loss"] == pytest.approx(parity["loss_on_cpu"], rel=tolerance)
    step = results["step_sizes"]["2"]
    assert step["images_per_second"] == pytest.approx(2000 / step["median"], rel=0.01)
    assert step["times_as_fast"] == pytest.approx(step["reference"]["median"] / step["median"], abs=0.01)
    assert step["min"] <= step["median"] <= step["max"]
    # A CPU has done the work when the call returns.
    assert step["host"] == pytest.approx(step["median"], rel=0.05)
    kernels = results["kernels"]
    assert sum(count for count, _ in kernels["groups"].values()) == kernels["kernels"] > 100
    assert kernels["groups"]["matrix products"][0] > 50
    assert results["switches"]["plain"]["time_ratio"] == 1
    assert results["losses"].keys() >= {"288 ce dense", "288 bce 2048"}
    assert all(number > 0 for number in results["encoding"].values())
    assert set(results["loader"]) == {"0 workers", "1 workers"} and min(results["loader"].values()) > 0
    assert "× reference" in capsys.readouterr().out


def test_a_section_that_fails_leaves_the_others_alone(gpu, run, monkeypatch):
    def fail(bench):
        raise RuntimeError("out of luck")

    monkeypatch.setitem(gpu.SECTIONS, "parity", fail)
    code, results = run("--only", "parity", "waits")
    assert code == 1 and set(gpu.SECONDS) == set(gpu.SECTIONS)
    assert "out of luck" in results["parity"]["error"]
    assert results["waits"].startswith("not checked")


def test_a_section_that_hangs_keeps_what_it_has_measured(gpu, run, monkeypatch):
    def hang(bench):
        result = bench.open_result()
        result["first"] = 1
        while True:
            # As Dynamo does: all errors of a compiler become its own.
            try:
                time.sleep(30)
            except Exception as error:
                result["wrapped"] = str(error)

    monkeypatch.setitem(gpu.SECTIONS, "parity", hang)
    monkeypatch.setitem(gpu.SECONDS, "parity", 0.2)
    code, results = run("--only", "parity", "waits")
    assert code == 0
    assert results["parity"] == {"first": 1, "out of time": True}
    assert results["waits"].startswith("not checked")
    assert results["seconds"]["parity"] < 10


def test_a_section_without_time_is_named(run):
    code, results = run("--only", "pairs", "--seconds", "0")
    assert code == 0
    assert results["machine"] == results["pairs"] == "no time left"
