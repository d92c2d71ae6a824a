# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""The options of a processor's call: which of them the caller chose, and what a flat batch makes of those for texts."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .configuration_beta_clip import CLIP_TEXT_POSITIONS, LONG_TEXT_POSITIONS, Granularity
from .similar_names_beta_clip import did_you_mean


# Values of these mean nothing else than what a flat batch does anyway.
_FIXED_OPTIONS = {
    "padding_side": ("right",),
    "truncation": (True, "longest_first", "only_first"),
    "add_special_tokens": (True,),
    "return_attention_mask": (True,),
    "verbose": (True, False),
}
# The smallest limit that leaves a text a token between its start and its end.
_SHORTEST_TEXT = 3
# The dicts of options that a call may have, with the part of the processor whose options they hold.
OPTIONS_BY_PART = {"text_kwargs": "tokenizer", "images_kwargs": "image_processor"}


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
    return_tensors: str | None = "pt"
    """"pt", "np", or `None` for lists."""

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
        # Lists are made where the caller asks for them by `None`. For other options `None` is the same as nothing.
        return_tensors = options.get("return_tensors", "pt")
        if return_tensors not in ("pt", "np", None):
            raise ValueError(f"return_tensors must be 'pt', 'np' or None with hierarchies, but is {return_tensors!r}")
        chosen = {}
        for name, value in options.items():
            if value is not None and name != "return_tensors":
                chosen[name] = value
        max_length = chosen.pop("max_length", max_length)
        # In a model with two text paths only captions take the long one.
        short_limit = min(max_length, short_max_length or max_length)
        padding = chosen.pop("padding", True)
        if padding not in (True, "longest", "max_length"):
            raise ValueError(f"padding must be True or 'max_length' with hierarchies, but is {padding!r}")
        multiple = chosen.pop("pad_to_multiple_of", None)
        for name, value in chosen.items():
            if value not in _FIXED_OPTIONS.get(name, (False,)):
                raise ValueError(f"{name} must be left unset with hierarchies, but is {value!r}")
        return cls(max_length, short_limit, padding == "max_length", multiple, return_tensors)

    def as_asked(self, batch: Mapping[str, Tensor]) -> dict[str, Any]:
        """Returns the tensors of a flat batch as `return_tensors` asks for them."""
        if self.return_tensors == "pt":
            return dict(batch)
        arrays = {name: tensor.numpy(force=True) for name, tensor in batch.items()}
        if self.return_tensors == "np":
            return arrays
        # As in a plain batch: texts become lists of Python's integers, images a list of arrays.
        return {name: list(array) if array.ndim == 4 else array.tolist() for name, array in arrays.items()}

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


def check_options(kwargs: Mapping[str, Any], processor: Any) -> None:
    """
    Checks the options of a processor's call before transformers reads them, which ignores what it does not know.

    Args:
        kwargs: Options as transformers' processors take them, see [`options_of_caller`].
        processor: Its tokenizer and its image processor say which options there are.

    Raises:
        TypeError: if an option is not known; the message names the most similar one.
        ValueError: if a length cannot be, or texts would be padded on the left.
    """
    check_option_names(kwargs, processor)
    options = options_of_caller(kwargs, "text_kwargs")
    check_length(options.get("max_length"), "max_length", _SHORTEST_TEXT)
    check_length(options.get("pad_to_multiple_of"), "pad_to_multiple_of", 1)
    side = options.get("padding_side") or processor.tokenizer.padding_side
    if side != "right":
        raise ValueError(
            f"padding_side must be 'right', but is {side!r}: the model reads a text at its first end token, and CLIP "
            "pads with end tokens"
        )


def check_option_names(kwargs: Mapping[str, Any], processor: Any) -> None:
    """Raises `TypeError` if an option of a processor's call is not known, see [`check_options`]."""
    known_by_part = {}
    for part, attribute in OPTIONS_BY_PART.items():
        # Other image processors have options that CLIP's does not have.
        more = getattr(getattr(processor, attribute), "valid_kwargs", None)
        known_by_part[part] = {
            *processor.valid_processor_kwargs.__annotations__[part].__annotations__,
            *getattr(more, "__annotations__", ()),
        }
    known = set().union(*known_by_part.values())
    # Libraries pass a dict for each modality there is (sentence-transformers those of sound and video, too).
    known_of_call = known | processor.valid_processor_kwargs.__annotations__.keys() | {"common_kwargs"}
    check_names(kwargs, known_of_call, "the processor")
    check_names(kwargs.get("common_kwargs") or (), known, "common_kwargs")
    for part, known_of_part in known_by_part.items():
        check_names(kwargs.get(part) or (), known_of_part, part)


def check_given_once(kwargs: Mapping[str, Any]) -> None:
    """Raises `ValueError` if an option is given both by itself and in a dict, as transformers' processors do."""
    for part in OPTIONS_BY_PART:
        for name in kwargs.get(part) or ():
            if name in kwargs:
                raise ValueError(f"{name} must be given once, but is given by itself and in {part}")


def check_length(length: Any, name: str, smallest: int = _SHORTEST_TEXT) -> None:
    """Raises `ValueError` if a length is given that is no integer, or less than the smallest."""
    if length is not None and (type(length) is not int or length < smallest):
        raise ValueError(f"{name} must be an integer of at least {smallest}, but is {length!r}")


def check_names(names: Collection[str], known: Collection[str], place: str) -> None:
    """Raises `TypeError` if one of the names of options is not known."""
    for name in names:
        if name not in known:
            raise TypeError(f"{place} got an unexpected option {name!r}{did_you_mean(name, known)}")


def longest_text(config: Mapping[str, Any]) -> int | None:
    """
    Returns the largest number of tokens that a text of a model may have; `None` if its config does not say it.

    Args:
        config: The content of its config.json.
    """
    if config.get("use_long_text_path"):
        return config.get("long_text_max_position_embeddings", LONG_TEXT_POSITIONS)
    positions = (config.get("text_config") or {}).get("max_position_embeddings")
    # A plain CLIP's 77 positions are stretched when it is loaded as a BetaCLIPModel. Others stay.
    if config.get("model_type") == "clip" and positions == CLIP_TEXT_POSITIONS:
        return None
    return positions


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


__all__ = [
    "OPTIONS_BY_PART",
    "TextLayout",
    "check_given_once",
    "check_length",
    "check_names",
    "check_option_names",
    "check_options",
    "longest_text",
    "options_of_caller",
    "with_text_defaults",
]
