"""Training on SigLIP 2 towers: every recipe runs, the loss falls, a resumed run is one run, batches come planned."""

import math

import pytest
import torch

from beta_clip_cli.main import main
from beta_clip_hf import BetaCLIPDataCollator, BetaSiglip2Model, BetaSiglip2Processor, scenes
from beta_clip_hf.training.setup.build import build_trainer
from beta_clip_hf.training.setup.config import read_config
from supported_checkpoints import make_checkpoint
from training.siglip2_recipes import FINE_GRAINED, SCENES, SIGLIP2_PARTS, SMALL, train, words_of_training
from training.tiny_runs import StopAt


@pytest.mark.slow
@pytest.mark.parametrize("recipe", SIGLIP2_PARTS)
def test_a_recipe_runs(project_dir, siglip2, tmp_path, recipe):
    config = project_dir / f"examples/configs/{recipe}.yaml"
    log = train(config, siglip2, tmp_path, "training.max_steps=2", "training.save_strategy=no")
    for record in log:
        assert record.keys() & (FINE_GRAINED | {"beta_cal_loss", "clip_loss"}) == SIGLIP2_PARTS[recipe]
    model, info = BetaSiglip2Model.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    before = BetaSiglip2Model.from_pretrained(siglip2)
    moved = {name for name, tensor in before.state_dict().items() if not torch.equal(model.state_dict()[name], tensor)}
    assert {"logit_scale", "logit_bias", "long_text_head.weight", "vision_model.head.probe"} <= moved
    # Phrases and texts of regions take the box path, patches the dense head.
    assert {"box_text_head.weight", "patch_head.mlp.fc1.weight"} <= moved
    processor = BetaSiglip2Processor.from_pretrained(tmp_path)
    assert processor.dynamic_max_patches == (recipe != "beta_siglip2")
    assert (processor.max_length, processor.long_max_length) == (64, 196)
    assert processor.text_path_of_kind == ["long", "short", "box", "short"]


@pytest.mark.slow
def test_the_weights_of_the_paper(project_dir, siglip2, tmp_path):
    config = project_dir / "examples/configs/fg_clip2_stage2.yaml"
    lines = [line.removeprefix("#").strip() for line in config.read_text().splitlines() if line.startswith("#")]
    start = next(number for number, line in enumerate(lines) if line.startswith('--set "model.config'))
    setting = f"{lines[start]} {lines[start + 1]}".replace("\\", "").removeprefix("--set ").strip('"')
    steps = ("training.max_steps=1", "training.save_strategy=no")
    (record,) = train(config, siglip2, tmp_path, *steps, setting)
    assert record.keys() & FINE_GRAINED == FINE_GRAINED - {"hard_contrast_loss"}
    weights = {"sigmoid_loss": 1, "short_sigmoid_loss": 1, "region_loss": 0.1, "intra_text_loss": 0.1}
    weights |= {"hard_negative_loss": 0.5, "rank_loss": 0.4}
    total = sum(weight * record[name] for name, weight in weights.items())
    assert record["loss"] == pytest.approx(total, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["SigLIP", "FG-CLIP 2"])
def test_a_run_from_other_checkpoints(project_dir, tmp_path, kind, capsys):
    """Pixels of a fixed resolution, and a checkpoint in the authors' layout, which has all paths already."""
    start = make_checkpoint(kind, tmp_path / "start/model")
    config = project_dir / "examples/configs/beta_fg2.yaml"
    settings = ["training.max_steps=2", "training.save_strategy=no"]
    if kind == "SigLIP":
        assert main(words_of_training(config, start, tmp_path / "refused", *settings)) == 1
        assert "model.dynamic_max_patches must be false for a SigLIP" in capsys.readouterr().err
        settings.append("model.dynamic_max_patches=false")
    log = train(config, start, tmp_path / "run", *settings)
    for record in log:
        assert record.keys() & (FINE_GRAINED | {"beta_cal_loss"}) == SIGLIP2_PARTS["beta_fg2"]
        assert math.isfinite(record["loss"]) and math.isfinite(record["grad_norm"])
    before = BetaSiglip2Model.from_pretrained(start, use_pooler=True, use_regions=True).state_dict()
    after = BetaSiglip2Model.from_pretrained(tmp_path / "run").state_dict()
    moved = {name for name in before if not torch.equal(after[name], before[name])}
    assert {"patch_head.mlp.fc1.weight", "long_text_head.weight", "box_text_head.weight", "logit_bias"} <= moved


