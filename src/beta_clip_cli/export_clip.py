"""`beta-clip export clip`: writes a model as a plain CLIPModel."""

import argparse
import logging

from .reports import Report, add_json_argument, reporting


logger = logging.getLogger(__name__)

# The help names the paths without importing the library; a test holds them equal to those of the library.
TEXT_PATHS = ("short", "long")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `beta-clip export clip`."""
    parser.add_argument("model", metavar="MODEL", help="directory or Hub id of a β-CLIP or FG-CLIP model")
    parser.add_argument("output", metavar="DIR", help="directory to write into")
    parser.add_argument(
        "--path",
        choices=TEXT_PATHS,
        help="text path to keep, for a model with two (default: long, with 248 positions)",
    )
    add_json_argument(parser)


@reporting
def run(args: argparse.Namespace) -> Report:
    """Exports. The report describes the directory that was written."""
    from beta_clip_hf.release.directories import describe_output
    from beta_clip_hf.release.export import export_clip

    model = export_clip(args.model, args.output, path=args.path)
    logger.info("Saved to %s", args.output)
    return Report(describe_output(args.output, model))
