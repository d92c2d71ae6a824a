# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""The head that turns the tokens of the SigLIP 2 vision tower into patch features."""

from typing import Any

import torch
from torch import Tensor
from transformers.models.siglip2.modeling_siglip2 import Siglip2MultiheadAttentionPoolingHead


class PatchHead(Siglip2MultiheadAttentionPoolingHead):
    """
    SigLIP 2's pooling head with every patch as its own query (FG-CLIP 2, arXiv 2510.10921).

    Its probe, the query of the pooling head, is not used. It is kept for the way back to FG-CLIP 2.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        # A parameter without a gradient would be an error of distributed training. A buffer has none.
        probe = torch.zeros_like(self.probe)
        del self.probe
        self.register_buffer("probe", probe)

    def forward(self, hidden_state: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        r"""
        Computes patch features.

        Args:
            hidden_state (`Tensor` of shape `(B, P, D)`): The tokens after the last layer norm.
            attention_mask (`Tensor` of shape `(B, P)`, *optional*): 0 for padding. Patches do not attend to it.

        Returns:
            `(B, P, D)`, un-normalised. Rows of padding have no meaning.
        """
        is_padding = None if attention_mask is None else ~attention_mask.bool()
        attended, _ = self.attention(
            hidden_state, hidden_state, hidden_state, key_padding_mask=is_padding, need_weights=False
        )
        return attended + self.mlp(self.layernorm(attended))


__all__ = ["PatchHead"]
