"""`beta-clip convert fg-clip`: turns a checkpoint of FG-CLIP into a model directory, or a model back."""

import argparse

from .model_directories import add_output_argument, report_model
from .reports import Report, add_json_argument, reporting


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `beta-clip convert fg-clip`."""
    parser.add_argument("checkpoint", metavar="MODEL", help="directory or Hub id of an FG-CLIP checkpoint")
    add_output_argument(parser)
    parser.add_argument(
        "--back", action="store_true", help="convert a model of this package to the layout of the authors"
    )
    parser.add_argument(
        "--tokenizer", metavar="MODEL", help="directory or Hub id of a tokenizer (default: that of the checkpoint)"
    )
    add_json_argument(parser)


@reporting
def run(args: argparse.Namespace) -> Report:
    """Converts. The report describes the directory that was written."""
    from beta_clip_hf.release.convert_fg_clip import convert_back, convert_fg_clip

    convert = convert_back if args.back else convert_fg_clip
    model = convert(args.checkpoint, args.output, tokenizer=args.tokenizer)
    return report_model(args.output, model)
