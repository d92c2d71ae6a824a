"""Finds what would make the CPU wait for a GPU, also where there is none."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from unittest.mock import patch

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


# A meta tensor has no value: whoever asks for one fails there, as it would wait on a GPU.
DEVICES = ["meta", *(["cuda"] if torch.cuda.is_available() else [])]


class _Copies(TorchDispatchMode):
    """Copies from the CPU that wait until they are done, and CPU tensors that an operation would copy by itself."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        result = func(*args, **kwargs)
        devices = {tensor.device.type for tensor in [*tensors, *tree_leaves(result)] if _has_shape(tensor)}
        if {"cpu", "meta"} <= devices:
            waits_not = kwargs.get("non_blocking", args[2:3] == (True,))
            assert func.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_) and waits_not, func
        return result


class _Literals(TorchFunctionMode):
    """Tensors of Python numbers, which are made on the CPU and copied."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        literal = func in (torch.tensor, torch.as_tensor, torch.Tensor.new_tensor)
        assert not (literal and result.device.type == "meta"), func
        return result


def _has_shape(value) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim > 0


@contextmanager
def no_waits(device: str) -> Iterator[None]:
    """Within it, an operation that waits for `device` raises."""
    if device == "cuda":
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")
    else:
        without_autocast = patch.object(torch, "autocast", lambda *args, **kwargs: nullcontext())  # it has none
        with without_autocast, _Literals(), _Copies():
            yield
