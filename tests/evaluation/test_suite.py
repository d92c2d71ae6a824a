import argparse
import io
import json
import tarfile

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPModel

from beta_clip_hf import BetaCLIPModel, BetaCLIPProcessor, SceneDataset
from beta_clip_hf.evaluation import embedding, retrieval
from beta_clip_hf.evaluation.benchmarks import BENCHMARKS, load_benchmark
from beta_clip_hf.evaluation.evaluator import evaluate
from beta_clip_hf.evaluation.protocols import protocol_of
from beta_clip_hf.evaluation.results import model_hash
from beta_clip_hf.evaluation.suite import add_arguments, run
from ddp_helpers import run_processes


@pytest.fixture
def checkpoint(tiny_model, tiny_processor, tmp_path):
    path = tmp_path / "checkpoint"
    tiny_model.save_pretrained(path)
    tiny_processor.save_pretrained(path)
    return path


@pytest.fixture
def photos(tmp_path):
    """Three images and their rows in the layout of the task."""
    rows = []
    for index, (size, colour) in enumerate([((60, 40), "red"), ((40, 60), "green"), ((50, 50), "blue")]):
        Image.new("RGB", size, colour).save(tmp_path / f"{index}.png")
        phrases = [{"text": f"the {colour} part", "boxes": [[10, 10, 30, 30]], "kind": "human"}, {"text": "no box"}]
        captions = [f"A {colour} image.", f"All is {colour}."]
        rows.append({"image": f"{index}.png", "captions": captions, "phrases": phrases})
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def command(*words):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return run(parser.parse_args([str(word) for word in words]))


def test_a_run_writes_figures_with_all_that_is_needed_to_read_them(checkpoint, photos, tmp_path, capsys):
    output = tmp_path / "new" / "output"
    arguments = ("--model", checkpoint, "--data", photos, "--output", output, "--device", "cpu")
    assert command(*arguments, "--tasks", "photos,scenes", "--limit", 4) == 0
    results = json.loads((output / "results.json").read_text())
    model = BetaCLIPModel.from_pretrained(checkpoint)
    assert results["model"]["sha256"] == model_hash(model)
    assert results["environment"]["torch"] == torch.__version__ and results["settings"]["dtype"] == "float32"
    photos_result, scenes_result = results["tasks"]["photos"], results["tasks"]["scenes"]
    assert (photos_result["protocol"], scenes_result["protocol"]) == ("photos/v1 (first 4)", "scenes/v1 (first 4)")
    assert photos_result["counts"] == {
        "images": 3, "long_texts": 3, "short_texts": 6, "phrases": 3, "phrases_outside_view": 0
    }  # fmt: skip
    figure = photos_result["figures"]["short/all_pairs/text_to_image/R@1"]
    assert figure["count"] == 6 and figure["chance"] == pytest.approx(1 / 3)
    assert 0 <= figure["low"] <= figure["value"] <= figure["high"] <= 1
    assert scenes_result["counts"]["images"] == 4
    assert {
        "hard_negatives/conditioned/accuracy",
        "region_negatives/cls/accuracy",
        "phrases/attention/pointing",
    } <= set(scenes_result["figures"])
    table = capsys.readouterr().out
    for name in [*photos_result["figures"], *scenes_result["figures"]]:
        assert name in table
    assert "95 % interval" in table and "short texts 6" in table


def test_the_same_run_gives_the_same_figures(checkpoint, photos, tmp_path):
    outputs = [tmp_path / "first", tmp_path / "second"]
    for output, batch_size in zip(outputs, (1, 3), strict=True):
        command(
            "--model", checkpoint, "--data", photos, "--output", output, "--tasks", "photos", "--batch-size", batch_size
        )
    first, second = (json.loads((output / "results.json").read_text())["tasks"]["photos"] for output in outputs)
    assert first["data_hash"] == second["data_hash"]
    for name, figure in first["figures"].items():
        assert second["figures"][name] == pytest.approx(figure, abs=1e-5), name


