# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""What a message says of a name that is not known: the name that was probably meant."""

from collections.abc import Collection
from difflib import get_close_matches


def did_you_mean(name: str, known: Collection[str]) -> str:
    """
    Returns the end of a message on an unknown name, empty if no known name is similar.

    >>> did_you_mean("image_ndex", ["granularity", "image_index"])
    ": did you mean 'image_index'?"
    """
    similar = get_close_matches(name, sorted(known), n=1)
    return f": did you mean {similar[0]!r}?" if similar else ""


__all__ = ["did_you_mean"]
