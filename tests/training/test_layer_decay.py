"""Learning rates that fall from block to block towards the input."""

import pytest
import torch

from beta_clip_hf import BetaCLIPTrainer
from training.tiny_runs import new_model, new_trainer


# Powers of the decay in a tower of two blocks.
POWERS = {
    "vision_model.embeddings.": 3,
    "vision_model.pre_layrnorm.": 3,
    "vision_model.encoder.layers.0.": 2,
    "vision_model.encoder.layers.1.": 1,
    "text_model.embeddings.": 3,
    "text_model.encoder.layers.0.": 2,
    "text_model.encoder.layers.1.": 1,
}


def power_of(name):
    return next((power for beginning, power in POWERS.items() if name.startswith(beginning)), 0)


def wrapped(model):
    """Puts a word before each name, as DDP does."""
    wrapper = torch.nn.Module()
    wrapper.module = model
    return wrapper


@pytest.mark.parametrize("wrap", [lambda model: model, wrapped, torch.compile], ids=["none", "module", "compile"])
def test_rates_and_weight_decay_of_all_parameters(tiny_config, tmp_path, wrap):
    trainer = new_trainer(tiny_config, tmp_path, layer_decay=0.5, weight_decay=0.3)
    optimizer = trainer.create_optimizer(wrap(trainer.model))
    seen = {}
    for group in optimizer.param_groups:
        seen |= dict.fromkeys(group["params"], (group["lr"], group["weight_decay"]))
    named = dict(trainer.model.named_parameters())
    assert len(seen) == len(named) == sum(len(group["params"]) for group in optimizer.param_groups)
    for name, parameter in named.items():
        rate = 1e-2 if name.startswith("pooler.") else 1e-3 * 0.5 ** power_of(name)
        assert seen[parameter] == (pytest.approx(rate), 0.3 if parameter.ndim >= 2 else 0.0), name
    assert {power_of(name) for name in named} == {0, 1, 2, 3}


def test_the_groups_without_a_decay_are_those_of_before(tiny_config, tmp_path):
    groups = new_trainer(tiny_config, tmp_path).create_optimizer().param_groups
    assert [group["name"] for group in groups] == ["towers", "towers", "pooler", "pooler"]
    assert not any("layer" in group for group in groups)


@pytest.mark.slow
def test_rates_of_layers_are_logged_and_follow_the_schedule(tiny_config, tmp_path):
    trainer = new_trainer(tiny_config, tmp_path, max_steps=4, layer_decay=0.5, warmup_steps=1)
    trainer.train()
    records = [record for record in trainer.state.log_history if "loss" in record]
    for record in records:
        for power, layer in {1: "vision_block_1", 2: "text_block_0", 3: "text_embeddings"}.items():
            assert record[f"{layer}_learning_rate"] == pytest.approx(record["learning_rate"] * 0.5**power)
    assert records[0]["learning_rate"] == pytest.approx(1e-3) and records[0]["pooler_learning_rate"] == 1e-2
    assert records[-1]["learning_rate"] < records[0]["learning_rate"]


@pytest.mark.slow
def test_the_rate_of_a_frozen_part_is_not_logged(tiny_config, tmp_path):
    trainer = new_trainer(tiny_config, tmp_path, max_steps=1, freeze=["vision", "text", "logit_scales"])
    trainer.train()
    record = trainer.state.log_history[0]
    assert record["pooler_learning_rate"] == 1e-2 and "learning_rate" not in record


@pytest.mark.slow
def test_a_resumed_run_goes_on_exactly(tiny_config, tmp_path):
    settings = {"layer_decay": 0.7, "freeze": "vision_but_last_1", "save_strategy": "steps", "save_steps": 2}
    whole = new_trainer(tiny_config, tmp_path / "whole", max_steps=4, **settings)
    whole.train()
    resumed = new_trainer(tiny_config, tmp_path / "resumed", max_steps=4, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    expected = whole.model.state_dict()
    for name, weight in resumed.model.state_dict().items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=0)


@pytest.mark.parametrize("decay", [0, -0.5, 1.5])
def test_an_impossible_decay_is_an_error(tiny_config, tmp_path, decay):
    with pytest.raises(ValueError, match="layer_decay must be above 0 and at most 1, but is"):
        new_trainer(tiny_config, tmp_path, layer_decay=decay)


def test_an_optimizer_of_the_caller_has_no_layers(tiny_config, tmp_path):
    template = new_trainer(tiny_config, tmp_path, layer_decay=0.5)
    model = new_model(tiny_config)
    with pytest.raises(ValueError, match="layer_decay must be 1 with an optimizer that is already made"):
        BetaCLIPTrainer(
            model,
            template.args,
            template.data_collator,
            eval_data_collator=template.eval_data_collator,
            optimizers=(torch.optim.SGD(model.parameters(), lr=0.1), None),
        )
