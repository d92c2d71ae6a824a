# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""SigLIP 2's two towers for flat batches: images of any grid, and each different text once."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.siglip2.modeling_siglip2 import Siglip2EncoderLayer, Siglip2Model, Siglip2TextEmbeddings

from .attention_beta_clip import eager_attention
from .configuration_beta_siglip2 import SIGLIP_TEXT_PATHS
from .patch_head_beta_siglip2 import PatchHead
from .patch_map_beta_clip import PatchMap
from .sharding_beta_clip import gathers_weights
from .text_rows_beta_siglip2 import TextRows
from .two_path_embeddings_beta_clip import LongPositions


@dataclass
class PatchInputs:
    """
    Holds the images of a batch as the vision tower takes them.

    Args:
        pixel_values (`Tensor` of shape `(B, P, 3 · patch²)`): Patches, each flattened as row, column, channel.
        mask (`Tensor` of shape `(B, P)`, *optional*): 1 for a patch, 0 for padding; `None` where there is no padding.
        grid_sizes (`Tensor` of shape `(B, 2)`, int64): Rows and columns of each image.
    """

    pixel_values: Tensor
    mask: Tensor | None
    grid_sizes: Tensor

    def is_patch(self) -> Tensor:
        """Returns which places hold a patch, `(B, P)`."""
        if self.mask is None:
            return torch.ones(self.pixel_values.shape[:2], dtype=torch.bool, device=self.pixel_values.device)
        return self.mask.bool()


class Siglip2TwoPathTextEmbeddings(LongPositions, Siglip2TextEmbeddings):
    """SigLIP 2's text embeddings, with a second table of positions for the long path (FG-CLIP 2, arXiv 2510.10921)."""


class LastSiglip2TextLayer(Siglip2EncoderLayer):
    """SigLIP 2's layer, which can compute the last position of texts alone, because only this one is pooled."""

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        last_only: bool = False,
        **kwargs: Any,
    ) -> Tensor:
        """
        Computes the block.

        Args:
            hidden_states (`Tensor` of shape `(U, L, W)`): All positions of texts.
            attention_mask, kwargs: As in SigLIP 2.
            last_only: Whether the last position alone is computed.

        Returns:
            `(U, L, W)`, or `(U, W)` of the last position.
        """
        if not last_only:
            return super().forward(hidden_states, attention_mask, **kwargs)
        attention = self.self_attn
        normed_ULW = self.layer_norm1(hidden_states)
        # All positions are attended to, but one attends.
        query, key, value = (
            projected.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
            for projected in (
                attention.q_proj(normed_ULW[:, -1:]),
                attention.k_proj(normed_ULW),
                attention.v_proj(normed_ULW),
            )
        )
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(attention.config._attn_implementation, eager_attention)
        dropout = attention.dropout if self.training else 0.0
        attended, _ = attend(
            attention, query, key, value, None, scaling=attention.scale, dropout=dropout, is_causal=False
        )
        last_UW = hidden_states[:, -1] + attention.out_proj(attended.flatten(-2)[:, 0])
        return last_UW + self.mlp(self.layer_norm2(last_UW))


