"""`beta-clip export onnx`: writes a model as ONNX graphs or torch.export programs."""

import argparse
import logging

from .reports import Report, add_json_argument, reporting


logger = logging.getLogger(__name__)

# The help names these without importing the library; a test holds them equal to those of the library.
FORMATS = ("onnx", "torch")
DTYPES = ("float32", "float16", "int8")
TEXT_PATHS = ("short", "long", "box")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `beta-clip export onnx`."""
    parser.add_argument("model", metavar="MODEL", help="directory or Hub id of a model of any kind that evaluate takes")
    parser.add_argument("output", metavar="DIR", help="directory to write into")
    parser.add_argument(
        "--format", choices=FORMATS, default="onnx", help="onnx writes ONNX graphs, torch writes torch.export programs"
    )
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="precision of the weights of ONNX graphs")
    parser.add_argument(
        "--path",
        choices=TEXT_PATHS,
        help="text path to keep, for a model with several (default: long; for SigLIP 2 and FG-CLIP 2: short)",
    )
    parser.add_argument(
        "--grid",
        type=int,
        nargs=2,
        metavar=("ROWS", "COLUMNS"),
        help="patches of every image, for SigLIP 2 and FG-CLIP 2 (default: the square that the model was made for)",
    )
    add_json_argument(parser)


@reporting
def run(args: argparse.Namespace) -> Report:
    """Exports the model. The report is the content of export.json, and where it is."""
    from beta_clip_hf.release.onnx import export_graphs

    grid = None if args.grid is None else tuple(args.grid)
    description = export_graphs(
        args.model, args.output, format=args.format, dtype=args.dtype, path=args.path, grid=grid
    )
    logger.info("Saved to %s", args.output)
    return Report({"output": args.output, **description})
