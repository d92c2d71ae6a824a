"""What a run leaves for its model card."""

import pytest

from beta_clip_hf.training.record.run_record import describe_run, hub_ids, last_evaluation
from beta_clip_hf.visualize.log_keys import recall_keys
from training.tiny_runs import TensorRows, new_trainer


def test_names_of_the_hub_are_told_from_paths_while_a_run_begins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "base").mkdir(parents=True)
    model = {"from_pretrained": "runs/base", "tokenizer": "openai/clip-vit-base-patch16"}
    config = {"model": model, "data": {"train": {"source": "me/photos-v1.5"}, "eval": "shards/*.tar"}}
    assert hub_ids(config) == ["me/photos-v1.5", "openai/clip-vit-base-patch16"]
    config = {"model": {"from_pretrained": None}, "data": {"train": ["a/b.tar"], "eval": {"scenes": 3}}}
    assert hub_ids(config) == []


@pytest.mark.slow
def test_sets_that_only_an_evaluation_was_given_are_known(tiny_config, tmp_path):
    trainer = new_trainer(tiny_config, tmp_path, eval_rows=TensorRows(3), max_steps=1)
    trainer.train()
    assert last_evaluation(trainer) is None
    metrics = trainer.evaluate({"t2i_r1": TensorRows(4)})
    recalls = {key.key for key in recall_keys(["t2i_r1"]) if key.data}
    assert recalls <= metrics.keys() and "eval_t2i_r1_t2i_r1" in recalls
    assert recalls <= last_evaluation(trainer).keys()
    assert describe_run(trainer)["evaluated_sets"] == ["t2i_r1"]


@pytest.mark.slow
def test_the_last_evaluation_has_all_evaluation_sets(tiny_config, tmp_path):
    """Each set logs a record of its own."""
    sets = {"a": TensorRows(3), "b": TensorRows(5, seed=1)}
    settings = {"max_steps": 3, "eval_strategy": "steps", "eval_steps": 3}
    trainer = new_trainer(tiny_config, tmp_path, eval_rows=sets, **settings)
    trainer.train()
    metrics = last_evaluation(trainer)
    assert (metrics["eval_a_images"], metrics["eval_b_images"]) == (3, 5)
    assert {"eval_a_t2i_r1", "eval_b_t2i_r1"} <= metrics.keys()
    assert describe_run(trainer)["evaluated_sets"] == ["a", "b"]
    trainer.state.global_step += 1
    assert last_evaluation(trainer) is None  # of weights that have moved since
