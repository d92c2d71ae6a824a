"""The words of `beta-clip train`: what overrides what, and what the training is given."""

import argparse

import pytest

from beta_clip_cli.main import main
from beta_clip_cli.train import FLAGS, add_arguments, configuration, next_commands
from beta_clip_hf.inference.processes import Processes
from beta_clip_hf.training import run as training_run
from beta_clip_hf.training.saving import checkpoints
from beta_clip_hf.training.saving.choice import choose_checkpoint
from beta_clip_hf.training.setup.config import read_config


NEEDED = ("--model", "some/model", "--train-data", "photos.jsonl", "--output", "out")


def configured(*words):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return configuration(parser.parse_args(words))


def test_flags_override_set_and_set_overrides_the_file(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("training: {learning_rate: 1e-4, max_steps: 5, seed: 1}\ndata: {num_phrases: 3}\n")
    config = configured(
        "--config",
        str(path),
        *NEEDED,
        *("--set", "training.max_steps=7", "--set", "training.seed=2", "--set", "model.config.beta=0.25"),
        *("--seed", "3", "--strict"),
    )
    assert config == {
        "model": {"config": {"beta": 0.25}, "from_pretrained": "some/model"},
        "data": {"num_phrases": 3, "train": "photos.jsonl", "strict": True},
        "training": {"learning_rate": 1e-4, "max_steps": 7, "seed": 3, "output_dir": "out"},
    }


def test_records_that_are_held_out(tmp_path):
    words = ("--train-data", "photos.jsonl", "--eval-data", "photos.jsonl", "--set", "data.eval.take=100")
    data = configured(*words, "--skip", "100", "--take", "50")["data"]
    assert data == {
        "train": {"source": "photos.jsonl", "skip": 100, "take": 50},
        "eval": {"source": "photos.jsonl", "take": 100},
    }


def test_a_model_on_the_command_line_replaces_one_from_scratch(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("model: {from_scratch: {projection_dim: 32}, tokenizer: {vocab_size: 600}}\n")
    assert configured("--config", str(path))["model"]["from_scratch"] == {"projection_dim": 32}
    model = configured("--config", str(path), "--model", "some/model")["model"]
    assert model == {"from_pretrained": "some/model", "tokenizer": {"vocab_size": 600}}


@pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: flag.name)
def test_every_flag_sets_a_value_that_there_is(flag):
    assert read_config(None, [(flag.key, "1")])  # an unknown key is an error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((*NEEDED, "--set", "training.seed"), "--set must be KEY=VALUE, but is 'training.seed'"),
        (NEEDED[2:], "one of model.from_pretrained"),
        (NEEDED[:2] + NEEDED[4:], "data.train must be given"),
        (NEEDED[:4], "training.output_dir must be given"),
        ((*NEEDED, "--set", "model.config=y", "--set", "model.config.beta=1"), "'config' holds the value 'y'"),
        ((*NEEDED[:2], "--skip", "5", *NEEDED[4:]), "data.train must be given"),
        ((*NEEDED, "--set", "data.eval=[1"), "must be YAML"),
        (("--config", "no_such_file.yaml", *NEEDED), "must be YAML or JSON"),
    ],
)
def test_wrong_words_are_one_sentence(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *words]) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "resume", "checkpoint"),
    [
        ((), False, None),
        (("--resume",), True, None),
        (("--resume", "elsewhere/checkpoint-3"), True, "elsewhere/checkpoint-3"),
    ],
)
def test_resume_may_name_a_checkpoint(words, resume, checkpoint, monkeypatch):
    asked = []
    monkeypatch.setattr(training_run, "train", lambda settings: asked.append(settings) or finished)
    finished = training_run.FinishedRun("out", {}, is_main_process=False)
    assert main(["train", *NEEDED, *words]) == 0
    (settings,) = asked
    assert settings.resume == resume and settings.checkpoint == checkpoint


def test_a_run_continues_from_its_last_whole_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "find_problem", lambda path: None if path.name != "checkpoint-30" else "empty")
    for step in (3, 20, 30):
        (tmp_path / f"checkpoint-{step}").mkdir()
    assert choose_checkpoint(Processes(), str(tmp_path)) == str(tmp_path / "checkpoint-20")


