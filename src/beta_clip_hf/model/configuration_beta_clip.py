# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""Configuration of β-CLIP and FG-CLIP: CLIP's own, plus the pooler, a second text path, regions and the losses."""

from collections.abc import Mapping
from enum import IntEnum
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import CLIPConfig

from .batch_settings_beta_clip import BatchSettings
from .similar_names_beta_clip import check_fields, check_settable


CLIP_TEXT_POSITIONS = 77
LONG_TEXT_POSITIONS = 248
# The text paths of a model with `use_long_text_path`. The number of a path is whether it is long.
TEXT_PATHS = ("short", "long")
# Keyword arguments of `from_pretrained` that say where a checkpoint is, and not how it is loaded.
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")


def hub_arguments_of(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those keyword arguments of `from_pretrained` that say where a checkpoint is."""
    return {name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs}


class Granularity(IntEnum):
    """The kind of a text in a flat batch. β-CAL runs over the first three kinds."""

    CAPTION = 0
    SENTENCE = 1
    PHRASE = 2
    SHORT_CAPTION = 3


@strict
class BetaCLIPConfig(BatchSettings, CLIPConfig):
    r"""
    Configures a [`BetaCLIPModel`]. It keeps everything of [`~transformers.CLIPConfig`].

    A new configuration has 248 text positions where CLIP has 77; with two text paths it has 77, and 248 for the long
    one. A configuration that is read from a checkpoint keeps the number written there.

    The values that shape the loss (`beta`, `alignment_loss` and the weights) are read at each forward pass: they may be
    changed on a live model.

    Args:
        use_pooler (`bool`, defaults to `True`):
            Whether the model has a text-conditioned pooler. Without one it is CLIP, and β-CAL is not available.
        pooler_num_attention_heads (`int`, defaults to 8): Heads of the pooler; must divide `projection_dim`.
        pooler_mlp_ratio (`int | float`, defaults to 4): Width of the pooler's MLP in units of `projection_dim`.
        pooler_hidden_act (`str`, defaults to `"quick_gelu"`): Activation of the pooler's MLP.
        pooler_layer_norm_eps (`float`, defaults to 1e-5): Epsilon of the pooler's layer norms.
        pooler_qkv_layer_norm (`bool`, defaults to `False`):
            Whether there is a LayerNorm on the pooler's queries and on its keys and values, as in FLAIR; β-CLIP has
            none.
        pooler_null_token (`bool`, defaults to `False`):
            Whether there is an extra all-zero key/value token, at which a text without a match in the image can look
            (FLAIR).
        pooler_logit_scale_init_value (`float | int`, defaults to 2.6592):
            First value, ln(1/0.07), of the pooler's own logit scale.
        beta (`float | int`, defaults to 0.5):
            β of β-CAL, in [0, 1]: the weight of a text's siblings (other texts of the same image) as its positives.
        alignment_loss (`"ce" | "bce"`, defaults to `"ce"`):
            The form of β-CAL, of `text_clip_loss` and of `text_conditioned_loss`.
        mask_identical_texts (`bool`, defaults to `False`):
            Whether β-CAL and `text_clip_loss` leave out pairs of two images that have the same text: they are neither
            positives nor negatives.
        use_long_text_path (`bool`, defaults to `False`):
            Whether there are two text paths, as in FG-CLIP. The short one is CLIP's own (77 positions). The long one,
            for captions, has a table of positions and a projection of its own. They share the rest of the tower.
        long_text_max_position_embeddings (`int`, defaults to 248): Positions of the long path.
        use_regions (`bool`, defaults to `False`):
            Whether the model learns from boxes: it then has logit scales for regions and for hard negatives.
        mask_identical_region_texts (`bool`, defaults to `False`):
            Whether regions with the same text are left out of each other's negatives in `region_loss`.
        clip_loss_weight (`float | int`, defaults to 1): Weight of `clip_loss` (image and caption, CLS and EOS).
        short_clip_loss_weight (`float | int`, *optional*):
            Weight of `short_clip_loss`: `clip_loss` of images and their short captions. Defaults to 1 with two text
            paths (FG-CLIP) and to 0 with one (β-CLIP).
        beta_cal_loss_weight (`float | int`, defaults to 1): Weight of `beta_cal_loss`.
        text_clip_loss_weight (`float | int`, defaults to 0):
            Weight of `text_clip_loss`: β-CAL's formula with the image embedding in the place of the pooled ones, so
            that sentences and phrases are positives of an image without a pooler.
        text_conditioned_loss_weight (`float | int`, defaults to 0):
            Weight of `text_conditioned_loss`, in the form of `alignment_loss`: every image of the batch is pooled for
            every text, and the texts of other images are negatives. It costs B · T passes of the pooler.
        region_loss_weight (`float | int`, defaults to 0.1): Weight of `region_loss`.
        hard_negative_loss_weight (`float | int`, defaults to 0.5):
            Weight of `hard_negative_loss` (FG-CLIP's β, which is not the β above).
        text_negative_loss_weight (`float | int`, defaults to 0):
            Weight of `text_negative_loss`: the image embedding picks a text out of a list with its negatives.
        conditioned_negative_loss_weight (`float | int`, defaults to 0):
            Weight of `conditioned_negative_loss`, which is the same with text-conditioned scores: the image of the text
            is pooled for each text of the list.

    A part of the loss that has weight 0, or that the batch has no rows for, is not computed.

    Raises:
        TypeError: If an argument is almost a field. Any other unknown one is kept, as transformers does.
        ValueError: If a value is outside of its range, or the heads do not divide `projection_dim`.

    Example:

    ```python
    >>> from beta_clip_hf import BetaCLIPConfig
    >>> config = BetaCLIPConfig(beta=0.25, alignment_loss="bce")
    >>> config.text_config.max_position_embeddings
    248

    ```
    """

    model_type = "beta_clip"

    use_long_text_path: bool = False
    long_text_max_position_embeddings: int = LONG_TEXT_POSITIONS
    clip_loss_weight: int | float = 1.0
    short_clip_loss_weight: int | float | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        # The file of a stock CLIP may leave out its 77 positions. The type is popped, so that the configuration made
        # here is not taken for a stock CLIP again.
        is_stock_clip = kwargs.pop("model_type", self.model_type) == CLIPConfig.model_type
        if self.text_config is None or isinstance(self.text_config, dict):
            positions = CLIP_TEXT_POSITIONS if is_stock_clip or self.use_long_text_path else LONG_TEXT_POSITIONS
            self.text_config = {"max_position_embeddings": positions, **(self.text_config or {})}
        if self.short_clip_loss_weight is None:
            self.short_clip_loss_weight = float(self.use_long_text_path)
        check_settable(kwargs, type(self))
        super().__post_init__(**kwargs)
        check_fields(kwargs, self)
        if not type(self).__module__.startswith("transformers_modules."):
            # It names the code that was saved beside the file. What is made of this configuration may have other code.
            self.__dict__.pop("auto_map", None)
        # `@strict` runs this once more, but turns its ValueError into an error of another type.
        self.validate_architecture()

    def validate_architecture(self) -> None:
        """Checks the values. `@strict` runs this at construction.

        Raises:
            ValueError: If a value is outside of its range.
        """
        self.check_batch_settings(self.projection_dim)


__all__ = ["HUB_ARGUMENTS", "TEXT_PATHS", "BetaCLIPConfig", "Granularity", "hub_arguments_of"]