class Siglip2Towers(Siglip2Model):
    """
    `Siglip2Model` with one pass for image and patch features, and one for texts of any mix of paths.

    A text takes one of three paths: "short" is SigLIP 2's own, "long" has a table of positions and a head of its own,
    "box" has a head of its own.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        text_config: Any = config.text_config
        self.text_model.embeddings = Siglip2TwoPathTextEmbeddings(text_config, config.long_text_max_position_embeddings)
        # The class alone changes. A new module would draw random numbers.
        self.text_model.encoder.layers[-1].__class__ = LastSiglip2TextLayer
        self.long_text_head = nn.Linear(text_config.hidden_size, text_config.projection_size)
        self.box_text_head = nn.Linear(text_config.hidden_size, text_config.projection_size)
        self.patch_head = PatchHead(config.vision_config)

    @gathers_weights
    def encode_images(
        self, pixel_values: Tensor, pixel_attention_mask: Tensor | None = None, spatial_shapes: Tensor | None = None
    ) -> tuple[Tensor, PatchMap]:
        r"""
        Computes image and patch features in one pass, both un-normalised.

        Args:
            pixel_values, pixel_attention_mask, spatial_shapes: The images, as in `get_image_features`.

        Returns:
            Image features `(B, D)`, those of `get_image_features`, and the patch features.

        Raises:
            ValueError: If patches come without `spatial_shapes`, or an image is smaller than a patch.
        """
        images = self.patch_inputs(pixel_values, pixel_attention_mask, spatial_shapes)
        outputs = self.vision_model(images.pixel_values, images.mask, images.grid_sizes, return_dict=True)
        features_BPD = self.patch_head(outputs.last_hidden_state, images.mask)
        return outputs.pooler_output, PatchMap(features_BPD, images.grid_sizes, images.is_patch())

    @gathers_weights
    def encode_texts(self, input_ids_TL: Tensor, rows: TextRows) -> Tensor:
        """
        Computes text features `(T, D)`, un-normalised, for texts of any mix of paths.

        Equal texts are computed once, and of the last block the pooled position alone. The numbers are those of
        `get_text_features` up to rounding.

        Args:
            input_ids_TL (`Tensor` of shape `(T, L)`): The texts, padded to the positions of the longest path.
            rows: The plan of [`plan_rows`] for these very texts; it is trusted.
        """
        short_length = self.config.text_positions("short")
        long_length = self.config.text_positions("long")
        short_UW = self._pooled_texts(input_ids_TL[:, :short_length], rows.short_U, 0)
        long_UW = self._pooled_texts(input_ids_TL[:, :long_length], rows.long_U, short_length)
        features_UD = torch.cat(
            [
                self.text_model.head(short_UW[rows.short_head_U]),
                self.long_text_head(long_UW),
                self.box_text_head(short_UW[rows.box_head_U]),
            ]
        )
        return features_UD[rows.feature_T]

    def _pooled_texts(self, input_ids_TL: Tensor, text_U: Tensor, first_position: int) -> Tensor:
        """
        Returns the hidden states `(U, W)` at the last position of some texts, after the last layer norm.

        Args:
            input_ids_TL: All texts, with as many columns as the path has positions.
            text_U: The texts that are computed.
            first_position: The place of the path's first position among those of all tables.
        """
        model = self.text_model
        if len(text_U) == 0:
            # No texts still give features that have a gradient.
            norm = model.final_layer_norm
            return norm(torch.zeros(0, norm.weight.shape[0], dtype=norm.weight.dtype, device=text_U.device))
        position_1L = first_position + torch.arange(input_ids_TL.shape[1], device=text_U.device)[None]
        hidden_states = model.embeddings(input_ids_TL[text_U], position_1L)
        *layers, last_layer = model.encoder.layers
        for layer in layers:
            hidden_states = layer(hidden_states, None)
        return model.final_layer_norm(last_layer(hidden_states, None, last_only=True))

    def check_path(self, path: str | None) -> None:
        """Raises `ValueError` for a text path that does not exist; `None` is the short one."""
        if path not in (None, *SIGLIP_TEXT_PATHS):
            raise ValueError(f"path must be one of {SIGLIP_TEXT_PATHS}, but is {path!r}")

    def check_texts(self, input_ids: Tensor, path: str) -> None:
        """Raises `ValueError` for a path that does not exist, or texts of another length than its positions."""
        self.check_path(path)
        length = self.config.text_positions(path)
        if input_ids.ndim == 2 and input_ids.shape[0] == 0:
            raise ValueError("input_ids must hold at least one text, but holds none")
        if input_ids.ndim != 2 or input_ids.shape[1] != length:
            raise ValueError(
                f"input_ids on the {path} path must have shape (T, {length}), because the last position is pooled and "
                f"padding is attended to, but are {tuple(input_ids.shape)}: pad each text on the right to {length} "
                "tokens"
            )

    def patch_inputs(self, pixel_values: Tensor, mask: Tensor | None, grid_sizes: Tensor | None) -> PatchInputs:
        """
        Returns images as patches, with their mask and grids.

        Raises:
            ValueError: If there is no image, patches come without their grids, shapes disagree, or an image is smaller
                than a patch.
        """
        vision_config = self.config.vision_config
        check_pixels(pixel_values, vision_config.patch_size, vision_config.num_channels)
        if pixel_values.ndim == 4:
            pixel_values, grid_sizes = patches_of(pixel_values, self.config.vision_config.patch_size)
            return PatchInputs(pixel_values, None, grid_sizes)
        if grid_sizes is None:
            raise ValueError(
                "spatial_shapes must come with patches (B, P, 3 · patch²), which do not say the grid of an image, but "
                "is missing: pass all that the processor returns"
            )
        check_grids(grid_sizes, mask, *pixel_values.shape[:2])
        if mask is None:
            num_patches_B = grid_sizes.prod(dim=1).to(pixel_values.device)
            place_P = torch.arange(pixel_values.shape[1], device=pixel_values.device)
            mask = (place_P < num_patches_B[:, None]).long()
        return PatchInputs(pixel_values, mask, grid_sizes)


def check_pixels(pixel_values: Tensor, patch_size: int, num_channels: int) -> None:
    """Raises `ValueError` unless these are patches, or images of one size."""
    # A graph takes its shapes as they are.
    if torch.compiler.is_compiling():
        return
    width = num_channels * patch_size**2
    are_patches = pixel_values.ndim == 3 and pixel_values.shape[2] == width
    are_images = pixel_values.ndim == 4 and pixel_values.shape[1] == num_channels
    if not (are_patches or are_images):
        raise ValueError(
            f"pixel_values must have shape (B, P, {width}) or (B, {num_channels}, height, width), but have "
            f"{tuple(pixel_values.shape)}"
        )
    if len(pixel_values) == 0:
        raise ValueError("pixel_values must hold at least one image, but holds none")


def check_grids(grid_sizes: Any, mask: Any, num_images: int, num_patches: int) -> None:
    """Raises `ValueError` for grids or a mask that do not fit so many images of so many places for patches."""
    if torch.compiler.is_compiling():
        return
    is_tensor = isinstance(grid_sizes, Tensor) and not grid_sizes.is_floating_point()
    if not is_tensor or grid_sizes.shape != (num_images, 2):
        raise ValueError(
            f"spatial_shapes must be a tensor of whole numbers ({num_images}, 2), rows and columns of each image, but "
            f"is {grid_sizes}"
        )
    # The numbers of a GPU would have to be waited for.
    if grid_sizes.device.type == "cpu":
        counts_B = grid_sizes.prod(dim=1)
        if (grid_sizes < 1).any() or (counts_B > num_patches).any():
            raise ValueError(
                f"spatial_shapes must be from 1 × 1 to {num_patches} patches, as many as pixel_values have places for, "
                f"but are {grid_sizes.tolist()}"
            )
    if mask is not None and mask.shape != (num_images, num_patches):
        raise ValueError(
            f"pixel_attention_mask must have shape ({num_images}, {num_patches}), but has {tuple(mask.shape)}"
        )


def patches_of(pixel_values: Tensor, patch_size: int) -> tuple[Tensor, Tensor]:
    """
    Cuts images of one size into patches, as a convolution with that stride does; what does not fill a patch is cut off.

    Args:
        pixel_values (`Tensor` of shape `(B, 3, height, width)`).
        patch_size: The side of a patch.

    Returns:
        Patches `(B, P, patch² · 3)`, row-major, each flattened as row, column, channel; and the grids `(B, 2)`, on the
        CPU.

    Raises:
        ValueError: If an image is smaller than a patch.
    """
    height, width = pixel_values.shape[-2:]
    rows, columns = height // patch_size, width // patch_size
    if rows == 0 or columns == 0:
        raise ValueError(f"images must have sides of at least {patch_size} pixels, but have {height} × {width}")
    whole = pixel_values[:, :, : rows * patch_size, : columns * patch_size]
    cells = whole.unflatten(2, (rows, patch_size)).unflatten(4, (columns, patch_size))
    # To image, row of the grid, column of the grid, row of the patch, column of the patch, channel.
    patches = cells.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
    return patches, torch.tensor([[rows, columns]]).expand(pixel_values.shape[0], 2)


__all__ = ["LastSiglip2TextLayer", "PatchInputs", "Siglip2Towers", "Siglip2TwoPathTextEmbeddings", "patches_of"]
