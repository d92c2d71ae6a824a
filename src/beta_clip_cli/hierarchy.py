"""`beta-clip hierarchy`: builds the sentences and phrases of all captions of a source once."""

import argparse

from .arguments import add_reading_arguments, reading_settings, single_or_list
from .reports import Report, add_json_argument, reporting


# Names that help needs. The library has the same ones, but importing it takes seconds.
TAGGERS = ("rules", "nltk", "textblob")
KINDS = ("noun", "verb", "relation")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `beta-clip hierarchy`."""
    parser.add_argument(
        "data",
        metavar="DATA",
        nargs="+",
        help="rows with captions: files, a directory, a glob or a Hub dataset",
    )
    parser.add_argument(
        "--output", metavar="DIR", required=True, help="directory to write the rows into, with their phrases"
    )
    parser.add_argument(
        "--shard", default="0/1", metavar="I/N", help="part to write, for several machines: 0/N to (N-1)/N"
    )
    parser.add_argument("--num-proc", metavar="N", type=int, help="number of processes (default: one per core)")
    add_reading_arguments(parser)
    parser.add_argument("--tagger", default="rules", choices=TAGGERS, help="part-of-speech tagger")
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS, help="kinds of phrases to extract")
    parser.add_argument(
        "--strict", action="store_true", help="stop at the first row that cannot be used, instead of skipping it"
    )
    add_json_argument(parser)


@reporting
def run(args: argparse.Namespace) -> Report:
    """Builds one shard, unless it is there already. The report says what it holds."""
    # Wrong arguments are reported before torch is imported, which takes seconds.
    shard = _parse_shard(args.shard)
    reading = reading_settings(args)

    from beta_clip_hf.data.hierarchies import build_hierarchies
    from beta_clip_hf.text.phrases import PhraseExtractor

    built = build_hierarchies(
        single_or_list(args.data),
        args.output,
        shard=shard,
        num_proc=args.num_proc,
        extractor=PhraseExtractor(args.tagger, kinds=args.kinds),
        strict=args.strict,
        **reading,
    )
    if built.skipped and not built.rows:
        raise ValueError(f"{args.data[0]} must have a row that can be used, but all {built.skipped} were skipped")
    return Report(
        {
            "output": str(built.path),
            "rows": built.rows,
            "read": built.read,
            "skipped": built.skipped,
            "bytes": built.bytes,
            "settings": built.settings,
        }
    )


def _parse_shard(word: str) -> tuple[int, int]:
    """Reads the two numbers of `I/N`."""
    part, _, parts = word.partition("/")
    if not (part.isdecimal() and parts.isdecimal()):
        raise ValueError(f"--shard must be I/N, as in 0/4, but is {word!r}")
    return int(part), int(parts)
