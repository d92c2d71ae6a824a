# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""What `BetaSiglip2Model.forward` returns."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers.models.siglip2.modeling_siglip2 import Siglip2Output


@dataclass
class BetaSiglip2Output(Siglip2Output):
    r"""
    Extends [`~transformers.models.siglip2.modeling_siglip2.Siglip2Output`] by what a batch with `image_index` has.

    Args:
        losses, contextualized_embeds, region_embeds, pooler_output: As in [`BetaCLIPOutput`].

    For a batch with `image_index` the embeddings are L2-normalised in at least float32, `logits_per_image` is `(B, T)`,
    and the outputs of the towers are left out.
    """

    # After SigLIP 2's own fields: `to_tuple` keeps the places of those.
    losses: dict[str, Tensor] | None = None
    contextualized_embeds: Tensor | None = None
    region_embeds: Tensor | None = None
    pooler_output: Tensor | None = None


def output_of_images(vision_outputs: Any) -> BetaSiglip2Output:
    """Returns the output of images alone, from that of the vision tower."""
    features_BD = vision_outputs.pooler_output
    return BetaSiglip2Output(
        image_embeds=_normalized(features_BD), vision_model_output=vision_outputs, pooler_output=features_BD
    )


def output_of_texts(text_outputs: Any) -> BetaSiglip2Output:
    """Returns the output of texts alone, from that of the text tower."""
    features_TD = text_outputs.pooler_output
    return BetaSiglip2Output(
        text_embeds=_normalized(features_TD), text_model_output=text_outputs, pooler_output=features_TD
    )


def _normalized(embeds_MD: Tensor) -> Tensor:
    # In the same steps as `Siglip2Model.forward`, whose embeddings these equal bit for bit.
    return embeds_MD / embeds_MD.norm(p=2, dim=-1, keepdim=True)


__all__ = ["BetaSiglip2Output", "output_of_images", "output_of_texts"]
