"""What a user installs: metadata, extras, the tested versions, the wheel, and how little an import costs."""

import configparser
import itertools
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from beta_clip_hf import __version__


pytestmark = pytest.mark.slow


PROJECT = Path(__file__).resolve().parent.parent
SOURCE = PROJECT / "src"
NEVER_IMPORTED = ("datasets", "nltk", "evaluate", "matplotlib")
# Of a quiet machine: `from transformers import CLIPModel` takes 2.5 s of CPU time there, and we may add 0.5 s.
ALLOWED_SECONDS, SECONDS_OF_TRANSFORMERS = 0.5, 2.5


def setup_cfg() -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read(PROJECT / "setup.cfg", encoding="utf-8")
    return config


def requirements(text: str) -> list[Requirement]:
    return [Requirement(line) for line in text.strip().splitlines()]


def extras() -> dict[str, list[Requirement]]:
    return {name: requirements(text) for name, text in setup_cfg()["options.extras_require"].items()}


def constraints(file: str = "constraints.txt") -> dict[str, Requirement]:
    lines = (PROJECT / file).read_text(encoding="utf-8").splitlines()
    pinned = requirements("\n".join(line for line in lines if not line.startswith("#")))
    return {canonicalize_name(requirement.name): requirement for requirement in pinned}


def direct_requirements() -> list[Requirement]:
    core = requirements(setup_cfg()["options"]["install_requires"])
    for group in extras().values():
        core += [requirement for requirement in group if requirement.name != "beta-clip-hf"]
    return core


def test_one_version_everywhere() -> None:
    changelog = (PROJECT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", changelog, flags=re.MULTILINE)
    citation = yaml.safe_load((PROJECT / "CITATION.cff").read_text(encoding="utf-8"))
    assert versions[0] == citation["version"] == __version__
    assert citation["license"] == setup_cfg()["metadata"]["license"] == "Apache-2.0"


def test_extras() -> None:
    groups = extras()
    assert {"train", "text", "eval", "dev", "all"} <= set(groups)
    (whole,) = groups["all"]
    # peft is left to those who train adapters.
    without = {"all", "dev", "lora", "test"}
    assert whole.extras == set(groups) - without, "`all` must hold every other extra for users"


def test_messages_name_packages_of_the_extras() -> None:
    """No index has this package, so an extra of it cannot be installed by its name."""
    in_extras = {requirement.name for requirement in itertools.chain.from_iterable(extras().values())}
    # What optimisers and reports need is not ours.
    others = {"torchao", "bitsandbytes", "deepspeed", "zstandard", "ftfy"}
    named = set()
    for path in SOURCE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"pip install ['\"]+beta-clip-hf\[", text), path.name
        for words in re.findall(r"Error\(\s*f?[\"'].*pip install ([\w ]+)", text):
            named.update(words.split())
    assert {"matplotlib", "lancedb", "peft"} <= named <= in_extras | others, named


def test_constraints_pin_every_requirement_to_a_version_it_allows() -> None:
    pinned = constraints()
    for requirement in direct_requirements():
        (pin,) = pinned[canonicalize_name(requirement.name)].specifier
        assert pin.operator == "==" and requirement.specifier.contains(pin.version), requirement


def test_the_lower_bounds_are_the_versions_that_are_tested_as_the_oldest() -> None:
    pinned = constraints("constraints-min.txt")
    groups = extras()
    # Tools for tests take part in no run; Gradio asks for newer versions of the others than these.
    for_users = [group for name, group in groups.items() if name not in ("all", "demo", "dev", "test")]
    direct = [*requirements(setup_cfg()["options"]["install_requires"]), *itertools.chain.from_iterable(for_users)]
    for requirement in direct:
        (pin,) = pinned[canonicalize_name(requirement.name)].specifier
        (bound,) = [part for part in requirement.specifier if part.operator == ">="]
        assert pin.operator == "==" and Version(pin.version) == Version(bound.version), requirement
    for requirement in groups["demo"]:
        pin = pinned.get(canonicalize_name(requirement.name))
        assert pin is None or requirement.specifier.contains(next(iter(pin.specifier)).version), requirement


def test_targets_of_other_versions_install_every_extra_but_the_demo() -> None:
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    installed = re.findall(r"--editable '\.\[([\w,]+)\]'", makefile)
    assert sorted(installed) == sorted(["all,dev", *2 * ["train,text,eval,onnx,search,completion,test"]])
    assert set(installed[1].split(",")) == set(extras()) - {"all", "demo", "dev", "lora"}


@pytest.mark.parametrize("file", ["constraints.txt", "constraints-min.txt"])
def test_constraints_name_no_place_and_no_build(file: str) -> None:
    text = (PROJECT / file).read_text(encoding="utf-8")
    assert not re.search(r"://|^-|\+(cpu|cu\d+)", text, flags=re.MULTILINE)


def test_what_is_installed_is_allowed() -> None:
    for requirement in requirements(setup_cfg()["options"]["install_requires"]):
        assert requirement.specifier.contains(version(requirement.name)), requirement


def built(kind: str, folder: Path) -> Path:
    """Builds a "wheel" or an "sdist" from a copy of the project, and returns its file."""
    copy = folder / "copy"
    copy.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, copy / name)
    shutil.copytree(SOURCE, copy / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    build = f"import sys; from setuptools import build_meta; print(build_meta.build_{kind}(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", build, folder], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.split()[-1]


def shipped_files() -> set[str]:
    """The files of the two small models, the style of the demo and the card's template, as the package names them."""
    package = SOURCE / "beta_clip_hf"
    weights = [path for path in (package / "data" / "scenes" / "weights").rglob("*") if path.is_file()]
    others = [*(package / "demo").glob("*.css"), *(package / "release").glob("*.md")]
    return {path.relative_to(SOURCE).as_posix() for path in weights + others}


