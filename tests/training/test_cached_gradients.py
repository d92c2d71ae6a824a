"""A contrast over micro-batches has the loss and the gradients of the one large batch."""

import itertools
import json
from contextlib import nullcontext
from copy import deepcopy
from functools import partial

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import Subset

from beta_clip_hf import BetaCLIPConfig, BetaCLIPModel
from beta_clip_hf.training.cached_gradients import CachedContrast
from beta_clip_hf.training.distributed import ProcessGather
from ddp_helpers import run_processes
from training.test_distributed_regions import CASES, batch_of
from training.tiny_runs import TensorCollator, TensorRows, new_model, new_trainer, weights


pytestmark = pytest.mark.slow


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
        with contrast.micro_batch(number):
            outputs = (wrapped or model)(**batch)
        outputs.loss.backward()
        assert outputs.loss.item() == contrast.loss.item() and outputs.losses is contrast.losses
    return contrast, {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("case", PARTS)
@pytest.mark.parametrize("kind", ["ce", "bce"])
def test_gradients_are_those_of_the_large_batch(both_systems_config, case, kind):
    names = ("text_negative", "conditioned_negative", "text_clip")
    options = {"alignment_loss": kind, "mask_identical_texts": True, **{f"{name}_loss_weight": 0.5 for name in names}}
    model = new(both_systems_config, **options)
    whole = model(**batch_of(list(enumerate(PARTS[case])), seed=7), return_loss=True)
    whole.loss.backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    model = new(both_systems_config, **options)
    contrast, found = cached(model, micro_batches(PARTS[case]))
    assert contrast.losses.keys() == whole.losses.keys() >= {f"{name}_loss" for name in names}
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
        with model.loss_context(objective=keep):
            model(**batch)
    expected, after = torch.cat(seen), torch.rand(1)

    seen.clear()
    torch.manual_seed(3)
    contrast = CachedContrast(model, batches)
    for number, batch in enumerate(batches):
        with contrast.micro_batch(number), model.loss_context(objective=keep):
            model(**batch)
    torch.testing.assert_close(torch.cat(seen), expected, rtol=0, atol=0)
    assert torch.equal(torch.rand(1), after)  # the second passes have drawn nothing
    seen.clear()
    for batch in batches:
        with model.loss_context(objective=keep):
            model(**batch)
    assert (torch.cat(seen) - expected).abs().max() > 1e-3  # dropout is at work


def peak_bytes(model, step, trace):
    """The most bytes of tensors alive during the step, above the weights."""
    model.zero_grad()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    profiler.export_chrome_trace(str(trace))
    events = [event for event in json.loads(trace.read_text())["traceEvents"] if event.get("name") == "[memory]"]
    changes = [event["args"]["Bytes"] for event in sorted(events, key=lambda event: event["ts"])]
    return max(itertools.accumulate(changes))


def test_memory_does_not_grow_with_the_number_of_micro_batches(tiny_config, tmp_path):
    """But for the embeddings. From the second one on the gradients of the first are there as well."""
    model = new_model(tiny_config)
    collator, rows = TensorCollator(), TensorRows(64)
    batches = [collator(list(Subset(rows, range(start, start + 8)))) for start in range(0, 64, 8)]
    large_batch = collator([rows[row] for row in range(64)])

    def large():
        model(**large_batch).loss.backward()

    large()  # what the libraries take once
    steps = {number: partial(cached, model, batches[:number]) for number in (2, 8)} | {"large": large}
    peaks = {name: peak_bytes(model, step, tmp_path / "trace.json") for name, step in steps.items()}
    embeddings = sum(len(batch["image_index"]) * 2 + 8 for batch in batches) * 4 * tiny_config.projection_dim
    assert peaks[8] - peaks[2] < 4 * embeddings  # two kinds of text embeddings and images, and their gradients
    assert peaks["large"] > 3 * peaks[8]


def in_process(rank, config):
    """In two ways: gradients exchanged after each micro-batch, or after the last one only, as the Trainer does."""
    parts = PARTS["all parts"][2 * rank : 2 * rank + 2]
    batches = [batch_of([(2 * rank + n, part)], seed=7) | {"return_loss": True} for n, part in enumerate(parts)]
    found = []
    for exchanged_always in (True, False):
        model = new(config)
        wrapped = DistributedDataParallel(model)  # every parameter is needed in every micro-batch
        contrast = CachedContrast(model, batches, gather=ProcessGather())
        for number, batch in enumerate(batches):
            with nullcontext() if exchanged_always or number == len(batches) - 1 else wrapped.no_sync():
                with contrast.micro_batch(number):
                    loss = wrapped(**batch).loss
                loss.backward()
        found.append((contrast.loss, {name: parameter.grad for name, parameter in model.named_parameters()}))
    return found


def test_two_processes_with_two_micro_batches_each_are_one_batch(both_systems_config):
    model = new(both_systems_config)
    whole = model(**batch_of(list(enumerate(PARTS["all parts"])), seed=7), return_loss=True)
    whole.loss.backward()
    for loss, found in itertools.chain(*run_processes(in_process, both_systems_config)):
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
    for record, large_record, accumulated_record in zip(log, expected_log, accumulated_log, strict=True):
        for name in ("loss", "clip_loss", "beta_cal_loss", "grad_norm", "learning_rate"):
            assert record[name] == pytest.approx(large_record[name], rel=5e-2 if bf16 else 1e-3), name
        # Accumulation alone contrasts two images at a time, which is easier.
        assert accumulated_record["loss"] < record["loss"] - 0.5
    untrained = weights(new_model(config))
    moved = torch.cat([(value - untrained[name]).abs().flatten() for name, value in expected.items()])
    apart = torch.cat([(value - found[name]).abs().flatten() for name, value in expected.items()])
    assert moved.mean() > 1e-4
    # Adam turns rounding into whole steps where a gradient is all but zero: the mean is what half precision allows.
    assert apart.mean() < (0.1 if bf16 else 1e-3) * moved.mean()


def test_sizes_that_do_not_fit_are_refused(tiny_config, tmp_path):
    with pytest.raises(ValueError, match="must be a multiple of the 4 images of one forward pass"):
        new_trainer(tiny_config, tmp_path, contrastive_batch_size=6)
    for size in (-8, 8.0, True):
        with pytest.raises(ValueError, match=f"must be an integer of at least 0, but is {size}"):
            new_trainer(tiny_config, tmp_path, contrastive_batch_size=size)
    with pytest.raises(ValueError, match="must fill one contrast of 16 rows, but has 15"):
        new_trainer(tiny_config, tmp_path, rows=15, contrastive_batch_size=16).train()
    with pytest.raises(ValueError, match="must hold at least one micro-batch"):
        CachedContrast(new_model(tiny_config), [])


@pytest.mark.parametrize("accumulation", [1, 3, 8])
def test_a_contrast_says_how_much_is_accumulated(tiny_config, tmp_path, caplog, accumulation):
    """A recipe may have a value for runs without it."""
    trainer = new_trainer(
        tiny_config, tmp_path, contrastive_batch_size=12, gradient_accumulation_steps=accumulation, max_steps=1
    )
    assert trainer.args.gradient_accumulation_steps == 3
    said = ["gradient_accumulation_steps is now 3, the micro-batches of one contrast, and no longer 8"]
    assert [record.getMessage() for record in caplog.records if "accumulation" in record.msg] == (
        said if accumulation == 8 else []
    )


@pytest.mark.parametrize(("rows", "drop_last", "rest"), [(24, True, 0), (27, True, 0), (27, False, 3), (22, True, 8)])
def test_an_incomplete_contrast_is_told(tiny_config, tmp_path, caplog, rows, drop_last, rest):
    settings = {"contrastive_batch_size": 12, "dataloader_drop_last": drop_last}
    new_trainer(tiny_config, tmp_path, rows=rows, **settings).get_train_dataloader()
    told = [record.getMessage() for record in caplog.records if "contrastive_batch_size" in record.msg]
    assert len(told) == (rest > 0)
    if rest:
        assert told[0].startswith(f"the last contrast of each epoch has {rest} images instead")


def test_resume_with_dropout_goes_on_bit_for_bit(tiny_config, tmp_path):
    for tower in (tiny_config.text_config, tiny_config.vision_config):
        tower.attention_dropout = 0.3
    settings = {"rows": 16, "per_device_train_batch_size": 2, "contrastive_batch_size": 4, "max_steps": 5}
    settings |= {"save_strategy": "steps", "save_steps": 2}
    whole = new_trainer(tiny_config, tmp_path, **settings)
    whole.train()
    torch.manual_seed(1234)
    resumed = new_trainer(tiny_config, tmp_path, model=new_model(tiny_config, seed=5), **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    expected, untrained = weights(whole.model), weights(new_model(tiny_config))
    for name, value in weights(resumed.model).items():
        assert torch.equal(value, expected[name]), name
    assert any(not torch.equal(value, untrained[name]) for name, value in expected.items())
