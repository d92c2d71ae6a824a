"""The switches of a training step: checkpointed towers, bf16, torch.compile. None changes what is learnt."""

import pytest
import torch
from torch._dynamo.utils import counters
from transformers import Trainer

from beta_clip_hf import BetaCLIPDataCollator, BetaCLIPTrainer, BetaCLIPTrainingArguments, SceneDataset
from beta_clip_hf.training.callbacks import standard as callbacks
from beta_clip_hf.training.callbacks.recomputation import keep_linear_outputs
from training.tiny_runs import TensorRows, new_model, new_trainer, weights


pytestmark = pytest.mark.slow


def records(trainer):
    return [record for record in trainer.state.log_history if "loss" in record]


def calls_of_mlps(model):
    """How often each tower's MLPs are computed, counted from now on."""
    calls = {"vision": 0, "text": 0}

    def count(tower):
        def hook(*args):
            calls[tower] += 1

        return hook

    for tower in calls:
        for block in model.get_submodule(f"{tower}_model.encoder.layers").children():
            block.mlp.register_forward_pre_hook(count(tower))
    return calls


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing. is deprecated")  # its new name is unknown to 5.17
@pytest.mark.parametrize(
    ("settings", "computed", "selective"),
    [
        ({"vision_checkpointing": "full"}, {"vision": 4, "text": 2}, 0),
        ({"vision_checkpointing": "selective", "text_checkpointing": "full"}, {"vision": 4, "text": 4}, 2),
        ({"text_checkpointing": "selective"}, {"vision": 2, "text": 4}, 2),
        ({"gradient_checkpointing": True}, {"vision": 4, "text": 4}, 0),
    ],
)
def test_only_what_is_named_is_computed_again(tiny_config, tmp_path, monkeypatch, settings, computed, selective):
    runs, policies = [], []
    monkeypatch.setattr(callbacks, "keep_linear_outputs", lambda: policies.append(0) or keep_linear_outputs())
    for changes in ({}, settings):
        # Half blocks compute norms again, which rounds in another way.
        trainer = new_trainer(tiny_config, tmp_path, max_steps=1, half_blocks=False, **changes)
        calls = calls_of_mlps(trainer.model)
        trainer.train()
        runs.append((calls, records(trainer)[0], weights(trainer.model)))
    (calls, record, expected), (calls_again, record_again, found) = runs
    assert calls == {"vision": 2, "text": 2}  # two blocks each
    assert calls_again == computed and len(policies) == selective  # one for each block
    assert (record["loss"], record["grad_norm"]) == (record_again["loss"], record_again["grad_norm"])
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6, msg=name)


@pytest.mark.parametrize("use_cpu", [True, *([False] if torch.cuda.is_available() else [])])
def test_bf16_learns_what_float32_learns(tiny_config, tmp_path, use_cpu):
    settings = {"rows": 12, "per_device_train_batch_size": 12, "max_steps": 20, "use_cpu": use_cpu}
    exact, half = (
        new_trainer(tiny_config, tmp_path, eval_rows=TensorRows(12), bf16=bf16, **settings) for bf16 in (0, 1)
    )
    dtypes = set()
    half.model.visual_projection.register_forward_hook(lambda module, inputs, output: dtypes.add(output.dtype))
    for trainer in (exact, half):
        trainer.train()
    expected = [record["loss"] for record in records(exact)]
    losses = [record["loss"] for record in records(half)]
    assert dtypes == {torch.bfloat16}
    assert losses[0] == pytest.approx(expected[0], rel=2**-7) and losses[0] != expected[0]
    assert losses == pytest.approx(expected, rel=0.1)
    assert losses[-1] < 0.5 * losses[0]
    assert all(parameter.dtype == torch.float32 for parameter in half.model.parameters())
    assert half.evaluate()["eval_t2i_r1"] > 0.8


