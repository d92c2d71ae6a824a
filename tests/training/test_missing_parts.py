"""A run whose settings ask for what the model or the rows do not have is refused in one sentence, on both towers."""

from pathlib import Path

import pytest
import yaml

from beta_clip_hf import BetaCLIPConfig
from beta_clip_hf.training.setup.missing_parts import check_parts
from model.siglip2_batches import tiny_config
from supported_checkpoints import make_checkpoint
from training.siglip2_recipes import words_of_training


CONFIGS = Path(__file__).resolve().parents[2] / "examples" / "configs"


def sections(config=None, data=None, training=None):
    return {"model": {"config": config or {}}, "data": data or {}, "training": training or {}}


@pytest.fixture(params=["CLIP", "SigLIP 2"])
def bare(request):
    """The configuration of a model without a pooler and without regions."""
    if request.param == "CLIP":
        return BetaCLIPConfig(use_pooler=False)
    return tiny_config(use_pooler=False, use_regions=False)


@pytest.fixture(params=["CLIP", "SigLIP 2"])
def full(request):
    """The configuration of a model with every part."""
    return BetaCLIPConfig(use_regions=True) if request.param == "CLIP" else tiny_config()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"config": {"alignment_loss": "ce"}}, r"config.use_pooler must be true for model.config.alignment_loss, but"),
        ({"config": {"pooler_mlp_ratio": 2}}, "config.use_pooler must be true for model.config.pooler_mlp_ratio"),
        ({"training": {"pooler_learning_rate": 1e-3}}, "use_pooler must be true for training.pooler_learning_rate"),
        (
            {"config": {"use_pooler": False, "beta_cal_loss_weight": 1}},
            "use_pooler must be true for model.config.beta_cal_loss_weight",
        ),
        ({"config": {"text_conditioned_loss_weight": 1}}, "use_pooler must be true for .*text_conditioned_loss_weight"),
        (
            {"config": {"conditioned_negative_loss_weight": 1}, "data": {"num_caption_negatives": 1}},
            "use_pooler must be true for model.config.conditioned_negative_loss_weight",
        ),
        (
            {"config": {"region_loss_weight": 1}, "data": {"num_regions": 4}},
            "use_regions must be true for model.config.region_loss_weight",
        ),
        ({"data": {"num_regions": 4}}, "use_regions must be true for data.num_regions"),
    ],
)
def test_a_part_that_the_model_lacks_is_refused(bare, asked, message):
    with pytest.raises(ValueError, match=message):
        check_parts(sections(**asked), bare)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"config": {"hard_negative_loss_weight": 0.5}},
            "data.num_regions must be at least 1 for model.config.hard_negative_loss_weight",
        ),
        (
            {"config": {"text_negative_loss_weight": 1}},
            "data.num_caption_negatives or data.num_phrase_negatives must be at least 1 for .*text_negative_loss_w",
        ),
        ({"data": {"num_phrase_negatives": 2}}, "must be above 0 for data.num_phrase_negatives"),
    ],
)
def test_rows_that_nobody_asks_for_are_named(full, asked, message):
    with pytest.raises(ValueError, match=message):
        check_parts(sections(**asked), full)


def test_settings_that_are_not_given_are_no_mistake(bare, full):
    """The defaults weigh parts that a model may lack, and a recipe may say that it wants no pooler."""
    for config in (bare, full):
        check_parts(sections(), config)
        check_parts(sections({"beta_cal_loss_weight": 0, "region_loss_weight": 0}), config)
    rates = {"pooler_learning_rate": 1e-3}
    check_parts(sections({"use_pooler": False, "alignment_loss": "ce"}, training=rates), bare)
    check_parts(sections({"alignment_loss": "ce", "beta_cal_loss_weight": 1}, training=rates), full)


def test_parts_of_the_other_towers_are_refused():
    with pytest.raises(ValueError, match="sigmoid_loss_weight must be left out for a model of type beta_clip, which"):
        check_parts(sections({"sigmoid_loss_weight": 1}), BetaCLIPConfig())
    with pytest.raises(ValueError, match="short_clip_loss_weight must be left out for a model of type beta_siglip2"):
        check_parts(sections({"short_clip_loss_weight": 1}), tiny_config())
    with pytest.raises(ValueError, match=r"use_long_text_path must be true for .*long_text_max_position_embeddings"):
        check_parts(sections({"long_text_max_position_embeddings": 300}), BetaCLIPConfig())
    # Every model on SigLIP 2 towers has a long path.
    check_parts(sections({"long_text_max_position_embeddings": 300}), tiny_config())


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_asks_for_what_it_has(path):
    """On a model that has only the parts that the recipe turns on, as FG-CLIP and SigLIP 2 do."""
    recipe = {"data": {}, **yaml.safe_load(path.read_text(encoding="utf-8"))}
    settings = recipe["model"].get("config") or {}
    if "siglip2" in path.stem or "fg2" in path.stem or "fg_clip2" in path.stem:
        config = tiny_config(**{"use_pooler": False, "use_regions": False, **settings})
    else:
        is_new = "from_scratch" in recipe["model"]
        config = BetaCLIPConfig(**{"use_pooler": is_new, **settings})
    check_parts(recipe, config)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["FG-CLIP", "FG-CLIP 2"])
def test_the_command_refuses_before_it_trains(kind, tmp_path, capsys):
    from beta_clip_cli.main import main

    model = make_checkpoint(kind, tmp_path / "checkpoint")
    words = words_of_training(CONFIGS / "beta_clip_ce.yaml", model, tmp_path / "run")
    words += ["--set", "model.config.use_pooler=false", "--set", "model.config.beta_cal_loss_weight=1"]
    assert main(words) == 1
    assert "use_pooler must be true for model.config.beta_cal_loss_weight" in capsys.readouterr().err
