# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""What `BetaCLIPModel.forward` returns, for whole batches and for images or texts alone."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers.models.clip.modeling_clip import CLIPOutput


@dataclass
class BetaCLIPOutput(CLIPOutput):
    r"""
    Extends [`~transformers.models.clip.modeling_clip.CLIPOutput`] by what a batch with `image_index` has.

    Args:
        losses (`dict[str, Tensor]`, *optional*):
            The parts of `loss`, before their weights, as far as they were computed, under their names in
            [`LOSS_PARTS`].
        contextualized_embeds (`Tensor` of shape `(T, D)`, *optional*):
            L2-normalised embedding of each text's image as pooled for that text.
        region_embeds (`Tensor` of shape `(R, D)`, *optional*): L2-normalised embeddings of the boxes.
        pooler_output (`Tensor` of shape `(B, D)` or `(T, D)`, *optional*):
            Of images or texts alone, their embeddings before they are normalised: what `get_image_features` and
            `get_text_features` return under this name. transformers' pipelines ask for it (`pool=True`).

    For a batch with `image_index` the embeddings are L2-normalised in at least float32, `logits_per_image` is `(B, T)`
    on CLS and EOS, and the outputs of the towers are left out. Images alone, or texts alone, have their embeddings and
    the outputs of their tower.
    """

    # After CLIP's own fields: `to_tuple` keeps the places of those.
    losses: dict[str, Tensor] | None = None
    contextualized_embeds: Tensor | None = None
    region_embeds: Tensor | None = None
    pooler_output: Tensor | None = None


def output_of_images(vision_outputs: Any) -> BetaCLIPOutput:
    """Returns the output of images alone, from what `get_image_features` returned."""
    features_BD = vision_outputs.pooler_output
    return BetaCLIPOutput(
        image_embeds=_normalized_as_clip(features_BD), vision_model_output=vision_outputs, pooler_output=features_BD
    )


def output_of_texts(text_outputs: Any) -> BetaCLIPOutput:
    """Returns the output of texts alone, from what `get_text_features` returned."""
    features_TD = text_outputs.pooler_output
    return BetaCLIPOutput(
        text_embeds=_normalized_as_clip(features_TD), text_model_output=text_outputs, pooler_output=features_TD
    )


def _normalized_as_clip(embeds_MD: Tensor) -> Tensor:
    # In the same steps as `CLIPModel.forward`, whose embeddings these equal bit for bit.
    return embeds_MD / embeds_MD.pow(2).sum(dim=-1, keepdim=True).pow(0.5)


__all__ = ["BetaCLIPOutput", "output_of_images", "output_of_texts"]
