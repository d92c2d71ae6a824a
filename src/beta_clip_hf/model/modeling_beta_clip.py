"""β-CLIP and FG-CLIP on Hugging Face's CLIP: flat texts, patch features, text-conditioned pooler, regions, losses.

Letters: B images, T texts of the batch (all granularities, flat), P patches, D projection width, L tokens, H heads,
R regions (boxes), N hard texts (true texts of regions and their negatives).
Only what differs from `CLIPModel` is written here.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers.models.clip.modeling_clip import CLIPOutput
from transformers.utils.generic import can_return_tuple

from .batch_plan_beta_clip import BatchPlan, plan_batch
from .configuration_beta_clip import Granularity
from .objective_beta_clip import FlatEmbeds, batch_objective, multiplier
from .pooler_beta_clip import TextConditionedPooler, normalize
from .pretrained_beta_clip import BetaCLIPPreTrainedModel
from .ragged_beta_clip import index_or_pairs
from .regions_beta_clip import RegionBatch, grid_boxes, roi_align
from .towers_beta_clip import joined_texts


@dataclass
class BetaCLIPOutput(CLIPOutput):
    r"""
    [`~transformers.models.clip.modeling_clip.CLIPOutput`] and, for a batch with `image_index`:

    Args:
        losses (`dict[str, Tensor]`, *optional*):
            The parts of `loss` by name, before their weights: `clip_loss`, `short_clip_loss`, `beta_cal_loss`,
            `text_conditioned_loss`, `region_loss`, `hard_negative_loss`, as far as they were computed.
        contextualized_embeds (`Tensor` of shape `(T, D)`, *optional*):
            L2-normalised embedding of each text's own image as pooled for that text.
        region_embeds (`Tensor` of shape `(R, D)`, *optional*): L2-normalised embeddings of the boxes.

    For a batch with `image_index` the embeddings are L2-normalised in at least float32, `logits_per_image` is `(B, T)`
    on CLS and EOS, and the outputs of the towers are left out.
    """

    losses: dict[str, Tensor] | None = None
    contextualized_embeds: Tensor | None = None
    region_embeds: Tensor | None = None


class BetaCLIPModel(BetaCLIPPreTrainedModel):
    r"""
    CLIP with a text-conditioned pooler, for captions of up to 248 tokens, their sentences, their phrases, and regions.

    Without `image_index` it is `CLIPModel`, bit for bit. With it, a batch is B images and T flat texts, each of which
    names its image and its kind, and any number of boxes with their texts; see [`BetaCLIPModel.forward`]. Which parts
    it has (pooler, second text path, logit scales of regions) is said by its [`BetaCLIPConfig`].

    Source: arXiv 2512.12678 (β-CLIP), arXiv 2505.05071 (FG-CLIP).
    """

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
        plan: BatchPlan | None = None,
        return_loss: bool | None = None,
        interpolate_pos_encoding: bool = False,
        gather: Any = None,
        objective: Any = None,
        **kwargs: Any,
    ) -> BetaCLIPOutput:
        r"""
        Embeds a batch and, with `return_loss`, computes the losses that the configuration weighs.

        Args:
            input_ids (`Tensor` of shape `(T, L)`, int64):
                All texts, right-padded, each with its EOS. With `image_index`, what stands after EOS is never computed.
            pixel_values (`Tensor` of shape `(B, 3, S, S)`): normalised pixels.
            attention_mask, position_ids: as in `CLIPModel`; not needed with `image_index` (EOS ends a text).
            image_index (`Tensor` of shape `(T,)`, int64, *optional*):
                The image of each text, 0..B-1, non-decreasing. Without it the batch is a plain CLIP batch.
            granularity (`Tensor` of shape `(T,)`, int64, *optional*):
                Kind of each text, see [`Granularity`]; needed for the loss, which wants one caption per image and at
                most one short caption. In a model with two text paths captions take the long one, all others the short.
            boxes (`Tensor` of shape `(R, 4)`, *optional*): regions of any number, xyxy in shares of the image's sides.
            region_image_index (`Tensor` of shape `(R,)`, int64): the image of each box.
            region_input_ids (`Tensor` of shape `(R, L)`): the text of each box; short path.
            hard_input_ids (`Tensor` of shape `(N, L)`):
                For each flagged box its true text, then its negatives, any number of them; short path.
            hard_region_index (`Tensor` of shape `(N,)`, int64): the box of each hard text, non-decreasing.
            region_attention_mask, hard_attention_mask: not needed, as `attention_mask`.
            plan (*optional*):
                Where the rows of this very batch belong, as the collator plans it. It is trusted; without it the model
                looks the batch through, checks it, and waits for a GPU.
            return_loss (`bool`): also compute `loss` (Σ weight · part) and `losses` (the parts).
            interpolate_pos_encoding (`bool`): as in `CLIPModel`, for images of another size.
            gather (*optional*):
                For several processes: the `ProcessGather` of `beta_clip_hf.training.distributed`, which the Trainer
                passes, or what has its methods.
            objective (*optional*): takes the place of the losses: `objective(embeds, loss_scales)` gives both.

        Raises:
            ValueError: if images or texts are missing (B is 0, too), shapes disagree, or a loss is asked for and cannot
                be: B ≠ T in a plain batch, no `granularity`, an image with no caption or several, boxes for a model
                without `use_regions`.
        """
        if input_ids is None or pixel_values is None:
            raise ValueError("input_ids and pixel_values must both be given; for one of them see get_…_features")
        if len(pixel_values) == 0:
            raise ValueError("pixel_values must hold at least one image, but holds none")
        if image_index is None:
            if return_loss and len(pixel_values) != len(input_ids):
                raise ValueError(
                    f"without image_index a loss needs as many texts as images, but there are {len(input_ids)} "
                    f"texts and {len(pixel_values)} images"
                )
            kwargs.update(attention_mask=attention_mask, position_ids=position_ids, return_dict=True)
            kwargs.update(return_loss=return_loss, interpolate_pos_encoding=interpolate_pos_encoding)
            outputs = super().forward(input_ids, pixel_values, **kwargs)
            losses = None if outputs.loss is None else {"clip_loss": outputs.loss}
            return BetaCLIPOutput(**outputs, losses=losses)

        if image_index.shape != input_ids.shape[:1]:
            raise ValueError(f"image_index must have shape ({len(input_ids)},), but is {tuple(image_index.shape)}")
        if return_loss and (granularity is None or granularity.shape != image_index.shape):
            shape = None if granularity is None else tuple(granularity.shape)
            raise ValueError(f"granularity must have shape {tuple(image_index.shape)} for a loss, but is {shape}")
        regions = None
        if boxes is not None:
            of_regions = (region_image_index, region_input_ids, hard_input_ids, hard_region_index)
            regions = RegionBatch(boxes, *of_regions)  # type: ignore[arg-type]  # it checks
        texts: list[Tensor | None] = [input_ids, None, None]
        if regions is not None and return_loss:
            texts[1:] = self._region_texts(regions)
        of_texts = (texts, image_index, granularity)
        embeds = self._flat_embeds(pixel_values, *of_texts, regions, plan, bool(return_loss), interpolate_pos_encoding)
        with torch.autocast(pixel_values.device.type, enabled=False):
            logits_BT = multiplier(self.logit_scale) * embeds.image_BD @ embeds.text_TD.T
        outputs = BetaCLIPOutput(
            logits_per_image=logits_BT,
            logits_per_text=logits_BT.T,
            image_embeds=embeds.image_BD,
            text_embeds=embeds.text_TD,
            contextualized_embeds=embeds.contextualized_TD,
            region_embeds=embeds.region_RD,
        )
        if return_loss:
            if objective is None:
                objective = partial(batch_objective, self.config, gather=gather)
            outputs.loss, outputs.losses = objective(embeds, self.loss_scales())
        return outputs

    def _flat_embeds(
        self,
        pixel_values: Tensor,
        texts: list[Tensor | None],
        image_index: Tensor,
        granularity: Tensor | None,
        regions: RegionBatch | None,
        plan: BatchPlan | None,
        for_loss: bool,
        interpolate_pos_encoding: bool,
    ) -> FlatEmbeds:
        """One pass of each tower for the whole batch. `texts`: the flat ones, those of regions, and the hard ones."""
        image_features_BD, patch_features_BPD = self.encode_images(pixel_values, interpolate_pos_encoding)
        ids, counts = joined_texts(texts)
        is_long = None
        if self.long_text_projection is not None and granularity is not None:
            is_long = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
            is_long[: len(granularity)] = granularity == Granularity.CAPTION
        if plan is None:
            labels = granularity if for_loss else None
            plan = self._plan_batch(ids, is_long, image_index, len(pixel_values), labels, regions)
        plan = plan.to(ids.device, non_blocking=True)
        # A plan that counts texts which no loss asks for does not pack these.
        packing = plan.packing if len(plan.packing.last_T) == len(ids) else None
        text_TD, region_text_RD, hard_text_ND = normalize(self.encode_texts(ids, is_long, packing)).split(counts)
        rows = (plan.caption_B, plan.short_S, plan.aligned_A)
        embeds = FlatEmbeds(normalize(image_features_BD), text_TD, image_index, *rows)
        if self.pooler is not None:
            pooled_TD, _ = self.pooler(text_TD, patch_features_BPD, image_index, slots=plan.text_slots)
            embeds.contextualized_TD = normalize(pooled_TD)
            if for_loss and self.config.text_conditioned_loss_weight:
                embeds.score_pairs = partial(self.pooler.score_pairs, patch_features_BPD)
        if regions is not None:
            regions.slots = plan.region_slots
            embeds.region_RD = normalize(self._region_features(pixel_values, patch_features_BPD, regions))
            if texts[1] is not None:
                embeds.region_text_RD, embeds.region_text_id_R = region_text_RD, self.hash_texts(texts[1])
            if texts[2] is not None:
                embeds.hard_text_ND, embeds.hard_region_index_N = hard_text_ND, regions.hard_region_index
        return embeds

    @torch.compiler.disable
    def _plan_batch(
        self,
        input_ids: Tensor,
        is_long: Tensor | None,
        image_index: Tensor,
        num_images: int,
        granularity: Tensor | None,
        regions: RegionBatch | None,
    ) -> BatchPlan:
        """A plan made here and now: a batch that comes without one waits for a GPU here, and nowhere else."""
        return plan_batch(
            self.plan_texts(input_ids, is_long),
            image_index.cpu(),
            num_images,
            granularity_T=None if granularity is None else granularity.cpu(),
            region_image_index_R=None if regions is None else regions.image_index.cpu(),
        )

    def _region_texts(self, regions: RegionBatch) -> list[Tensor | None]:
        """The texts of regions and the hard texts, as far as a loss asks for them."""
        if not self.config.use_regions:
            raise ValueError("use_regions must be True for a loss with boxes, but is False")
        return [
            regions.input_ids if self.config.region_loss_weight else None,
            regions.hard_input_ids if self.config.hard_negative_loss_weight else None,
        ]

    def loss_scales(self) -> dict[str, Tensor]:
        """The logit scale (its logarithm) of each part of the loss that this model can compute, by name."""
        scales = {"clip_loss": self.logit_scale, "short_clip_loss": self.logit_scale}
        if self.pooler is not None:
            scales["beta_cal_loss"] = scales["text_conditioned_loss"] = self.pooler.logit_scale
        if self.config.use_regions:
            scales["region_loss"] = self.region_logit_scale
            scales["hard_negative_loss"] = self.hard_negative_logit_scale
        return scales

    def get_text_features(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        path: str | None = None,
        **kwargs: Any,
    ) -> Any:
        r"""
        As `CLIPModel.get_text_features`: `.pooler_output` is `(T, D)`, un-normalised.

        Args:
            input_ids, attention_mask (`Tensor` of shape `(T, L)`), position_ids: as in `CLIPModel`.
            path (`"short" | "long"`, *optional*):
                For models with two text paths (`use_long_text_path`): "short", the default, is CLIP's own table of (77)
                positions and projection; "long" is for texts of up to 248 tokens. Other models take `None` only.

        Raises:
            ValueError: if a model with one path is given another than `None`, one with two an unknown name, or a text
                has more tokens than its path has positions.
        """
        is_long = self.is_long_path(path)
        if self.long_text_projection is None:
            return super().get_text_features(input_ids, attention_mask, position_ids, **kwargs)
        return self.path_text_features(input_ids, attention_mask, position_ids, is_long, **kwargs)

    def get_patch_features(self, pixel_values: Tensor, interpolate_pos_encoding: bool = False) -> Tensor:
        r"""
        Dense image features: the values of the last vision block, projected like the image embedding.

        Args:
            pixel_values (`Tensor` of shape `(B, 3, S, S)`): normalised pixels.
            interpolate_pos_encoding (`bool`): as in `CLIPModel`.

        Returns:
            `(B, P, D)`, un-normalised, row-major over the grid.

        Source: the releases of β-CLIP and FG-CLIP (the same in both); MaskCLIP's idea.
        """
        return self.encode_images(pixel_values, interpolate_pos_encoding)[1]

    def get_region_features(
        self,
        pixel_values: Tensor,
        boxes: Tensor,
        region_image_index: Tensor | None = None,
        box_format: str = "xyxy_normalized",
        interpolate_pos_encoding: bool = False,
    ) -> Tensor:
        r"""
        One vector per box: RoIAlign of the patch features, see [`roi_align`].

        Args:
            pixel_values (`Tensor` of shape `(B, 3, height, width)`): normalised pixels.
            boxes (`Tensor` of shape `(R, 4)`): any number per image; never clipped.
            region_image_index (`Tensor` of shape `(R,)`, int64, *optional*):
                The image of each box. Left out: boxes and images in pairs (R = B), or all boxes on one image (B = 1).
            box_format (`str`): "xyxy_normalized", "xyxy_pixels" or "xywh_pixels" (pixels of `pixel_values`).
            interpolate_pos_encoding (`bool`): as in `CLIPModel`, for images of another size.

        Returns:
            `(R, D)`, un-normalised; exact zeros for a box without area.

        Raises:
            ValueError: for an unknown format, boxes that are not `(R, 4)`, or R that fits neither B nor 1 image.

        Source: FG-CLIP (arXiv 2505.05071), region features.
        """
        patch_features = self.get_patch_features(pixel_values, interpolate_pos_encoding)
        index = index_or_pairs(region_image_index, len(pixel_values), len(boxes), "boxes", pixel_values.device)
        return self._region_features(pixel_values, patch_features, RegionBatch(boxes, index), box_format)

    def _region_features(
        self,
        pixel_values: Tensor,
        patch_features_BPD: Tensor,
        regions: RegionBatch,
        box_format: str = "xyxy_normalized",
    ) -> Tensor:
        height, width = pixel_values.shape[-2:]
        patch = self.config.vision_config.patch_size
        grid = (height // patch, width // patch)
        boxes_R4 = grid_boxes(regions.boxes, box_format, (height, width), grid)
        return roi_align(patch_features_BPD, boxes_R4, regions.image_index, grid, regions.slots)

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
    ) -> Tensor | tuple[Tensor, Tensor]:
        r"""
        The embedding of an image as each text sees it.

        Args:
            pixel_values (`(B, 3, S, S)`) or patch_features (`(B, P, D)`, from [`get_patch_features`]): the images.
            input_ids (`(T, L)`, right-padded) or text_embeds (`(T, D)`, normalised or not): the texts.
            image_index (`Tensor` of shape `(T,)`, int64, *optional*):
                The image of each text. Left out: texts and images in pairs (T = B), or all texts on one image (B = 1).
            attention_mask: accepted, so that a processor's output may be passed whole; EOS ends a text.
            path: of the texts, as in [`get_text_features`].
            output_attentions (`bool`): also return where each text looked.

        Returns:
            `(T, D)`, L2-normalised; with `output_attentions` also the attention `(T, H, P)`.

        Raises:
            ValueError: if the model has no pooler, an input is missing or given twice, or T fits neither B nor 1 image.
        """
        pooler = self._pooler_or_error()
        if (pixel_values is None) == (patch_features is None):
            raise ValueError("exactly one of pixel_values and patch_features must be given")
        if (input_ids is None) == (text_embeds is None):
            raise ValueError("exactly one of input_ids and text_embeds must be given")
        if patch_features is None:
            assert pixel_values is not None
            patch_features = self.get_patch_features(pixel_values)
        if text_embeds is None:
            assert input_ids is not None
            is_long = torch.full(input_ids.shape[:1], self.is_long_path(path), device=input_ids.device)
            text_embeds = self.encode_texts(input_ids, is_long)
        index = index_or_pairs(image_index, len(patch_features), len(text_embeds), "texts", text_embeds.device)
        pooled_TD, attentions_THP = pooler(text_embeds, patch_features, index, output_attentions)
        return (normalize(pooled_TD), attentions_THP) if output_attentions else normalize(pooled_TD)

    def score_pairs(self, patch_features: Tensor, text_embeds: Tensor, *, chunk_size: int | None = None) -> Tensor:
        """Text-conditioned score of EVERY image with every text, `(B, T)`: [`TextConditionedPooler.score_pairs`]."""
        return self._pooler_or_error().score_pairs(patch_features, text_embeds, chunk_size=chunk_size)

    def score_candidates(
        self,
        patch_features: Tensor,
        text_embeds: Tensor,
        image_index: Tensor,
        text_index: Tensor,
        *,
        chunk_size: int | None = None,
    ) -> Tensor:
        """The same for pairs of a shortlist only: [`TextConditionedPooler.score_candidates`]."""
        pairs = (patch_features, text_embeds, image_index, text_index)
        return self._pooler_or_error().score_candidates(*pairs, chunk_size=chunk_size)

    def _pooler_or_error(self) -> TextConditionedPooler:
        if self.pooler is None:
            raise ValueError("use_pooler must be True for text-conditioned features, but is False")
        return self.pooler


__all__ = ["BetaCLIPModel", "BetaCLIPOutput"]
