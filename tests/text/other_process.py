"""Runs code in a new Python process, without the seconds that importing torch takes: the text modules need none."""

import os
import subprocess
import sys
from pathlib import Path

import beta_clip_hf


PACKAGE = Path(beta_clip_hf.__file__).parent
WITHOUT_TORCH = f"""
import sys, types
package = sys.modules["beta_clip_hf"] = types.ModuleType("beta_clip_hf")
package.__path__ = [{str(PACKAGE)!r}]
"""


def run_python(code: str, *, hash_seed: str, input: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run `code` with the package's `text` modules importable; strings hash by `hash_seed`."""
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    arguments = [sys.executable, "-c", WITHOUT_TORCH + code]
    return subprocess.run(arguments, input=input, capture_output=True, text=True, env=environment)
