"""Every example runs as a user starts it, on a tiny model and a few generated scenes; and both notebooks."""

import json
import re
import runpy
import sys
from itertools import chain
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load, load_file
from transformers import CLIPModel

from beta_clip_hf import BetaCLIPModel, BetaCLIPProcessor, SceneDataset
from beta_clip_hf.inference.look import look
from beta_clip_hf.release import onnx as release_onnx
from release.hub_server import HubServer


pytestmark = pytest.mark.slow


EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
NOTEBOOKS = ("01_fine_tune_on_your_photos.ipynb", "02_what_does_each_phrase_see.ipynb")
# Those with a test of their own: tests/test_demo.py, tests/release/test_onnx.py.
ELSEWHERE = {"demo", "from_scratch", "onnx_search"}
# The first program that a newcomer reads draws and writes more than the others.
MOST_LINES = {"demo": 140}
HERE = {"inference", "fine_tune", "fine_tune_from_hub", "regions", "evaluate", "search", "export", "push"}


@pytest.fixture
def desk(tmp_path, tiny_config, tiny_processor, monkeypatch) -> Path:
    """A working directory with a model, six scenes as PNG files, and their captions."""
    tiny_config.use_regions = True
    BetaCLIPModel(tiny_config).save_pretrained(tmp_path / "model")
    tiny_processor.save_pretrained(tmp_path / "model")
    (tmp_path / "photos").mkdir()
    lines = []
    for number, row in enumerate(SceneDataset(6, seed=1, level="easy")):
        row["image"].save(tmp_path / "photos" / f"{number}.png")
        columns = {name: row[name] for name in ("caption", "hard_negatives")}
        lines.append(json.dumps({"image": f"photos/{number}.png", **columns}))
    (tmp_path / "photos.jsonl").write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    return tmp_path


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs an example in this process, and returns what it has printed."""

    def run(name: str, *words: str) -> str:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, words)])
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_each_is_short_and_in_the_table_and_tested() -> None:
    scripts = {path.stem: path.read_text(encoding="utf-8") for path in EXAMPLES.glob("*.py")}
    assert set(scripts) == HERE | ELSEWHERE
    lines = {name: len(code.splitlines()) for name, code in scripts.items()}
    assert [name for name, count in lines.items() if count >= MOST_LINES.get(name, 80)] == []
    table = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\]\((\w+)\.py\)", table)) == set(scripts)
    assert set(re.findall(r"\]\((\w+\.ipynb)\)", table)) == set(NOTEBOOKS)
    links = re.findall(r"\]\(([^)]+)\)", table)
    assert [link for link in links if not (EXAMPLES / link).exists()] == []


def test_inference(desk, run) -> None:
    texts = ["a red circle", "two blue squares"]
    lines = run("inference", "photos/0.png", *texts, "--model", "model").splitlines()[1:]
    seen = look(BetaCLIPModel.from_pretrained("model").eval(), BetaCLIPProcessor.from_pretrained("model"),
                "photos/0.png", texts)  # fmt: skip
    for line, text, cosine, as_seen in zip(lines, texts, seen.similarity_T, seen.conditioned_T, strict=True):
        words = line.split(maxsplit=3)
        assert words[3] == text
        assert [float(words[0]), float(words[2])] == pytest.approx([cosine.item(), as_seen.item()], abs=6e-4)
    assert sum(float(line.split()[1].rstrip("%")) for line in lines) == pytest.approx(100, abs=0.2)


def test_inference_by_a_plain_clip(desk, run, tiny_clip_dir, tiny_processor) -> None:
    for file in tiny_clip_dir.iterdir():
        (desk / "clip").mkdir(exist_ok=True)
        (desk / "clip" / file.name).write_bytes(file.read_bytes())
    tiny_processor.save_pretrained(desk / "clip")
    _, line = run("inference", "photos/0.png", "a red circle", "--model", "clip").splitlines()
    assert line.split()[1:] == ["100.0%", "a", "red", "circle"]


def test_fine_tuning(desk, run) -> None:
    run("fine_tune", "photos.jsonl", "--model", "model", "--epochs", "1", "--batch-size", "3", "--output", "tuned")
    before, after = (BetaCLIPModel.from_pretrained(name).state_dict() for name in ("model", "tuned"))
    name = "text_model.embeddings.position_embedding.weight"
    assert torch.equal(before[name][:20], after[name][:20])  # frozen, as the README says
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert BetaCLIPProcessor.from_pretrained("tuned").max_length == 248


def test_fine_tuning_by_a_recipe_and_pushing(desk, run, monkeypatch) -> None:
    """What arrives at the Hub is what was trained."""
    few = ["max_steps=2", "per_device_train_batch_size=3", "gradient_accumulation_steps=1", "dataloader_num_workers=0",
           "save_strategy=no", "use_cpu=true"]  # fmt: skip
    with HubServer() as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.endpoint)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr("transformers.utils.hub._hf_api", None, raising=False)
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        output = run(
            "fine_tune_from_hub", "photos.jsonl", "--eval-data", "photos.jsonl", "--model", "model",
            "--output", "tuned", "--push", "me/photos", *(f"--set=training.{setting}" for setting in few),
        )  # fmt: skip
        assert server.private["me/photos"]
        files = server.repositories["me/photos"]
    tuned, pushed = load_file("tuned/model.safetensors"), load(files["model.safetensors"])
    assert tuned.keys() == pushed.keys() and all(torch.equal(tuned[name], pushed[name]) for name in tuned)
    assert {"README.md", "modeling_beta_clip.py", "train_results.json"} <= set(files)
    assert re.findall(r"eval_(\w+): [\d.]+% before, [\d.]+% after", output) == ["i2t_r1", "t2i_r1"]


def test_regions(desk, run) -> None:
    texts = ["a red circle", "a blue square", "a cross"]
    output = run("regions", "photos/1.png", "--box", "0,0,24,24", "--box", "8,8,48,48", *texts, "--model", "model")
    model, processor = BetaCLIPModel.from_pretrained("model").eval(), BetaCLIPProcessor.from_pretrained("model")
    boxes = [[0, 0, 24, 24], [8, 8, 48, 48]]
    seen = look(model, processor, "photos/1.png", texts, boxes=boxes, box_format="xywh_pixels")
    for line, scores in zip(output.splitlines(), seen.region_scores_RT, strict=False):
        best = int(scores.argmax())
        assert f": {texts[best]} (" in line and line.endswith(f"cosine {scores[best]:.3f})")
    with Image.open(desk / "regions.png") as picture:
        assert picture.width > 800


def test_evaluation(desk, run) -> None:
    output = run("evaluate", "photos.jsonl", "--model", "model")
    metrics = json.loads((desk / "results.json").read_text())["figures"]
    for name in ("long/cls/text_to_image/R@1", "hard_negatives/conditioned/accuracy"):
        assert f"{100 * metrics[name]['value']:.1f}" in next(line for line in output.splitlines() if name in line)
    assert metrics["long/cls/text_to_image/R@1"]["count"] == 6


def test_search(desk, run) -> None:
    pytest.importorskip("lancedb")
    words = ("search", "photos", "A red circle is left of a blue square.", "--phrase", "a cross", "--model", "model")
    assert run(*words, "--top", "3").startswith("6 photos, 6 of them new, 0 unreadable\n")
    Image.new("RGB", (40, 40), "red").save(desk / "photos" / "new.png")
    output = run(*words, "--top", "3")
    assert output.startswith("7 photos, 1 of them new, 0 unreadable\n")
    assert len(re.findall(r"^ +\d +-?\d\.\d+ ", output, flags=re.MULTILINE)) == 3
    page = (desk / "found.html").read_text(encoding="utf-8")
    assert page.count("<img") == 1 + 3 * 2  # the colour bar; each photo and its heat map


def test_export(desk, run, monkeypatch) -> None:
    """The plain CLIP is the model's; the graphs have a test of their own, and tracing takes long."""
    asked = []
    monkeypatch.setattr(release_onnx, "export_graphs", lambda *words, **options: asked.append((words, options)) or {
        "graphs": {"text": {"file": "text.onnx", "agreement": {"embeds": {"lowest_cosine": 0.5}}}}
    })  # fmt: skip
    output = run("export", "model", "exported", "--dtype", "float16")
    assert asked == [(("model", Path("exported/onnx")), {"dtype": "float16"})]
    assert "text.onnx: cosine with the model 0.5000 or more" in output and "CLIPModel of" in output
    ours, plain = BetaCLIPModel.from_pretrained("model").eval(), CLIPModel.from_pretrained("exported/clip").eval()
    pixels = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        features = [model.get_image_features(pixels).pooler_output for model in (ours, plain)]
    torch.testing.assert_close(*features, rtol=0, atol=1e-5)


