# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""The contract between a loss and the processes whose rows it contrasts, and its implementation for one process.

The core never talks to other processes itself. `ProcessGather`, in the room for training, does it by this contract.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor


class Gather(ABC):
    """
    Connects this process to the others that compute one loss together. An implementation inherits from this class.

    Every process makes the same calls in the same order. Each process gets the value of the whole loss, and the mean
    over processes of the gradients is the gradient of one process that holds all rows.
    """

    @property
    @abstractmethod
    def rank(self) -> int:
        """The place of this process among the others, from 0."""

    @abstractmethod
    def row_counts(self, *rows: int) -> list[list[int]]:
        """Returns the numbers that each process passes, by rank."""

    @abstractmethod
    def sized(self, counts: Sequence[int]) -> "Gather":
        """Returns a gather for tensors with `counts[r]` rows in process r. It does not exchange the counts again."""

    @abstractmethod
    def __call__(self, rows: Tensor) -> Tensor:
        """Returns the rows of all processes, by rank; the number of rows may differ between processes."""

    @abstractmethod
    def sum(self, values: Tensor) -> Tensor:
        """Returns the sum over processes, element by element."""

    @abstractmethod
    def logsumexp(self, values: Tensor) -> Tensor:
        """Returns log Σ exp over processes, element by element."""


class OneProcess(Gather):
    """Implements [`Gather`] for a single process, which already holds all rows."""

    @property
    def rank(self) -> int:
        """0, the only place."""
        return 0

    def row_counts(self, *rows: int) -> list[list[int]]:
        """Returns the numbers of the only process."""
        return [list(rows)]

    def sized(self, counts: Sequence[int]) -> Gather:
        """Returns itself."""
        return self

    def __call__(self, rows: Tensor) -> Tensor:
        """Returns the rows unchanged."""
        return rows

    def sum(self, values: Tensor) -> Tensor:
        """Returns the values unchanged."""
        return values

    def logsumexp(self, values: Tensor) -> Tensor:
        """Returns the values unchanged."""
        return values


# What the contract asks for beside a call, which every plain function has as well.
_MEMBERS = ("rank", "row_counts", "sized", "sum", "logsumexp")

# What the argument `gather` of a loss may be.
GatherArgument = Gather | Callable[[Tensor], Tensor] | None


def adapted_gather(gather: GatherArgument, *rows: Tensor | None) -> tuple[Gather, list[Any]]:
    """
    Turns the argument `gather` of a loss into a [`Gather`]. Every loss calls this first.

    A plain function maps rows to the rows of all processes and does nothing else. It gathers all rows here, and what
    remains is the loss of one process: each process computes the whole loss, and the work is not divided.

    Args:
        gather: A [`Gather`], a plain function, or `None` for one process.
        rows: The tensors with one row per item that the loss is computed from; `None` for one that is left out.

    Returns:
        A [`Gather`], and the tensors to compute the loss from.

    Raises:
        TypeError: If `gather` cannot be called, or has a part of the contract only.
    """
    if gather is None:
        return OneProcess(), list(rows)
    if is_gather(gather):
        return gather, list(rows)  # type: ignore[return-value]  # a copy of this module may have defined its class
    if not callable(gather):
        raise TypeError(f"gather must be a Gather or a function of a tensor, but is of type {type(gather).__name__}")
    gathered: list[Any] = []
    for tensor in rows:
        gathered.append(None if tensor is None else gather(tensor))
    return OneProcess(), gathered


def is_gather(gather: Any) -> bool:
    """
    Tells whether an object keeps the contract of [`Gather`], and not merely gathers rows like a plain function.

    Raises:
        TypeError: If it has some members of the contract, but not all. As a plain function it would gather rows, and
            each process would silently compute the whole loss.
    """
    if isinstance(gather, Gather):
        return True
    members = [name for name in _MEMBERS if hasattr(gather, name)]
    # A checkpoint carries a copy of this module. A model that is loaded with that code meets gathers that inherit from
    # the class of the installed package.
    if len(members) == len(_MEMBERS):
        return True
    if members:
        missing = ", ".join(name for name in _MEMBERS if name not in members)
        raise TypeError(f"gather must have all members of Gather and inherit from it, but lacks {missing}")
    return False


__all__ = ["Gather", "GatherArgument", "OneProcess", "adapted_gather", "is_gather"]
