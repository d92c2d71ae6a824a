"""Batches that lose all their rows, steps that are not finite, and what is said of both."""

import itertools
import json
import logging

import pytest
import torch
from PIL import Image

from beta_clip_hf import (
    BetaCLIPDataCollator,
    BetaCLIPModel,
    BetaCLIPProcessor,
    BetaCLIPTrainer,
    BetaCLIPTrainingArguments,
)
from beta_clip_hf.data.readers import load_rows
from beta_clip_hf.data.tokenizers import train_clip_tokenizer
from beta_clip_hf.training.record.counted_rows import SKIPPED_FILE, check_bad_fraction
from beta_clip_hf.training.run import train_and_report
from ddp_helpers import run_processes
from training.tiny_runs import new_trainer, weights


COLOURS = ("red", "green", "blue", "white", "black", "yellow")


def image(index):
    return Image.new("RGB", (40, 30), COLOURS[index % len(COLOURS)])


def rows(bad, count=6):
    """Rows of which some have an image that is none."""
    made = []
    for index in range(count):
        content = b"no image" if index in bad else image(index)
        made.append({"id": str(index), "image": content, "caption": f"A {COLOURS[index % 6]} picture. Number {index}."})
    return made


def small_trainer(config, folder, train, held_out=None, **settings):
    torch.manual_seed(0)
    model = BetaCLIPModel(config)
    processor = BetaCLIPProcessor.from_image_size(train_clip_tokenizer([], vocab_size=514), image_size=32)
    defaults = {"per_device_train_batch_size": 1, "per_device_eval_batch_size": 2, "max_steps": 6, "logging_steps": 1}
    quiet = {"report_to": [], "disable_tqdm": True, "save_strategy": "no", "use_cpu": True}
    args = BetaCLIPTrainingArguments(output_dir=str(folder), **{**defaults, **quiet, **settings})
    return BetaCLIPTrainer(model, args, train_dataset=train, eval_dataset=held_out, processing_class=processor)


@pytest.mark.parametrize("contrast", [0, 2])
def test_a_run_goes_on_when_batches_lose_all_rows(contrast, tiny_config, tmp_path, caplog):
    settings = {"contrastive_batch_size": contrast, "gradient_accumulation_steps": 2, "max_steps": 3}
    trainer = small_trainer(tiny_config, tmp_path, rows({1, 4}), rows({4, 5}), **settings)
    before = weights(trainer.model)
    results = train_and_report(trainer)
    after = weights(trainer.model)
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert all(value.isfinite().all() for value in after.values())
    assert results["skipped_rows"]["training"] == 2
    # The last batch of the evaluation holds bad rows only. It is measured twice.
    assert results["after"]["eval_images"] == 4 and results["skipped_rows"]["evaluation"] == 4
    listed = [json.loads(line) for line in (tmp_path / SKIPPED_FILE).read_text().splitlines()]
    assert sorted({row["id"] for row in listed}) == ["1", "4", "5"] and len(listed) == 3
    assert all(row["reason"].startswith("image must be readable") for row in listed)


def test_a_blank_batch_moves_no_weight(tiny_config, tmp_path):
    settings = {"weight_decay": 0.0, "max_steps": 2, "num_train_epochs": 1, "learning_rate": 0.1}
    trainer = small_trainer(tiny_config, tmp_path, rows({0, 1}, count=2), **settings)
    before = weights(trainer.model)
    trainer.train()
    after = weights(trainer.model)
    assert all(torch.equal(before[name], after[name]) for name in before)


def _two_processes(rank, config, folder):
    # Each process has batches of one row. Those of the second one are bad now and then.
    trainer = small_trainer(config, folder, rows({1, 3}, count=8), rows({1, 3}, count=4), max_steps=4)
    trainer.train()
    return weights(trainer.model), trainer.evaluate()["eval_images"]


def test_one_process_of_two_may_lose_its_batch(tiny_config, tmp_path):
    first, second = run_processes(_two_processes, tiny_config, str(tmp_path))
    assert first[1] == second[1] == 2
    assert all(torch.equal(value, second[0][name]) for name, value in first[0].items())
    assert all(value.isfinite().all() for value in first[0].values())


@pytest.mark.parametrize(
    "setting", [{"max_bad_fraction": 1.5}, {"max_bad_fraction": -0.1}, {"max_bad_steps": -1}, {"max_bad_steps": True}]
)
def test_limits_are_checked(setting, tmp_path):
    with pytest.raises(ValueError, match=f"{next(iter(setting))} must be"):
        BetaCLIPTrainingArguments(output_dir=str(tmp_path), report_to=[], use_cpu=True, **setting)


def test_too_many_bad_rows_end_the_run(tiny_config, tmp_path):
    check_bad_fraction(60, 1000, 0.1, "the rows")
    check_bad_fraction(9, 10, 0.1, "the rows")
    with pytest.raises(ValueError, match=r"at most 5\.0% of the rows may be skipped .* but 60 of 1,000"):
        check_bad_fraction(60, 1000, 0.05, "the rows")
    with pytest.raises(ValueError, match=r"at most 100\.0% .* but 100 of 100"):
        check_bad_fraction(100, 100, 1.0, "the rows")
    records = [{"image": b"x", "caption": "a" if index % 2 else ""} for index in range(200)]
    trainer = small_trainer(tiny_config, tmp_path, load_rows(records), max_bad_fraction=0.4)
    with pytest.raises(ValueError, match=r"the rows of the training data may be skipped .* but 100 of 200 were"):
        train_and_report(trainer)
    assert len((tmp_path / SKIPPED_FILE).read_text().splitlines()) == 100
    trainer = small_trainer(tiny_config, tmp_path, rows(range(300), count=300), max_steps=300)
    with pytest.raises(ValueError, match=r"the rows of the training batches may be skipped .* but 100 of 100 were"):
        trainer.train()


