# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""How a model embeds a flat batch, and how it computes its loss."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from inspect import signature
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from .batch_beta_clip import BatchTexts, FlatBatch, RegionBatch, TextNegatives, scaled_pixels
from .batch_plan_beta_clip import BatchPlan, plan_batch
from .forward_checks_beta_clip import (
    check_arguments_of_flat_batch,
    check_not_traced,
    check_unset,
    checked_arguments_of_plain_batch,
)
from .gather_beta_clip import Gather, is_gather
from .loss_inputs_beta_clip import FlatEmbeds
from .objective_beta_clip import LOSS_PARTS, Objective, batch_objective, multiplier, needs_rows
from .patch_map_beta_clip import Patches
from .pooler_beta_clip import TextConditionedPooler
from .tensor_arguments_beta_clip import check_tensors
from .unit_vectors_beta_clip import normalize


# Arguments of `forward` that mean nothing without boxes, in the order of `RegionBatch`; and those of negatives.
REGION_ARGUMENTS = ("region_image_index", "region_input_ids", "hard_input_ids", "hard_region_index")
NEGATIVE_ARGUMENTS = ("negative_input_ids", "negative_text_index")

_NEEDS_PLAN = "a loss in one graph needs the plan that BetaCLIPDataCollator adds to a batch"
# torch before 2.8 shows no reason.
_takes_reason = "reason" in signature(torch.compiler.disable).parameters
_outside_of_graphs: Any = partial(torch.compiler.disable, **({"reason": _NEEDS_PLAN} if _takes_reason else {}))


