"""A run that is stopped and resumed is one run: its weights, log, results, rows and settings."""

import json
import os
import signal

import pytest
import torch
from transformers import TrainerCallback

from beta_clip_hf.release.run_files import RunFiles
from beta_clip_hf.release.training_lines import training_lines
from beta_clip_hf.training.record.progress import RunProgress
from beta_clip_hf.training.record.run_identity import check_allowed_keys
from beta_clip_hf.training.run import train_and_report
from beta_clip_hf.training.signals import STOPPED, RunStopped, StopSignals
from ddp_helpers import run_processes
from training.tiny_runs import TensorCollator, TensorRows, new_model, new_trainer, weights


pytestmark = pytest.mark.slow


class LossyCollator(TensorCollator):
    """Loses every fifth row, and counts as the real collator does."""

    def __call__(self, rows):
        kept = [row for row in rows if int(row["id"]) % 5]
        self.skipped += len(rows) - len(kept)
        return super().__call__(kept)


class SignalAt(TrainerCallback):
    """Sends a signal to this process after a step."""

    def __init__(self, step, number=signal.SIGTERM):
        self.step, self.number = step, number

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step - 1:
            os.kill(os.getpid(), self.number)


def trainer_of(config, folder, callbacks=(), **settings):
    settings = {"rows": 20, "logging_steps": 4, "eval_rows": TensorRows(5), **settings}
    trainer = new_trainer(config, folder, model=new_model(config), callbacks=callbacks, **settings)
    trainer.data_collator = LossyCollator()
    trainer.eval_data_collator = LossyCollator()
    return trainer


def stopped_run(config, folder, *, step=3, **settings):
    """Runs until a signal comes within a step. Returns what ended it."""
    trainer = trainer_of(config, folder, [SignalAt(step)], **settings)
    with StopSignals() as signals, pytest.raises(RunStopped) as stopped:
        train_and_report(trainer, signals=signals)
    return stopped.value


def records(folder):
    log = json.loads((folder / "train_log.json").read_text())
    return [timeless(record) for record in log if "train_runtime" not in record]


def timeless(record):
    return {key: value for key, value in record.items() if not key.endswith(("runtime", "per_second"))}


def test_a_stopped_run_goes_on_as_if_nothing_had_been(tiny_config, tmp_path):
    """The log record that spans the stop too, and a number of rows that was lost, whatever was read ahead."""
    whole = trainer_of(tiny_config, tmp_path / "whole")
    expected = train_and_report(whole)
    stopped = stopped_run(tiny_config, tmp_path / "cut")
    checkpoint = str(tmp_path / "cut" / "checkpoint-3")
    assert (stopped.code, stopped.can_resume) == (STOPPED, True)
    assert str(stopped) == f"stopped by SIGTERM after step 3: saved in {checkpoint}"
    assert not (tmp_path / "cut" / "train_results.json").exists()

    torch.manual_seed(1234)
    resumed = trainer_of(tiny_config, tmp_path / "cut")
    results = train_and_report(resumed, checkpoint)
    assert all(torch.equal(value, weights(resumed.model)[name]) for name, value in weights(whole.model).items())
    assert records(tmp_path / "cut") == records(tmp_path / "whole")
    assert expected["before"] and results["before"]["eval_t2i_r1"] == expected["before"]["eval_t2i_r1"]
    assert expected["skipped_rows"]["training"] >= 4 and results["skipped_rows"] == expected["skipped_rows"]
    assert results["train"]["train_loss"] == pytest.approx(expected["train"]["train_loss"], rel=1e-6)
    assert expected["train"]["train_loss"] > 0.1

    legs = results["run"]["legs"]
    assert [(leg["first_step"], leg["steps"], leg["images"]) for leg in legs] == [(0, 3, 12), (3, 3, 12)]
    assert results["train"]["train_runtime"] == pytest.approx(sum(leg["seconds"] for leg in legs), abs=0.01)
    assert results["train"]["train_runtime"] > legs[1]["seconds"] > 0
    assert results["run"]["finished"] and results["run"]["steps"] == 6
    (last,) = [record for record in resumed.state.log_history if "train_runtime" in record]
    assert last["train_runtime"] == results["train"]["train_runtime"]


