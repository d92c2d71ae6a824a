"""What a run leaves for its model card."""

from beta_clip_hf.training.run_record import hub_ids, last_evaluation
from training.tiny_runs import TensorRows, new_trainer


def test_names_of_the_hub_are_told_from_paths_while_a_run_begins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "base").mkdir(parents=True)
    model = {"from_pretrained": "runs/base", "tokenizer": "openai/clip-vit-base-patch16"}
    config = {"model": model, "data": {"train": {"source": "me/photos-v1.5"}, "eval": "shards/*.tar"}}
    assert hub_ids(config) == ["me/photos-v1.5", "openai/clip-vit-base-patch16"]
    config = {"model": {"from_pretrained": None}, "data": {"train": ["a/b.tar"], "eval": {"scenes": 3}}}
    assert hub_ids(config) == []


def test_the_last_evaluation_has_all_evaluation_sets(tiny_config, tmp_path):
    """Each set logs a record of its own."""
    sets = {"a": TensorRows(3), "b": TensorRows(5, seed=1)}
    settings = {"max_steps": 3, "eval_strategy": "steps", "eval_steps": 3}
    trainer = new_trainer(tiny_config, tmp_path, eval_rows=sets, **settings)
    trainer.train()
    metrics = last_evaluation(trainer)
    assert (metrics["eval_a_images"], metrics["eval_b_images"]) == (3, 5)
    assert {"eval_a_t2i_r1", "eval_b_t2i_r1"} <= metrics.keys()
    trainer.state.global_step += 1
    assert last_evaluation(trainer) is None  # of weights that have moved since