class FlatBatchModel:
    """
    Embeds flat batches and computes their loss, on towers of any kind: a base class beside that of the towers.

    A model gives it how its towers encode images and texts, and has a configuration with [`BatchSettings`].
    """

    config: Any
    pooler: TextConditionedPooler | None
    # The class of what `forward` returns: an output of transformers with the fields of `BetaCLIPOutput`.
    output_class: Any
    # Set by `loss_context`.
    _gather: Gather | None = None
    _objective: Objective | None = None

    # How the towers encode: of images, features `(B, D)` and patch features; of all texts of a `FlatBatch` and its
    # packing, features `(T, D)`. All of them are un-normalised.
    encode_images: Callable[..., tuple[Tensor, Any]]
    encode_batch_texts: Callable[[FlatBatch, Any], Tensor]
    # Plans the texts of a batch that has no plan. This waits for a GPU.
    pack_batch_texts: Callable[[FlatBatch], Any]
    # Pools the patch features of each box of a `RegionBatch`, `(R, D)`.
    pool_boxes: Callable[..., Tensor]
    # Returns a number `(T,)` int64 for each text, equal for equal texts.
    hash_texts: Callable[[Tensor], Tensor]
    # Computes a batch without `image_index` as the model of the towers does, and images or texts that come alone.
    plain_outputs: Callable[..., Any]
    forward: Callable[..., Any]

    # A batch

    def outputs_of(
        self,
        input_ids: Tensor | None,
        pixel_values: Tensor | None,
        image_index: Tensor | None,
        arguments: Mapping[str, Any],
        kwargs: dict[str, Any],
        *,
        return_loss: bool | None,
        image_options: Mapping[str, Any],
        text_options: Mapping[str, Any],
    ) -> Any:
        """
        Returns what `forward` returns, of a plain batch or of a flat one.

        Args:
            input_ids, pixel_values, image_index, return_loss: The arguments of `forward`.
            arguments: By name, what `forward` takes of kinds of texts, of regions, and of negatives.
            kwargs: What is not in the signature of `forward`.
            image_options: What the towers take beside `pixel_values`.
            text_options: What a plain batch takes beside `input_ids`.

        Raises:
            ValueError, TypeError: See `forward`.
        """
        check_not_traced(image_index)
        # Internal: the `BatchPlan` of this very batch, which the collator adds, and which the model trusts. Without it
        # the model works the plan out, checks it, and waits for the GPU.
        plan = kwargs.pop("plan", None)
        tensors = {"input_ids": input_ids, "pixel_values": pixel_values, "image_index": image_index, **arguments}
        check_tensors(tensors)
        # As internal: the scale of pixels that come as bytes.
        pixel_values = scaled_pixels(pixel_values, kwargs.pop("pixel_scale", None))
        if pixel_values is not None and pixel_values.shape[0] == 0:
            raise ValueError("pixel_values must hold at least one image, but holds none")
        if image_index is None:
            check_unset(arguments, "image_index")
            # The model of the towers would take any name without a word.
            kwargs = checked_arguments_of_plain_batch(kwargs, self.forward)
            kwargs.update(**image_options, **text_options, return_loss=return_loss)
            return self.plain_outputs(input_ids, pixel_values, **kwargs)
        check_arguments_of_flat_batch(kwargs, self.config)
        batch = self.flat_batch(
            input_ids,
            pixel_values,
            image_index,
            arguments,
            plan=plan,
            has_loss=bool(return_loss),
            image_options=image_options,
        )
        return self.flat_outputs(batch)

    def flat_batch(
        self,
        input_ids: Tensor | None,
        pixel_values: Tensor | None,
        image_index: Tensor,
        arguments: Mapping[str, Any],
        *,
        plan: BatchPlan | None,
        has_loss: bool,
        image_options: Mapping[str, Any],
    ) -> FlatBatch:
        """
        Makes a batch of the arguments of `forward`.

        Args:
            input_ids, pixel_values, image_index, plan, has_loss, image_options: As for [`FlatBatch`].
            arguments: By name, what `forward` takes of kinds of texts, of regions, and of negatives.

        Raises:
            ValueError: If images or texts are missing, an argument lacks another one, or shapes disagree.
        """
        if input_ids is None or pixel_values is None:
            raise ValueError("image_index needs input_ids and pixel_values beside it, but one of them is missing")
        regions = None
        if arguments["boxes"] is None:
            check_unset({name: arguments[name] for name in REGION_ARGUMENTS}, "boxes")
        else:
            regions = RegionBatch(arguments["boxes"], *(arguments[name] for name in REGION_ARGUMENTS))
        negatives = None
        negative_arguments = [arguments[name] for name in NEGATIVE_ARGUMENTS]
        if any(argument is not None for argument in negative_arguments):
            negatives = TextNegatives(*negative_arguments)
        # Texts of regions and negatives serve a loss only.
        texts = BatchTexts(input_ids)
        if has_loss:
            texts = self.texts_to_encode(input_ids, regions, negatives)
        return FlatBatch(
            pixel_values, texts, image_index, arguments["granularity"], regions, plan, has_loss, image_options
        )

    def flat_outputs(self, batch: FlatBatch) -> Any:
        """Embeds a batch and computes its loss, if it has one: what `forward` returns."""
        embeds = self.embed_batch(batch)
        # Autocast would run this product in half precision: logits up to 100 need more digits than that.
        with torch.autocast(embeds.image_BD.device.type, enabled=False):
            logits_BT = multiplier(self._logit_scale("logit_scale")) * embeds.image_BD @ embeds.text_TD.T
        if hasattr(self, "logit_bias"):
            logits_BT = logits_BT + self._logit_scale("logit_bias").to(logits_BT)
        outputs = self.output_class(
            logits_per_image=logits_BT,
            logits_per_text=logits_BT.T,
            image_embeds=embeds.image_BD,
            text_embeds=embeds.text_TD,
            contextualized_embeds=embeds.contextualized_TD,
            region_embeds=embeds.region_RD,
        )
        if batch.has_loss:
            outputs.loss, outputs.losses = self.loss_of(embeds)
        return outputs

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
        if needs_rows(self.config, "regions"):
            texts.region_input_ids = regions.input_ids
        if needs_rows(self.config, "hard_texts"):
            texts.hard_input_ids = regions.hard_input_ids
        return texts

    def embed_batch(self, batch: FlatBatch) -> FlatEmbeds:
        """Embeds a batch in one pass of each tower."""
        plan = batch.plan or self._plan_batch(batch)
        # A copy from pinned memory runs beside what the GPU computes.
        plan = plan.to(batch.image_index.device, non_blocking=True)
        image_options = dict(batch.image_options)
        if plan.grid_sizes is not None:
            # Numbers of the CPU: the vision tower would wait for those of a GPU.
            image_options["spatial_shapes"] = torch.tensor(plan.grid_sizes)
        image_features_BD, patches = self.encode_images(batch.pixel_values, **image_options)
        all_text_embeds = normalize(self.encode_batch_texts(batch, plan.packing))
        text_TD, region_text_RD, hard_text_ND, negative_nD = batch.texts.split(all_text_embeds)
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
            self._pool_for_texts(embeds, patches, plan)
            if batch.has_loss and self.config.text_conditioned_loss_weight:
                embeds.score_pairs = partial(self.pooler.score_pairs, patches)
        if batch.regions is not None:
            regions = batch.regions
            region_features_RD = self.pool_boxes(batch.pixel_values, patches, regions, slots=plan.region_slots)
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

    def _pool_for_texts(self, embeds: FlatEmbeds, patches: Patches, plan: BatchPlan) -> None:
        """Pools each text's image for the text and, where a part of the loss needs it, for the text's negatives."""
        assert self.pooler is not None
        text_TD = embeds.text_TD
        if embeds.negative_nD is None or embeds.negative_text_index_n is None or not self._pools_negatives:
            pooled_TD, _ = self.pooler(text_TD, patches, embeds.image_index_T, slots=plan.text_slots)
            embeds.contextualized_TD = normalize(pooled_TD)
            return
        # In one pass, which projects the patches of an image once.
        image_index_n = embeds.image_index_T[embeds.negative_text_index_n]
        pooled, _ = self.pooler(
            torch.cat([text_TD, embeds.negative_nD]),
            patches,
            torch.cat([embeds.image_index_T, image_index_n]),
            slots=plan.negative_slots,
        )
        counts = [text_TD.shape[0], embeds.negative_nD.shape[0]]
        embeds.contextualized_TD, embeds.contextualized_negative_nD = normalize(pooled).split(counts)

    @_outside_of_graphs
    def _plan_batch(self, batch: FlatBatch) -> BatchPlan:
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
            self.pack_batch_texts(batch),
            batch.image_index.cpu(),
            len(batch.pixel_values),
            granularity_T=granularity_T,
            region_image_index_R=region_image_index_R,
            negative_text_index_n=negative_text_index_n,
        )

    def loss_of(self, embeds: FlatEmbeds) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the loss and its parts, computed as the present [`loss_context`] asks."""
        if self._objective is not None:
            return self._objective(embeds, self.loss_scales())
        return self.objective_of(embeds, self.loss_scales(), self._gather)

    def objective_of(
        self, embeds: FlatEmbeds, scales: dict[str, Tensor], gather: Gather | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the loss and its parts from embeddings and scales that may come from several batches."""
        modules = {"rank_loss": getattr(self, "rank_loss", None)}
        return batch_objective(self.config, embeds, scales, gather, modules)

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
        """
        Returns the logarithm of the logit scale of each part of the loss that this model can compute, by name.

        The bias of a sigmoid contrast is "logit_bias".
        """
        scales = {}
        # Several parts have one scale.
        scale_by_parameter: dict[str, Tensor] = {}
        for name, part in LOSS_PARTS.items():
            is_known = hasattr(self.config, part.weight)
            if is_known and (part.requires is None or getattr(self.config, part.requires)):
                if part.logit_scale not in scale_by_parameter:
                    scale_by_parameter[part.logit_scale] = self._logit_scale(part.logit_scale)
                scales[name] = scale_by_parameter[part.logit_scale]
        if hasattr(self, "logit_bias"):
            scales["logit_bias"] = self._logit_scale("logit_bias")
        return scales

    def _logit_scale(self, name: str) -> Tensor:
        """Returns a logit scale by the name of its parameter."""
        if self.pooler is not None and name == "pooler.logit_scale":
            return self.pooler.read_logit_scale()
        # Not `get_parameter`, which refuses what `torch.func` puts in a parameter's place.
        scale: Tensor = attrgetter(name)(self)
        # Without the axis that FSDP2 asks for.
        return scale.squeeze() if scale.ndim else scale


__all__ = ["NEGATIVE_ARGUMENTS", "REGION_ARGUMENTS", "FlatBatchModel"]
