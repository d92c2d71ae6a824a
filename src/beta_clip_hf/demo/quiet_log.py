"""
Keeps tracebacks out of the log of the demo.

Whoever sends malformed events must not fill the log, nor learn from it how the program is built. Each failure is one
line. The traceback is there at the level DEBUG.
"""

import logging
import sys
import traceback
from typing import Any


logger = logging.getLogger(__name__)

# Modules of Gradio that print the traceback of whatever fails in an event, and the logger of its server.
_PRINTING_MODULES = ("gradio.queueing", "gradio.routes", "gradio.route_utils")
_SERVER_LOGGER = "uvicorn.error"
_LONGEST_REASON = 200


def log_failure(name: str, error: BaseException) -> None:
    """Logs on one line what has failed, why, and where."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {frames[-1].name}:{frames[-1].lineno}" if frames else ""
    reason = " ".join(str(error).split())[:_LONGEST_REASON]
    logger.error("%s has failed%s: %s: %s", name, place, type(error).__name__, reason)
    logger.debug("%s has failed", name, exc_info=error)


def keep_quiet() -> None:
    """Has Gradio and its server log failures on one line. Gradio must be imported."""
    for name in _PRINTING_MODULES:
        module = sys.modules.get(name)
        if module is not None and hasattr(module, "traceback"):
            module.traceback = _OneLine()  # type: ignore[attr-defined]
    server_logger = logging.getLogger(_SERVER_LOGGER)
    if not any(isinstance(known, _WithoutTraceback) for known in server_logger.filters):
        server_logger.addFilter(_WithoutTraceback())


class _OneLine:
    """Stands for the module `traceback` in a module of Gradio."""

    def __getattr__(self, name: str) -> Any:
        return getattr(traceback, name)

    def print_exc(self, *_: Any, **__: Any) -> None:
        """Logs the exception that is being handled."""
        error = sys.exc_info()[1]
        if error is not None:
            log_failure("an event", error)


class _WithoutTraceback(logging.Filter):
    """Drops records with a traceback, and logs one line in their place."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and record.exc_info[1] is not None:
            log_failure("a request", record.exc_info[1])
            return False
        return True


__all__ = ["keep_quiet", "log_failure"]
