"""The configuration of `beta-clip train`: what overrides what, and which keys are refused."""

import argparse
import json
from pathlib import Path

import pytest

from beta_clip_hf import BetaCLIPTrainingArguments
from beta_clip_hf.training.config import parse_value, read_config
from beta_clip_hf.training.run import add_arguments, build_trainer, configuration


def configured(*words):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return configuration(parser.parse_args(words))


NEEDED = ("--model", "some/model", "--train-data", "photos.jsonl", "--output", "out")


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


def test_json_is_read_as_well(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"training": {"max_steps": 5}}))
    assert read_config(path)["training"] == {"max_steps": 5}


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("training.learning_rat", "learning_rate"),
        ("data.num_phrase", "num_phrases"),
        ("data.train.colums", "columns"),
        ("model.from_pretraned", "from_pretrained"),
        ("model.config.bata", "beta"),
        ("model.from_scratch.projection_dims", "projection_dim"),
        ("model.from_scratch.vision_config.patchsize", "patch_size"),
        ("trainning.seed", "training"),
    ],
)
def test_an_unknown_key_names_its_neighbours(key, message):
    with pytest.raises(ValueError, match=f"must have known keys only, but has .*{message}"):
        read_config(None, [(key, "1")])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((*NEEDED, "--set", "training.seed"), "--set must be KEY=VALUE"),
        (NEEDED[2:], "one of model.from_pretrained"),
        (NEEDED[:2] + NEEDED[4:], "data.train must be given"),
        (NEEDED[:4], "training.output_dir must be given"),
        ((*NEEDED[:2], "--set", "data.train=y", "--set", "data.train.source=x"), "'train' holds the value 'y'"),
        ((*NEEDED, "--set", "data.eval=[1"), "must be YAML"),
        (("--config", "no_such_file.yaml", *NEEDED), "must be YAML or JSON"),
    ],
)
def test_wrong_words(words, message):
    with pytest.raises(ValueError, match=message):
        configured(*words)


def test_values_are_what_they_look_like():
    assert parse_value("1e-5") == 1e-5 and parse_value("-2E3") == -2000.0
    assert parse_value("e5") == "e5" and parse_value("1e") == "1e"
    assert parse_value("no") == "no" and parse_value("false") is False and parse_value("null") is None


@pytest.mark.parametrize("form", ["ce", "bce"])
def test_the_recipes_are_the_paper_s(project_dir, tmp_path, form):
    config = read_config(Path(project_dir, "examples", "configs", f"beta_clip_{form}.yaml"))
    assert config["model"]["config"] == {"alignment_loss": form, "beta": 0.5}
    assert config["data"]["random_resized_crop"] == [0.5, 1.0]
    args = BetaCLIPTrainingArguments(str(tmp_path), use_cpu=True, **config["training"])
    assert (args.learning_rate, args.learning_rate_end) == (1e-5, 1e-7)
    assert (args.pooler_learning_rate, args.pooler_learning_rate_end) == (1e-3, 1e-4)
    assert (args.adam_beta1, args.adam_beta2, args.adam_epsilon, args.weight_decay) == (0.9, 0.98, 1e-8, 0.01)
    assert (args.num_train_epochs, args.per_device_train_batch_size, args.gradient_accumulation_steps) == (10, 64, 8)
    assert args.freeze_text_positions and args.logit_scale_max == 100 and args.max_grad_norm == 0
    assert args.get_warmup_steps(10_000) == 10  # 0.01 of an epoch of 1,000 steps


def test_a_directory_with_another_run_is_not_written_over(tmp_path):
    (tmp_path / "checkpoint-5").mkdir()
    config = {"model": {}, "data": {"train": "x"}, "training": {"output_dir": str(tmp_path), "use_cpu": True}}
    with pytest.raises(ValueError, match="must hold no checkpoints of another run"):
        build_trainer(config)
