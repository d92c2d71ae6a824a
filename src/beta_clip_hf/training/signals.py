"""
Signals that ask a training to end: it saves a checkpoint after the step at hand and ends.

SIGTERM, SIGINT, SIGHUP and SIGUSR1 are the ones that people, terminals and schedulers of clusters send. Before the
first step there is nothing to save, and the first of them ends the run. A second one ends it at once, wherever it is. A
launcher often repeats a signal that the terminal has sent to all processes already, so what follows within two seconds
counts as the same one.
"""

import logging
import os
import signal
import socket
import threading
import time
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


logger = logging.getLogger(__name__)

STOPPED = 75
"""The exit code of a run that has saved a checkpoint after a signal: EX_TEMPFAIL of sysexits.h, "try again later"."""
SAME_SECONDS = 2.0
# Windows has only the first two.
SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1") if hasattr(signal, name)]


class RunStopped(BaseException):
    """
    A run has ended because a signal asked for it. Like `KeyboardInterrupt`, it is not an `Exception`.

    Args:
        message: What a user reads: the signal, the step, and where the checkpoint is.
        code: The exit code.
        can_resume: Whether there is a checkpoint to go on from in the output directory.
    """

    def __init__(self, message: str, code: int, can_resume: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.can_resume = can_resume


class StopSignals:
    """
    Catches the signals that ask for an end, within a `with` block in the main thread.

    Attributes:
        received: The first signal; `None` if none has come.
        is_training: Whether a signal waits for the end of a step. Otherwise the first one raises [`RunStopped`].
        agreed: The signal that all processes have agreed to stop for.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.agreed: int | None = None
        self.is_training = False
        self._first_time = 0.0
        self._previous: dict[int, Any] = {}
        self._previous_descriptor = -1
        self._reader: socket.socket | None = None
        self._writer: socket.socket | None = None
        self._owner = os.getpid()

    def __enter__(self) -> "StopSignals":
        # Python runs handlers in the main thread only, and only there can they be set.
        if threading.current_thread() is not threading.main_thread():
            return self
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._previous_descriptor = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in SIGNALS:
            # An ignored signal stays ignored: `nohup` ignores SIGHUP.
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._handle)
        _open_contexts.append(self)
        threading.Thread(target=self._read, args=(self._reader,), name="signals", daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._writer is None or self._reader is None:
            return
        _open_contexts.remove(self)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._previous_descriptor)
        # The thread reads the end of the stream and ends.
        self._writer.close()
        self._writer = None

    def _handle(self, number: int, frame: Any) -> None:
        """Runs in the main thread, between two steps of Python."""
        if self.received is None:
            self.received = number
            self._first_time = time.monotonic()
        if not self.is_training and self.agreed is None:
            self.agreed = number
            name = signal.Signals(number).name
            raise RunStopped(f"stopped by {name} outside of the training steps, nothing was saved", 128 + number)
        if self.agreed is None:
            logger.warning("%s: the run saves a checkpoint after this step and ends", signal.Signals(number).name)

    def _read(self, reader: socket.socket) -> None:
        """Runs in a thread of its own, also while the main thread waits for a device or another process."""
        first = 0.0
        while True:
            content = reader.recv(64)
            if not content:
                reader.close()
                return
            for number in content:
                if number not in self._previous:
                    continue
                now = time.monotonic()
                if not first:
                    first = now
                elif now - first > SAME_SECONDS:
                    logger.error("a second %s: the run ends at once", signal.Signals(number).name)
                    logging.shutdown()
                    os._exit(128 + number)

    def leave_to_parent(self) -> None:
        """Lets a forked child ignore what the terminal sends to all processes. Its parent ends it when it has saved."""
        signal.set_wakeup_fd(-1)
        for number in self._previous:
            signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)


# The contexts that are open. Hooks at a fork cannot be removed, so there is one for all.
_open_contexts: list[StopSignals] = []


def _after_fork() -> None:
    for signals in _open_contexts:
        signals.leave_to_parent()
    _open_contexts.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class StopAtSignal(TrainerCallback):
    """
    Saves and ends a training after the step in which a signal came, in all processes after the same step.

    Args:
        signals: The signals of this process.
        processes: The processes of the training, with `maximum`.
    """

    def __init__(self, signals: StopSignals, processes: Any) -> None:
        self.signals = signals
        self.processes = processes

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """From here on there is something to save."""
        self.signals.is_training = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Asks all processes whether one of them has got a signal."""
        number = self.processes.maximum(self.signals.received or 0)
        # After the last step the run is about to end by itself.
        if number and state.global_step < state.max_steps:
            self.signals.agreed = number
            control.should_save = True
            control.should_training_stop = True


class NoEndOfEpoch(TrainerCallback):
    """Keeps a run that stops within an epoch from doing what is due at its end. It must be the last callback."""

    def __init__(self, signals: StopSignals) -> None:
        self.signals = signals

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Switches off the evaluation and the save of an epoch that has not ended."""
        if self.signals.agreed is not None and not float(state.epoch or 0).is_integer():
            control.should_evaluate = False
            control.should_save = False


__all__ = ["STOPPED", "NoEndOfEpoch", "RunStopped", "StopAtSignal", "StopSignals"]
