"""Writes tiny copies of benchmarks in their own layouts. An image is an empty file: no reader opens one."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def write(path: Path, content: Any) -> Path:
    """Text as it is, a list for `.jsonl` and `.jsonlines` as lines, all else as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, str):
        lines = content if path.suffix in (".jsonl", ".jsonlines") else [content]
        content = "\n".join(map(json.dumps, lines))
    path.write_text(content, encoding="utf-8")
    return path


def touch(root: Path, names: Iterable[str]) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