class Poisoned(torch.nn.Module):
    """Makes chosen losses, or their gradients, not finite."""

    def __init__(self, trainer, bad, kind):
        super().__init__()
        self.calls, self.bad, self.kind = 0, bad, kind
        self.compute = trainer.compute_loss

    def forward(self, *args, **kwargs):
        loss = self.compute(*args, **kwargs)
        self.calls += 1
        if self.calls not in self.bad:
            return loss
        return loss * self.kind


@pytest.mark.parametrize("kind", [float("nan"), float("inf")])
def test_bad_steps_are_passed_over_up_to_a_limit(kind, tiny_config, tmp_path):
    trainer = new_trainer(tiny_config, tmp_path, max_steps=6, logging_steps=1, max_bad_steps=2)
    trainer.compute_loss = Poisoned(trainer, {2, 4}, kind)
    trainer.train()
    assert all(value.isfinite().all() for value in weights(trainer.model).values())
    records = [record for record in trainer.state.log_history if "loss" in record]
    assert [record["bad_steps"] for record in records] == [0, 1, 1, 2, 2, 2]
    assert all(torch.tensor(record["loss"]).isfinite() for record in records)
    trainer = new_trainer(tiny_config, tmp_path / "more", max_steps=6, logging_steps=1, max_bad_steps=2)
    trainer.compute_loss = Poisoned(trainer, {2, 4, 5}, kind)
    with pytest.raises(FloatingPointError, match=r"all but 2 steps \(max_bad_steps\), but are not in 3 up to step 5;"):
        trainer.train()


@pytest.mark.parametrize("optim", ["adamw_torch_fused", "adamw_torch"])
def test_a_step_that_is_passed_over_leaves_weights_and_moments(tiny_config, tmp_path, optim):
    seen = []

    class Watch(Poisoned):
        def forward(self, *args, **kwargs):
            seen.append(weights(trainer.model))
            return super().forward(*args, **kwargs)

    trainer = new_trainer(tiny_config, tmp_path, max_steps=4, logging_steps=4, max_bad_steps=1, optim=optim)
    trainer.compute_loss = Watch(trainer, {2}, float("nan"))
    trainer.train()
    changed = []
    for before, after in itertools.pairwise(seen):
        changed.append(any(not torch.equal(before[name], after[name]) for name in before))
    assert changed == [True, False, True]
    steps = {float(state["step"]) for state in trainer.optimizer.state.values()}
    assert steps == {3.0}


def _poisoned_on_one(rank, config, folder, bad, most):
    trainer = new_trainer(config, folder, max_steps=4, logging_steps=1, max_bad_steps=most)
    if rank == 1:
        trainer.compute_loss = Poisoned(trainer, bad, float("nan"))
    try:
        trainer.train()
    except FloatingPointError as error:
        return str(error)
    return weights(trainer.model), [record["bad_steps"] for record in trainer.state.log_history if "loss" in record]


def test_a_bad_step_of_one_process_is_passed_over_by_both(tiny_config, tmp_path):
    (first, first_steps), (second, second_steps) = run_processes(
        _poisoned_on_one, tiny_config, str(tmp_path / "one"), {2}, 1
    )
    assert first_steps == second_steps == [0, 1, 1, 1]
    assert all(torch.equal(value, second[name]) and value.isfinite().all() for name, value in first.items())
    messages = run_processes(_poisoned_on_one, tiny_config, str(tmp_path / "two"), {2, 3}, 1)
    assert messages[0] == messages[1]
    assert "are not in 2 up to step 3" in messages[0]


def test_an_fp16_scale_that_collapses_ends_the_run(tiny_config, tmp_path):
    trainer = new_trainer(tiny_config, tmp_path, max_steps=4, logging_steps=2)
    trainer._guard.fp16_scale = lambda: 2.0**-11
    with pytest.raises(FloatingPointError, match=r"fp16 scale of the loss must not collapse, but is 0\.00049 after"):
        trainer.train()


def test_a_logit_scale_at_its_bound_is_told_once(tiny_config, tmp_path, caplog):
    trainer = new_trainer(tiny_config, tmp_path, max_steps=3, logging_steps=1)
    with torch.no_grad():
        trainer.model.logit_scale.fill_(9.0)
    with caplog.at_level(logging.WARNING):
        trainer.train()
    told = [record.getMessage() for record in caplog.records if "has drifted" in record.getMessage()]
    assert len(told) == 1 and told[0].startswith("logit_scale has drifted to 100 by step 1")


@pytest.mark.parametrize("count", [1, 3])
def test_identical_captions_and_a_single_image_give_finite_losses(count, tiny_model, tiny_processor):
    same = [{"image": image(index), "caption": "The same. Again the same."} for index in range(count)]
    batch = BetaCLIPDataCollator(tiny_processor)(same)
    tiny_model.train()
    outputs = tiny_model(**batch)
    outputs.loss.backward()
    assert outputs.loss.isfinite()
    gradients = [parameter.grad for parameter in tiny_model.parameters() if parameter.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)
