# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""β-CLIP and FG-CLIP on Hugging Face's CLIP: flat texts, patch features, text-conditioned pooler, regions, losses.

Only what differs from `CLIPModel` is written here.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.clip.modeling_clip import CLIPModel
from transformers.utils.generic import can_return_tuple

from .batch_beta_clip import FlatBatch, RegionBatch
from .batch_plan_beta_clip import BatchPlan
from .conditioned_scores_beta_clip import ConditionedScores
from .flat_model_beta_clip import FlatBatchModel
from .outputs_beta_clip import BetaCLIPOutput, output_of_images, output_of_texts
from .packing_beta_clip import TextPacking
from .pretrained_beta_clip import BetaCLIPPreTrainedModel
from .ragged_beta_clip import ImageSlots, index_or_pairs
from .regions_beta_clip import checked_boxes, grid_boxes, roi_align
from .sharding_beta_clip import gathers_weights
from .tensor_arguments_beta_clip import takes_lists


class BetaCLIPModel(BetaCLIPPreTrainedModel, ConditionedScores, FlatBatchModel):
    r"""
    CLIP with a text-conditioned pooler, for captions of up to 248 tokens, their sentences, their phrases, and regions.

    Without `image_index` it is `CLIPModel`, bit for bit, and images or texts may also come alone. With it, a batch is
    B images and T flat texts, each of which names its image and its kind, and any number of boxes with their texts; see
    [`BetaCLIPModel.forward`]. Its [`BetaCLIPConfig`] decides which parts it has: a pooler, a second text path, logit
    scales of regions.

    Source: arXiv 2512.12678 (β-CLIP), arXiv 2505.05071 (FG-CLIP).
    """

    output_class = BetaCLIPOutput

    # Docstrings are written out. transformers' `auto_docstring` would describe `input_ids` as a batch of one text for
    # each image, and link to pages of transformers' own documentation.
    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        image_index: Tensor | None = None,
        granularity: Tensor | None = None,
        boxes: Tensor | None = None,
        region_image_index: Tensor | None = None,
        region_input_ids: Tensor | None = None,
        region_attention_mask: Tensor | None = None,
        hard_input_ids: Tensor | None = None,
        hard_attention_mask: Tensor | None = None,
        hard_region_index: Tensor | None = None,
        negative_input_ids: Tensor | None = None,
        negative_attention_mask: Tensor | None = None,
        negative_text_index: Tensor | None = None,
        return_loss: bool | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs: Any,
    ) -> BetaCLIPOutput:
        r"""
        Embeds a batch and, with `return_loss`, computes the losses that the configuration weighs.

        Args:
            input_ids (`Tensor` of shape `(T, L)`, int64):
                All texts, right-padded, each with its EOS. With `image_index` nothing after EOS is computed.
            pixel_values (`Tensor` of shape `(B, 3, height, width)`): Normalised pixels.
            attention_mask, position_ids: As in `CLIPModel`; not needed with `image_index` (EOS ends a text).
            image_index (`Tensor` of shape `(T,)`, int64, *optional*):
                The image of each text, 0..B-1, non-decreasing. Without it the batch is a plain CLIP batch.
            granularity (`Tensor` of shape `(T,)`, int64, *optional*):
                The kind of each text, see [`Granularity`]. A loss needs it, with one caption per image and at most one
                short caption. In a model with two text paths captions take the long one, all others the short.
            boxes (`Tensor` of shape `(R, 4)`, *optional*):
                Any number of regions, xyxy as fractions of the image's width and height.
            region_image_index (`Tensor` of shape `(R,)`, int64): The image of each box.
            region_input_ids (`Tensor` of shape `(R, L)`): The text of each box; short path.
            hard_input_ids (`Tensor` of shape `(N, L)`):
                For each flagged box its true text, then its negatives, any number of them; short path.
            hard_region_index (`Tensor` of shape `(N,)`, int64): The box of each hard text, non-decreasing.
            negative_input_ids (`Tensor` of shape `(n, L)`):
                Negatives of any of the T texts, false of its image; each takes the path of its text.
            negative_text_index (`Tensor` of shape `(n,)`, int64): The text of each negative, non-decreasing.
            region_attention_mask, hard_attention_mask, negative_attention_mask: Not needed, like `attention_mask`.
            return_loss (`bool`): Also compute `loss` (Σ weight · part) and `losses` (the parts).
            interpolate_pos_encoding (`bool`): As in `CLIPModel`, for images of another size.
            kwargs: What transformers passes to any model. A plain batch passes it on to `CLIPModel`, a batch with
                `image_index` takes it unset only.

        Raises:
            ValueError: If images and texts are missing (B is 0, too), or one of them in a batch with `image_index` or
                a loss, shapes disagree, an argument needs `image_index` or `boxes` beside it, attentions or hidden
                states of a batch with `image_index` are asked for, or a loss cannot be computed: B ≠ T in a plain
                batch, no `granularity`, an image with no caption or several, boxes for a model without `use_regions`.
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
            image_options={"interpolate_pos_encoding": interpolate_pos_encoding},
            text_options={"attention_mask": attention_mask, "position_ids": position_ids},
        )

    def plain_outputs(self, input_ids: Tensor | None, pixel_values: Tensor | None, **kwargs: Any) -> BetaCLIPOutput:
        """Computes a batch without `image_index` as `CLIPModel` does, or only what images or texts alone have."""
        if input_ids is None or pixel_values is None:
            return self._one_sided_forward(input_ids, pixel_values, **kwargs)
        if kwargs["return_loss"] and len(pixel_values) != len(input_ids):
            raise ValueError(
                f"without image_index a loss needs as many texts as images, but there are {len(input_ids)} "
                f"texts and {len(pixel_values)} images"
            )
        # The fields are read by name below. If the configuration asks for tuples, the decorator of `forward` makes
        # them at the end.
        outputs = super().forward(input_ids, pixel_values, return_dict=True, **kwargs)
        # CLIP computes its loss without a weight, and `losses` holds the parts before their weights.
        losses = None if outputs.loss is None else {"clip_loss": outputs.loss}
        return BetaCLIPOutput(**outputs, losses=losses)

    def _one_sided_forward(
        self,
        input_ids: Tensor | None,
        pixel_values: Tensor | None,
        return_loss: bool | None,
        interpolate_pos_encoding: bool,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        **kwargs: Any,
    ) -> BetaCLIPOutput:
        """Embeds images or texts alone, to the numbers that they have in a plain batch."""
        if return_loss:
            raise ValueError("a loss needs input_ids and pixel_values, but one of them is missing")
        if pixel_values is not None:
            outputs = self.get_image_features(pixel_values, interpolate_pos_encoding, return_dict=True, **kwargs)
            return output_of_images(outputs)
        if input_ids is None:
            raise ValueError("at least one of input_ids and pixel_values must be given, but neither is")
        outputs = self.get_text_features(input_ids, attention_mask, position_ids, return_dict=True, **kwargs)
        return output_of_texts(outputs)

    get_image_features = takes_lists(gathers_weights(CLIPModel.get_image_features))

    @takes_lists
    @gathers_weights
    def get_text_features(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        path: str | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        r"""
        Encodes texts as `CLIPModel.get_text_features` does: `.pooler_output` is `(T, D)`, un-normalised.

        Args:
            input_ids, attention_mask (`Tensor` of shape `(T, L)`), position_ids: As in `CLIPModel`.
            path (`"short" | "long"`, *optional*):
                The path of a model with two (`use_long_text_path`). "short", the default, has CLIP's own (77) positions
                and projection; "long" is for texts of up to 248 tokens. Other models take `None` only.

        Raises:
            ValueError: If the model does not have the path, or a text has more tokens than its path has positions.
        """
        is_long = self.is_long_path(path)
        # With one path CLIP's own code runs, bit for bit. It also refuses texts longer than its positions.
        if self.long_text_projection is None:
            return super().get_text_features(input_ids, attention_mask, position_ids, **kwargs)
        return self.path_text_features(input_ids, attention_mask, position_ids, is_long, **kwargs)

    @takes_lists
    def get_patch_features(self, pixel_values: Tensor, interpolate_pos_encoding: bool = False) -> Tensor:
        r"""
        Encodes images to dense features: the values of the last vision block, projected like the image embedding.

        Args:
            pixel_values (`Tensor` of shape `(B, 3, height, width)`): Normalised pixels.
            interpolate_pos_encoding (`bool`): As in `CLIPModel`, for images of another size.

        Returns:
            `(B, P, D)`, un-normalised, row-major over the grid.

        Source: the releases of β-CLIP and FG-CLIP (the same in both); MaskCLIP's idea.
        """
        # In the last block only CLS attends. One pass gives both, and CLS costs next to nothing.
        _, patch_features_BPD = self.encode_images(pixel_values, interpolate_pos_encoding)
        return patch_features_BPD

    @takes_lists
    def get_region_features(
        self,
        pixel_values: Tensor,
        boxes: Tensor,
        region_image_index: Tensor | None = None,
        box_format: str = "xyxy_normalized",
        interpolate_pos_encoding: bool = False,
    ) -> Tensor:
        r"""
        Encodes boxes: one vector per box, by RoIAlign of the patch features, see [`roi_align`].

        Args:
            pixel_values (`Tensor` of shape `(B, 3, height, width)`): Normalised pixels.
            boxes (`Tensor` of shape `(R, 4)`): Any number per image; never clipped.
            region_image_index (`Tensor` of shape `(R,)`, int64, *optional*):
                The image of each box. By default boxes and images come in pairs (R = B), or there is one image.
            box_format (`str`): "xyxy_normalized", "xyxy_pixels" or "xywh_pixels" (pixels of `pixel_values`).
            interpolate_pos_encoding (`bool`): As in `CLIPModel`, for images of another size.

        Returns:
            `(R, D)`, un-normalised; exact zeros for a box without area.

        Raises:
            ValueError: If the format is unknown, the boxes are not `(R, 4)`, or there are neither R images nor one.

        Source: FG-CLIP (arXiv 2505.05071), region features.
        """
        boxes = checked_boxes(boxes)
        # Each image is encoded once, however many boxes it has.
        patch_features = self.get_patch_features(pixel_values, interpolate_pos_encoding)
        index = index_or_pairs(region_image_index, pixel_values.shape[0], boxes.shape[0], "boxes", pixel_values.device)
        return self.pool_boxes(pixel_values, patch_features, RegionBatch(boxes, index), box_format)

    @takes_lists
    @gathers_weights
    def get_text_conditioned_image_features(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        *,
        patch_features: Tensor | None = None,
        text_embeds: Tensor | None = None,
        image_index: Tensor | None = None,
        attention_mask: Tensor | None = None,
        path: str | None = None,
        output_attentions: bool = False,
        interpolate_pos_encoding: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        r"""
        Embeds images as each text sees them.

        Args:
            pixel_values (`(B, 3, height, width)`) or patch_features (`(B, P, D)`, from [`get_patch_features`]):
                The images.
            input_ids (`(T, L)`, right-padded) or text_embeds (`(T, D)`, normalised or not): The texts.
            image_index (`Tensor` of shape `(T,)`, int64, *optional*):
                The image of each text. By default texts and images come in pairs (T = B), or there is one image.
            attention_mask: Not used, as EOS ends a text; accepted so that all a processor returns can be passed.
            path: The path of the texts, as in [`get_text_features`].
            output_attentions (`bool`): Also return where each text looked.
            interpolate_pos_encoding (`bool`): As in `CLIPModel`, for images of another size.

        Returns:
            `(T, D)`, L2-normalised; with `output_attentions` also the attention `(T, H, P)`.

        Raises:
            ValueError: If the model has no pooler, an input is missing or given twice, or there are neither T images
                nor one.
        """
        self.check_pooled(pixel_values, patch_features, input_ids, text_embeds)
        if pixel_values is not None:
            patch_features = self.get_patch_features(pixel_values, interpolate_pos_encoding)
        if input_ids is not None:
            # Texts of a flat batch may take different paths, so that the encoder wants the path of each.
            is_long = torch.full(input_ids.shape[:1], self.is_long_path(path), device=input_ids.device)
            text_embeds = self.encode_texts(input_ids, is_long)
        return self.pool_for_texts(patch_features, text_embeds, image_index, output_attentions)

    # What a flat batch asks of the towers

    def encode_batch_texts(self, batch: FlatBatch, packing: Any) -> Tensor:
        """Returns features `(T, D)` of all texts of a batch, un-normalised."""
        input_ids = batch.texts.joined()
        # The collator's plan covers the texts of regions too. Without a loss these are not encoded, and the model packs
        # the others itself.
        if packing.last_T.shape != input_ids.shape[:1]:
            packing = None
        return self.encode_texts(input_ids, self._takes_long_path(batch), packing)

    def pack_batch_texts(self, batch: FlatBatch) -> TextPacking:
        """Plans the texts of a batch that has no plan."""
        return self.plan_texts(batch.texts.joined(), self._takes_long_path(batch))

    def _plan_batch(self, batch: FlatBatch) -> BatchPlan:
        if torch.compiler.is_compiling() and not batch.has_loss:
            return BatchPlan(self.packing_of_graph(batch.texts.joined()))
        return super()._plan_batch(batch)

    def _takes_long_path(self, batch: FlatBatch) -> Tensor | None:
        """Returns which of all texts of a batch take the long path, in a model with two."""
        if self.long_text_projection is None or batch.granularity is None:
            return None
        return batch.texts.is_long(batch.granularity)

    def pool_boxes(
        self,
        pixel_values: Tensor,
        patches: Tensor,
        regions: RegionBatch,
        box_format: str = "xyxy_normalized",
        slots: ImageSlots | None = None,
    ) -> Tensor:
        """Pools the patch features of each box, `(R, D)`; `slots` are those of the boxes, if they are known."""
        height, width = pixel_values.shape[-2:]
        patch = self.config.vision_config.patch_size
        grid = (height // patch, width // patch)
        boxes_R4 = grid_boxes(regions.boxes, box_format, (height, width), grid)
        return roi_align(patches, boxes_R4, regions.image_index, grid, slots)


__all__ = ["BetaCLIPModel", "BetaCLIPOutput"]
