"""A run of the Trainer as a GPU would see it: between two records no step waits for the device."""

from contextlib import ExitStack

import pytest
import torch
from accelerate import Accelerator
from transformers import TrainerCallback

from beta_clip_hf import BetaCLIPTrainer, BetaCLIPTrainingArguments, SceneDataset
from no_waits import DEVICES, no_waits
from training.tiny_runs import new_model


pytestmark = pytest.mark.slow


STEPS = 2


class StepsAreDone(Exception):
    """Raised before the Trainer reads its sums, which waits."""


class NoWaitsBetweenSteps(TrainerCallback):
    """On a GPU from the second step on, for what is made once may wait."""

    def __init__(self, device):
        self.device, self.stack = device, ExitStack()

    def on_epoch_begin(self, args, state, control, **kwargs):
        if self.device == "meta":
            self.stack.enter_context(no_waits(self.device))

    def on_step_begin(self, args, state, control, **kwargs):
        if self.device != "meta" and state.global_step == 1:
            self.stack.enter_context(no_waits(self.device))

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == STEPS:
            self.stack.close()
            raise StepsAreDone


def arguments(folder, device, monkeypatch, **settings):
    on_meta = {"bf16": False, "optim": "adamw_torch"} if device == "meta" else {}  # it has no more than these
    with monkeypatch.context() as patch:
        patch.setattr(torch.accelerator, "is_available", lambda: True)
        args = BetaCLIPTrainingArguments(
            str(folder),
            max_steps=STEPS,
            per_device_train_batch_size=2,
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            freeze_text_positions=True,
            **on_meta | settings,
        )
    assert args.dataloader_pin_memory and args.accelerator_config.non_blocking
    return args


def pretend_to_have(device, monkeypatch):
    """The meta device as that of the run, with memory that is pinned as far as one can see."""
    if device == "meta":
        monkeypatch.setattr(BetaCLIPTrainingArguments, "device", torch.device(device))
        monkeypatch.setattr(Accelerator, "device", torch.device(device))
        monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)


@pytest.mark.filterwarnings("ignore:.*pin_memory.*no accelerator")
@pytest.mark.parametrize(
    "settings",
    [
        {"max_grad_norm": 1.0},
        {"gradient_accumulation_steps": 2},
        {"contrastive_batch_size": 4},
        {"stream": True},
    ],
    ids=lambda settings: next(iter(settings)),
)
@pytest.mark.parametrize("device", DEVICES)
def test_no_step_waits(tiny_config, tiny_processor, tmp_path, monkeypatch, device, settings):
    rows, settings = SceneDataset(2 * STEPS * 2, level="easy", image_size=32), dict(settings)
    is_stream = settings.pop("stream", False)
    args = arguments(tmp_path, device, monkeypatch, **settings)
    pretend_to_have(device, monkeypatch)
    trainer = BetaCLIPTrainer(
        new_model(tiny_config),
        args,
        processing_class=tiny_processor,
        train_dataset=rows,
        callbacks=[NoWaitsBetweenSteps(device)],
    )
    if is_stream:  # its loader is not accelerate's: what it gives is moved by the Trainer
        loader = trainer._loader(rows, args.train_batch_size, trainer.data_collator, drop_last=True)
        monkeypatch.setattr(trainer, "get_train_dataloader", lambda: loader)
    with pytest.raises(StepsAreDone):
        trainer.train()
    assert trainer.state.global_step == STEPS


@pytest.mark.filterwarnings("ignore:.*pin_memory.*no accelerator")
@pytest.mark.parametrize(("settings", "where"), [({}, "meta"), ({"contrastive_batch_size": 4}, "cpu")])
def test_images_of_a_contrast_wait_on_the_host(tiny_config, tiny_processor, tmp_path, monkeypatch, settings, where):
    args = arguments(tmp_path, "meta", monkeypatch, **settings)
    pretend_to_have("meta", monkeypatch)
    rows = SceneDataset(8, level="easy", image_size=32)
    trainer = BetaCLIPTrainer(new_model(tiny_config), args, processing_class=tiny_processor, train_dataset=rows)
    batches, _ = trainer.get_batch_samples(iter(trainer.get_train_dataloader()), 2, args.device)
    assert {batch["pixel_values"].device.type for batch in batches} == {where}


@pytest.mark.parametrize("device", DEVICES)
def test_a_wait_would_be_seen(tiny_config, tiny_processor, tmp_path, monkeypatch, device):
    """As with the filter of transformers, which reads the loss of each step."""
    args = arguments(tmp_path, device, monkeypatch, logging_nan_inf_filter=True)
    pretend_to_have(device, monkeypatch)
    rows = SceneDataset(4 * STEPS, level="easy", image_size=32)
    spy = NoWaitsBetweenSteps(device)
    trainer = BetaCLIPTrainer(
        new_model(tiny_config), args, processing_class=tiny_processor, train_dataset=rows, callbacks=[spy]
    )
    with spy.stack, pytest.raises(RuntimeError, match="meta" if device == "meta" else "synchroniz"):
        trainer.train()
