"""The Trainer on ready tensors: what moves, what stays, what is logged, and what a run leaves behind."""

import math
from itertools import chain, product

import pytest
import torch

from beta_clip_hf import BetaCLIPModel, BetaCLIPTrainer, BetaCLIPTrainingArguments
from training.tiny_runs import Spy, StopAt, TensorCollator, TensorRows, new_model, new_trainer, weights


pytestmark = pytest.mark.slow


POSITIONS = "text_model.embeddings.position_embedding.weight"


def changed(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_parameter_groups(tiny_config, tmp_path):
    trainer = new_trainer(tiny_config, tmp_path, weight_decay=0.3)
    optimizer = trainer.create_optimizer()
    assert optimizer.defaults["fused"]
    groups = optimizer.param_groups
    assert [(group["name"], group["weight_decay"]) for group in groups] == [
        ("towers", 0.3),
        ("towers", 0.0),
        ("pooler", 0.3),
        ("pooler", 0.0),
    ]
    assert [group["lr"] for group in groups] == [1e-3, 1e-3, 1e-2, 1e-2]
    assert all(group["betas"] == (0.9, 0.98) and group["eps"] == 1e-8 for group in groups)
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    members = []
    for group in groups:
        members.append({names[id(parameter)] for parameter in group["params"]})
    assert sum(map(len, members)) == len(names)
    assert not any(name.startswith("pooler.") for name in members[0] | members[1])
    assert all(name.startswith("pooler.") for name in members[2] | members[3])
    undecayed = members[1] | members[3]
    assert {"logit_scale", "pooler.logit_scale"} <= undecayed
    assert all("bias" in name or "norm" in name or "scale" in name or "class_embed" in name for name in undecayed)
    assert not any("bias" in name or "norm" in name for name in members[0] | members[2])


def test_logged_parts_are_the_loss(tiny_config, tmp_path):
    tiny_config.clip_loss_weight, tiny_config.beta_cal_loss_weight = 0.5, 2.0
    trainer = new_trainer(tiny_config, tmp_path, max_steps=4, logging_steps=2, gradient_accumulation_steps=2)
    trainer.train()
    records = [record for record in trainer.state.log_history if "loss" in record]
    assert [record["step"] for record in records] == [2, 4]
    for record in records:
        total = 0.5 * record["clip_loss"] + 2.0 * record["beta_cal_loss"]
        assert record["loss"] == pytest.approx(total, rel=1e-5)
        assert record["clip_loss"] > 0.1 and record["beta_cal_loss"] > 0.1
        assert 1 <= record["logit_scale"] <= 100 and 1 <= record["pooler_logit_scale"] <= 100


def test_a_part_of_weight_zero_is_not_logged(tiny_config, tmp_path):
    tiny_config.beta_cal_loss_weight = 0.0
    trainer = new_trainer(tiny_config, tmp_path, max_steps=1)
    trainer.train()
    assert "clip_loss" in trainer.state.log_history[0] and "beta_cal_loss" not in trainer.state.log_history[0]


def gradients_of(trainer, batches):
    model = trainer.model
    for batch in batches:
        trainer.training_step(model, batch)
    gradients = {
        name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None
    }
    model.zero_grad()
    return gradients


def test_accumulation_is_the_mean_of_the_micro_batches(tiny_config, tmp_path):
    trainer = new_trainer(tiny_config, tmp_path, model=new_model(tiny_config).double(), gradient_accumulation_steps=3)
    trainer.create_optimizer()
    collator, rows = TensorCollator(), TensorRows(12)
    batches = [collator(list(map(rows.__getitem__, numbers))) for numbers in (range(4), range(4, 8), range(8, 12))]
    batches = [batch | {"pixel_values": batch["pixel_values"].double()} for batch in batches]
    trainer.current_gradient_accumulation_steps = 3
    accumulated = gradients_of(trainer, batches)
    trainer.current_gradient_accumulation_steps = 1
    single = [gradients_of(trainer, [batch]) for batch in batches]
    assert max(gradient.abs().max() for gradient in accumulated.values()) > 1e-3
    for name, gradient in accumulated.items():
        mean = sum(gradients[name] for gradients in single) / 3
        torch.testing.assert_close(gradient, mean, rtol=0, atol=1e-12)


def test_logit_scales_are_clamped_after_each_step(tiny_config, tmp_path):
    model = new_model(tiny_config)
    with torch.no_grad():
        model.logit_scale.fill_(9.0)
        model.pooler.logit_scale.fill_(-3.0)
    seen = []
    spy = Spy(lambda state, model, optimizer: seen.append((model.logit_scale.item(), model.pooler.logit_scale.item())))
    new_trainer(tiny_config, tmp_path, model=model, callbacks=[spy], max_steps=2, learning_rate=0).train()
    assert seen[0] == (pytest.approx(math.log(100)), 0.0)
    assert all(0 <= scale <= math.log(100) + 1e-6 for scale in chain.from_iterable(seen))

    model = new_model(tiny_config)
    with torch.no_grad():
        model.logit_scale.fill_(9.0)
    new_trainer(tiny_config, tmp_path, model=model, max_steps=1, learning_rate=0, logit_scale_max=0).train()
    assert model.logit_scale.item() == 9.0


@pytest.mark.parametrize("freeze", [True, False])
def test_frozen_text_positions_do_not_change_by_a_bit(tiny_config, tmp_path, freeze):
    trainer = new_trainer(tiny_config, tmp_path, freeze_text_positions=freeze, weight_decay=0.5, max_grad_norm=1.0)
    before = weights(trainer.model)
    seen = {}

    def note(state, model, optimizer):
        moments = optimizer.state[model.text_model.embeddings.position_embedding.weight]["exp_avg"]
        seen["frozen"], seen["free"] = moments[:6].abs().max().item(), moments[20:].abs().max().item()

    trainer.add_callback(Spy(note))
    trainer.train()
    after = weights(trainer.model)
    assert torch.equal(before[POSITIONS][:20], after[POSITIONS][:20]) == freeze
    assert not torch.equal(before[POSITIONS][20:], after[POSITIONS][20:])  # weight decay moves the others
    assert (seen["frozen"] == 0) == freeze
    assert "text_model.embeddings.token_embedding.weight" in changed(before, after)


def test_resume_goes_on_bit_for_bit(tiny_config, tmp_path):
    """Cut in the middle of the second epoch, with another random state: the same weights, moments and losses."""
    settings = {"rows": 16, "max_steps": 8, "save_strategy": "steps", "save_steps": 6, "freeze_text_positions": True}
    whole = new_trainer(tiny_config, tmp_path / "whole", **settings)
    whole.train()

    new_trainer(tiny_config, tmp_path / "cut", callbacks=[StopAt(6)], **settings).train()
    torch.manual_seed(1234)
    resumed = new_trainer(tiny_config, tmp_path / "cut", model=new_model(tiny_config, seed=5), **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-6"))
    assert not changed(weights(whole.model), weights(resumed.model))
    assert changed(weights(whole.model), weights(new_model(tiny_config)))
    losses = []
    for trainer in (whole, resumed):
        last_records = [record for record in trainer.state.log_history if record.get("step", 0) > 6]
        losses.append([record["loss"] for record in last_records if "loss" in record])
    assert losses[0] == losses[1] and len(losses[0]) == 2
    assert resumed.data_collator.epoch == 1


class Poison:
    """Makes the weights NaN at the start of one step."""

    def __init__(self, model, step):
        self.model, self.step, self.calls = model, step, 0
        model.register_forward_pre_hook(self)

    def __call__(self, module, args):
        self.calls += 1
        if self.calls == self.step:
            with torch.no_grad():
                module.visual_projection.weight.fill_(float("nan"))


def test_nan_stops_the_run_and_keeps_the_last_checkpoint(tiny_config, tmp_path):
    trainer = new_trainer(
        tiny_config, tmp_path, max_steps=12, save_strategy="steps", save_steps=3, logging_steps=5, rows=64
    )
    Poison(trainer.model, step=7)
    with pytest.raises(FloatingPointError, match=r"steps 7 to 9;.*checkpoint-6"):
        trainer.train()
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-6"]
    kept = BetaCLIPModel.from_pretrained(tmp_path / "checkpoint-6")
    assert all(parameter.isfinite().all() for parameter in kept.parameters())
    assert not any(math.isnan(record.get("loss", 0.0)) for record in trainer.state.log_history)


def test_weights_that_overflow_under_a_finite_loss_are_not_saved(tiny_config, tmp_path):
    def overflow(state, model, optimizer):
        with torch.no_grad():
            model.visual_projection.weight[0, 0] = float("inf")

    trainer = new_trainer(tiny_config, tmp_path, max_steps=2, save_strategy="steps", save_steps=1, logging_steps=50)
    trainer.callback_handler.callbacks.insert(0, Spy(overflow))
    with pytest.raises(FloatingPointError, match=r"steps 1 to 1;.*no checkpoint"):
        trainer.train()
    assert not list(tmp_path.glob("checkpoint-*"))


def test_nan_after_the_last_record_is_found_at_the_end(tiny_config, tmp_path):
    trainer = new_trainer(tiny_config, tmp_path, max_steps=3, logging_steps=50)
    Poison(trainer.model, step=3)
    with pytest.raises(FloatingPointError, match="steps 1 to 3"):
        trainer.train()


def test_evaluation_is_retrieval(tiny_config, tmp_path):
    """A model that has learnt its 12 rows by heart finds all of them; a new one does not."""
    rows = TensorRows(12)
    trainer = new_trainer(
        tiny_config, tmp_path, rows=12, eval_rows=rows, max_steps=40, per_device_train_batch_size=12, logging_steps=40
    )
    before = trainer.evaluate()
    keys = {f"eval_{direction}_r{k}" for direction, k in product(("i2t", "t2i"), (1, 5, 10))}
    assert keys <= before.keys() and before["eval_images"] == 12
    assert before["eval_t2i_r1"] < 0.5 and before["eval_t2i_r1"] <= before["eval_t2i_r5"] <= before["eval_t2i_r10"]
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_t2i_r1"] == after["eval_i2t_r1"] == 1.0

    batch = TensorCollator()([rows[index] for index in range(12)])
    trainer.model.eval()
    with torch.no_grad():
        outputs = trainer.model(**batch)
    captions = outputs.text_embeds[batch["granularity"] == 0]
    nearest = (captions @ outputs.image_embeds.T).argmax(dim=1)
    assert torch.equal(nearest, torch.arange(12))


def test_evaluation_of_several_sets_and_of_none(tiny_config, tmp_path):
    trainer = new_trainer(tiny_config, tmp_path, eval_rows={"a": TensorRows(3), "b": TensorRows(5, seed=1)})
    metrics = trainer.evaluate()
    assert (metrics["eval_a_images"], metrics["eval_b_images"]) == (3, 5)
    assert metrics["eval_a_t2i_r5"] == 1.0
    with pytest.raises(ValueError, match="eval_dataset must be given"):
        new_trainer(tiny_config, tmp_path).evaluate()


def test_best_checkpoint_is_loaded_at_the_end(tiny_config, tmp_path):
    """The rate is so high that the model is worse at the end; the checkpoint with the best metric is what stays."""
    trainer = new_trainer(
        tiny_config,
        tmp_path,
        rows=12,
        eval_rows=TensorRows(12),
        max_steps=6,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        load_best_model_at_end=True,
    )
    assert trainer.args.metric_for_best_model == "t2i_r1" and trainer.args.greater_is_better
    scores = iter([0.2, 0.9, 0.4])
    evaluate = trainer.evaluate
    trainer.evaluate = lambda *args, **kwargs: evaluate(*args, **kwargs) | {"eval_t2i_r1": next(scores)}
    trainer.train()
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-4")
    best = BetaCLIPModel.from_pretrained(tmp_path / "checkpoint-4")
    last = BetaCLIPModel.from_pretrained(tmp_path / "checkpoint-6")
    assert not changed(weights(best), weights(trainer.model))
    assert changed(weights(last), weights(trainer.model))


def test_evaluation_does_not_change_the_training(tiny_config, tmp_path):
    plain = new_trainer(tiny_config, tmp_path, max_steps=3)
    plain.train()
    settings = {"eval_rows": TensorRows(5), "eval_strategy": "steps", "eval_steps": 1}
    evaluated = new_trainer(tiny_config, tmp_path, max_steps=3, **settings)
    evaluated.train()
    assert not changed(weights(plain.model), weights(evaluated.model))
    before = torch.get_rng_state()
    evaluated.evaluate()
    assert torch.equal(before, torch.get_rng_state())


def test_several_gpus_without_a_launcher(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setattr(BetaCLIPTrainingArguments, "n_gpu", 2)
    with pytest.raises(ValueError, match="accelerate launch"):
        new_trainer(tiny_config, tmp_path)


def test_too_few_rows_for_a_batch(tiny_config, tmp_path):
    with pytest.raises(ValueError, match="must fill one batch of 4 rows"):
        new_trainer(tiny_config, tmp_path, rows=3).train()


def test_a_collator_or_a_processor_is_needed(tiny_model, tmp_path):
    with pytest.raises(ValueError, match="processing_class must be a BetaCLIPProcessor"):
        BetaCLIPTrainer(tiny_model, BetaCLIPTrainingArguments(str(tmp_path), use_cpu=True))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"learning_rate_end": -1.0}, "learning_rate_end must not be negative"),
        ({"logit_scale_max": 0.5}, "logit_scale_max must be at least 1"),
        ({"logit_scale_max": math.nan}, "logit_scale_max must be at least 1, or 0 for no limit, but is nan"),
        ({"num_train_epochs": math.nan}, "num_train_epochs must be at least 0, but is nan"),
        ({"lr_scheduler_type": "linear"}, "lr_scheduler_type must be 'cosine'"),
        ({"remove_unused_columns": True}, "remove_unused_columns must be False"),
        ({"text_checkpointing": True}, r"text_checkpointing must be one of .*, but is True"),
        ({"accelerator_config": {"dispatch_batches": True}}, "dispatch_batches must not be True"),
    ],
)
def test_wrong_arguments(tmp_path, setting, message):
    with pytest.raises(ValueError, match=message):
        BetaCLIPTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **setting)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, True),
        ({"gradient_checkpointing": True}, True),
        ({"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}, None),
        ({"ddp_find_unused_parameters": False}, False),
    ],
)
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated")  # its new name is unknown to 5.17
def test_ddp_looks_for_parameters_that_no_loss_reaches(tmp_path, settings, expected):
    args = BetaCLIPTrainingArguments(str(tmp_path), use_cpu=True, **settings)
    assert args.ddp_find_unused_parameters is expected


def test_bf16_without_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    args = BetaCLIPTrainingArguments(str(tmp_path), bf16=True)
    assert args.use_cpu and args.bf16 and args.device.type == "cpu"
    assert not BetaCLIPTrainingArguments(str(tmp_path)).use_cpu


def test_arguments_survive_json(tmp_path):
    args = BetaCLIPTrainingArguments(str(tmp_path), use_cpu=True, pooler_learning_rate=0.5, freeze_text_positions=True)
    values = {name: value for name, value in args.to_dict().items() if name in ("pooler_learning_rate", "bf16")}
    assert values == {"pooler_learning_rate": 0.5, "bf16": False}
    assert args.accelerator_config.dispatch_batches is False
