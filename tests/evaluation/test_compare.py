"""`beta-clip compare` on results with planted differences, and on pairs that must not be compared."""

import json
from copy import deepcopy

import pytest
import torch
from safetensors.torch import save_file

from beta_clip_cli import main as cli
from beta_clip_hf.evaluation.compare import compare, format_comparison
from beta_clip_hf.evaluation.intervals import bootstrap_interval
from beta_clip_hf.evaluation.metric_names import MetricName
from evaluation import naive_metrics as naive


IMAGES, PER_IMAGE = 60, 3
IMAGE_OF_ITEM = torch.arange(IMAGES).repeat_interleave(PER_IMAGE)


def hits(share, seed):
    return (torch.rand(IMAGES * PER_IMAGE, generator=torch.Generator().manual_seed(seed)) < share).float()


def with_flips(values, items):
    """The values with a hit turned to a miss, or a miss to a hit, at some items."""
    return values.index_add(0, torch.tensor(items), 1 - 2 * values[items])


BASE = hits(0.5, seed=0)
MISSES = torch.nonzero(BASE == 0)[:, 0].tolist()
VALUES_A = {"R@1": BASE, "R@5": hits(0.8, seed=1), "same": hits(0.3, seed=2)}
VALUES_B = {"R@1": with_flips(BASE, MISSES[:30]), "R@5": with_flips(VALUES_A["R@5"], [0, 9]), "same": VALUES_A["same"]}


RULES = {"images": "squashed", "dtype": "float32"}


def write(folder, values, *, clusters=IMAGE_OF_ITEM, median=7.0, task="urban1k", **changed):
    """A directory as `beta-clip evaluate` leaves it, of one task."""
    figures = {
        name: {
            "value": float(items.double().mean()),
            "chance": 0.1,
            "low": 0.0,
            "high": 1.0,
            "count": len(items),
            "name": MetricName("long", "cls", name).to_json(),
        }
        for name, items in values.items()
    }
    figures["median_rank"] = {
        "value": median,
        "chance": 30.5,
        "low": None,
        "high": None,
        "count": len(clusters),
        "name": MetricName("long", "cls", "median_rank").to_json(),
    }
    result = {
        "protocol": "urban1k/v1",
        "protocol_hash": "12ab",
        "rules": RULES,
        "data_hash": "34cd",
        "subset": False,
        "figures": figures,
    }
    result = deepcopy(result) | changed
    (folder / "values").mkdir(parents=True)
    results = {"schema": 3, "model": {"name": folder.name}, "tasks": {task: result}}
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    item_clusters = {f"{name}#cluster": clusters.clone() for name in values}
    save_file(values | item_clusters, folder / "values" / f"{task}.safetensors")
    return folder


@pytest.fixture
def pair(tmp_path):
    return write(tmp_path / "before", VALUES_A), write(tmp_path / "after", VALUES_B, median=4.5)


