"""CLIP tokenizers without a download: OpenAI's own from its file of merges, and small ones learnt from texts."""

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import CLIPTokenizer

from ..model.configuration_beta_clip import LONG_TEXT_POSITIONS


START, END = "<|startoftext|>", "<|endoftext|>"
END_OF_WORD = "</w>"
OPENAI_MERGES = 48_894
# Each byte, inside and at the end of a word, and the two marks: below that some text would contain an unknown token,
# which CLIP writes as END, and the text would be pooled there.
MIN_VOCAB_SIZE = 2 * 256 + 2


def clip_tokenizer_from_bpe(path: str | Path, *, model_max_length: int = LONG_TEXT_POSITIONS) -> CLIPTokenizer:
    """OpenAI CLIP's tokenizer (49,408 ids) from `bpe_simple_vocab_16e6.txt.gz`, or the same file unpacked.

    Args:
        path: The file, from https://github.com/openai/CLIP/tree/main/clip.
        model_max_length: Longest text in tokens, both marks included.

    Raises:
        ValueError: where the file does not hold OpenAI's merges.
    """
    data = Path(path).read_bytes()
    lines = (gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data).decode("utf-8").splitlines()
    pairs = [tuple(line.split()) for line in lines[1 : 1 + OPENAI_MERGES]]  # the rest of the file was never used
    merges = [(pair[0], pair[1]) for pair in pairs if len(pair) == 2]
    if len(merges) != OPENAI_MERGES:
        raise ValueError(
            f"path must be OpenAI's file of {OPENAI_MERGES} merges, but is {str(path)!r} with {len(merges)}"
        )
    return _clip_tokenizer(merges, model_max_length)


def train_clip_tokenizer(
    texts: Iterable[str], vocab_size: int = 2048, *, model_max_length: int = LONG_TEXT_POSITIONS
) -> CLIPTokenizer:
    """Learns a small tokenizer of CLIP's kind, for models that are trained from scratch.

    It lowercases and splits as CLIP's does, and knows every byte, so no text has an unknown token. Ids: 512 symbols,
    the merges in the order learnt, start = `len - 2`, end = padding = `len - 1`: the end has the largest id, so a model
    that pools at the first end token and one that pools at the largest id (`eos_token_id=2`) agree.

    Args:
        texts: Any number of texts; the same texts give the same tokenizer.
        vocab_size: Upper bound of the number of ids; few texts have fewer merges to learn, so give the model
            `len(tokenizer)`.
        model_max_length: Longest text in tokens, both marks included.

    Raises:
        ValueError: where `vocab_size` is below 514.

    >>> tokenizer = train_clip_tokenizer(["a red square", "a red circle"] * 2, vocab_size=600)
    >>> tokenizer.tokenize("A RED square")
    ['a</w>', 'red</w>', 'square</w>']
    """
    from tokenizers.trainers import BpeTrainer

    if vocab_size < MIN_VOCAB_SIZE:
        raise ValueError(f"vocab_size must be at least {MIN_VOCAB_SIZE}, but is {vocab_size}")
    learner = _clip_tokenizer([], model_max_length).backend_tokenizer
    symbols = _symbols()
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        end_of_word_suffix=END_OF_WORD,
        initial_alphabet=symbols[:256],
        special_tokens=symbols[256:],  # or they get their ids in the order of a hash map, and so ties are broken
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    merges = [(left, right) for left, right in json.loads(learner.to_str())["model"]["merges"]]
    return _clip_tokenizer(merges[: vocab_size - MIN_VOCAB_SIZE], model_max_length)


def _clip_tokenizer(merges: list[Any], model_max_length: int) -> CLIPTokenizer:
    tokens = dict.fromkeys([*_symbols(), *map("".join, merges), START, END])
    vocab = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=model_max_length)


def _symbols() -> list[str]:
    """The 512 symbols that BPE starts from, in the order of OpenAI's vocabulary: a character for each byte (printable
    bytes stand for themselves), then the same at the end of a word."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    characters = [chr(byte) for byte in printable] + [chr(256 + index) for index in range(256 - len(printable))]
    return characters + [character + END_OF_WORD for character in characters]
