"""The words of `beta-clip evaluate`: what the library is asked for."""

import argparse
from dataclasses import fields

import pytest

from beta_clip_cli.evaluate import TASKS, add_evaluation_arguments, evaluation_settings, task_names
from beta_clip_hf.evaluation.benchmarks import BENCHMARKS
from beta_clip_hf.evaluation.suite import EvaluationSettings


def test_the_help_names_the_tasks_of_the_library():
    assert list(TASKS) == list(BENCHMARKS)


def test_the_defaults_are_those_of_the_library():
    parser = argparse.ArgumentParser()
    add_evaluation_arguments(parser)
    settings = evaluation_settings(parser.parse_args([]))
    defaults = {field.name: field.default for field in fields(EvaluationSettings)}
    assert settings == {name: default for name, default in defaults.items() if name in settings}
    assert set(defaults) - set(settings) == {"model", "tasks", "output"}


@pytest.mark.parametrize(
    ("words", "names"),
    [("photos", ["photos"]), ("photos, scenes,photos,", ["photos", "scenes"]), (",", [","])],
)
def test_tasks_are_separated_by_commas(words, names):
    assert task_names(words) == names


def test_how_photos_are_read():
    parser = argparse.ArgumentParser()
    add_evaluation_arguments(parser)
    words = ["--tasks", "photos", "--columns", "text=caption", "--split", "val", "--skip", "3", "--no-group"]
    reading = evaluation_settings(parser.parse_args(words))["reading"]
    assert reading == {"columns": {"text": "caption"}, "split": "val", "skip": 3, "group": False}
    with pytest.raises(ValueError, match=r"--split must come with the task photos, but the tasks are scenes"):
        evaluation_settings(parser.parse_args(["--tasks", "scenes", "--split", "val"]))