def test_planted_differences(pair):
    comparison = compare(*pair)
    assert [comparison[side]["model"]["name"] for side in "ab"] == ["before", "after"]
    task = comparison["tasks"]["urban1k"]
    assert (task["protocol"], task["data_hash"], task["subset"], task["left_out"], task["dtypes"]) == (
        "urban1k/v1", "34cd", False, [], ["float32", "float32"],
    )  # fmt: skip
    recall, few, same, median = (task["figures"][name] for name in ("R@1", "R@5", "same", "median_rank"))
    assert recall["difference"] == pytest.approx(30 / 180) == pytest.approx(recall["b"] - recall["a"])
    assert 0 < recall["low"] < 30 / 180 < recall["high"] and recall["excludes_zero"]
    assert recall["clusters_changed"] == len({item // PER_IMAGE for item in MISSES[:30]})
    assert (recall["count"], recall["clusters"]) == (180, 60)
    assert few["low"] <= 0 <= few["high"] and not few["excludes_zero"] and few["clusters_changed"] == 2
    assert (same["low"], same["high"], same["excludes_zero"], same["clusters_changed"]) == (0, 0, False, 0)
    assert (median["a"], median["b"], median["difference"], median["low"]) == (7.0, 4.5, -2.5, None)


def test_the_interval_is_that_of_the_loop_over_drawn_images(pair):
    found = compare(*pair, seed=3)["tasks"]["urban1k"]["figures"]["R@1"]
    draws = torch.randint(IMAGES, (1000, IMAGES), generator=torch.Generator().manual_seed(3)).tolist()
    gains = (VALUES_B["R@1"] - VALUES_A["R@1"]).tolist()
    means = torch.tensor(naive.paired_difference(gains, IMAGE_OF_ITEM.tolist(), draws), dtype=torch.float64)
    assert [found["low"], found["high"]] == pytest.approx(
        means.quantile(torch.tensor([0.025, 0.975]).double()).tolist()
    )


def test_the_other_way_round_is_the_negative(pair):
    forward, backward = (compare(*both)["tasks"]["urban1k"]["figures"]["R@1"] for both in (pair, pair[::-1]))
    assert [forward["difference"], forward["low"], forward["high"]] == pytest.approx(
        [-backward[name] for name in ("difference", "high", "low")]
    )


def test_pairs_tell_what_the_two_intervals_do_not(tmp_path):
    """A gain on 8 of 60 images: the intervals of the two models overlap widely, that of the difference excludes 0."""
    better = with_flips(BASE, MISSES[: 8 * PER_IMAGE : PER_IMAGE])
    a, b = write(tmp_path / "a", {"R@1": BASE}), write(tmp_path / "b", {"R@1": better})
    assert bootstrap_interval(BASE, IMAGE_OF_ITEM)[1] > bootstrap_interval(better, IMAGE_OF_ITEM)[0] + 0.05
    assert compare(a, b)["tasks"]["urban1k"]["figures"]["R@1"]["excludes_zero"]


def test_items_of_one_image_have_no_interval_and_those_without_images_stand_alone(tmp_path):
    one_image = torch.zeros_like(IMAGE_OF_ITEM)
    a, b = (write(tmp_path / name, values, clusters=one_image) for name, values in (("a", VALUES_A), ("b", VALUES_B)))
    figure = compare(a, b)["tasks"]["urban1k"]["figures"]["R@1"]
    assert (figure["low"], figure["clusters"], figure["excludes_zero"]) == (None, 1, False)
    for folder, values in ((a, VALUES_A), (b, VALUES_B)):
        save_file(values, folder / "values" / "urban1k.safetensors")
    assert compare(a, b)["tasks"]["urban1k"]["figures"]["R@1"]["clusters"] == 180


def test_figures_of_one_result_only_are_named(tmp_path, pair):
    less = write(tmp_path / "less", {name: VALUES_B[name] for name in ("R@5", "same")} | {"new": BASE})
    task = compare(pair[0], less)["tasks"]["urban1k"]
    assert task["left_out"] == ["R@1", "new"] and list(task["figures"]) == ["R@5", "same", "median_rank"]
    assert "In one of the two only: R@1, new." in format_comparison(compare(pair[0], less))


OTHER_ITEMS = {name: torch.cat([values, values[:3]]) for name, values in VALUES_B.items()}


@pytest.mark.parametrize(
    ("values", "settings", "message"),
    [
        (VALUES_B, {"protocol_hash": "56ef"}, "protocol_hash of task urban1k must be the same .* is '12ab' and '56ef'"),
        (
            VALUES_B,
            {"protocol_hash": "56ef", "rules": RULES | {"images": "cropped", "dtype": "float16"}},
            "must be the same .* is '12ab' and '56ef': these rules differ: images, dtype",
        ),
        (VALUES_B, {"data_hash": "56ef"}, "data_hash of task urban1k must be the same"),
        (VALUES_B, {"subset": True}, "subset of task urban1k must be the same in both results, but is False and True"),
        (VALUES_B, {"clusters": IMAGE_OF_ITEM.flip(0)}, "same items in both, but their images differ"),
        (
            OTHER_ITEMS,
            {"clusters": torch.cat([IMAGE_OF_ITEM, torch.full((3,), IMAGES)])},
            "R@1 of task urban1k must be of the same items in both, but has 180 and 183",
        ),
        (VALUES_B, {"task": "dci"}, "must have a task in common, but have urban1k and dci"),
    ],
)
def test_what_is_not_the_same_test_is_refused(tmp_path, pair, values, settings, message):
    with pytest.raises(ValueError, match=message):
        compare(pair[0], write(tmp_path / "other", values, **settings))


def test_models_of_two_dtypes_are_compared_and_it_is_said(tmp_path, pair):
    half = write(tmp_path / "half", VALUES_B, protocol_hash="56ef", rules=RULES | {"dtype": "bfloat16"})
    comparison = compare(pair[0], half)
    assert comparison["tasks"]["urban1k"]["dtypes"] == ["float32", "bfloat16"]
    assert "**urban1k** (urban1k/v1; float32 and bfloat16)" in format_comparison(comparison)
    assert "**urban1k** (urban1k/v1; float32)" in format_comparison(compare(*pair))


def test_values_of_another_run_are_refused(pair):
    save_file(VALUES_A | {"R@1#cluster": IMAGE_OF_ITEM}, pair[1] / "values" / "urban1k.safetensors")
    with pytest.raises(
        ValueError, match=r"values of R@1 of task urban1k must have the mean .* evaluate that model again"
    ):
        compare(*pair)
    shorter = {name: values[:-3] for name, values in VALUES_B.items()}
    save_file(shorter, pair[1] / "values" / "urban1k.safetensors")
    with pytest.raises(ValueError, match=r"number 180 that results.json gives, but have .* and 177"):
        compare(*pair)
    (pair[1] / "values" / "urban1k.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"urban1k.safetensors must be there"):
        compare(*pair)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "but is not JSON"),
        ("[]", "must be a results.json of schema 3, but its schema is None"),
        ('{"schema": 1, "tasks": {}}', "schema 3, but its schema is 1: evaluate again"),
    ],
)
def test_other_files_are_refused(pair, text, message):
    (pair[1] / "results.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        compare(*pair)


def test_tasks_that_one_of_them_has_not(tmp_path, pair):
    assert list(compare(*pair, tasks=["urban1k"])["tasks"]) == ["urban1k"]
    with pytest.raises(ValueError, match=r"after.results.json, urban1k, but one is 'dci'"):
        compare(write(tmp_path / "more", VALUES_A, task="dci"), pair[1], tasks=["dci"])


def test_the_command_prints_a_table_and_writes_json(pair, tmp_path, capsys):
    output = tmp_path / "new" / "compared.json"
    files = [str(folder / "results.json") for folder in pair]
    assert cli.main(["compare", *files, "--output", str(output), "--tasks", "urban1k"]) == 0
    assert json.loads(output.read_text(encoding="utf-8")) == compare(*pair)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["A: before", "B: after"]
    table_lines = [line for line in lines if line.startswith("|")]
    table = [list(map(str.strip, line.strip("|").split("|"))) for line in table_lines]
    figure = compare(*pair)["tasks"]["urban1k"]["figures"]["R@1"]
    interval = f"{100 * figure['low']:+.1f} … {100 * figure['high']:+.1f}"
    shares = [f"{100 * float(values['R@1'].mean()):.1f}" for values in (VALUES_A, VALUES_B)]
    assert table[0] == ["", "A", "B", "B − A", "95 % interval", "", "n", "images changed"]
    assert {len(line) for line in table_lines} == {len(lines[5])}
    assert table[2] == ["R@1", *shares, "+16.7", interval, "*", "180", f"{figure['clusters_changed']} of 60"]
    assert table[5] == ["median_rank", "7.0", "4.5", "-2.5", "", "", "180", ""]
    assert "excludes 0: 1 of 3." in lines[-1]


def test_an_error_of_the_command_is_one_sentence(pair, capsys):
    (pair[1] / "results.json").unlink()
    assert cli.main(["compare", *(str(folder / "results.json") for folder in pair)]) == 1
    told = f"beta-clip: error: {pair[1] / 'results.json'}: No such file or directory: check the path\n"
    assert capsys.readouterr().err == told
