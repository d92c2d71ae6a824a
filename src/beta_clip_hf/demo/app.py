"""
`beta-clip demo`: searches a collection, shows where each phrase of a caption looks, and compares two captions, in the
browser. See docs/demo.md.
"""

import argparse
import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from tempfile import TemporaryDirectory
from threading import Event
from typing import TYPE_CHECKING, Any

from transformers.utils import logging as transformers_logging

from ..data.scenes.levels import LEVELS
from ..inference.processes import default_device
from .collection import DEFAULT_MODEL, open_collection
from .limits import Limits, check_port


if TYPE_CHECKING:
    from .page import Page

logger = logging.getLogger(__name__)


@contextmanager
def open_page(limits: Limits | None = None, **chosen: Any) -> "Iterator[Page]":
    """
    The page, not yet served, with what is searched and a folder of its own for uploads; both are removed afterwards,
    as far as they were made for it. Nobody is told that Gradio is used.

    Args:
        limits: Of what a visitor may send.
        chosen: What is searched, as in [`open_collection`].

    Raises:
        ImportError: without Gradio. And as [`open_collection`].
    """
    if find_spec("gradio") is None:
        raise ImportError('The demo needs Gradio: pip install "beta-clip-hf[demo]"')
    with TemporaryDirectory(prefix="beta-clip-uploads-") as folder, open_collection(**chosen) as collection:
        # Before Gradio is imported.
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "0", "GRADIO_TEMP_DIR": folder}
        from .page import build

        transformers_logging.disable_progress_bar()  # of each question
        try:
            yield build(collection, limits)
        finally:
            os.environ.pop("GRADIO_TEMP_DIR", None)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `beta-clip demo`."""
    parser.add_argument(
        "--model", metavar="MODEL", help=f"directory or Hub id (default: that of the index, else {DEFAULT_MODEL})"
    )
    parser.add_argument("--index", metavar="INDEX", help="what beta-clip index has made, to be searched")
    parser.add_argument(
        "--photos", metavar="DATA", help="folder or rows to index first: into --index, or for this time only"
    )
    parser.add_argument("--level", choices=list(LEVELS), default="easy", help="of the generated scenes, without photos")
    parser.add_argument("--host", metavar="ADDRESS", default="127.0.0.1", help="to listen on; 0.0.0.0 is the network")
    parser.add_argument("--port", metavar="N", type=int, help="to listen on (default: the first free one from 7860)")
    parser.add_argument("--share", action="store_true", help="make it public for a while, through Gradio's servers")
    parser.add_argument("--max-upload", metavar="MIB", type=float, default=Limits.upload_mib, help="size of a file")
    parser.add_argument(
        "--max-pixels", metavar="MILLIONS", type=float, default=Limits.megapixels, help="size of an image"
    )
    parser.add_argument(
        "--rate", metavar="N", type=int, default=Limits.per_minute, help="requests of one client in a minute"
    )
    parser.add_argument("--device", metavar="DEVICE", default=default_device(), help="cpu, cuda, cuda:1 or another")


def run(args: argparse.Namespace) -> int:
    """Serves the page until it is interrupted or told to end, which is no error."""
    limits = Limits(args.max_upload, args.max_pixels, args.rate)
    check_port(args.port)  # before the model is loaded
    chosen = {"model": args.model, "index": args.index, "photos": args.photos, "level": args.level}
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends a service, which leaves no uploads
    with open_page(limits, **chosen, device=args.device) as page:
        from .page import launch

        address = launch(page, host=args.host, port=args.port, share=args.share)
        logger.info("the demo is at %s; Ctrl-C ends it", address)
        try:
            Event().wait()
        except KeyboardInterrupt:
            logger.info("the demo is closed")
        finally:
            page.blocks.close(verbose=False)
    return 0
