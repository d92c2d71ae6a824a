"""Shows or hides the progress bars of a piece of work."""

from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging


@contextmanager
def progress_bars(are_shown: bool) -> Iterator[None]:
    """Shows the progress bars of transformers or hides them, and leaves the setting as it was."""
    were_shown = logging.is_progress_bar_enabled()
    _set_progress_bars(are_shown)
    try:
        yield
    finally:
        _set_progress_bars(were_shown)


def _set_progress_bars(are_shown: bool) -> None:
    if are_shown:
        logging.enable_progress_bar()
    else:
        logging.disable_progress_bar()
