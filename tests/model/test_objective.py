"""The table of loss parts: what a new part takes, and that everything that lists parts reads the table."""

import copy
import dataclasses
import json

import pytest
import torch
from huggingface_hub.dataclasses import strict
from transformers import CLIPModel

from beta_clip_hf import BetaCLIPConfig, BetaCLIPModel, BetaSiglip2Config
from beta_clip_hf.model.loss_inputs_beta_clip import FlatEmbeds
from beta_clip_hf.model.objective_beta_clip import LOSS_PARTS, LossPart, added_logit_scales, batch_losses
from beta_clip_hf.release.export import export_clip
from beta_clip_hf.release.interpolate import check_same_tensors, interpolate
from beta_clip_hf.release.model_card import render_card
from beta_clip_hf.training.record.run_record import record_run
from training.tiny_runs import TensorCollator, TensorRows, new_trainer


# A new part of the loss, with a logit scale of its own: a weight in the configuration, a function, and a row of the
# table.


@strict
class SpreadConfig(BetaCLIPConfig):
    spread_loss_weight: float = 0.5


def spread_loss(inputs, logit_scale):
    """Pushes the images apart, over all processes."""
    image_ED = inputs.gather_of("images")(inputs.embeds.image_BD)
    return (logit_scale * image_ED @ image_ED.T).logsumexp(dim=1).mean()


SPREAD = LossPart(spread_loss, weight="spread_loss_weight", logit_scale="spread_logit_scale", rows="images")


@pytest.fixture
def spread_config(tiny_config, monkeypatch):
    monkeypatch.setitem(LOSS_PARTS, "spread_loss", SPREAD)
    towers = {"text_config": tiny_config.text_config, "vision_config": tiny_config.vision_config}
    return SpreadConfig(**towers, projection_dim=32)


def test_a_new_part_is_computed_and_weighed(spread_config):
    model = BetaCLIPModel(spread_config).double()
    assert model.spread_logit_scale.item() == pytest.approx(spread_config.logit_scale_init_value)
    torch.nn.init.constant_(model.spread_logit_scale, 1.5)
    batch = TensorCollator()([TensorRows(4)[index] for index in range(4)])
    batch["pixel_values"] = batch["pixel_values"].double()
    outputs = model(**batch)
    assert list(outputs.losses) == ["clip_loss", "beta_cal_loss", "spread_loss"]
    logits = model.spread_logit_scale.exp() * outputs.image_embeds @ outputs.image_embeds.T
    torch.testing.assert_close(outputs.losses["spread_loss"], logits.logsumexp(dim=1).mean(), rtol=0, atol=1e-12)
    expected = outputs.losses["clip_loss"] + outputs.losses["beta_cal_loss"] + 0.5 * outputs.losses["spread_loss"]
    torch.testing.assert_close(outputs.loss, expected, rtol=0, atol=1e-12)
    reached = (model.visual_projection.weight, model.spread_logit_scale)
    for gradient in torch.autograd.grad(outputs.losses["spread_loss"], reached):
        assert gradient.abs().max() > 1e-3
    model.config.spread_loss_weight = 0.0
    assert "spread_loss" not in model(**batch).losses


def test_its_weight_is_checked_like_the_others(spread_config):
    with pytest.raises(ValueError, match="spread_loss_weight must not be negative, but is -1"):
        SpreadConfig(spread_loss_weight=-1.0)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"contrastive_batch_size": 8}])
def test_it_is_logged_and_on_the_card(spread_config, tmp_path, settings):
    trainer = new_trainer(spread_config, tmp_path, max_steps=2, rows=16, **settings)
    trainer.train()
    logged = [record["spread_loss"] for record in trainer.state.log_history if "loss" in record]
    assert len(logged) == 2 and all(value > 0 for value in logged)
    assert all(record["spread_logit_scale"] > 1 for record in trainer.state.log_history if "loss" in record)
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


def test_its_scale_starts_from_clips_and_is_saved(spread_config, tiny_clip_dir, tmp_path):
    model = BetaCLIPModel.from_pretrained(tiny_clip_dir)
    assert model.spread_logit_scale == model.logit_scale == CLIPModel.from_pretrained(tiny_clip_dir).logit_scale
    torch.nn.init.constant_(model.spread_logit_scale, 1.5)
    model.save_pretrained(tmp_path)
    again, info = BetaCLIPModel.from_pretrained(tmp_path, output_loading_info=True)
    assert again.spread_logit_scale == 1.5 and not any(info.values())


