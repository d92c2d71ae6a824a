"""What an index remembers of its model, read and checked."""

import json
import os
from typing import Any

from .schema import INFO, SCHEMA


_TYPES: dict[str, tuple[type, ...]] = {
    "model": (str,),
    "dtype": (str,),
    "sha256": (str,),
    "precision": (str,),
    "patch_width": (int,),
    "truncate_dim": (int, type(None)),
    "stores_patches": (bool,),
}


def lasting_name(model_name: str) -> str:
    """Returns the name by which a model is found from any working directory: a Hub id, or a whole path."""
    if os.path.isdir(model_name):
        return os.path.abspath(model_name)
    return model_name


class IndexInfo(dict[str, Any]):
    """What an index remembers. A name that is missing is damage."""

    def __missing__(self, name: str) -> Any:
        raise ValueError(f"an index must say its {name}, but this one does not: index the photos anew")


def read_info(schema: Any, path: str) -> IndexInfo:
    """
    Returns what the schema of a table remembers.

    Args:
        schema: The Arrow schema of the images.
        path: Name of the index in messages.

    Raises:
        ValueError: if the table belongs to another program or version, or a value is of another type.
    """
    if INFO not in (schema.metadata or {}):
        raise ValueError(f"{path} must be an index of beta-clip, but is another LanceDB table")
    info = IndexInfo(json.loads(schema.metadata[INFO]))
    if info["schema"] != SCHEMA:
        raise ValueError(f"the schema of {path} must be {SCHEMA}, but is {info['schema']}: index it anew")
    for name, kinds in _TYPES.items():
        if name in info and not isinstance(info[name], kinds):
            raise ValueError(f"{name} of {path} is damaged: it is {str(info[name])[:40]!r}")
    return info
