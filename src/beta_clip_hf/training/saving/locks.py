"""
One run per output directory: a lock file that names the process which holds it.

The lock of a process that has ended is stale and is taken over. On the same machine the process can be asked for. A
lock of another machine is watched instead: its holder touches the file every few seconds (see `companions.py`), so that
a lock which nobody touches for a minute is stale. No clocks are compared.
"""

import json
import logging
import os
import platform
import secrets
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ...files import is_running


logger = logging.getLogger(__name__)

LOCK_FILE = ".train.lock"
# A holder touches its lock in less than a tenth of the time after which nobody believes in it.
HEARTBEAT_SECONDS = 5.0
STALE_SECONDS = 60.0
_POLL_SECONDS = 1.0


class RunLock:
    """
    The lock of an output directory, held within a `with` block.

    Args:
        output_dir: The directory. It is created if it is missing.
        stale_seconds: How long a lock of another machine is watched before it is taken for stale.

    Raises:
        ValueError: on entering, if another run holds the lock. The message names its host, process and time.
    """

    def __init__(self, output_dir: str | Path, *, stale_seconds: float = STALE_SECONDS) -> None:
        self.path = Path(output_dir) / LOCK_FILE
        self._stale_seconds = stale_seconds
        self._content = ""

    def __enter__(self) -> "RunLock":
        self.acquire()
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    def acquire(self) -> None:
        """Takes the lock, see the class."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = json.dumps(_describe_holder())
        while not self._create(content):
            stored = self._read()
            if stored is None:
                continue
            if not self._is_stale(stored):
                raise ValueError(_held_sentence(self.path, stored))
            logger.warning("%s was left by a run that has ended (%s) and is taken over", self.path, _holder(stored))
            self._remove(stored)
        self._content = content

    def release(self) -> None:
        """Gives the lock back, if it is still ours."""
        if self._content and self._read() == self._content:
            self.path.unlink(missing_ok=True)
        self._content = ""

    def touch(self) -> None:
        """Tells watchers on other machines that the holder is alive."""
        try:
            os.utime(self.path)
        except OSError:
            # The directory is gone, or the file server does not answer: the run itself will say so.
            return

    def _create(self, content: str) -> bool:
        """Creates the file with its content in one step, so that nobody reads an empty one."""
        draft = self.path.with_name(f"{LOCK_FILE}.{secrets.token_hex(4)}")
        try:
            draft.write_text(content, encoding="utf-8")
            os.link(draft, self.path)
        except FileExistsError:
            return False
        except OSError:
            # A file system without hard links.
            return self._create_exclusively(content)
        finally:
            draft.unlink(missing_ok=True)
        return True

    def _create_exclusively(self, content: str) -> bool:
        try:
            with open(self.path, "x", encoding="utf-8") as file:
                file.write(content)
        except FileExistsError:
            return False
        return True

    def _read(self) -> str | None:
        try:
            return self.path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return None

    def _is_stale(self, stored: str) -> bool:
        holder = _parse(stored)
        if holder.get("machine") == _machine():
            return not _is_alive(holder.get("pid"), holder.get("started"))
        return self._is_abandoned(stored)

    def _is_abandoned(self, stored: str) -> bool:
        """Watches the lock of another machine until it is touched or gone, or long enough."""
        logger.info("%s is held by %s: it is watched for %.0f s", self.path, _holder(stored), self._stale_seconds)
        try:
            first = self.path.stat().st_mtime_ns
            deadline = time.monotonic() + self._stale_seconds
            while time.monotonic() < deadline:
                time.sleep(min(_POLL_SECONDS, self._stale_seconds / 4))
                if self.path.stat().st_mtime_ns != first:
                    return False
        except FileNotFoundError:
            # It was given back.
            return True
        return True

    def _remove(self, stored: str) -> None:
        """Removes a stale lock, unless another process has just replaced it."""
        aside = self.path.with_name(f"{LOCK_FILE}.{secrets.token_hex(4)}")
        try:
            self.path.rename(aside)
        except FileNotFoundError:
            return
        if aside.read_text(encoding="utf-8", errors="replace") != stored:
            # It belongs to a run that was faster: it gets it back.
            try:
                os.link(aside, self.path)
            except OSError:
                logger.warning("%s could not be given back to %s", self.path, _holder(stored))
        aside.unlink(missing_ok=True)


def _describe_holder() -> dict[str, Any]:
    return {
        "host": platform.node(),
        "pid": os.getpid(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": _machine(),
        "started": process_start(os.getpid()),
    }


def _machine() -> str:
    """
    Returns a name for the place in which process ids are unique: the host, its boot, and the container.

    Other systems than Linux only give the name of the host.
    """
    parts = [platform.node()]
    try:
        # Ids start again with each boot.
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        parts.append(boot.strip())
    except OSError as error:
        logger.debug("the boot of this machine has no id: %s", error)
    try:
        # A container may number its processes by itself. The link names its numbering.
        parts.append(os.readlink("/proc/self/ns/pid"))
    except OSError as error:
        logger.debug("the numbering of processes has no name: %s", error)
    return " ".join(parts)


def process_start(pid: int) -> str:
    """
    Returns when a process began, in the ticks of the kernel. Ids are used again, so an id alone says little.

    Returns:
        The ticks; empty if the process has ended, or on another system than Linux.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    # The name of the command, in brackets, may hold blanks. The state and 18 numbers stand between it and the start.
    state, *numbers = stat.rpartition(")")[2].split()
    # A process that has ended stays listed until its parent asks for it.
    return "" if state in ("Z", "X") else numbers[18]


def _is_alive(pid: Any, started: Any) -> bool:
    if type(pid) is not int or pid < 1:
        return False
    if not is_running(pid):
        return False
    if not process_start(os.getpid()):
        # Another system than Linux does not say when a process began.
        return True
    return process_start(pid) == started


def _parse(stored: str) -> dict[str, Any]:
    try:
        holder = json.loads(stored)
    except (ValueError, RecursionError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _holder(stored: str) -> str:
    holder = _parse(stored)
    return f"process {holder.get('pid')} on {holder.get('host')} since {holder.get('time')}"


def _held_sentence(path: Path, stored: str) -> str:
    return (
        f"{path.parent} must be written by one run at a time, but {_holder(stored)} is at work in it: wait for it, "
        "stop it, or choose another directory"
    )


__all__ = ["HEARTBEAT_SECONDS", "LOCK_FILE", "RunLock", "process_start"]
