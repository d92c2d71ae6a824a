# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""The options of a processor's call for texts: which of them the caller chose, and what a flat batch makes of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .configuration_beta_clip import Granularity


# Values of these mean nothing else than what a flat batch does anyway.
_FIXED_OPTIONS = {
    "padding_side": ("right",),
    "truncation": (True, "longest_first", "only_first"),
    "add_special_tokens": (True,),
    "return_attention_mask": (True,),
    "verbose": (True, False),
}


@dataclass(frozen=True)
class TextLayout:
    """How long the texts of a flat batch may be, and how wide the tensors are that hold them."""

    caption_limit: int
    """Largest number of tokens of a caption."""
    short_limit: int
    """Largest number of tokens of any other text."""
    pads_to_limit: bool = False
    """Whether tensors are as wide as the largest limit of their texts, not as their longest text."""
    pad_to_multiple_of: int | None = None
    return_tensors: str = "pt"
    """"pt" or "np"."""

    @classmethod
    def from_options(cls, options: Mapping[str, Any], max_length: int, short_max_length: int | None) -> "TextLayout":
        """
        Reads the options of the tokenizer.

        Args:
            options: What the caller chose of them.
            max_length, short_max_length: The processor's own limits, which a `max_length` of the caller replaces. Short
                texts keep to both.

        Raises:
            ValueError: if an option has no meaning for a flat batch.
        """
        chosen = {name: value for name, value in options.items() if value is not None}
        max_length = chosen.pop("max_length", max_length)
        # In a model with two text paths only captions take the long one.
        short_limit = min(max_length, short_max_length or max_length)
        padding = chosen.pop("padding", True)
        if padding not in (True, "longest", "max_length"):
            raise ValueError(f"padding must be True or 'max_length' with hierarchies, but is {padding!r}")
        return_tensors = chosen.pop("return_tensors", "pt")
        if return_tensors not in ("pt", "np"):
            raise ValueError(f"return_tensors must be 'pt' or 'np' with hierarchies, but is {return_tensors!r}")
        multiple = chosen.pop("pad_to_multiple_of", None)
        for name, value in chosen.items():
            if value not in _FIXED_OPTIONS.get(name, (False,)):
                raise ValueError(f"{name} must be left unset with hierarchies, but is {value!r}")
        return cls(max_length, short_limit, padding == "max_length", multiple, return_tensors)

    def length_limits(self, granularity: Sequence[int]) -> list[int]:
        """Returns the largest number of tokens of each text of a flat batch, from its kind."""
        return [self.caption_limit if kind == Granularity.CAPTION else self.short_limit for kind in granularity]

    def width(self, longest: int, largest_limit: int) -> int:
        """
        Returns the number of columns of a tensor of texts.

        Args:
            longest: Number of tokens of the longest text.
            largest_limit: The largest limit of one of the texts.
        """
        width = largest_limit if self.pads_to_limit else longest
        multiple = self.pad_to_multiple_of or 1
        return -(-width // multiple) * multiple


def options_of_caller(kwargs: Mapping[str, Any], modality: str) -> dict[str, Any]:
    """
    Returns all options of a call in one dict, wherever the caller put them.

    Args:
        kwargs: Options as transformers' processors take them: flat, in `common_kwargs`, and in a dict per modality.
        modality: Which of those dicts is read, for example "text_kwargs".
    """
    return {**(kwargs.get("common_kwargs") or {}), **kwargs, **(kwargs.get(modality) or {})}


def with_text_defaults(kwargs: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """
    Adds options for texts that the caller left unset.

    transformers lets defaults of a processor's class yield to what was saved with a tokenizer, for example to a length
    limit of another model. These do not yield.
    """
    chosen = options_of_caller(kwargs, "text_kwargs")
    text_kwargs = dict(kwargs.get("text_kwargs") or {})
    options = dict(kwargs)
    for name, value in defaults.items():
        if chosen.get(name) is None:
            # A flat `None` would be refused as passed twice.
            options.pop(name, None)
            text_kwargs[name] = value
    return {**options, "text_kwargs": text_kwargs}


__all__ = ["TextLayout", "options_of_caller", "with_text_defaults"]
