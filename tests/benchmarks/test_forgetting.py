"""What is forgotten of short captions: the base knows short ones alone, and the tables say what was measured."""

from dataclasses import replace

import pytest
import torch

from beta_clip_hf import BetaCLIPDataCollator, BetaCLIPModel, BetaCLIPProcessor


@pytest.fixture
def forgetting():
    """The benchmark. It is importable once the root is on the path."""
    from benchmarks.study import forgetting

    return forgetting


@pytest.fixture
def short(forgetting, plain_clip_dir):
    """Makes a fine-tuning of 4 scenes that is measured on 4."""

    def make(recipe: str, replayed: float):
        run = forgetting.tuning_run(recipe, replayed, 1, plain_clip_dir, scenes=4)
        return replace(run, test_scenes=4, schedule=replace(run.schedule, batch_size=2))

    return make


def captions_of(run, limit: int = 40):
    """The captions that a run trains on, as its collator draws them."""
    from benchmarks.study.run import build

    processor = BetaCLIPProcessor.from_pretrained(run.clip) if run.clip else build(run)[1]
    collator = BetaCLIPDataCollator(processor, seed=0, **run.arm.collator)
    rows = [run.training_rows()[index] for index in range(limit)]
    batch = collator(rows)
    granularity = batch.get("granularity")
    ids = batch["input_ids"] if granularity is None else batch["input_ids"][granularity == 0]
    texts = processor.batch_decode(ids, skip_special_tokens=True)
    return rows, [text.replace(" ", "") for text in texts]


@pytest.mark.slow
def test_the_base_sees_short_captions_alone(forgetting):
    rows, captions = captions_of(forgetting.base_run(40))
    for row, caption in zip(rows, captions, strict=True):
        assert caption.rstrip("!") == row["short_caption"].lower().replace(" ", "")


def test_a_share_of_the_rows_is_replayed(short):
    run = short("plain", 0.5)
    rows, captions = captions_of(replace(run, schedule=replace(run.schedule, points=(40,))))
    are_short = []
    for row, caption in zip(rows, captions, strict=True):
        are_short.append(caption == row["short_caption"].lower().replace(" ", ""))
    assert 10 < sum(are_short) < 30


@pytest.mark.slow
def test_a_result_has_the_mixtures_of_its_weights(forgetting, short, plain_clip_dir, monkeypatch):
    measured = []

    def remember(model, processor, rows, *, is_last):
        measured.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return []

    monkeypatch.setattr(forgetting, "measure_model", remember)
    monkeypatch.setattr(forgetting, "METRICS", {})
    result = forgetting.result_of(short("plain", 0.0), "plain", 0.0, plain_clip_dir)
    assert list(result["metrics"]) == ["1", "0.25", "0.5", "0.75"]
    base = BetaCLIPModel.from_pretrained(plain_clip_dir).state_dict()
    tuned, quarter, half, _ = measured
    name = "visual_projection.weight"
    assert not torch.equal(tuned[name], base[name])
    torch.testing.assert_close(half[name], (base[name] + tuned[name]) / 2)
    torch.testing.assert_close(quarter[name], 0.75 * base[name] + 0.25 * tuned[name])


def record(recipe: str, replayed: float, seed: int, metrics: dict) -> dict:
    return {"recipe": recipe, "replayed": replayed, "seed": seed, "metrics": metrics}


def test_tables_have_means_and_ranges_of_the_seeds(forgetting):
    columns = list(forgetting.METRICS)
    records = [{"recipe": "base", "metrics": {"0": dict.fromkeys(columns, 0.5)}}]
    for seed, value in enumerate((0.25, 0.5)):
        numbers = dict.fromkeys(columns, value)
        records.append(record("plain", 0.0, seed, dict.fromkeys(("1", "0.25", "0.5", "0.75"), numbers)))
        records.append(record("plain", 0.5, seed, {"1": dict.fromkeys(columns, value / 2)}))
    replay_table, alpha_table = forgetting.tables(records).split("\n\n")
    assert "| before |  |  | 50.0 | 50.0 | 50.0 |" in replay_table
    assert "| `plain` | 0 | 2 | 37.5 (25.0 – 50.0) |" in replay_table
    assert "| `plain` | 0.5 | 2 | 18.8 (12.5 – 25.0) |" in replay_table
    assert "| `plain` | 0.25 | 2 | 37.5 (25.0 – 50.0) |" in alpha_table
    # A recipe without runs has no row.
    assert "`ce`" not in replay_table
