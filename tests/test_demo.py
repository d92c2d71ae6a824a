"""`make demo` with fewer steps: β-CLIP must do what a plain fine-tuning does not, be saved, and come back as it was."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from beta_clip_cli.main import main
from beta_clip_hf import BetaCLIPModel, BetaCLIPProcessor


pytestmark = pytest.mark.stress

REGION = "region_negatives/{}/accuracy"
PICTURES = ("curves.png", "attention_0.png", "attention_1.png", "attention_2.png")
HARD_NEGATIVES = ("hard_negatives_before.png", "hard_negatives_after.png")


def run_demo(project_dir: Path, output: Path, *words: str) -> tuple[str, str]:
    """Runs the script as a user starts it. Returns what it has printed, and its progress."""
    command = [sys.executable, "examples/demo.py", "--output", str(output), *words]
    environment = {**os.environ, "PYTHONPATH": str(project_dir / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=project_dir, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def figures_of(output: Path, name: str) -> dict[str, float]:
    """The values of one of the models, by the names of the metrics."""
    results = json.loads((output / "results.json").read_text(encoding="utf-8"))
    return {key: figure["value"] for key, figure in results[name]["figures"].items()}


def best_region_accuracy(figures: dict[str, float]) -> float:
    names = [REGION.format(score) for score in ("cls", "region", "conditioned")]
    return max(figures[name] for name in names if name in figures)


def check_pictures(output: Path, printed: str, names: tuple[str, ...]) -> None:
    for name in names:
        with Image.open(output / name) as picture:
            assert picture.width > 400
            assert len(picture.convert("RGB").getcolors(maxcolors=1 << 24)) > 100, name
        assert str(output / name) in printed


def check_model(folder: Path) -> None:
    """The saved model is one to use."""
    model, processor = BetaCLIPModel.from_pretrained(folder), BetaCLIPProcessor.from_pretrained(folder)
    inputs = processor(images=Image.new("RGB", (64, 64), "red"), text=["a red square"], return_tensors="pt")
    assert model(**inputs).logits_per_image.shape == (1, 1)
    assert model.config.text_config.eos_token_id == processor.tokenizer.eos_token_id


def test_beta_clip_does_what_a_plain_fine_tuning_does_not(project_dir, tmp_path, monkeypatch) -> None:
    printed, progress = run_demo(project_dir, tmp_path, "--steps", "60", "--test-scenes", "150")
    assert progress.count("60/60") >= 2  # both progress bars reached their end
    before, control, after = (figures_of(tmp_path, name) for name in ("before", "control", "after"))
    assert best_region_accuracy(after) > best_region_accuracy(control) + 0.2
    assert best_region_accuracy(after) > best_region_accuracy(before) + 0.2
    # What CLIP could do is kept.
    assert after["long/cls/text_to_image/R@10"] > 0.9 * before["long/cls/text_to_image/R@10"]
    assert not [name for name in control if "conditioned" in name or "attention" in name]

    # The table shows what is in the file.
    columns = re.split(r"  +", next(line for line in printed.splitlines() if " chance " in line))
    assert columns[1:] == ["chance", "before", "plain fine-tuning", "β-CLIP"]
    line = next(line for line in printed.splitlines() if line.startswith("true text of a region among 11, best"))
    shown = re.findall(r"(\d+\.\d) \(\d+–\d+\)", line)
    assert shown == [f"{100 * best_region_accuracy(figures):.1f}" for figures in (before, control, after)]
    check_pictures(tmp_path, printed, PICTURES + HARD_NEGATIVES)
    check_model(tmp_path / "model")
    assert len(list((tmp_path / "photos").glob("*.png"))) == 50
    # The commands that it ends with work. The last one would serve a page until it is interrupted.
    monkeypatch.chdir(tmp_path)
    commands = [shlex.split(line) for line in printed.splitlines() if line.startswith("  beta-clip ")]
    assert [words[1] for words in commands] == ["show", "index", "search", "demo"]
    for words in commands[:-1]:
        assert main(words[1:]) == 0
    assert commands[-1][2:] == ["--model", str(tmp_path / "model")]
    assert "<img" in (tmp_path / "photos.html").read_text(encoding="utf-8")


def test_from_scratch(project_dir, tmp_path) -> None:
    """A model with random weights learns where its phrases look, and which colours there are."""
    printed, progress = run_demo(project_dir, tmp_path, "--from-scratch", "--steps", "150", "--test-scenes", "200")
    assert "150/150" in progress
    before, after = figures_of(tmp_path, "before"), figures_of(tmp_path, "after")
    for name, gain in {
        "long/cls/text_to_image/R@10": 0.25,
        "hard_negatives[replace]/conditioned/accuracy": 0.3,
        "phrases[noun]/attention/pointing": 0.2,
    }.items():
        assert after[name] > before[name] + gain, (name, before[name], after[name])
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    for name in ("long/cls/text_to_image/R@10", "phrases[noun]/attention/pointing"):
        assert results["after"]["figures"][name]["low"] > results["after"]["figures"][name]["chance"], name
    assert results["settings"]["steps"] == 150
    assert "true caption among 5" in printed
    check_pictures(tmp_path, printed, PICTURES)
    check_model(tmp_path / "model")
