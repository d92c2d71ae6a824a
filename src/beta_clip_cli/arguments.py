"""Arguments that several commands have."""

from typing import Any


SHIPPED_MODEL = "the small β-CLIP of generated scenes that ships with the package"
"""What the help calls the model that a command takes if none is named."""


def add_device_argument(parser: Any) -> None:
    """
    Adds `--device`, whose value goes to [`beta_clip_hf.inference.processes.own_device`].

    Args:
        parser: A parser or a group of its arguments.
    """
    # No default of argparse: to know whether there is CUDA, torch would have to be imported for the help.
    parser.add_argument(
        "--device", metavar="DEVICE", help="where to run, for example cpu, cuda or cuda:1 (default: cuda if available)"
    )
