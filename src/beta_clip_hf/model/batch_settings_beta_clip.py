# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""The settings of a flat batch that configurations of all towers share: the pooler, regions, parts of the loss."""

from dataclasses import dataclass
from typing import Any

from .similar_names_beta_clip import check_fields, check_settable


ALIGNMENT_LOSSES = ("ce", "bce")


# Without its type: configurations of transformers take more arguments than the fields that a type checker would see.
_as_dataclass: Any = dataclass


@_as_dataclass
class BatchSettings:
    """
    Gives a configuration these fields. [`BetaCLIPConfig`] says what each of them means.

    A configuration that inherits from it may have other defaults.
    """

    use_pooler: bool = True
    pooler_num_attention_heads: int = 8
    pooler_mlp_ratio: int | float = 4
    pooler_hidden_act: str = "quick_gelu"
    pooler_layer_norm_eps: int | float = 1e-5
    pooler_qkv_layer_norm: bool = False
    pooler_null_token: bool = False
    pooler_logit_scale_init_value: int | float = 2.6592
    beta: int | float = 0.5
    alignment_loss: str = "ce"
    mask_identical_texts: bool = False
    use_regions: bool = False
    mask_identical_region_texts: bool = False
    beta_cal_loss_weight: int | float = 1.0
    text_clip_loss_weight: int | float = 0.0
    text_conditioned_loss_weight: int | float = 0.0
    region_loss_weight: int | float = 0.1
    hard_negative_loss_weight: int | float = 0.5
    text_negative_loss_weight: int | float = 0.0
    conditioned_negative_loss_weight: int | float = 0.0

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """
        Makes a configuration of a stored one and of arguments, as [`~transformers.PreTrainedConfig.from_dict`] does.

        Raises:
            TypeError: If an argument is almost a field, or cannot be set; the message says which one was meant.
        """
        check_settable(kwargs, cls)
        base: Any = super()
        made = base.from_dict(config_dict, **kwargs)
        # With the arguments that are left over.
        config = made[0] if isinstance(made, tuple) else made
        check_fields(kwargs, config)
        return made

    def check_batch_settings(self, width: Any) -> None:
        """
        Checks the values.

        Args:
            width: D, the width of embeddings.

        Raises:
            ValueError: If a value is outside of its range.
        """
        if self.use_pooler and width % self.pooler_num_attention_heads != 0:
            raise ValueError(
                f"pooler_num_attention_heads must divide projection_dim ({width}), "
                f"but is {self.pooler_num_attention_heads}"
            )
        if not 0 <= self.beta <= 1:
            raise ValueError(f"beta must be in [0, 1], but is {self.beta}")
        if self.alignment_loss not in ALIGNMENT_LOSSES:
            raise ValueError(f"alignment_loss must be one of {ALIGNMENT_LOSSES}, but is {self.alignment_loss!r}")
        # All weights, also those that a subclass adds.
        for name in vars(type(self))["__dataclass_fields__"]:
            if name.endswith("_loss_weight") and getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, but is {getattr(self, name)}")


__all__ = ["ALIGNMENT_LOSSES", "BatchSettings"]
