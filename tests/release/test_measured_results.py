"""A card has the results of its own weights on images that they were not trained on, and names the data."""

import json
from types import SimpleNamespace

import pytest
import torch
import yaml
from PIL import Image

from beta_clip_cli.main import main
from beta_clip_hf import BetaCLIPModel, SceneDataset
from beta_clip_hf.data.readers import load_rows
from beta_clip_hf.inference.identity import model_hash, weights_hash
from beta_clip_hf.inference.image_sample import ImageSample
from beta_clip_hf.release.model_card import render_card
from beta_clip_hf.training.record.image_record import record_images


pytestmark = pytest.mark.slow


@pytest.fixture
def folder(checkpoint):
    """A model with the records of its training."""
    record = {"steps": 3, "images_per_step": 4, "weights": weights_hash(checkpoint), "environment": None}
    trained = {"before": {"eval_t2i_r1": 0.125}, "after": {"eval_t2i_r1": 0.625}, "train": {}, "run": record}
    (checkpoint / "train_results.json").write_text(json.dumps(trained))
    (checkpoint / "train_config.json").write_text(
        json.dumps({"data": {"train": "a/all.jsonl", "eval": "b/some.jsonl"}})
    )
    return checkpoint


@pytest.fixture
def photos(tmp_path):
    """Ten photos, and files of rows that name some of them by copies of other names."""
    desk = tmp_path / "desk"
    desk.mkdir()
    for number in range(10):
        Image.new("RGB", (40, 30), (25 * number, 90, 10)).save(desk / f"{number}.png")
        (desk / f"copy{number}.png").write_bytes((desk / f"{number}.png").read_bytes())

    def rows(name, *images):
        lines = [json.dumps({"image": f"{image}.png", "caption": f"photo {image}"}) + "\n" for image in images]
        (desk / name).write_text("".join(lines))
        return desk / name

    return rows


def evaluate(model, data, output, *options):
    arguments = ["--tasks", "photos", "--no-pictures", "--no-conditioned", "--no-hierarchical", "--device", "cpu"]
    command = ["evaluate", "--model", str(model), "--data", str(data), "--output", str(output), *arguments, *options]
    assert main(command) == 0


def train_on(folder, train, evaluation=None):
    """Records the images of a training."""
    trainer = SimpleNamespace(
        is_world_process_zero=lambda: True,
        args=SimpleNamespace(output_dir=str(folder)),
        train_dataset=load_rows(str(train)),
        eval_dataset=None if evaluation is None else load_rows(str(evaluation)),
    )
    record_images(trainer)


def other_weights(folder, target):
    model = BetaCLIPModel.from_pretrained(folder)
    with torch.no_grad():
        model.logit_scale += 1
    model.save_pretrained(target)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_results_are_those_of_the_pushed_weights(folder, photos, tmp_path, dtype):
    evaluate(folder, photos("test.jsonl", 0, 1, 2), folder / "evaluation", "--dtype", dtype)
    assert main(["push", str(folder), "me/model", "--dry-run", str(tmp_path / "repository")]) == 0
    card = (tmp_path / "repository" / "README.md").read_text()
    results = json.loads((tmp_path / "repository" / "results.json").read_text())
    digest = results["tasks"]["photos"]["data_hash"][:12]
    (row,) = [line for line in card.splitlines() if "`long/cls/text_to_image/R@1`" in line]
    assert row.startswith("| photos | photos/v1 |") and row.endswith(f"| 3 | `test.jsonl`, sha256 {digest} |")
    head = yaml.safe_load(card.split("---\n")[1])
    assert head["model-index"][0]["results"][0]["dataset"]["args"] == {"data": f"`test.jsonl`, sha256 {digest}"}
    # Hashes of single images would tell who has a photo.
    assert "images" not in results["tasks"]["photos"]


@pytest.mark.parametrize("place", [".", "evaluation"])
def test_results_of_other_weights_are_not_published(folder, photos, tmp_path, caplog, place):
    other_weights(folder, tmp_path / "other")
    (tmp_path / "other" / "processor_config.json").write_bytes((folder / "processor_config.json").read_bytes())
    for path in folder.glob("token*"):
        (tmp_path / "other" / path.name).write_bytes(path.read_bytes())
    evaluate(tmp_path / "other", photos("test.jsonl", 0, 1, 2), folder / place)
    assert main(["push", str(folder), "me/model", "--dry-run", str(tmp_path / "repository")]) == 0
    card = (tmp_path / "repository" / "README.md").read_text()
    assert "Nothing was measured." in card and "photos/v1" not in card and "model-index" not in card
    assert not (tmp_path / "repository" / "results.json").exists()
    assert f"{folder / place / 'results.json'} is left out: it was measured on other weights" in caplog.text
    assert f"beta-clip evaluate --model {folder}" in caplog.text
    # Right results in the other place count.
    evaluate(folder, photos("test.jsonl", 0, 1, 2), folder / ({".", "evaluation"} - {place}).pop())
    assert "| photos | photos/v1 |" in str(render_card(folder, "me/model"))


