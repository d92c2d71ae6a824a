"""Runs code in a process where the package cannot be imported, although it is installed."""

import subprocess
import sys
from pathlib import Path


HIDDEN = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name == "beta_clip_hf":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hide())
"""

CHECK = """
try:
    import beta_clip_hf
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("the package is visible")
"""


def run_without_package(code: str, folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -c code words` in a folder, with these variables alone; its output is caught."""
    (folder / "sitecustomize.py").write_text(HIDDEN)
    command = [sys.executable, "-c", CHECK + code, *words]
    variables = {"PYTHONPATH": str(folder), **environment}
    return subprocess.run(command, env=variables, capture_output=True, text=True, cwd=folder, timeout=600)
