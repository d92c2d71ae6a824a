"""`beta-clip convert fg-clip2`: turns a checkpoint of FG-CLIP 2 into a model directory, or a model back."""

import argparse
import logging

from .reports import Report, add_json_argument, reporting


logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `beta-clip convert fg-clip2`."""
    parser.add_argument("checkpoint", metavar="MODEL", help="directory or Hub id of an FG-CLIP 2 checkpoint")
    parser.add_argument("output", metavar="DIR", help="directory to write into")
    parser.add_argument(
        "--back", action="store_true", help="convert a model of this package to the layout of the authors"
    )
    add_json_argument(parser)


@reporting
def run(args: argparse.Namespace) -> Report:
    """Converts. The report describes the directory that was written."""
    from beta_clip_hf.release.convert_fg_clip2 import convert_fg_clip2, convert_fg_clip2_back
    from beta_clip_hf.release.directories import describe_output

    convert = convert_fg_clip2_back if args.back else convert_fg_clip2
    model = convert(args.checkpoint, args.output)
    logger.info("Saved to %s", args.output)
    return Report(describe_output(args.output, model))
