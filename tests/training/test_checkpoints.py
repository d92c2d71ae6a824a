"""Checkpoints are whole or absent: damaged ones are named and passed over, and a kill while writing costs nothing."""

import json
import os
import shutil
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from beta_clip_hf import BetaCLIPModel
from beta_clip_hf.training.saving import checkpoints
from beta_clip_hf.training.saving.checkpoints import (
    MANIFEST_FILE,
    find_newest_whole,
    find_problem,
    finish_interrupted,
    list_checkpoints,
    prune,
    publish,
    read_manifest,
    unfinished_path,
)
from training.tiny_runs import new_model, new_trainer, weights


STATE = "trainer_state.json"


@pytest.fixture(scope="module")
def saved_run(tmp_path_factory, tiny_clip_config):
    """A run of 6 steps with the checkpoints 2, 4 and 6."""
    from beta_clip_hf import BetaCLIPConfig

    values = tiny_clip_config.to_dict()
    config = BetaCLIPConfig(text_config=values["text_config"], vision_config=values["vision_config"], projection_dim=32)
    folder = tmp_path_factory.mktemp("saved") / "run"
    trainer = new_trainer(config, folder, save_strategy="steps", save_steps=2)
    trainer.train()
    return config, folder, weights(trainer.model)


@pytest.fixture
def run_copy(saved_run, tmp_path):
    _, folder, _ = saved_run
    return Path(shutil.copytree(folder, tmp_path / "run"))


def edit_json(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def remove(path):
    path.unlink()


def empty(path):
    path.write_bytes(b"")


DAMAGES = [
    *[(name, remove) for name in ("model.safetensors", "optimizer.pt", "scheduler.pt", STATE, "rng_state.pth")],
    *[(name, halve) for name in ("model.safetensors", "optimizer.pt", "config.json", STATE, MANIFEST_FILE)],
    *[(name, flip_a_bit) for name in ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", STATE)],
    *[(name, empty) for name in ("model.safetensors", STATE, "training_args.bin", MANIFEST_FILE)],
    (STATE, lambda path: edit_json(path, global_step=-5)),
    (MANIFEST_FILE, lambda path: edit_json(path, files={})),
    (MANIFEST_FILE, lambda path: path.write_text("[" * 100_000)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "damage"), DAMAGES, ids=lambda value: getattr(value, "__name__", value))
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(run_copy, name, damage):
    damage(run_copy / "checkpoint-6" / name)
    found = find_newest_whole(run_copy)
    assert found.path == run_copy / "checkpoint-4"
    (sentence,) = found.skipped
    assert str(run_copy / "checkpoint-6") in sentence and name in sentence
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        new_model_free_choice(run_copy / "checkpoint-6")


def new_model_free_choice(checkpoint):
    """What `train(resume_from_checkpoint=…)` does before it reads anything."""
    from beta_clip_hf.inference.processes import Processes
    from beta_clip_hf.training.saving.choice import choose_checkpoint

    return choose_checkpoint(Processes(), str(checkpoint.parent), str(checkpoint))


PLAIN_DAMAGES = [
    *[(name, remove) for name in ("model.safetensors", "optimizer.pt", "scheduler.pt", STATE, "rng_state.pth")],
    *[(name, halve) for name in ("model.safetensors", "optimizer.pt", "scheduler.pt", "config.json", STATE)],
    *[(name, empty) for name in ("model.safetensors", "optimizer.pt", STATE)],
    (STATE, lambda path: edit_json(path, global_step=-5)),
    (STATE, lambda path: edit_json(path, global_step=7)),
    (STATE, lambda path: edit_json(path, global_step="6")),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "damage"), PLAIN_DAMAGES, ids=lambda value: getattr(value, "__name__", value))
def test_without_a_manifest_what_is_missing_or_cut_is_found(run_copy, name, damage):
    for checkpoint in run_copy.glob("checkpoint-*"):
        (checkpoint / MANIFEST_FILE).unlink()
    assert find_newest_whole(run_copy).path == run_copy / "checkpoint-6"
    damage(run_copy / "checkpoint-6" / name)
    found = find_newest_whole(run_copy)
    assert found.path == run_copy / "checkpoint-4" and name in found.skipped[0]


@pytest.mark.slow
def test_a_changed_byte_of_an_optimiser_is_found_without_a_manifest(run_copy):
    checkpoint = run_copy / "checkpoint-6"
    (checkpoint / MANIFEST_FILE).unlink()
    path = checkpoint / "optimizer.pt"
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda part: part.file_size)
    content = bytearray(path.read_bytes())
    content[largest.header_offset + 200] ^= 1
    path.write_bytes(content)
    assert str(path) in find_problem(checkpoint)


