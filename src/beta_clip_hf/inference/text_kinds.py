"""Which text path the texts of each kind take, in models that have several."""

from collections.abc import Sequence
from typing import Any

import torch

from ..model.configuration_beta_siglip2 import BetaSiglip2Config
from ..text.sentences import split_sentences
from .models import text_inputs


CAPTION, SENTENCE, PHRASE, SHORT_CAPTION = "caption", "sentence", "phrase", "short_caption"
REGION_TEXT = "region_text"
"""What stands in a box: the texts of regions, and the names of classes of boxes."""
TEXT_KINDS = (CAPTION, SENTENCE, PHRASE, SHORT_CAPTION, REGION_TEXT)
"""Kinds of texts. Class prompts are short captions."""


def path_of_kind(config: Any, kind: str) -> str | None:
    """
    Returns the text path of a kind of texts, as the model was trained; `None` for a model with one path.

    FG-CLIP has a long path for captions, and a short one for all other texts. The configuration of a model on SigLIP 2
    towers names the path of each kind; texts of regions always take the box path.

    Args:
        config: The configuration of any model.
        kind: One of [`TEXT_KINDS`].

    Raises:
        ValueError: if there is no such kind.
    """
    if kind not in TEXT_KINDS:
        raise ValueError(f"kind must be one of {TEXT_KINDS}, but is {kind!r}")
    if isinstance(config, BetaSiglip2Config):
        path: str = "box" if kind == REGION_TEXT else getattr(config, f"{kind}_text_path")
        return path
    has_long_path = getattr(config, "use_long_text_path", False)
    return "long" if has_long_path and kind == CAPTION else None


def kind_of_descriptions(model: Any, processor: Any, texts: Sequence[str]) -> str:
    """
    Tells whether texts that someone wrote freely, such as a query, are captions or short captions.

    They are short captions if each of them is a single sentence that the path of short captions holds as a whole. All
    get the same kind, so that their scores can be compared.

    Args:
        model, processor: They say how much of a text each path holds.
        texts: The texts.
    """
    paths = [path_of_kind(model.config, kind) for kind in (SHORT_CAPTION, CAPTION)]
    if paths[0] == paths[1] or any(len(split_sentences(text)) > 1 for text in texts):
        return CAPTION
    for text in texts:
        short_ids, ids = (text_inputs(model, processor, [text], path)["input_ids"] for path in paths)
        # A text that is cut has its end token where the whole text has a word.
        if not torch.equal(short_ids, ids[:, : short_ids.shape[1]]):
            return CAPTION
    return SHORT_CAPTION
