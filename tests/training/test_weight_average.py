"""The moving average of the weights against a plain loop; saved, resumed, evaluated, in two processes."""

import pytest
import torch
from transformers.trainer_utils import get_last_checkpoint

from beta_clip_hf import BetaCLIPModel
from ddp_helpers import run_processes
from training.tiny_runs import Spy, StopAt, TensorRows, new_model, new_trainer, weights


pytestmark = pytest.mark.slow

DECAY = 0.75
SAVING = {"save_strategy": "steps", "save_steps": 2}


def run(config, folder, *, resume=False, **settings):
    trainer = new_trainer(config, folder, **{"ema_decay": DECAY, "max_steps": 4, **settings})
    trainer.train(resume_from_checkpoint=resume or None)
    return trainer


def averaged(trainer):
    with trainer.averaged_weights():
        return weights(trainer.model)


def assert_equal_weights(ours, expected, tolerance=0.0):
    assert ours.keys() == expected.keys()
    for name, weight in ours.items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=tolerance, msg=lambda text, n=name: n + text)


def test_the_average_is_that_of_a_plain_loop(tiny_config, tmp_path):
    history = [weights(new_model(tiny_config))]
    spy = Spy(lambda state, model, optimizer: history.append(weights(model)))
    trainer = run(tiny_config, tmp_path, callbacks=[spy], freeze="text_embeddings")
    expected = history[0]
    for step in history[1:]:
        expected = {name: DECAY * value + (1 - DECAY) * step[name] for name, value in expected.items()}
    before = weights(trainer.model)
    average = averaged(trainer)
    assert_equal_weights(average, expected, tolerance=1e-6)
    # The model gets its own weights back, bit for bit.
    assert_equal_weights(weights(trainer.model), before)
    moved = {name for name in before if (before[name] - average[name]).abs().max() > 1e-4}
    assert {"pooler.q_proj.weight", "logit_scale", "vision_model.encoder.layers.0.mlp.fc1.weight"} <= moved
    frozen = {name for name in before if name.startswith("text_model.embeddings.")}
    assert all(torch.equal(before[name], average[name]) for name in frozen)
    assert len(list(trainer.average.averaged.module.parameters())) == len(before) - len(frozen)


def test_saved_beside_and_resumed_exactly(tiny_config, tmp_path):
    whole = run(tiny_config, tmp_path / "whole", **SAVING)
    whole.save_model()
    run(tiny_config, tmp_path / "stopped", callbacks=[StopAt(2)], **SAVING)
    resumed = run(tiny_config, tmp_path / "stopped", resume=True, **SAVING)
    assert resumed.state.global_step == 4
    assert_equal_weights(averaged(resumed), averaged(whole))
    assert_equal_weights(weights(resumed.model), weights(whole.model))
    for folder in (tmp_path / "whole", tmp_path / "whole" / "checkpoint-4", tmp_path / "stopped" / "checkpoint-4"):
        assert_equal_weights(weights(BetaCLIPModel.from_pretrained(folder / "ema")), averaged(whole))
        assert_equal_weights(weights(BetaCLIPModel.from_pretrained(folder)), weights(whole.model))


def test_a_checkpoint_without_an_average_is_not_resumed_with_one(tiny_config, tmp_path):
    run(tiny_config, tmp_path, ema_decay=0, callbacks=[StopAt(2)], **SAVING)
    trainer = new_trainer(tiny_config, tmp_path, ema_decay=DECAY, max_steps=4, **SAVING)
    # Not even if it is asked for.
    trainer.allowed_changes = ("training.ema_decay",)
    with pytest.raises(ValueError, match=r"must have the training.ema_decay of its checkpoint .*, but differs in"):
        trainer.train(resume_from_checkpoint=True)
    assert get_last_checkpoint(str(tmp_path)).endswith("checkpoint-2")


def test_evaluations_of_both(tiny_config, tmp_path):
    settings = {"evaluate_ema": True, "eval_strategy": "steps", "eval_steps": 2, "ema_decay": 0.99}
    trainer = run(tiny_config, tmp_path, eval_rows=TensorRows(12, seed=1), **settings)
    records = [record for record in trainer.state.log_history if "eval_ema_t2i_r1" in record]
    assert [record["step"] for record in records] == [2, 4]
    metrics = trainer.evaluate()
    assert {"eval_t2i_r1", "eval_i2t_r10", "eval_ema_t2i_r1", "eval_ema_i2t_r10"} <= metrics.keys()
    with trainer.averaged_weights():
        on_demand = trainer.evaluate()
    assert on_demand.keys().isdisjoint({"eval_ema_t2i_r1"})
    for name in ("t2i_r1", "t2i_r5", "i2t_r1", "i2t_r5"):
        assert on_demand[f"eval_{name}"] == metrics[f"eval_ema_{name}"]
    # The average is measured, and not the model again.
    seen = []
    trainer._embed_pairs = lambda loader: seen.append(weights(trainer.model)["logit_scale"]) or (torch.eye(2),) * 2
    trainer.evaluate()
    assert seen[0] != seen[1]


