# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""FG-CLIP 2, SigLIP 2 and β-CAL on Hugging Face's SigLIP 2: three text paths, images of any grid, pooler, regions.

Only what differs from `Siglip2Model` is written here.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import can_return_tuple

from .batch_beta_clip import FlatBatch, RegionBatch
from .conditioned_scores_beta_clip import ConditionedScores
from .flat_model_beta_clip import FlatBatchModel
from .outputs_beta_siglip2 import BetaSiglip2Output, output_of_images, output_of_texts
from .patch_map_beta_clip import PatchMap
from .pretrained_beta_siglip2 import BetaSiglip2PreTrainedModel
from .ragged_beta_clip import ImageSlots, index_or_pairs
from .regions_beta_clip import checked_boxes, grid_boxes, roi_align_of_map
from .sharding_beta_clip import gathers_weights
from .tensor_arguments_beta_clip import takes_lists
from .text_hash_beta_clip import hash_tokens
from .text_rows_beta_siglip2 import TextRows, plan_batch_rows


class BetaSiglip2Model(BetaSiglip2PreTrainedModel, ConditionedScores, FlatBatchModel):
    r"""
    SigLIP 2 with the parts of FG-CLIP 2 (a long text path, a path for the texts of regions, patch features) and of
    β-CLIP (a text-conditioned pooler).

    Images may have any grid of patches. Without `image_index` a batch is that of [`~transformers.Siglip2Model`], bit
    for bit. With it, a batch is B images and T flat texts, as for [`BetaCLIPModel`].

    Texts are padded to the full length of their path, and padding is attended to: without it, or with a mask, a text
    has another embedding, which is of no use. Pooled is the last position.

    Source: arXiv 2510.10921 (FG-CLIP 2), arXiv 2502.14786 (SigLIP 2), arXiv 2512.12678 (β-CLIP).
    """

    output_class = BetaSiglip2Output

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        pixel_attention_mask: Tensor | None = None,
        spatial_shapes: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        image_index: Tensor | None = None,
        granularity: Tensor | None = None,
        boxes: Tensor | None = None,
        region_image_index: Tensor | None = None,
        region_input_ids: Tensor | None = None,
        hard_input_ids: Tensor | None = None,
        hard_region_index: Tensor | None = None,
        negative_input_ids: Tensor | None = None,
        negative_text_index: Tensor | None = None,
        return_loss: bool | None = None,
        **kwargs: Any,
    ) -> BetaSiglip2Output:
        r"""
        Embeds a batch and, with `return_loss`, computes its loss; images or texts may also come alone.

        Without `image_index` it does what [`~transformers.Siglip2Model`] does, on the short path: the loss is the
        sigmoid loss of images and texts in pairs.

        Args:
            input_ids (`Tensor` of shape `(T, L)`, int64):
                Texts, padded to all positions of the short path (64). With `image_index`, padded to all positions of
                the longest path that a text of the batch takes; of texts on shorter paths the first columns count.
            pixel_values, pixel_attention_mask, spatial_shapes: The images, see [`get_image_features`].
            attention_mask, position_ids: As in `Siglip2Model`; to be left out.
            image_index (`Tensor` of shape `(T,)`, int64, *optional*): The image of each text, 0..B-1, non-decreasing.
            granularity (`Tensor` of shape `(T,)`, int64, *optional*):
                The kind of each text, see [`Granularity`]. A loss needs it, with one caption per image and at most one
                short caption. The configuration says which path each kind takes; without it all take the short one.
            boxes (`Tensor` of shape `(R, 4)`, *optional*):
                Any number of regions, xyxy as fractions of the image's width and height.
            region_image_index (`Tensor` of shape `(R,)`, int64): The image of each box.
            region_input_ids (`Tensor` of shape `(R, L)`): The text of each box; box path.
            hard_input_ids (`Tensor` of shape `(N, L)`):
                For each flagged box its true text, then its negatives, any number of them; box path.
            hard_region_index (`Tensor` of shape `(N,)`, int64): The box of each hard text, non-decreasing.
            negative_input_ids (`Tensor` of shape `(n, L)`):
                Negatives of any of the T texts, false of its image; each takes the path of its text.
            negative_text_index (`Tensor` of shape `(n,)`, int64): The text of each negative, non-decreasing.
            return_loss (`bool`): Also compute `loss` (Σ weight · part) and `losses` (the parts).
            kwargs: What transformers passes to any model. A plain batch passes it on to the towers, a batch with
                `image_index` takes it unset only.

        Returns:
            Outputs with L2-normalised `image_embeds` and `text_embeds`, `logits_per_image` (B, T), `logits_per_text`
            and `loss`. Images or texts alone have their embeddings and the outputs of their tower.

        Raises:
            ValueError: If images and texts are missing, or one of them in a batch with `image_index` or a loss, the
                images have no shapes, shapes disagree, texts are shorter than their path, or a loss cannot be computed:
                B ≠ T in a plain batch, no `granularity`, an image with no caption or several, boxes for a model without
                `use_regions`.
            TypeError: If an argument is not known.
        """
        arguments = {
            "granularity": granularity,
            "boxes": boxes,
            "region_image_index": region_image_index,
            "region_input_ids": region_input_ids,
            "hard_input_ids": hard_input_ids,
            "hard_region_index": hard_region_index,
            "negative_input_ids": negative_input_ids,
            "negative_text_index": negative_text_index,
        }
        return self.outputs_of(
            input_ids,
            pixel_values,
            image_index,
            arguments,
            kwargs,
            return_loss=return_loss,
            image_options={"pixel_attention_mask": pixel_attention_mask, "spatial_shapes": spatial_shapes},
            text_options={"attention_mask": attention_mask, "position_ids": position_ids},
        )

    def plain_outputs(
        self,
        input_ids: Tensor | None,
        pixel_values: Tensor | None,
        *,
        pixel_attention_mask: Tensor | None,
        spatial_shapes: Tensor | None,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        return_loss: bool | None,
        **kwargs: Any,
    ) -> BetaSiglip2Output:
        """Computes a batch without `image_index` as `Siglip2Model` does, or only what images or texts alone have."""
        if pixel_values is not None:
            images = self.patch_inputs(pixel_values, pixel_attention_mask, spatial_shapes)
            kwargs.update(
                pixel_values=images.pixel_values, pixel_attention_mask=images.mask, spatial_shapes=images.grid_sizes
            )
        # The fields are read by name, even if the configuration asks for tuples: the decorator makes them at the end.
        kwargs["return_dict"] = True
        if input_ids is None or pixel_values is None:
            if return_loss:
                raise ValueError("a loss needs input_ids and pixel_values, but one of them is missing")
            if pixel_values is not None:
                return output_of_images(self.vision_model(**kwargs))
            if input_ids is None:
                raise ValueError("at least one of input_ids and pixel_values must be given, but neither is")
            return output_of_texts(self.text_model(input_ids, attention_mask, position_ids, **kwargs))
        if return_loss and len(input_ids) != len(pixel_values):
            raise ValueError(
                f"a loss needs as many texts as images, but there are {len(input_ids)} texts and {len(pixel_values)} "
                "images"
            )
        outputs = super().forward(
            input_ids, attention_mask=attention_mask, position_ids=position_ids, return_loss=return_loss, **kwargs
        )
        # SigLIP computes it without a weight. `losses` holds parts before their weights in any case.
        losses = None if outputs.loss is None else {"sigmoid_loss": outputs.loss}
        return BetaSiglip2Output(**outputs, losses=losses)

    @takes_lists
    @gathers_weights
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
        images = self.patch_inputs(pixel_values, pixel_attention_mask, spatial_shapes)
        return self.vision_model(images.pixel_values, images.mask, images.grid_sizes, **kwargs)

    @takes_lists
    @gathers_weights
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
            attention_mask: Not used, because padding is attended to; accepted because tokenizers return it.
            position_ids (`Tensor` of shape `(T or 1, L)`, *optional*): Other positions, counted within the path.
            path (`"short" | "long" | "box"`, *optional*):
                "short", the default, is SigLIP 2's own, for short captions and class prompts; "long" is for long
                captions; "box" for texts of regions.

        Raises:
            ValueError: If the path is unknown, or the texts have another length than all positions of their path.
        """
        path = path or "short"
        self.check_texts(input_ids, path)
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

    @takes_lists
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
        # One pass serves both; the pooling head costs next to nothing.
        _, patches = self.encode_images(pixel_values, pixel_attention_mask, spatial_shapes)
        return patches

    @takes_lists
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
            ValueError: If the format is unknown, the boxes are not `(R, 4)`, a box names an image that is not there, or
                without an index there are neither R images nor one.

        Source: FG-CLIP 2 (arXiv 2510.10921), region features.
        """
        boxes = checked_boxes(boxes)
        # Each image is encoded once, however many boxes it has.
        patches = self.get_patch_features(pixel_values, pixel_attention_mask, spatial_shapes)
        index_R = index_or_pairs(
            region_image_index, len(patches.features), len(boxes), "boxes", patches.features.device
        )
        return self._pooled_boxes(patches, boxes, index_R, box_format, image_sizes)

    def _pooled_boxes(
        self,
        patches: PatchMap,
        boxes: Tensor,
        index_R: Tensor,
        box_format: str,
        image_sizes: Tensor | None = None,
        slots: ImageSlots | None = None,
    ) -> Tensor:
        """Pools boxes, see [`get_region_features`] for the arguments; `index_R` is the image of each box."""
        grid_B2 = patches.grid_sizes.to(patches.features.device, non_blocking=True)
        size_B2 = grid_B2 * self.config.vision_config.patch_size
        if image_sizes is not None:
            size_B2 = image_sizes.to(grid_B2)
            if size_B2.shape != grid_B2.shape:
                raise ValueError(
                    f"image_sizes must have shape ({len(grid_B2)}, 2), height and width of each image, but have "
                    f"{tuple(size_B2.shape)}"
                )
        boxes_R4 = grid_boxes(boxes, box_format, size_B2[index_R], grid_B2[index_R])
        return roi_align_of_map(patches, boxes_R4, index_R, slots)

    @takes_lists
    @gathers_weights
    def get_text_conditioned_image_features(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        *,
        patch_features: PatchMap | None = None,
        text_embeds: Tensor | None = None,
        image_index: Tensor | None = None,
        path: str | None = None,
        output_attentions: bool = False,
        pixel_attention_mask: Tensor | None = None,
        spatial_shapes: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        r"""
        Embeds images as each text sees them.

        Args:
            pixel_values (with `pixel_attention_mask` and `spatial_shapes`) or patch_features (a [`PatchMap`]):
                The images, as in [`get_image_features`], or from [`get_patch_features`].
            input_ids (padded to their path) or text_embeds (`(T, D)`, normalised or not): The texts.
            image_index (`Tensor` of shape `(T,)`, int64, *optional*):
                The image of each text. By default texts and images come in pairs (T = B), or there is one image.
            path: The path of the texts, as in [`get_text_features`].
            output_attentions (`bool`): Also return where each text looked.

        Returns:
            `(T, D)`, L2-normalised; with `output_attentions` also the attention `(T, H, P)`, which is 0 for padding.

        Raises:
            ValueError: If the model has no pooler, an input is missing or given twice, or there are neither T images
                nor one.
        """
        self.check_pooled(pixel_values, patch_features, input_ids, text_embeds)
        if pixel_values is not None:
            patch_features = self.get_patch_features(pixel_values, pixel_attention_mask, spatial_shapes)
        if input_ids is not None:
            text_embeds = self.get_text_features(input_ids, path=path, return_dict=True).pooler_output
        return self.pool_for_texts(patch_features, text_embeds, image_index, output_attentions)

    # What a flat batch asks of the towers

    def encode_batch_texts(self, batch: FlatBatch, packing: TextRows) -> Tensor:
        """Returns features `(T, D)` of all texts of a batch, un-normalised."""
        input_ids = batch.texts.joined()
        # The collator's plan covers the texts of regions too. Without a loss these are not encoded.
        if packing.num_texts != len(input_ids):
            packing = self.pack_batch_texts(batch).to(input_ids.device)
        return self.encode_texts(input_ids, packing)

    @torch.compiler.disable
    def pack_batch_texts(self, batch: FlatBatch) -> TextRows:
        """Plans the texts of a batch that has no plan, see [`plan_batch_rows`]."""
        granularity_T = None if batch.granularity is None else batch.granularity.cpu()
        return plan_batch_rows(batch.texts, granularity_T, self.config)

    def pool_boxes(
        self,
        pixel_values: Tensor,
        patches: PatchMap,
        regions: RegionBatch,
        box_format: str = "xyxy_normalized",
        slots: ImageSlots | None = None,
    ) -> Tensor:
        """Pools the patch features of each box, `(R, D)`; `slots` are those of the boxes, if they are known."""
        return self._pooled_boxes(patches, regions.boxes, regions.image_index, box_format, slots=slots)

    def hash_texts(self, input_ids_TL: Tensor) -> Tensor:
        """Returns a number `(T,)` int64 for each text, equal for equal texts of the same width."""
        return hash_tokens(input_ids_TL)


__all__ = ["BetaSiglip2Model", "PatchMap"]
