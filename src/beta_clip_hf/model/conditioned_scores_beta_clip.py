# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""What models of all towers offer with a text-conditioned pooler."""

from typing import Any

from torch import Tensor

from .forward_checks_beta_clip import check_one_of
from .patch_map_beta_clip import Patches, features_of
from .pooler_beta_clip import TextConditionedPooler
from .ragged_beta_clip import index_or_pairs
from .sharding_beta_clip import gathers_weights
from .tensor_arguments_beta_clip import takes_lists
from .unit_vectors_beta_clip import normalize


class ConditionedScores:
    """Scores images as texts see them; a base class beside that of the towers."""

    pooler: TextConditionedPooler | None

    @takes_lists
    @gathers_weights
    def score_pairs(self, patch_features: Patches, text_embeds: Tensor, *, chunk_size: int | None = None) -> Tensor:
        """Scores EVERY image with every text, `(B, T)`, see [`TextConditionedPooler.score_pairs`]."""
        return self.pooler_or_error().score_pairs(patch_features, text_embeds, chunk_size=chunk_size)

    @takes_lists
    @gathers_weights
    def score_candidates(
        self,
        patch_features: Patches,
        text_embeds: Tensor,
        image_index: Tensor,
        text_index: Tensor,
        *,
        chunk_size: int | None = None,
    ) -> Tensor:
        """Scores the pairs of a shortlist, see [`TextConditionedPooler.score_candidates`]."""
        return self.pooler_or_error().score_candidates(
            patch_features, text_embeds, image_index, text_index, chunk_size=chunk_size
        )

    def pool_for_texts(
        self, patch_features: Any, text_embeds: Any, image_index: Tensor | None, output_attentions: bool
    ) -> Tensor | tuple[Tensor, Tensor]:
        """
        Pools each text's own image: `(T, D)`, L2-normalised, and with `output_attentions` the attention `(T, H, P)`.

        Raises:
            ValueError: If the model has no pooler, or there is no index, and neither one image nor one for each text.
        """
        num_images = features_of(patch_features).shape[0]
        index = index_or_pairs(image_index, num_images, text_embeds.shape[0], "texts", text_embeds.device)
        pooler = self.pooler_or_error()
        if text_embeds.shape[0] == 0:
            # Kernels of attention refuse to be asked for nothing.
            pooled_TD = text_embeds
            attentions_THP = text_embeds.new_zeros(0, pooler.num_heads, features_of(patch_features).shape[1])
        else:
            pooled_TD, attentions_THP = pooler(text_embeds, patch_features, index, output_attentions)
        # In at least float32: cosines of half-precision vectors would tie where models differ little.
        pooled_TD = normalize(pooled_TD)
        return (pooled_TD, attentions_THP) if output_attentions else pooled_TD

    def check_pooled(self, pixel_values: Any, patch_features: Any, input_ids: Any, text_embeds: Any) -> None:
        """Raises `ValueError` for a model without a pooler, or if images or texts are missing or given twice."""
        self.pooler_or_error()
        check_one_of(pixel_values=pixel_values, patch_features=patch_features)
        check_one_of(input_ids=input_ids, text_embeds=text_embeds)

    def pooler_or_error(self) -> TextConditionedPooler:
        """Returns the pooler.

        Raises:
            ValueError: If the model has none.
        """
        if self.pooler is None:
            raise ValueError("use_pooler must be True for text-conditioned features, but is False")
        return self.pooler


__all__ = ["ConditionedScores"]
