"""A contrast over micro-batches has the loss and the gradients of the one large batch."""

from copy import deepcopy

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from beta_clip_hf import BetaCLIPConfig, BetaCLIPModel
from beta_clip_hf.training.cached_gradients import CachedContrast
from beta_clip_hf.training.distributed import ProcessGather
from ddp_helpers import run_processes
from training.test_distributed_regions import CASES, batch_of
from training.tiny_runs import TensorRows, new_model, new_trainer, weights


PARTS = {
    "all parts": CASES["ragged"] + CASES["no region in one"],
    "no regions": [(2, [0], []), (1, [], []), (3, [1], [])],
    "one micro-batch": CASES["ragged"][:1],
}
RUN = {"rows": 16, "max_steps": 3, "max_grad_norm": 1.0, "train_sampling_strategy": "sequential"}


def new(config, **changes):
    torch.manual_seed(0)
    model = BetaCLIPModel(deepcopy(config)).double()  # a model may change its configuration
    for name, value in changes.items():
        setattr(model.config, name, value)
    return model


def micro_batches(parts):
    return [batch_of([(number, part)], seed=7) | {"return_loss": True} for number, part in enumerate(parts)]


def cached(model, batches, gather=None, wrapped=None):
    contrast = CachedContrast(model, batches, gather=gather)
    for number, batch in enumerate(batches):
        with contrast.replayed(number):
            outputs = (wrapped or model)(**batch, objective=contrast.objective(number))
        outputs.loss.backward()
        assert outputs.loss.item() == contrast.loss.item() and outputs.losses is contrast.losses
    return contrast, {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("case", PARTS)
@pytest.mark.parametrize("kind", ["ce", "bce"])
def test_gradients_are_those_of_the_large_batch(both_systems_config, case, kind):
    model = new(both_systems_config, alignment_loss=kind)
    whole = model(**batch_of(list(enumerate(PARTS[case])), seed=7), return_loss=True)
    whole.loss.backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    contrast, found = cached(new(both_systems_config, alignment_loss=kind), micro_batches(PARTS[case]))
    assert contrast.losses.keys() == whole.losses.keys()
    torch.testing.assert_close(contrast.loss, whole.loss.detach(), rtol=0, atol=1e-12)
    for name, gradient in expected.items():
        gradient = torch.zeros_like(found[name]) if gradient is None and found[name] is not None else gradient
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-12)
    assert sum(gradient is not None and gradient.abs().max() > 1e-4 for gradient in expected.values()) > 50


def test_dropout_drops_the_same_in_both_passes(both_systems_config):
    model = new(both_systems_config).train()
    for tower in (model.text_model, model.vision_model):
        for layer in tower.encoder.layers:
            layer.self_attn.dropout = 0.5
    batches = micro_batches(PARTS["all parts"])
    seen = []

    def keep(embeds, scales):
        seen.append(embeds.text_TD.detach())
        return embeds.image_BD.sum(), {}

    torch.manual_seed(3)
    for batch in batches:
        model(**batch, objective=keep)
    expected, after = torch.cat(seen), torch.rand(1)

    seen.clear()
    torch.manual_seed(3)
    contrast = CachedContrast(model, batches)
    for number, batch in enumerate(batches):
        with contrast.replayed(number):
            model(**batch, objective=keep)
    torch.testing.assert_close(torch.cat(seen), expected, rtol=0, atol=0)
    assert torch.equal(torch.rand(1), after)  # the second passes have drawn nothing
    seen.clear()
    for batch in batches:
        model(**batch, objective=keep)
    assert (torch.cat(seen) - expected).abs().max() > 1e-3  # dropout is at work


def in_process(rank, config):
    model = new(config)
    wrapped = DistributedDataParallel(model, find_unused_parameters=True)
    parts = PARTS["all parts"][2 * rank : 2 * rank + 2]
    batches = [batch_of([(2 * rank + n, part)], seed=7) | {"return_loss": True} for n, part in enumerate(parts)]
    contrast = CachedContrast(model, batches, gather=ProcessGather())
    for number, batch in enumerate(batches):

        def step(number=number, batch=batch):
            wrapped(**batch, objective=contrast.objective(number)).loss.backward()

        if number == 0:
            with wrapped.no_sync():
                step()
        else:
            step()
    return contrast.loss, {name: parameter.grad for name, parameter in model.named_parameters()}


def test_two_processes_with_two_micro_batches_each_are_one_batch(both_systems_config):
    model = new(both_systems_config)
    whole = model(**batch_of(list(enumerate(PARTS["all parts"])), seed=7), return_loss=True)
    whole.loss.backward()
    for loss, found in run_processes(in_process, both_systems_config):
        torch.testing.assert_close(loss, whole.loss.detach(), rtol=0, atol=1e-12)
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(found[name], parameter.grad, rtol=0, atol=1e-10)


@pytest.mark.parametrize("bf16", [False, True])
def test_a_run_with_one_flag_is_the_run_with_the_large_batch(tiny_clip_config, tmp_path, bf16):
    values = tiny_clip_config.to_dict()
    config = BetaCLIPConfig(text_config=values["text_config"], vision_config=values["vision_config"], projection_dim=32)
    runs = []
    for settings in (
        {"per_device_train_batch_size": 8},
        {"per_device_train_batch_size": 2, "contrastive_batch_size": 8},
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
    ):
        trainer = new_trainer(config, tmp_path, eval_rows=TensorRows(4), bf16=bf16, **RUN | settings)
        trainer.train()
        runs.append((weights(trainer.model), [record for record in trainer.state.log_history if "loss" in record]))
    (expected, expected_log), (found, log), (_, accumulated_log) = runs
    for record, of_large, of_accumulated in zip(log, expected_log, accumulated_log, strict=True):
        for name in ("loss", "clip_loss", "beta_cal_loss", "grad_norm", "learning_rate"):
            assert record[name] == pytest.approx(of_large[name], rel=5e-2 if bf16 else 1e-3), name
        # Accumulation alone contrasts two images at a time, which is easier.
        assert of_accumulated["loss"] < record["loss"] - 0.5
    untrained = weights(new_model(config))
    moved = torch.cat([(value - untrained[name]).abs().flatten() for name, value in expected.items()])
    apart = torch.cat([(value - found[name]).abs().flatten() for name, value in expected.items()])
    assert moved.mean() > 1e-4
    # Adam turns rounding into whole steps where a gradient is all but zero: the mean is what half precision allows.
    assert apart.mean() < (0.1 if bf16 else 1e-3) * moved.mean()


def test_sizes_that_do_not_fit_are_refused(tiny_config, tmp_path):
    with pytest.raises(ValueError, match="must be a multiple of the 4 images of one forward pass"):
        new_trainer(tiny_config, tmp_path, contrastive_batch_size=6)
    with pytest.raises(ValueError, match="gradient_accumulation_steps must be left at 1"):
        new_trainer(tiny_config, tmp_path, contrastive_batch_size=8, gradient_accumulation_steps=3)
    trainer = new_trainer(tiny_config, tmp_path, contrastive_batch_size=12)
    assert trainer.args.gradient_accumulation_steps == 3
