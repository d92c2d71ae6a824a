"""`make demo` with fewer steps: the model must learn, be saved, and come back as it was."""

import json
import os
import subprocess
import sys

import pytest
from PIL import Image

from beta_clip_hf import BetaCLIPModel, BetaCLIPProcessor


pytestmark = pytest.mark.stress


STEPS = 150


@pytest.fixture(scope="module")
def demo(project_dir, tmp_path_factory):
    """Directory and standard output of one run of the script, as a user starts it."""
    output = tmp_path_factory.mktemp("demo")
    command = [
        sys.executable,
        "examples/demo.py",
        "--steps",
        str(STEPS),
        "--test-scenes",
        "200",
        "--output",
        str(output),
    ]
    environment = {**os.environ, "PYTHONPATH": str(project_dir / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=project_dir, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return output, done.stdout, done.stderr


def test_training_shows_in_retrieval_hard_negatives_and_pointing(demo):
    results = json.loads((demo[0] / "results.json").read_text())
    before, after = (results[when]["figures"] for when in ("before", "after"))

    def value(figures, name):
        return figures[name]["value"]

    for name, gain in {
        "long/cls/image_to_text/R@1": 0.04,
        "long/cls/text_to_image/R@1": 0.04,
        "long/cls/text_to_image/R@10": 0.25,
        "hard_negatives/conditioned/accuracy": 0.03,
        "hard_negatives[replace]/conditioned/accuracy": 0.3,
        "phrases[noun]/attention/pointing": 0.2,
    }.items():
        assert value(after, name) > value(before, name) + gain, (name, value(before, name), value(after, name))
    # Clear of chance as well, by more than the interval is wide.
    for name in ("long/cls/text_to_image/R@10", "phrases[noun]/attention/pointing"):
        assert after[name]["low"] > after[name]["chance"], name
    assert results["settings"]["steps"] == STEPS


def test_the_table_and_the_pictures_are_there(demo):
    output, printed, progress = demo
    assert "before   after" in printed
    assert printed.count("R@1") == 3
    results = json.loads((output / "results.json").read_text())
    figures = [results[when]["figures"]["phrases[noun]/attention/pointing"] for when in ("before", "after")]
    line = next(line for line in printed.splitlines() if line.startswith("pointing game, attention of noun phrases"))
    cells = [figures[1]["chance"], *(figure["value"] for figure in figures)]
    assert line.split()[-3:] == [f"{100 * cell:.1f}" for cell in cells]
    assert f"{STEPS}/{STEPS}" in progress  # a progress bar reached its end
    for name in ("curves.png", "attention_0.png", "attention_1.png", "attention_2.png"):
        with Image.open(output / name) as picture:
            assert picture.width > 400
            assert len(picture.convert("RGB").getcolors(maxcolors=1 << 24)) > 100, name
        assert str(output / name) in printed


def test_the_saved_model_is_one_to_use(demo):
    model = BetaCLIPModel.from_pretrained(demo[0] / "model")
    processor = BetaCLIPProcessor.from_pretrained(demo[0] / "model")
    inputs = processor(images=Image.new("RGB", (64, 64), "red"), text=["a red square"], return_tensors="pt")
    assert model(**inputs).logits_per_image.shape == (1, 1)
    assert model.config.text_config.eos_token_id == processor.tokenizer.eos_token_id
