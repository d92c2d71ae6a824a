import argparse
import json

import pytest
import torch
from PIL import Image
from transformers import CLIPModel

from beta_clip_hf import BetaCLIPModel, SceneDataset
from beta_clip_hf.evaluation import suite
from beta_clip_hf.evaluation.results import model_hash
from beta_clip_hf.evaluation.suite import add_arguments, evaluate, run


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


def test_a_run_writes_figures_with_all_that_is_needed_to_read_them(checkpoint, photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(suite, "NUM_SCENES", 4)
    output = tmp_path / "new" / "output"
    arguments = ("--model", checkpoint, "--data", photos, "--output", output, "--device", "cpu")
    assert command(*arguments, "--tasks", "photos,scenes") == 0
    results = json.loads((output / "results.json").read_text())
    model = BetaCLIPModel.from_pretrained(checkpoint)
    assert results["model"]["sha256"] == model_hash(model)
    assert results["environment"]["torch"] == torch.__version__ and results["settings"]["dtype"] == "float32"
    photos_result, scenes_result = results["tasks"]["photos"], results["tasks"]["scenes"]
    assert (photos_result["protocol"], scenes_result["protocol"]) == ("photos/v1", "scenes/v1")
    assert photos_result["counts"] == {
        "images": 3, "long_texts": 3, "short_texts": 6, "phrases": 3, "phrases_outside_view": 0
    }  # fmt: skip
    figure = photos_result["figures"]["short/conditioned/text_to_image/R@1"]
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
    rows = suite.TASKS["photos"].load(argparse.Namespace(data=photos), clip)
    by_cls = {name: figure for name, figure in figures.items() if "/cls/" in name}
    assert by_cls and evaluate(clip, tiny_processor, rows)["figures"] == by_cls


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tasks", "photo"], "tasks must be of photos, scenes, but one is 'photo'"),
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
    scores = {name.split("/")[1] for name in figures if not name.startswith(("long", "short"))}
    assert scores == {"cls", "region"} and "hard_negatives/cls/accuracy" in figures
    assert not any("/conditioned/" in name for name in figures)


def test_the_hash_knows_the_weights_and_nothing_else(tiny_model, checkpoint):
    before = model_hash(tiny_model)
    assert before == model_hash(BetaCLIPModel.from_pretrained(checkpoint))
    with torch.no_grad():
        tiny_model.pooler.logit_scale += 1e-3
    assert model_hash(tiny_model) != before
