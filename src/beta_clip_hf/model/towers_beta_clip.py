"""CLIP's two towers for flat batches: dense patch features, and texts of one or two paths without the work of padding.

Letters: B images, T texts (flat), P patches, D projection width, L tokens, W width of the text tower, R rows of packed
texts, C columns of a row.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, create_causal_mask
from transformers.models.clip.modeling_clip import CLIPEncoderLayer, CLIPTextEmbeddings
from transformers.utils.generic import can_return_tuple, is_flash_attention_requested

from .configuration_beta_clip import TEXT_PATHS
from .packing_beta_clip import TextPacking, plan_texts, text_lengths


class TwoPathTextEmbeddings(CLIPTextEmbeddings):
    """
    CLIP's text embeddings, with a second table of positions for the long path (FG-CLIP, arXiv 2505.05071).

    The two tables stand one behind the other: `position_ids` from the number of CLIP's own positions on are those of
    the long path, so that texts of both paths can share a batch. Without `position_ids` these are CLIP's embeddings.
    """

    def __init__(self, config: Any, long_positions: int) -> None:
        super().__init__(config)
        self.long_position_embedding = nn.Embedding(long_positions, config.hidden_size)

    def forward(
        self, input_ids: Tensor | None = None, position_ids: Tensor | None = None, inputs_embeds: Tensor | None = None
    ) -> Tensor:
        if position_ids is None:
            return super().forward(input_ids, None, inputs_embeds)
        tables = torch.cat([self.position_embedding.weight, self.long_position_embedding.weight])
        embeds = self.token_embedding(input_ids) if inputs_embeds is None else inputs_embeds
        return embeds + F.embedding(position_ids, tables)


class CLIPTowers(CLIPModel):
    """
    `CLIPModel` with one pass for image and patch features, and one for texts of any mix of lengths and paths.

    With `config.use_long_text_path` a text takes one of two paths: "short" is CLIP's own, "long" has a table of
    positions and a projection of its own.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.long_text_projection = None
        if config.use_long_text_path:
            positions, width = config.long_text_max_position_embeddings, config.text_config.hidden_size
            self.text_model.embeddings = TwoPathTextEmbeddings(config.text_config, positions)
            self.long_text_projection = nn.Linear(width, config.projection_dim, bias=False)

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
        hidden_states = _as_layer(vision.encoder.layers[-1], value_only_block, hidden_states)
        features = self.visual_projection(vision.post_layernorm(hidden_states))
        return features[:, 0], features[:, 1:]

    def is_long_path(self, path: str | None) -> bool:
        """Whether a path is the long one; `None` is the only path, or the short one of two.

        Raises:
            ValueError: for a path that the model does not have.
        """
        if self.long_text_projection is None and path is not None:
            raise ValueError(f"path must be None for a model with one text path, but is {path!r}")
        if path not in (None, *TEXT_PATHS):
            raise ValueError(f"path must be one of {TEXT_PATHS} or None, but is {path!r}")
        return path == "long"

    @can_return_tuple
    def path_text_features(
        self,
        input_ids_TL: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        is_long: bool,
        **kwargs: Any,
    ) -> Any:
        """What `CLIPModel.get_text_features` returns, on one of two paths. Columns beyond its positions are padding."""
        short_rows, long_rows = self._path_rows()
        length = min(input_ids_TL.shape[1], long_rows if is_long else short_rows)
        if input_ids_TL.shape[1] > length:
            self._check_lengths(self.text_lengths(input_ids_TL).tolist(), [is_long] * len(input_ids_TL))
        if position_ids is None:
            position_ids = torch.arange(length, device=input_ids_TL.device)[None]
        outputs = self.text_model(
            input_ids_TL[:, :length],
            None if attention_mask is None else attention_mask[:, :length],
            position_ids[:, :length] + is_long * short_rows,
            **kwargs,
        )
        projection: Any = self.long_text_projection if is_long else self.text_projection
        outputs.pooler_output = projection(outputs.pooler_output)
        return outputs

    def encode_texts(
        self, input_ids_TL: Tensor, is_long_T: Tensor | None = None, packing: TextPacking | None = None
    ) -> Tensor:
        """
        Text features `(T, D)`, un-normalised, of texts of any lengths: equal texts are encoded once, in rows of several
        texts that do not see one another. Attention is causal, and what follows EOS is not computed.

        Args:
            input_ids_TL (`Tensor` of shape `(T, L)`): the texts, each with its EOS.
            is_long_T (`Tensor` of shape `(T,)`, bool, *optional*): which take the long path, in a model with two.
            packing (*optional*):
                The plan of [`plan_texts`] for these very texts; it is trusted. Without it lengths and equal texts are
                looked up here, and a GPU is waited for.

        Raises:
            ValueError: if a text has more tokens than its path has positions (not checked with a plan), or the plan is
                of another number of texts.
        """
        if self.long_text_projection is None:
            is_long_T = None
        elif is_long_T is None:
            is_long_T = input_ids_TL.new_zeros(len(input_ids_TL), dtype=torch.bool)
        if packing is not None and len(packing.last_T) != len(input_ids_TL):
            raise ValueError(f"packing must be of {len(input_ids_TL)} texts, but is of {len(packing.last_T)}")
        if not len(input_ids_TL):
            pooled_TW = self.text_projection.weight.new_zeros(0, self.text_embed_dim)
        else:
            pooled_TW = self._pooled_texts(input_ids_TL, is_long_T, packing)
        features_TD = self.text_projection(pooled_TW)
        if self.long_text_projection is None or is_long_T is None:
            return features_TD
        return torch.where(is_long_T[:, None], self.long_text_projection(pooled_TW), features_TD)

    def _pooled_texts(self, input_ids_TL: Tensor, is_long_T: Tensor | None, packing: TextPacking | None) -> Tensor:
        """The text model's hidden states `(T, W)` at the last token of each text, after the last layer norm."""
        model = self.text_model
        if packing is None or not (self._can_pack() or packing.has_one_text_per_row):
            packing = self.plan_texts(input_ids_TL, is_long_T)
        packing = packing.to(input_ids_TL.device, non_blocking=True)
        text_RC, position_RC = packing.text_RC, packing.position_RC
        ids_RC = input_ids_TL[text_RC, position_RC]
        if is_long_T is not None:
            position_RC = position_RC + (is_long_T * self._path_rows()[0])[text_RC]
        # One token a row, for CLIP's embeddings refuse a row that is longer than their table.
        embeds_N1W = model.embeddings(ids_RC.reshape(-1, 1), position_RC.expand_as(ids_RC).reshape(-1, 1))
        hidden_states, inputs = self._encoder_inputs(embeds_N1W.view(*ids_RC.shape, -1), packing)
        for layer in model.encoder.layers[:-1]:
            hidden_states = layer(hidden_states, **inputs)
        last = model.encoder.layers[-1]
        return model.final_layer_norm(_as_layer(last, ends_only_block, hidden_states, last_T=packing.last_T, **inputs))

    def _encoder_inputs(self, embeds_RCW: Tensor, packing: TextPacking) -> tuple[Tensor, dict[str, Any]]:
        """What goes into the first block, and the arguments by which no text of a row sees another in any of them,
        whichever way attention is computed."""
        config = self.text_model.config
        inputs: dict[str, Any] = {"attention_mask": None, "is_causal": True}
        if packing.has_one_text_per_row:
            inputs["attention_mask"] = create_causal_mask(config, embeds_RCW, None, past_key_values=None)
        elif is_flash_attention_requested(config):
            # One row of all places, whose stretches are counted. None is longer than a row was.
            inputs["cu_seq_lens_q"] = inputs["cu_seq_lens_k"] = packing.start_S.int()
            inputs["max_length_q"] = inputs["max_length_k"] = embeds_RCW.shape[1]
            embeds_RCW = embeds_RCW.flatten(0, 1)[None]
        elif config._attn_implementation in ("sdpa", "eager"):
            # What is added to the logits. Of a boolean mask every block would make this, and keep it for its gradient.
            least = torch.finfo(embeds_RCW.dtype).min
            inputs["attention_mask"] = torch.where(packing.mask(), embeds_RCW.new_zeros(()), least)
        else:  # transformers tells the texts apart by their positions, and waits for it
            inputs["attention_mask"] = create_causal_mask(
                config, embeds_RCW, None, past_key_values=None, position_ids=packing.position_RC
            )
        return embeds_RCW, inputs

    def _can_pack(self) -> bool:
        """Whether attention can keep the texts of a row apart."""
        config = self.text_model.config
        return is_flash_attention_requested(config) or config._attn_implementation in ALL_MASK_ATTENTION_FUNCTIONS

    @torch.compiler.disable
    def plan_texts(self, input_ids_TL: Tensor, is_long_T: Tensor | None) -> TextPacking:
        """A plan made here and now: texts that come without one wait for a GPU here, and nowhere else."""
        ids_TL, is_long_T = input_ids_TL.cpu(), None if is_long_T is None else is_long_T.cpu()
        lengths_T = self.text_lengths(ids_TL)
        is_long = [False] * len(ids_TL) if is_long_T is None else is_long_T.tolist()
        self._check_lengths(lengths_T.tolist(), is_long)
        return plan_texts(ids_TL, lengths_T, is_long_T, one_text_per_row=not self._can_pack())

    def _path_rows(self) -> tuple[int, int]:
        """Positions of the short and of the long path."""
        return (
            self.text_model.embeddings.position_embedding.num_embeddings,
            self.config.long_text_max_position_embeddings,
        )

    def _check_lengths(self, lengths: list[int], is_long: list[bool]) -> None:
        rows = self._path_rows()
        for length, one in zip(lengths, is_long, strict=True):
            if length > rows[one]:
                where = "" if self.long_text_projection is None else f" on the {TEXT_PATHS[one]} path"
                raise ValueError(f"a text{where} must have at most {rows[one]} tokens, but has {length}")

    def text_lengths(self, input_ids_TL: Tensor) -> Tensor:
        return text_lengths(input_ids_TL, self.text_model.eos_token_id)

    def hash_texts(self, input_ids_TL: Tensor) -> Tensor:
        """A number `(T,)` int64 for each text, equal for equal texts: a polynomial of its tokens modulo 2^64."""
        place_L = torch.arange(input_ids_TL.shape[1], device=input_ids_TL.device)
        factor_L = torch.full_like(place_L, 6364136223846793005).cumprod(0)
        return ((input_ids_TL + 1) * factor_L * (place_L < self.text_lengths(input_ids_TL)[:, None])).sum(dim=1)


