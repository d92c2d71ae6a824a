"""`beta-clip train` and its output directory: finished runs, other runs, stops, and how long a run is."""

import json
import os
import shlex
import signal

import pytest

from beta_clip_cli.main import main
from beta_clip_cli.train import resuming_command
from beta_clip_hf.training.saving.locks import LOCK_FILE, RunLock
from beta_clip_hf.training.saving.output_dir import check_free
from beta_clip_hf.training.saving.resumable_trainer import ResumableTrainer


pytestmark = pytest.mark.slow

TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
MODEL = {
    "tokenizer": {"vocab_size": 600},
    "from_scratch": {
        "projection_dim": 16,
        "vision_config": {**TOWER, "image_size": 32, "patch_size": 16},
        "text_config": {**TOWER, "max_position_embeddings": 96},
    },
}
TOKEN = "hf_abcdefghijklmnop"


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    """Two steps of four scenes; the file has a token of the Hub."""
    path = tmp_path_factory.mktemp("config") / "config.json"
    training = {"max_steps": 2, "per_device_train_batch_size": 4, "logging_steps": 1, "use_cpu": True}
    training |= {"disable_tqdm": True, "save_strategy": "no", "hub_token": TOKEN}
    data = {"train": {"scenes": 8, "level": "easy"}, "num_phrases": 4}
    path.write_text(json.dumps({"model": MODEL, "data": data, "training": training}))
    return str(path)


def contents(folder):
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def test_a_finished_run_is_left_alone(config_file, tmp_path, capsys, caplog, monkeypatch):
    words = ["train", "--config", config_file, "--output", str(tmp_path / "run")]
    assert main(words) == 0
    before = contents(tmp_path / "run")
    assert "model.safetensors" in before and not any(TOKEN.encode() in content for content, _ in before.values())
    capsys.readouterr()

    assert main([*words, "--resume", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["run"]["steps"] == 2
    assert "is finished: nothing is done" in caplog.text and contents(tmp_path / "run") == before
    # On another machine, with other versions, it is as finished as here.
    with monkeypatch.context() as patch:
        patch.setattr("beta_clip_hf.training.record.run_identity.__version__", "99.0")
        assert main([*words, "--resume"]) == 0
    assert contents(tmp_path / "run") == before

    for others, sentence in (
        ([], "must hold no finished model"),
        (["--resume", "--steps", "3"], "--allow-changed training.max_steps"),
        (["--resume", "--steps", "3", "--allow-changed", "training"], "must have a checkpoint to go on from"),
        (["--resume", "--overwrite"], "must not be given together"),
        (["--allow-changed", "steps"], "must be a setting or a section"),
        (["--steps", "3", "--epochs", "1"], "must not be given together"),
        (["--epochs", "-1"], "--epochs must be at least 0"),
    ):
        assert main([*words, *others]) == 1
        assert sentence in capsys.readouterr().err
        assert contents(tmp_path / "run") == before

    with RunLock(tmp_path / "run"):
        assert main([*words, "--overwrite"]) == 1
    assert f"one run at a time, but process {os.getpid()} on" in capsys.readouterr().err
    assert contents(tmp_path / "run") == before

    assert main([*words, "--overwrite", "--steps", "1"]) == 0
    assert json.loads((tmp_path / "run" / "train_results.json").read_text())["run"]["steps"] == 1


def test_a_finished_run_can_be_made_longer_if_that_is_asked_for(config_file, tmp_path):
    words = [
        "train",
        "--config",
        config_file,
        "--output",
        str(tmp_path / "run"),
        "--set",
        "training.save_strategy=steps",
    ]
    words += ["--set", "training.save_steps=1"]
    assert main(words) == 0
    longer = [*words, "--steps", "3", "--resume", "--allow-changed", "training.max_steps"]
    assert main(longer) == 0
    run = json.loads((tmp_path / "run" / "train_results.json").read_text())["run"]
    assert run["steps"] == 3 and [leg["steps"] for leg in run["legs"]] == [2, 1]
    assert [change["key"] for change in run["legs"][1]["changes"]] == ["training.max_steps"]
    assert main(["train", "--config", config_file, "--output", str(tmp_path / "run")]) == 1
    assert main([*words[:-4], "--overwrite"]) == 0
    assert not list((tmp_path / "run").glob("*checkpoint-*"))


def test_a_signal_ends_the_command_with_a_line_that_says_how_to_go_on(config_file, tmp_path, capsys, monkeypatch):
    training_step = ResumableTrainer.training_step

    def step_with_signal(self, *args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        return training_step(self, *args, **kwargs)

    words = ["train", "--config", config_file, "--output", str(tmp_path / "a run"), "--resume"]
    words += ["--set", f"training.hub_token={TOKEN}"]
    with monkeypatch.context() as patch:
        patch.setattr(ResumableTrainer, "training_step", step_with_signal)
        assert main([*words, "--json"]) == 75
    captured = capsys.readouterr()
    assert captured.out == "" and TOKEN not in captured.err
    *_, line = captured.err.strip().splitlines()
    assert (
        line.startswith("beta-clip: stopped by SIGTERM after step 1: saved in") and "checkpoint-1; go on with: " in line
    )
    assert json.loads((tmp_path / "a run" / "train_log.json").read_text())
    assert not (tmp_path / "a run" / LOCK_FILE).exists()
    command = shlex.split(line.partition("go on with: ")[2])
    assert command[:2] == ["beta-clip", "train"] and command[-1] == "--resume"
    assert main(command[1:]) == 0
    assert json.loads(capsys.readouterr().out)["run"]["steps"] == 2


def test_how_long_a_run_is(config_file, tmp_path):
    """Epochs of the command line replace the steps of the file; 0 means none."""
    for words, steps in (
        (["--epochs", "1"], 2),
        (["--epochs", "0.5"], 1),
        (["--steps", "0"], 0),
        (["--epochs", "0"], 0),
    ):
        folder = tmp_path / "-".join(words)
        assert main(["train", "--config", config_file, "--output", str(folder), *words]) == 0
        assert json.loads((folder / "train_results.json").read_text())["run"]["steps"] == steps


def test_the_command_that_goes_on():
    words = ["train", "--resume", "runs/a/checkpoint-3", "--output", "my runs/a", "--overwrite", "--steps", "5"]
    assert resuming_command(words) == "beta-clip train --output 'my runs/a' --steps 5 --resume"
    assert resuming_command(["train", "--resume", "--steps", "5"]) == "beta-clip train --steps 5 --resume"
    token = ["--set", "training.hub_token=hf_abc", "--set", "training.seed=1"]
    assert resuming_command(["train", *token]) == "beta-clip train --set training.seed=1 --resume"
    assert resuming_command(["train", "--resume=x", "--steps", "5"]) == "beta-clip train --steps 5 --resume"


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "model.safetensors.index.json",
        "adapter_model.safetensors",
        "adapter_model.bin",
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
    ],
)
def test_weights_of_any_kind_are_not_overwritten(name, tmp_path):
    check_free(str(tmp_path))
    (tmp_path / name).touch()
    with pytest.raises(ValueError, match=f"must hold no finished model, but .* has {name}"):
        check_free(str(tmp_path))
