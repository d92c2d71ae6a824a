"""The configuration of a training run: how values are read, and which keys are refused."""

import json
import math
from pathlib import Path

import pytest

from beta_clip_hf import BetaCLIPTrainingArguments
from beta_clip_hf.training.setup.build import build_trainer
from beta_clip_hf.training.setup.config import check_complete, parse_value, read_config


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
    ("key", "message"),
    [
        ("model.from_pretrained", "one of model.from_pretrained"),
        ("data.train", "data.train must be given"),
        ("training.output_dir", "training.output_dir must be given"),
    ],
)
def test_an_incomplete_configuration(key, message):
    values = {"model.from_pretrained": "some/model", "data.train": "photos.jsonl", "training.output_dir": "out"}
    check_complete(read_config(None, values.items()))
    del values[key]
    with pytest.raises(ValueError, match=message):
        check_complete(read_config(None, values.items()))


def test_a_model_is_either_loaded_or_new():
    values = {"model.from_pretrained": "some/model", "data.train": "photos.jsonl", "training.output_dir": "out"}
    config = read_config(None, [*values.items(), ("model.from_scratch.projection_dim", 32)])
    with pytest.raises(ValueError, match=r"one of .* but the model section has \['from_pretrained', 'from_scratch'\]"):
        check_complete(config)


@pytest.mark.parametrize(
    ("path", "overrides", "message"),
    [
        (None, [("model.config", "y"), ("model.config.beta", "1")], "'config' holds the value 'y'"),
        (None, [("data.eval", "[1")], "must be YAML"),
        ("no_such_file.yaml", [], "must be YAML or JSON"),
    ],
)
def test_values_that_cannot_be_read(path, overrides, message):
    with pytest.raises(ValueError, match=message):
        read_config(path, overrides)


@pytest.mark.parametrize(
    ("overrides", "train"),
    [
        # A name joins settings that have no source, in any order.
        ([("data.train.skip", 5), ("data.train", "a.jsonl")], {"skip": 5, "source": "a.jsonl"}),
        ([("data.train", "a.jsonl"), ("data.train.skip", 5)], {"skip": 5, "source": "a.jsonl"}),
        ([("data.train", "[a.tar, b.tar]"), ("data.train.take", 5)], {"source": ["a.tar", "b.tar"], "take": 5}),
        ([("data.train.skip", 5), ("data.train", "[a.tar]")], {"skip": 5, "source": ["a.tar"]}),
        # It replaces another source with its settings, as does a mapping.
        ([("data.train", "{source: a.jsonl, skip: 5}"), ("data.train", "b.jsonl")], "b.jsonl"),
        ([("data.train", "{scenes: 9}"), ("data.train", "b.jsonl")], "b.jsonl"),
        ([("data.train.skip", 5), ("data.train", "{scenes: 9}")], {"scenes": 9}),
        ([("data.train.skip", 5), ("data.train", "null")], None),
        ([("data.train", "a.jsonl"), ("data.train", "b.jsonl")], "b.jsonl"),
        ([("data.train", "a.jsonl"), ("data.train.source", "b.jsonl")], {"source": "b.jsonl"}),
    ],
)
def test_a_source_and_its_settings(overrides, train):
    assert read_config(None, overrides)["data"] == {"train": train}
    for_evaluation = [(key.replace("train", "eval"), value) for key, value in overrides]
    assert read_config(None, for_evaluation)["data"] == {"eval": train}


def test_settings_without_a_source_are_not_complete():
    values = {"model.from_pretrained": "some/model", "training.output_dir": "out", "data.train.skip": 1}
    with pytest.raises(ValueError, match=r"data\.train must be given"):
        check_complete(read_config(None, values.items()))
    values |= {"data.train": "photos.jsonl", "data.eval.take": 1}
    with pytest.raises(ValueError, match=r"data\.eval must have a source \(--eval-data\) where it has settings"):
        check_complete(read_config(None, values.items()))
    check_complete(read_config(None, [*values.items(), ("data.eval", "test.jsonl")]))


def test_values_are_what_they_look_like():
    assert parse_value("1e-5") == 1e-5 and parse_value("-2E3") == -2000.0
    assert parse_value("e5") == "e5" and parse_value("1e") == "1e"
    assert parse_value("no") == "no" and parse_value("false") is False and parse_value("null") is None


@pytest.mark.parametrize("form", ["ce", "bce"])
def test_the_recipes_are_the_paper_s(project_dir, tmp_path, form):
    config = read_config(Path(project_dir, "examples", "configs", f"beta_clip_{form}.yaml"))
    assert config["model"]["config"] == {"use_pooler": True, "alignment_loss": form, "beta": 0.5}
    assert config["data"]["random_resized_crop"] == [0.5, 1.0]
    args = BetaCLIPTrainingArguments(str(tmp_path), use_cpu=True, **config["training"])
    assert (args.learning_rate, args.learning_rate_end) == (1e-5, 1e-7)
    assert (args.pooler_learning_rate, args.pooler_learning_rate_end) == (1e-3, 1e-4)
    assert (args.adam_beta1, args.adam_beta2, args.adam_epsilon, args.weight_decay) == (0.9, 0.98, 1e-8, 0.01)
    assert (args.num_train_epochs, args.per_device_train_batch_size, args.gradient_accumulation_steps) == (10, 64, 8)
    assert args.freeze_text_positions and args.max_grad_norm == 0
    assert math.log(args.logit_scale_max) == pytest.approx(4.6052, abs=1e-7)  # the clamp of the release
    assert args.get_warmup_steps(10_000) == 10  # 0.01 of an epoch of 1,000 steps


def test_a_directory_with_another_run_is_not_written_over(tmp_path):
    (tmp_path / "checkpoint-5").mkdir()
    config = {"model": {}, "data": {"train": "x"}, "training": {"output_dir": str(tmp_path), "use_cpu": True}}
    with pytest.raises(ValueError, match="must hold no checkpoints of another run"):
        build_trainer(config)
