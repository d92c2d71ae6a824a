"""Trainings that are killed at random and resumed, as `make faults` does more often; and the figures that it writes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from faults.kills import END, KINDS, START, Outcome, table, write_figures


PROGRAM = Path(__file__).with_name("kills.py")


@pytest.mark.stress
@pytest.mark.parametrize("kind", range(len(KINDS)), ids=[kind.name for kind in KINDS])
def test_killed_runs_end_as_if_nobody_had_killed_them(kind):
    words = [sys.executable, str(PROGRAM), "--trials", "2", "--seed", "7", "--kinds", str(kind)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(words, capture_output=True, text=True, timeout=900, check=False, env=environment)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert f"| {KINDS[kind].name} | 2 / 2 |" in ended.stdout


def test_figures_stand_in_their_place(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{START}\nold\n{END}\nafter\n")
    outcome = Outcome(KINDS[1], trials=3, survived=2, kills=5, in_writing=1, longest_end=0.34)
    write_figures(page, table([outcome], "make faults"))
    text = page.read_text()
    assert "old" not in text and text.startswith("before\n") and text.endswith(f"{END}\nafter\n")
    assert "| JSONL, two processes | 2 / 3 | 5 | 1 | 0.3 s |" in text