def test_a_part_of_the_data_is_marked_as_such(checkpoint, photos, tmp_path):
    command("--model", checkpoint, "--data", photos, "--output", tmp_path / "part", "--tasks", "photos", "--limit", 2)
    result = json.loads((tmp_path / "part" / "results.json").read_text())["tasks"]["photos"]
    assert result["counts"]["images"] == 2 and result["protocol"] == "photos/v1 (first 2)"


def test_a_plain_clip_has_figures_by_cls_only_and_the_same(tiny_clip_dir, tiny_processor, photos, tmp_path, caplog):
    clip = CLIPModel.from_pretrained(tiny_clip_dir)
    clip.save_pretrained(tmp_path / "clip")
    tiny_processor.save_pretrained(tmp_path / "clip")
    command("--model", tmp_path / "clip", "--data", photos, "--output", tmp_path / "out", "--tasks", "photos")
    figures = json.loads((tmp_path / "out" / "results.json").read_text())["tasks"]["photos"]["figures"]
    assert figures and not any("/conditioned/" in name or "/attention/" in name for name in figures)
    assert "has no trained pooler" in caplog.text
    rows = load_benchmark("photos", photos).parts[0].rows
    by_cls = {name: figure for name, figure in figures.items() if "/cls/" in name}
    assert by_cls and evaluate(clip, tiny_processor, rows)["figures"] == by_cls


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tasks", "photo"], "tasks must be of urban1k, .*, scenes, but one is 'photo'"),
        (["--tasks", ","], "tasks must be of urban1k, .*, scenes, but one is ','"),
        (["--tasks", "photos"], "data must be"),
        (["--tasks", "scenes", "--limit", "0"], "limit must be at least 1"),
    ],
)
def test_wrong_arguments_are_refused(checkpoint, tmp_path, words, message):
    with pytest.raises(ValueError, match=message):
        command("--model", checkpoint, "--output", tmp_path, *words)
    assert not (tmp_path / "results.json").exists()


def test_a_row_that_cannot_be_read_is_an_error_not_a_smaller_data_set(checkpoint, photos, tmp_path):
    (photos / "1.png").unlink()
    with pytest.raises(ValueError, match=r"1\.png"):
        command("--model", checkpoint, "--data", photos, "--output", tmp_path / "out", "--tasks", "photos")
    assert not (tmp_path / "out").exists()


def test_no_rows_are_refused(tiny_model, tiny_processor):
    with pytest.raises(ValueError, match="at least one"):
        evaluate(tiny_model, tiny_processor, [])


def test_without_a_pooler_nothing_is_conditioned(tiny_config, tiny_processor):
    tiny_config.use_pooler = False
    figures = evaluate(BetaCLIPModel(tiny_config), tiny_processor, SceneDataset(2, image_size=32))["figures"]
    scores = {name.split("/")[1] for name in figures if not name.startswith(("long", "short", "phrases"))}
    assert scores == {"cls", "region"} and "hard_negatives/cls/accuracy" in figures
    assert "phrases/patch_similarity/pointing" in figures and not any("/attention" in name for name in figures)
    assert not any("/conditioned/" in name for name in figures)


def test_the_hash_knows_the_weights_and_nothing_else(tiny_model, checkpoint):
    before = model_hash(tiny_model)
    assert before == model_hash(BetaCLIPModel.from_pretrained(checkpoint))
    with torch.no_grad():
        tiny_model.pooler.logit_scale += 1e-3
    assert model_hash(tiny_model) != before


def tasks_of(output):
    return json.loads((output / "results.json").read_text())["tasks"]


def results_of(output):
    """What results.json and the values beside it hold, in its order, but for times."""
    results = json.loads((output / "results.json").read_text())
    del results["created"]
    for task in results["tasks"].values():
        del task["seconds"]
    return json.dumps(results), {
        name: (output / "values" / f"{name}.safetensors").read_bytes() for name in results["tasks"]
    }


