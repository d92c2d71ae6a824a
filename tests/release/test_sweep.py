"""The sweep over alphas: each model is evaluated, and a table and a figure say which alpha to take."""

import json

import pytest
import torch
from PIL import Image

from beta_clip_cli.main import main
from beta_clip_hf import BetaCLIPModel, BetaSiglip2Model, BetaSiglip2Processor
from beta_clip_hf.evaluation.metric_names import MetricName
from beta_clip_hf.inference.identity import model_hash
from beta_clip_hf.release.sweep import draw_sweep, format_sweep
from release.tuned_models import perturbed, saved
from training.siglip2_recipes import save_siglip2


pytestmark = pytest.mark.slow


@pytest.fixture
def tuned_dir(tiny_clip_dir, tiny_processor, tmp_path):
    return saved(perturbed(BetaCLIPModel.from_pretrained(tiny_clip_dir)), tmp_path / "tuned", tiny_processor)


@pytest.fixture
def photos(tmp_path):
    rows = []
    for index, colour in enumerate(("red", "green", "blue", "white")):
        Image.new("RGB", (50, 40), colour).save(tmp_path / f"{index}.png")
        captions = [f"A {colour} image.", f"All is {colour}."]
        rows.append({"image": f"{index}.png", "captions": captions, "hard_negatives": ["A grey image."]})
    path = tmp_path / "photos.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_sweep_evaluates_each_alpha(tiny_clip_dir, tuned_dir, photos, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    out = tmp_path / "sweep"
    command = ["interpolate", str(tiny_clip_dir), str(tuned_dir), str(out), "--alpha", "1", "0", "0.25"]
    evaluation = ["--tasks", "photos", "--data", str(photos), "--device", "cpu", "--batch-size", "2"]
    assert main([*command, *evaluation]) == 0
    summary = json.loads((out / "sweep.json").read_text())
    assert [point["alpha"] for point in summary["alphas"]] == [0, 0.25, 1]
    assert summary["settings"]["data"] == str(photos) and summary["environment"]["torch"] == torch.__version__
    for point in summary["alphas"]:
        folder = out / f"alpha_{point['alpha']:g}"
        assert point["model"]["sha256"] == model_hash(BetaCLIPModel.from_pretrained(folder))
        assert point["tasks"] == json.loads((folder / "evaluation/results.json").read_text())["tasks"]
    assert summary["alphas"][2]["model"]["sha256"] == model_hash(BetaCLIPModel.from_pretrained(tuned_dir))
    table = capsys.readouterr().out.splitlines()
    assert table[1].split() == ["chance", "0", "0.25", "1"]
    (line,) = (line for line in table if line.startswith("photos: long/cls/text_to_image/R@1 "))
    key = "long/cls/text_to_image/R@1"
    values = [point["tasks"]["photos"]["figures"][key]["value"] for point in summary["alphas"]]
    assert line.split()[-4:] == ["25.0", *(f"{100 * value:.1f}" for value in values)]
    assert any("hard_negatives/conditioned/accuracy" in line for line in table)
    assert not any("R@5" in line or "median" in line for line in table)
    with Image.open(out / "sweep.png") as picture:
        assert picture.format == "PNG" and picture.width > 1000


def test_a_sweep_may_keep_its_figures_only(tiny_clip_dir, tuned_dir, photos, tmp_path):
    pytest.importorskip("matplotlib")
    out = tmp_path / "sweep"
    command = ["interpolate", str(tiny_clip_dir), str(tuned_dir), str(out), "--alpha", "0.5", "--discard"]
    assert main([*command, "--tasks", "photos", "--data", str(photos), "--device", "cpu", "--no-conditioned"]) == 0
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert files >= {"sweep.json", "sweep.png", "alpha_0.5/evaluation/results.json"}
    assert all(name.startswith(("sweep.", "alpha_0.5/evaluation/")) for name in files)  # no model


