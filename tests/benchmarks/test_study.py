"""The study: its runs are comparable, complete, and undisturbed by their evaluations."""

import json
import random
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch


@pytest.fixture
def study():
    """The modules of the study. They are importable once the root is on the path."""
    from benchmarks.study import arms, ceilings, measure, queueing, records, run, schedules

    return SimpleNamespace(
        arms=arms,
        ceilings=ceilings,
        measure=measure,
        queueing=queueing,
        records=records,
        run=run,
        schedules=schedules,
    )


@pytest.fixture
def tiny_run(study, plain_clip_dir):
    """Makes a run of 4 steps of 2 scenes, measured twice on 4 scenes."""

    def make(name: str, contrast: int = 0):
        arm = replace(study.arms.ARMS[name], contrast=contrast)
        schedule = replace(study.schedules.SCHEDULES["finetune", "easy"], batch_size=2, points=(4, 8))
        return study.run.Run(arm, seed=1, clip=plain_clip_dir, test_scenes=4, schedule=schedule)

    return make


def trainable_arms(study):
    return [arm.name for arm in study.arms.ARMS.values() if not arm.unknown_settings() and arm.is_trained]


@pytest.mark.slow
def test_a_run_writes_one_result_and_is_not_repeated(study, tiny_run, tmp_path, monkeypatch):
    run = tiny_run("ce_regions")
    path = study.records.result_path(tmp_path, run.arm.name, run.seed)
    study.run.run_arm(run, path)
    record = json.loads(path.read_text(encoding="utf-8"))
    assert (record["arm"], record["seed"], record["scenes"], record["steps"]) == ("ce_regions", 1, [4, 8], [2, 4])
    assert record["settings"]["config"]["use_regions"] is True
    assert record["cost"]["tokens"] > record["cost"]["texts"] > 8
    assert record["cost"]["training_seconds"] > 0 and record["cost"]["peak_mib"] > 0
    assert len(record["commit"]) >= 12 and record["environment"]["torch"] == torch.__version__
    region = record["metrics"]["region_negatives/conditioned/accuracy"]
    assert len(region["value"]) == len(region["low"]) == 2 and region["low"][1] <= region["value"][1]
    # Retrieval by sentences and phrases is measured at the end alone.
    window = record["metrics"]["long/hierarchical_window/text_to_image/R@1"]
    assert window["value"][0] is None and 0 <= window["value"][1] <= 1
    # The values of single items have the mean that is reported.
    for name, values in record["values"].items():
        items_I = study.records.unpacked(values["items"])
        counts_B = study.records.unpacked_counts(record["clusters"][values["clusters"]])
        assert counts_B.sum() == len(items_I) == record["metrics"][name]["count"]
        assert float(items_I.mean()) == pytest.approx(record["metrics"][name]["value"][-1], abs=0.01), name
    assert path.stat().st_size < 40_000

    def fail(run):
        raise AssertionError("a finished run must not be run again")

    monkeypatch.setattr(study.run, "train", fail)
    assert study.run.run_arm(run, path) == path


@pytest.mark.slow
def test_a_run_that_fails_leaves_nothing(study, tiny_run, tmp_path, monkeypatch):
    run = tiny_run("plain")
    path = study.records.result_path(tmp_path, run.arm.name, run.seed)
    num_calls = []

    def fail_the_second_time(*args, **settings):
        num_calls.append(1)
        if len(num_calls) == 2:
            raise RuntimeError("stopped")
        return []

    monkeypatch.setattr(study.run, "measure_model", fail_the_second_time)
    with pytest.raises(RuntimeError, match="stopped"):
        study.run.run_arm(run, path)
    # A number that JSON does not have is found after half of the text is made.
    with pytest.raises(ValueError):
        study.records.write_record({"arm": "plain", "metrics": {"x": {"value": float("nan")}}}, path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(("name", "contrast"), [("ce", 0), ("plain", 4)])
def test_evaluations_leave_no_trace_in_the_training(study, tiny_run, name, contrast):
    run = tiny_run(name, contrast)
    measured = study.run.train(run)
    undisturbed = study.run.train(run, is_measured=False)
    assert len(measured.evaluations.curve) == 2 and not undisturbed.evaluations.curve
    expected = undisturbed.model.state_dict()
    for key, tensor in measured.model.state_dict().items():
        assert torch.equal(tensor, expected[key]), key
    assert measured.model.training == undisturbed.model.training


def test_a_pause_restores_mode_and_randomness(study):
    model = torch.nn.Linear(2, 2).train()
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    with study.measure.paused(model):
        assert not model.training
        torch.rand(7), random.random(), np.random.rand()
    assert model.training
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]


@pytest.mark.slow
def test_arms_see_the_same_scenes_in_the_same_order(study, tiny_run, monkeypatch):
    class RecordingCollator(study.run.BetaCLIPDataCollator):
        def __call__(self, rows):
            seen.extend(row["id"] for row in rows)
            return super().__call__(rows)

    monkeypatch.setattr(study.run, "BetaCLIPDataCollator", RecordingCollator)
    sequences = []
    for name, contrast in (("plain", 0), ("ce", 0), ("ce", 4)):
        seen: list[str] = []
        study.run.train(tiny_run(name, contrast), is_measured=False)
        sequences.append(seen)
    assert sequences[0] == [f"scenes-easy-20001-{index}" for index in range(8)]
    assert sequences[1] == sequences[2] == sequences[0]


