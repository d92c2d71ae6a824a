"""`beta-clip convert b-clip`: turns a checkpoint of the β-CLIP authors into a model directory."""

import argparse

from .model_directories import add_output_argument, report_model
from .reports import Report, add_json_argument, reporting


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `beta-clip convert b-clip`."""
    parser.add_argument("checkpoint", metavar="FILE", help="checkpoint of the authors, a .pt file")
    add_output_argument(parser)
    parser.add_argument(
        "--vision-heads", type=int, metavar="N", help="number of heads of the vision tower (default: width / 64)"
    )
    parser.add_argument(
        "--text-heads", type=int, metavar="N", help="number of heads of the text tower (default: width / 64)"
    )
    parser.add_argument(
        "--tokenizer", metavar="MODEL", help="directory or Hub id of a tokenizer, to save a processor as well"
    )
    add_json_argument(parser)


@reporting
def run(args: argparse.Namespace) -> Report:
    """Converts. The report describes the directory that was written."""
    from beta_clip_hf.release.convert_b_clip import convert_b_clip

    model = convert_b_clip(
        args.checkpoint,
        args.output,
        vision_heads=args.vision_heads,
        text_heads=args.text_heads,
        tokenizer=args.tokenizer,
    )
    return report_model(args.output, model)
