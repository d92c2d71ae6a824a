"""The argument and the report of commands that write a model into a directory."""

import argparse
import logging
from typing import Any

from .reports import Report


logger = logging.getLogger(__name__)


def add_output_argument(parser: argparse.ArgumentParser) -> None:
    """Adds the directory that a command writes."""
    parser.add_argument("output", metavar="DIR", help="directory to write into")


def report_model(output: str, model: Any) -> Report:
    """Returns a report that describes the directory that a model was written into."""
    from beta_clip_hf.release.directories import describe_output

    logger.info("Saved to %s", output)
    return Report(describe_output(output, model))
