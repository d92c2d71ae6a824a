"""Where the two small models that ship are found, and that every way to install them takes their files along."""

import fnmatch
import importlib
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

import beta_clip_hf
from beta_clip_hf import SceneDataset
from beta_clip_hf.data.scenes import default_model, pretrained


# The package exports a function of the same name.
MODULE = importlib.import_module("beta_clip_hf.data.scenes.pretrained")
NAMES = ("clip", "beta_clip")


@pytest.mark.parametrize("name", NAMES)
def test_a_name_gives_a_directory(name: str) -> None:
    path = pretrained(name)
    assert isinstance(path, str) and Path(path) == Path(MODULE.__file__).parent / "weights" / name


def test_another_name_is_refused() -> None:
    with pytest.raises(ValueError, match=r"name must be one of \('clip', 'beta_clip'\), but is 'openai'"):
        pretrained("openai")


def test_the_default_is_told(caplog) -> None:
    assert default_model() == pretrained("beta_clip")
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage() == (
        "no --model: using the small β-CLIP of generated scenes that ships with the package; it knows coloured shapes "
        "only"
    )


def test_the_package_has_it_under_its_short_name() -> None:
    assert beta_clip_hf.scenes.pretrained is pretrained
    assert beta_clip_hf.scenes.SceneDataset is SceneDataset


@pytest.mark.slow
@pytest.mark.parametrize(
    "code",
    [
        "import beta_clip_hf; print(beta_clip_hf.scenes.pretrained('clip'))",
        "import beta_clip_hf.scenes; print(beta_clip_hf.scenes.pretrained('clip'))",
        "from beta_clip_hf.scenes import pretrained; print(pretrained('clip'))",
        "from beta_clip_hf import scenes; print(scenes.pretrained('clip'))",
    ],
)
def test_every_way_to_import_it(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, pretrained("clip")), done.stderr


def test_the_wheel_takes_every_file(project_dir) -> None:
    """The patterns of setup.cfg; tests/test_packaging.py builds a wheel."""
    config = ConfigParser()
    config.read(project_dir / "setup.cfg", encoding="utf-8")
    patterns = config["options.package_data"]["beta_clip_hf"].split()
    package = project_dir / "src" / "beta_clip_hf"
    files = [path.relative_to(package).as_posix() for path in MODULE.WEIGHTS.rglob("*") if path.is_file()]
    taken = set()
    for pattern in patterns:
        taken.update(fnmatch.filter(files, pattern))
    assert set(files) == taken
