import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPModel

from beta_clip_hf import BetaCLIPModel, SceneDataset
from beta_clip_hf.evaluation import probes, retrieval
from beta_clip_hf.evaluation.benchmarks import BENCHMARKS, load_benchmark
from beta_clip_hf.evaluation.evaluator import evaluate
from beta_clip_hf.evaluation.protocols import protocol_of
from beta_clip_hf.evaluation.suite import EvaluationSettings, evaluate_tasks
from beta_clip_hf.inference import embedder
from beta_clip_hf.inference.identity import model_hash
from ddp_helpers import run_processes
from evaluation.suite_helpers import command, results_of, tasks_of


pytestmark = pytest.mark.slow


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
    for key, record in first["figures"].items():
        other_record = second["figures"][key]
        assert other_record.pop("name") == record.pop("name")
        assert other_record == pytest.approx(record, abs=1e-5), key


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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": ()}, "tasks must name at least one task, but are empty"),
        ({"tasks": ["scenes"], "dtype": "int8"}, r"dtype must be one of \('float32', .*\), but is 'int8'"),
    ],
)
def test_wrong_settings_are_refused_before_a_model_is_loaded(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        evaluate_tasks(EvaluationSettings("no model", output=tmp_path / "out", **settings))
    assert not (tmp_path / "out").exists()


def test_photos_of_which_none_can_be_used_are_an_error(checkpoint, photos, tmp_path):
    for number in range(3):
        (photos / f"{number}.png").unlink()
    with pytest.raises(ValueError, match=r"all 3 were skipped, the first one because test\.jsonl:1: .*0\.png"):
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
    probes.IMAGES_PER_SHARD = embedder.TEXTS_PER_SHARD = 2
    retrieval.MOST_PAIRS, retrieval.RERANKED = 0, (2, 4)


def evaluate_in_a_process(rank, arguments):
    in_small_pieces()
    return command(*arguments)


def test_three_processes_give_the_same_figures_as_one(checkpoint, photos, tmp_path, monkeypatch):
    for module, name in (
        (probes, "IMAGES_PER_SHARD"),
        (embedder, "TEXTS_PER_SHARD"),
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


def test_a_missing_image_of_own_photos_is_marked(checkpoint, photos, tmp_path):
    (photos / "1.png").unlink()
    command("--model", checkpoint, "--data", photos, "--output", tmp_path / "out", "--tasks", "photos")
    task = json.loads((tmp_path / "out" / "results.json").read_text())["tasks"]["photos"]
    assert task["subset"] and task["protocol"] == "photos/v1 (1 row skipped)" and task["counts"]["images"] == 2


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
