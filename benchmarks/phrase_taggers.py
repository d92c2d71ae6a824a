"""Noun phrases of three taggers against human phrases, and their speed.

    NLTK_DATA=../shared/data/nltk_data python benchmarks/phrase_taggers.py ../shared/data/photos/test.jsonl

Each row of the files holds several captions and the phrases that people marked in one of them (kind
`flickr30k_entities`). That caption is the one that contains the most phrases; rows where several captions tie are
left out. A phrase that a person did not mark is not always wrong: only things with a box were kept in the files, so
precision is a lower bound, the same for each tagger.

exact     same words, upper case and punctuation ignored
bare      the same without leading determiners
overlap   words in common / words of both >= 0.5, determiners ignored
"""

import argparse
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from beta_clip_hf.text.lexicon import DETERMINERS
from beta_clip_hf.text.phrases import PhraseExtractor


Words = tuple[str, ...]


def normalised(text: str) -> Words:
    return tuple(re.findall(r"[^\W_]+", text.casefold()))


def bare(words: Words) -> Words:
    while len(words) > 1 and words[0] in DETERMINERS:
        words = words[1:]
    return words


def overlapping(first: Words, second: Words) -> bool:
    one, other = set(bare(first)), set(bare(second))
    return len(one & other) >= 0.5 * len(one | other)


MATCHES: dict[str, Callable[[Words, Words], bool]] = {
    "exact": lambda first, second: first == second,
    "bare": lambda first, second: bare(first) == bare(second),
    "overlap": overlapping,
}


def marked_captions(paths: Iterable[Path]) -> list[tuple[str, list[Words]]]:
    """The captions in which people marked phrases, and the phrases."""
    marked = []
    for path in paths:
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            human = [p["text"] for p in row["phrases"] if p["kind"] == "flickr30k_entities"]
            phrases = [words for words in dict.fromkeys(map(normalised, human)) if words]
            held = [[phrase for phrase in phrases if contains(normalised(text), phrase)] for text in row["captions"]]
            counts = [len(phrases_held) for phrases_held in held]
            if phrases and counts.count(max(counts)) == 1 and max(counts):
                best = counts.index(max(counts))
                marked.append((row["captions"][best], held[best]))
    return marked


def contains(words: Words, phrase: Words) -> bool:
    return any(words[i : i + len(phrase)] == phrase for i in range(len(words) - len(phrase) + 1))


def score(extractor: PhraseExtractor, marked: Sequence[tuple[str, list[Words]]]) -> dict[str, float]:
    """Recall and precision over all phrases (micro average) for each kind of match."""
    hits: Counter[str] = Counter()
    for caption, human in marked:
        found = [words for words in dict.fromkeys(map(normalised, extractor(caption))) if words]
        hits["human"] += len(human)
        hits["found"] += len(found)
        for name, match in MATCHES.items():
            hits[f"{name} recall"] += sum(any(match(phrase, other) for other in found) for phrase in human)
            hits[f"{name} precision"] += sum(any(match(phrase, other) for other in human) for phrase in found)
    return {
        f"{name} {measure}": hits[f"{name} {measure}"] / hits[total]
        for name in MATCHES
        for measure, total in (("recall", "human"), ("precision", "found"))
    }


def captions_per_second(extractor: PhraseExtractor, captions: Sequence[str], seconds: float) -> float:
    """Best of three passes of all three kinds of phrases; the first pass warms the caches up."""
    rates = []
    for _ in range(3):
        started, done = time.process_time(), 0
        while time.process_time() - started < seconds:
            extractor.extract(captions[done % len(captions)])
            done += 1
        rates.append(done / (time.process_time() - started))
    return max(rates)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--taggers", nargs="+", default=["rules", "nltk", "textblob"])
    parser.add_argument("--seconds", type=float, default=1.0, help="per speed measurement")
    arguments = parser.parse_args()
    marked = marked_captions(arguments.files)
    print(f"{len(marked)} captions, {sum(len(human) for _, human in marked)} human phrases")
    columns = [f"{name} {measure}" for name in MATCHES for measure in ("recall", "precision")]
    print("| tagger | " + " | ".join(columns) + " | captions/s |\n|" + "---|" * (len(columns) + 2))
    for tagger in arguments.taggers:
        scores = score(PhraseExtractor(tagger, kinds=["noun"]), marked)
        rate = captions_per_second(PhraseExtractor(tagger), [caption for caption, _ in marked], arguments.seconds)
        print(f"| {tagger} | " + " | ".join(f"{100 * scores[name]:.1f}" for name in columns) + f" | {rate:,.0f} |")


if __name__ == "__main__":
    main()