def test_a_compiled_step_is_compiled_twice_for_all_sizes(tiny_config, tiny_processor, tmp_path):
    """First for the sizes of the first batch, then for any; without a break in the graph, and with the same losses."""
    for tower in (tiny_config.text_config, tiny_config.vision_config):
        tower.num_hidden_layers = 1
    collator = BetaCLIPDataCollator(tiny_processor, num_phrases=12, packing_capacity=256, packing_row_multiple=8)
    steps = 20
    rows = SceneDataset(2 * steps, level="easy", image_size=32, seed=6)
    plans = [collator([rows[2 * step], rows[2 * step + 1]])["plan"] for step in range(steps)]
    assert len({plan.packing.text_FC.shape for plan in plans}) == 1
    for sizes in ([len(plan.aligned_A) for plan in plans], [plan.text_slots.num_slots for plan in plans]):
        assert sizes[0] != sizes[1] and len(set(sizes)) > 2  # what varies does so from the second batch on
    losses = []
    for settings in ({}, {"torch_compile": True, "torch_compile_backend": "eager"}):
        torch._dynamo.reset()
        counters.clear()
        arguments = BetaCLIPTrainingArguments(
            str(tmp_path),
            use_cpu=True,
            max_steps=steps,
            per_device_train_batch_size=2,
            learning_rate=1e-3,
            train_sampling_strategy="sequential",
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **settings,
        )
        trainer = BetaCLIPTrainer(
            new_model(tiny_config), arguments, collator, processing_class=tiny_processor, train_dataset=rows
        )
        trainer.train()
        losses.append([record["loss"] for record in records(trainer)])
    assert counters["stats"]["unique_graphs"] == 2 and not counters["graph_break"]
    # Later ones differ by more: training enlarges what rounding differs by.
    assert losses[1][:4] == pytest.approx(losses[0][:4], rel=1e-5)


@pytest.mark.parametrize("half_blocks", [True, False])
def test_half_blocks_are_switched_off_by_an_argument(tiny_config, tmp_path, half_blocks):
    trainer = new_trainer(tiny_config, tmp_path, max_steps=1, half_blocks=half_blocks)
    assert trainer.model.half_blocks
    trainer.train()
    assert trainer.model.half_blocks == trainer.model.pooler.block_runner.enabled == half_blocks


def test_half_blocks_learn_what_modules_learn(tiny_config, tmp_path):
    # Adam scales rounding up to its step size: with the pooler's usual one it would come near to the tolerance.
    settings = {"pooler_learning_rate": 1e-3, "pooler_learning_rate_end": 1e-4}
    trainers = []
    for half_blocks in (True, False):
        trainers.append(new_trainer(tiny_config, tmp_path, half_blocks=half_blocks, **settings))
    for trainer in trainers:
        trainer.train()
    found, expected = (weights(trainer.model) for trainer in trainers)
    start = weights(new_trainer(tiny_config, tmp_path).model)
    for name, value in expected.items():
        if not name.endswith("k_proj.bias"):  # its gradient is rounding, which Adam scales up
            torch.testing.assert_close(found[name], value, rtol=0, atol=1e-4, msg=name)
    assert max((start[name] - value).abs().max() for name, value in expected.items()) > 1e-3


def test_a_step_sets_all_modules_to_training_once_and_counts_no_parameters(tiny_config, tmp_path, monkeypatch):
    counts = []
    for steps in (2, 5):
        trainer = new_trainer(tiny_config, tmp_path, max_steps=steps)
        calls = {"train": 0, "num_parameters": 0}

        def counting(name, calls=calls, model=trainer.model):
            method = getattr(model, name)

            def counted(*args, **kwargs):
                calls[name] += 1
                return method(*args, **kwargs)

            return counted

        for name in calls:
            monkeypatch.setattr(trainer.model, name, counting(name))
        trainer.train()
        counts.append(calls)
    assert counts[1]["train"] - counts[0]["train"] == 3
    assert counts[0]["num_parameters"] == counts[1]["num_parameters"]
    batch = trainer.data_collator([trainer.train_dataset[0]])
    assert trainer.floating_point_ops(batch) == Trainer.floating_point_ops(trainer, batch) > 0