def joined_texts(texts: list[Tensor | None]) -> tuple[Tensor, list[int]]:
    """Token ids `(T_i, L_i)` of several inputs one below the other, and T_i of each; of what is not given, 0."""
    width = max(ids.shape[1] for ids in texts if ids is not None)
    # What is added stands behind EOS; id 0 is never taken for the largest.
    padded = [F.pad(ids, (0, width - ids.shape[1])) for ids in texts if ids is not None]
    return torch.cat(padded), [0 if ids is None else len(ids) for ids in texts]


def _as_layer(layer: CLIPEncoderLayer, block: Any, hidden_states: Tensor, **kwargs: Any) -> Tensor:
    """`block` in place of a layer's own forward pass; recomputed in the backward pass where the layer is to be."""
    if layer.gradient_checkpointing and layer.training:
        return layer._gradient_checkpointing_func(partial(block, layer, **kwargs), hidden_states)
    return block(layer, hidden_states, **kwargs)


def ends_only_block(layer: CLIPEncoderLayer, hidden_states: Tensor, last_T: Tensor, **inputs: Any) -> Tensor:
    """The last text block `(T, W)`: what follows attention is computed for the texts' ends alone, which are pooled."""
    attended, _ = layer.self_attn(layer.layer_norm1(hidden_states), **inputs)
    ends_TW = (hidden_states + attended).flatten(0, 1)[last_T]
    return ends_TW + layer.mlp(layer.layer_norm2(ends_TW))


def value_only_block(layer: CLIPEncoderLayer, hidden_states: Tensor) -> Tensor:
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


__all__ = ["CLIPTowers", "TwoPathTextEmbeddings", "joined_texts"]
