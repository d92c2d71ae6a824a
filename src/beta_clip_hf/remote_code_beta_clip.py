"""Checkpoints that bring their own code, and load with `trust_remote_code=True` where this package is not installed."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


@contextmanager
def carrying_code(classes: Mapping[Any, str]) -> Iterator[None]:
    """
    Within it `save_pretrained` of these classes also writes the code that they need, and their names into the files.

    Args:
        classes: By class the Auto class that is to find it: `{BetaCLIPModel: "AutoModel"}`.
    """
    before = {cls: cls._auto_class for cls in classes}
    try:
        for cls, auto_class in classes.items():
            cls.register_for_auto_class(auto_class)
        yield
    finally:
        for cls, auto_class in before.items():
            cls._auto_class = auto_class


__all__ = ["carrying_code"]
