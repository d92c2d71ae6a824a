# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""How a model on SigLIP 2 towers is made and loaded: from sizes, FG-CLIP 2, SigLIP 2, SigLIP, or our own checkpoint."""

from typing import Any

import torch
from torch import nn
from transformers import initialization as init

from .adapters_beta_clip import is_adapter, load_adapter
from .checkpoints_beta_clip import read_weights, weight_names
from .checkpoints_beta_siglip2 import (
    FG_CLIP2,
    FIXED_SIGLIP,
    FOREIGN_TYPES,
    LONG_TABLE,
    config_of,
    from_fg_clip2,
    from_siglip,
)
from .configuration_beta_clip import hub_arguments_of
from .configuration_beta_siglip2 import SIGLIP_TEXT_POSITIONS, BetaSiglip2Config
from .encoding_beta_clip import EncodingModel
from .loading_checks_beta_clip import check_model_type, check_quantization, load_checked
from .loss_beta_siglip2 import RankLoss
from .patch_head_beta_siglip2 import PatchHead
from .pooler_beta_clip import TextConditionedPooler
from .positions_beta_clip import KEPT_TEXT_POSITIONS, stretch_table
from .publishing_beta_clip import PublishedModel
from .similar_names_beta_clip import check_misspelt
from .towers_beta_siglip2 import LastSiglip2TextLayer, Siglip2Towers, Siglip2TwoPathTextEmbeddings


# What a model is loaded from, as the message on a checkpoint of another kind says it.
ACCEPTED = (
    "ours ('beta_siglip2'), or of FG-CLIP 2 ('fgclip2'), SigLIP 2 ('siglip2') or SigLIP ('siglip') with both towers"
)
# The parts that SigLIP 2 and SigLIP lack, each as a whole: the beginnings of the names of their tensors.
PATH_PARTS = ("text_model.embeddings.long_position_embedding.", "long_text_head.", "box_text_head.", "patch_head.")
# What a model with `use_regions` has beside. The threshold is a run's own: no checkpoint of others has it.
REGION_PARAMETERS = ("region_logit_scale", "hard_negative_logit_scale")
THRESHOLD_PART = "rank_loss."
POOLER_PART = "pooler."


