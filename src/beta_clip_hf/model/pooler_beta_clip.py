# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""The text-conditioned pooler of β-CLIP: a text attends to an image's patches and gets its own view of it."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .activations_beta_clip import fuse_in_training
from .attention_beta_clip import eager_attention
from .half_blocks_beta_clip import HalfBlocks
from .pair_chunks_beta_clip import (
    check_index,
    chunks_of_pairs,
    empty_scores,
    joined_pairs,
    pairs_at_a_time,
    slices_of_size,
)
from .patch_map_beta_clip import Patches, PatchMap, features_of, padding_bias, select_images
from .ragged_beta_clip import ImageSlots, slots_by_image
from .sharding_beta_clip import gathers_weights
from .unit_vectors_beta_clip import normalize


# torch 2.6 has no `is_exporting`.
_is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)


class TextConditionedPooler(nn.Module):
    r"""
    Cross-attention from texts to the patches of an image, then a residual MLP:

    ```
    a   = MultiHeadAttention(query=q, key=kv, value=kv)        projections with bias, no residual from q
    out = a + MLP(LayerNorm(a))
    ```

    with q the L2-normalised text embeddings and kv the L2-normalised patch features. Keys and values are projected once
    per image, and what a text gets does not depend on the other texts.

    Args:
        config (`BetaCLIPConfig` or `BetaSiglip2Config`): `projection_dim` is D; the rest is named `pooler_…` there.

    Source: arXiv 2512.12678, text-conditioned pooling; the null token and the layer norms on q, k, v are FLAIR's.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        width = config.projection_dim
        self.num_heads = config.pooler_num_attention_heads
        self.config = config
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)
        self.layer_norm = nn.LayerNorm(width, eps=config.pooler_layer_norm_eps)
        hidden = int(width * config.pooler_mlp_ratio)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.activation = fuse_in_training(ACT2FN[config.pooler_hidden_act])
        # A model replaces it with its own.
        self.block_runner = HalfBlocks()
        self.use_null_token = config.pooler_null_token
        norm = nn.LayerNorm if config.pooler_qkv_layer_norm else nn.Identity
        self.q_norm = norm(width)
        self.k_norm = norm(width)
        self.v_norm = norm(width)
        self.logit_scale = nn.Parameter(torch.tensor(float(config.pooler_logit_scale_init_value)))

    @torch.no_grad()
    def start_weights(self) -> None:
        """Gives all weights their first values, except those that a checkpoint has filled already."""
        for projection in (self.q_proj, self.k_proj, self.v_proj):
            init.xavier_uniform_(projection.weight)
        for linear in (self.out_proj, self.fc1, self.fc2):
            init.normal_(linear.weight, std=linear.in_features**-0.5)
        init.constant_(self.logit_scale, self.config.pooler_logit_scale_init_value)

    def forward(
        self,
        text_embeds_TD: Tensor,
        patches: Patches,
        image_index_T: Tensor,
        output_attentions: bool = False,
        slots: ImageSlots | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        r"""
        Pools each text's own image.

        Args:
            text_embeds_TD (`Tensor` of shape `(T, D)`): text embeddings (normalised here).
            patches (`Tensor` of shape `(B, P, D)` or [`PatchMap`]):
                dense image features (normalised here). Padding in a map has weight 0, and no influence.
            image_index_T (`Tensor` of shape `(T,)`, int64): the image of each text, in any order.
            output_attentions (`bool`): also return the attention weights, under every attention implementation.
            slots (*optional*): what [`slots_by_image`] makes of `image_index`. Without it, this waits for a GPU.

        Returns:
            The un-normalised contextualised embeddings `(T, D)`, and the attention `(T, H, P)` (or `None`) whose rows
            sum to 1, or to less if a null token took a share.
        """
        if slots is None and torch.compiler.is_compiling():
            return self._pool_copies(text_embeds_TD, patches, image_index_T, output_attentions)
        num_images = len(features_of(patches))
        if slots is None:
            slots = slots_by_image(image_index_T, num_images)
        # One block of texts per image: its keys and values need no copy for each text.
        queries_BSD = slots.block(self.project_texts(text_embeds_TD), num_images)
        keys_BHPd, values_BHPd = self.project_patches(patches)
        attended_BSD, weights_BHSP = self.attend(
            self.split_heads(queries_BSD),
            keys_BHPd,
            values_BHPd,
            bias=self._bias(patches),
            output_attentions=output_attentions,
        )
        # Slots without a text are dropped before the MLP, which is most of the work.
        pooled_TD = self.transform(slots.rows(attended_BSD))
        if weights_BHSP is None:
            return pooled_TD, None
        return pooled_TD, slots.rows(weights_BHSP.transpose(1, 2))

    def _pool_copies(
        self, text_embeds_TD: Tensor, patches: Patches, image_index_T: Tensor, output_attentions: bool
    ) -> tuple[Tensor, Tensor | None]:
        """
        Does what [`forward`] does with a copy of an image's keys and values for each of its texts.

        A graph cannot hold a block of texts per image, whose size is read from the data.
        """
        queries_T1D = self.project_texts(text_embeds_TD)[:, None]
        keys_BHPd, values_BHPd = self.project_patches(patches)
        bias_B11P = self._bias(patches)
        bias_T11P = None if bias_B11P is None else bias_B11P[image_index_T]
        attended_T1D, weights_TH1P = self.attend(
            self.split_heads(queries_T1D),
            keys_BHPd[image_index_T],
            values_BHPd[image_index_T],
            bias=bias_T11P,
            output_attentions=output_attentions,
        )
        pooled_TD = self.transform(attended_T1D[:, 0])
        if weights_TH1P is None:
            return pooled_TD, None
        return pooled_TD, weights_TH1P[:, :, 0]

    def project_texts(self, text_embeds: Tensor) -> Tensor:
        """Returns the queries `(…, D)` of text embeddings `(…, D)`, normalised or not. Heads are not split."""
        # Both sides are normalised, in float32, because only directions count. The weights may be half precision.
        unit_embeds = normalize(text_embeds).to(self._dtype)
        return self.q_proj(self.q_norm(unit_embeds))

    def project_patches(self, patches: Patches) -> tuple[Tensor, Tensor]:
        """
        Returns the keys and values of patch features, normalised or not, both `(B, H, P, d)`.

        With a null token, P is one more.
        """
        patch_features_BPD = features_of(patches)
        if isinstance(patches, PatchMap):
            # What a tower computes for padding has no meaning, and 0 times infinity would be no number.
            patch_features_BPD = patch_features_BPD.masked_fill(~patches.mask[:, :, None], 0)
        unit_features_BPD = normalize(patch_features_BPD).to(self._dtype)
        keys_BPD = self.k_proj(self.k_norm(unit_features_BPD))
        values_BPD = self.v_proj(self.v_norm(unit_features_BPD))
        if self.use_null_token:
            # A key of zeros has logit 0 for every text; a value of zeros adds nothing to what is pooled.
            keys_BPD = F.pad(keys_BPD, (0, 0, 0, 1))
            values_BPD = F.pad(values_BPD, (0, 0, 0, 1))
        return self.split_heads(keys_BPD), self.split_heads(values_BPD)

    def _bias(self, patches: Patches) -> Tensor | None:
        """Returns what is added to the logits of patches, `(B, 1, 1, P)`, see [`padding_bias`]."""
        return padding_bias(patches, self._dtype, extra=int(self.use_null_token))

    @property
    def _dtype(self) -> torch.dtype:
        # The projections may be quantised, and their weights then integers; norms never are.
        return self.layer_norm.weight.dtype

    def split_heads(self, rows: Tensor) -> Tensor:
        """Turns `(B, rows, D)` into `(B, H, rows, d)`."""
        return rows.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def attend(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        *,
        bias: Tensor | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """
        Lets queries attend to patches.

        Args:
            queries (`Tensor` of shape `(B, H, rows, d)`): the same number for each image.
            keys, values (`Tensor` of shape `(B, H, P, d)`): from [`project_patches`].
            bias (`Tensor` of shape `(B, 1, 1, P)`, *optional*): Is added to the logits.
            output_attentions: Also return the attention weights.

        Returns:
            The attended values `(B, rows, D)`, heads joined, and the weights `(B, H, rows, P)` without that of a null
            token, or `None`.
        """
        # The fused kernels keep no weights. A pooler that no model has given an implementation takes SDPA.
        name = "eager" if output_attentions else self.config._attn_implementation or "sdpa"
        if bias is not None and name != "eager":
            # The other kernels take no mask of keys alone.
            name = "sdpa"
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(name, eager_attention)
        scaling = queries.shape[-1] ** -0.5
        attended, weights = attention(self, queries, keys, values, bias, scaling=scaling, is_causal=False)
        attended = attended.flatten(-2)
        if not output_attentions:
            return attended, None
        if self.use_null_token:
            weights = weights[..., :-1]
        return attended, weights

    def transform(self, attended: Tensor) -> Tensor:
        """Returns the un-normalised contextualised embeddings `(…, D)` of attended values `(…, D)`."""
        attended = self.out_proj(attended)
        return self.block_runner.run_mlp(self, attended)

    @gathers_weights
    def read_logit_scale(self) -> Tensor:
        """Returns the logarithm of the logit scale, without an axis."""
        # A copy: the memory of a sharded weight is freed when this method ends. A sharded one has an axis.
        return self.logit_scale.squeeze().clone() if self.logit_scale.ndim else self.logit_scale

    @gathers_weights
    def score_pairs(self, patches: Patches, text_embeds_TD: Tensor, *, chunk_size: int | None = None) -> Tensor:
        r"""
        Computes the text-conditioned score v_{i|t} · u_t of EVERY image i with every text t.

        Pooling each image with its own caption only, and comparing across images, would leak the label; this does not.

        Args:
            patches (`Tensor` of shape `(B, P, D)` or [`PatchMap`]): dense image features, normalised or not.
            text_embeds_TD (`Tensor` of shape `(T, D)`): text embeddings, normalised or not.
            chunk_size (`int`, *optional*):
                Pairs computed at a time. The memory above the result is about `20 · D` numbers for each of them (or
                of the P patches of one image, where these are more), and `60 · D` with gradients. Default: 1,024 on a
                CPU, whose caches hold that, 32,768 elsewhere.

        Returns:
            `(B, T)`, cosines in [-1, 1], at least float32. They can be differentiated, in the memory of one chunk: the
            backward pass computes each chunk once more.

        Raises:
            ValueError: if `chunk_size` is below 1, or the features have other shapes.
        """
        self._check_features(features_of(patches), text_embeds_TD)
        chunk_size = pairs_at_a_time(chunk_size, text_embeds_TD)
        if _is_exporting():
            # In one piece: a loop would fix the numbers of images and texts.
            unit_TD = normalize(text_embeds_TD)
            return self._block_scores(patches, self.split_heads(self.project_texts(unit_TD)[None]), unit_TD)
        num_images, num_patches = features_of(patches).shape[:2]
        num_texts = len(text_embeds_TD)
        scores_BT = empty_scores((num_images, num_texts), text_embeds_TD)
        # Texts outside, images inside: the queries of a slice of texts are projected once for all images.
        for texts in slices_of_size(num_texts, chunk_size):
            unit_TD = normalize(text_embeds_TD[texts])
            queries_1HTd = self.split_heads(self.project_texts(unit_TD)[None])
            # Few texts and many patches: the keys and values of an image are then the larger part.
            images_at_a_time = chunk_size // max(len(unit_TD), num_patches)
            for images in slices_of_size(num_images, images_at_a_time):
                block = (select_images(patches, images), queries_1HTd, unit_TD)
                if torch.is_grad_enabled():
                    # Nothing here is random, so that no state of a generator has to be kept.
                    scores = checkpoint(self._block_scores, *block, use_reentrant=False, preserve_rng_state=False)
                else:
                    scores = self._block_scores(*block)
                scores_BT[images, texts] = scores
        return scores_BT

    def _block_scores(self, patches: Patches, queries_1HTd: Tensor, unit_TD: Tensor) -> Tensor:
        """Returns the scores `(B, T)` of some images with some texts, from the texts' queries and unit vectors."""
        keys_BHPd, values_BHPd = self.project_patches(patches)
        queries_BHTd = queries_1HTd.expand(keys_BHPd.shape[0], -1, -1, -1)
        attended_BTD, _ = self.attend(queries_BHTd, keys_BHPd, values_BHPd, bias=self._bias(patches))
        return (normalize(self.transform(attended_BTD)) * unit_TD).sum(dim=-1)

    def score_candidates(
        self,
        patches: Patches,
        text_embeds_TD: Tensor,
        image_index: Tensor,
        text_index: Tensor,
        *,
        chunk_size: int | None = None,
    ) -> Tensor:
        r"""
        Computes the scores of [`score_pairs`] for some pairs only, for example to re-rank a shortlist.

        The pairs may be texts for each image, images for each text, or any pairs in any order.

        ```python
        shortlist_TK = (text_embeds @ image_embeds.T).topk(k).indices
        scores_TK = model.score_candidates(patch_features, text_embeds, shortlist_TK, torch.arange(T)[:, None])
        ```

        Args:
            patches, text_embeds_TD, chunk_size: as in [`score_pairs`].
            image_index, text_index (`Tensor`, int64):
                Image and text of each pair, of shapes that broadcast to one another. Pairs may repeat. Only images in a
                pair are looked at, once each (again for every `chunk_size` pairs of an image).

        Returns:
            Cosines of the indices' common shape, as from [`score_pairs`]; what their gradient needs is kept for all.

        Raises:
            ValueError: if `chunk_size` is below 1, the features have other shapes, an index names no image or no text,
                or the shapes of the indices do not broadcast.
        """
        self._check_features(features_of(patches), text_embeds_TD)
        chunk_size = pairs_at_a_time(chunk_size, text_embeds_TD)
        if not torch.compiler.is_compiling():
            check_index("image_index", image_index, len(features_of(patches)))
            check_index("text_index", text_index, len(text_embeds_TD))
        image_M, text_M, shape = joined_pairs(image_index, text_index)
        if torch.compiler.is_compiling():
            return self._score_pooled(text_embeds_TD[text_M], patches, image_M).view(shape)
        scores_M = empty_scores((len(image_M),), text_embeds_TD)
        num_patches = features_of(patches).shape[1]
        for chunk in chunks_of_pairs(image_M, chunk_size, num_patches):
            chunk_patches = select_images(patches, chunk.images)
            # One image alone may have more pairs than fit at a time.
            for part in range(0, len(chunk.pairs), chunk_size):
                pairs = chunk.pairs[part : part + chunk_size]
                local_image_M = chunk.local_images[part : part + chunk_size]
                texts_MD = text_embeds_TD[text_M[pairs]]
                scores_M[pairs] = self._score_pooled(texts_MD, chunk_patches, local_image_M)
        return scores_M.view(shape)

    def _score_pooled(self, texts_MD: Tensor, patches: Patches, image_index_M: Tensor) -> Tensor:
        """Returns the score `(M,)` of each text with its image."""
        pooled_MD, _ = self(texts_MD, patches, image_index_M)
        return (normalize(pooled_MD) * normalize(texts_MD)).sum(dim=-1)

    def _check_features(self, patch_features: Tensor, text_embeds: Tensor) -> None:
        """Raises `ValueError` if the features have other shapes than `(B, P, D)` and `(T, D)`."""
        width = self.config.projection_dim
        if patch_features.ndim != 3 or patch_features.shape[-1] != width:
            raise ValueError(f"patch_features must have shape (B, P, {width}), but has {tuple(patch_features.shape)}")
        if text_embeds.ndim != 2 or text_embeds.shape[-1] != width:
            raise ValueError(f"text_embeds must have shape (T, {width}), but has {tuple(text_embeds.shape)}")


__all__ = ["TextConditionedPooler", "normalize"]
