# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""CLIP's two towers for flat batches: dense patch features, and texts of one or two paths without padding."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import CLIPModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, create_causal_mask
from transformers.models.clip.modeling_clip import CLIPTextEmbeddings
from transformers.utils.generic import can_return_tuple

from .activations_beta_clip import fuse_in_training
from .attention_beta_clip import check_attention, takes_starts
from .configuration_beta_clip import TEXT_PATHS
from .half_block_functions_beta_clip import precision_of
from .half_blocks_beta_clip import HalfBlocks
from .last_blocks_beta_clip import set_last_blocks
from .packing_beta_clip import TextPacking, plan_texts, text_lengths, unplanned_packing
from .sharding_beta_clip import gathers_weights
from .text_hash_beta_clip import hash_tokens
from .two_path_embeddings_beta_clip import LongPositions, num_positions


class TwoPathTextEmbeddings(LongPositions, CLIPTextEmbeddings):
    """CLIP's text embeddings, with a second table of positions for the long path (FG-CLIP, arXiv 2505.05071)."""


class PathPositions(NamedTuple):
    """The number of positions of each text path."""

    short: int
    long: int


class CLIPTowers(CLIPModel):
    """
    `CLIPModel` with one pass for image and patch features, and one for texts of any mix of lengths and paths.

    With `config.use_long_text_path` a text takes one of two paths: "short" is CLIP's own, "long" has a table of
    positions and a projection of its own.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        set_last_blocks(self.text_model.encoder, self.vision_model.encoder)
        for layer in (*self.text_model.encoder.layers, *self.vision_model.encoder.layers):
            fuse_in_training(layer.mlp.activation_fn)
        # An object, and not only its switch: the pooler shares it.
        self.block_runner = HalfBlocks()
        self.long_text_projection = None
        if config.use_long_text_path:
            self.text_model.embeddings = TwoPathTextEmbeddings(
                config.text_config, config.long_text_max_position_embeddings
            )
            self.long_text_projection = nn.Linear(config.text_config.hidden_size, config.projection_dim, bias=False)

    @property
    def half_blocks(self) -> bool:
        """
        Whether the blocks of flat batches keep half of the memory in training, see [`HalfBlocks`]. It can be set.

        The numbers are the same up to rounding, and a step takes as long.
        """
        return self.block_runner.enabled

    @half_blocks.setter
    def half_blocks(self, enabled: bool) -> None:
        self.block_runner.enabled = enabled

    @gathers_weights
    def encode_images(self, pixel_values: Tensor, interpolate_pos_encoding: bool = False) -> tuple[Tensor, Tensor]:
        r"""
        Computes image and patch features in one pass, both un-normalised.

        Args:
            pixel_values (`Tensor` of shape `(B, 3, height, width)`): normalised pixels.
            interpolate_pos_encoding (`bool`): as in `CLIPModel`.

        Returns:
            CLS features `(B, D)`, equal to `get_image_features` up to rounding, and patch features `(B, P, D)`.

        Raises:
            ValueError: if the images have another size than the model's and are not interpolated.
        """
        vision = self.vision_model
        check_attention(vision.config, pixel_values.device)
        hidden_states = vision.embeddings(pixel_values, interpolate_pos_encoding=interpolate_pos_encoding)
        # "pre_layrnorm" is how transformers and all checkpoints spell it.
        hidden_states = vision.pre_layrnorm(hidden_states)
        *layers, last_layer = vision.encoder.layers
        run_layer = self.block_runner.run_layer
        for layer in layers:
            hidden_states = run_layer(layer, hidden_states, None)
        hidden_states = run_layer(last_layer, hidden_states, None, value_only=True)
        # CLIP normalises and projects CLS alone; patches take the same way into the common space.
        features = self.visual_projection(vision.post_layernorm(hidden_states))
        # The gradient of two slices would be the sum of two tensors of all features.
        cls_B1D, patches_BPD = features.split([1, features.shape[1] - 1], dim=1)
        return cls_B1D[:, 0], patches_BPD

    def check_path(self, path: str | None) -> None:
        """Raises `ValueError` for a text path that the model does not have."""
        self.is_long_path(path)

    def is_long_path(self, path: str | None) -> bool:
        """
        Tells whether a path is the long one. `None` is the only path of a model, or the short one of two.

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
        """
        Returns what `CLIPModel.get_text_features` returns, for texts that all take the same of two paths.

        Args:
            input_ids_TL, attention_mask, position_ids, kwargs: As for `CLIPModel.get_text_features`. Columns beyond the
                positions of the path may hold padding only.
            is_long: Whether the path is the long one.

        Raises:
            ValueError: if a text has more tokens than the path has positions.
        """
        positions = self._path_positions()
        length = min(input_ids_TL.shape[1], positions.long if is_long else positions.short)
        if input_ids_TL.shape[1] > length:
            self._check_lengths(self.text_lengths(input_ids_TL).tolist(), [is_long] * len(input_ids_TL))
        if position_ids is None:
            position_ids = torch.arange(length, device=input_ids_TL.device)[None]
        # The long table of positions follows the short one.
        first_position = positions.short if is_long else 0
        outputs = self.text_model(
            input_ids_TL[:, :length],
            None if attention_mask is None else attention_mask[:, :length],
            position_ids[:, :length] + first_position,
            **kwargs,
        )
        projection: Any = self.long_text_projection if is_long else self.text_projection
        outputs.pooler_output = projection(outputs.pooler_output)
        return outputs

    @gathers_weights
    def encode_texts(
        self, input_ids_TL: Tensor, is_long_T: Tensor | None = None, packing: TextPacking | None = None
    ) -> Tensor:
        """
        Computes text features `(T, D)`, un-normalised, for texts of any mix of lengths.

        Equal texts are encoded once, in rows of several texts that do not see one another. Attention is causal, and
        what follows EOS is not computed.

        Args:
            input_ids_TL (`Tensor` of shape `(T, L)`): the texts, each with its EOS.
            is_long_T (`Tensor` of shape `(T,)`, bool, *optional*):
                Which texts take the long path, in a model with two. Default: none.
            packing (*optional*):
                The plan of [`plan_texts`] for these very texts; it is trusted. Without it lengths and equal texts are
                looked up here, which waits for a GPU.

        Raises:
            ValueError: if a text has more tokens than its path has positions (not checked with a plan), or the plan is
                of another number of texts.
        """
        if self.long_text_projection is None:
            is_long_T = None
        elif is_long_T is None:
            is_long_T = input_ids_TL.new_zeros(input_ids_TL.shape[0], dtype=torch.bool)
        if packing is not None and packing.last_T.shape != input_ids_TL.shape[:1]:
            raise ValueError(f"packing must be of {len(input_ids_TL)} texts, but is of {len(packing.last_T)}")

        if input_ids_TL.shape[0] > 0:
            pooled_TW = self._pooled_texts(input_ids_TL, is_long_T, packing)
        else:
            # No texts still give features that have a gradient. The norm's weight has the dtype of what is computed,
            # where that of a quantised projection is an integer.
            norm = self.text_model.final_layer_norm
            pooled_TW = norm(torch.zeros(0, self.text_embed_dim, dtype=norm.weight.dtype, device=input_ids_TL.device))
        features_TD = self.text_projection(pooled_TW)
        if self.long_text_projection is None or is_long_T is None:
            return features_TD
        # Both projections of all texts: to select the rows of a path would wait for a GPU.
        return torch.where(is_long_T[:, None], self.long_text_projection(pooled_TW), features_TD)

    def _pooled_texts(self, input_ids_TL: Tensor, is_long_T: Tensor | None, packing: TextPacking | None) -> Tensor:
        """Returns the text model's hidden states `(T, W)` at the last token of each text, after the last layer norm."""
        model = self.text_model
        check_attention(model.config, input_ids_TL.device)
        if packing is None and torch.compiler.is_compiling():
            packing = self.packing_of_graph(input_ids_TL)
        elif packing is None or not (self._can_pack() or packing.has_one_text_per_row):
            packing = self.plan_texts(input_ids_TL, is_long_T)
        packing = packing.to(input_ids_TL.device, non_blocking=True)

        # An empty place names text -1 and position 0. It reads some token, which no text attends to.
        ids_FC = input_ids_TL[packing.text_FC, packing.position_FC]
        position_FC = packing.position_FC
        if is_long_T is not None:
            first_position_T = is_long_T * self._path_positions().short
            position_FC = position_FC + first_position_T[packing.text_FC]
        # CLIP's embeddings refuse a row that is longer than their table, so each token is a row of its own here.
        embeds = model.embeddings(ids_FC.reshape(-1, 1), position_FC.expand_as(ids_FC).reshape(-1, 1))
        hidden_states, inputs = self._encoder_inputs(embeds.view(*ids_FC.shape, -1), packing)
        *layers, last_layer = model.encoder.layers
        run_layer = self.block_runner.run_layer
        for layer in layers:
            hidden_states = run_layer(layer, hidden_states, **inputs)
        ends_TW = run_layer(last_layer, hidden_states, last_T=packing.last_T, **inputs)
        return model.final_layer_norm(ends_TW)

    def _encoder_inputs(self, embeds_FCW: Tensor, packing: TextPacking) -> tuple[Tensor, dict[str, Any]]:
        """
        Returns the first block's input, and the arguments of all blocks by which no text of a row sees another.

        Each implementation of attention asks for other arguments.
        """
        config = self.text_model.config
        inputs: dict[str, Any] = {"attention_mask": None, "is_causal": True}
        if packing.has_one_text_per_row:
            # No mask of padding and no cache. By position: transformers 5.24 has renamed the second of them.
            inputs["attention_mask"] = create_causal_mask(config, embeds_FCW, None, None)
        elif takes_starts(config):
            # transformers wants a single row of all places, and where its stretches begin. No stretch is longer than a
            # row was; the exact maximum would wait for the GPU.
            starts = packing.start_V.int()
            inputs["cu_seq_lens_q"] = starts
            inputs["cu_seq_lens_k"] = starts
            inputs["max_length_q"] = embeds_FCW.shape[1]
            inputs["max_length_k"] = embeds_FCW.shape[1]
            embeds_FCW = embeds_FCW.flatten(0, 1)[None]
        elif config._attn_implementation in ("sdpa", "eager"):
            # A mask of numbers that are added to the logits. From a boolean mask every block would make this one again,
            # and keep it for the backward pass.
            # Autocast, too, would make a copy in its dtype for every block.
            dtype = precision_of(embeds_FCW).product
            zero = embeds_FCW.new_zeros((), dtype=dtype)
            inputs["attention_mask"] = torch.where(packing.mask(), zero, torch.finfo(dtype).min)
        else:
            # Other implementations (flex attention) get transformers' own mask. It tells the texts of a row apart by
            # their positions, and waits for the GPU.
            inputs["attention_mask"] = create_causal_mask(
                config, embeds_FCW, None, None, position_ids=packing.position_FC
            )
        return embeds_FCW, inputs

    def _can_pack(self) -> bool:
        """Tells whether the implementation of attention can keep the texts of a row apart."""
        config = self.text_model.config
        return takes_starts(config) or config._attn_implementation in ALL_MASK_ATTENTION_FUNCTIONS

    # A plan is made of Python numbers and bytes, which cannot be traced.
    @torch.compiler.disable
    def plan_texts(self, input_ids_TL: Tensor, is_long_T: Tensor | None) -> TextPacking:
        """
        Plans texts that come without a plan. This waits for a GPU; nothing else in the text tower does.

        Args:
            input_ids_TL, is_long_T: As for [`encode_texts`], on any device.

        Raises:
            ValueError: if a text has more tokens than its path has positions.
        """
        ids_TL = input_ids_TL.cpu()
        is_long_T = None if is_long_T is None else is_long_T.cpu()
        lengths_T = self.text_lengths(ids_TL)
        is_long = [False] * len(ids_TL) if is_long_T is None else is_long_T.tolist()
        self._check_lengths(lengths_T.tolist(), is_long)
        self._check_padding(ids_TL, lengths_T)
        return plan_texts(ids_TL, lengths_T, is_long_T, one_text_per_row=not self._can_pack())

    def packing_of_graph(self, input_ids_TL: Tensor) -> TextPacking:
        """
        Returns the packing of texts that are compiled or exported without a plan, one text in each row.

        Raises:
            ValueError: if the texts have more columns than the model has positions. A graph cannot tell which of the
                columns hold padding only.
        """
        positions = self._path_positions()
        limit = positions.short if self.long_text_projection is None else positions.long
        num_texts, num_columns = input_ids_TL.shape
        if num_columns > limit:
            raise ValueError(
                f"input_ids must have at most {limit} columns in a compiled or exported model, but have {num_columns}; "
                "cut off columns of padding"
            )
        return unplanned_packing(num_texts, num_columns, self.text_lengths(input_ids_TL))

    def _path_positions(self) -> PathPositions:
        return PathPositions(
            short=num_positions(self.text_model.embeddings.position_embedding),
            long=self.config.long_text_max_position_embeddings,
        )

    def _check_lengths(self, lengths: list[int], is_long: list[bool]) -> None:
        """Raises `ValueError` if a text has more tokens than its path has positions."""
        positions = self._path_positions()
        for length, text_is_long in zip(lengths, is_long, strict=True):
            limit = positions.long if text_is_long else positions.short
            if length > limit:
                path = "" if self.long_text_projection is None else f" on the {TEXT_PATHS[text_is_long]} path"
                raise ValueError(f"a text{path} must have at most {limit} tokens, but has {length}")

    def _check_padding(self, ids_TL: Tensor, lengths_T: Tensor) -> None:
        """
        Raises `ValueError` if a text is padded on the left: if it begins and ends with the end token.

        A text without its end has length 1, too. `CLIPModel` takes those.
        """
        has_end_at_both_T = ids_TL[:, 0] == ids_TL[:, -1]
        if self.text_model.eos_token_id != 2:
            has_end_at_both_T &= ids_TL[:, 0] == self.text_model.eos_token_id
        if bool((has_end_at_both_T & (lengths_T == 1)).any()):
            raise ValueError(
                "a text must be padded on the right, but one of input_ids begins and ends with the end token: set "
                "padding_side='right'"
            )

    def text_lengths(self, input_ids_TL: Tensor) -> Tensor:
        """Returns the number of tokens `(T,)` of each text, up to and including the one that this model pools."""
        return text_lengths(input_ids_TL, self.text_model.eos_token_id)

    def hash_texts(self, input_ids_TL: Tensor) -> Tensor:
        """
        Returns a number `(T,)` int64 for each text, equal for equal texts whatever their padding.
        """
        position_L = torch.arange(input_ids_TL.shape[1], device=input_ids_TL.device)
        return hash_tokens(input_ids_TL, position_L < self.text_lengths(input_ids_TL)[:, None])


__all__ = ["CLIPTowers", "TwoPathTextEmbeddings"]
