"""`beta-clip export clip`: writes a model as a plain CLIPModel."""

import argparse

from .model_directories import add_output_argument, report_model
from .reports import Report, add_json_argument, reporting


# The help names the paths without importing the library; a test holds them equal to those of the library.
TEXT_PATHS = ("short", "long")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `beta-clip export clip`."""
    parser.add_argument("model", metavar="MODEL", help="directory or Hub id of a β-CLIP or FG-CLIP model")
    add_output_argument(parser)
    parser.add_argument(
        "--path",
        choices=TEXT_PATHS,
        help="text path to keep, for a model with two (default: long, with 248 positions)",
    )
    add_json_argument(parser)


@reporting
def run(args: argparse.Namespace) -> Report:
    """Exports. The report describes the directory that was written."""
    from beta_clip_hf.release.export import export_clip

    model = export_clip(args.model, args.output, path=args.path)
    return report_model(args.output, model)