@pytest.mark.slow
def test_a_run_on_photos(project_dir, shared_dir, siglip2, tmp_path):
    """Photos of any shape, with captions and boxes of phrases; their best-known scale stays unbounded."""
    config = project_dir / "examples/configs/beta_fg2.yaml"
    rows = shared_dir / "data/photos/train.jsonl"
    settings = ("training.max_steps=2", "training.save_strategy=no", "model.dynamic_max_patches=false")
    log = train(config, siglip2, tmp_path, *settings, f"data.train={{source: {rows}, take: 16}}")
    for record in log:
        assert {"sigmoid_loss", "short_sigmoid_loss", "region_loss", "beta_cal_loss"} <= record.keys()
        assert math.isfinite(record["loss"])
    assert len(log) == 2


@pytest.mark.slow
def test_a_resumed_run_is_one_run_and_its_loss_falls(project_dir, siglip2, tmp_path):
    recipe = project_dir / "examples/configs/beta_fg2.yaml"

    def new_trainer(folder, resume=False):
        settings = [f"data.train={SCENES}", *SMALL, "data.num_phrases=4", f"training.output_dir={folder}"]
        settings += ["training.max_steps=8", "training.save_strategy=steps", "training.save_steps=4"]
        settings.append(f"model.from_pretrained={siglip2}")
        return build_trainer(read_config(recipe, [setting.split("=", 1) for setting in settings]), resume=resume)

    whole = new_trainer(tmp_path / "whole")
    whole.train()
    parts = ("sigmoid_loss", "short_sigmoid_loss", "region_loss", "beta_cal_loss")
    losses = []
    for record in whole.state.log_history:
        if "loss" in record:
            losses.append(sum(record[part] for part in parts))
    assert len(losses) == 8 and sum(losses[-3:]) < sum(losses[:3])

    broken = new_trainer(tmp_path / "broken")
    broken.add_callback(StopAt(5))
    broken.train()
    resumed = new_trainer(tmp_path / "broken", resume=True)
    resumed.train(resume_from_checkpoint=str(tmp_path / "broken/checkpoint-4"))
    assert "rank_loss.threshold" in whole.model.state_dict()
    for name, tensor in whole.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], tensor, rtol=0, atol=0, msg=name)


def test_a_batch_comes_planned(siglip2):
    """The collator's plan is the one that the model would make itself, with the grids of the images."""
    model = BetaSiglip2Model.from_pretrained(siglip2, use_pooler=True, use_regions=True)
    processor = BetaSiglip2Processor.from_pretrained(siglip2)
    processor.image_processor.max_num_patches = 20
    rows = scenes.SceneDataset(3, image_size=48)
    collator = BetaCLIPDataCollator(
        processor, caption_mode="full", num_regions=2, include_short_caption=True, random_resized_crop=(0.5, 1.0)
    )
    batch = collator([rows[index] for index in range(3)])
    assert batch["input_ids"].shape[1] == 196 and batch["region_input_ids"].shape[1] == 64
    assert batch["plan"].grid_sizes == batch["spatial_shapes"].tolist()
    planned = model(**batch).loss
    plan = batch.pop("plan")
    torch.testing.assert_close(model(**batch).loss, planned, rtol=0, atol=0)
    assert len(plan.packing.short_U) < plan.packing.num_texts
    with pytest.raises(ValueError, match="prefix_padding_probability must be 0 for SigLIP 2"):
        BetaCLIPDataCollator(processor, prefix_padding_probability=0.5)