def test_sdist_has_the_files_that_are_not_code(tmp_path: Path) -> None:
    with tarfile.open(built("sdist", tmp_path)) as sdist:
        names = {name.partition("/src/")[2] for name in sdist.getnames()}
    assert names >= shipped_files() and len(shipped_files()) >= 14


def test_wheel(tmp_path: Path) -> None:
    """Built from a copy: every module, the type marker and the weights are in it, tests and examples are not."""
    with zipfile.ZipFile(built("wheel", tmp_path)) as wheel:
        names = set(wheel.namelist())
        (metadata_name,) = [name for name in names if name.endswith("METADATA")]
        metadata = wheel.read(metadata_name).decode("utf-8")
        entry_points = wheel.read(metadata_name.replace("METADATA", "entry_points.txt")).decode("utf-8")
    modules = {path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py")}
    assert names >= modules | shipped_files() | {"beta_clip_hf/py.typed"}
    assert {name.split("/")[0] for name in names} == {
        "beta_clip_cli",
        "beta_clip_hf",
        metadata_name.split("/")[0],
    }
    assert "beta-clip = beta_clip_cli.main:main" in entry_points
    assert f"Version: {__version__}\n" in metadata and "Requires-Python: >=3.11\n" in metadata


def test_continuous_integration_can_start() -> None:
    assert os.access(PROJECT / ".ci" / "run", os.X_OK)
    build = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]
    assert [Requirement(line).name for line in build["requires"]] == ["setuptools"]


WORKFLOWS = sorted((PROJECT / ".github" / "workflows").glob("*.yml"))


def workflow(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def steps_of(jobs: dict[str, Any]) -> list[dict[str, Any]]:
    return list(itertools.chain.from_iterable(job.get("steps", []) for job in jobs.values()))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_name_what_exists(path: Path) -> None:
    jobs = workflow(path)["jobs"]
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):", makefile, flags=re.MULTILINE))
    for name, job in jobs.items():
        # A job that calls another workflow has no runner and no steps of its own.
        assert "uses" in job or ("runs-on" in job and "timeout-minutes" in job), name
        if "uses" in job:
            assert (PROJECT / job["uses"]).is_file()
        assert set(job.get("needs", "").split()) <= set(jobs)
        named = job.get("strategy", {}).get("matrix", {}).get("target", [])
        assert set(named) <= targets
    for step in steps_of(jobs):
        if "uses" in step:
            assert re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|release/v\d+)", step["uses"]), "a major version must be named"
        command = step.get("run", "").split()
        if command[:1] == ["make"] and "${{" not in step["run"]:
            assert set(command[1:]) <= targets
        elif command and command[0].startswith("."):
            assert os.access(PROJECT / command[0], os.X_OK)


def test_workflows_run_what_they_are_for() -> None:
    jobs = {path.stem: workflow(path)["jobs"] for path in WORKFLOWS}
    assert set(jobs) == {"ci", "package", "release", "versions"}
    assert {"run": ".ci/run"} in steps_of(jobs["ci"]) and {"run": "make package"} in steps_of(jobs["package"])
    assert jobs["versions"]["test"]["strategy"]["matrix"]["target"] == ["test-min", "test-new"]
    # YAML reads the key `on` as a truth value.
    assert "schedule" in workflow(PROJECT / ".github" / "workflows" / "versions.yml")[True]
    publish = jobs["release"]["publish"]
    # Trusted publishing: this permission, and no password.
    assert publish["permissions"] == {"id-token": "write"} and publish["needs"] == "package"
    (upload,) = [step for step in publish["steps"] if step.get("uses", "").startswith("pypa/gh-action-pypi-publish@")]
    assert "with" not in upload


def cost_of_import() -> tuple[float, float, list[str]]:
    """CPU seconds of transformers' CLIPModel and then of this package, in a new process, and what that has loaded."""
    code = (
        "import json, sys, time;"
        "start = time.process_time(); from transformers import CLIPModel;"
        "middle = time.process_time(); import beta_clip_hf;"
        "end = time.process_time();"
        f"print(json.dumps([middle - start, end - middle, [m for m in {NEVER_IMPORTED} if m in sys.modules]]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    theirs, ours, loaded = json.loads(done.stdout)
    return theirs, ours, loaded


def test_import_is_cheap() -> None:
    runs = [cost_of_import() for _ in range(3)]
    # On a busy or slow machine both imports take longer, so the limit grows with the part that is not ours.
    slowdown = max(1.0, statistics.median(theirs for theirs, _, _ in runs) / SECONDS_OF_TRANSFORMERS)
    assert statistics.median(ours for _, ours, _ in runs) < ALLOWED_SECONDS * slowdown
    assert [loaded for _, _, loaded in runs] == [[], [], []]


def test_lazy_names_import_no_heavy_library() -> None:
    names = "BetaCLIPDataCollator, SceneDataset, build_text_hierarchy, split_sentences"
    code = f"import sys; from beta_clip_hf import {names}; print(*set({NEVER_IMPORTED}) & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_documents_name_make_targets_and_files_that_exist(name: str) -> None:
    text = (PROJECT / name).read_text(encoding="utf-8")
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"`make ([a-z-]+)", text)) | set(re.findall(r"^make ([a-z-]+)", text, flags=re.MULTILINE))
    assert targets <= set(re.findall(r"^([\w-]+):", makefile, flags=re.MULTILINE)) and {"demo", "test"} <= targets
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if "://" not in link]
    assert [link for link in links if not (PROJECT / link).exists()] == []
