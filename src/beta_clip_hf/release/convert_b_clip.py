"""The authors' β-CLIP checkpoint (`.pt`) to a directory that `BetaCLIPModel.from_pretrained` loads.

Letters: D projection width, L tokens.
"""

import argparse
import logging
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from beta_clip_cli.reports import Report, add_json_argument, reporting

from ..model.configuration_beta_clip import BetaCLIPConfig
from ..model.modeling_beta_clip import BetaCLIPModel
from ..model.positions_beta_clip import KEPT_TEXT_POSITIONS
from ..model.processing_beta_clip import BetaCLIPProcessor
from .export import describe_output


logger = logging.getLogger(__name__)

POOLER_HEADS = 8
HEAD_WIDTH = 64
# Our name on the left, the release's on the right; every module listed has a weight and a bias.
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
POOLER = {"out_proj": "attn.out_proj", "layer_norm": "ln_2", "fc1": "mlp.c_fc", "fc2": "mlp.c_proj"}


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
        checkpoint: the `.pt` file; read with `weights_only=True`, so nothing in it is executed.
        output_dir: where to save.
        vision_heads, text_heads: attention heads, which the file does not hold. Default: width / 64.
        tokenizer: directory or Hub id of the tokenizer. Without it no processor is saved, and a warning says so.

    Returns:
        The converted model in float32, in evaluation mode. A table of 77 text positions stays one of 77.

    Raises:
        ValueError: if the file is no such checkpoint, a key is missing or left over (named), the heads do not divide
            the width, or the tokenizer has another vocabulary.

    Source: the checkpoint layout of the β-CLIP release (commit 7be4476).
    """
    release = _Release(checkpoint)
    config = _config(release, vision_heads, text_heads)
    state_dict = _vision_tower(release) | _text_tower(release) | _pooler(release)
    release.check_all_used()
    processor = None if tokenizer is None else _processor(tokenizer, config)

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
    """The release's tensors by name, without the prefix that data parallelism left; remembers which were used."""

    def __init__(self, checkpoint: str | Path) -> None:
        try:
            loaded = torch.load(checkpoint, map_location="cpu", weights_only=True)
        except (UnpicklingError, EOFError, RuntimeError) as error:
            raise ValueError(f"checkpoint must be a PyTorch file of tensors only, but {checkpoint} is not") from error
        tensors = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else None
        if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
            raise ValueError(f'checkpoint must hold a dict of tensors under "state_dict", but {checkpoint} does not')
        self.tensors = {name.removeprefix("module."): value.float() for name, value in tensors.items()}
        self.unused = set(self.tensors)

    def __call__(self, name: str) -> Tensor:
        if name not in self.tensors:
            raise ValueError(f"checkpoint must hold the key {name!r}, but does not")
        self.unused.discard(name)
        return self.tensors[name]

    def layer(self, ours: str, theirs: str) -> dict[str, Tensor]:
        return {f"{ours}.{part}": self(f"{theirs}.{part}") for part in ("weight", "bias")}

    def fused_attention(self, ours: str, weight: str, bias: str) -> dict[str, Tensor]:
        """A fused query-key-value projection, taken apart."""
        parts = zip("qkv", self(weight).chunk(3), self(bias).chunk(3), strict=True)
        return {
            f"{ours}.{letter}_proj.{part}": tensor.clone()
            for letter, w, b in parts
            for part, tensor in (("weight", w), ("bias", b))
        }

    def count_blocks(self, prefix: str) -> int:
        indices = {int(name.removeprefix(prefix).split(".")[0]) for name in self.tensors if name.startswith(prefix)}
        return max(indices, default=-1) + 1

    def check_all_used(self) -> None:
        if self.unused:
            raise ValueError(f"every key of the checkpoint must be known, but these are not: {sorted(self.unused)}")


def _config(release: _Release, vision_heads: int | None, text_heads: int | None) -> Any:
    patch_weight = release("visual.patch_embed.proj.weight")
    vision_width, channels, patch_size = patch_weight.shape[:3]
    grid = round((release("visual.pos_embed").shape[1] - 1) ** 0.5)
    vocab_size, text_width = release("token_embedding.weight").shape
    width = release("image_projection").shape[1]
    return BetaCLIPConfig(
        projection_dim=width,
        pooler_num_attention_heads=POOLER_HEADS,
        pooler_mlp_ratio=release("text_conditioned_patches_block.mlp.c_fc.weight").shape[0] / width,
        vision_config={
            "hidden_size": vision_width,
            "intermediate_size": release("visual.blocks.0.mlp.fc1.weight").shape[0],
            "num_hidden_layers": release.count_blocks("visual.blocks."),
            "num_attention_heads": _heads(vision_heads, vision_width, "vision"),
            "num_channels": channels,
            "image_size": grid * patch_size,
            "patch_size": patch_size,
            "projection_dim": width,
        },
        text_config={
            "vocab_size": vocab_size,
            "hidden_size": text_width,
            "intermediate_size": release("transformer.resblocks.0.mlp.c_fc.weight").shape[0],
            "num_hidden_layers": release.count_blocks("transformer.resblocks."),
            "num_attention_heads": _heads(text_heads, text_width, "text"),
            "max_position_embeddings": len(release("positional_embedding")),
            "projection_dim": width,
            # CLIP's vocabulary ends with start and end, and its tokenizer pads with end.
            "bos_token_id": vocab_size - 2,
            "eos_token_id": vocab_size - 1,
            "pad_token_id": vocab_size - 1,
        },
    )