class BetaSiglip2PreTrainedModel(PublishedModel, EncodingModel, Siglip2Towers):
    """The parts of a model, their first values, and `from_pretrained`; what it computes is [`BetaSiglip2Model`]."""

    config_class = BetaSiglip2Config
    # A BetaSiglip2Config. transformers types its sub-configurations too loosely to be of use.
    config: Any
    # With `True` the Trainer would rescale the loss by token counts under gradient accumulation. A contrast is a mean
    # over pairs already.
    accepts_loss_kwargs = False
    # exp(logit_scale) of bfloat16 is off by half a percent, and steps of a small learning rate are lost in it.
    _keep_in_fp32_modules_strict: Any = ("logit_scale", "logit_bias", "threshold", *REGION_PARAMETERS)
    _no_split_modules: Any = (
        *(Siglip2Towers._no_split_modules or ()),
        LastSiglip2TextLayer.__name__,
        Siglip2TwoPathTextEmbeddings.__name__,
        PatchHead.__name__,
        TextConditionedPooler.__name__,
    )

    def __init__(self, config: BetaSiglip2Config) -> None:
        super().__init__(config)
        self.pooler = TextConditionedPooler(config) if config.use_pooler else None
        if config.use_regions:
            for name in REGION_PARAMETERS:
                self.register_parameter(name, nn.Parameter(torch.tensor(config.region_logit_scale_init_value)))
            self.rank_loss = RankLoss()
        self.post_init()
        # accelerate refuses the name of a class of which the model has no module.
        present = {type(module).__name__ for module in self.modules()}
        self._no_split_modules = present.intersection(self._no_split_modules)
        # A name of this list that no tensor has would hide a typing error: transformers' own test refuses it.
        names = set(".".join(self.state_dict()).split("."))
        self._keep_in_fp32_modules_strict = names.intersection(self._keep_in_fp32_modules_strict)

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights, but for the scales, which come first and are always float32."""
        dtype: torch.dtype = self.text_model.embeddings.token_embedding.weight.dtype
        return dtype

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *model_args: Any, config: Any = None, **kwargs: Any
    ) -> Any:
        r"""
        Loads a checkpoint of ours, of FG-CLIP 2, of SigLIP 2 or of SigLIP.

        It takes the arguments of [`~transformers.PreTrainedModel.from_pretrained`], and fields of
        [`BetaSiglip2Config`]. Every tensor of the checkpoint is used as it is.

        - FG-CLIP 2 (`model_type` "fgclip2") has all parts but the pooler. With the logit scales that training adds,
          `use_regions` is True.
        - SigLIP 2 ("siglip2", or "siglip" of a fixed resolution) and SigLIP ("siglip") get the long and the box path
          and the patch head from what they have: the stretched positions, copies of the text head, and a copy of the
          pooling head. Of a fixed resolution, the convolution over patches becomes a linear layer.
        - An adapter (LoRA) is merged into its base model, which is loaded first. It needs peft.

        Logit scales of regions that are new start from `region_logit_scale_init_value`. With `use_pooler=True` a pooler
        that a checkpoint lacks starts at random.

        Raises:
            TypeError: If an argument is almost a field of the configuration; the message says which one was meant.
            ValueError: If it is a checkpoint of another kind, a tensor is missing that is not of a new part, or has
                another shape.

        Source: arXiv 2510.10921 and its release (the start from SigLIP 2).
        """
        check_quantization(kwargs)
        check_misspelt(kwargs, cls.config_class.__dataclass_fields__, f"{cls.__name__}.from_pretrained")
        hub_arguments = hub_arguments_of(kwargs)
        source = pretrained_model_name_or_path
        if source is not None and is_adapter(source, **hub_arguments):
            return load_adapter(source, cls, config=config, **kwargs)
        # Without a source transformers makes a model of a config and a state dict.
        stored = {} if source is None else cls.config_class.get_config_dict(source, **hub_arguments)[0]
        model_type = stored.get("model_type")
        if source is not None:
            check_model_type(
                stored, source, (cls.config_class.model_type, *FOREIGN_TYPES), "BetaSiglip2Model", ACCEPTED
            )
        if model_type in FOREIGN_TYPES and config is None:
            config = config_of(stored, weight_names(source, **hub_arguments), kwargs)
            config.name_or_path = str(source)
        if model_type in (FG_CLIP2, FIXED_SIGLIP):
            kwargs["state_dict"] = _converted_weights(stored, source, hub_arguments)
            source = None
            # Nothing is left to read from the Hub.
            kwargs = {name: value for name, value in kwargs.items() if name not in hub_arguments}

        wants_info = kwargs.pop("output_loading_info", False)
        checkpoint = pretrained_model_name_or_path
        parts = _new_parts(stored)
        model, info = load_checked(
            super().from_pretrained, source, *model_args, checkpoint=checkpoint, parts=parts, config=config, **kwargs
        )
        # Fields that were given as arguments have been set one by one, unchecked.
        model.config.validate_architecture()
        model._start_from_siglip(set(info["missing_keys"]))
        return (model, info) if wants_info else model

    @torch.no_grad()
    def _start_from_siglip(self, missing: set[str]) -> None:
        """
        Starts the parts that a checkpoint lacks from what SigLIP has of the same kind.

        Args:
            missing: Names of the tensors that the checkpoint lacks.
        """
        embeddings = self.text_model.embeddings
        if LONG_TABLE in missing:
            long_table = embeddings.long_position_embedding.weight
            table = embeddings.position_embedding.weight
            long_table.copy_(stretch_table(table, len(long_table), SIGLIP_TEXT_POSITIONS))
        sources = {
            "long_text_head": self.text_model.head,
            "box_text_head": self.text_model.head,
            "patch_head": self.vision_model.head,
        }
        for name, source in sources.items():
            if any(tensor.startswith(f"{name}.") for tensor in missing):
                self.get_submodule(name).load_state_dict(source.state_dict())

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        # transformers' own functions: they leave alone what a checkpoint has filled already.
        if isinstance(module, TextConditionedPooler):
            module.start_weights()
        elif isinstance(module, RankLoss):
            init.zeros_(module.threshold)
        elif isinstance(module, PatchHead):
            # It is not used. The stock class would draw random numbers, of which each new model has others.
            init.zeros_(module.probe)
        elif module is self:
            # The stock model's `__init__` comes here before ours has made the scales.
            for name in self._parameters.keys() & REGION_PARAMETERS:
                init.constant_(self.get_parameter(name), self.config.region_logit_scale_init_value)


def _converted_weights(stored: dict[str, Any], source: Any, hub_arguments: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Reads the weights of FG-CLIP 2 or of a SigLIP of a fixed resolution under our names."""
    weights = read_weights(source, **hub_arguments)
    if stored["model_type"] == FIXED_SIGLIP:
        return from_siglip(weights)
    text_config = stored.get("text_config") or {}
    return from_fg_clip2(weights, text_config.get("keep_len", KEPT_TEXT_POSITIONS))


def _new_parts(stored: dict[str, Any]) -> tuple[str, ...]:
    """Returns the parts that a checkpoint may lack, by the beginnings of the names of their tensors."""
    region_parts = (*REGION_PARAMETERS, THRESHOLD_PART)
    if not stored or stored["model_type"] not in (FG_CLIP2, BetaSiglip2Config.model_type):
        return (*PATH_PARTS, *region_parts, POOLER_PART)
    parts = [] if stored.get("use_regions") else list(region_parts)
    if not stored.get("use_pooler"):
        parts.append(POOLER_PART)
    return tuple(parts)


__all__ = ["BetaSiglip2PreTrainedModel"]