def test_a_base_may_lack_its_scale_and_an_export_leaves_it_out(tiny_config, tmp_path, monkeypatch, caplog):
    BetaCLIPModel(tiny_config).save_pretrained(tmp_path / "base")
    monkeypatch.setitem(LOSS_PARTS, "spread_loss", SPREAD)
    tuned = BetaCLIPModel(tiny_config)
    torch.nn.init.constant_(tuned.spread_logit_scale, 1.5)
    tuned.save_pretrained(tmp_path / "tuned")
    # The base as a process reads it that does not know the part.
    base = CLIPModel.from_pretrained(tmp_path / "base").state_dict()
    check_same_tensors(base, {name: tuned.state_dict()[name] for name in (*base, "spread_logit_scale")})
    assert interpolate(tmp_path / "base", tmp_path / "tuned", tmp_path / "mixed", alpha=1.0).spread_logit_scale == 1.5
    caplog.set_level("INFO", "beta_clip_hf")
    clip = export_clip(tmp_path / "tuned", tmp_path / "clip")
    assert "spread_logit_scale" not in clip.state_dict() and "spread_logit_scale (of training)" in caplog.text


# The table itself


def test_the_table_names_what_there_is(both_systems_config):
    config = copy.deepcopy(both_systems_config)
    for part in LOSS_PARTS.values():
        if part.requires is not None:
            setattr(config, part.requires, True)
    model = BetaCLIPModel(config)
    embeds = FlatEmbeds(*torch.ones(3, 1, 1), short_J=torch.ones(0), aligned_A=torch.ones(0))
    switches = {field.name for field in dataclasses.fields(BetaCLIPConfig)}
    siglip_switches = {field.name for field in dataclasses.fields(BetaSiglip2Config)}
    for name, part in LOSS_PARTS.items():
        assert part.weight == f"{name}_weight" and part.weight in switches | siglip_switches
        assert part.rows in embeds.row_counts()
        assert part.requires is None or part.requires in switches
        # Training finds the scales that it clamps and logs by the ends of their names.
        assert part.logit_scale.endswith("logit_scale")
        assert model.get_parameter(part.logit_scale).ndim == 0
    possible = {name for name, part in LOSS_PARTS.items() if part.weight in switches}
    assert model.loss_scales().keys() == possible
    # The sigmoid contrast takes the place of CLIP's.
    only_clip = {"clip_loss", "short_clip_loss"}
    only_siglip = {"sigmoid_loss", "short_sigmoid_loss", "intra_text_loss", "hard_contrast_loss", "rank_loss"}
    assert possible == LOSS_PARTS.keys() - only_siglip
    assert {part.weight for part in LOSS_PARTS.values()} - siglip_switches == {f"{name}_weight" for name in only_clip}


def test_a_part_needs_its_switch(tiny_config):
    tiny_config.use_pooler = False
    model = BetaCLIPModel(tiny_config)
    without_switch = {
        name for name, part in LOSS_PARTS.items() if part.requires is None and hasattr(tiny_config, part.weight)
    }
    assert {"clip_loss", "short_clip_loss"} <= without_switch <= model.loss_scales().keys()
    assert not {"beta_cal_loss", "text_conditioned_loss", "region_loss"} & model.loss_scales().keys()
    assert not hasattr(model, "region_logit_scale")
    for part in LOSS_PARTS.values():
        assert part.is_possible({"use_pooler": False}) == (part.requires is None)
        assert part.requires is None or part.is_possible({part.requires: True})
    assert LOSS_PARTS["beta_cal_loss"].is_possible({}) and not LOSS_PARTS["region_loss"].is_possible({})
    new_switch = dataclasses.replace(SPREAD, requires="use_spread")
    assert new_switch.is_possible({"use_spread": True}) and not new_switch.is_possible({})


def test_added_scales_keep_the_order_of_the_table(both_systems_config, tiny_config):
    names = ["region_logit_scale", "hard_negative_logit_scale"]
    assert [name for name in added_logit_scales() if name in names] == names
    assert not set(names) & set(added_logit_scales(tiny_config))
    config = copy.deepcopy(both_systems_config)
    parameters = [name for name, _ in BetaCLIPModel(config).named_parameters(recurse=False)]
    assert parameters == ["logit_scale", *added_logit_scales(config)]


def test_a_loss_without_any_weight_is_refused(tiny_config):
    tiny_config.clip_loss_weight = tiny_config.beta_cal_loss_weight = 0
    model = BetaCLIPModel(tiny_config)
    embeds = FlatEmbeds(*torch.ones(3, 1, 1), short_J=torch.ones(0), aligned_A=torch.ones(0))
    with pytest.raises(ValueError, match="needs a part of positive weight, but the configuration has none"):
        batch_losses(tiny_config, embeds, model.loss_scales())
