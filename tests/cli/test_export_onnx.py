"""The words of `beta-clip export onnx`: what the library is asked for, and what is reported."""

import json

import pytest

from beta_clip_cli import export_onnx
from beta_clip_cli.main import main
from beta_clip_hf.model.configuration_beta_clip import TEXT_PATHS
from beta_clip_hf.model.configuration_beta_siglip2 import SIGLIP_TEXT_PATHS
from beta_clip_hf.release import onnx as release_onnx


def test_the_help_names_what_the_library_takes():
    assert tuple(release_onnx.FORMATS) == export_onnx.FORMATS
    assert release_onnx.DTYPES == export_onnx.DTYPES
    assert {*TEXT_PATHS, *SIGLIP_TEXT_PATHS} == set(export_onnx.TEXT_PATHS)


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ([], {"format": "onnx", "dtype": "float32", "path": None, "grid": None}),
        (
            ["--format", "torch", "--dtype", "int8", "--path", "box", "--grid", "12", "20"],
            {"format": "torch", "dtype": "int8", "path": "box", "grid": (12, 20)},
        ),
    ],
)
def test_the_library_is_called_once(words, options, monkeypatch, capsys):
    calls = []

    def export_graphs(*paths, **options_taken):
        calls.append((paths, options_taken))
        return {"graphs": {}}

    monkeypatch.setattr(release_onnx, "export_graphs", export_graphs)
    assert main(["export", "onnx", "a model", "a folder", "--json", *words]) == 0
    assert calls == [(("a model", "a folder"), options)]
    assert json.loads(capsys.readouterr().out) == {"output": "a folder", "graphs": {}}
