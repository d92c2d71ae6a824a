"""Every argument of transformers' Trainer works or is refused in a sentence; none is ignored."""

import inspect
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.training_args import OptimizerNames

from beta_clip_hf import BetaCLIPTrainingArguments
from beta_clip_hf.data.row_dataset import RowStream
from beta_clip_hf.training.argument_support import (
    OPTIMIZER_PACKAGES,
    OPTIMIZER_SETTINGS,
    PLAIN_OPTIMIZERS,
    REFUSED,
    REFUSED_OF_TRAINER,
    REFUSED_OPTIMIZERS,
    WORKING,
)
from training.tiny_runs import Spy, TensorRows, new_trainer


DOCUMENTED = Path(__file__).resolve().parents[2] / "docs" / "training.md"
FIELDS = {field.name: field for field in fields(TrainingArguments)}
# A value that is not the default, where the default does not suggest one.
OTHER_VALUES = {
    "eval_accumulation_steps": 2,
    "include_for_metrics": ["inputs"],
    "label_names": ["labels"],
    "length_column_name": "words",
    "liger_kernel_config": {"rope": True},
    "lr_scheduler_kwargs": {"num_cycles": 2},
    "neftune_noise_alpha": 5.0,
    "optim_target_modules": "all-linear",
    "parallelism_config": object(),
    "resume_from_checkpoint": "checkpoint-3",
}


def arguments(folder, **values):
    return BetaCLIPTrainingArguments(str(folder), use_cpu=True, **values)


def test_every_field_is_in_one_list():
    for name in FIELDS:
        assert (name in REFUSED) != (name in WORKING), name
    # The older releases do not have these two.
    new = {"activation_checkpointing", "activation_checkpointing_kwargs"}
    assert (REFUSED.keys() | WORKING) - FIELDS.keys() <= new


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_field_is_an_error(name, tmp_path):
    field = FIELDS[name]
    default = field.default if field.default is not MISSING else field.default_factory()
    value = OTHER_VALUES.get(name)
    if value is None:
        value = not default if isinstance(default, bool) else default + 0.5
    with pytest.raises(ValueError, match=rf"^{name} must be left at .+, but is .+: "):
        arguments(tmp_path, **{name: value})
    arguments(tmp_path, **{name: default})


def test_the_documents_have_the_refused_fields():
    text = DOCUMENTED.read_text(encoding="utf-8")
    section = text.split("### Arguments that are refused")[1].split("\n## ")[0]
    for name in [*REFUSED, *REFUSED_OF_TRAINER, *REFUSED_OPTIMIZERS]:
        assert f"`{name}" in section, name


@pytest.mark.parametrize("name", REFUSED_OF_TRAINER)
def test_a_refused_argument_of_the_trainer_is_an_error(name, tmp_path, tiny_config):
    from beta_clip_hf import BetaCLIPTrainer

    with pytest.raises(ValueError, match=f"^{name} must be None, but is "):
        BetaCLIPTrainer(None, arguments(tmp_path), print, eval_data_collator=print, **{name: print})


def test_every_argument_of_the_trainer_is_known():
    known = {
        "self", "model", "args", "data_collator", "train_dataset", "eval_dataset", "processing_class", "model_init",
        "callbacks", "optimizers", "optimizer_cls_and_kwargs",
    }  # fmt: skip
    assert set(inspect.signature(Trainer.__init__).parameters) == known | REFUSED_OF_TRAINER.keys()


def test_every_optimizer_is_known():
    for optimizer in OptimizerNames:
        is_refused = optimizer.value.startswith(tuple(REFUSED_OPTIMIZERS))
        is_known = optimizer.value in OPTIMIZER_PACKAGES or optimizer.value in PLAIN_OPTIMIZERS
        assert is_refused != is_known, optimizer


@pytest.mark.parametrize("optim", [f"{name}_x" for name in REFUSED_OPTIMIZERS] + ["galore_adamw", "schedule_free_sgd"])
def test_an_optimizer_without_our_groups_is_an_error(optim, tmp_path):
    with pytest.raises(ValueError, match=r"^optim must be an optimiser with groups and schedules, but is "):
        arguments(tmp_path, optim=optim)


@pytest.mark.parametrize("optim", OPTIMIZER_PACKAGES)
def test_an_optimizer_without_its_package_names_it(optim, tmp_path, monkeypatch):
    monkeypatch.setattr("beta_clip_hf.training.argument_support.find_spec", lambda module: None)
    with pytest.raises(ImportError, match=rf"^optim='{optim}' needs (\S+): pip install \1, or leave optim out$"):
        arguments(tmp_path, optim=optim)


@pytest.mark.slow
@pytest.mark.parametrize("optim", PLAIN_OPTIMIZERS)
def test_a_plain_optimizer_trains_both_groups(optim, tmp_path, tiny_config):
    trainer = new_trainer(tiny_config, tmp_path, max_steps=1, optim=optim)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    after = trainer.model.state_dict()
    for name in ("pooler.q_proj.weight", "vision_model.encoder.layers.0.mlp.fc1.weight"):
        assert not torch.equal(before[name], after[name])


