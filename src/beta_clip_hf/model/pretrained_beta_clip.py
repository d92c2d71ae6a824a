# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""How a model is made and loaded: from sizes, from a checkpoint of ours, from plain CLIP, from FG-CLIP."""

from copy import deepcopy
from typing import Any

import torch
from torch import nn
from transformers import initialization as init

from .adapters_beta_clip import is_adapter, load_adapter
from .checkpoints_beta_clip import FG_CLIP_SWITCHES, LONG_TABLE, from_fg_clip, is_fg_clip, read_weights, weight_names
from .configuration_beta_clip import CLIP_TEXT_POSITIONS, LONG_TEXT_POSITIONS, BetaCLIPConfig, hub_arguments_of
from .encoding_beta_clip import EncodingModel
from .last_blocks_beta_clip import LastTextLayer
from .loading_checks_beta_clip import check_model_type, check_quantization, load_checked, new_parts
from .objective_beta_clip import added_logit_scales
from .pooler_beta_clip import TextConditionedPooler
from .positions_beta_clip import stretch_table, stretch_text_positions
from .publishing_beta_clip import PublishedModel
from .similar_names_beta_clip import check_misspelt
from .towers_beta_clip import CLIPTowers, TwoPathTextEmbeddings


class BetaCLIPPreTrainedModel(PublishedModel, EncodingModel, CLIPTowers):
    """The parts of a model, their first values, and `from_pretrained`; what it computes is [`BetaCLIPModel`]."""

    config_class = BetaCLIPConfig
    # A BetaCLIPConfig. transformers types its sub-configurations too loosely to be of use.
    config: Any
    # With `True` the Trainer would rescale the loss by token counts under gradient accumulation. A contrast is a mean
    # over pairs already.
    accepts_loss_kwargs = False
    # Classes of modules that are moved to a device, or sharded, as a whole; `__init__` drops those that a model lacks.
    _no_split_modules: Any = (
        *(CLIPTowers._no_split_modules or ()),
        LastTextLayer.__name__,
        TwoPathTextEmbeddings.__name__,
        TextConditionedPooler.__name__,
    )

    def __init__(self, config: BetaCLIPConfig) -> None:
        super().__init__(config)
        self.pooler = TextConditionedPooler(config) if config.use_pooler else None
        if self.pooler is not None:
            self.pooler.block_runner = self.block_runner
        for name in added_logit_scales(config):
            self.register_parameter(name, nn.Parameter(torch.tensor(config.logit_scale_init_value)))
        self.post_init()
        # accelerate refuses the name of a class of which the model has no module.
        present = {type(module).__name__ for module in self.modules()}
        self._no_split_modules = present.intersection(self._no_split_modules)

    def get_input_embeddings(self) -> nn.Module:
        """Returns the embeddings of tokens."""
        return self.text_model.embeddings.token_embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replaces the embeddings of tokens."""
        self.text_model.embeddings.token_embedding = value

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *model_args: Any, config: Any = None, **kwargs: Any
    ) -> Any:
        r"""
        Loads a checkpoint of ours, of any plain CLIP or of FG-CLIP.

        It takes the arguments of [`~transformers.PreTrainedModel.from_pretrained`], and fields of [`BetaCLIPConfig`].

        - A plain CLIP (`model_type` "clip") keeps its weights bit for bit, its 77 text positions are stretched to 248
          (method of Long-CLIP) and the pooler is new. Any other number of positions stays. With `use_long_text_path`
          the positions stay for the short path; the stretched ones, and a copy of the text projection, make the long
          path. With `use_regions` the scales of regions and hard negatives start from CLIP's.
        - FG-CLIP (`model_type` "clip", with `text_filip_projection` among its tensors) is loaded as it is, with both
          text paths and all scales, and without a pooler unless `use_pooler=True`.
        - A checkpoint of ours is loaded as it is, whatever its positions.
        - An adapter (LoRA) is merged into its base model, which is loaded first. It needs peft.

        Raises:
            TypeError: If an argument is almost a field of the configuration; the message says which one was meant.
            ValueError: If it is a checkpoint of another kind, a tensor is missing that is not of a new part, has
                another shape, or holds NaN or infinity.
        """
        check_quantization(kwargs)
        check_misspelt(kwargs, cls.config_class.__dataclass_fields__, f"{cls.__name__}.from_pretrained")
        hub_arguments = hub_arguments_of(kwargs)
        source = pretrained_model_name_or_path
        if source is not None and is_adapter(source, **hub_arguments):
            return load_adapter(source, cls, config=config, **kwargs)
        # Without a source transformers makes a model of a config and a state dict.
        stored = {} if source is None else cls.config_class.get_config_dict(source, **hub_arguments)[0]
        if source is not None:
            check_model_type(stored, source, (cls.config_class.model_type, "clip"))
        is_stock = stored.get("model_type") == "clip"
        is_theirs = is_stock and is_fg_clip(weight_names(source, **hub_arguments))
        if is_stock:
            if config is None:
                config = _config_of_clip(stored, is_theirs, kwargs)
            config = _with_stored_positions(config, stored)
        if is_theirs:
            config.name_or_path = str(source)
            kwargs["state_dict"] = from_fg_clip(read_weights(source, **hub_arguments))
            source = None
            # Nothing is left to read from the Hub.
            kwargs = {name: value for name, value in kwargs.items() if name not in hub_arguments}

        wants_info = kwargs.pop("output_loading_info", False)
        checkpoint = pretrained_model_name_or_path
        parts = new_parts(stored)
        model, info = load_checked(
            super().from_pretrained, source, *model_args, checkpoint=checkpoint, parts=parts, config=config, **kwargs
        )
        # Fields that were given as arguments have been set one by one, unchecked.
        model.config.validate_architecture()
        model._start_from_clip(set(info["missing_keys"]), stretch=is_stock)
        return (model, info) if wants_info else model

    @torch.no_grad()
    def _start_from_clip(self, missing: set[str], *, stretch: bool) -> None:
        """
        Starts what a checkpoint lacks from what CLIP has of the same kind. Only the pooler starts at random.

        Args:
            missing: Names of the tensors that the checkpoint lacks.
            stretch: Whether it is a plain CLIP, whose 77 positions are stretched if they are the only ones.
        """
        embeddings = self.text_model.embeddings
        table = embeddings.position_embedding.weight
        has_clips_positions = len(table) == CLIP_TEXT_POSITIONS
        if LONG_TABLE in missing:
            long_table = embeddings.long_position_embedding.weight
            long_table.copy_(stretch_table(table, len(long_table)))
        elif stretch and not self.config.use_long_text_path and has_clips_positions:
            self._set_text_positions(stretch_text_positions(table))
        if self.long_text_projection is not None and "long_text_projection.weight" in missing:
            self.long_text_projection.weight.copy_(self.text_projection.weight)
        for name in missing.intersection(added_logit_scales()):
            self.get_parameter(name).copy_(self.logit_scale)

    def _set_text_positions(self, table: torch.Tensor) -> None:
        """Replaces the text positions by a table of another length, in the weights, the buffer and both configs."""
        embeddings = self.text_model.embeddings
        embeddings.position_embedding = nn.Embedding.from_pretrained(table, freeze=False)
        embeddings.position_ids = torch.arange(len(table), device=table.device).expand((1, -1))
        self.config.text_config.max_position_embeddings = len(table)
        # The text model may hold a copy of its config.
        self.text_model.config.max_position_embeddings = len(table)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        # transformers' own functions: they leave alone what a checkpoint has filled already.
        if isinstance(module, TextConditionedPooler):
            module.start_weights()
        elif isinstance(module, TwoPathTextEmbeddings):
            init.normal_(module.long_position_embedding.weight, std=0.02 * self.config.initializer_factor)
        elif module is getattr(self, "long_text_projection", None):
            init.normal_(module.weight, std=self.text_embed_dim**-0.5 * self.config.initializer_factor)
        elif module is self:
            # The stock model's `__init__` comes here before ours has made the scales.
            for name in self._parameters.keys() & set(added_logit_scales()):
                init.constant_(self.get_parameter(name), self.config.logit_scale_init_value)


def _config_of_clip(stored: dict[str, Any], is_theirs: bool, kwargs: dict[str, Any]) -> BetaCLIPConfig:
    """
    Makes our configuration from the stored one of CLIP or FG-CLIP.

    Args:
        stored: The content of its config.json.
        is_theirs: Whether it is FG-CLIP.
        kwargs: The arguments of `from_pretrained`. Those that are fields of the configuration are taken out.
    """
    # "dtype" is an argument of `from_pretrained` as well, and is left for it.
    fields = BetaCLIPConfig.__dataclass_fields__.keys() - {"dtype"}
    values = dict(stored)
    if is_theirs:
        values.update(FG_CLIP_SWITCHES)
    for name in fields & kwargs.keys():
        values[name] = kwargs.pop(name)
    # A long path is never shorter than the short one.
    positions = _stored_positions(stored)
    values.setdefault("long_text_max_position_embeddings", max(LONG_TEXT_POSITIONS, positions))
    return BetaCLIPConfig(**values)


def _stored_positions(stored: dict[str, Any]) -> int:
    """Returns the number of text positions of a CLIP. Its file may leave out the usual 77."""
    text_config = stored.get("text_config") or {}
    return int(text_config.get("max_position_embeddings", CLIP_TEXT_POSITIONS))


def _with_stored_positions(config: Any, stored: dict[str, Any]) -> Any:
    """Copies a configuration, with as many text positions as the checkpoint has: its table has to fit first."""
    config = deepcopy(config)
    config.text_config.max_position_embeddings = _stored_positions(stored)
    return config


__all__ = ["BetaCLIPPreTrainedModel"]
