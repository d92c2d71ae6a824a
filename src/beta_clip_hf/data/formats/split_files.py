"""Names of the JSON Lines files of a split in a directory: `SPLIT.jsonl`, or several of `SPLIT-*.jsonl`."""

import re
from itertools import product
from pathlib import Path
from typing import NamedTuple

from .compression import COMPRESSIONS
from .json_files import LINES_SUFFIXES


# A part of a split among all its parts, counted from 0: `train-00002-of-00008.jsonl`.
_SHARD_NAME = re.compile(r"(?P<split>.+)-(?P<part>\d{5})-of-(?P<parts>\d{5})\.jsonl")


class Shard(NamedTuple):
    """One of several consecutive parts of a split."""

    part: int
    """Number of this part, counted from 0."""
    parts: int
    """Number of all parts."""

    def file_name(self, split: str) -> str:
        """Names the file of the shard.

        >>> Shard(2, 8).file_name("train")
        'train-00002-of-00008.jsonl'
        """
        return f"{split}-{self.part:05d}-of-{self.parts:05d}.jsonl"


def find_shards(directory: Path, split: str) -> list[Shard]:
    """Returns the shards of a split that a directory holds, sorted by their names."""
    shards = []
    for file in sorted(directory.glob(f"{split}-*.jsonl")):
        match = _SHARD_NAME.fullmatch(file.name)
        if match and match["split"] == split:
            shards.append(Shard(int(match["part"]), int(match["parts"])))
    return shards


def files_of_split(directory: Path, split: str) -> list[Path]:
    """Returns `SPLIT.jsonl`, or else all of `SPLIT-*.jsonl`, sorted; nothing if there is none.

    Raises:
        ValueError: if some are shards (see [`Shard`]), and not all shards of one number are there.
    """
    for suffix, compression in product(LINES_SUFFIXES, ("", *COMPRESSIONS)):
        whole = directory / f"{split}{suffix}{compression}"
        if whole.is_file():
            return [whole]
    shards = find_shards(directory, split)
    number = max((shard.parts for shard in shards), default=0)
    wanted = {Shard(part, number) for part in range(number)}
    if set(shards) != wanted:
        in_order = sorted(shards, key=lambda shard: (shard.parts, shard.part))
        names = ", ".join(f"{shard.part} of {shard.parts}" for shard in in_order)
        missing = ", ".join(f"{shard.part}/{number}" for shard in sorted(wanted - set(shards)))
        advice = f": build the missing ones with beta-clip hierarchy --shard {missing}" if missing else ""
        raise ValueError(
            f"the shards of {split} in {str(directory)!r} must be all of one number, but are {names}{advice}"
        )
    return sorted(directory.glob(f"{split}-*.jsonl"))
