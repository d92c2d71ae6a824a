"""`--json` of every command: run for real, one document on the standard output, with the keys that are documented."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from beta_clip_cli import main as cli


pytestmark = pytest.mark.slow


PAGE = Path(__file__).resolve().parents[2] / "docs" / "command_line.md"
ROWS = re.findall(r"^\| `([a-z0-9 -]+)` \| (.*) \|$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
# The keys of a document are in backticks; after a colon come those of what is in it.
KEYS = {
    name: set(re.findall(r"`(\w+)`", re.sub(r"`models`: .*|`tasks`: .*", lambda found: found[0].split(":")[0], text)))
    for name, text in ROWS
}
CPU = ("--device", "cpu")
TRAINING = ("training.use_cpu=true", "training.report_to=none", "training.save_strategy=no", "data.num_phrases=2")


@pytest.fixture
def desk(tmp_path, tiny_model, tiny_processor, monkeypatch):
    """Two models, and three photos with captions."""
    for name in ("base", "tuned"):
        tiny_model.save_pretrained(tmp_path / name)
        tiny_processor.save_pretrained(tmp_path / name)
    (tmp_path / "photos").mkdir()
    rows = []
    for number, colour in enumerate(("red", "green", "blue")):
        Image.new("RGB", (40, 40), colour).save(tmp_path / "photos" / f"{number}.png")
        rows.append({"image": f"photos/{number}.png", "caption": f"A {colour} wall. It is large."})
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def keys_of(document):
    return set(document[0] if isinstance(document, list) else document)


def check(capsys, name, *words, keys=None):
    """Runs a command in both ways of writing; returns the document."""
    assert cli.main([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert keys_of(document) == (keys or KEYS[name]), name
    return document


def test_training(desk, capsys):
    settings = []
    for setting in TRAINING:
        settings += ["--set", setting]
    words = ("train", "--model", "base", "--train-data", "test.jsonl", "--output", "run", "--steps", "1")
    document = check(capsys, "train", *words, "--batch-size", "2", *settings)
    assert document["output"] == "run" and document["train"]["train_loss"] > 0
    assert json.loads(Path("run/train_results.json").read_text())["train"] == document["train"]


def test_evaluation_and_comparison(desk, capsys):
    words = ("evaluate", "--tasks", "photos", "--data", "test.jsonl", "--no-pictures", *CPU)
    for name in ("base", "tuned"):
        document = check(capsys, "evaluate", *words, "--model", name, "--output", f"{name}_results")
        assert document == json.loads(Path(f"{name}_results/results.json").read_text())
    tasks = check(capsys, "evaluate --list-tasks", "evaluate", "--list-tasks")
    assert "photos" in [task["id"] for task in tasks]
    assert check(capsys, "compare", "compare", "base_results", "tuned_results")["tasks"]["photos"]["figures"]
    assert cli.main(["compare", "base_results", "tuned_results"]) == 0
    assert capsys.readouterr().out.startswith("A: base")


def test_hierarchies(desk, capsys):
    document = check(capsys, "hierarchy", "hierarchy", "test.jsonl", "--output", "texts", "--num-proc", "1")
    assert document["rows"] == 3 and Path(document["output"]).is_file()


def test_models_in_other_layouts(desk, capsys, project_dir):
    checkpoint = str(project_dir / "tests/fixtures/b_clip_full_masks/checkpoint.pt")
    heads = ("--vision-heads", "4", "--text-heads", "4")
    assert "config.json" in check(capsys, "convert b-clip", "convert", "b-clip", checkpoint, "ours", *heads)["files"]
    document = check(capsys, "export clip", "export", "clip", "base", "plain")
    assert document["parameters"] > 0 and document["dtype"] == "float32"
    check(capsys, "interpolate", "interpolate", "base", "tuned", "mixed", "--alpha", "0", "1")
    words = ("base", "tuned", "sweep", "--tasks", "photos", "--data", "test.jsonl", "--no-pictures", "--discard", *CPU)
    pytest.importorskip("matplotlib")
    document = check(capsys, "interpolate --tasks", "interpolate", *words)
    assert document["alphas"][0]["tasks"]["photos"]["figures"]


def test_graphs(desk, capsys):
    document = check(capsys, "export onnx", "export", "onnx", "base", "graphs", "--format", "torch")
    assert document["format"] == "torch" and document["output"] == "graphs"


def test_layout_of_fg_clip(desk, capsys, golden_dir):
    check(capsys, "convert fg-clip", "convert", "fg-clip", str(golden_dir / "fg_clip_grid4"), "ours")
    check(capsys, "convert fg-clip2", "convert", "fg-clip2", str(golden_dir / "fg_clip2_patch4"), "ours2")


def test_search(desk, capsys):
    pytest.importorskip("lancedb")
    document = check(capsys, "index", "index", "photos", "--output", "photos.index", "--model", "base", *CPU)
    assert document["new"] == 3
    document = check(capsys, "search", "search", "photos.index", "a red wall", *CPU)
    assert [hit["rank"] for hit in document] == [1, 2, 3]


def test_pictures(desk, capsys):
    pytest.importorskip("matplotlib")
    words = ("show", "--model", "base", "--image", "photos/0.png", "--text", "a red wall", "--output", "seen.png", *CPU)
    document = check(capsys, "show", *words)
    assert document["pictures"] == ["seen.png"] and document["texts"][0]["text"] == "a red wall"


def test_push(desk, capsys):
    assert check(capsys, "push", "push", "base", "me/model", "--dry-run", "repository")["folder"] == "repository"


def test_doctor(desk, capsys):
    check(capsys, "doctor", "doctor")


def test_a_failed_command_writes_no_document(desk, capsys):
    assert cli.main(["compare", "nothing", "here", "--json"]) == 1
    assert capsys.readouterr().out == ""


def test_what_others_print_is_not_in_the_document(desk, capsys, monkeypatch):
    from beta_clip_hf.release import hub

    def build(*args, **options):
        print("a library says hello")

    monkeypatch.setattr(hub, "build_repository", build)
    check(capsys, "push", "push", "base", "me/model", "--dry-run", "repository")
