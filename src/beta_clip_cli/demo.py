"""`beta-clip demo`: serves a page in the browser that shows what a model sees."""

import argparse
import signal

from .arguments import SHIPPED_MODEL, add_device_argument


# The help names these values without importing the library; a test holds them equal to those of the library.
LEVELS = ("easy", "medium", "hard")
MAX_UPLOAD, MAX_PIXELS, RATE = 10, 40, 120


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `beta-clip demo`."""
    parser.add_argument(
        "--model",
        metavar="MODEL",
        help=f"directory or Hub id of a model (default: the model of the index, else {SHIPPED_MODEL})",
    )
    parser.add_argument("--index", metavar="INDEX", help="index to search, made by beta-clip index")
    parser.add_argument(
        "--photos",
        metavar="DATA",
        help="photos to search: a folder or rows; they are added to --index, or embedded for this run only",
    )
    parser.add_argument(
        "--level", choices=LEVELS, default="easy", help="level of the generated scenes that take the place of photos"
    )
    parser.add_argument(
        "--host", metavar="ADDRESS", default="127.0.0.1", help="address to listen on; 0.0.0.0 opens it to the network"
    )
    parser.add_argument(
        "--port", metavar="N", type=int, help="port to listen on (default: the first free one from 7860)"
    )
    parser.add_argument(
        "--share", action="store_true", help="give the page a temporary public address, through Gradio's servers"
    )
    parser.add_argument(
        "--max-upload", metavar="MIB", type=float, default=MAX_UPLOAD, help="largest uploaded file, in MiB"
    )
    parser.add_argument(
        "--max-pixels",
        metavar="MILLIONS",
        type=float,
        default=MAX_PIXELS,
        help="largest uploaded image, in millions of pixels",
    )
    parser.add_argument(
        "--rate", metavar="N", type=int, default=RATE, help="largest number of requests of one client per minute"
    )
    add_device_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Serves the page until the process is interrupted or terminated, which is no error."""
    from beta_clip_hf.demo.app import serve
    from beta_clip_hf.demo.limits import Limits

    limits = Limits(args.max_upload, args.max_pixels, args.rate)
    # A service ends with SIGTERM. As an interrupt, the signal lets the demo remove the uploads.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    serve(
        limits,
        host=args.host,
        port=args.port,
        share=args.share,
        model=args.model,
        index=args.index,
        photos=args.photos,
        level=args.level,
        device=args.device,
    )
    return 0
