# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""What is said of a name that is not known: the name that was probably meant."""

import logging
from collections.abc import Collection, Iterable
from difflib import get_close_matches
from typing import Any

from transformers import PreTrainedConfig


logger = logging.getLogger(__name__)

# How similar a name must be to be named in a message, and to be taken for a slip where others are allowed. 1 is equal.
_SIMILAR = 0.6
_MISSPELT = 0.8
# Old files of CLIP have these beside "text_config" and "vision_config".
_OLD_FIELDS = frozenset({"text_config_dict", "vision_config_dict"})


def did_you_mean(name: str, known: Collection[str]) -> str:
    """
    Returns the end of a message on an unknown name, empty if no known name is similar.

    >>> did_you_mean("image_ndex", ["granularity", "image_index"])
    ": did you mean 'image_index'?"
    """
    similar = get_close_matches(name, sorted(known), n=1, cutoff=_SIMILAR)
    return f": did you mean {similar[0]!r}?" if similar else ""


def check_misspelt(names: Iterable[str], known: Collection[str], owner: str) -> None:
    """
    Checks names where others than the known ones are allowed: one that is almost a known one is a slip.

    Args:
        names: The names.
        known: The names that the owner knows.
        owner: Who was given them, for the message.

    Raises:
        TypeError: if one is a slip; the message says which name was meant.
    """
    for name in names:
        if name in known:
            continue
        similar = get_close_matches(name, sorted(known), n=1, cutoff=_MISSPELT)
        if similar:
            raise TypeError(f"{owner} got an unexpected name {name!r}: did you mean {similar[0]!r}?")


def check_fields(names: Collection[str], config: Any) -> None:
    """
    Checks the names that a configuration was given. transformers keeps those that are no fields as mere attributes.

    A name of a field of a tower passes with a warning: old files, and tools, write some of them.

    Args:
        names: The names, fields or not.
        config: The finished configuration, with those of both towers.

    Raises:
        TypeError: if one is almost a field; the message says which one was meant.
    """
    fields = type(config).__dataclass_fields__.keys()
    towers = (config.text_config, config.vision_config)
    fields_of_towers = set().union(*(type(tower).__dataclass_fields__ for tower in towers))
    known_to_transformers = _OLD_FIELDS | set(dir(PreTrainedConfig))
    unknown = [name for name in names if name not in fields and name not in known_to_transformers]
    # Tools for texts write the ids of tokens into any file.
    misplaced = [name for name in unknown if name in fields_of_towers and not name.endswith("_token_id")]
    for name in misplaced:
        logger.warning(
            "%s of %s has no effect: the sizes of towers belong into text_config and vision_config",
            name,
            type(config).__name__,
        )
    check_misspelt([name for name in unknown if name not in fields_of_towers], fields, type(config).__name__)


def check_settable(names: Iterable[str], config_class: type) -> None:
    """Raises `TypeError` for a name that a configuration works out by itself, and that cannot be set."""
    for name in names:
        attribute = getattr(config_class, name, None)
        if isinstance(attribute, property) and attribute.fset is None:
            raise TypeError(
                f"{name} of {config_class.__name__} must be left out, as it follows from other fields, but is given"
            )


__all__ = ["check_fields", "check_misspelt", "check_settable", "did_you_mean"]
