import importlib.util
import os
import signal
import socket

import pytest
import yaml
from packaging.requirements import Requirement
from PIL import Image

from beta_clip_cli import main as cli
from beta_clip_hf.demo import app


pytestmark = pytest.mark.slow


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("RGB", (40, 30), "red").save(folder / "0.png")
    return folder


@pytest.fixture
def space_dir(project_dir):
    return project_dir / "examples" / "space"


def test_what_is_wrong_is_told_in_one_sentence(tmp_path, monkeypatch, capsys):
    pytest.importorskip("gradio")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["demo", "--index", "none"]) == 1
    assert "none is none: give --photos to make it" in capsys.readouterr().err
    assert cli.main(["demo", "--rate", "0"]) == 1
    assert "per_minute must be above 0, but is 0" in capsys.readouterr().err
    monkeypatch.setattr(app, "find_spec", lambda name: None)
    assert cli.main(["demo"]) == 1
    assert "pip install gradio" in capsys.readouterr().err


@pytest.mark.parametrize("port", ["99999", "0", "-1"])
def test_a_port_that_is_none_is_told_before_the_model_is_loaded(port, monkeypatch, capsys):
    monkeypatch.setattr(app, "open_page", lambda *_, **__: pytest.fail("loaded"))
    assert cli.main(["demo", f"--port={port}"]) == 1
    assert f"error: port must be within 1 and 65535, but is {port}\n" in capsys.readouterr().err


def test_a_port_that_is_taken_is_told(checkpoint, photos, capsys):
    pytest.importorskip("gradio")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        words = ["demo", "--model", str(checkpoint), "--photos", str(photos), "--device", "cpu", "--port", port]
        assert cli.main(words) == 1
    assert f"port must be free on 127.0.0.1, but {port} is not: give another with --port" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_demo_runs_until_it_is_interrupted(checkpoint, photos, monkeypatch, caplog, number):
    pytest.importorskip("gradio")
    caplog.set_level("INFO", logger="beta_clip_hf")
    folders = []

    class Interrupted:
        def wait(self):
            folders.append(os.environ["GRADIO_TEMP_DIR"])
            assert os.path.isdir(folders[0])
            signal.raise_signal(number)

    monkeypatch.setattr(app, "Event", Interrupted)
    before = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)}
    # A job in the background ignores interrupts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert cli.main(["demo", "--model", str(checkpoint), "--photos", str(photos), "--device", "cpu"]) == 0
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
    assert "the demo is at http://127.0.0.1:" in caplog.text and "the demo is closed" in caplog.text
    assert not os.path.exists(folders[0])


def test_a_space_names_what_it_needs(project_dir, space_dir):
    _, front, body = (space_dir / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    about = yaml.safe_load(front)
    assert about["sdk"] == "gradio" and (space_dir / about["app_file"]).is_file() and "# β-CLIP" in body
    assert f"gradio=={about['sdk_version']}" in (project_dir / "constraints.txt").read_text(encoding="utf-8").split()
    assert about["license"] == "apache-2.0" and len(about["short_description"]) <= 60
    assert about["python_version"] == "3.11"
    lines = (space_dir / "requirements.txt").read_text(encoding="utf-8").split("\n")
    (needed,) = [Requirement(line) for line in lines if line]
    assert needed.name == "beta-clip-hf" and needed.extras == {"demo"}
    assert {path.name for path in space_dir.iterdir() if path.is_file()} == {"README.md", "app.py", "requirements.txt"}


def test_a_space_builds_its_page_without_serving_it(space_dir, checkpoint, photos, monkeypatch):
    gradio = pytest.importorskip("gradio")
    monkeypatch.setenv("MODEL", str(checkpoint))
    monkeypatch.setenv("PHOTOS", str(photos))
    spec = importlib.util.spec_from_file_location("space_app", space_dir / "app.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    try:
        assert isinstance(module.demo, gradio.Blocks) and not module.demo.is_running
        tabs = [block.label for block in module.demo.blocks.values() if isinstance(block, gradio.Tab)]
        assert tabs == ["Search", "What does each phrase see?", "Compare two captions"]
    finally:
        module.stack.close()