@pytest.mark.slow
def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(saved_run, run_copy, caplog):
    """Bit for bit, and the damaged ones are set aside."""
    config, _, expected = saved_run
    empty(run_copy / "checkpoint-6" / "optimizer.pt")
    (run_copy / "checkpoint-99999").mkdir()
    resumed = new_trainer(config, run_copy, model=new_model(config, seed=5), save_strategy="steps", save_steps=2)
    resumed.train(resume_from_checkpoint=True)
    found = weights(resumed.model)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert "checkpoint-99999 is skipped" in caplog.text and "optimizer.pt is damaged" in caplog.text
    assert find_problem(run_copy / "checkpoint-6") is None
    assert find_problem(run_copy / "set-aside-checkpoint-6") is not None
    steps = [record["step"] for record in resumed.state.log_history if "loss" in record]
    assert steps == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_without_a_whole_checkpoint_there_is_nothing_to_resume(saved_run, tmp_path):
    config, _, _ = saved_run
    (tmp_path / "checkpoint-3").mkdir()
    with pytest.raises(ValueError, match="no checkpoint to resume from was found"):
        new_trainer(config, tmp_path).train(resume_from_checkpoint=True)


@pytest.mark.slow
def test_pruned_checkpoints_and_the_best(tiny_config, tmp_path):
    """With `save_total_limit`, and with a best checkpoint whose recorded path is the finished one."""
    trainer = new_trainer(
        tiny_config,
        tmp_path,
        eval_rows=new_trainer(tiny_config, tmp_path).train_dataset,
        save_strategy="steps",
        save_steps=1,
        eval_strategy="steps",
        eval_steps=1,
        save_total_limit=2,
        load_best_model_at_end=True,
    )
    scores = iter([0.2, 0.9, 0.4, 0.3, 0.3, 0.3])
    evaluate = trainer.evaluate
    trainer.evaluate = lambda *args, **kwargs: evaluate(*args, **kwargs) | {"eval_t2i_r1": next(scores)}
    trainer.train()
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-6", "checkpoint-2"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2", "checkpoint-6"]
    best = str(tmp_path / "checkpoint-2")
    for path in list_checkpoints(tmp_path):
        assert json.loads((path / STATE).read_text())["best_model_checkpoint"] == best
        assert find_problem(path) is None


@pytest.mark.slow
def test_a_checkpoint_is_a_model_directory_without_a_token(tiny_config, tmp_path):
    trainer = new_trainer(tiny_config, tmp_path, save_strategy="steps", save_steps=6, hub_token="hf_secret0123456789")
    trainer.train()
    trainer.save_model(str(tmp_path / "model"))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 8 and not [path for path in files if b"hf_secret" in path.read_bytes()]
    assert trainer.args.hub_token == "hf_secret0123456789"
    loaded = weights(BetaCLIPModel.from_pretrained(tmp_path / "checkpoint-6"))
    assert all(torch.equal(loaded[name], value) for name, value in weights(trainer.model).items())
    manifest = read_manifest(tmp_path / "checkpoint-6")
    assert manifest["step"] == 6 and {"model.safetensors", "optimizer.pt", STATE} <= manifest["files"].keys()


