"""`beta-clip export siglip2`: writes a model as a plain Siglip2Model."""

import argparse

from .model_directories import add_output_argument, report_model
from .reports import Report, add_json_argument, reporting


# The help names the paths without importing the library; a test holds them equal to those of the library.
TEXT_PATHS = ("short", "long", "box")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `beta-clip export siglip2`."""
    parser.add_argument("model", metavar="MODEL", help="directory or Hub id of a model on SigLIP 2 towers")
    add_output_argument(parser)
    parser.add_argument(
        "--path", choices=TEXT_PATHS, default="short", help="text path to keep; short is SigLIP 2's own"
    )
    add_json_argument(parser)


@reporting
def run(args: argparse.Namespace) -> Report:
    """Exports. The report describes the directory that was written."""
    from beta_clip_hf.release.export_siglip2 import export_siglip2

    model = export_siglip2(args.model, args.output, path=args.path)
    return report_model(args.output, model)
