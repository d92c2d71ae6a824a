"""Compares the noun phrases of three taggers with human phrases, and measures their speed.

    python benchmarks/phrase_taggers.py photos/test.jsonl

Each row of the files has several captions, and the phrases that people marked in one of them (kind
`flickr30k_entities`). That caption is the one that contains the most phrases; rows in which several captions tie are
left out. A phrase that nobody marked is not always wrong, because only things with a box are in the files: precision is
a lower bound, equally low for each tagger.

exact     same words, upper case and punctuation ignored
bare      the same without leading determiners
overlap   words in common / words of both >= 0.5, determiners ignored
"""

import argparse
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from report import markdown_table

from beta_clip_hf.text.lexicon import DETERMINERS
from beta_clip_hf.text.phrases import PhraseExtractor


Words = tuple[str, ...]


class MarkedCaption(NamedTuple):
    """A caption, and the phrases that people marked in it."""

    caption: str
    phrases: list[Words]


def normalise(text: str) -> Words:
    """Returns the words of a text in lower case, without punctuation."""
    return tuple(re.findall(r"[^\W_]+", text.casefold()))


def distinct_phrases(texts: Iterable[str]) -> list[Words]:
    """Returns the different phrases that have a word, in order."""
    return [words for words in dict.fromkeys(map(normalise, texts)) if words]


def without_determiners(words: Words) -> Words:
    """Returns the words after the leading determiners, but at least one."""
    while len(words) > 1 and words[0] in DETERMINERS:
        words = words[1:]
    return words


def is_overlapping(first: Words, second: Words) -> bool:
    """Whether two phrases share at least half of their words."""
    first_words, second_words = set(without_determiners(first)), set(without_determiners(second))
    return len(first_words & second_words) >= 0.5 * len(first_words | second_words)


MATCHES: dict[str, Callable[[Words, Words], bool]] = {
    "exact": lambda first, second: first == second,
    "bare": lambda first, second: without_determiners(first) == without_determiners(second),
    "overlap": is_overlapping,
}


def read_marked_captions(paths: Iterable[Path]) -> list[MarkedCaption]:
    """Returns the captions in which people marked phrases."""
    marked = []
    for path in paths:
        for line in path.read_text(encoding="utf-8").splitlines():
            marked_caption = find_marked_caption(json.loads(line))
            if marked_caption is not None:
                marked.append(marked_caption)
    return marked


def find_marked_caption(row: dict[str, Any]) -> MarkedCaption | None:
    """Returns the caption with the most human phrases; `None` if there are none, or several captions tie."""
    human_texts = [phrase["text"] for phrase in row["phrases"] if phrase["kind"] == "flickr30k_entities"]
    phrases = distinct_phrases(human_texts)
    candidates = []
    for caption in row["captions"]:
        words = normalise(caption)
        contained = [phrase for phrase in phrases if contains(words, phrase)]
        candidates.append(MarkedCaption(caption, contained))
    most = max(len(candidate.phrases) for candidate in candidates)
    best = [candidate for candidate in candidates if len(candidate.phrases) == most]
    return best[0] if most and len(best) == 1 else None


def contains(words: Words, phrase: Words) -> bool:
    """Whether the phrase is a run of the words."""
    return any(words[i : i + len(phrase)] == phrase for i in range(len(words) - len(phrase) + 1))


def score(extractor: PhraseExtractor, marked: Sequence[MarkedCaption]) -> dict[str, float]:
    """Returns recall and precision over all phrases (micro average) for each kind of match."""
    hits: Counter[str] = Counter()
    num_human, num_extracted = 0, 0
    for caption, human in marked:
        extracted = distinct_phrases(extractor(caption))
        num_human += len(human)
        num_extracted += len(extracted)
        for name, match in MATCHES.items():
            hits[f"{name} recall"] += count_matched(human, extracted, match)
            hits[f"{name} precision"] += count_matched(extracted, human, match)
    scores = {}
    for name in MATCHES:
        scores[f"{name} recall"] = hits[f"{name} recall"] / num_human
        scores[f"{name} precision"] = hits[f"{name} precision"] / num_extracted
    return scores


def count_matched(phrases: Sequence[Words], others: Sequence[Words], match: Callable[[Words, Words], bool]) -> int:
    """Counts the phrases that match any of the others."""
    count = 0
    for phrase in phrases:
        if any(match(phrase, other) for other in others):
            count += 1
    return count


def captions_per_second(extractor: PhraseExtractor, captions: Sequence[str], seconds: float) -> float:
    """Returns the best of three passes over all three kinds of phrases. The first pass warms up the caches."""
    rates = []
    for _ in range(3):
        start, done = time.process_time(), 0
        while time.process_time() - start < seconds:
            extractor.extract(captions[done % len(captions)])
            done += 1
        rates.append(done / (time.process_time() - start))
    return max(rates)


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="JSONL files of rows with captions and phrases")
    parser.add_argument("--taggers", nargs="+", default=["rules", "nltk", "textblob"], help="(rules nltk textblob)")
    parser.add_argument("--seconds", type=float, default=1.0, help="time of a pass that measures speed (%(default)s)")
    args = parser.parse_args()
    marked = read_marked_captions(args.files)
    captions = [caption for caption, _ in marked]
    num_phrases = sum(len(phrases) for _, phrases in marked)
    names = []
    for match in MATCHES:
        names += [f"{match} recall", f"{match} precision"]
    rows = []
    for tagger in args.taggers:
        scores = score(PhraseExtractor(tagger, kinds=["noun"]), marked)
        rate = captions_per_second(PhraseExtractor(tagger), captions, args.seconds)
        rows.append([tagger, *(f"{100 * scores[name]:.1f}" for name in names), f"{rate:,.0f}"])
    table = markdown_table(["tagger", *names, "captions/s"], rows)
    sys.stdout.write(f"{len(marked)} captions, {num_phrases} human phrases\n{table}\n")


if __name__ == "__main__":
    main()