@pytest.mark.parametrize("optim", [*OPTIMIZER_PACKAGES, *PLAIN_OPTIMIZERS])
def test_settings_that_an_optimizer_does_not_read_are_an_error(optim, tmp_path, monkeypatch):
    monkeypatch.setattr("beta_clip_hf.training.argument_support.find_spec", lambda module: True)
    with pytest.raises(ValueError, match=rf"^optim_args must name settings that {optim} reads .+, but has amsgrad$"):
        arguments(tmp_path, optim=optim, optim_args="amsgrad=True")
    known = ",".join(f"{name}=1" for name in OPTIMIZER_SETTINGS.get(optim, ()))
    arguments(tmp_path, optim=optim, optim_args=known)


@pytest.mark.parametrize(
    ("optim", "package"),
    [
        ("adamw_8bit", "bitsandbytes"),
        # torchao compiles its step, which takes minutes on a slow CPU.
        pytest.param("adamw_torch_8bit", "torchao", marks=pytest.mark.stress),
    ],
)
def test_an_optimizer_of_8_bits_trains(optim, package, tmp_path, tiny_config):
    pytest.importorskip(package, reason=f"{package} is not installed")
    trainer = new_trainer(tiny_config, tmp_path, max_steps=2, optim=optim)
    trainer.train()
    losses = [record["loss"] for record in trainer.state.log_history if "loss" in record]
    assert losses[1] < losses[0]


def test_an_optimizer_class_of_the_caller_gets_our_groups(tmp_path, tiny_config):
    trainer = new_trainer(tiny_config, tmp_path)
    trainer.optimizer_cls_and_kwargs = (torch.optim.RMSprop, {"lr": 5.0})
    optimizer = trainer.create_optimizer()
    assert type(optimizer) is torch.optim.RMSprop
    assert {group["lr"] for group in optimizer.param_groups} == {1e-3, 1e-2}


def test_what_is_checked_by_value(tmp_path):
    with pytest.raises(ValueError, match=r"^train_sampling_strategy must be 'random' or 'sequential'"):
        arguments(tmp_path, train_sampling_strategy="group_by_length")
    with pytest.raises(ValueError, match=r"^do_eval must be left at False"):
        arguments(tmp_path, do_eval=True)
    assert arguments(tmp_path, eval_strategy="steps").do_eval
    with pytest.raises(ValueError, match=r"^split_batches must not be True"):
        arguments(tmp_path, accelerator_config={"split_batches": True})


def test_a_stream_is_not_sequential(tmp_path, tiny_config):
    trainer = new_trainer(tiny_config, tmp_path, train_sampling_strategy="sequential")
    trainer.train_dataset = RowStream.__new__(RowStream)
    with pytest.raises(ValueError, match=r"^train_sampling_strategy must be left at 'random' for a stream"):
        trainer.get_train_dataloader()


class Evaluations(TrainerCallback):
    """Remembers the steps at which there was an evaluation."""

    def __init__(self):
        self.steps = []

    def on_evaluate(self, args, state, control, **kwargs):
        self.steps.append(state.global_step)


@pytest.mark.slow
def test_working_fields_do_what_they_say(tmp_path, tiny_config, monkeypatch):
    cleared, losses = [], []
    monkeypatch.setattr("transformers.trainer.clear_device_cache", lambda *args: cleared.append(args))
    evaluations = Evaluations()
    trainer = new_trainer(
        tiny_config,
        tmp_path,
        max_steps=4,
        eval_rows=TensorRows(6, seed=1),
        callbacks=[evaluations, Spy(lambda state, model, optimizer: losses.append(state.num_input_tokens_seen))],
        torch_empty_cache_steps=2,
        skip_memory_metrics=False,
        include_num_input_tokens_seen="non_padding",
        eval_strategy="steps",
        eval_steps=1,
        eval_delay=2,
        eval_on_start=True,
        dataloader_num_workers=1,
        dataloader_persistent_workers=True,
        dataloader_prefetch_factor=3,
        dataloader_multiprocessing_context="spawn",
        dataloader_in_order=False,
        optim="sgd",
        optim_args="momentum=0.5,nesterov=true",
    )
    for loader in (trainer.get_train_dataloader(), trainer.get_eval_dataloader()):
        assert loader.persistent_workers and loader.prefetch_factor == 3
        assert loader.multiprocessing_context.get_start_method() == "spawn"
        assert loader.in_order is False
    # Processes of their own would make the test slow.
    trainer.args.dataloader_num_workers = 0
    trainer.args.dataloader_persistent_workers = False
    trainer.args.dataloader_prefetch_factor = trainer.args.dataloader_multiprocessing_context = None
    result = trainer.train()
    assert len(cleared) >= 2
    assert evaluations.steps[0] == 0 and evaluations.steps[1:] == [2, 3, 4]
    assert "train_mem_cpu_alloc_delta" in result.metrics
    assert "eval_mem_cpu_alloc_delta" in trainer.evaluate()
    assert all(group["momentum"] == 0.5 and group["nesterov"] for group in trainer.optimizer.param_groups)
    # Step 1 has four of the rows, whose texts have 8 tokens (captions) and 5 (phrases).
    assert 4 * 8 <= losses[0] <= 4 * (8 + 2 * 5) and losses == sorted(set(losses))


@pytest.mark.parametrize("name", ["seed", "data_seed"])
def test_seeds_of_the_order(name, tmp_path, tiny_config):
    orders = []
    for seed in (1, 1, 2):
        trainer = new_trainer(tiny_config, tmp_path, **{name: seed})
        batch = next(iter(trainer.get_train_dataloader()))
        orders.append(batch["pixel_values"].sum().item())
    assert orders[0] == orders[1] != orders[2]
