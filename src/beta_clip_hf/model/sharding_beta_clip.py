# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""Methods beside `forward` that work on a model whose weights are sharded over processes (FSDP2)."""

from collections.abc import Callable
from functools import wraps
from typing import Any


def gathers_weights(method: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a method of a module gather the module's weights as `forward` does, if they are sharded by FSDP2."""

    @wraps(method)
    def gathering(self: Any, *args: Any, **kwargs: Any) -> Any:
        # `fully_shard` gives a module a class that has this method.
        if not hasattr(self, "_get_fsdp_state"):
            return method(self, *args, **kwargs)
        state = self._get_fsdp_state()
        # Within `forward` the weights are there, and are needed after this method too.
        if state._training_state.name == "FORWARD":
            return method(self, *args, **kwargs)
        # What torch's `register_fsdp_forward_method` does; that would gather within `forward` too.
        args, kwargs = state._pre_forward(self, args, kwargs)
        return state._post_forward(self, args, method(self, *args, **kwargs))

    return gathering


__all__ = ["gathers_weights"]
