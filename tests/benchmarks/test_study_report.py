"""The page of the study: made from results alone, the same each time, with answers that follow the stated rule."""

import doctest
import importlib
from types import SimpleNamespace

import pytest
import torch

from benchmarks.made_up import made_up_record, write_made_up_results
from beta_clip_hf.evaluation.intervals import bootstrap_interval
from beta_clip_hf.files import write_json


@pytest.fixture
def study():
    """The modules of the study that the page is made with."""
    names = ("analysis", "answers", "arms", "ceilings", "plots", "questions", "records", "report")
    modules = {name: importlib.import_module(f"benchmarks.study.{name}") for name in names}
    return SimpleNamespace(**modules)


@pytest.fixture
def results_folder(study, tmp_path):
    """Results in which `ce` is far above `bce`, and `heads_1` is level with it."""
    levels = {"before": 0.2, "plain": 0.3, "ce": 0.7, "bce": 0.3, "heads_1": 0.7}
    write_made_up_results(study, tmp_path / "results", levels)
    return tmp_path / "results"


@pytest.mark.slow
def test_the_page_is_the_same_each_time(study, results_folder, tmp_path):
    pytest.importorskip("matplotlib", reason="needs the extra `eval`")
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        study.report.write_report(results_folder, folder / "study.md")
    contents = []
    for folder in folders:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        contents.append({path.relative_to(folder).as_posix(): path.read_bytes() for path in files})
    assert contents[0] == contents[1]
    images = {"images/study_finetune_easy_arms.png", "images/study_finetune_easy_curves.png"}
    assert contents[0].keys() == images | {"study.md"}
    page = contents[0]["study.md"].decode()
    # Of each question the heading, and the answer where there are results.
    for question in study.questions.QUESTIONS:
        assert f"### {question.title}\n" in page
    sharpen = page.partition("### Does cross-entropy sharpen?")[2]
    assert sharpen.strip().startswith("**Fine-tuning, easy scenes: yes.**")
    order = page.partition("### Does the order of drawn sentences matter?")[2]
    assert order.strip().startswith("**Open**")
    assert "- There are no results yet: From scratch, easy scenes;" in page
    for image in images:
        assert f"]({image})" in page


@pytest.mark.slow
def test_the_committed_page_is_what_the_report_makes(study):
    page = study.report.page_text(study.report.read_all(study.records.RESULTS))
    message = "docs/study.md must be written anew: python -m benchmarks.study report"
    assert study.report.PAGE.read_text(encoding="utf-8") == page, message


def test_questions_and_plots_name_arms_and_metrics_of_the_study(study):
    named = set(study.plots.CURVE_ARMS)
    for question in study.questions.QUESTIONS:
        named.update(question.trend)
        for comparison in question.comparisons:
            named.update((comparison.arm, comparison.other))
            if comparison.arm != comparison.other:
                assert comparison.metric == comparison.other_metric in study.questions.LABELS
    assert named <= study.arms.ARMS.keys()
    # Every arm is there for some question.
    assert named == study.arms.ARMS.keys() - {"before", "bce_b0"}
    assert {arm.group for arm in study.arms.ARMS.values()} == study.arms.GROUPS.keys()


def test_differences_are_paired_and_averaged_over_the_seeds(study, tmp_path):
    metric = "long/cls/text_to_image/R@1"
    hits = {
        ("ce", 0): [1, 1, 0, 1],
        ("ce", 1): [1, 0, 0, 1],
        ("bce", 0): [0, 1, 0, 1],
        ("bce", 1): [1, 0, 1, 0],
        ("bce", 2): [0, 0, 0, 0],
    }
    for (name, seed), items in hits.items():
        record = made_up_record(study, study.arms.ARMS[name], seed, 0.5, images=4)
        record["clusters"] = {"0": study.records.packed_counts(torch.ones(4, dtype=torch.int64))}
        record["values"] = {metric: {"clusters": "0", "items": study.records.packed(torch.tensor(items).double())}}
        write_json(record, tmp_path / f"{name}_{seed}.json")
    results = study.analysis.Results.read(tmp_path, "finetune", "easy")
    difference = results.difference(study.analysis.Comparison("ce", "bce", metric, metric, "higher"))
    # Seed 2 has no partner. Over the two others the items differ by 0.5, 0, -0.5 and 0.5.
    assert difference.by_seed == (0.25, 0.0) and difference.value == 0.125
    assert (difference.low, difference.high) == bootstrap_interval(torch.tensor([0.5, 0, -0.5, 0.5]))
    assert difference.sign == 0 and difference.verdict("higher") == "open"
    assert results.difference(study.analysis.Comparison("ce", "plain", metric, metric)) is None


@pytest.mark.parametrize(
    ("value", "low", "high", "by_seed", "expected"),
    [
        (0.10, 0.05, 0.15, (0.1, 0.2, 0.05), {"higher": "yes", "lower": "no", "equal": "no", "different": "yes"}),
        (0.02, 0.01, 0.03, (0.01, 0.02, 0.03), {"higher": "yes", "lower": "no", "equal": "yes", "not higher": "yes"}),
        (0.00, -0.02, 0.02, (0.0, 0.01, -0.01), {"higher": "no", "lower": "no", "equal": "yes", "different": "no"}),
        (0.10, 0.05, 0.15, (0.2, 0.2, -0.1), {"higher": "not decidable here", "different": "not decidable here"}),
        (0.02, -0.04, 0.08, (0.1, 0.0, 0.1), {"equal": "not decidable here", "not higher": "not decidable here"}),
        (-0.1, -0.2, -0.05, (-0.1, -0.1, -0.1), {"lower": "yes", "higher": "no", "not higher": "yes"}),
        (0.10, 0.05, 0.15, (0.1, 0.1, 0.1), {"not higher": "no", "": ""}),
        (0.10, 0.05, 0.15, (0.1, 0.1), {"higher": "open", "": ""}),
    ],
)
def test_the_rule_of_the_answers(study, value, low, high, by_seed, expected):
    difference = study.analysis.Difference(value, low, high, by_seed)
    assert {expectation: difference.verdict(expectation) for expectation in expected} == expected


def test_an_answer_needs_all_or_any_of_its_comparisons(study):
    combined = study.analysis.combined
    undecided = study.analysis.UNDECIDED
    assert combined(["yes", "yes"], "all") == "yes"
    assert combined(["yes", undecided, "no"], "all") == "no"
    assert combined(["yes", undecided], "all") == undecided
    assert combined(["yes", "open"], "all") == "open" == combined([], "all")
    assert combined(["no", "yes"], "any") == "yes"
    assert combined(["no", "no"], "any") == "no"
    assert combined(["no", undecided], "any") == undecided


def test_results_on_other_scenes_are_refused(study, tmp_path):
    for seed, images in ((0, 4), (1, 5)):
        record = made_up_record(study, study.arms.ARMS["ce"], seed, 0.5, images=images)
        write_json(record, tmp_path / f"ce_{seed}.json")
    with pytest.raises(ValueError, match="must be of the same test scenes"):
        study.analysis.Results.read(tmp_path, "finetune", "easy")


@pytest.mark.parametrize("name", ["records", "ceilings", "plots"])
def test_examples_in_docstrings(study, name):
    outcome = doctest.testmod(getattr(study, name))
    assert outcome.attempted > 0 and outcome.failed == 0
