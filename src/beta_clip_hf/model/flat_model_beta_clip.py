# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""How a model embeds a flat batch, and how it computes its loss."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from .batch_beta_clip import BatchTexts, FlatBatch, RegionBatch, TextNegatives
from .batch_plan_beta_clip import BatchPlan, plan_batch
from .gather_beta_clip import Gather, is_gather
from .loss_inputs_beta_clip import FlatEmbeds
from .objective_beta_clip import LOSS_PARTS, Objective, batch_objective
from .pooler_beta_clip import normalize
from .pretrained_beta_clip import BetaCLIPPreTrainedModel
from .ragged_beta_clip import ImageSlots
from .regions_beta_clip import grid_boxes, roi_align


_NEEDS_PLAN = "a loss in one graph needs the plan that BetaCLIPDataCollator adds to a batch"
# torch before 2.8 shows no reason.
_takes_reason = "reason" in signature(torch.compiler.disable).parameters
_outside_of_graphs: Any = partial(torch.compiler.disable, **({"reason": _NEEDS_PLAN} if _takes_reason else {}))


class FlatBatchModel(BetaCLIPPreTrainedModel):
    """Embeds flat batches and computes their loss; [`BetaCLIPModel`] gives this its public face."""

    # Set by `loss_context`.
    _gather: Gather | None = None
    _objective: Objective | None = None

    def texts_to_encode(
        self, input_ids: Tensor, regions: RegionBatch | None, negatives: TextNegatives | None
    ) -> BatchTexts:
        """
        Collects the texts of the images and, of the regions and negatives that a loss has, what a part of it needs.

        Raises:
            ValueError: If there are regions, but the model has no logit scales for them.
        """
        texts = BatchTexts(input_ids)
        if self.config.text_negative_loss_weight or self._pools_negatives:
            texts.negatives = negatives
        if regions is None:
            return texts
        if not self.config.use_regions:
            raise ValueError("use_regions must be True for a loss with boxes, but is False")
        if self.config.region_loss_weight:
            texts.region_input_ids = regions.input_ids
        if self.config.hard_negative_loss_weight:
            texts.hard_input_ids = regions.hard_input_ids
        return texts

    def embed_batch(self, batch: FlatBatch, interpolate_pos_encoding: bool) -> FlatEmbeds:
        """Embeds a batch in one pass of each tower."""
        image_features_BD, patch_features_BPD = self.encode_images(batch.pixel_values, interpolate_pos_encoding)
        input_ids = batch.texts.joined()
        is_long = None
        if self.long_text_projection is not None and batch.granularity is not None:
            is_long = batch.texts.is_long(batch.granularity)
        plan = batch.plan
        if plan is None and torch.compiler.is_compiling() and not batch.has_loss:
            plan = BatchPlan(self.packing_of_graph(input_ids))
        elif plan is None:
            plan = self._plan_batch(batch, input_ids, is_long)
        # A copy from pinned memory runs beside what the GPU computes.
        plan = plan.to(input_ids.device, non_blocking=True)
        # The collator's plan covers the texts of regions too. Without a loss these are not encoded, and the model packs
        # the others itself.
        packing = plan.packing if plan.packing.last_T.shape == input_ids.shape[:1] else None
        all_text_embeds = normalize(self.encode_texts(input_ids, is_long, packing))
        text_TD, region_text_RD, hard_text_ND, negative_nD = all_text_embeds.split(batch.texts.counts)
        embeds = FlatEmbeds(
            image_BD=normalize(image_features_BD),
            text_TD=text_TD,
            image_index_T=batch.image_index,
            caption_B=plan.caption_B,
            short_J=plan.short_J,
            aligned_A=plan.aligned_A,
        )
        if batch.has_loss and self.config.mask_identical_texts:
            embeds.text_id_T = self.hash_texts(batch.texts.input_ids)
        if batch.texts.negatives is not None:
            embeds.negative_nD = negative_nD
            embeds.negative_text_index_n = batch.texts.negatives.text_index
        if self.pooler is not None:
            self._pool_for_texts(embeds, patch_features_BPD, plan)
            if batch.has_loss and self.config.text_conditioned_loss_weight:
                embeds.score_pairs = partial(self.pooler.score_pairs, patch_features_BPD)
        if batch.regions is not None:
            regions = batch.regions
            region_features_RD = self.pool_boxes(
                batch.pixel_values, patch_features_BPD, regions, slots=plan.region_slots
            )
            embeds.region_RD = normalize(region_features_RD)
            if batch.texts.region_input_ids is not None:
                embeds.region_text_RD = region_text_RD
                embeds.region_text_id_R = self.hash_texts(batch.texts.region_input_ids)
            if batch.texts.hard_input_ids is not None:
                embeds.hard_text_ND = hard_text_ND
                embeds.hard_region_index_N = regions.hard_region_index
        return embeds

    @property
    def _pools_negatives(self) -> bool:
        """Whether images are pooled for negatives of their texts."""
        return self.pooler is not None and bool(self.config.conditioned_negative_loss_weight)

    def _pool_for_texts(self, embeds: FlatEmbeds, patch_features_BPD: Tensor, plan: BatchPlan) -> None:
        """Pools each text's image for the text and, where a part of the loss needs it, for the text's negatives."""
        assert self.pooler is not None
        text_TD = embeds.text_TD
        if embeds.negative_nD is None or embeds.negative_text_index_n is None or not self._pools_negatives:
            pooled_TD, _ = self.pooler(text_TD, patch_features_BPD, embeds.image_index_T, slots=plan.text_slots)
            embeds.contextualized_TD = normalize(pooled_TD)
            return
        # In one pass, which projects the patches of an image once.
        image_index_n = embeds.image_index_T[embeds.negative_text_index_n]
        pooled, _ = self.pooler(
            torch.cat([text_TD, embeds.negative_nD]),
            patch_features_BPD,
            torch.cat([embeds.image_index_T, image_index_n]),
            slots=plan.negative_slots,
        )
        counts = [text_TD.shape[0], embeds.negative_nD.shape[0]]
        embeds.contextualized_TD, embeds.contextualized_negative_nD = normalize(pooled).split(counts)

    @_outside_of_graphs
    def _plan_batch(self, batch: FlatBatch, input_ids: Tensor, is_long: Tensor | None) -> BatchPlan:
        """Plans a batch that has no plan. This waits for the GPU; nothing else in a training step does."""
        granularity_T = None
        region_image_index_R = None
        negative_text_index_n = None
        if batch.has_loss and batch.granularity is not None:
            granularity_T = batch.granularity.cpu()
        if batch.regions is not None:
            region_image_index_R = batch.regions.image_index.cpu()
        if batch.texts.negatives is not None:
            negative_text_index_n = batch.texts.negatives.text_index.cpu()
        return plan_batch(
            self.plan_texts(input_ids, is_long),
            batch.image_index.cpu(),
            len(batch.pixel_values),
            granularity_T=granularity_T,
            region_image_index_R=region_image_index_R,
            negative_text_index_n=negative_text_index_n,
        )

    def pool_boxes(
        self,
        pixel_values: Tensor,
        patch_features_BPD: Tensor,
        regions: RegionBatch,
        box_format: str = "xyxy_normalized",
        slots: ImageSlots | None = None,
    ) -> Tensor:
        """Pools the patch features of each box, `(R, D)`; `slots` are those of the boxes, if they are known."""
        height, width = pixel_values.shape[-2:]
        patch = self.config.vision_config.patch_size
        grid = (height // patch, width // patch)
        boxes_R4 = grid_boxes(regions.boxes, box_format, (height, width), grid)
        return roi_align(patch_features_BPD, boxes_R4, regions.image_index, grid, slots)

    def loss_of(self, embeds: FlatEmbeds) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the loss and its parts, computed as the present [`loss_context`] asks."""
        if self._objective is not None:
            return self._objective(embeds, self.loss_scales())
        return batch_objective(self.config, embeds, self.loss_scales(), self._gather)

    @contextmanager
    def loss_context(self, *, gather: Gather | None = None, objective: Objective | None = None) -> Iterator[None]:
        r"""
        Sets how `forward` computes the loss within the block. The Trainer uses it; the block stays outside of DDP:

        ```python
        with model.loss_context(gather=ProcessGather()):
            loss = ddp_model(**batch).loss
        ```

        Args:
            gather (*optional*): Joins several processes, for example `ProcessGather` of
                `beta_clip_hf.training.distributed`: the loss is that of the rows of all processes.
            objective (*optional*): Takes the place of the losses: `objective(embeds, loss_scales)` returns the loss and
                its parts.

        An argument that is left out keeps what an outer block has set.

        Raises:
            TypeError: If `gather` is a plain function. The losses of a model ask for more than the rows of all.
        """
        if gather is not None and not is_gather(gather):
            raise TypeError(f"gather must be a Gather, for example ProcessGather(), but is {gather!r}")
        before = self._gather, self._objective
        if gather is not None:
            self._gather = gather
        if objective is not None:
            self._objective = objective
        try:
            yield
        finally:
            self._gather, self._objective = before

    def loss_scales(self) -> dict[str, Tensor]:
        """Returns the logarithm of the logit scale of each part of the loss that this model can compute, by name."""
        scales = {}
        for name, part in LOSS_PARTS.items():
            if part.requires is None or getattr(self.config, part.requires):
                scales[name] = self._logit_scale(part.logit_scale)
        return scales

    def _logit_scale(self, name: str) -> Tensor:
        """Returns a logit scale by the name of its parameter."""
        if self.pooler is not None and name == "pooler.logit_scale":
            return self.pooler.read_logit_scale()
        # Without the axis that FSDP2 asks for.
        return self.get_parameter(name).squeeze()


__all__ = ["FlatBatchModel"]
