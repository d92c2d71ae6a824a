# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""FG-CLIP 2 and SigLIP 2 on Hugging Face's SigLIP 2: three text paths, patch features of any grid, regions.

Only what differs from `Siglip2Model` is written here.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.siglip2.modeling_siglip2 import Siglip2Output
from transformers.utils.generic import can_return_tuple

from .configuration_beta_siglip2 import SIGLIP_TEXT_PATHS
from .forward_checks_beta_clip import checked_arguments_of_plain_batch
from .patch_map_beta_clip import PatchMap
from .pretrained_beta_siglip2 import BetaSiglip2PreTrainedModel
from .ragged_beta_clip import index_or_pairs
from .regions_beta_clip import grid_boxes, roi_align_of_map


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


class BetaSiglip2Model(BetaSiglip2PreTrainedModel):
    r"""
    SigLIP 2 with the parts of FG-CLIP 2: a long text path, a path for the texts of regions, and patch features.

    Images may have any grid of patches. A batch is that of [`~transformers.Siglip2Model`], bit for bit.

    Texts are padded to the full length of their path, and padding is attended to: without it, or with a mask, a text
    has another embedding, which is of no use. Pooled is the last position.

    Source: arXiv 2510.10921 (FG-CLIP 2), arXiv 2502.14786 (SigLIP 2).
    """

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        pixel_attention_mask: Tensor | None = None,
        spatial_shapes: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        return_loss: bool | None = None,
        **kwargs: Any,
    ) -> Siglip2Output:
        r"""
        Embeds images and texts as [`~transformers.Siglip2Model`] does, on the short path; or images or texts alone.

        Args:
            input_ids (`Tensor` of shape `(T, L)`, int64):
                Texts, padded to all positions of the short path (64). Nothing is checked here; see
                [`get_text_features`].
            pixel_values, pixel_attention_mask, spatial_shapes: The images, see [`get_image_features`].
            attention_mask, position_ids: As in `Siglip2Model`; to be left out.
            return_loss (`bool`): Also compute the sigmoid loss of images and texts in pairs.
            kwargs: What transformers passes to any model; passed on to the towers.

        Returns:
            Outputs with L2-normalised `image_embeds` and `text_embeds`, `logits_per_image` (B, T), `logits_per_text`
            and `loss`. Images or texts alone have their embeddings and the outputs of their tower.

        Raises:
            ValueError: If images and texts are missing, a loss lacks one of them or their numbers differ, or the images
                have no shapes.
            TypeError: If an argument is not known.
        """
        kwargs = checked_arguments_of_plain_batch(kwargs, self.forward)
        if pixel_values is not None:
            images = self._patch_inputs(pixel_values, pixel_attention_mask, spatial_shapes)
            kwargs.update(
                pixel_values=images.pixel_values, pixel_attention_mask=images.mask, spatial_shapes=images.grid_sizes
            )
        # The fields are read by name, even if the configuration asks for tuples: the decorator makes them at the end.
        kwargs["return_dict"] = True
        if input_ids is None or pixel_values is None:
            if return_loss:
                raise ValueError("a loss needs input_ids and pixel_values, but one of them is missing")
            if pixel_values is not None:
                vision_outputs = self.vision_model(**kwargs)
                return Siglip2Output(
                    image_embeds=_normalized(vision_outputs.pooler_output), vision_model_output=vision_outputs
                )
            if input_ids is None:
                raise ValueError("at least one of input_ids and pixel_values must be given, but neither is")
            text_outputs = self.text_model(input_ids, attention_mask, position_ids, **kwargs)
            return Siglip2Output(text_embeds=_normalized(text_outputs.pooler_output), text_model_output=text_outputs)
        if return_loss and len(input_ids) != len(pixel_values):
            raise ValueError(
                f"a loss needs as many texts as images, but there are {len(input_ids)} texts and {len(pixel_values)} "
                "images"
            )
        return super().forward(
            input_ids, attention_mask=attention_mask, position_ids=position_ids, return_loss=return_loss, **kwargs
        )

    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: Tensor,
        pixel_attention_mask: Tensor | None = None,
        spatial_shapes: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        r"""
        Encodes images as `Siglip2Model.get_image_features` does: `.pooler_output` is `(B, D)`, un-normalised.

        Args:
            pixel_values (`Tensor` of shape `(B, P, 3 · patch²)` or `(B, 3, height, width)`):
                Patches as [`~transformers.Siglip2ImageProcessor`] makes them; or images of one size, as SigLIP of a
                fixed resolution takes them, whose patches are cut out here.
            pixel_attention_mask (`Tensor` of shape `(B, P)`, *optional*):
                0 for padding, which follows the patches of an image. By default it is made of `spatial_shapes`.
            spatial_shapes (`Tensor` of shape `(B, 2)`, int64):
                Rows and columns of patches of each image. Best on the CPU: on a GPU the tower waits for it. Not needed
                for images of one size.

        Raises:
            ValueError: If patches come without `spatial_shapes`, or an image is smaller than a patch.
        """
        images = self._patch_inputs(pixel_values, pixel_attention_mask, spatial_shapes)
        return self.vision_model(images.pixel_values, images.mask, images.grid_sizes, **kwargs)

    @can_return_tuple
    def get_text_features(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        path: str | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        r"""
        Encodes texts that all take the same path: `.pooler_output` is `(T, D)`, un-normalised.

        Args:
            input_ids (`Tensor` of shape `(T, L)`, int64):
                Texts, right-padded to all positions of their path: 64 on "short" and "box", 196 on "long".
            attention_mask: Not used, because padding is attended to; accepted so that all a tokenizer returns can be
                passed.
            position_ids (`Tensor` of shape `(T or 1, L)`, *optional*): Other positions, counted within the path.
            path (`"short" | "long" | "box"`, *optional*):
                "short", the default, is SigLIP 2's own, for short captions and class prompts; "long" is for long
                captions; "box" for texts of regions.

        Raises:
            ValueError: If the path is unknown, or the texts have another length than all positions of their path.
        """
        path = path or "short"
        self._check_texts(input_ids, path)
        if path == "long":
            if position_ids is None:
                position_ids = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
            # The long table of positions follows the short one.
            position_ids = position_ids + self.config.text_config.max_position_embeddings
        outputs = self.text_model(input_ids, None, position_ids, **kwargs)
        if path != "short":
            head = self.long_text_head if path == "long" else self.box_text_head
            outputs.pooler_output = head(outputs.last_hidden_state[:, -1])
        return outputs

    def get_patch_features(
        self, pixel_values: Tensor, pixel_attention_mask: Tensor | None = None, spatial_shapes: Tensor | None = None
    ) -> PatchMap:
        r"""
        Encodes images to dense features: every patch attends to all patches in the patch head.

        Args:
            pixel_values, pixel_attention_mask, spatial_shapes: The images, as in [`get_image_features`].

        Returns:
            A [`PatchMap`]: `features` (B, P, D), un-normalised, row-major over the grid of each image; `grid_sizes` (B,
            2); `mask` (B, P).

        Raises:
            ValueError: As for [`get_image_features`].

        Source: FG-CLIP 2 (arXiv 2510.10921), its dense feature head.
        """
        images = self._patch_inputs(pixel_values, pixel_attention_mask, spatial_shapes)
        outputs = self.vision_model(images.pixel_values, images.mask, images.grid_sizes)
        features_BPD = self.patch_head(outputs.last_hidden_state, images.mask)
        return PatchMap(features_BPD, images.grid_sizes, images.is_patch())

    def get_region_features(
        self,
        pixel_values: Tensor,
        boxes: Tensor,
        region_image_index: Tensor | None = None,
        box_format: str = "xyxy_normalized",
        pixel_attention_mask: Tensor | None = None,
        spatial_shapes: Tensor | None = None,
        image_sizes: Tensor | None = None,
    ) -> Tensor:
        r"""
        Encodes boxes: one vector per box, by RoIAlign of the patch features, see [`roi_align_of_map`].

        Args:
            pixel_values, pixel_attention_mask, spatial_shapes: The images, as in [`get_image_features`].
            boxes (`Tensor` of shape `(R, 4)`): Any number per image; never clipped.
            region_image_index (`Tensor` of shape `(R,)`, int64, *optional*):
                The image of each box. By default boxes and images come in pairs (R = B), or there is one image.
            box_format (`str`): "xyxy_normalized" (shares of the image's sides), "xyxy_pixels" or "xywh_pixels".
            image_sizes (`Tensor` of shape `(B, 2)`, *optional*):
                Height and width of each image in the pixels that boxes are given in. By default those of the resized
                image: its grid times the side of a patch.

        Returns:
            `(R, D)`, un-normalised; exact zeros for a box without area.

        Raises:
            ValueError: If the format is unknown, the boxes are not `(R, 4)`, or there are neither R images nor one.

        Source: FG-CLIP 2 (arXiv 2510.10921), region features.
        """
        # Each image is encoded once, however many boxes it has.
        patches = self.get_patch_features(pixel_values, pixel_attention_mask, spatial_shapes)
        device = patches.features.device
        index_R = index_or_pairs(region_image_index, len(patches.features), len(boxes), "boxes", device)
        grid_B2 = patches.grid_sizes.to(device)
        size_B2 = grid_B2 * self.config.vision_config.patch_size if image_sizes is None else image_sizes.to(device)
        boxes_R4 = grid_boxes(boxes, box_format, size_B2[index_R], grid_B2[index_R])
        return roi_align_of_map(patches, boxes_R4, index_R)

    def _patch_inputs(self, pixel_values: Tensor, mask: Tensor | None, grid_sizes: Tensor | None) -> PatchInputs:
        """
        Returns images as patches, with their mask and grids.

        Raises:
            ValueError: If patches come without their grids, or an image is smaller than a patch.
        """
        if pixel_values.ndim == 4:
            pixel_values, grid_sizes = patches_of(pixel_values, self.config.vision_config.patch_size)
            return PatchInputs(pixel_values, None, grid_sizes)
        if grid_sizes is None:
            raise ValueError(
                "spatial_shapes must come with patches (B, P, 3 · patch²), which do not say the grid of an image, but "
                "is missing: pass all that the processor returns"
            )
        if mask is None:
            num_patches_B = grid_sizes.prod(dim=1).to(pixel_values.device)
            place_P = torch.arange(pixel_values.shape[1], device=pixel_values.device)
            mask = (place_P < num_patches_B[:, None]).long()
        return PatchInputs(pixel_values, mask, grid_sizes)

    def _check_texts(self, input_ids: Tensor, path: str) -> None:
        """Raises `ValueError` for a path that does not exist, or texts of another length than its positions."""
        if path not in SIGLIP_TEXT_PATHS:
            raise ValueError(f"path must be one of {SIGLIP_TEXT_PATHS}, but is {path!r}")
        length = self.config.text_config.max_position_embeddings
        if path == "long":
            length = self.config.long_text_max_position_embeddings
        if input_ids.ndim != 2 or input_ids.shape[1] != length:
            raise ValueError(
                f"input_ids on the {path} path must have shape (T, {length}), because the last position is pooled and "
                f"padding is attended to, but are {tuple(input_ids.shape)}: pad each text on the right to {length} "
                "tokens"
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
    return patches, torch.tensor([[rows, columns]]).expand(len(pixel_values), 2)


def _normalized(embeds_MD: Tensor) -> Tensor:
    # In the same steps as `Siglip2Model.forward`, whose embeddings these equal bit for bit.
    return embeds_MD / embeds_MD.norm(p=2, dim=-1, keepdim=True)


__all__ = ["BetaSiglip2Model", "PatchMap"]
