"""The text-conditioned pooler of β-CLIP: a text asks the image's patches and gets its own embedding of the image.

Letters: B images, T texts (flat), P patches, D projection width, H heads, K texts of the fullest image;
N pairs of an image and a text, A images in such a pair.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers.activations import ACT2FN

from .configuration_beta_clip import BetaCLIPConfig
from .ragged_beta_clip import ImageSlots, slots_by_image


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
        self,
        text_embeds_TD: Tensor,
        patch_features_BPD: Tensor,
        image_index_T: Tensor,
        output_attentions: bool = False,
        slots: ImageSlots | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        r"""
        Pools each text's own image.

        Args:
            text_embeds_TD (`Tensor` of shape `(T, D)`): text embeddings (normalised here).
            patch_features_BPD (`Tensor` of shape `(B, P, D)`): dense image features (normalised here).
            image_index_T (`Tensor` of shape `(T,)`, int64): the image of each text, in any order.
            output_attentions (`bool`): also return the attention weights, under every attention implementation.
            slots (*optional*): what [`slots_by_image`] makes of `image_index`; known beforehand, no GPU is waited for.

        Returns:
            The un-normalised contextualised embeddings `(T, D)`, and the attention `(T, H, P)` (or `None`) whose rows
            sum to 1, less what a null token took.
        """
        num_images = len(patch_features_BPD)
        slots = slots_by_image(image_index_T, num_images) if slots is None else slots
        queries_BKD = slots.block(self._queries(text_embeds_TD), num_images)
        pooled_BKD, weights_BHKP = self._attend(
            self._heads(queries_BKD), *self._keys_values(patch_features_BPD), output_attentions=output_attentions
        )
        pooled_TD = self._mlp(slots.rows(pooled_BKD))
        return pooled_TD, None if weights_BHKP is None else slots.rows(weights_BHKP.transpose(1, 2))

    def score_pairs(
        self, patch_features_BPD: Tensor, text_embeds_TD: Tensor, *, chunk_size: int | None = None
    ) -> Tensor:
        r"""
        The text-conditioned score v_{i|t} · u_t of EVERY image i with every text t.

        Pooling each image with its own caption only, and comparing across images, would leak the label; this does not.

        Args:
            patch_features_BPD (`Tensor` of shape `(B, P, D)`): dense image features, normalised or not.
            text_embeds_TD (`Tensor` of shape `(T, D)`): text embeddings, normalised or not.
            chunk_size (`int`, *optional*):
                Pairs computed at a time. The memory above the result is about `20 · D` numbers for each of them (or
                of the P patches of one image, where these are more), and `60 · D` with gradients. Left out: 1,024 on a
                CPU, whose caches hold that, 32,768 elsewhere.

        Returns:
            `(B, T)`, cosines in [-1, 1], at least float32. They can be differentiated, in the memory of one chunk: the
            backward pass computes each chunk once more.

        Raises:
            ValueError: if `chunk_size` is below 1, or the features have other shapes.
        """
        self._check_features(patch_features_BPD, text_embeds_TD)
        chunk_size = _pairs_at_a_time(chunk_size, text_embeds_TD)
        num_images, num_patches = patch_features_BPD.shape[:2]
        scores_BT = _no_scores((num_images, len(text_embeds_TD)), text_embeds_TD)
        for texts in _slices(len(text_embeds_TD), chunk_size):
            unit_TD = normalize(text_embeds_TD[texts])
            queries_1HTd = self._heads(self._queries(unit_TD)[None])
            for images in _slices(num_images, chunk_size // max(len(unit_TD), num_patches)):
                block = (patch_features_BPD[images], queries_1HTd, unit_TD)
                scores_BT[images, texts] = (
                    checkpoint(self._block_scores, *block, use_reentrant=False, preserve_rng_state=False)
                    if torch.is_grad_enabled()
                    else self._block_scores(*block)
                )
        return scores_BT

    def _block_scores(self, patch_features_BPD: Tensor, queries_1HTd: Tensor, unit_TD: Tensor) -> Tensor:
        """`(B, T)`: the scores of some images with some texts, of which queries and unit vectors are given."""
        keys, values = self._keys_values(patch_features_BPD)
        pooled_BTD, _ = self._attend(queries_1HTd.expand(len(keys), -1, -1, -1), keys, values)
        return (normalize(self._mlp(pooled_BTD)) * unit_TD).sum(dim=-1)

    def score_candidates(
        self,
        patch_features_BPD: Tensor,
        text_embeds_TD: Tensor,
        image_index: Tensor,
        text_index: Tensor,
        *,
        chunk_size: int | None = None,
    ) -> Tensor:
        r"""
        The scores of [`score_pairs`] for some pairs only, as to re-rank a shortlist: of texts for each image, of images
        for each text, or of any pairs in any order.

        ```python
        shortlist_TK = (text_embeds @ image_embeds.T).topk(k).indices
        scores_TK = model.score_candidates(patch_features, text_embeds, shortlist_TK, torch.arange(T)[:, None])
        ```

        Args:
            patch_features_BPD, text_embeds_TD, chunk_size: as in [`score_pairs`].
            image_index, text_index (`Tensor`, int64):
                Image and text of each pair, of shapes that broadcast to one another. Pairs may repeat. Only images in a
                pair are looked at, once each (again for every `chunk_size` pairs of an image).

        Returns:
            Cosines of the indices' common shape, as from [`score_pairs`]; what their gradient needs is kept for all.

        Raises:
            ValueError: if `chunk_size` is below 1, the features have other shapes, an index names no image or no text,
                or the shapes of the indices do not broadcast.
        """
        self._check_features(patch_features_BPD, text_embeds_TD)
        chunk_size = _pairs_at_a_time(chunk_size, text_embeds_TD)
        image_N, text_N, shape = _pairs(image_index, text_index, len(patch_features_BPD), len(text_embeds_TD))
        asked_A, place_N, counts_A = torch.unique(image_N, return_inverse=True, return_counts=True)
        # Images with like numbers of pairs come together: a block has a slot for each pair of its fullest image.
        order_A = counts_A.argsort(descending=True)
        asked_A, place_N, counts = asked_A[order_A], order_A.argsort()[place_N], counts_A[order_A].tolist()
        pairs_N = place_N.argsort()
        scores_N = _no_scores((len(image_N),), text_embeds_TD)
        first_image = first_pair = 0
        while first_pair < len(pairs_N):
            end_image = first_image + max(1, chunk_size // max(counts[first_image], patch_features_BPD.shape[1]))
            end_pair = first_pair + sum(counts[first_image:end_image])
            patches_BPD = patch_features_BPD[asked_A[first_image:end_image]]
            for pairs in pairs_N[first_pair:end_pair].split(chunk_size):
                texts_ND = text_embeds_TD[text_N[pairs]]
                pooled_ND, _ = self(texts_ND, patches_BPD, place_N[pairs] - first_image)
                scores_N[pairs] = (normalize(pooled_ND) * normalize(texts_ND)).sum(dim=-1)
            first_image, first_pair = end_image, end_pair
        return scores_N.view(shape)

    def _check_features(self, patch_features: Tensor, text_embeds: Tensor) -> None:
        width = self.config.projection_dim
        given = (("patch_features", patch_features, f"(B, P, {width})"), ("text_embeds", text_embeds, f"(T, {width})"))
        for name, features, wanted in given:
            if features.ndim != wanted.count(",") + 1 or features.shape[-1] != width:
                raise ValueError(f"{name} must have shape {wanted}, but has {tuple(features.shape)}")

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


def _pairs_at_a_time(chunk_size: int | None, embeds: Tensor) -> int:
    if chunk_size is None:
        return 1024 if embeds.device.type == "cpu" else 32768
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1 pair, but is {chunk_size}")
    return chunk_size


def _no_scores(shape: tuple[int, ...], text_embeds: Tensor) -> Tensor:
    return text_embeds.new_empty(shape, dtype=torch.promote_types(text_embeds.dtype, torch.float32))


def _slices(total: int, size: int) -> list[slice]:
    size = max(1, size)
    return [slice(first, first + size) for first in range(0, total, size)]


def _pairs(
    image_index: Tensor, text_index: Tensor, num_images: int, num_texts: int
) -> tuple[Tensor, Tensor, torch.Size]:
    """The indices, checked, of N pairs in a row, and the shape they came in."""
    for name, index, count in (("image_index", image_index, num_images), ("text_index", text_index, num_texts)):
        wrong = index[(index < 0) | (index >= count)]
        if len(wrong):
            raise ValueError(f"{name} must be in 0..{count - 1}, but is {int(wrong[0])}")
    try:
        shape = torch.broadcast_shapes(image_index.shape, text_index.shape)
    except RuntimeError as error:
        shapes = f"{tuple(image_index.shape)} and {tuple(text_index.shape)}"
        raise ValueError(f"image_index and text_index must broadcast, but have shapes {shapes}") from error
    return image_index.expand(shape).flatten(), text_index.expand(shape).flatten(), shape


__all__ = ["TextConditionedPooler"]
