"""
One contrast over several micro-batches, in the memory of one: cached gradients.

The embeddings of all micro-batches are computed without a graph. The loss over all of them gives each embedding its
gradient. Then every micro-batch is computed again, with a graph, and its parameters get the gradient of
Σ embedding · cached gradient: by the chain rule this is their gradient in the one large batch. Random states are
restored, so that dropout drops the same values both times.

Source: Gao et al. 2021, arXiv 2101.06983 (GradCache), for the losses of this package.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..model.gather_beta_clip import Gather
from ..model.loss_inputs_beta_clip import FlatEmbeds
from ..model.objective_beta_clip import Objective
from .distributed import whole_tensor


# Fields of `FlatEmbeds` that hold embeddings: the losses are differentiated by them.
EMBEDDINGS = (
    "image_BD",
    "text_TD",
    "contextualized_TD",
    "region_RD",
    "region_text_RD",
    "hard_text_ND",
    "negative_nD",
    "contextualized_negative_nD",
)
# Fields of `FlatEmbeds` that hold places of rows, each with the field that holds the rows.
POINTERS = {
    "image_index_T": "image_BD",
    "caption_B": "text_TD",
    "short_J": "text_TD",
    "aligned_A": "text_TD",
    "hard_region_index_N": "region_RD",
    "negative_text_index_n": "text_TD",
}
# Fields of `FlatEmbeds` that are joined as they are.
LABELS = ("text_id_T", "region_text_id_R")


class CachedContrast:
    r"""
    Computes the loss of several micro-batches as one batch, and gives each micro-batch its share of the gradient.

    Args:
        model (`BetaCLIPModel`): Not wrapped; in training mode if dropout is to count.
        batches: Micro-batches as the collator makes them, on the model's device or moved there by `prepare`.
        gather (*optional*): Joins several processes.
        prepare: Moves a micro-batch to the device.
        autocast: Makes the context in which the model runs in the first pass. It must not be part of an outer autocast,
            which would keep the half-precision weights of the first pass, without a gradient, for the second.

    Raises:
        ValueError: Without micro-batches.

    Attributes:
        loss, losses: The loss of the whole contrast and its parts, detached.

    Example: one step of training by hand. With DDP, call the wrapped model in the loop.

    ```python
    contrast = CachedContrast(model, batches)
    for number, batch in enumerate(batches):
        with contrast.micro_batch(number):
            loss = model(**batch).loss
        loss.backward()
    ```
    """

    def __init__(
        self,
        model: Any,
        batches: Sequence[dict[str, Any]],
        *,
        gather: Gather | None = None,
        prepare: Callable[[dict[str, Any]], dict[str, Any]] = dict,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        if not batches:
            raise ValueError("batches must hold at least one micro-batch, but is empty")
        self.model = model
        self.random_states: list[RandomState] = []
        parts: list[FlatEmbeds] = []

        def keep(embeds: FlatEmbeds, _scales: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
            parts.append(embeds)
            return embeds.image_BD.new_zeros(()), {}

        for batch in batches:
            prepared = prepare(batch)
            self.random_states.append(RandomState.now(model.device))
            with torch.no_grad(), autocast(), model.loss_context(objective=keep):
                model(**prepared)

        scales = {}
        for name, scale in model.loss_scales().items():
            # Outside of `forward` a scale may be sharded.
            scales[name] = whole_tensor(scale.detach()).requires_grad_()
        leaves = [_leaves(part) for part in parts]
        loss, losses = model.objective_of(_joined(parts, leaves), scales, gather)
        loss.backward()
        self.loss = loss.detach()
        self.losses = {name: part.detach() for name, part in losses.items()}
        self.scale_gradients = _gradients(scales)
        self.gradients = [_gradients(leaves_of_part) for leaves_of_part in leaves]

    @contextmanager
    def micro_batch(self, number: int) -> Iterator[None]:
        """
        Makes the model compute micro-batch `number` for the second time, with a graph, within a `with` block.

        The model's loss is that of the whole contrast, and the gradients of all micro-batches add up to its gradients.
        Random numbers are those of the first pass, and afterwards go on as if none had been drawn.
        """
        with self.random_states[number].replayed(), self.model.loss_context(objective=self._share_of(number)):
            yield

    def _share_of(self, number: int) -> Objective:
        """Returns the objective whose gradient is the share of one micro-batch."""

        def share(embeds: FlatEmbeds, scales: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
            products = []
            for name, gradient in self.gradients[number].items():
                products.append((getattr(embeds, name) * gradient).sum())
            # All micro-batches share the scales. Each takes a part, as DDP expects all parameters in the last one.
            for name, gradient in self.scale_gradients.items():
                products.append(scales[name] * (gradient / len(self.gradients)))
            total = torch.stack([product.to(self.loss.dtype) for product in products]).sum()
            # The value is the loss, the gradient is that of the products.
            return self.loss + (total - total.detach()), self.losses

        return share


@dataclass
class RandomState:
    """Holds the states of the random generators of the CPU and of the model's GPU."""

    device: torch.device
    cpu: Tensor
    cuda: Tensor | None

    @classmethod
    def now(cls, device: torch.device) -> "RandomState":
        """Returns the present state."""
        cuda = None
        if device.type == "cuda":
            cuda = torch.cuda.get_rng_state(device)
        return cls(device, torch.get_rng_state(), cuda)

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Draws random numbers from this state within a `with` block, and restores the earlier state afterwards."""
        devices = [] if self.cuda is None else [self.device]
        with torch.random.fork_rng(devices, device_type="cuda"):
            torch.set_rng_state(self.cpu)
            if self.cuda is not None:
                torch.cuda.set_rng_state(self.cuda, self.device)
            yield


def _leaves(part: FlatEmbeds) -> dict[str, Tensor]:
    """Returns the embeddings of a micro-batch as leaves that collect gradients."""
    leaves = {}
    for name in EMBEDDINGS:
        rows = getattr(part, name)
        if rows is not None:
            leaves[name] = rows.detach().requires_grad_()
    return leaves


def _gradients(leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns the gradients of the leaves that a loss reached."""
    return {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}


def _joined(parts: list[FlatEmbeds], leaves: list[dict[str, Tensor]]) -> FlatEmbeds:
    """Returns all micro-batches as one batch, whose embeddings are the leaves."""
    fields: dict[str, Any] = {}
    for name in EMBEDDINGS:
        fields[name] = _concatenated(leaves_of_part.get(name) for leaves_of_part in leaves)
    for name in LABELS:
        fields[name] = _concatenated(getattr(part, name) for part in parts)
    for name, target in POINTERS.items():
        fields[name] = _concatenated(_shifted(parts, name, target))
    return FlatEmbeds(**fields)


def _concatenated(tensors: Iterable[Tensor | None]) -> Tensor | None:
    """Returns the tensors one below the other, without those that are missing; `None` if all are."""
    present = [tensor for tensor in tensors if tensor is not None]
    return torch.cat(present) if present else None


def _shifted(parts: list[FlatEmbeds], pointer: str, target: str) -> Iterator[Tensor | None]:
    """Yields the pointers of each micro-batch as places among the rows of all micro-batches."""
    first_row = 0
    for part in parts:
        places, rows = getattr(part, pointer), getattr(part, target)
        if places is not None:
            places = places + first_row
        yield places
        if rows is not None:
            first_row += len(rows)


__all__ = ["CachedContrast"]
