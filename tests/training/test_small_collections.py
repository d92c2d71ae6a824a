"""`beta-clip train PHOTOS`: the recipe for their number, the photos that are held out, the plan, before and after."""

import json
import logging
import warnings

import pytest
import torch
from PIL import Image

from beta_clip_cli.main import main
from beta_clip_hf import BetaCLIPProcessor
from beta_clip_hf.data.holding_out import hold_out
from beta_clip_hf.data.readers import load_rows
from beta_clip_hf.training.record.outcome import format_outcome
from beta_clip_hf.training.setup import plan
from beta_clip_hf.training.setup.config import read_config
from beta_clip_hf.training.setup.plan import count_steps
from beta_clip_hf.training.setup.recipe import SIZES, choose_recipe, with_recipe
from training.tiny_runs import TensorRows, new_trainer


TINY = ("--steps", "8", "--batch-size", "4", "--set", "training.disable_tqdm=true", "--set", "training.use_cpu=true")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """20 photos with two captions each, one row per caption; the last photo is a copy of the first."""
    folder = tmp_path_factory.mktemp("collection") / "my photos"
    (folder / "images").mkdir(parents=True)
    lines = []
    for number in range(20):
        colour = (13 * (number % 19), 255 - 13 * (number % 19), 100)
        Image.new("RGB", (40, 30), colour).save(folder / "images" / f"{number}.png")
        for text in (f"Picture {number % 19} is here.", "It is one colour."):
            lines.append(json.dumps({"image": f"images/{number}.png", "caption": text}))
    (folder / "photos.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def model(tiny_clip_dir, tiny_tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    for file in tiny_clip_dir.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    BetaCLIPProcessor.from_image_size(tiny_tokenizer, image_size=32).save_pretrained(folder)
    return folder


def test_the_configuration_that_is_written_out_is_the_one_that_is_chosen(project_dir):
    written = read_config(project_dir / "examples/configs/small_collection.yaml")
    assert written["model"].pop("from_pretrained") == "openai/clip-vit-base-patch16"
    assert written == choose_recipe(300)


def test_every_recipe_is_a_configuration_that_trains_enough():
    sizes = [20, 100, 300, 999, 1_000, 9_000, 50_000, 1_000_000]
    for photos in sizes:
        recipe = choose_recipe(photos)
        read_config(None, [(section, values) for section, values in recipe.items()])
        training = recipe["training"]
        images = training["per_device_train_batch_size"] * training["gradient_accumulation_steps"]
        steps = training.get("max_steps") or training["num_train_epochs"] * photos / images
        assert steps >= 200 and 2 <= training["per_device_train_batch_size"] <= photos / 4
        assert recipe["data"]["eval_fraction"] * photos <= 1_000
    met = set()
    for photos in sizes:
        met.add(next(size for size in SIZES if photos < size.below))
    # Each size of collections is met.
    assert met == set(SIZES)


def test_a_recipe_leaves_what_is_given_and_fits_the_model(model):
    base = {"from_pretrained": str(model), "config": {"beta": 0.25}}
    settings = {"model": base, "data": {"train": "p", "num_phrases": 2}}
    filled = with_recipe({**settings, "training": {"max_steps": 7}}, 300)
    assert filled["model"]["config"] == {"use_pooler": True, "beta": 0.25, "alignment_loss": "ce"}
    assert filled["data"]["num_phrases"] == 2 and filled["training"]["max_steps"] == 7
    # The tiny model is narrow: it takes larger steps than ViT-B, and a large one adapters.
    assert filled["training"]["learning_rate"] > choose_recipe(300)["training"]["learning_rate"]
    assert choose_recipe(300, width=1024)["training"]["lora"] == 16
    assert "lora" not in choose_recipe(5_000, width=1024)["training"]
    without = with_recipe({**settings, "data": {"train": "p", "eval_fraction": 0}, "training": {}}, 300)
    assert "eval_strategy" not in without["training"] and without["data"]["eval_fraction"] == 0


def test_photos_are_held_out_by_their_content(photos):
    rows = load_rows(photos / "photos.jsonl")
    train, held = hold_out(rows, 0.25)
    assert len(rows) == 20 and len(train) + len(held) == 20
    ids = [held.rows[number]["id"] for number in held.numbers]
    # 19 distinct photos, of which a quarter is 5. The two copies are on one side.
    assert len(held) in (5, 6) and len({held[i]["caption"] for i in range(len(held))}) == 5
    assert not {train[i]["caption"] for i in range(len(train))} & {held[i]["caption"] for i in range(len(held))}
    backwards = load_rows([json.loads(line) for line in reversed((photos / "photos.jsonl").read_text().splitlines())],
                          image_root=photos)  # fmt: skip
    again = hold_out(backwards, 0.25)[1]
    assert {row["caption"].split(" is here")[0][-2:] for row in again} == {
        row["caption"].split(" is here")[0][-2:] for row in held
    }
    assert hold_out(rows, 0.25, seed=1)[1].fingerprint != held.fingerprint != train.fingerprint
    selected = load_rows(photos / "photos.jsonl", select=held.record_ids())
    assert [row["id"] for row in selected] == ids and selected[0]["captions"] == held[0]["captions"]


@pytest.mark.parametrize(
    ("rows", "fraction", "message"),
    [
        (TensorRows(9), 1.5, "eval_fraction must be above 0 and below 1, but is 1.5"),
        (TensorRows(9), float("nan"), "eval_fraction must be above 0 and below 1"),
        (iter([]), 0.1, "eval_fraction must be left out for a stream"),
        ([{"image": b"1"}, {"image": b"2"}, {"image": b"3"}], 0.1, "must leave at least two photos to train on"),
    ],
)
def test_what_cannot_be_divided_is_told(rows, fraction, message):
    with pytest.raises(ValueError, match=message):
        hold_out(rows, fraction)


@pytest.mark.parametrize(
    "settings",
    [
        {"max_steps": 7},
        {"max_steps": -1, "num_train_epochs": 2},
        {"max_steps": -1, "num_train_epochs": 1.5, "gradient_accumulation_steps": 4},
        {"max_steps": -1, "num_train_epochs": 1, "dataloader_drop_last": False},
    ],
)
def test_steps_are_counted_as_the_trainer_counts_them(settings, tiny_config, tmp_path):
    trainer = new_trainer(tiny_config, tmp_path, rows=26, **settings)
    steps = count_steps(trainer)
    trainer.train()
    assert trainer.state.max_steps == steps == trainer.state.global_step


def test_before_and_after_stand_beside_chance():
    results = {"before": {"eval_i2t_r1": 0.05, "eval_images": 20}, "after": {"eval_i2t_r1": 0.25, "eval_images": 20}}
    lines = format_outcome(results).splitlines()
    assert lines[0].startswith("20 photos to evaluate on") and lines[1].split()[-3:] == ["5.0", "25.0", "5.0"]
    assert format_outcome({"before": None, "after": None}) == ""
    several = {"after": {"eval_a_t2i_r10": 0.5, "eval_a_images": 4}, "run": {"evaluated_sets": ["a"]}}
    assert "a: 4 photos" in format_outcome(several) and format_outcome(several).split()[-3:] == ["–", "50.0", "100.0"]


def test_more_workers_than_cores_are_told_once(tiny_config, tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(plan, "usable_cores", lambda: 2)
    with warnings.catch_warnings():
        plan.Plan(new_trainer(tiny_config, tmp_path, dataloader_num_workers=8)).tell()
        plan.Plan(new_trainer(tiny_config, tmp_path, dataloader_num_workers=2)).tell()
    told = [record.getMessage() for record in caplog.records if "workers read images" in record.getMessage()]
    assert len(told) == 1 and told[0].startswith("8 workers read images, on 2 cores")


@pytest.mark.slow
def test_from_photos_to_before_and_after(photos, model, tmp_path, monkeypatch, capsys, caplog):
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.INFO)
    source = str(photos / "photos.jsonl")
    words = ["train", source, "--model", str(model), *TINY, "--eval-fraction", "0.25"]
    assert main(words) == 0
    out = capsys.readouterr().out
    # The plan comes first, and says that the run is short.
    told = [record.getMessage() for record in caplog.records if record.name.endswith("training.setup.plan")]
    assert "to train on" in told[0] and "8 steps of 4 photos; 3 batches in an epoch" in told[1]
    assert told[2].startswith("plan: all 0.1 million weights are trained; learning rates ") and told[3].startswith(
        "only 8 optimiser steps are ahead"
    )
    # The best evaluation is that of the model that is saved, and the table shows it.
    results = json.loads((tmp_path / "runs/photos/train_results.json").read_text())
    assert results["best_checkpoint"] and results["before"]["eval_images"] == results["after"]["eval_images"]
    assert "before    after   chance" in out and f"{100 * results['after']['eval_t2i_r1']:.1f}" in out
    # The three commands are complete: the first measures the same photos.
    commands = [line.split("beta-clip ")[1] for line in out.splitlines() if line.startswith("  beta-clip ")]
    assert [line.split()[0] for line in commands] == ["evaluate", "index", "push"]
    held = (tmp_path / "runs/photos/held_out.txt").read_text().splitlines()
    assert len(held) == 2 * results["after"]["eval_images"]
    measuring = [
        *("evaluate", "--model", "runs/photos", "--tasks", "photos", "--data", source, "--no-pictures"),
        *("--select", "runs/photos/held_out.txt", "--output", "runs/photos/evaluation"),
    ]
    assert f"--data '{source}' --select runs/photos/held_out.txt" in out
    assert main(measuring) == 0
    assert "photos, in per cent: long/cls/image_to_text/R@1 " in capsys.readouterr().out.splitlines()[-1]
    measured = json.loads((tmp_path / "runs/photos/evaluation/results.json").read_text())["tasks"]["photos"]
    for k in (1, 5):
        recall = measured["figures"][f"long/cls/text_to_image/R@{k}"]
        assert recall["value"] == pytest.approx(results["after"][f"eval_t2i_r{k}"], abs=1e-6)
        assert recall["count"] == results["after"]["eval_images"]
    # The same command with --resume is finished; with another number of photos held out it is another run.
    assert main([*words, "--resume"]) == 0
    torch.manual_seed(0)
    assert main([*words[:-1], "0.5", "--resume"]) == 1
    assert "differs in" in capsys.readouterr().err


def test_photos_are_named_once(model, capsys):
    assert main(["train", "a.jsonl", "--train-data", "b.jsonl", "--model", str(model)]) == 1
    assert "the photos must be named once" in capsys.readouterr().err
