"""CLIP's two towers for flat batches: dense patch features, and texts without the work of padding.

Letters: B images, T texts (flat), P patches, D projection width, L tokens.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPModel
from transformers.models.clip.modeling_clip import CLIPEncoderLayer


class CLIPTowers(CLIPModel):
    """`CLIPModel` with one pass for image and patch features, and one for texts of any mix of lengths."""

    def encode_images(self, pixel_values: Tensor, interpolate_pos_encoding: bool = False) -> tuple[Tensor, Tensor]:
        r"""
        Image and patch features of one pass, both un-normalised.

        Args:
            pixel_values (`Tensor` of shape `(B, 3, S, S)`): normalised pixels.
            interpolate_pos_encoding (`bool`): as in `CLIPModel`.

        Returns:
            CLS features `(B, D)`, those of `get_image_features` up to rounding, and patch features `(B, P, D)`.

        Raises:
            ValueError: if the images have another size than the model's and are not interpolated.
        """
        vision = self.vision_model
        hidden_states = vision.embeddings(pixel_values, interpolate_pos_encoding=interpolate_pos_encoding)
        hidden_states = vision.pre_layrnorm(hidden_states)
        for layer in vision.encoder.layers[:-1]:
            hidden_states = layer(hidden_states, None)
        hidden_states = _value_only_block(vision.encoder.layers[-1], hidden_states)
        features = self.visual_projection(vision.post_layernorm(hidden_states))
        return features[:, 0], features[:, 1:]

    def _encode_texts(self, input_ids_TL: Tensor) -> Tensor:
        """
        Text features `(T, D)`, un-normalised. Attention is causal and what follows EOS has no influence, so texts are
        sorted by length and encoded in groups of similar length, each cut to its longest.
        """
        lengths = self._lengths(input_ids_TL).tolist()
        order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
        features, start = [self.text_projection.weight.new_zeros(0, self.projection_dim)], 0
        while start < len(order):
            longest = lengths[order[start]]
            end = next((i for i in range(start, len(order)) if lengths[order[i]] < 0.75 * longest), len(order))
            pooled = self.text_model(input_ids=input_ids_TL[order[start:end], :longest]).pooler_output
            features.append(self.text_projection(pooled))
            start = end
        inverse = torch.tensor(order, device=input_ids_TL.device).argsort()
        return torch.cat(features[1:] or features)[inverse]

    def _lengths(self, input_ids_TL: Tensor) -> Tensor:
        """Tokens up to and including the one that CLIP pools: the first EOS or, by its legacy rule, the largest id."""
        eos_token_id = self.text_model.eos_token_id
        ids = input_ids_TL if eos_token_id == 2 else (input_ids_TL == eos_token_id).int()
        return ids.argmax(dim=-1) + 1


def _value_only_block(layer: CLIPEncoderLayer, hidden_states: Tensor) -> Tensor:
    """The last vision block: CLS attends as in CLIP, patches keep their own values. Only CLS has a query."""
    attention = layer.self_attn
    normed = layer.layer_norm1(hidden_states)
    values = attention.v_proj(normed)
    query, key, value = (
        x.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
        for x in (attention.q_proj(normed[:, :1]), attention.k_proj(normed), values)
    )
    dropout = attention.dropout if layer.training else 0.0
    cls = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout).transpose(1, 2).flatten(-2)
    hidden_states = hidden_states + attention.out_proj(torch.cat([cls, values[:, 1:]], dim=1))
    return hidden_states + layer.mlp(layer.layer_norm2(hidden_states))


__all__ = ["CLIPTowers"]
