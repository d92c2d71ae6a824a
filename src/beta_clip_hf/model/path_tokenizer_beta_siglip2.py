# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""The tokenizer of FG-CLIP 2 and SigLIP 2: whoever calls it alone, as pipelines do, gets the ids of the processor."""

from typing import Any

from tokenizers import Tokenizer, normalizers, processors
from transformers import PreTrainedTokenizerFast


def path_tokenizer(tokenizer: Any) -> Any:
    """
    Returns a tokenizer that lowers texts, ends them, pads them on the right and returns no attention mask.

    Args:
        tokenizer: That of a checkpoint. If it does all this it is returned, and so it is if it is written in Python:
            SigLIP's own lowers and ends texts. Otherwise a new one has its words, and reads its rules from its file: a
            class of its own, such as Gemma's, would make them anew whenever it is loaded.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None and not (_lowers(backend) and _ends(tokenizer)):
        tokenizer = _with_rules(tokenizer)
    tokenizer.padding_side = "right"
    tokenizer.model_input_names = ["input_ids"]
    tokenizer.init_kwargs.update(padding_side="right", model_input_names=["input_ids"])
    return tokenizer


def _lowers(backend: Tokenizer) -> bool:
    return normalizers.Lowercase.__name__ in repr(backend.normalizer)


def _ends(tokenizer: Any) -> bool:
    """Tells whether a text gets the end token, and no other special one."""
    words = tokenizer("a", add_special_tokens=False)["input_ids"]
    return bool(tokenizer("a")["input_ids"] == [*words, tokenizer.eos_token_id])


def _with_rules(tokenizer: Any) -> PreTrainedTokenizerFast:
    """Makes a tokenizer of the same words that lowers texts and ends them."""
    # A copy: the caller's own tokenizer stays as it is.
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    if not _lowers(backend):
        rules = [normalizers.Lowercase()]
        if backend.normalizer is not None:
            rules.append(backend.normalizer)
        backend.normalizer = normalizers.Sequence(rules)
    end = tokenizer.eos_token
    backend.post_processor = processors.TemplateProcessing(
        single=["$A", end], pair=["$A", end, "$B", end], special_tokens=[(end, tokenizer.eos_token_id)]
    )
    limit = tokenizer.model_max_length
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=limit, **tokenizer.special_tokens_map)


__all__ = ["path_tokenizer"]
