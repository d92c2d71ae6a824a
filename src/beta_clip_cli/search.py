"""`beta-clip search`: searches an indexed collection by texts and images."""

import argparse
from typing import Any

from .arguments import add_device_argument
from .reports import Report, add_json_argument, reporting


# These repeat names of the library, which the help needs without importing torch.
RERANK_SCORES = ("conditioned", "hierarchical", "hierarchical_window")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `beta-clip search`."""
    parser.add_argument("index", metavar="INDEX", help="index to search, made by beta-clip index")
    parser.add_argument("text", metavar="TEXT", nargs="?", help="description of the wanted images, of any length")
    weighted = "a negative weight means unwanted; may be given several times"
    parser.add_argument(
        "--phrase",
        metavar="TEXT",
        action="append",
        default=[],
        help=f"phrase to look for, with a weight after a colon if it is not 1: 'a red hat:2'; {weighted}",
    )
    parser.add_argument(
        "--image",
        metavar="FILE",
        action="append",
        default=[],
        help=f"image to look for similar ones, with a weight after a colon if it is not 1; {weighted}",
    )
    parser.add_argument(
        "--where", metavar="SQL", help="SQL condition on the columns: \"width > 300 AND caption LIKE '%%dog%%'\""
    )
    parser.add_argument("--top", metavar="N", type=int, default=20, help="largest number of images to return")
    parser.add_argument(
        "--rerank",
        metavar="N",
        type=int,
        default=0,
        help="order the N best images again, by a finer and slower score; 0 for none",
    )
    parser.add_argument(
        "--rerank-score",
        choices=RERANK_SCORES,
        help="score of --rerank: conditioned (the text as a whole), hierarchical (also its sentences and phrases), or "
        "hierarchical_window (the same without a pooler) (default: hierarchical)",
    )
    parser.add_argument(
        "--rerank-weights",
        metavar="C,S,P",
        help="weights of whole text, sentences and phrases in a hierarchical score; their sum is 1 "
        "(default: 0.4,0.2,0.4, or 0.8,0,0.2 for hierarchical_window)",
    )
    parser.add_argument(
        "--min-confidence",
        metavar="X",
        type=float,
        default=0.0,
        help="leave out images with less confidence, from 0 to 1; 0 shows all",
    )
    parser.add_argument(
        "--exact", action="store_true", help="compare the query with every image, also in a large index"
    )
    parser.add_argument("--html", metavar="FILE", help="also write a page with the images found and heat maps")
    parser.add_argument("--model", metavar="MODEL", help="new place of the model of the index, if it was moved")
    add_device_argument(parser)
    add_json_argument(parser)


@reporting
def run(args: argparse.Namespace) -> Report:
    """Searches. The report holds the images; the exit code is 0 even if there are none."""
    # Wrong arguments are reported before torch is imported, which takes seconds.
    options = _rerank_options(args)
    from beta_clip_hf.search.gallery import format_hits, hit_records, search_index
    from beta_clip_hf.search.query import Query, parse_weighted
    from beta_clip_hf.search.rerank import Reranking

    phrases = [parse_weighted(word) for word in args.phrase]
    images = [parse_weighted(word) for word in args.image]
    hits = search_index(
        args.index,
        Query(args.text, phrases, images),
        where=args.where,
        top=args.top,
        rerank=Reranking(args.rerank, **options),
        exact=args.exact,
        min_confidence=args.min_confidence,
        page=args.html or None,
        model=args.model,
        device=args.device,
    )
    text = format_hits(hits)
    if args.min_confidence and not hits:
        text = f"nothing matches: no image has a confidence of {args.min_confidence:g}"
    return Report(hit_records(hits), text)


def _rerank_options(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the options of re-ranking that were named. All others are for the library to choose."""
    options: dict[str, Any] = {}
    if args.rerank_score:
        options["score"] = args.rerank_score
    if args.rerank_weights:
        try:
            options["weights"] = tuple(float(word) for word in args.rerank_weights.split(","))
        except ValueError as error:
            raise ValueError(
                f"rerank-weights must be three numbers between commas, but is {args.rerank_weights!r}"
            ) from error
    if options and args.rerank == 0:
        raise ValueError("rerank must be at least 1 for --rerank-score or --rerank-weights, but is 0")
    return options
