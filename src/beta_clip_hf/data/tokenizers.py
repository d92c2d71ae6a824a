"""CLIP tokenizers without a download: OpenAI's own from its file of merges, and small ones learnt from texts."""

import gzip
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from transformers import CLIPTokenizer

from ..model.configuration_beta_clip import LONG_TEXT_POSITIONS


START, END = "<|startoftext|>", "<|endoftext|>"
END_OF_WORD = "</w>"
OPENAI_MERGES = 48_894
# Each byte, inside and at the end of a word, and the two marks. With fewer symbols some text would have an unknown
# token, which CLIP writes as END, and the model would pool the text there.
MIN_VOCAB_SIZE = 2 * 256 + 2

_GZIP_START = b"\x1f\x8b"

Merge = tuple[str, str]


def clip_tokenizer_from_bpe(path: str | Path, *, model_max_length: int = LONG_TEXT_POSITIONS) -> CLIPTokenizer:
    """Makes OpenAI CLIP's tokenizer (49,408 ids) from `bpe_simple_vocab_16e6.txt.gz`, or the same file unpacked.

    Args:
        path: The file, from https://github.com/openai/CLIP/tree/main/clip.
        model_max_length: Longest text in tokens, both marks included.

    Raises:
        ValueError: if the file does not hold OpenAI's merges.
    """
    content = Path(path).read_bytes()
    if content.startswith(_GZIP_START):
        content = gzip.decompress(content)
    # The first line is a header. OpenAI never used the rest of the file.
    lines = content.decode("utf-8").splitlines()[1 : 1 + OPENAI_MERGES]
    merges: list[Merge] = []
    for line in lines:
        words = line.split()
        if len(words) == 2:
            merges.append((words[0], words[1]))
    if len(merges) != OPENAI_MERGES:
        raise ValueError(
            f"path must be OpenAI's file of {OPENAI_MERGES} merges, but is {str(path)!r} with {len(merges)}"
        )
    return _clip_tokenizer(merges, model_max_length)


def train_clip_tokenizer(
    texts: Iterable[str], vocab_size: int = 2048, *, model_max_length: int = LONG_TEXT_POSITIONS
) -> CLIPTokenizer:
    """Learns a small tokenizer of CLIP's kind, for models that are trained from scratch.

    It lowercases and splits as CLIP's does, and knows every byte, so no text has an unknown token. Its ids are 512
    symbols, the merges in the order learnt, the start mark and the end mark, which is the padding as well. The end mark
    has the largest id, so a model that pools at the first end token and one that pools at the largest id
    (`eos_token_id=2`) agree.

    Args:
        texts: Any number of texts. The same texts give the same tokenizer.
        vocab_size: Upper bound of the number of ids. Few texts have fewer merges to learn, so give the model
            `len(tokenizer)`.
        model_max_length: Longest text in tokens, both marks included.

    Raises:
        ValueError: if `vocab_size` is below 514.

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
        # Symbols that are not named here get their ids in the order of a hash map, and ids decide ties.
        special_tokens=symbols[256:],
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    merges = json.loads(learner.to_str())["model"]["merges"]
    most_merges = vocab_size - MIN_VOCAB_SIZE
    return _clip_tokenizer([(left, right) for left, right in merges[:most_merges]], model_max_length)


def _clip_tokenizer(merges: Sequence[Merge], model_max_length: int) -> CLIPTokenizer:
    merged = [left + right for left, right in merges]
    # Two merges may give the same token: the first one counts.
    tokens = dict.fromkeys([*_symbols(), *merged, START, END])
    vocab = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocab, merges=list(merges), model_max_length=model_max_length)


def _symbols() -> list[str]:
    """Returns the 512 symbols that BPE starts from, in the order of OpenAI's vocabulary.

    There is a character for each byte, and the same again at the end of a word. Printable bytes stand for themselves.
    The others get characters from 256 on, because a tokenizer cannot hold white space and control characters.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    number_of_others = 256 - len(printable)
    characters = [chr(byte) for byte in printable] + [chr(256 + index) for index in range(number_of_others)]
    return characters + [character + END_OF_WORD for character in characters]
