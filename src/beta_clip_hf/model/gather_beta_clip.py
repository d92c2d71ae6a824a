"""The contract between a loss and the processes whose rows it contrasts, and its implementation for one process.

The core never talks to other processes itself. `ProcessGather`, in the room for training, does it by this contract.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Gather(Protocol):
    """
    Connects this process to the others that compute one loss together.

    Every process makes the same calls in the same order. Each process gets the value of the whole loss, and the mean
    over processes of the gradients is the gradient of one process that holds all rows.
    """

    @property
    def rank(self) -> int:
        """The place of this process among the others, from 0."""

    def row_counts(self, *rows: int) -> list[list[int]]:
        """Returns the numbers that each process passes, by rank."""

    def sized(self, counts: Sequence[int]) -> "Gather":
        """Returns a gather of tensors of which process r has `counts[r]` rows: nothing asks for the sizes again."""

    def __call__(self, rows: Tensor) -> Tensor:
        """Returns the rows of all processes, by rank; the number of rows may differ between processes."""

    def sum(self, values: Tensor) -> Tensor:
        """Returns the sum over processes, element by element."""

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
    """
    if gather is None:
        return OneProcess(), list(rows)
    if isinstance(gather, Gather):
        return gather, list(rows)
    return OneProcess(), [None if tensor is None else gather(tensor) for tensor in rows]


__all__ = ["Gather", "GatherArgument", "OneProcess", "adapted_gather"]