# Writing, without a Trainer: the files are small, so every single step of it can be the last.


def write_unfinished(folder, step, content):
    unfinished = unfinished_path(folder, step)
    (unfinished / "shards").mkdir(parents=True)
    for name in (STATE, "model.safetensors", "optimizer.pt", "scheduler.pt", "shards/a"):
        (unfinished / name).write_text(f"{name} {step} {content}")


def save(folder, step, content="", limit=2):
    write_unfinished(folder, step, content)
    newest = publish(folder, step, {"content": content})
    prune(folder, limit, newest=newest)
    return newest


def killed_after(events, function):
    """Runs a function in a fork that dies at its n-th access to files. Returns whether it got to its end."""
    child = os.fork()
    if child == 0:
        left = [events]

        def hook(event, args):
            if event.split(".")[0] in ("open", "os", "shutil"):
                left[0] -= 1
                if left[0] < 0:
                    os._exit(9)

        sys.addaudithook(hook)
        function()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in (0, 9)
    return os.waitstatus_to_exitcode(status) == 0


@pytest.mark.parametrize("again", [False, True], ids=["a new step", "a step that was saved before"])
def test_a_kill_at_any_moment_of_saving_leaves_a_whole_checkpoint(tmp_path, again):
    step = 20 if again else 30
    ended, kills = False, 0
    while not ended:
        folder = tmp_path / str(kills)
        folder.mkdir()
        save(folder, 10)
        save(folder, 20, "old")
        ended = killed_after(kills, lambda folder=folder: save(folder, step, "new"))
        finish_interrupted(folder)
        newest = find_newest_whole(folder)
        assert not newest.skipped and newest.path is not None
        assert newest.path.name in ("checkpoint-20", f"checkpoint-{step}")
        assert all(find_problem(path) is None for path in list_checkpoints(folder))
        assert sorted(path.name for path in folder.iterdir() if path.name.startswith(".")) == []
        if ended:
            assert read_manifest(newest.path)["run"] == {"content": "new"}
            names = ["checkpoint-20", "checkpoint-10"] if again else ["checkpoint-30", "checkpoint-20"]
            assert [path.name for path in list_checkpoints(folder)] == names
        kills += 1
    assert kills > 40


def test_a_disk_that_fails_while_saving_leaves_what_was_there(tmp_path, monkeypatch):
    save(tmp_path, 10)
    calls = []

    def fail(descriptor):
        calls.append(descriptor)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    write_unfinished(tmp_path, 20, "")
    with pytest.raises(OSError, match="No space left"):
        publish(tmp_path, 20, {})
    assert find_newest_whole(tmp_path).path == tmp_path / "checkpoint-10"


def test_names_that_are_no_checkpoints(tmp_path):
    for name in ("checkpoint-", "checkpoint-x", "checkpoint-3x", "my-checkpoint-3", "damaged-checkpoint-3"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-4").write_text("a file")
    assert list_checkpoints(tmp_path) == [] and list_checkpoints(tmp_path / "nothing") == []


def test_files_of_a_manifest_stay_inside(tmp_path):
    """Names that lead out of the checkpoint are not followed, even if their hashes are right."""
    checkpoint = save(tmp_path, 10)
    manifest = json.loads((checkpoint / MANIFEST_FILE).read_text())
    manifest.pop("sha256")
    manifest["files"]["../outside"] = {"size": 1, "sha256": "0"}
    digest = checkpoints.hash_value(manifest)
    (checkpoint / MANIFEST_FILE).write_text(json.dumps({**manifest, "sha256": digest}))
    assert "../outside" in find_problem(checkpoint) and "outside of the checkpoint" in find_problem(checkpoint)


@pytest.mark.parametrize("content", ["[]", "5", "null", '"text"', "{}", ""])
def test_a_manifest_that_is_none_is_damage(tmp_path, content):
    (tmp_path / MANIFEST_FILE).write_text(content)
    assert read_manifest(tmp_path) is None
