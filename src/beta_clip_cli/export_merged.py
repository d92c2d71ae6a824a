"""`beta-clip export merged`: writes an adapter merged into its base model."""

import argparse
import logging

from .reports import Report, add_json_argument, reporting


logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `beta-clip export merged`."""
    parser.add_argument(
        "model", metavar="MODEL", help="directory or Hub id of an adapter, as saved by a training with lora"
    )
    parser.add_argument("output", metavar="DIR", help="directory to write into")
    add_json_argument(parser)


@reporting
def run(args: argparse.Namespace) -> Report:
    """Exports. The report describes the directory that was written."""
    from beta_clip_hf.release.directories import describe_output
    from beta_clip_hf.release.merge import export_merged

    model = export_merged(args.model, args.output)
    logger.info("Saved to %s", args.output)
    return Report(describe_output(args.output, model))
