"""
Watches what a process of a training depends on: its launcher, the other processes, and its lock.

A process that waits for a dead one would wait for a long time. A thread looks every half second whether the launcher is
still there and whether another process has left a note that it ended. The processes exchange the notes in the output
directory, which all of them see.
"""

import json
import logging
import os
import platform
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..data.workers import launched_place
from ..files import write_json
from .saving.locks import HEARTBEAT_SECONDS, process_start


logger = logging.getLogger(__name__)

NOTES_FOLDER = ".processes"
_POLL_SECONDS = 0.5
# How long a process may take to notice by itself that another one is gone, and to report its own error.
GRACE_SECONDS = 4.0
FAILED = 1


class CompanionError(OSError):
    """Another process of the training has ended. The message names it and its reason."""


class Companions:
    """
    The other processes of a training and its launcher, watched within a `with` block.

    All processes enter it together.

    Args:
        processes: The processes, with `rank`, `count`, `gather` and `broadcast`.
        output_dir: The directory of the run.
        touch: Is called every few seconds; the process that holds the lock keeps it fresh by that.
    """

    def __init__(self, processes: Any, output_dir: str | Path, touch: Callable[[], None] | None = None) -> None:
        self._processes = processes
        self._rank: int = processes.rank
        self._folder = Path(output_dir) / NOTES_FOLDER
        self._touch = touch
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="companions", daemon=True)
        # Only a process that a launcher has started ends with its parent: others may outlive the shell.
        is_launched = launched_place().world_size > 1 or "TORCHELASTIC_RUN_ID" in os.environ
        self._launcher = os.getppid() if is_launched else None
        if self._rank == 0:
            self._forget_notes()
        # On the same machine the id and the start of a process tell whether it still runs.
        present = processes.gather((platform.node(), os.getpid(), process_start(os.getpid())))
        self._others: dict[int, tuple[str, int, str]] = dict(enumerate(processes.broadcast(present)))

    def __enter__(self) -> "Companions":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            if error is None:
                self._leave_together()
            elif len(self._others) > 1:
                self._tell(error)
        finally:
            self._done.set()

    def _leave_together(self) -> None:
        """Waits for all processes, so that none takes another one's regular end for its death."""
        try:
            self._processes.broadcast(self._processes.gather(None))
        except RuntimeError as error:
            self._tell(error)
            raise

    def _tell(self, error: BaseException) -> None:
        """Tells the others why this process ends. If that is because one of them has ended, it says so instead."""
        if getattr(error, "can_resume", False):
            # All processes stop together after a signal.
            return
        told = self._wait_for_reason() if _may_be_a_consequence(error) else None
        if told is None:
            self._leave_note(error)
            return
        raise CompanionError(told) from error

    def _leave_note(self, error: BaseException) -> None:
        reason = " ".join(str(error).split()) or type(error).__name__
        try:
            write_json({"reason": f"{type(error).__name__}: {reason}"}, self._folder / f"{self._rank}.json")
        except OSError as problem:
            logger.warning("the other processes cannot be told why this one ends: %s", problem)

    def _wait_for_reason(self) -> str | None:
        """Waits a moment for the reason of another process to arrive."""
        deadline = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < deadline:
            reason = self._reason_of_others()
            if reason is not None:
                return reason
            time.sleep(_POLL_SECONDS / 2)
        return None

    def _reason_of_others(self) -> str | None:
        """Returns a sentence on another process that has ended; `None` if none has."""
        for rank, (host, pid, started) in self._others.items():
            if rank == self._rank:
                continue
            note = self._folder / f"{rank}.json"
            try:
                reason = json.loads(note.read_text(encoding="utf-8"))["reason"]
                return f"process {rank} has ended: {reason}"
            except (OSError, ValueError, KeyError, TypeError):
                # There is no note.
                pass
            is_here = host == platform.node()
            if is_here and started and process_start(pid) != started:
                return (
                    f"process {rank} (id {pid} on {host}) has ended without a reason: was it killed, or out of memory?"
                )
        return None

    def _watch(self) -> None:
        last_touch = 0.0
        while not self._done.wait(_POLL_SECONDS):
            now = time.monotonic()
            if self._touch is not None and now - last_touch >= HEARTBEAT_SECONDS:
                last_touch = now
                self._touch()
            if self._launcher is not None and os.getppid() != self._launcher:
                self._end("the launcher of the processes has ended")
            reason = self._reason_of_others()
            if reason is not None and not self._done.wait(GRACE_SECONDS):
                # The main thread still waits for the other process.
                self._end(reason)

    def _end(self, reason: str) -> None:
        logger.error("process %d ends, because %s", self._rank, reason)
        logging.shutdown()
        # Nothing else ends a thread that waits for another process.
        os._exit(FAILED)

    def _forget_notes(self) -> None:
        for note in self._folder.glob("*.json"):
            note.unlink(missing_ok=True)
        try:
            self._folder.rmdir()
        except OSError:
            return


def _may_be_a_consequence(error: BaseException) -> bool:
    """Whether an error can come from the connection to a process that has ended."""
    return isinstance(error, RuntimeError | ConnectionError | TimeoutError)


__all__ = ["CompanionError", "Companions"]
