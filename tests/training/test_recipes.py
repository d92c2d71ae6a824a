"""Every recipe in examples/configs runs, but for its sizes as written: on generated scenes and on photos with boxes."""

import json
import math

import pytest
import torch

from beta_clip_cli.main import main
from beta_clip_hf import BetaCLIPConfig, BetaCLIPModel, BetaCLIPProcessor
from training.siglip2_recipes import SIGLIP2_PARTS


pytestmark = pytest.mark.slow


GLOBAL = {"clip_loss", "short_clip_loss"}
REGIONAL = {"region_loss", "hard_negative_loss"}
FALSE_TEXTS = {"text_negative_loss", "conditioned_negative_loss"}
PARTS = {
    "beta_clip_ce": {"clip_loss", "beta_cal_loss"},
    "beta_clip_bce": {"clip_loss", "beta_cal_loss"},
    "fg_clip_stage1": GLOBAL,
    "fg_clip_stage2": GLOBAL | REGIONAL,
    "beta_fg": GLOBAL | REGIONAL | {"beta_cal_loss"},
    "small_collection": {"clip_loss", "beta_cal_loss"},
    "recommended": GLOBAL | REGIONAL | FALSE_TEXTS | {"beta_cal_loss", "text_clip_loss"},
}
EVERY_PART = GLOBAL | REGIONAL | FALSE_TEXTS | {"beta_cal_loss", "text_clip_loss"}
POOLERS = {"beta_clip_ce", "beta_clip_bce", "beta_fg", "recommended", "small_collection"}
# What a machine without GPUs changes: sizes, not the recipe. A larger rate, so that few steps move the weights.
SMALL = [
    "training.max_steps=3", "training.per_device_train_batch_size=4", "training.gradient_accumulation_steps=1",
    "training.dataloader_num_workers=0", "training.save_strategy=no", "training.logging_steps=1",
    "training.learning_rate=1e-3", "training.warmup_steps=0", "training.use_cpu=true", "training.disable_tqdm=true",
    "training.eval_strategy=no", "training.load_best_model_at_end=false", "data.eval_fraction=0",
]  # fmt: skip


@pytest.fixture(scope="module")
def start(tiny_clip_dir, tiny_tokenizer, tmp_path_factory):
    """A plain CLIP with its processor, as on the Hub."""
    folder = tmp_path_factory.mktemp("start")
    for file in tiny_clip_dir.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    BetaCLIPProcessor.from_image_size(tiny_tokenizer, image_size=32).save_pretrained(folder)
    return folder


def train(project_dir, recipe, model, train_data, output, *settings):
    words = ["train", "--config", str(project_dir / f"examples/configs/{recipe}.yaml"), "--model", str(model)]
    words += ["--output", str(output)]
    for setting in (f"data.train={train_data}", *SMALL, *settings):
        words += ["--set", setting]
    assert main(words) == 0
    log = json.loads((output / "train_log.json").read_text())
    return [record for record in log if "loss" in record]


def test_every_recipe_is_tested(project_dir):
    recipes = {path.stem for path in (project_dir / "examples/configs").glob("*.yaml")}
    # tests/integration/test_lora.py runs `lora`, which needs peft.
    assert recipes - {"photos_tiny", "lora"} == {*PARTS, *SIGLIP2_PARTS}


@pytest.mark.parametrize("recipe", PARTS)
def test_a_recipe_on_scenes(project_dir, start, recipe, tmp_path):
    log = train(project_dir, recipe, start, "{scenes: 12, image_size: 48}", tmp_path)
    assert len(log) == 3
    for record in log:
        assert EVERY_PART & record.keys() == PARTS[recipe]
        assert all(math.isfinite(record[part]) and record[part] > 0 for part in PARTS[recipe])
    model, info = BetaCLIPModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert (model.pooler is not None) == (recipe in POOLERS)
    fields = BetaCLIPConfig.__dataclass_fields__.keys() - {"dtype"}
    chosen = {name: value for name, value in model.config.to_diff_dict().items() if name in fields}
    before = BetaCLIPModel.from_pretrained(start, **chosen).state_dict()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    expected = {"text_projection.weight", "visual_projection.weight"}
    if model.config.use_long_text_path:
        expected |= {"long_text_projection.weight", "text_model.embeddings.long_position_embedding.weight"}
    if "region_loss" in PARTS[recipe]:
        expected |= {"region_logit_scale", "hard_negative_logit_scale"}
    assert expected <= moved
    processor = BetaCLIPProcessor.from_pretrained(tmp_path)
    assert processor.short_max_length == (77 if model.config.use_long_text_path else None)
    assert processor.image_processor.do_center_crop == (not model.config.use_long_text_path)


@pytest.mark.parametrize("recipe", ["fg_clip_stage1", "fg_clip_stage2", "beta_fg"])
def test_a_recipe_on_photos_with_boxes(project_dir, shared_dir, start, recipe, tmp_path):
    photos = shared_dir / "data/photos"
    rows = [json.loads(line) for line in (photos / "train.jsonl").read_text().splitlines()[:12]]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = f"{{source: {tmp_path / 'rows.jsonl'}, image_root: {photos}}}"
    log = train(project_dir, recipe, start, source, tmp_path / "out")
    # People drew boxes for these phrases, but nobody wrote hard negatives.
    assert all(EVERY_PART & record.keys() == PARTS[recipe] - {"hard_negative_loss"} for record in log)
    results = json.loads((tmp_path / "out/train_results.json").read_text())
    assert results["skipped_rows"] == {"reading": 0, "training": 0, "evaluation": 0}


def test_stage_two_goes_on_from_stage_one(project_dir, start, tmp_path):
    data = "{scenes: 12, image_size: 48}"
    train(project_dir, "fg_clip_stage1", start, data, tmp_path / "one")
    log = train(project_dir, "fg_clip_stage2", tmp_path / "one", data, tmp_path / "two")
    assert all(record.keys() >= PARTS["fg_clip_stage2"] for record in log)


@pytest.mark.parametrize("recipe", ["fg_clip_stage2", "beta_fg"])
def test_an_fg_clip_checkpoint_is_trained_further(project_dir, golden_dir, shared_dir, recipe, tmp_path):
    """The authors' layout, with OpenAI's vocabulary: 1.2 million token weights, so this is the slowest of the file."""
    source = tmp_path / "fg_clip"
    source.mkdir()
    (source / "config.json").write_bytes((golden_dir / "fg_clip_grid4/config.json").read_bytes())
    (source / "model.safetensors").write_bytes((golden_dir / "fg_clip_grid4/checkpoint.safetensors").read_bytes())
    merges = next((shared_dir / "data/clip_bpe").glob("*.gz"))
    heads = ["model.config.pooler_num_attention_heads=4"]
    data = "{scenes: 8, image_size: 48}"
    log = train(project_dir, recipe, source, data, tmp_path / "out", f"model.tokenizer={merges}", *heads)
    assert all(EVERY_PART & record.keys() == PARTS[recipe] for record in log)
    trained = BetaCLIPModel.from_pretrained(tmp_path / "out")
    assert (trained.pooler is not None) == (recipe in POOLERS)
    assert len(BetaCLIPProcessor.from_pretrained(tmp_path / "out").tokenizer) == 49408
