# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""Configuration of FG-CLIP 2 and SigLIP 2: that of SigLIP 2, plus a long text path and regions."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import Siglip2Config


SIGLIP_TEXT_POSITIONS = 64
LONG_SIGLIP_TEXT_POSITIONS = 196
# "box" is for the texts of regions: the positions of "short", and a head of its own.
SIGLIP_TEXT_PATHS = ("short", "long", "box")


@strict
class BetaSiglip2Config(Siglip2Config):
    r"""
    Configures a [`BetaSiglip2Model`]. It keeps everything of [`~transformers.Siglip2Config`].

    Args:
        long_text_max_position_embeddings (`int`, defaults to 196): Positions of the long text path.
        use_regions (`bool`, defaults to `False`):
            Whether the model learns from boxes: it then has logit scales for regions and for hard negatives, and the
            threshold of the rank loss. Region features need none of these.
        region_logit_scale_init_value (`float | int`, defaults to 4.6052):
            First value, ln 100 as FG-CLIP 2 rounds it, of both of these logit scales.

    Raises:
        ValueError: If the vision tower has no pooling head, the towers differ in width, or the long text path has fewer
            positions than the short one.

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
    use_regions: bool = False
    region_logit_scale_init_value: int | float = 4.6052

    def __post_init__(self, **kwargs: Any) -> None:
        # A configuration that was made of that of another model keeps the type of this one.
        kwargs.pop("model_type", None)
        super().__post_init__(**kwargs)
        # `@strict` runs this once more, but turns its ValueError into an error of another type.
        self.validate_architecture()

    def validate_architecture(self) -> None:
        """Checks the values. `@strict` runs this at construction.

        Raises:
            ValueError: If a value is outside of its range.
        """
        text_config: Any = self.text_config
        vision_config: Any = self.vision_config
        if not vision_config.vision_use_head:
            raise ValueError("vision_use_head must be True, because the head gives the image embedding, but is False")
        if text_config.projection_size != vision_config.hidden_size:
            raise ValueError(
                f"projection_size of the text tower must be hidden_size of the vision tower "
                f"({vision_config.hidden_size}), but is {text_config.projection_size}"
            )
        positions = text_config.max_position_embeddings
        if self.long_text_max_position_embeddings < positions:
            raise ValueError(
                f"long_text_max_position_embeddings must be at least max_position_embeddings ({positions}), "
                f"but is {self.long_text_max_position_embeddings}"
            )


__all__ = ["LONG_SIGLIP_TEXT_POSITIONS", "SIGLIP_TEXT_PATHS", "SIGLIP_TEXT_POSITIONS", "BetaSiglip2Config"]
