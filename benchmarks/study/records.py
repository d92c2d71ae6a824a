"""The results of the study as small JSON files: numbers of four digits, the values of items packed into strings."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from beta_clip_hf.files import write_text


DIGITS = 4
RESULTS = Path(__file__).parent / "results"
# 61 letters stand for 0, 1/60, …, 1. Shares of up to six tied items are exact.
_LETTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxy"
_STEPS = len(_LETTERS) - 1
_NUMBER_OF_LETTER = {letter: number for number, letter in enumerate(_LETTERS)}


def packed(shares_I: Tensor) -> str:
    """
    Packs shares into a string of one letter each, to the nearest sixtieth.

    Args:
        shares_I: (I,) numbers in [0, 1].

    Raises:
        ValueError: if a number is outside of [0, 1].

    >>> packed(torch.tensor([0.0, 0.5, 1.0]))
    '0Uy'
    """
    if not ((shares_I >= 0) & (shares_I <= 1)).all():
        raise ValueError(f"shares must be in [0, 1], but are from {shares_I.min()} to {shares_I.max()}")
    return packed_counts((shares_I.double() * _STEPS).round().long())


def unpacked(letters: str) -> Tensor:
    """Returns the shares (I,) in float64 that [`packed`] has packed."""
    return unpacked_counts(letters).double() / _STEPS


def packed_counts(counts_B: Tensor) -> str:
    """Packs integers from 0 to 60 into a string of one letter each."""
    return "".join(_LETTERS[count] for count in counts_B.tolist())


def unpacked_counts(letters: str) -> Tensor:
    """Returns the integers (B,) that [`packed_counts`] has packed."""
    return torch.tensor([_NUMBER_OF_LETTER[letter] for letter in letters], dtype=torch.int64)


def rounded(number: float | None) -> float | None:
    """Rounds a number to the digits of a result."""
    return None if number is None else round(number, DIGITS)


def result_path(output: Path, arm: str, seed: int) -> Path:
    """Returns the file of a run in a folder of runs."""
    return output / f"{arm}_{seed}.json"


def default_output(start: str, level: str) -> Path:
    """Returns the folder of the runs that the report is about."""
    return RESULTS / f"{start}_{level}"


def write_record(record: dict[str, Any], path: Path) -> Path:
    """
    Writes a result whole or not at all: one line for each entry, and for each entry of a dict of dicts.

    Indented JSON would be several times as long, and JSON on one line would have no readable difference in git.
    """
    lines = []
    for name, value in record.items():
        if isinstance(value, dict) and any(isinstance(entry, dict) for entry in value.values()):
            entries = [f"  {json.dumps(key)}: {_one_line(entry)}" for key, entry in value.items()]
            text = "{\n" + ",\n".join(entries) + "\n }"
        else:
            text = _one_line(value)
        lines.append(f" {json.dumps(name)}: {text}")
    return write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")


def _one_line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def read_records(folder: Path) -> list[dict[str, Any]]:
    """Reads the results of a folder, in the order of the file names."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