def test_a_sweep_takes_siglip2(photos, tmp_path):
    pytest.importorskip("matplotlib")
    base = save_siglip2(tmp_path / "siglip2")
    model = perturbed(BetaSiglip2Model.from_pretrained(base, use_pooler=True))
    tuned = saved(model, tmp_path / "tuned", BetaSiglip2Processor.from_pretrained(base))
    out = tmp_path / "sweep"
    command = ["interpolate", str(base), str(tuned), str(out), "--alpha", "0.5", "1"]
    assert main([*command, "--tasks", "photos", "--data", str(photos), "--device", "cpu"]) == 0
    summary = json.loads((out / "sweep.json").read_text())
    half, whole = summary["alphas"]
    assert whole["model"]["sha256"] == model_hash(BetaSiglip2Model.from_pretrained(tuned))
    assert "long/cls/text_to_image/R@1" in half["tasks"]["photos"]["figures"]
    start, mixed = (BetaSiglip2Model.from_pretrained(folder) for folder in (base, out / "alpha_0.5"))
    expected = start.logit_scale.lerp(model.logit_scale, 0.5)
    torch.testing.assert_close(mixed.logit_scale, expected)


def record(value, name):
    numbers = {"value": value, "chance": 0.01, "low": value - 0.02, "high": value + 0.02, "count": 100}
    return {str(name): {**numbers, "name": name.to_json()}}


SWEEP = {
    "alphas": [
        {
            "alpha": alpha,
            "tasks": {
                "photos": {
                    "figures": {
                        **record(0.2 + 0.4 * alpha, MetricName("long", "cls", "R@1", "text_to_image")),
                        **record(0.25 + 0.3 * alpha, MetricName("long", "cls", "R@1", "image_to_text")),
                        **record(0.9, MetricName("long", "cls", "R@5", "text_to_image")),
                        **record(3.0, MetricName("long", "cls", "median_rank", "text_to_image")),
                        **record(0.9, MetricName("hard_negatives", "cls", "accuracy", subset="colour")),
                        **record(0.4, MetricName("phrases", "centre", "pointing")),
                        **record(0.5, MetricName("phrases", "attention", "pointing", head=1)),
                        **record(0.6 - 0.2 * alpha, MetricName("phrases", "attention", "pointing")),
                    }
                }
            },
        }
        for alpha in (0, 0.5, 1)
    ]
}


def test_the_table_has_the_headlines_in_per_cent():
    lines = format_sweep(SWEEP).splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["chance", "0", "0.5", "1"],
        ["photos:", "long/cls/text_to_image/R@1", "1.0", "20.0", "40.0", "60.0"],
        ["photos:", "long/cls/image_to_text/R@1", "1.0", "25.0", "40.0", "55.0"],
        ["photos:", "phrases/attention/pointing", "1.0", "60.0", "50.0", "40.0"],
    ]


def test_the_picture_has_a_panel_for_each_kind_and_a_curve_for_each_figure(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    made, initialise = [], Figure.__init__
    monkeypatch.setattr(Figure, "__init__", lambda self, *a, **k: (made.append(self), initialise(self, *a, **k))[1])
    assert draw_sweep(SWEEP, tmp_path / "sweep.png") == tmp_path / "sweep.png"
    panels = {axes.get_title(loc="left"): axes for axes in made[0].axes}
    assert list(panels) == ["photos: long", "photos: phrases"]
    curves = {
        line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in panels["photos: long"].lines
    }
    assert list(curves) == ["CLS text to image R@1", "CLS image to text R@1"]
    (band, _) = panels["photos: long"].collections
    low, high = band.get_paths()[0].get_extents().intervaly
    assert (low, high) == (pytest.approx(18), pytest.approx(62))
    assert curves["CLS text to image R@1"] == ([0, 0.5, 1], pytest.approx([20, 40, 60]))
    with pytest.raises(ValueError, match="metrics must include one of R@1, accuracy, pointing, but do not"):
        draw_sweep({"alphas": [{"alpha": 0, "tasks": {"photos": {"figures": {}}}}]}, tmp_path / "none.png")


def test_a_missing_matplotlib_is_told_before_any_work(tiny_clip_dir, tuned_dir, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    command = ["interpolate", str(tiny_clip_dir), str(tuned_dir), str(tmp_path / "out"), "--tasks", "photos"]
    assert main([*command, "--data", str(photos)]) == 1
    assert "pip install matplotlib" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
