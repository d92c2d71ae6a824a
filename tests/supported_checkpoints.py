"""Tiny checkpoints of each supported kind, in the layout that its authors or transformers publish."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    Siglip2Config,
    Siglip2ImageProcessorPil,
    Siglip2Model,
    Siglip2Processor,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipProcessor,
)

from beta_clip_hf import (
    BetaCLIPConfig,
    BetaCLIPModel,
    BetaCLIPProcessor,
    BetaSiglip2Config,
    BetaSiglip2Model,
    BetaSiglip2Processor,
)
from beta_clip_hf.data.tokenizers import train_clip_tokenizer
from beta_clip_hf.release.convert_fg_clip import convert_back
from beta_clip_hf.release.convert_fg_clip2 import convert_fg_clip2_back


TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
SIZE = {"image_size": 32, "patch_size": 8}
GRID = {"num_patches": 16, "patch_size": 8}
# Auto classes give a SigLIP a tokenizer of their own choice, which may have more ids.
EXTRA_IDS = 6


def _tokens() -> tuple[Any, dict[str, int]]:
    """Returns a tokenizer of bytes, and the fields of a text tower that fit it."""
    tokenizer = train_clip_tokenizer([], vocab_size=514)
    ids = {"bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 513, "vocab_size": 514}
    return tokenizer, {**TOWER, **ids}


def _clip(folder: Path, positions: int) -> None:
    tokenizer, text = _tokens()
    text["max_position_embeddings"] = positions
    CLIPModel(CLIPConfig(text_config=text, vision_config={**TOWER, **SIZE}, projection_dim=32)).save_pretrained(folder)
    image_processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    tokenizer.model_max_length = positions
    CLIPProcessor(image_processor, tokenizer).save_pretrained(folder)


def _beta_clip(folder: Path, **switches: Any) -> None:
    tokenizer, text = _tokens()
    text["max_position_embeddings"] = 77 if switches else 248
    config = BetaCLIPConfig(text_config=text, vision_config={**TOWER, **SIZE}, projection_dim=32, **switches)
    BetaCLIPModel(config).save_pretrained(folder)
    processor = BetaCLIPProcessor.from_image_size(tokenizer, image_size=32)
    processor.short_max_length = 77 if switches else None
    processor.save_pretrained(folder)


def _fg_clip(folder: Path) -> None:
    ours = folder.with_name("ours_of_fg_clip")
    _beta_clip(ours, use_pooler=False, use_long_text_path=True, use_regions=True)
    convert_back(ours, folder)


def _fg_clip2(folder: Path) -> None:
    tokenizer, text = _tokens()
    text["vocab_size"] += EXTRA_IDS
    ours = folder.with_name("ours_of_fg_clip2")
    BetaSiglip2Model(BetaSiglip2Config(text_config=text, vision_config={**TOWER, **GRID})).save_pretrained(ours)
    BetaSiglip2Processor.from_patch_size(tokenizer, 8, max_num_patches=16).save_pretrained(ours)
    convert_fg_clip2_back(ours, folder)


def _siglip(folder: Path) -> None:
    tokenizer, text = _tokens()
    text["vocab_size"] += EXTRA_IDS
    SiglipModel(SiglipConfig(text_config=text, vision_config={**TOWER, **SIZE})).save_pretrained(folder)
    image_processor = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    SiglipProcessor(image_processor, tokenizer).save_pretrained(folder)


def _siglip2(folder: Path) -> None:
    tokenizer, text = _tokens()
    text["vocab_size"] += EXTRA_IDS
    Siglip2Model(Siglip2Config(text_config=text, vision_config={**TOWER, **GRID})).save_pretrained(folder)
    image_processor = Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16)
    Siglip2Processor(image_processor, tokenizer).save_pretrained(folder)


# The kinds of the table in the README, in its order.
MAKERS = {
    "CLIP": lambda folder: _clip(folder, 77),
    "Long-CLIP layout": lambda folder: _clip(folder, 248),
    "β-CLIP": _beta_clip,
    "FG-CLIP": _fg_clip,
    "FG-CLIP 2": _fg_clip2,
    "SigLIP": _siglip,
    "SigLIP 2": _siglip2,
}
ON_SIGLIP2 = ("FG-CLIP 2", "SigLIP", "SigLIP 2")


def make_checkpoint(kind: str, folder: Path) -> Path:
    """Writes a checkpoint of a kind with random weights, and returns its directory."""
    torch.manual_seed(0)
    folder.parent.mkdir(parents=True, exist_ok=True)
    MAKERS[kind](folder)
    return folder