def test_a_run_with_all_its_steps_takes_no_other_when_it_is_resumed(tiny_config, tmp_path):
    """It was killed after its last checkpoint and before its model was saved, within an epoch."""
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 4}
    whole = trainer_of(tiny_config, tmp_path / "run", **settings)
    train_and_report(whole)
    for name in ("model.safetensors", "train_results.json"):
        (tmp_path / "run" / name).unlink()
    resumed = trainer_of(tiny_config, tmp_path / "run", **settings)
    results = train_and_report(resumed, str(tmp_path / "run" / "checkpoint-4"))
    assert all(torch.equal(value, weights(resumed.model)[name]) for name, value in weights(whole.model).items())
    assert (resumed.state.global_step, results["run"]["steps"], results["run"]["finished"]) == (4, 4, True)
    assert (tmp_path / "run" / "model.safetensors").exists()
    assert [record["step"] for record in records(tmp_path / "run")] == [0, 4, 4]


CHANGES = {
    "training.learning_rate": {"learning_rate": 2e-3},
    "training.seed": {"seed": 1},
    "training.max_steps": {"max_steps": 8},
    "training.freeze_text_positions": {"freeze_text_positions": True},
    "training.per_device_train_batch_size": {"per_device_train_batch_size": 2},
    "training.gradient_accumulation_steps": {"gradient_accumulation_steps": 2},
    "data.train.rows": {"rows": 24},
}


@pytest.fixture(scope="module")
def stopped_folder(tiny_clip_config, tmp_path_factory):
    from beta_clip_hf import BetaCLIPConfig

    values = tiny_clip_config.to_dict()
    text = {**values["text_config"], "max_position_embeddings": 248}
    config = BetaCLIPConfig(text_config=text, vision_config=values["vision_config"], projection_dim=32)
    folder = tmp_path_factory.mktemp("stopped") / "run"
    stopped_run(config, folder)
    return config, folder


@pytest.mark.parametrize("key", CHANGES)
def test_what_changes_the_result_must_be_asked_for(stopped_folder, key):
    config, folder = stopped_folder
    content = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    trainer = trainer_of(config, folder, **CHANGES[key])
    with pytest.raises(ValueError, match=rf"{key} \(.* → .*\): .*--allow-changed {key}"):
        trainer.train(resume_from_checkpoint=True)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == content


def test_another_loss_or_version_must_be_asked_for_and_another_speed_not(stopped_folder, monkeypatch):
    config, folder = stopped_folder
    trainer = trainer_of(config, folder)
    trainer.model.config.beta_cal_loss_weight = 0.25
    with pytest.raises(ValueError, match=r"model\.config\.beta_cal_loss_weight \(.* → 0.25\)"):
        trainer.train(resume_from_checkpoint=True)
    monkeypatch.setattr("beta_clip_hf.training.record.run_identity.__version__", "99.0")
    with pytest.raises(ValueError, match=r"versions\.beta_clip_hf"):
        trainer_of(config, folder).train(resume_from_checkpoint=True)
    trainer = trainer_of(config, folder, logging_steps=1, save_steps=2, dataloader_prefetch_factor=None)
    trainer.allowed_changes = ["versions"]
    trainer.begin_leg(str(folder / "checkpoint-3"))
    assert [change.key for change in trainer.progress.changes] == ["versions.beta_clip_hf"]


def test_an_allowed_change_acts_and_is_recorded(tiny_config, tmp_path):
    """A learning rate is also in the state of the optimiser and of the schedule, which must not win."""
    stopped_run(tiny_config, tmp_path)
    trainer = trainer_of(tiny_config, tmp_path, learning_rate=5e-3, max_steps=8)
    trainer.allowed_changes = ["training.learning_rate", "training.max_steps"]
    results = train_and_report(trainer, str(tmp_path / "checkpoint-3"))
    changes = results["run"]["legs"][1]["changes"]
    assert {"key": "training.learning_rate", "before": 1e-3, "after": 5e-3} in changes
    assert results["run"]["steps"] == 8
    rates = {record["step"]: record["learning_rate"] for record in records(tmp_path) if "learning_rate" in record}
    # Half of the way from 5e-3 to 1e-4.
    assert rates[4] > 2.5e-3 and rates[8] < 1e-3


def test_a_card_says_where_a_run_was_resumed():
    legs = [{"first_step": 0}, {"first_step": 3, "changes": [{"key": "training.max_steps"}]}, {"first_step": 5}]
    record = {"steps": 8, "images_per_step": 4, "legs": legs}
    lines = list(training_lines(RunFiles(config={}, training={}, trained={"run": record}, results={})))
    place = lines.index("8 steps of 4 images.")
    assert lines[place + 1 : place + 3] == [
        "Resumed after step 3 with another training.max_steps.",
        "Resumed after step 5.",
    ]


