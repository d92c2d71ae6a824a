"""`accelerate launch` and torchrun with the files of examples/accelerate, as a user would type them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from accelerate import FullyShardedDataParallelPlugin
from safetensors.torch import load_file


has_fsdp2 = "fsdp_version" in FullyShardedDataParallelPlugin.__dataclass_fields__
pytestmark = [pytest.mark.stress, pytest.mark.skipif(not has_fsdp2, reason="accelerate is too old for FSDP2")]

TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
CONFIG = {
    "model": {
        "tokenizer": {"vocab_size": 600},
        "from_scratch": {
            "projection_dim": 32,
            "vision_config": {**TOWER, "image_size": 32, "patch_size": 8},
            "text_config": {**TOWER, "max_position_embeddings": 96},
        },
    },
    "data": {"train": {"scenes": 16, "level": "easy"}, "eval": {"scenes": 7, "level": "easy"}, "num_phrases": 2},
    "training": {
        "max_steps": 3,
        "learning_rate": 1e-3,
        "save_strategy": "steps",
        "save_steps": 2,
        "disable_tqdm": True,
        "report_to": "none",
        "train_sampling_strategy": "sequential",
        # Adam divides a gradient by its size: without this, rounding moves a weight without a gradient by a whole step.
        "adam_epsilon": 1e-4,
    },
}


@pytest.fixture(scope="module")
def launch(project_dir, tmp_path_factory):
    """Trains in processes of a launcher and returns the output directory."""
    folder = tmp_path_factory.mktemp("launch")
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(CONFIG))

    def run(name, *launcher, batch_size=2, more=()):
        output = folder / name
        words = [sys.executable, "-m", *launcher, "-m", "beta_clip_hf", "train", "--config", str(config)]
        words += ["--output", str(output), "--batch-size", str(batch_size), *more]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ACCELERATE_")}
        environment |= {"PYTHONPATH": str(project_dir / "src"), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=500, check=False)
        assert done.returncode == 0, done.stderr
        return output

    return run


def accelerate(project_dir: Path, name: str) -> list[str]:
    return ["accelerate.commands.launch", "--config_file", str(project_dir / "examples/accelerate" / f"{name}.yaml")]


def assert_equal_models(first, second):
    weights, expected = (load_file(folder / "model.safetensors") for folder in (first, second))
    assert weights.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, rtol=0, atol=1e-5)


def test_accelerate_trains_with_fsdp2_as_with_ddp(launch, project_dir):
    replicated = launch("ddp", *accelerate(project_dir, "ddp"))
    sharded = launch("fsdp2", *accelerate(project_dir, "fsdp2"))
    assert (sharded / "checkpoint-2" / "pytorch_model_fsdp.bin").exists()
    assert not (replicated / "checkpoint-2" / "pytorch_model_fsdp.bin").exists()
    for place in ("", "checkpoint-2", "checkpoint-3"):
        assert_equal_models(sharded / place, replicated / place)
    four = launch("four", "torch.distributed.run", "--nproc_per_node", "4", batch_size=1)
    assert_equal_models(four, replicated)


def test_accelerate_trains_with_deepspeed_as_with_ddp(launch, project_dir, tmp_path):
    pytest.importorskip("deepspeed", reason="deepspeed is not installed")
    replicated = launch("ddp_too", *accelerate(project_dir, "ddp"))
    launcher = accelerate(project_dir, "deepspeed_zero2")
    output = launch("deepspeed", *launcher)
    for place in ("", "checkpoint-2", "checkpoint-3"):
        assert_equal_models(output / place, replicated / place)
    assert load_file(output / "model.safetensors")["logit_scale"].shape == ()
    finished = (output / "checkpoint-3").rename(tmp_path / "checkpoint-3")
    (output / "train_results.json").unlink()
    launch("deepspeed", *launcher, more=["--resume"])
    assert_equal_models(output / "checkpoint-3", finished)


def test_torchrun_shards_as_the_arguments_say_and_resumes(launch, tmp_path):
    torchrun = ["torch.distributed.run", "--nproc_per_node", "2"]
    sharding = ("--set", "training.fsdp=true")
    output = launch("sharded", *torchrun, more=sharding)
    finished = (output / "checkpoint-3").rename(tmp_path / "checkpoint-3")
    assert (finished / "optimizer.bin").exists()
    # By these a run is finished.
    (output / "train_results.json").unlink()
    launch("sharded", *torchrun, more=[*sharding, "--resume"])
    assert_equal_models(output / "checkpoint-3", finished)