def test_the_settings_of_an_arm_reach_its_model(study, tiny_run):
    for name in trainable_arms(study):
        run = tiny_run(name)
        model, processor = study.run.build(run)
        for key, value in run.arm.config.items():
            assert getattr(model.config, key) == value, (name, key)
        assert (model.pooler is not None) == run.arm.config["use_pooler"]
        assert (processor.short_max_length is not None) == model.config.use_long_text_path


def test_arms_differ_in_what_they_say_alone(study, tiny_run):
    base = vars(study.run.training_arguments(tiny_run("ce"), "out"))
    for name in trainable_arms(study):
        arguments = vars(study.run.training_arguments(tiny_run(name), "out"))
        different = {key for key, value in arguments.items() if str(value) != str(base[key])}
        assert different <= {"logging_dir"}, name
    settings = [json.dumps(arm.settings(), sort_keys=True) for arm in study.arms.ARMS.values() if arm.is_trained]
    assert len(set(settings)) == len(settings)


def test_no_test_scene_is_a_training_scene(study):
    tested = {study.schedules.TEST_SEED, study.schedules.TUNING_TEST_SEED}
    trained = set()
    for start in study.arms.STARTS:
        trained |= {study.schedules.training_seed(start, seed) for seed in range(1000)}
    assert not tested & trained and len(trained) == 2000


def test_equal_scenes_for_every_contrast(study):
    schedule = study.schedules.SCHEDULES["finetune", "easy"]
    assert schedule.steps_of_points(0) == (100, 200, 400)
    assert schedule.steps_of_points(256) == (12, 25, 50)
    for contrast in (64, 256, 1024):
        scenes = schedule.steps_of_points(contrast)[-1] * contrast
        assert 0 <= 12_800 - scenes < contrast


def test_the_queue_begins_with_the_first_seed_of_all(study, tmp_path):
    arms = [study.arms.ARMS[name] for name in ("before", "plain", "ce")]
    study.records.result_path(tmp_path, "plain", 0).write_text("{}", encoding="utf-8")
    unknown = replace(arms[2], name="unknown", config={"no_such_setting": 1})
    missing = study.queueing.missing_runs([*arms, unknown], [0, 1], tmp_path)
    assert [(arm.name, seed) for arm, seed in missing] == [("before", 0), ("ce", 0), ("plain", 1), ("ce", 1)]
    assert [arm.name for arm in study.queueing.chosen_arms("finetune", ["ce_b*", "order"])] == [
        "ce_b0",
        "ce_b1",
        "ce_b025",
        "ce_b0_k36",
        "sampled_reading",
        "sampled_random",
    ]
    with pytest.raises(ValueError, match="--only must name arms or groups of 'scratch', but 'before' fits none"):
        study.queueing.chosen_arms("scratch", ["before"])


def test_the_queue_survives_a_failing_arm(study, tmp_path, monkeypatch):
    commands = []

    def run_process(command, **settings):
        commands.append(command)
        return SimpleNamespace(returncode=int("ce" in command), stderr="broken")

    monkeypatch.setattr(study.queueing.subprocess, "run", run_process)
    runs = [(study.arms.ARMS[name], 0) for name in ("plain", "ce", "bce")]
    failures = study.queueing.Queue(tmp_path, ("--start", "finetune")).run(runs, workers=1)
    assert failures == ["ce, seed 0"]
    assert [command[command.index("--arm") + 1] for command in commands] == ["plain", "ce", "bce"]


def test_packed_shares_of_small_ties_are_exact(study):
    shares = torch.tensor([0, 1, 1 / 2, 1 / 3, 1 / 4, 1 / 5, 1 / 6, 5 / 6], dtype=torch.float64)
    letters = study.records.packed(shares)
    assert len(letters) == len(shares)
    torch.testing.assert_close(study.records.unpacked(letters), shares, rtol=0, atol=1e-15)
    with pytest.raises(ValueError, match="shares must be in"):
        study.records.packed(torch.tensor([1.5]))


@pytest.mark.parametrize("level", ["easy", "medium"])
def test_captions_are_true_of_their_own_scene(study, level):
    from beta_clip_hf import SceneDataset

    rows = SceneDataset(20, seed=3, level=level)
    num_reversed = 0
    for index in range(20):
        plan = study.ceilings.draw_scene(level, 3, index)
        short = study.ceilings.read_short_caption(rows[index]["short_caption"])
        assert plan.caption() == rows[index]["caption"]
        assert study.ceilings.is_caption_true(plan, plan.scene)
        assert study.ceilings.is_short_caption_true(short, plan.scene)
        for position, sentence in enumerate(plan.sentences):
            if len(sentence.mentions) == 2 and sentence.claim != "is":
                sentences = [*plan.sentences]
                sentences[position] = sentence.reversed()
                assert not study.ceilings.is_caption_true(plan._replace(sentences=tuple(sentences)), plan.scene)
                num_reversed += 1
        # Without one of its objects, a scene has too few for its captions.
        poorer = plan.scene._replace(objects=plan.scene.objects[1:])
        assert not study.ceilings.is_caption_true(plan, poorer)
        assert not study.ceilings.is_short_caption_true(short, poorer)
    assert num_reversed >= 20


def test_the_ceiling_of_retrieval_is_a_guess_among_what_is_true(study, monkeypatch):
    truth = [[True, True, False], [True, True, False], [False, False, True]]
    monkeypatch.setattr(study.ceilings, "truth_table", lambda captions, scenes, is_true: torch.tensor(truth))
    ceilings = study.ceilings.ceilings("easy", seed=3, num_scenes=3)
    assert ceilings["long"] == {"identical": 1.0, "text_to_image": 0.6667, "image_to_text": 0.6667}
