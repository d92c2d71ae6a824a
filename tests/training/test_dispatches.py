"""How many operators the CPU starts for a step of the Trainer. A GPU waits for these if the batch is small."""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainerCallback

from beta_clip_hf import BetaCLIPTrainer, BetaCLIPTrainingArguments, SceneDataset
from training.tiny_runs import new_model


# Of a model with two blocks in each tower, from the batch on the device to the weights after the step. A change of
# these numbers is a change of what a step costs on the host.
FORWARD, BACKWARD, OTHERS = 261, 447, 25


class Operators(TorchDispatchMode):
    """Counts what is started, by the part of the step."""

    def __init__(self):
        super().__init__()
        self.part = "others"
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        is_backward = torch._C._current_autograd_node() is not None
        self.counts["backward" if is_backward else self.part] += 1
        return func(*args, **(kwargs or {}))


class SecondStep(TrainerCallback):
    """Counts in the second step, for the first makes what stays."""

    def __init__(self, operators):
        self.operators = operators

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 1:
            self.operators.__enter__()

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 2:
            self.operators.__exit__(None, None, None)


@pytest.mark.slow
def test_operators_of_a_step(tiny_config, tiny_processor, tmp_path):
    operators = Operators()
    settings = {"logging_steps": 100, "save_strategy": "no", "report_to": "none", "disable_tqdm": True}
    arguments = BetaCLIPTrainingArguments(
        str(tmp_path), use_cpu=True, max_steps=2, per_device_train_batch_size=4, **settings
    )
    model = new_model(tiny_config)

    def count_forward(module, inputs):
        operators.part = "forward"

    def count_others(module, inputs, output):
        operators.part = "others"

    model.register_forward_pre_hook(count_forward)
    model.register_forward_hook(count_others)
    trainer = BetaCLIPTrainer(
        model,
        arguments,
        processing_class=tiny_processor,
        train_dataset=SceneDataset(8, level="easy", image_size=32, seed=6),
        callbacks=[SecondStep(operators)],
    )
    trainer.train()
    assert operators.counts == {"forward": FORWARD, "backward": BACKWARD, "others": OTHERS}
