import argparse
import json
from importlib.metadata import PackageNotFoundError

import pytest
import torch
import transformers

from beta_clip_hf import doctor


def report(capsys, *words):
    parser = argparse.ArgumentParser()
    doctor.add_arguments(parser)
    code = doctor.run(parser.parse_args(list(words)))
    return code, capsys.readouterr().out


def test_versions_and_hardware_are_told(capsys):
    code, output = report(capsys, "--json")
    found = {one["what"]: one for one in json.loads(output)}
    assert code == 0
    assert found["torch"]["state"] == "ok"
    assert found["torch"]["found"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert found["transformers"]["found"] == transformers.__version__
    assert found["GPU 0" if torch.cuda.is_available() else "GPU"]["found"]
    assert "sdpa" in found["attention"]["found"] and "cache in" in found["Hub"]["found"]
    assert not any("dev" in what or "pytest" in what for what in found)


@pytest.mark.parametrize(("missing", "code"), [("torch", 1), ("evaluate", 0)])
def test_what_is_missing_is_told_with_its_remedy(capsys, monkeypatch, missing, code):
    version = doctor.version

    def without(name):
        if name == missing:
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(doctor, "version", without)
    got, output = report(capsys)
    assert got == code
    (line,) = [line for line in output.splitlines() if line.startswith("missing") and f" {missing}" in line]
    assert "not installed" in line
    remedy = "pip install 'torch>=2.6'" if missing == "torch" else "pip install 'beta-clip-hf[eval]'"
    assert f"→ {remedy}" in output
    assert ("sdpa" in output) == (missing != "torch")


def test_a_version_that_is_too_old_counts_as_missing(capsys, monkeypatch):
    version = doctor.version
    monkeypatch.setattr(doctor, "version", lambda name: "4.1.0" if name == "transformers" else version(name))
    code, output = report(capsys)
    assert code == 1 and "4.1.0, but needs" in output


def test_offline_is_told(capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in report(capsys)[1]
