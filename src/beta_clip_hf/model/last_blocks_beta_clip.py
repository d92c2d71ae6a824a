# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""
The last block of each tower, which computes less than CLIP's own where it is asked to: only what is read from it.

Both are CLIP's modules with the same weights under the same names, and all that they compute runs in `forward`. So
hooks fire, and whatever wraps, shards, moves or quantises modules works on a flat batch as on a plain one.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.clip.modeling_clip import (
    CLIPAttention,
    CLIPEncoder,
    CLIPEncoderLayer,
    eager_attention_forward,
)


class LastTextLayer(CLIPEncoderLayer):
    """CLIP's layer, which can compute the last tokens of texts alone, because only these are pooled."""

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, last_T: Tensor | None = None, **kwargs: Any
    ) -> Tensor:
        """
        Computes the block.

        Args:
            hidden_states (`Tensor` of shape `(F, C, W)`): The rows of packed texts.
            attention_mask, kwargs: The arguments of attention.
            last_T (`Tensor` of shape `(T,)`, *optional*):
                The place of each text's last token, see [`TextPacking`]. Without it all tokens are computed, as in
                CLIP.

        Returns:
            `(T, W)`; `(F, C, W)` without `last_T`.
        """
        if last_T is None:
            return super().forward(hidden_states, attention_mask, **kwargs)
        attended, _ = self.self_attn(self.layer_norm1(hidden_states), attention_mask, **kwargs)
        # All that follows attention works on each token alone, so the other tokens can be left out from here.
        ends_TW = (hidden_states + attended).flatten(0, 1)[last_T]
        return ends_TW + self.mlp(self.layer_norm2(ends_TW))


class LastVisionAttention(CLIPAttention):
    """CLIP's attention, which can leave the patches their own values: then only CLS attends."""

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, value_only: bool = False, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        """
        Lets the tokens of an image attend to one another.

        Args:
            hidden_states (`Tensor` of shape `(B, 1 + P, W)`): CLS and then the patches.
            attention_mask, kwargs: As in CLIP.
            value_only: Whether patches keep their own values.

        Returns:
            `(B, 1 + P, W)`, and the weights of attention where the implementation has them.

        Source: the releases of β-CLIP and FG-CLIP (the same in both); MaskCLIP's idea.
        """
        if not value_only:
            return super().forward(hidden_states, attention_mask, **kwargs)
        values = self.v_proj(hidden_states)
        # Patches do not attend, so that only CLS needs a query.
        cls_query = self.q_proj(hidden_states[:, :1])
        keys = self.k_proj(hidden_states)
        query, key, value = (
            projected.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for projected in (cls_query, keys, values)
        )
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.dropout if self.training else 0.0
        attended, weights = attention(self, query, key, value, attention_mask, scaling=self.scale, dropout=dropout)
        cls = attended.flatten(-2)
        return self.out_proj(torch.cat([cls, values[:, 1:]], dim=1)), weights


def set_last_blocks(text_encoder: CLIPEncoder, vision_encoder: CLIPEncoder) -> None:
    """Makes the last blocks of both towers those of this file, in place."""
    # The class alone changes. New modules would draw random numbers, and lose what transformers knows of the old ones.
    text_encoder.layers[-1].__class__ = LastTextLayer
    vision_encoder.layers[-1].self_attn.__class__ = LastVisionAttention


__all__ = ["LastTextLayer", "LastVisionAttention", "set_last_blocks"]
