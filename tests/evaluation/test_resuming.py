"""What a second evaluation takes from an earlier one, and what it measures again."""

import io
import json
import tarfile

import pytest
import torch
from PIL import Image

from beta_clip_hf import BetaCLIPProcessor
from beta_clip_hf.evaluation import probes
from beta_clip_hf.inference import reading
from evaluation.suite_helpers import command, results_of, tasks_of


pytestmark = pytest.mark.slow


def test_an_evaluation_that_was_stopped_goes_on_and_ends_with_the_same_file(checkpoint, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(probes, "IMAGES_PER_SHARD", 2)
    arguments = ["--model", checkpoint, "--data", photos, "--tasks", "photos,scenes", "--limit", 5, "--batch-size", 1]
    command(*arguments, "--output", tmp_path / "whole")
    whole, read = tmp_path / "stopped", []
    load_image = reading.load_image

    def stops(image):
        read.append(image)
        if len(read) == 7:  # the third image of the scenes: photos and a shard of two scenes are done
            raise KeyboardInterrupt
        return load_image(image)

    monkeypatch.setattr(reading, "load_image", stops)
    with pytest.raises(KeyboardInterrupt):
        command(*arguments, "--output", whole)
    assert list(tasks_of(whole)) == ["photos"]
    command(*arguments, "--output", whole)
    assert len(read) == 7 + 3 and results_of(whole) == results_of(tmp_path / "whole")
    assert not (whole / "unfinished").exists()
    command(*arguments, "--output", whole)
    assert len(read) == 7 + 3 and results_of(whole) == results_of(tmp_path / "whole")


def test_another_model_or_another_image_is_measured_again(checkpoint, photos, tiny_model, tmp_path):
    arguments = ("--model", checkpoint, "--data", photos, "--output", tmp_path / "out", "--tasks", "photos")
    command(*arguments)
    first = tasks_of(tmp_path / "out")["photos"]
    Image.new("RGB", (60, 40), "yellow").save(photos / "0.png")
    command(*arguments)
    second = tasks_of(tmp_path / "out")["photos"]
    assert second["data_hash"] != first["data_hash"]
    with torch.no_grad():
        tiny_model.visual_projection.weight.neg_()
    tiny_model.save_pretrained(checkpoint)
    command(*arguments)
    third = tasks_of(tmp_path / "out")["photos"]
    assert third["key"] != second["key"] and third["figures"] != second["figures"]


@pytest.mark.parametrize(
    ("file", "keys", "value"),
    [
        ("processor_config.json", ("max_length",), 8),
        ("processor_config.json", ("image_processor", "image_mean"), [0.1, 0.2, 0.3]),
        ("config.json", ("vision_config", "hidden_act"), "relu"),
        ("tokenizer_config.json", ("model_max_length",), 9),
    ],
)
def test_the_same_weights_otherwise_used_are_measured_again(checkpoint, photos, tmp_path, file, keys, value):
    arguments = ("--model", checkpoint, "--data", photos, "--output", tmp_path / "out", "--tasks", "photos")
    command(*arguments)
    before = json.loads((tmp_path / "out" / "results.json").read_text())
    settings = inner = json.loads((checkpoint / file).read_text())
    for key in keys[:-1]:
        inner = inner[key]
    assert inner[keys[-1]] != value
    inner[keys[-1]] = value
    (checkpoint / file).write_text(json.dumps(settings))
    command(*arguments)
    after = json.loads((tmp_path / "out" / "results.json").read_text())
    assert after["model"]["sha256"] == before["model"]["sha256"]
    assert after["model"]["config_sha256"] != before["model"]["config_sha256"]
    assert after["tasks"]["photos"]["key"] != before["tasks"]["photos"]["key"]


def test_a_model_saved_again_is_the_same(checkpoint, photos, tmp_path):
    """By another version, say, or after its tokenizer was used."""
    arguments = ("--data", photos, "--output", tmp_path / "out", "--tasks", "photos")
    command("--model", checkpoint, *arguments)
    before = results_of(tmp_path / "out")
    processor = BetaCLIPProcessor.from_pretrained(checkpoint)
    processor(text=["used"], padding="max_length")
    processor.save_pretrained(checkpoint)
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"transformers_version": "5.0.0"}))
    command("--model", checkpoint, *arguments)
    assert results_of(tmp_path / "out") == before


