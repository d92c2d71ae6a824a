"""Rows of ready tensors and a collator for them: what the Trainer does, without images, text tools or files."""

from copy import deepcopy

import torch
from transformers import TrainerCallback

from beta_clip_hf import BetaCLIPModel, BetaCLIPTrainer, BetaCLIPTrainingArguments


START, END = 512, 513


class TensorRows(torch.utils.data.Dataset):
    """Row i: an image of noise, a caption, and i % 3 phrases."""

    def __init__(self, length, seed=0, image_size=32):
        self.length, self.seed, self.image_size = length, seed, image_size

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(1000 * self.seed + index)
        texts = []
        for length in [6] + [3] * (index % 3):
            texts.append([START, *torch.randint(0, 500, (length,), generator=generator).tolist(), END])
        return {
            "id": str(index),
            "pixel_values": torch.randn(3, self.image_size, self.image_size, generator=generator),
            "texts": texts,
        }


class TensorCollator:
    """The flat batch of such rows. In each epoch other pixels are flipped in sign, so that the epoch matters."""

    def __init__(self):
        self.epoch, self.skipped = 0, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __call__(self, rows):
        texts = []
        for image, row in enumerate(rows):
            texts += [(image, kind, ids) for kind, ids in enumerate(row["texts"])]
        longest = max(len(ids) for _, _, ids in texts)
        pixel_values = torch.stack([row["pixel_values"] for row in rows])
        pixel_values[..., self.epoch % 32] *= -1
        return {
            "pixel_values": pixel_values,
            "input_ids": torch.tensor([ids + [END] * (longest - len(ids)) for _, _, ids in texts]),
            "attention_mask": torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for _, _, ids in texts]),
            "image_index": torch.tensor([image for image, _, _ in texts]),
            "granularity": torch.tensor([min(kind, 1) * 2 for _, kind, _ in texts]),
            "return_loss": True,
        }


def new_model(config, seed=0):
    torch.manual_seed(seed)
    return BetaCLIPModel(deepcopy(config))


def new_trainer(config, output_dir, *, rows=24, callbacks=(), eval_rows=None, model=None, **arguments):
    """A trainer of a tiny model on the CPU: 6 steps of 4 rows, every one logged, nothing saved."""
    settings = {
        "output_dir": str(output_dir),
        "use_cpu": True,
        "max_steps": 6,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "learning_rate": 1e-3,
        "learning_rate_end": 1e-4,
        "pooler_learning_rate": 1e-2,
        "pooler_learning_rate_end": 1e-3,
    }
    return BetaCLIPTrainer(
        model if model is not None else new_model(config),
        BetaCLIPTrainingArguments(**settings | arguments),
        TensorCollator(),
        eval_data_collator=TensorCollator(),
        train_dataset=TensorRows(rows),
        eval_dataset=eval_rows,
        callbacks=list(callbacks),
    )


class StopAt(TrainerCallback):
    """Ends a run early, as a lost machine would."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = control.should_training_stop or state.global_step == self.step


class Spy(TrainerCallback):
    """Calls `function(trainer state, model, optimizer)` right after each optimiser step."""

    def __init__(self, function):
        self.function = function

    def on_step_end(self, args, state, control, model, optimizer, **kwargs):
        self.function(state, model, optimizer)


class DoubleCollator(TensorCollator):
    def __call__(self, rows):
        batch = super().__call__(rows)
        return batch | {"pixel_values": batch["pixel_values"].double()}


class Gradients(TrainerCallback):
    """Those of the last step, as the optimiser got them."""

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        self.by_name = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def accumulated_gradients(config, folder, **settings):
    """In float64, of one step over two micro-batches: the first eight rows, where each is of four in all processes."""
    kept, model = Gradients(), new_model(config).double()
    settings |= {"max_steps": 1, "gradient_accumulation_steps": 2, "train_sampling_strategy": "sequential"}
    trainer = new_trainer(config, folder, rows=8, model=model, callbacks=[kept], **settings)
    trainer.data_collator = DoubleCollator()
    trainer.train()
    return kept.by_name


def weights(model):
    return {name: value.detach().clone() for name, value in model.state_dict().items()}