def test_push(desk, run, monkeypatch) -> None:
    output = run("push", "model", "me/photos", "--license", "cc-by-4.0")
    assert "license: cc-by-4.0" in (desk / "repository" / "README.md").read_text(encoding="utf-8")
    assert {"README.md", "model.safetensors"} <= {Path(line.split()[-1]).name for line in output.splitlines()[:-1]}
    pushed = []
    monkeypatch.setattr("beta_clip_hf.release.hub.push", lambda *words, **options: pushed.append((words, options)))
    run("push", "model", "me/photos", "--license", "cc-by-4.0", "--upload")
    assert pushed == [(("model", "me/photos"), {"private": True, "license": "cc-by-4.0"})]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_kept_with_what_it_prints(name) -> None:
    nbformat = pytest.importorskip("nbformat")
    content = (EXAMPLES / name).read_text(encoding="utf-8")
    assert len(content.encode()) <= 2**20
    assert not re.search(r"(?<![\w.~-])/(?:home|root|tmp|work|opt|mnt|usr)/\w", content)
    notebook = nbformat.reads(content, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))  # run once, from top to bottom
    outputs = list(chain.from_iterable(cell.outputs for cell in cells))
    assert {output.output_type for output in outputs} <= {"display_data", "stream", "execute_result"}
    assert {output.name for output in outputs if output.output_type == "stream"} == {"stdout"}
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 4
    assert sum("parameters" in cell.metadata.get("tags", ()) for cell in cells) == 1
    assert notebook.metadata.kernelspec.name == "python3"


