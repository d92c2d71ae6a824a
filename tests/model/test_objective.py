"""The table of loss parts: what a new part takes, and that everything that lists parts reads the table."""

import copy
import dataclasses
import json

import pytest
import torch
from huggingface_hub.dataclasses import strict

from beta_clip_hf import BetaCLIPConfig, BetaCLIPModel
from beta_clip_hf.model.objective_beta_clip import LOSS_PARTS, FlatEmbeds, LossPart, batch_losses
from beta_clip_hf.release.model_card import render_card
from beta_clip_hf.training.run_record import record_run
from training.tiny_runs import TensorCollator, TensorRows, new_trainer


# A new part of the loss: a weight in the configuration, a function, and a row of the table.


@strict
class SpreadConfig(BetaCLIPConfig):
    spread_loss_weight: float = 0.5


def spread_loss(inputs, logit_scale):
    """Pushes the images apart, over all processes."""
    image_ED = inputs.gather_of("images")(inputs.embeds.image_BD)
    return (logit_scale * image_ED @ image_ED.T).logsumexp(dim=1).mean()


SPREAD = LossPart(spread_loss, weight="spread_loss_weight", logit_scale="logit_scale", rows="images")


@pytest.fixture
def spread_config(tiny_config, monkeypatch):
    monkeypatch.setitem(LOSS_PARTS, "spread_loss", SPREAD)
    towers = {"text_config": tiny_config.text_config, "vision_config": tiny_config.vision_config}
    return SpreadConfig(**towers, projection_dim=32)


def test_a_new_part_is_computed_and_weighed(spread_config):
    model = BetaCLIPModel(spread_config).double()
    batch = TensorCollator()([TensorRows(4)[index] for index in range(4)])
    batch["pixel_values"] = batch["pixel_values"].double()
    outputs = model(**batch)
    assert list(outputs.losses) == ["clip_loss", "beta_cal_loss", "spread_loss"]
    logits = model.logit_scale.exp() * outputs.image_embeds @ outputs.image_embeds.T
    torch.testing.assert_close(outputs.losses["spread_loss"], logits.logsumexp(dim=1).mean(), rtol=0, atol=1e-12)
    expected = outputs.losses["clip_loss"] + outputs.losses["beta_cal_loss"] + 0.5 * outputs.losses["spread_loss"]
    torch.testing.assert_close(outputs.loss, expected, rtol=0, atol=1e-12)
    alone = torch.autograd.grad(outputs.losses["spread_loss"], model.visual_projection.weight)[0]
    assert alone.abs().max() > 1e-3
    model.config.spread_loss_weight = 0.0
    assert "spread_loss" not in model(**batch).losses


def test_its_weight_is_checked_like_the_others(spread_config):
    with pytest.raises(ValueError, match="spread_loss_weight must not be negative, but is -1"):
        SpreadConfig(spread_loss_weight=-1.0)


@pytest.mark.parametrize("settings", [{}, {"contrastive_batch_size": 8}])
def test_it_is_logged_and_on_the_card(spread_config, tmp_path, settings):
    trainer = new_trainer(spread_config, tmp_path, max_steps=2, rows=16, **settings)
    trainer.train()
    logged = [record["spread_loss"] for record in trainer.state.log_history if "loss" in record]
    assert len(logged) == 2 and all(value > 0 for value in logged)
    trainer.save_model()
    record_run(trainer)
    parts = "Losses: `clip_loss` (weight 1), `beta_cal_loss` (weight 1), `spread_loss` (weight 0.5)."
    logged_card = str(render_card(tmp_path, "me/model"))
    assert parts in logged_card and f"`spread_loss` {logged[-1]:.4g}" in logged_card
    # The card of a run that was never logged lists the parts that could run.
    results = json.loads((tmp_path / "train_results.json").read_text())
    results["run"]["losses"] = {}
    (tmp_path / "train_results.json").write_text(json.dumps(results))
    unlogged_card = str(render_card(tmp_path, "me/model"))
    assert parts in unlogged_card and f"{logged[-1]:.4g}" not in unlogged_card


# The table itself


def test_the_table_names_what_there_is(both_systems_config):
    model = BetaCLIPModel(copy.deepcopy(both_systems_config))
    embeds = FlatEmbeds(*torch.ones(3, 1, 1), short_J=torch.ones(0), aligned_A=torch.ones(0))
    switches = {field.name for field in dataclasses.fields(BetaCLIPConfig)}
    for name, part in LOSS_PARTS.items():
        assert part.weight == f"{name}_weight" and part.weight in switches
        assert part.rows in embeds.row_counts()
        assert part.requires is None or part.requires in switches
        assert model.get_parameter(part.logit_scale).ndim == 0
    assert model.loss_scales().keys() == LOSS_PARTS.keys()


def test_a_part_needs_its_switch(tiny_config):
    tiny_config.use_pooler = False
    assert BetaCLIPModel(tiny_config).loss_scales().keys() == {"clip_loss", "short_clip_loss"}
    for name, part in LOSS_PARTS.items():
        assert part.is_possible({"use_pooler": False}) == (name in ("clip_loss", "short_clip_loss"))
        assert part.is_possible({"use_regions": True})
    assert not LOSS_PARTS["region_loss"].is_possible({})


def test_a_loss_without_any_weight_is_refused(tiny_config):
    tiny_config.clip_loss_weight = tiny_config.beta_cal_loss_weight = 0
    model = BetaCLIPModel(tiny_config)
    embeds = FlatEmbeds(*torch.ones(3, 1, 1), short_J=torch.ones(0), aligned_A=torch.ones(0))
    with pytest.raises(ValueError, match="needs a part of positive weight, but the configuration has none"):
        batch_losses(tiny_config, embeds, model.loss_scales())
