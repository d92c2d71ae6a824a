# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""A second table of text positions beside the one of the tower, for the long text path. CLIP and SigLIP 2 share it."""

from typing import Any

import torch
from torch import Tensor, nn


def num_positions(table: Any) -> int:
    """Returns the rows of a table of positions. It is not asked for its weight, which DeepSpeed's ZeRO 3 empties."""
    # PEFT puts layers around a table.
    while hasattr(table, "base_layer"):
        table = table.base_layer
    return table.num_embeddings


class LongPositions:
    """
    Gives a text tower's embeddings a second table of positions. It stands before their class among the bases.

    `position_ids` count through both tables: the long table follows the tower's own, so that texts of both paths can
    share a batch. Without `position_ids` these are the tower's embeddings.
    """

    # Of the class that stands behind this one.
    position_embedding: nn.Embedding
    token_embedding: nn.Embedding

    def __init__(self, config: Any, long_positions: int) -> None:
        super().__init__(config)  # type: ignore[call-arg]  # the class of the tower takes it
        self.long_position_embedding = nn.Embedding(long_positions, config.hidden_size)

    def forward(
        self, input_ids: Tensor | None = None, position_ids: Tensor | None = None, inputs_embeds: Tensor | None = None
    ) -> Tensor:
        """Embeds tokens and adds the positions of their path."""
        if position_ids is None:
            return super().forward(input_ids, None, inputs_embeds)  # type: ignore[misc]  # that of the tower
        num_short = num_positions(self.position_embedding)
        # Each token reads both tables, and one of the rows counts. The tables are called, and not joined: an offloaded
        # table comes to the device only when it is called.
        short_rows = self.position_embedding(position_ids.clamp(max=num_short - 1))
        long_rows = self.long_position_embedding((position_ids - num_short).clamp(min=0))
        embeds = self.token_embedding(input_ids) if inputs_embeds is None else inputs_embeds
        return embeds + torch.where((position_ids < num_short)[..., None], short_rows, long_rows)


__all__ = ["LongPositions", "num_positions"]