def test_the_record_of_a_training_is_about_its_weights(folder, tmp_path, caplog):
    assert "before training, per cent: t2i_r1 12.5." in str(render_card(folder, "me/model"))
    assert "The evaluation rows: `some.jsonl`." in str(render_card(folder, "me/model"))
    other_weights(folder, folder)
    assert main(["push", str(folder), "me/model", "--dry-run", str(tmp_path / "repository")]) == 0
    card = (tmp_path / "repository" / "README.md").read_text()
    assert "The training is not recorded." in card and "62.5" not in card and "all.jsonl" not in card
    assert not {"train_config.json", "train_results.json"} & {path.name for path in (tmp_path / "repository").iterdir()}
    assert "they are about other weights" in caplog.text


def test_a_card_says_of_which_step_the_weights_are_and_what_chance_gives(folder):
    """Recalls among 40 images: R@1 by chance is 2.5 %."""
    card = str(render_card(folder, "me/model"))
    assert "The weights are those of step" not in card and "chance" not in card.partition("## Training")[2]
    trained = json.loads((folder / "train_results.json").read_text())
    trained["best_checkpoint"] = "runs/photos/checkpoint-2"
    trained["before"]["eval_images"] = trained["after"]["eval_images"] = 40
    (folder / "train_results.json").write_text(json.dumps(trained))
    recipe = json.loads((folder / "train_config.json").read_text())
    recipe["training"] = {"metric_for_best_model": "t2i_r5"}
    (folder / "train_config.json").write_text(json.dumps(recipe))
    card = str(render_card(folder, "me/model"))
    assert "The weights are those of step 2, the best by `t2i_r5` on the evaluation rows." in card
    assert "after training, per cent: t2i_r1 62.5 (chance 2.5)." in card


def test_scores_on_training_images_are_no_results(folder, photos, caplog):
    """Whatever the file is called, and wherever it lies."""
    train_on(folder, photos("train.jsonl", *range(8)))
    data = photos("elsewhere.jsonl", "copy0", "copy1", "copy5")
    evaluate(folder, data, folder / "evaluation")
    card = str(render_card(folder, "me/model"))
    assert "Scores of `photos` are no results: 100% of their images were trained on." in card
    assert "Nothing was measured on images that it was not trained on." in card and "photos/v1" not in card
    evaluate(folder, photos("mixed.jsonl", "copy7", 8, 9), folder / "evaluation")
    assert "33% of their images were trained on" in str(render_card(folder, "me/model"))
    evaluate(folder, photos("test.jsonl", 8, "copy9"), folder / "evaluation")
    card = str(render_card(folder, "me/model"))
    assert "| photos | photos/v1 |" in card and "trained on" not in card.partition("## Results")[2].partition("##")[0]
    (folder / "train_images.json").unlink()
    assert "Whether images of `photos` were trained on is not recorded." in str(render_card(folder, "me/model"))


def test_a_training_evaluated_on_its_own_images_says_so(folder, photos, caplog):
    train, test = photos("train.jsonl", *range(6)), photos("test.jsonl", 6, 7)
    train_on(folder, train, test)
    assert "62.5" in str(render_card(folder, "me/model")) and "also trained on" not in caplog.text
    train_on(folder, train, train)
    assert "100 % of the images of the evaluation rows are also trained on" in caplog.text
    card = str(render_card(folder, "me/model"))
    assert "62.5" not in card
    assert "100 % of the images of the evaluation rows were also trained on, so their scores are no results" in card


def test_samples_of_large_data_sets_estimate_the_share(monkeypatch):
    digests = [number.to_bytes(32, "big")[::-1] for number in range(1000)]
    whole = ImageSample.of_digests(b"".join(digests))
    assert (whole.total, len(whole.digests), whole.share_in(whole)) == (1000, 1000, 1.0)
    monkeypatch.setattr("beta_clip_hf.inference.image_sample.SAMPLED_IMAGES", 250)
    sampled = ImageSample.of_digests(b"".join(digests))
    assert (sampled.total, len(sampled.digests)) == (1000, 250)
    half = ImageSample.of_digests(b"".join(digests[:125] + [bytes([n]) * 32 for n in range(2, 127)]))
    assert half.share_in(sampled) == pytest.approx(0.5, abs=0.05) and half.share_in(whole) == 0.5
    assert ImageSample.from_json(json.loads(json.dumps(half.to_json()))) == half
    assert ImageSample.from_json({"images": 3}) is None and ImageSample.from_json(None) is None


def test_samples_know_scenes_by_their_pixels_and_pass_over_what_cannot_be_read(tmp_path):
    scenes = ImageSample.read(SceneDataset(6, seed=3))
    assert ImageSample.read(SceneDataset(3, seed=3)).share_in(scenes) == 1
    assert ImageSample.read(SceneDataset(3, seed=4)).share_in(scenes) == 0
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    rows = [{"image": str(tmp_path / "a.png")}, {"image": str(tmp_path / "gone.png")}, {"image": None}]
    assert len(ImageSample.read(rows).digests) == 1
    assert ImageSample.read(iter(rows)) is None and ImageSample.read([(1, 2)]) is None


def test_the_hash_of_a_directory_is_that_of_its_model_however_many_files_it_has(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path / "whole")
    tiny_model.save_pretrained(tmp_path / "parts", max_shard_size="100KB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 1
    assert weights_hash(tmp_path / "whole") == weights_hash(tmp_path / "parts") == model_hash(tiny_model)
    assert weights_hash(tmp_path) is None
