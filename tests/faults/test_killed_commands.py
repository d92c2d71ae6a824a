"""Killed at any moment and run again, `evaluate`, `hierarchy` and `index` leave what they leave undisturbed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


PROGRAM = Path(__file__).with_name("kill_commands.py")


@pytest.mark.stress
@pytest.mark.parametrize("command", ["evaluate", "hierarchy", "index"])
def test_killed_commands_end_as_if_nobody_had_killed_them(command):
    if command == "index":
        pytest.importorskip("lancedb")
    words = [sys.executable, str(PROGRAM), "--trials", "4", "--seed", "5", "--commands", command]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(words, capture_output=True, text=True, timeout=900, check=False, env=environment)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert f"| {command} | 4 / 4 |" in ended.stdout
