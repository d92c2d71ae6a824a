"""
The last block of each tower, which computes less than CLIP's own: only what is read from it.

Each function here takes the place of `CLIPEncoderLayer.forward`, and uses the layer's own modules and weights.
[`run_block`] is the only place where a layer's forward pass is left out.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.models.clip.modeling_clip import CLIPEncoderLayer


def run_block(layer: CLIPEncoderLayer, block: Callable[..., Tensor], hidden_states: Tensor, **inputs: Any) -> Tensor:
    """
    Computes a block in the place of a layer's own forward pass.

    Args:
        layer: The layer whose weights are used.
        block: `block(layer, hidden_states, **inputs)`, one of this file.
        hidden_states: The output of the layer before.
        inputs: What else the block takes.
    """
    # A layer checks this in `__call__`, which is left out here.
    if layer.gradient_checkpointing and layer.training:
        return layer._gradient_checkpointing_func(partial(block, layer, **inputs), hidden_states)
    return block(layer, hidden_states, **inputs)


def ends_only_block(layer: CLIPEncoderLayer, hidden_states: Tensor, last_T: Tensor, **inputs: Any) -> Tensor:
    """
    Computes the last text block for the last tokens of the texts, because only these are pooled.

    Args:
        layer: The last layer of the text tower.
        hidden_states (`Tensor` of shape `(F, C, W)`): the rows of packed texts.
        last_T (`Tensor` of shape `(T,)`): the place of each text's last token, see [`TextPacking`].
        inputs: The arguments of attention.

    Returns:
        `(T, W)`.
    """
    attended, _ = layer.self_attn(layer.layer_norm1(hidden_states), **inputs)
    # All that follows attention works on each token alone, so the other tokens can be left out from here.
    ends_TW = (hidden_states + attended).flatten(0, 1)[last_T]
    return ends_TW + layer.mlp(layer.layer_norm2(ends_TW))


def value_only_block(layer: CLIPEncoderLayer, hidden_states: Tensor) -> Tensor:
    """
    Computes the last vision block: CLS attends as in CLIP, patches keep their own values.

    Args:
        layer: The last layer of the vision tower.
        hidden_states (`Tensor` of shape `(B, 1 + P, W)`): CLS and then the patches.

    Returns:
        `(B, 1 + P, W)`.

    Source: the releases of β-CLIP and FG-CLIP (the same in both); MaskCLIP's idea.
    """
    attention = layer.self_attn
    normed = layer.layer_norm1(hidden_states)
    values = attention.v_proj(normed)

    # Patches do not attend, so that only CLS needs a query.
    cls_query = attention.q_proj(normed[:, :1])
    keys = attention.k_proj(normed)
    query, key, value = (
        projected.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for projected in (cls_query, keys, values)
    )
    dropout = attention.dropout if layer.training else 0.0
    attended = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
    cls = attended.transpose(1, 2).flatten(-2)

    hidden_states = hidden_states + attention.out_proj(torch.cat([cls, values[:, 1:]], dim=1))
    return hidden_states + layer.mlp(layer.layer_norm2(hidden_states))


__all__ = ["ends_only_block", "run_block", "value_only_block"]
