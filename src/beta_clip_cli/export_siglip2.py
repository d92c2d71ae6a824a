"""`beta-clip export siglip2`: writes a model as a plain Siglip2Model."""

import argparse
import logging

from .reports import Report, add_json_argument, reporting


logger = logging.getLogger(__name__)

# The help names the paths without importing the library; a test holds them equal to those of the library.
TEXT_PATHS = ("short", "long", "box")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `beta-clip export siglip2`."""
    parser.add_argument("model", metavar="MODEL", help="directory or Hub id of a model on SigLIP 2 towers")
    parser.add_argument("output", metavar="DIR", help="directory to write into")
    parser.add_argument(
        "--path", choices=TEXT_PATHS, default="short", help="text path to keep; short is SigLIP 2's own"
    )
    add_json_argument(parser)


@reporting
def run(args: argparse.Namespace) -> Report:
    """Exports. The report describes the directory that was written."""
    from beta_clip_hf.release.directories import describe_output
    from beta_clip_hf.release.export_siglip2 import export_siglip2

    model = export_siglip2(args.model, args.output, path=args.path)
    logger.info("Saved to %s", args.output)
    return Report(describe_output(args.output, model))
