"""`beta-clip search`: searches an indexed collection by texts and images."""

import argparse
from typing import Any

from .arguments import add_device_argument
from .reports import Report, add_json_argument, reporting


# These repeat names of the library, which the help needs without importing torch.
RERANK_SCORES = ("conditioned", "hierarchical", "hierarchical_window")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `beta-clip search`."""
    parser.add_argument("index", metavar="INDEX", help="index that beta-clip index has made")
    parser.add_argument("text", metavar="TEXT", nargs="?", help="description of any length")
    weighted = "with a weight after a colon, negative for something unwanted; may be given several times"
    parser.add_argument("--phrase", metavar="TEXT", action="append", default=[], help=f"text {weighted}: 'a red hat:2'")
    parser.add_argument("--image", metavar="FILE", action="append", default=[], help=f"image file {weighted}")
    parser.add_argument(
        "--where", metavar="SQL", help="condition on the columns: \"width > 300 AND caption LIKE '%%dog%%'\""
    )
    parser.add_argument("--top", metavar="N", type=int, default=20, help="largest number of images to return")
    parser.add_argument(
        "--rerank",
        metavar="N",
        type=int,
        default=0,
        help="number of best images to order again by how each text sees them; 0 for none",
    )
    parser.add_argument(
        "--rerank-score",
        choices=RERANK_SCORES,
        help="score that orders them: of whole texts, or with their sentences and phrases, as these see the image or "
        "by their best window, which needs no pooler (default: hierarchical)",
    )
    parser.add_argument(
        "--rerank-weights",
        metavar="C,S,P",
        help="weights of caption, sentences and phrases in a hierarchical score, whose sum is 1 "
        "(default: 0.4,0.2,0.4, or 0.8,0,0.2 for windows)",
    )
    parser.add_argument(
        "--min-confidence",
        metavar="X",
        type=float,
        default=0.0,
        help="least confidence of an image, from 0 to 1: the share of texts without a match whose best image scores "
        "less; if no image has it, nothing matches; 0 shows all",
    )
    parser.add_argument("--exact", action="store_true", help="compare with every image, even of a large index")
    parser.add_argument("--html", metavar="FILE", help="page of pictures with heat maps to write as well")
    parser.add_argument("--model", metavar="MODEL", help="where the model of the index is now, if it was moved")
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