def kinds_of(output) -> set[str]:
    """What an output is shown as; of a picture that comes in two formats, one is kept."""
    return set(output.get("data", ["stream"])) - {"image/jpeg"}


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs(name, tmp_path, tiny_model, tiny_processor, monkeypatch) -> None:
    """As it is, from another folder, with few steps and scenes."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("lancedb")
    monkeypatch.delenv("MPLBACKEND")  # the notebook's own
    monkeypatch.setenv("BETA_CLIP_STEPS", "2")
    monkeypatch.setenv("BETA_CLIP_SCENES", "64" if name.startswith("01") else "10")
    monkeypatch.setenv("BETA_CLIP_MODEL", "model")
    for part in (tiny_model, tiny_processor):
        part.save_pretrained(tmp_path / "model")
    notebook = nbformat.read(EXAMPLES / name, as_version=4)
    kept = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    made = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    for before, after in zip(kept, made, strict=True):  # as many pictures, tables and texts as are kept
        # Other libraries may warn of what they find on this machine.
        shown = [output for output in after if output.get("name") != "stderr"]
        assert [kinds_of(output) for output in before] == [kinds_of(output) for output in shown]
    if name.startswith("01"):
        assert BetaCLIPModel.from_pretrained(tmp_path / "runs" / "photos").config.projection_dim == 128