def test_images_of_tars_that_were_replaced_are_measured_again(checkpoint, tmp_path):
    def write_tar(colour):
        with tarfile.open(tmp_path / "test-0.tar", "w") as tar:
            for key in ("a", "b"):
                image = io.BytesIO()
                Image.new("RGB", (40, 40), colour if key == "a" else "black").save(image, "PNG")
                for name, content in ((f"{key}.png", image.getvalue()), (f"{key}.json", b'{"caption": "an image"}')):
                    entry = tarfile.TarInfo(name)
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))

    hashes = []
    for colour in ("red", "red", "green"):
        write_tar(colour)
        command(
            "--model", checkpoint, "--data", tmp_path / "test-0.tar", "--output", tmp_path / "out", "--tasks", "photos"
        )
        hashes.append([tasks_of(tmp_path / "out")["photos"][name] for name in ("key", "data_hash", "seconds")])
    assert hashes[0] == hashes[1] and all(a != b for a, b in zip(hashes[1][:2], hashes[2][:2], strict=True))


def test_tasks_of_earlier_runs_stay(checkpoint, photos, tmp_path, monkeypatch):
    arguments = ["--model", checkpoint, "--data", photos, "--output", tmp_path / "out", "--limit", 2]
    command(*arguments, "--tasks", "scenes")
    scenes = tasks_of(tmp_path / "out")["scenes"]
    command(*arguments, "--tasks", "photos", "--batch-size", 1)
    tasks = tasks_of(tmp_path / "out")
    assert list(tasks) == ["scenes", "photos"] and tasks["scenes"] == scenes
    assert (scenes["settings"]["batch_size"], tasks["photos"]["settings"]["batch_size"]) == (32, 1)

    def stops(image):
        raise KeyboardInterrupt

    monkeypatch.setattr(reading, "load_image", stops)
    with pytest.raises(KeyboardInterrupt):
        command(*arguments, "--tasks", "photos,scenes", "--seed", 1)
    assert tasks_of(tmp_path / "out") == tasks


def test_what_was_deleted_beside_the_results_is_made_again(checkpoint, photos, tmp_path):
    output = tmp_path / "out"
    arguments = ("--model", checkpoint, "--data", photos, "--output", output, "--tasks", "photos")
    command(*arguments, "--no-pictures")
    assert tasks_of(output)["photos"]["pictures"] is None and not (output / "pictures").exists()
    command(*arguments)
    pictures = tasks_of(output)["photos"]["pictures"]
    assert "pictures/photos-long-misses.html" in pictures and all((output / picture).is_file() for picture in pictures)
    before = results_of(output)
    seconds = tasks_of(output)["photos"]["seconds"]
    command(*arguments, "--no-pictures")
    assert results_of(output) == before and tasks_of(output)["photos"]["seconds"] == seconds
    for file in ("values/photos.safetensors", pictures[0]):
        (output / file).unlink()
        command(*arguments)
        assert (output / file).is_file() and results_of(output) == before


@pytest.mark.parametrize("damaged", ["{", "[]", '"x"', '{"schema": 3}', '{"schema": 2, "tasks": {}}'])
def test_damaged_results_are_replaced(checkpoint, tmp_path, caplog, damaged):
    (tmp_path / "results.json").write_text(damaged)
    command("--model", checkpoint, "--tasks", "scenes", "--output", tmp_path, "--limit", 2, "--no-pictures")
    assert list(tasks_of(tmp_path)) == ["scenes"]
    assert f"{tmp_path / 'results.json'} is not of this version of beta-clip evaluate" in caplog.text


def test_a_damaged_shard_is_done_again_and_those_given_up_go(checkpoint, photos, tmp_path, monkeypatch, caplog):
    arguments = ["--model", checkpoint, "--data", photos, "--tasks", "photos", "--batch-size", 1, "--no-pictures"]
    command(*arguments, "--output", tmp_path / "whole")
    monkeypatch.setattr(probes, "IMAGES_PER_SHARD", 2)
    load_image, read, output = reading.load_image, [], tmp_path / "stopped"

    def stops(image):
        read.append(image)
        if len(read) in (3, 6):
            raise KeyboardInterrupt
        return load_image(image)

    monkeypatch.setattr(reading, "load_image", stops)
    for seed in (1, 0):  # the first one is given up
        with pytest.raises(KeyboardInterrupt):
            command(*arguments, "--seed", seed, "--output", output)
    shards = list(output.glob("unfinished/photos-*/all/images-*.safetensors"))
    assert len(shards) == 2
    for shard in shards:
        shard.write_bytes(shard.read_bytes()[:200])
    command(*arguments, "--output", output)
    assert "is damaged" in caplog.text and results_of(output) == results_of(tmp_path / "whole")
    assert not (output / "unfinished").exists()
