"""Ends the process of a command."""

import atexit
import logging
import os
import sys
from typing import NoReturn


def end_process(code: int) -> NoReturn:
    """
    Ends the process with an exit code.

    A process that others have joined ends without the rest of Python's own end. There, threads of torch.distributed
    can abort a process that has done its work ("terminate called without an active exception"), and the launcher then
    reports a failure of all.

    Args:
        code: The exit code.
    """
    # Only a command that has imported torch can have joined others.
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        sys.exit(code)
    # What libraries have registered, such as the end of an upload. Python has no public way to run it.
    atexit._run_exitfuncs()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
