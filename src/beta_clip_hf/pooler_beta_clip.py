"""The text-conditioned pooler of β-CLIP: a text asks the image's patches and gets its own embedding of the image.

Letters: B images, T texts (flat), P patches, D projection width, H heads, K texts of the fullest image.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import ACT2FN

from .configuration_beta_clip import BetaCLIPConfig
from .ragged_beta_clip import slots_by_image


def normalize(embeds: Tensor) -> Tensor:
    """L2-normalises the last axis in at least float32 (half precision comes back as float32, float64 stays)."""
    return F.normalize(embeds.to(torch.promote_types(embeds.dtype, torch.float32)), dim=-1)


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
        config (`BetaCLIPConfig`): `projection_dim` is D; the rest is named `pooler_…` there.

    Source: arXiv 2512.12678, text-conditioned pooling; the null token and the layer norms on q, k, v are FLAIR's.
    """

    def __init__(self, config: BetaCLIPConfig) -> None:
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
        self.activation = ACT2FN[config.pooler_hidden_act]
        self.use_null_token = config.pooler_null_token
        norm = nn.LayerNorm if config.pooler_qkv_layer_norm else nn.Identity
        self.q_norm, self.k_norm, self.v_norm = norm(width), norm(width), norm(width)
        self.logit_scale = nn.Parameter(torch.tensor(float(config.pooler_logit_scale_init_value)))

    def forward(
        self, text_embeds_TD: Tensor, patch_features_BPD: Tensor, image_index_T: Tensor, output_attentions: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        r"""
        Pools each text's own image.

        Args:
            text_embeds_TD (`Tensor` of shape `(T, D)`): text embeddings (normalised here).
            patch_features_BPD (`Tensor` of shape `(B, P, D)`): dense image features (normalised here).
            image_index_T (`Tensor` of shape `(T,)`, int64): the image of each text, in any order.
            output_attentions (`bool`): also return the attention weights, under every attention implementation.

        Returns:
            The un-normalised contextualised embeddings `(T, D)`, and the attention `(T, H, P)` (or `None`) whose rows
            sum to 1, less what a null token took.
        """
        num_images = len(patch_features_BPD)
        slot_T, num_slots = slots_by_image(image_index_T, num_images)
        queries_TD = self._queries(text_embeds_TD)
        queries_BKD = queries_TD.new_zeros(num_images, num_slots, queries_TD.shape[-1])
        queries_BKD = queries_BKD.index_put((image_index_T, slot_T), queries_TD)
        pooled_BKD, weights_BHKP = self._attend(
            self._heads(queries_BKD), *self._keys_values(patch_features_BPD), output_attentions=output_attentions
        )
        pooled_TD = self._mlp(pooled_BKD[image_index_T, slot_T])
        return pooled_TD, None if weights_BHKP is None else weights_BHKP[image_index_T, :, slot_T]

    def score_pairs(self, patch_features_BPD: Tensor, text_embeds_TD: Tensor, *, chunk_size: int = 8192) -> Tensor:
        """Cosine of every text with every image as pooled for that text, `(B, T)`; see `BetaCLIPModel.score_pairs`."""
        if chunk_size < 1:
            raise ValueError(f"chunk_size must be at least 1 pair, but is {chunk_size}")
        text_embeds_TD = normalize(text_embeds_TD)
        num_images, num_texts = len(patch_features_BPD), len(text_embeds_TD)
        texts_per_chunk = max(1, min(num_texts, chunk_size))
        images_per_chunk = max(1, chunk_size // texts_per_chunk)
        scores = text_embeds_TD.new_empty(num_images, num_texts)
        for first_image in range(0, num_images, images_per_chunk):
            images = slice(first_image, first_image + images_per_chunk)
            keys, values = self._keys_values(patch_features_BPD[images])
            for first_text in range(0, num_texts, texts_per_chunk):
                texts = slice(first_text, first_text + texts_per_chunk)
                queries = self._heads(self._queries(text_embeds_TD[texts])[None]).expand(len(keys), -1, -1, -1)
                pooled, _ = self._attend(queries, keys, values)
                scores[images, texts] = (normalize(self._mlp(pooled)) * text_embeds_TD[texts]).sum(dim=-1)
        return scores

    def _queries(self, text_embeds: Tensor) -> Tensor:
        return self.q_proj(self.q_norm(normalize(text_embeds).to(self.q_proj.weight.dtype)))

    def _keys_values(self, patch_features_BPD: Tensor) -> tuple[Tensor, Tensor]:
        patches = normalize(patch_features_BPD).to(self.k_proj.weight.dtype)
        keys, values = self.k_proj(self.k_norm(patches)), self.v_proj(self.v_norm(patches))
        if self.use_null_token:
            keys, values = F.pad(keys, (0, 0, 0, 1)), F.pad(values, (0, 0, 0, 1))
        return self._heads(keys), self._heads(values)

    def _heads(self, x_BND: Tensor) -> Tensor:
        return x_BND.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def _attend(
        self, queries: Tensor, keys: Tensor, values: Tensor, *, output_attentions: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        weights = None
        if output_attentions or self.config._attn_implementation == "eager":
            logits = queries @ keys.transpose(-1, -2) * queries.shape[-1] ** -0.5
            weights = logits.softmax(dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32)).to(values.dtype)
            pooled = weights @ values
            weights = weights[..., :-1] if self.use_null_token else weights
        else:
            pooled = F.scaled_dot_product_attention(queries, keys, values)
        return pooled.transpose(1, 2).flatten(-2), weights if output_attentions else None

    def _mlp(self, attended: Tensor) -> Tensor:
        attended = self.out_proj(attended)
        return attended + self.fc2(self.activation(self.fc1(self.layer_norm(attended))))


__all__ = ["TextConditionedPooler"]