# Of an epoch of 20 rows, 5 batches of 4: accumulation ends with the epoch, and so does a contrast.
@pytest.mark.parametrize(
    ("settings", "images"),
    [
        ({}, 4),
        ({"gradient_accumulation_steps": 2}, round((8 + 8 + 4) / 3, 1)),
        ({"gradient_accumulation_steps": 8}, 20),
        ({"contrastive_batch_size": 8}, round((8 + 8 + 4) / 3, 1)),
        ({"contrastive_batch_size": 20}, 20),
    ],
)
def test_images_of_a_step_are_counted(tiny_config, tmp_path, settings, images):
    trainer = new_trainer(tiny_config, tmp_path, rows=20, model=new_model(tiny_config), **settings)
    trainer.data_collator = TensorCollator()
    results = train_and_report(trainer)
    assert results["run"]["images_per_step"] == images
    lines = list(training_lines(RunFiles(config={}, training={}, trained=results, results={})))
    average = "" if images == int(images) else " on average"
    assert any(line.startswith(f"6 steps of {images} images{average}, ") for line in lines)


def test_images_of_a_step_are_counted_over_legs_of_other_batches(tiny_config, tmp_path):
    stopped_run(tiny_config, tmp_path)
    trainer = trainer_of(tiny_config, tmp_path, per_device_train_batch_size=2)
    trainer.allowed_changes = ["training.per_device_train_batch_size"]
    run = train_and_report(trainer, str(tmp_path / "checkpoint-3"))["run"]
    assert [leg["images"] for leg in run["legs"]] == [12, 6] and run["images_per_step"] == 3


@pytest.mark.parametrize("key", ["seed", "max_steps", "trainning.seed", ""])
def test_keys_that_lie_in_no_section(key):
    with pytest.raises(ValueError, match="must be a setting or a section"):
        check_allowed_keys([key])


def test_a_checkpoint_of_plain_transformers_has_no_record():
    progress = RunProgress.resumed(None, 5, [])
    progress.images = 16
    assert [leg["steps"] for leg in progress.legs(9)] == [5, 4]
    assert progress.add_up({"train_runtime": 3.0}, 9) == {"train_runtime": 3.0}
    assert progress.images_per_step(9) == 4
    assert progress.skipped(9) == {"training": 0, "evaluation": 0}


def test_a_run_without_steps_trains_nothing(tiny_config, tmp_path):
    for settings in ({"max_steps": 0}, {"max_steps": -1, "num_train_epochs": 0}):
        folder = tmp_path / str(len(settings))
        trainer = trainer_of(tiny_config, folder, **settings)
        before = weights(trainer.model)
        results = train_and_report(trainer)
        assert all(torch.equal(value, weights(trainer.model)[name]) for name, value in before.items())
        assert results["run"]["steps"] == 0 and results["run"]["finished"]
        assert results["after"]["eval_t2i_r5"] == results["before"]["eval_t2i_r5"]
        assert (folder / "model.safetensors").is_file()
    for settings in ({"max_steps": -5}, {"num_train_epochs": -1}):
        with pytest.raises(ValueError, match="must be at least 0"):
            trainer_of(tiny_config, tmp_path, **settings)


# Two processes


def in_process(rank, config, folder):
    """Whole; stopped by a signal that one process gets; resumed, where the newest checkpoint is damaged."""
    from pathlib import Path

    settings = {"per_device_train_batch_size": 2, "eval_rows": None, "save_strategy": "steps", "save_steps": 2}
    whole = trainer_of(config, Path(folder) / "whole", **settings)
    whole.train()
    callbacks = [SignalAt(5)] if rank == 1 else []
    cut = trainer_of(config, Path(folder) / "cut", callbacks, **settings)
    with StopSignals() as signals:
        try:
            train_and_report(cut, signals=signals)
            stopped = None
        except RunStopped as error:
            stopped = (error.code, str(error))
    if rank == 0:
        (Path(folder) / "cut" / "checkpoint-5" / "rng_state_1.pth").unlink()
    torch.distributed.barrier()
    resumed = trainer_of(config, Path(folder) / "cut", **settings)
    resumed.train(resume_from_checkpoint=True)
    return {
        "stopped": stopped,
        "first_step": resumed.progress.first_step,
        "equal": all(torch.equal(value, weights(resumed.model)[name]) for name, value in weights(whole.model).items()),
        "images": (whole.progress.images_per_step(6), resumed.progress.images_per_step(6)),
        "skipped": (whole.progress.skipped(6)["training"], resumed.progress.skipped(6)["training"]),
    }


def test_two_processes_stop_together_and_resume_from_the_same_checkpoint(tiny_config, tmp_path):
    for found in run_processes(in_process, tiny_config, str(tmp_path)):
        code, message = found["stopped"]
        assert code == STOPPED and "after step 5" in message and "checkpoint-5" in message
        assert found["first_step"] == 4 and found["equal"]
        assert found["images"] == (4, 4)
        assert found["skipped"][0] == found["skipped"][1] >= 4
