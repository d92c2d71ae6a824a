# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""Directories that hold an adapter (LoRA) instead of a whole model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers.utils import cached_file


ADAPTER_FILE = "adapter_config.json"
# Loads an adapter into its base model: `read_adapter(source, cls, **kwargs)`. The package sets it when it is imported.
# The code that a checkpoint brings along cannot read adapters, and leaves it at `None`.
read_adapter: Callable[..., Any] | None = None


def is_adapter(source: Any, **hub: Any) -> bool:
    """
    Tells whether a directory or a repository of the Hub holds an adapter.

    Args:
        source: A directory or Hub id.
        hub: `revision`, `token`, … as for `from_pretrained`.
    """
    if Path(str(source)).is_dir():
        return (Path(str(source)) / str(hub.get("subfolder") or "") / ADAPTER_FILE).is_file()
    # Without these three, `cached_file` raises an error for a file that is not there.
    quiet = {
        "_raise_exceptions_for_missing_entries": False,
        "_raise_exceptions_for_gated_repo": False,
        "_raise_exceptions_for_connection_errors": False,
    }
    return cached_file(source, ADAPTER_FILE, **hub, **quiet) is not None


def load_adapter(source: Any, model_class: Any, **kwargs: Any) -> Any:
    """
    Loads the base model of an adapter and merges the adapter into it.

    Args:
        source: Directory or Hub id of the adapter.
        model_class: The class of the model.
        kwargs: Arguments of `from_pretrained`.

    Raises:
        ValueError: where this package is not installed.
    """
    if read_adapter is None:
        raise ValueError(
            f"a model must be loaded, but {source} holds an adapter: install beta-clip-hf and peft, or load what "
            "`beta-clip export merged` makes of it"
        )
    return read_adapter(source, model_class, **kwargs)


__all__ = ["ADAPTER_FILE", "is_adapter", "load_adapter"]
