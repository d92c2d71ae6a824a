"""Two small models of generated scenes that ship with the package: to try it without a download."""

import logging
from pathlib import Path


logger = logging.getLogger(__name__)

PRETRAINED = ("clip", "beta_clip")
"""The names of the models."""
WEIGHTS = Path(__file__).parent / "weights"


def pretrained(name: str) -> str:
    """
    Returns the directory of a small model that ships with the package.

    Both models know coloured shapes and nothing else. Their weights are stored in half precision, and `from_pretrained`
    makes float32 of them. The README.md in the directory is the card of the model: how it was made, and what it can do.

    Args:
        name: "clip" for a plain CLIP, to be loaded and fine-tuned like one of the Hub; "beta_clip" for that CLIP after
            its fine-tuning with β-CAL.

    Raises:
        ValueError: for another name.

    >>> Path(pretrained("clip")).name
    'clip'
    """
    if name not in PRETRAINED:
        raise ValueError(f"name must be one of {PRETRAINED}, but is {name!r}")
    return str(WEIGHTS / name)


def default_model() -> str:
    """
    Returns the directory of the small β-CLIP, for a program that was given no model, and logs that it is used.

    It is logged as a warning, because it is of no use for photos.
    """
    logger.warning(
        "no --model: using the small β-CLIP of generated scenes that ships with the package; "
        "it knows coloured shapes only"
    )
    return pretrained("beta_clip")
