# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""Configuration of FG-CLIP 2 and SigLIP 2: that of SigLIP 2, plus text paths, the pooler, regions and the losses."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import Siglip2Config

from .batch_settings_beta_clip import BatchSettings
from .similar_names_beta_clip import check_fields, check_settable


SIGLIP_TEXT_POSITIONS = 64
LONG_SIGLIP_TEXT_POSITIONS = 196
# "box" is for the texts of regions: the positions of "short", and a head of its own.
SIGLIP_TEXT_PATHS = ("short", "long", "box")
# The paths of captions, sentences, phrases and short captions in a flat batch.
DEFAULT_TEXT_PATHS = ("long", "short", "box", "short")


@strict
class BetaSiglip2Config(BatchSettings, Siglip2Config):
    r"""
    Configures a [`BetaSiglip2Model`]. It keeps everything of [`~transformers.Siglip2Config`], and has the fields of
    [`BetaCLIPConfig`] for the pooler, β-CAL, regions and negatives, with the defaults that are named here.

    A part of the loss that has weight 0, or that the batch has no rows for, is not computed. The weights are those of
    the release of FG-CLIP 2.

    Args:
        long_text_max_position_embeddings (`int`, defaults to 196): Positions of the long text path.
        caption_text_path, sentence_text_path, phrase_text_path, short_caption_text_path (`"short" | "long" | "box"`):
            The path that texts of each kind take in a flat batch: "long", "short", "box" and "short" by default. Texts
            of regions and hard texts always take "box", negatives of a text the path of the text.
        use_pooler (`bool`, defaults to `False`): Whether the model has a text-conditioned pooler.
        pooler_hidden_act (`str`, defaults to `"gelu_pytorch_tanh"`): Activation of the pooler's MLP.
        pooler_layer_norm_eps (`float`, defaults to 1e-6): Epsilon of the pooler's layer norms.
        use_regions (`bool`, defaults to `False`):
            Whether the model learns from boxes: it then has logit scales for regions and for hard negatives, and the
            threshold of the rank loss. Region features need none of these.
        region_logit_scale_init_value (`float | int`, defaults to 4.6052):
            First value, ln 100 as FG-CLIP 2 rounds it, of both of these logit scales.
        sigmoid_loss_weight (`float | int`, defaults to 1): Weight of `sigmoid_loss` of images and captions.
        short_sigmoid_loss_weight (`float | int`, defaults to 1): The same of images and their short captions.
        region_loss_weight (`float | int`, defaults to 0.2): Weight of `region_loss`.
        intra_text_loss_weight (`float | int`, defaults to 0.1): Weight of `intra_text_loss` (L_TIC).
        intra_text_leaves_out_similar (`bool`, defaults to `False`):
            Whether `intra_text_loss` leaves out texts that are too similar, instead of counting them as 0.
        hard_contrast_loss_weight (`float | int`, defaults to 0.3): Weight of `hard_contrast_loss` (L_con).
        hard_negative_loss_weight (`float | int`, defaults to 1.5): Weight of `hard_negative_loss` (L_pair).
        rank_loss_weight (`float | int`, defaults to 0.2): Weight of `rank_loss` (L_CMR).
        rank_loss_on_cosines (`bool`, defaults to `False`):
            Whether `rank_loss` compares cosines, as the paper writes it, instead of logits, as released.

    Raises:
        TypeError: If an argument is almost a field. Any other unknown one is kept, as transformers does.
        ValueError: If a value is outside of its range, the vision tower has no pooling head, the towers differ in
            width, or the long text path has fewer positions than the short one.

    Example:

    ```python
    >>> from beta_clip_hf import BetaSiglip2Config
    >>> config = BetaSiglip2Config()
    >>> config.text_config.max_position_embeddings, config.long_text_max_position_embeddings
    (64, 196)

    ```
    """

    model_type = "beta_siglip2"

    long_text_max_position_embeddings: int = LONG_SIGLIP_TEXT_POSITIONS
    caption_text_path: str = DEFAULT_TEXT_PATHS[0]
    sentence_text_path: str = DEFAULT_TEXT_PATHS[1]
    phrase_text_path: str = DEFAULT_TEXT_PATHS[2]
    short_caption_text_path: str = DEFAULT_TEXT_PATHS[3]
    use_pooler: bool = False
    pooler_hidden_act: str = "gelu_pytorch_tanh"
    pooler_layer_norm_eps: int | float = 1e-6
    region_logit_scale_init_value: int | float = 4.6052
    sigmoid_loss_weight: int | float = 1.0
    short_sigmoid_loss_weight: int | float = 1.0
    region_loss_weight: int | float = 0.2
    intra_text_loss_weight: int | float = 0.1
    intra_text_leaves_out_similar: bool = False
    hard_contrast_loss_weight: int | float = 0.3
    hard_negative_loss_weight: int | float = 1.5
    rank_loss_weight: int | float = 0.2
    rank_loss_on_cosines: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        # A configuration that was made of that of another model keeps the type of this one.
        kwargs.pop("model_type", None)
        check_settable(kwargs, type(self))
        super().__post_init__(**kwargs)
        check_fields(kwargs, self)
        if not type(self).__module__.startswith("transformers_modules."):
            # It names the code that was saved beside the file. What is made of this configuration may have other code.
            self.__dict__.pop("auto_map", None)
        # `@strict` runs this once more, but turns its ValueError into an error of another type.
        self.validate_architecture()

    @property
    def projection_dim(self) -> int:
        """The width of embeddings."""
        vision_config: Any = self.vision_config
        width: int = vision_config.hidden_size
        return width

    @property
    def text_path_of_kind(self) -> tuple[str, ...]:
        """The text path of each kind of text, in the order of [`Granularity`]."""
        return (
            self.caption_text_path,
            self.sentence_text_path,
            self.phrase_text_path,
            self.short_caption_text_path,
        )

    def text_positions(self, path: str) -> int:
        """Returns the number of positions of a text path."""
        text_config: Any = self.text_config
        return self.long_text_max_position_embeddings if path == "long" else text_config.max_position_embeddings

    def validate_architecture(self) -> None:
        """Checks the values. `@strict` runs this at construction.

        Raises:
            ValueError: If a value is outside of its range.
        """
        text_config: Any = self.text_config
        vision_config: Any = self.vision_config
        # transformers 5.17 knows no vision tower without a head.
        if not getattr(vision_config, "vision_use_head", True):
            raise ValueError("vision_use_head must be True, because the head gives the image embedding, but is False")
        if text_config.projection_size != vision_config.hidden_size:
            raise ValueError(
                f"projection_size of the text tower must be hidden_size of the vision tower "
                f"({vision_config.hidden_size}), but is {text_config.projection_size}"
            )
        for path in self.text_path_of_kind:
            if path not in SIGLIP_TEXT_PATHS:
                raise ValueError(f"a text path must be one of {SIGLIP_TEXT_PATHS}, but is {path!r}")
        self.check_batch_settings(self.projection_dim)
        positions = text_config.max_position_embeddings
        if self.long_text_max_position_embeddings < positions:
            raise ValueError(
                f"long_text_max_position_embeddings must be at least max_position_embeddings ({positions}), "
                f"but is {self.long_text_max_position_embeddings}"
            )


__all__ = [
    "DEFAULT_TEXT_PATHS",
    "LONG_SIGLIP_TEXT_POSITIONS",
    "SIGLIP_TEXT_PATHS",
    "SIGLIP_TEXT_POSITIONS",
    "BetaSiglip2Config",
]
