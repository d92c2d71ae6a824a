"""The recipes on SigLIP 2 towers, the parts of the loss that each computes, and a tiny SigLIP 2 to start from."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import Siglip2Config, Siglip2Model

from beta_clip_cli.main import main
from beta_clip_hf import BetaSiglip2Processor, scenes
from beta_clip_hf.data.tokenizers import train_clip_tokenizer


FINE_GRAINED = {
    "sigmoid_loss",
    "short_sigmoid_loss",
    "region_loss",
    "intra_text_loss",
    "hard_contrast_loss",
    "hard_negative_loss",
    "rank_loss",
}
SIGLIP2_PARTS = {
    "fg_clip2_stage2": FINE_GRAINED,
    "beta_siglip2": {"sigmoid_loss", "beta_cal_loss"},
    "beta_fg2": FINE_GRAINED | {"beta_cal_loss"},
}
TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
PATCH_SIZE, NUM_PATCHES = 8, 36
SCENES = "{scenes: 16, image_size: 48}"
SMALL = [
    "training.per_device_train_batch_size=4", "training.gradient_accumulation_steps=1",
    "training.dataloader_num_workers=0", "training.logging_steps=1", "training.learning_rate=1e-3",
    "training.warmup_steps=0", "training.use_cpu=true", "training.disable_tqdm=true",
]  # fmt: skip


def scene_tokenizer() -> Any:
    """Trains a small tokenizer on captions of scenes."""
    rows = scenes.SceneDataset(40, image_size=48)
    return train_clip_tokenizer([rows[index]["caption"] for index in range(40)], vocab_size=600)


def token_settings(tokenizer: Any) -> dict[str, int]:
    """Returns the fields of a text tower that depend on its tokenizer."""
    return {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


def save_siglip2(folder: Path) -> Path:
    """Saves a tiny plain SigLIP 2 with its processor."""
    vision = {**TOWER, "patch_size": PATCH_SIZE, "num_patches": NUM_PATCHES}
    processor = BetaSiglip2Processor.from_patch_size(scene_tokenizer(), PATCH_SIZE, max_num_patches=NUM_PATCHES)
    processor.save_pretrained(folder)
    Siglip2Config(vision_config=vision).save_pretrained(folder)
    # Auto classes give a SigLIP 2 a tokenizer of their own choice, which may have one more id.
    tokenizer = BetaSiglip2Processor.from_pretrained(folder).tokenizer
    text = {**TOWER, **token_settings(tokenizer)}
    torch.manual_seed(0)
    Siglip2Model(Siglip2Config(text_config=text, vision_config=vision)).save_pretrained(folder)
    return folder


def words_of_training(recipe: Path, model: Path, output: Path, *settings: str) -> list[str]:
    """Returns the words of the command that trains on a few scenes."""
    words = ["train", "--config", str(recipe), "--model", str(model), "--output", str(output)]
    for setting in (f"data.train={SCENES}", *SMALL, *settings):
        words += ["--set", setting]
    return words


def train(recipe: Path, model: Path, output: Path, *settings: str) -> list[dict[str, Any]]:
    """Trains by the command on a few scenes, and returns the records of the steps."""
    assert main(words_of_training(recipe, model, output, *settings)) == 0
    log = json.loads((output / "train_log.json").read_text())
    return [record for record in log if "loss" in record]
