"""Converts a checkpoint of the β-CLIP authors (`.pt`) to a directory that `BetaCLIPModel.from_pretrained` loads."""

import logging
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from ..model.configuration_beta_clip import BetaCLIPConfig
from ..model.modeling_beta_clip import BetaCLIPModel
from ..model.positions_beta_clip import KEPT_TEXT_POSITIONS
from ..model.processing_beta_clip import BetaCLIPProcessor


logger = logging.getLogger(__name__)

POOLER_HEADS = 8
HEAD_WIDTH = 64
# The keys are names of this package, the values those of the release. Every module has a weight and a bias.
VISION_BLOCK = {
    "layer_norm1": "norm1",
    "self_attn.out_proj": "attn.proj",
    "layer_norm2": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
TEXT_BLOCK = {
    "layer_norm1": "ln_1",
    "self_attn.q_proj": "attn.q_proj",
    "self_attn.k_proj": "attn.k_proj",
    "self_attn.v_proj": "attn.v_proj",
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
POOLER = {
    "out_proj": "attn.out_proj",
    "layer_norm": "ln_2",
    "fc1": "mlp.c_fc",
    "fc2": "mlp.c_proj",
}
VISION_BLOCKS = "visual.blocks."
TEXT_BLOCKS = "transformer.resblocks."


def convert_b_clip(
    checkpoint: str | Path,
    output_dir: str | Path,
    *,
    vision_heads: int | None = None,
    text_heads: int | None = None,
    tokenizer: str | Path | None = None,
) -> BetaCLIPModel:
    r"""
    Converts a checkpoint of the β-CLIP release and saves it as safetensors with its configuration and processor.

    Args:
        checkpoint: The `.pt` file. It is read with `weights_only=True`, so nothing in it is executed.
        output_dir: Directory to write.
        vision_heads, text_heads: Number of attention heads of a tower, which the file does not hold. `None` takes the
            width divided by 64.
        tokenizer: Directory or Hub id of the tokenizer. Without it no processor is saved, and a warning says so.

    Returns:
        The converted model in float32, in evaluation mode. A table of 77 text positions keeps its 77 rows.

    Raises:
        ValueError: if the file is no such checkpoint, a key is missing or unknown (it is named), the heads do not
            divide the width, or the tokenizer has another vocabulary.

    Source: the checkpoint layout of the β-CLIP release (commit 7be4476).
    """
    release = _Release(checkpoint)
    config = _read_config(release, vision_heads, text_heads)
    state_dict = _vision_tower(release) | _text_tower(release) | _pooler(release)
    release.check_all_used()
    # All that can fail does so before anything is written.
    processor = None
    if tokenizer is not None:
        processor = _make_processor(tokenizer, config)

    model = BetaCLIPModel(config)
    model.load_state_dict(state_dict)
    model.save_pretrained(output_dir)
    if processor is not None:
        processor.save_pretrained(output_dir)
    else:
        logger.warning(
            "No processor was saved to %s: give the tokenizer of its %d ids with --tokenizer.",
            output_dir,
            config.text_config.vocab_size,
        )
    return model.eval()


class _Release:
    """
    Gives the tensors of a release by their names, in float32, and remembers which were used.

    Data parallelism has put "module." before the names. That prefix is removed.
    """

    def __init__(self, checkpoint: str | Path) -> None:
        try:
            loaded = torch.load(checkpoint, map_location="cpu", weights_only=True)
        except (UnpicklingError, EOFError, RuntimeError) as error:
            raise ValueError(f"checkpoint must be a PyTorch file of tensors only, but {checkpoint} is not") from error
        tensors = None
        if isinstance(loaded, dict):
            tensors = loaded.get("state_dict", loaded)
        if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
            raise ValueError(f'checkpoint must hold a dict of tensors under "state_dict", but {checkpoint} does not')
        self.tensors = {name.removeprefix("module."): value.float() for name, value in tensors.items()}
        self.unused = set(self.tensors)

    def __call__(self, name: str) -> Tensor:
        if name not in self.tensors:
            raise ValueError(f"checkpoint must hold the key {name!r}, but does not")
        self.unused.discard(name)
        return self.tensors[name]

    def layer(self, our_name: str, their_name: str) -> dict[str, Tensor]:
        """Returns weight and bias of a layer under our names."""
        return {
            f"{our_name}.weight": self(f"{their_name}.weight"),
            f"{our_name}.bias": self(f"{their_name}.bias"),
        }

    def fused_attention(self, our_name: str, weight_name: str, bias_name: str) -> dict[str, Tensor]:
        """Splits a fused query-key-value projection into the three projections of an attention module."""
        weights = self(weight_name).chunk(3)
        biases = self(bias_name).chunk(3)
        layers: dict[str, Tensor] = {}
        for letter, weight, bias in zip("qkv", weights, biases, strict=True):
            # safetensors refuses tensors that share memory.
            layers[f"{our_name}.{letter}_proj.weight"] = weight.clone()
            layers[f"{our_name}.{letter}_proj.bias"] = bias.clone()
        return layers

    def count_blocks(self, prefix: str) -> int:
        """Counts the blocks whose names begin with a prefix and an index."""
        indices = {int(name.removeprefix(prefix).split(".")[0]) for name in self.tensors if name.startswith(prefix)}
        return max(indices, default=-1) + 1

    def check_all_used(self) -> None:
        """Raises `ValueError` if a tensor of the checkpoint was not used."""
        if self.unused:
            raise ValueError(f"every key of the checkpoint must be known, but these are not: {sorted(self.unused)}")


def _read_config(release: _Release, vision_heads: int | None, text_heads: int | None) -> Any:
    """Reads the sizes of a model from the shapes of its tensors."""
    width = release("image_projection").shape[1]
    pooler_mlp_width = release("text_conditioned_patches_block.mlp.c_fc.weight").shape[0]
    return BetaCLIPConfig(
        projection_dim=width,
        pooler_num_attention_heads=POOLER_HEADS,
        pooler_mlp_ratio=pooler_mlp_width / width,
        vision_config={**_vision_sizes(release, vision_heads), "projection_dim": width},
        text_config={**_text_sizes(release, text_heads), "projection_dim": width},
    )


def _vision_sizes(release: _Release, heads: int | None) -> dict[str, Any]:
    width, channels, patch_size = release("visual.patch_embed.proj.weight").shape[:3]
    # One position belongs to the class token, the others to a square grid of patches.
    patches = release("visual.pos_embed").shape[1] - 1
    grid = round(patches**0.5)
    return {
        "hidden_size": width,
        "intermediate_size": release("visual.blocks.0.mlp.fc1.weight").shape[0],
        "num_hidden_layers": release.count_blocks(VISION_BLOCKS),
        "num_attention_heads": _check_heads(heads, width, "vision"),
        "num_channels": channels,
        "image_size": grid * patch_size,
        "patch_size": patch_size,
    }


def _text_sizes(release: _Release, heads: int | None) -> dict[str, Any]:
    vocab_size, width = release("token_embedding.weight").shape
    return {
        "vocab_size": vocab_size,
        "hidden_size": width,
        "intermediate_size": release("transformer.resblocks.0.mlp.c_fc.weight").shape[0],
        "num_hidden_layers": release.count_blocks(TEXT_BLOCKS),
        "num_attention_heads": _check_heads(heads, width, "text"),
        "max_position_embeddings": len(release("positional_embedding")),
        # The last two ids of CLIP's vocabulary are start and end, and its tokenizer pads with end.
        "bos_token_id": vocab_size - 2,
        "eos_token_id": vocab_size - 1,
        "pad_token_id": vocab_size - 1,
    }


def _check_heads(heads: int | None, width: int, tower: str) -> int:
    """Returns the number of heads of a tower, by default its width divided by 64."""
    if heads is None and width % HEAD_WIDTH == 0:
        return width // HEAD_WIDTH
    if heads is None or heads < 1 or width % heads:
        raise ValueError(
            f"{tower}_heads must divide the width of the {tower} tower ({width}; the default is width / {HEAD_WIDTH}), "
            f"but is {heads}"
        )
    return heads


def _vision_tower(release: _Release) -> dict[str, Tensor]:
    state_dict = {
        "vision_model.embeddings.class_embedding": release("visual.cls_token").flatten(),
        "vision_model.embeddings.position_embedding.weight": release("visual.pos_embed")[0],
        "vision_model.embeddings.patch_embedding.weight": release("visual.patch_embed.proj.weight"),
        # The release multiplies with its projections from the right.
        "visual_projection.weight": release("image_projection").T.contiguous(),
    }
    state_dict |= release.layer("vision_model.pre_layrnorm", "visual.norm_pre")
    state_dict |= release.layer("vision_model.post_layernorm", "visual.norm")
    for index in range(release.count_blocks(VISION_BLOCKS)):
        our_block = f"vision_model.encoder.layers.{index}"
        their_block = f"{VISION_BLOCKS}{index}"
        state_dict |= release.fused_attention(
            f"{our_block}.self_attn",
            f"{their_block}.attn.qkv.weight",
            f"{their_block}.attn.qkv.bias",
        )
        for our_name, their_name in VISION_BLOCK.items():
            state_dict |= release.layer(f"{our_block}.{our_name}", f"{their_block}.{their_name}")
    return state_dict


def _text_tower(release: _Release) -> dict[str, Tensor]:
    positions_LW = release("positional_embedding")
    if "positional_embedding_res" in release.tensors:
        # The release stretches its table into two: the first rows of one are frozen, the rest of the other is trained.
        trained_LW = release("positional_embedding_res")
        positions_LW = torch.cat([positions_LW[:KEPT_TEXT_POSITIONS], trained_LW[KEPT_TEXT_POSITIONS:]])
    state_dict = {
        "text_model.embeddings.token_embedding.weight": release("token_embedding.weight"),
        "text_model.embeddings.position_embedding.weight": positions_LW,
        "text_projection.weight": release("text_projection").T.contiguous(),
        "logit_scale": release("logit_scale"),
    }
    state_dict |= release.layer("text_model.final_layer_norm", "ln_final")
    for index in range(release.count_blocks(TEXT_BLOCKS)):
        our_block = f"text_model.encoder.layers.{index}"
        their_block = f"{TEXT_BLOCKS}{index}"
        for our_name, their_name in TEXT_BLOCK.items():
            state_dict |= release.layer(f"{our_block}.{our_name}", f"{their_block}.{their_name}")
    return state_dict


def _pooler(release: _Release) -> dict[str, Tensor]:
    theirs = "text_conditioned_patches_block"
    state_dict = {"pooler.logit_scale": release(f"{theirs}.logit_scale")}
    state_dict |= release.fused_attention("pooler", f"{theirs}.attn.in_proj_weight", f"{theirs}.attn.in_proj_bias")
    for our_name, their_name in POOLER.items():
        state_dict |= release.layer(f"pooler.{our_name}", f"{theirs}.{their_name}")
    return state_dict


def _make_processor(tokenizer: str | Path, config: Any) -> BetaCLIPProcessor:
    from transformers import AutoTokenizer

    loaded: Any = AutoTokenizer.from_pretrained(tokenizer, trust_remote_code=False)
    text_config = config.text_config
    if len(loaded) != text_config.vocab_size:
        raise ValueError(
            f"tokenizer must have {text_config.vocab_size} ids like the checkpoint, but {tokenizer} has {len(loaded)}"
        )
    return BetaCLIPProcessor.from_image_size(
        loaded, config.vision_config.image_size, text_config.max_position_embeddings
    )


__all__ = ["convert_b_clip"]