def _heads(heads: int | None, width: int, tower: str) -> int:
    if heads is None and width % HEAD_WIDTH == 0:
        return width // HEAD_WIDTH
    if heads is None or heads < 1 or width % heads:
        raise ValueError(
            f"{tower}_heads must divide the width of the {tower} tower ({width}; the default is width / {HEAD_WIDTH}), "
            f"but is {heads}"
        )
    return heads


def _vision_tower(release: _Release) -> dict[str, Tensor]:
    ours = "vision_model"
    state_dict = {
        f"{ours}.embeddings.class_embedding": release("visual.cls_token").flatten(),
        f"{ours}.embeddings.position_embedding.weight": release("visual.pos_embed")[0],
        f"{ours}.embeddings.patch_embedding.weight": release("visual.patch_embed.proj.weight"),
        "visual_projection.weight": release("image_projection").T.contiguous(),
    }
    state_dict |= release.layer(f"{ours}.pre_layrnorm", "visual.norm_pre")
    state_dict |= release.layer(f"{ours}.post_layernorm", "visual.norm")
    for index in range(release.count_blocks("visual.blocks.")):
        block, theirs = f"{ours}.encoder.layers.{index}", f"visual.blocks.{index}"
        state_dict |= release.fused_attention(
            f"{block}.self_attn", f"{theirs}.attn.qkv.weight", f"{theirs}.attn.qkv.bias"
        )
        for our_name, their_name in VISION_BLOCK.items():
            state_dict |= release.layer(f"{block}.{our_name}", f"{theirs}.{their_name}")
    return state_dict


def _text_tower(release: _Release) -> dict[str, Tensor]:
    ours = "text_model"
    positions = release("positional_embedding")
    if "positional_embedding_res" in release.tensors:  # a stretched table: its first rows are frozen, the rest trained
        rest = release("positional_embedding_res")
        positions = torch.cat([positions[:KEPT_TEXT_POSITIONS], rest[KEPT_TEXT_POSITIONS:]])
    state_dict = {
        f"{ours}.embeddings.token_embedding.weight": release("token_embedding.weight"),
        f"{ours}.embeddings.position_embedding.weight": positions,
        "text_projection.weight": release("text_projection").T.contiguous(),
        "logit_scale": release("logit_scale"),
    }
    state_dict |= release.layer(f"{ours}.final_layer_norm", "ln_final")
    for index in range(release.count_blocks("transformer.resblocks.")):
        for our_name, their_name in TEXT_BLOCK.items():
            state_dict |= release.layer(
                f"{ours}.encoder.layers.{index}.{our_name}", f"transformer.resblocks.{index}.{their_name}"
            )
    return state_dict


def _pooler(release: _Release) -> dict[str, Tensor]:
    theirs = "text_conditioned_patches_block"
    state_dict = {"pooler.logit_scale": release(f"{theirs}.logit_scale")}
    state_dict |= release.fused_attention("pooler", f"{theirs}.attn.in_proj_weight", f"{theirs}.attn.in_proj_bias")
    for our_name, their_name in POOLER.items():
        state_dict |= release.layer(f"pooler.{our_name}", f"{theirs}.{their_name}")
    return state_dict


def _processor(tokenizer: str | Path, config: Any) -> BetaCLIPProcessor:
    from transformers import AutoTokenizer

    loaded: Any = AutoTokenizer.from_pretrained(tokenizer)
    text = config.text_config
    if len(loaded) != text.vocab_size:
        raise ValueError(
            f"tokenizer must have {text.vocab_size} ids as the checkpoint, but {tokenizer} has {len(loaded)}"
        )
    return BetaCLIPProcessor.from_image_size(loaded, config.vision_config.image_size, text.max_position_embeddings)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `beta-clip convert b-clip`."""
    parser.add_argument("checkpoint", metavar="FILE", help="the release's .pt file")
    parser.add_argument("output", metavar="DIR", help="directory to write")
    parser.add_argument("--vision-heads", type=int, metavar="N", help="heads of the vision tower (default: width / 64)")
    parser.add_argument("--text-heads", type=int, metavar="N", help="heads of the text tower (default: width / 64)")
    parser.add_argument("--tokenizer", metavar="MODEL", help="directory or Hub id of its tokenizer; adds the processor")
    add_json_argument(parser)


@reporting
def run(args: argparse.Namespace) -> Report:
    """Converts; the report says what was written."""
    model = convert_b_clip(
        args.checkpoint,
        args.output,
        vision_heads=args.vision_heads,
        text_heads=args.text_heads,
        tokenizer=args.tokenizer,
    )
    logger.info("Saved to %s", args.output)
    return Report(describe_output(args.output, model))
