import argparse
import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError

import pytest
import torch
import transformers

from beta_clip_cli import doctor


def report(capsys, *words):
    parser = argparse.ArgumentParser()
    doctor.add_arguments(parser)
    code = doctor.run(parser.parse_args(list(words)))
    return code, capsys.readouterr().out


def test_versions_and_hardware_are_told(capsys):
    code, output = report(capsys, "--json")
    found = {record["what"]: record for record in json.loads(output)}
    assert code == 0
    assert found["torch"]["state"] == "ok"
    assert found["torch"]["found"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert found["transformers"]["found"] == transformers.__version__
    assert found["GPU 0" if torch.cuda.is_available() else "GPU"]["found"]
    assert "sdpa" in found["attention"]["found"] and "cache in" in found["Hub"]["found"]
    assert not any("dev" in name or "pytest" in name for name in found)


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
    remedy = "pip install 'torch>=2.6'" if missing == "torch" else "pip install 'evaluate"
    assert f"→ {remedy}" in output
    assert ("sdpa" in output) == (missing != "torch")


def test_a_source_that_is_not_installed_is_told_and_the_rest_examined(capsys, monkeypatch):
    def without_itself(read):
        def look_up(name):
            if name == doctor.PACKAGE:
                raise PackageNotFoundError(name)
            return read(name)

        return look_up

    for name in ("version", "requires"):
        monkeypatch.setattr(doctor, name, without_itself(getattr(doctor, name)))
    code, output = report(capsys, "--json")
    found = {record["what"]: record for record in json.loads(output)}
    assert code == 0 and found["beta-clip-hf"]["state"] == "missing"
    assert found["beta-clip-hf"]["remedy"].startswith("pip install -e .")
    assert found["torch"]["state"] == found["transformers"]["state"] == "ok" and "attention" in found and "Hub" in found


def test_a_version_that_is_too_old_counts_as_missing(capsys, monkeypatch):
    version = doctor.version
    monkeypatch.setattr(doctor, "version", lambda name: "4.1.0" if name == "transformers" else version(name))
    code, output = report(capsys)
    assert code == 1 and "4.1.0, but needs" in output


def test_offline_is_told(capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in report(capsys)[1]


def test_a_torch_that_cannot_be_imported_is_told(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    code, output = report(capsys, "--json")
    found = {record["what"]: record for record in json.loads(output)}
    assert code == 1 and found["hardware"]["state"] == "missing" and "install torch anew" in found["hardware"]["remedy"]
    assert "cache in" in found["Hub"]["found"]


def test_extras_are_those_of_the_package(capsys, monkeypatch):
    lines = ["torch>=2.6", "nothing-of-that-name>=9; extra == 'pictures'", "pytest>=8; extra == 'dev'"]
    monkeypatch.setattr(doctor, "requires", lambda package: lines)
    code, output = report(capsys)
    assert code == 0 and "pytest" not in output
    assert "nothing-of-that-name [pictures]" in output and "→ pip install 'nothing-of-that-name" in output


def test_a_token_is_told_and_not_shown(capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_secret")
    code, output = report(capsys)
    assert code == 0 and "Hub token" in output and "found" in output and "hf_secret" not in output


def test_it_works_before_the_package_is_imported():
    """Where torch is broken, the package cannot be imported, and this command has to say so."""
    code = (
        "import sys; sys.modules['torch'] = None; sys.argv = ['beta-clip', 'doctor']\n"
        "from beta_clip_cli.main import main\nprint(main())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "1" and "torch cannot be imported" in done.stdout