def test_values_stand_beside_the_figures_that_they_are_the_mean_of(checkpoint, photos, tmp_path):
    command("--model", checkpoint, "--data", photos, "--output", tmp_path / "out", "--tasks", "photos")
    task, values = tasks_of(tmp_path / "out")["photos"], load_file(tmp_path / "out" / "values" / "photos.safetensors")
    assert len(task["protocol_hash"]) == 16 and task["subset"] is False
    means = {name: figure for name, figure in task["figures"].items() if figure["low"] is not None}
    assert len(means) > 10 and set(means) == {name for name in values if not name.endswith("#cluster")}
    for name, figure in means.items():
        assert len(values[name]) == len(values[f"{name}#cluster"]) == figure["count"]
        assert float(values[name].mean()) == pytest.approx(figure["value"], abs=1e-6)
    assert "| long/cls/image_to_text/R@1 |" in (tmp_path / "out" / "results.md").read_text()


def test_an_evaluation_that_was_stopped_goes_on_and_ends_with_the_same_file(checkpoint, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(embedding, "IMAGES_PER_SHARD", 2)
    arguments = ["--model", checkpoint, "--data", photos, "--tasks", "photos,scenes", "--limit", 5, "--batch-size", 1]
    command(*arguments, "--output", tmp_path / "whole")
    whole, read = tmp_path / "stopped", []
    load_image = embedding.load_image

    def stops(image):
        read.append(image)
        if len(read) == 7:  # the third image of the scenes: photos and a shard of two scenes are done
            raise KeyboardInterrupt
        return load_image(image)

    monkeypatch.setattr(embedding, "load_image", stops)
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

    monkeypatch.setattr(embedding, "load_image", stops)
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
    assert "pictures/photos-long-misses.html" in pictures and all((output / one).is_file() for one in pictures)
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
    monkeypatch.setattr(embedding, "IMAGES_PER_SHARD", 2)
    load_image, read, output = embedding.load_image, [], tmp_path / "stopped"

    def stops(image):
        read.append(image)
        if len(read) in (3, 6):
            raise KeyboardInterrupt
        return load_image(image)

    monkeypatch.setattr(embedding, "load_image", stops)
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


def test_the_protocol_knows_task_and_dtype(checkpoint, tmp_path):
    for dtype in ("float32", "bfloat16"):
        arguments = ("--model", checkpoint, "--tasks", "scenes", "--limit", 2, "--no-pictures", "--dtype", dtype)
        command(*arguments, "--output", tmp_path / dtype)
    single, half = (tasks_of(tmp_path / dtype)["scenes"] for dtype in ("float32", "bfloat16"))
    assert single["protocol"] == half["protocol"] and single["protocol_hash"] != half["protocol_hash"]
    assert {name for name in single["rules"] if single["rules"][name] != half["rules"][name]} == {"dtype"}
    protocols = [protocol_of(task) for task in BENCHMARKS]
    assert len({protocol.hash for protocol in protocols}) == len(BENCHMARKS)
    assert all(protocol.task == BENCHMARKS[task].protocol for task, protocol in zip(BENCHMARKS, protocols, strict=True))
    assert "fg_ovd both sides resized" in protocol_of("photos").images and not protocol_of("photos").squash


def in_small_pieces():
    """Many shards, and shortlists in a second pass over the images."""
    embedding.IMAGES_PER_SHARD = embedding.TEXTS_PER_SHARD = 2
    retrieval.MOST_PAIRS, retrieval.RERANKED = 0, (2, 4)


def evaluate_in_a_process(rank, arguments):
    in_small_pieces()
    return command(*arguments)


def test_three_processes_give_the_same_figures_as_one(checkpoint, photos, tmp_path, monkeypatch):
    for module, name in (
        (embedding, "IMAGES_PER_SHARD"),
        (embedding, "TEXTS_PER_SHARD"),
        (retrieval, "MOST_PAIRS"),
        (retrieval, "RERANKED"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name))  # undone after the test
    in_small_pieces()
    arguments = ["--model", checkpoint, "--data", photos, "--tasks", "photos,scenes", "--limit", 5, "--device", "cpu"]
    command(*arguments, "--output", tmp_path / "one")
    results = run_processes(evaluate_in_a_process, [*arguments, "--output", tmp_path / "three"], world_size=3)
    assert results == [0, 0, 0] and results_of(tmp_path / "three") == results_of(tmp_path / "one")
    assert "long/rerank@2/text_to_image/R@1" in tasks_of(tmp_path / "one")["photos"]["figures"]


def test_a_missing_image_is_refused_or_marked(checkpoint, photos, tmp_path):
    (photos / "1.png").unlink()
    arguments = ("--model", checkpoint, "--data", photos, "--output", tmp_path / "out", "--tasks", "photos")
    with pytest.raises(ValueError, match=r"1 of 3 images are not there \(1\.png.*--allow-subset"):
        command(*arguments)
    command(*arguments, "--allow-subset")
    task = json.loads((tmp_path / "out" / "results.json").read_text())["tasks"]["photos"]
    assert task["subset"] and task["protocol"] == "photos/v1 (2 of 3 images)" and task["counts"]["images"] == 2


def write_urban1k_and_flickr30k(data, images):
    """So many of the 1,000 images of the one, and two of the other."""
    urban, flickr = data / "urban1k", data / "flickr30k"
    for folder in (urban / "image", urban / "caption", flickr / "flickr30k-images"):
        folder.mkdir(parents=True)
    Image.new("RGB", (32, 32), "red").save(data / "red.jpg")
    for index in range(images):
        (urban / "image" / f"{index}.jpg").hardlink_to(data / "red.jpg")
        (urban / "caption" / f"{index}.txt").write_text(f"A long text of {index}.")
    sentences = [{"raw": f"caption {number}"} for number in range(5)]
    rows = [{"filename": f"{i}.jpg", "split": "test", "sentences": sentences} for i in range(2)]
    (flickr / "dataset_flickr30k.json").write_text(json.dumps({"images": rows}))
    for index in range(2):
        (flickr / "flickr30k-images" / f"{index}.jpg").hardlink_to(data / "red.jpg")
    return data


def test_long_captions_are_reported_beside_short_ones_where_these_are_there(checkpoint, tmp_path):
    data = write_urban1k_and_flickr30k(tmp_path / "data", images=3)
    arguments = ("--model", checkpoint, "--data", data, "--output", tmp_path / "out", "--allow-subset")
    command(*arguments, "--tasks", "urban1k")
    tasks = tasks_of(tmp_path / "out")
    assert list(tasks) == ["urban1k", "flickr30k"] and all(task["subset"] for task in tasks.values())
    assert {name.split("/")[0] for name in tasks["urban1k"]["figures"]} == {"long"}
    assert {name.split("/")[1] for name in tasks["flickr30k"]["figures"]} == {"short"}


def test_short_captions_that_nobody_asked_for_may_be_a_part_only(checkpoint, tmp_path, caplog):
    data = write_urban1k_and_flickr30k(tmp_path / "data", images=1000)
    arguments = ("--model", checkpoint, "--data", data, "--output", tmp_path / "out", "--limit", 2, "--no-pictures")
    command(*arguments, "--tasks", "urban1k")
    assert list(tasks_of(tmp_path / "out")) == ["urban1k"]
    assert "short captions of flickr30k are left out: Flickr30k" in caplog.text
    with pytest.raises(ValueError, match=r"Flickr30k .* must be whole"):
        command(*arguments, "--tasks", "urban1k,flickr30k")


def test_tasks_are_listed_without_a_model(capsys):
    assert command("--list-tasks") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line[0] != " "]
    assert [line.split()[0] for line in lines] == list(BENCHMARKS) and len(lines) == 17
    with pytest.raises(ValueError, match="model must be given"):
        command("--tasks", "scenes", "--output", "out")