def test_several_sets_and_the_best_checkpoint(tiny_config, tmp_path):
    rows = {"photos": TensorRows(8, seed=1), "scenes": TensorRows(8, seed=2)}
    settings = {
        "evaluate_ema": True, "eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1,
        "load_best_model_at_end": True, "metric_for_best_model": "photos_ema_t2i_r1", "learning_rate": 0.05,
    }  # fmt: skip
    trainer = run(tiny_config, tmp_path, eval_rows=rows, **settings)
    assert {"eval_photos_ema_t2i_r1", "eval_scenes_ema_t2i_r1"} <= trainer.evaluate().keys()
    best = trainer.state.best_model_checkpoint
    assert_equal_weights(weights(trainer.model), weights(BetaCLIPModel.from_pretrained(best)))
    assert_equal_weights(averaged(trainer), weights(BetaCLIPModel.from_pretrained(f"{best}/ema")))


def test_adapters_are_averaged_alone(tiny_clip_dir, tmp_path):
    pytest.importorskip("peft", reason="peft is not installed")

    def adapted(folder, resume=False, **settings):
        torch.manual_seed(0)
        model = BetaCLIPModel.from_pretrained(tiny_clip_dir)
        return run(None, folder, model=model, lora=4, resume=resume, **SAVING, **settings)

    whole = adapted(tmp_path / "whole")
    adapted(tmp_path / "stopped", callbacks=[StopAt(2)])
    resumed = adapted(tmp_path / "stopped", resume=True)
    assert_equal_weights(averaged(resumed), averaged(whole))
    assert_equal_weights(weights(resumed.model), weights(whole.model))
    trained = [weight for weight in whole.model.parameters() if weight.requires_grad]
    assert len(list(whole.average.averaged.module.parameters())) == len(trained)
    ema = BetaCLIPModel.from_pretrained(tmp_path / "whole" / "checkpoint-4" / "ema")
    raw = BetaCLIPModel.from_pretrained(tmp_path / "whole" / "checkpoint-4")
    pixel_values = torch.randn(2, 3, 32, 32)
    with torch.no_grad(), whole.averaged_weights():
        expected = whole.model.eval().get_image_features(pixel_values).pooler_output
        torch.testing.assert_close(ema.get_image_features(pixel_values).pooler_output, expected, rtol=0, atol=2e-5)
        assert (raw.get_image_features(pixel_values).pooler_output - expected).abs().max() > 1e-4


# Adam divides a gradient by its size: without this epsilon, rounding moves a weight without a gradient by a whole step.
SEQUENTIAL = {"max_steps": 2, "train_sampling_strategy": "sequential", "adam_epsilon": 1e-4}


def test_two_processes_have_the_average_of_one(tiny_config, tmp_path):
    expected = averaged(run(tiny_config, tmp_path / "one", **SEQUENTIAL))
    results = run_processes(run_in_process, tiny_config, str(tmp_path / "two"))
    for result in results:
        assert_equal_weights(result, results[0])
        assert_equal_weights(result, expected, tolerance=1e-5)
    assert_equal_weights(weights(BetaCLIPModel.from_pretrained(tmp_path / "two" / "ema")), results[0])


def run_in_process(rank, config, folder):
    trainer = run(config, folder, per_device_train_batch_size=2, **SEQUENTIAL)
    trainer.save_model()
    trainer.accelerator.wait_for_everyone()
    return averaged(trainer)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ema_decay": 1}, "ema_decay must be at least 0 .no average. and below 1, but is 1"),
        ({"ema_decay": -0.1}, "ema_decay must be at least 0"),
        ({"ema_decay": 0, "evaluate_ema": True}, "ema_decay must be above 0 for evaluate_ema, but is 0"),
        ({"metric_for_best_model": "ema_t2i_r1"}, "evaluate_ema must be true for metric_for_best_model='ema_t2i_r1'"),
    ],
)
def test_impossible_settings_are_an_error(tiny_config, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        new_trainer(tiny_config, tmp_path, **{"ema_decay": DECAY, **settings})


def test_half_precision_and_a_missing_average_are_an_error(tiny_config, tmp_path):
    with pytest.raises(ValueError, match="ema_decay needs weights in float32, but the model has bfloat16"):
        run(tiny_config, tmp_path, model=new_model(tiny_config).bfloat16())
    with pytest.raises(ValueError, match="ema_decay must be above 0, and the training must have begun"):
        averaged(new_trainer(tiny_config, tmp_path, ema_decay=DECAY))
