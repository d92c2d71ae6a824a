"""`beta-clip export merged`: writes an adapter merged into its base model."""

import argparse

from .model_directories import add_output_argument, report_model
from .reports import Report, add_json_argument, reporting


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `beta-clip export merged`."""
    parser.add_argument(
        "model", metavar="MODEL", help="directory or Hub id of an adapter, as saved by a training with lora"
    )
    add_output_argument(parser)
    add_json_argument(parser)


@reporting
def run(args: argparse.Namespace) -> Report:
    """Exports. The report describes the directory that was written."""
    from beta_clip_hf.release.merge import export_merged

    model = export_merged(args.model, args.output)
    return report_model(args.output, model)