def test_a_run_without_a_checkpoint_begins(tmp_path):
    assert choose_checkpoint(Processes(), str(tmp_path / "nothing")) is None
    assert choose_checkpoint(Processes(), str(tmp_path)) is None


def test_how_rows_are_read_is_said_for_both_sets():
    reading = (
        "--columns",
        "text=caption",
        "a=b=image",
        "--image-root",
        "~/100% photos",
        "--delimiter",
        "tab",
        "--no-group",
    )
    data = configured(
        "--train-data", "a.csv", "--eval-data", "b.csv", "--split", "dev", "--eval-split", "val", *reading
    )["data"]
    shared = {
        "columns": {"text": "caption", "a=b": "image"},
        "image_root": "~/100% photos",
        "delimiter": "tab",
        "group": False,
    }
    assert data["train"] == {"source": "a.csv", "split": "dev", **shared}
    assert data["eval"] == {"source": "b.csv", "split": "val", **shared}
    assert "eval" not in configured("--train-data", "a.csv", *reading)["data"]


def test_settings_of_a_source_stay_beside_a_source(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("data: {train: {source: old.jsonl, skip: 5}}\n")
    words = ("--config", str(path), "--set", "data.train.columns={text: caption}", "--train-data", "new.jsonl")
    assert configured(*words)["data"]["train"] == {"source": "new.jsonl", "columns": {"text": "caption"}}
    words = ("--train-data", "new.jsonl", "--set", "data.train=old.jsonl")
    assert configured(*words)["data"]["train"] == {"source": "new.jsonl"}


@pytest.mark.parametrize(
    "name", ["photos #1.jsonl", "[2020] a.jsonl", "100%.csv", "~/a: b.csv", "%20.csv", "yes", "1e5"]
)
def test_names_of_files_are_meant_as_they_are(name):
    assert configured("--train-data", name)["data"]["train"] == name
    assert configured("--train-data", name, "other")["data"]["train"] == [name, "other"]


def test_wrong_columns_are_one_sentence(capsys):
    assert main(["train", *NEEDED, "--columns", "text"]) == 1
    assert "--columns must be THEIRS=OURS, each once, but is ['text']" in capsys.readouterr().err


def test_the_next_command_indexes_a_folder_with_its_captions(tmp_path):
    """A bare folder would be indexed without them."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("0.png", "0.txt"):
        (folder / name).touch()
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    config = {"data": {"train": {"source": str(folder)}, "eval_fraction": 0.1}}
    for words, reading in [((), " --format sidecar"), (("--format", "imagefolder"), " --format imagefolder")]:
        commands = next_commands(parser.parse_args(words), config, "out")
        assert f"beta-clip index {folder}{reading} --output out.index --model out\n" in commands
    file = {"data": {"train": {"source": "photos.jsonl"}, "eval_fraction": 0.1}}
    assert "beta-clip index photos.jsonl --output out.index" in next_commands(parser.parse_args(()), file, "out")


@pytest.mark.parametrize(
    ("words", "evaluated", "indexed"),
    [
        # A data set of the Hub: training reads "train", and `evaluate` would read "test".
        (["me/photos", "--eval-fraction", "0.1"], "me/photos --select out/held_out.txt --split train", "me/photos"),
        (
            ["me/photos", "--eval-fraction", "0.1", "--split", "val"],
            "me/photos --select out/held_out.txt --split val",
            "me/photos --split val",
        ),
        (["me/photos", "--eval-data", "me/others"], "me/others --split train", "me/photos"),
        (["me/photos", "--eval-data", "me/others", "--eval-split", "dev"], "me/others --split dev", "me/photos"),
        (["me/photos", "--eval-data", "FILE"], "FILE", "me/photos"),
        (["me/photos"], "PHOTOS", "me/photos"),
    ],
)
def test_the_next_commands_read_the_photos_of_the_training(words, evaluated, indexed, tmp_path):
    file = tmp_path / "test.jsonl"
    file.touch()
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    args = parser.parse_args([word.replace("FILE", str(file)) for word in words])
    _, evaluate, index, _ = next_commands(args, configuration(args), "out").splitlines()
    assert evaluate.endswith(f" --data {evaluated}".replace("FILE", str(file)))
    assert index.startswith(f"  beta-clip index {indexed} --output ")
