"""The demo as a whole: its collection, its page and its server. docs/demo.md describes it."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from tempfile import TemporaryDirectory
from threading import Event
from typing import TYPE_CHECKING, Unpack

from transformers.utils import logging as transformers_logging

from .collection import CollectionOptions, open_collection
from .limits import Limits, check_port


if TYPE_CHECKING:
    from .page import Page

logger = logging.getLogger(__name__)


@contextmanager
def open_page(limits: Limits | None = None, **collection_options: Unpack[CollectionOptions]) -> "Iterator[Page]":
    """
    Builds the page without serving it, with a collection and a temporary folder for uploads.

    The folder and a temporary index are removed at the end. Gradio's telemetry is off.

    Args:
        limits: What a visitor may send; see [`Limits`] for the default.
        **collection_options: The images and the model; see [`open_collection`].

    Raises:
        ImportError: without Gradio.
        ValueError: see [`open_collection`].
    """
    if find_spec("gradio") is None:
        raise ImportError("the demo needs Gradio: pip install gradio lancedb matplotlib")
    with TemporaryDirectory(prefix="beta-clip-uploads-") as folder, open_collection(**collection_options) as collection:
        # Gradio reads these variables when it is imported.
        os.environ.update(GRADIO_ANALYTICS_ENABLED="0", GRADIO_TEMP_DIR=folder)
        from .page import build

        # Without this, a bar would appear in the log for every question of a visitor.
        transformers_logging.disable_progress_bar()
        try:
            yield build(collection, limits)
        finally:
            os.environ.pop("GRADIO_TEMP_DIR", None)


def serve(
    limits: Limits | None = None,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    share: bool = False,
    **collection_options: Unpack[CollectionOptions],
) -> None:
    """
    Serves the demo until the process is interrupted, which is no error.

    Args:
        limits: What a visitor may send; see [`Limits`] for the default.
        host: Address to listen on. The default can be reached from this machine only.
        port: Port to listen on. The default is the first free one from 7860.
        share: Whether Gradio's servers make the page public, through a tunnel.
        **collection_options: The images and the model; see [`open_collection`].

    Raises:
        ImportError: without Gradio or LanceDB.
        ValueError: if the port is taken or is no port. See also [`open_collection`].
    """
    # A wrong port is reported before the model is loaded.
    check_port(port)
    with open_page(limits, **collection_options) as page:
        from .page import launch

        address = launch(page, host=host, port=port, share=share)
        logger.info("the demo is at %s; Ctrl-C ends it", address)
        try:
            Event().wait()
        except KeyboardInterrupt:
            logger.info("the demo is closed")
        finally:
            page.blocks.close(verbose=False)
