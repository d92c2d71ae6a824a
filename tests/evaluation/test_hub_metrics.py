"""The metrics of the `evaluate` library: from the package, and from the folders that go to the Hub."""

import os
import pickle
import runpy
import subprocess
import sys
from itertools import chain, product
from types import ModuleType

import pytest
import torch
import yaml

from beta_clip_hf.evaluation import hub_metrics
from beta_clip_hf.evaluation.metrics import hard_negative_accuracy, recall_at_k
from evaluation import naive_metrics as naive


NAMES = {
    "recall_at_k": "RecallAtK",
    "hard_negative_accuracy": "HardNegativeAccuracy",
    "pointing_game": "PointingGame",
}


@pytest.fixture
def metric_of():
    pytest.importorskip("evaluate")
    pytest.importorskip("datasets")
    return lambda name: getattr(hub_metrics, name)(keep_in_memory=True)


def tied(*shape, levels=4):
    return torch.randint(levels, shape, generator=torch.Generator().manual_seed(sum(shape))) / 10


@pytest.mark.parametrize("convert", [torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.clone], ids=str)
def test_recall_of_batches_equals_the_function(metric_of, convert):
    scores, relevant = tied(12, 7), torch.arange(12) % 7
    metric = metric_of("RecallAtK")
    for part in (slice(0, 5), slice(5, 11)):
        metric.add_batch(predictions=convert(scores[part]), references=convert(relevant[part, None]))
    metric.add(prediction=convert(scores[11]), reference=convert(relevant[11:]))
    found = metric.compute(ks=(1, 3))
    assert found.pop("recall_at_1_chance") == pytest.approx(1 / 7)
    assert found.pop("recall_at_3_chance") == pytest.approx(3 / 7)
    assert found == {f"recall_at_{k}": value for k, value in recall_at_k(scores, relevant, ks=(1, 3)).items()}
    assert 0.1 < found["recall_at_1"] < 0.9


def test_recall_of_several_relevant_candidates(metric_of):
    scores, relevant = tied(6, 6), torch.eye(6, dtype=torch.bool) | (torch.arange(6) % 2 == 0)
    references = [row.nonzero()[:, 0].tolist() for row in relevant]
    found = metric_of("RecallAtK").compute(predictions=scores, references=references)
    assert list(found) == [f"recall_at_{k}{end}" for k, end in product((1, 5, 10), ("", "_chance"))]
    assert found["recall_at_1"] == pytest.approx(naive.recall_at_k(scores.tolist(), relevant.tolist(), 1))
    alike = torch.zeros(6, 6)
    assert found["recall_at_1_chance"] == pytest.approx(naive.recall_at_k(alike.tolist(), relevant.tolist(), 1))
    assert metric_of("RecallAtK").compute(predictions=alike, references=references, ks=[1])[
        "recall_at_1"
    ] == pytest.approx(found["recall_at_1_chance"])


def test_hard_negatives_equal_the_function_wherever_the_true_text_stands(metric_of):
    groups = [tied(size, levels=3).tolist() for size in (2, 11, 3, 5, 2)]
    first = metric_of("HardNegativeAccuracy").compute(predictions=groups, references=[0] * 5)
    flat = torch.tensor(list(chain.from_iterable(groups)))
    index = torch.arange(5).repeat_interleave(torch.tensor([len(group) for group in groups]))
    assert first["accuracy"] == hard_negative_accuracy(flat, index) == naive.hard_negative_accuracy(groups)
    assert first["accuracy_chance"] == pytest.approx((1 / 2 + 1 / 11 + 1 / 3 + 1 / 5 + 1 / 2) / 5)
    turned = [[*group[1:], group[0]] for group in groups]
    last = metric_of("HardNegativeAccuracy").compute(
        predictions=turned, references=[len(group) - 1 for group in groups]
    )
    assert last == first and 0 < first["accuracy"] < 1


def test_pointing_game_equals_the_twin_on_maps_of_any_size(metric_of):
    maps = [tied(3, 4), tied(7, 7), tied(2, 5)]
    boxes = [[[0.0, 0.0, 0.5, 0.5]], [[0.1, 0.1, 0.4, 0.9], [0.3, 0.5, 1.0, 1.0]], []]
    metric = metric_of("PointingGame")
    expected, chance = [], []
    for heat_map, phrase_boxes in zip(maps, boxes, strict=True):
        metric.add_batch(predictions=[heat_map.tolist()], references=[phrase_boxes])
        expected.append(naive.pointing_hit(heat_map.tolist(), phrase_boxes))
        chance.append(naive.pointing_hit(torch.ones_like(heat_map).tolist(), phrase_boxes))
    found = metric.compute()
    assert found == pytest.approx({"pointing_game": sum(expected) / 3, "pointing_game_chance": sum(chance) / 3})
    assert 0 < found["pointing_game"] != found["pointing_game_chance"]


@pytest.mark.parametrize(
    ("name", "predictions", "references", "message"),
    [
        ("RecallAtK", [[1.0, torch.nan]], [[0]], "NaN"),
        ("RecallAtK", [[1.0, None]], [[0]], "scores must be numbers"),
        ("RecallAtK", [[1.0, 2.0], [1.0]], [[0], [0]], r"of one length, but have lengths \[1, 2\]"),
        ("RecallAtK", [], [], "at least one, but are 0"),
        ("RecallAtK", [[1.0, 2.0]], [[]], "relevant candidate of every query"),
        ("RecallAtK", [[1.0, 2.0]], [[2]], "indices below 2"),
        ("RecallAtK", [[1.0, 2.0]], [[-1]], "indices below 2"),
        ("RecallAtK", [[1.0, 2.0]], [[0], [1]], "Mismatch"),
        ("HardNegativeAccuracy", [[1.0]], [0], "at least one negative"),
        ("HardNegativeAccuracy", [[1.0, 2.0]], [-1], "indices below 2"),
        ("HardNegativeAccuracy", [[1.0, torch.nan]], [0], "NaN"),
        ("HardNegativeAccuracy", [], [], "at least one, but are 0"),
        ("PointingGame", [[[1.0, 2.0], [1.0]]], [[[0, 0, 1, 1]]], "of one length"),
        ("PointingGame", [[[1.0, torch.inf]]], [[[0, 0, 1, 1]]], "finite"),
        ("PointingGame", [[[1.0, 2.0]]], [[[0, 0, 1]]], "four numbers"),
        ("PointingGame", [], [], "at least one, but are 0"),
    ],
)
def test_bad_input_is_refused(metric_of, name, predictions, references, message):
    with pytest.raises(ValueError, match=message):
        metric_of(name).compute(predictions=predictions, references=references)


def test_classes_are_made_once_and_can_be_pickled(metric_of):
    import evaluate

    for name in NAMES.values():
        metric_class = getattr(hub_metrics, name)
        assert issubclass(metric_class, evaluate.Metric)
        assert pickle.loads(pickle.dumps(metric_class)) is metric_class
    with pytest.raises(AttributeError, match="RecallAtP"):
        hub_metrics.RecallAtP  # noqa: B018


@pytest.mark.parametrize("missing", ["evaluate", "datasets"])
def test_without_the_library_the_error_says_what_to_install(monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(vars(hub_metrics), "PointingGame", raising=False)
    with pytest.raises(ImportError, match=r"pip install evaluate datasets"):
        from beta_clip_hf.evaluation.hub_metrics import PointingGame  # noqa: F401


@pytest.mark.slow
def test_folders_for_the_hub_load_offline_in_a_process_of_their_own(metric_of, project_dir, tmp_path):
    """The examples of their README files, with the folder in the place of the name on the Hub."""
    pages = []
    for name in NAMES:
        text = (project_dir / "metrics" / name / "README.md").read_text(encoding="utf-8")
        assert text.count(f'evaluate.load("USER/{name}")') == 1
        code = text.split("```python\n")[1].split("```")[0]
        pages.append(tmp_path / f"{name}.txt")
        pages[-1].write_text(code.replace(f"USER/{name}", str(project_dir / "metrics" / name)), encoding="utf-8")
    script = (
        "import doctest, sys\n"
        "for page in sys.argv[1:]:\n"
        "    found = doctest.testfile(page, module_relative=False, optionflags=doctest.ELLIPSIS)\n"
        "    print(page, found.failed, found.attempted)\n"
    )
    settings = {"HF_HOME": str(tmp_path / "hf"), "HF_EVALUATE_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", script, *map(str, pages)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | settings)
    assert done.stdout.splitlines() == [f"{page} 0 {4 + (page.stem != 'hard_negative_accuracy')}" for page in pages]


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_is_a_space_of_the_hub(metric_of, name, project_dir, monkeypatch):
    folder = project_dir / "metrics" / name
    card = yaml.safe_load((folder / "README.md").read_text(encoding="utf-8").split("---\n")[1])
    assert card["sdk"] == "gradio" and (folder / card["app_file"]).is_file()
    assert {"evaluate", "metric"} <= set(card["tags"]) and card["title"] and card["description"]
    assert (folder / "requirements.txt").read_text(encoding="utf-8") == "beta-clip-hf[eval]\n"

    class Gradio(ModuleType):
        def __getattr__(self, widget):
            return lambda *args, **settings: (widget, args, settings)

    monkeypatch.setitem(sys.modules, "gradio", Gradio("gradio"))
    monkeypatch.syspath_prepend(folder)
    names = runpy.run_path(str(folder / "app.py"))
    widget, (compute, inputs, _), settings = names["page"]
    assert widget == "Interface" and len(inputs) == 2
    assert 0 < next(iter(compute(*settings["examples"][0]).values())) <= 1
