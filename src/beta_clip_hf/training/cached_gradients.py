"""
One contrast over several micro-batches, in the memory of one: cached gradients.

The embeddings of all micro-batches are computed without a graph; the loss over all of them gives each embedding its
gradient; then every micro-batch is computed again, with a graph, and its parameters get the gradient of
Σ embedding · cached gradient, which by the chain rule is theirs of the one large batch. Random states are restored, so
that dropout drops the same.

Source: Gao et al. 2021, arXiv 2101.06983 (GradCache), for the losses of this package.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from ..model.objective_beta_clip import FlatEmbeds, batch_objective


# The embeddings of a batch that the losses differentiate, and the rows that the other tensors of a batch point to.
EMBEDDINGS = ("image_BD", "text_TD", "contextualized_TD", "region_RD", "region_text_RD", "hard_text_ND")
POINTERS = {
    "image_index_T": "image_BD",
    "caption_B": "text_TD",
    "short_S": "text_TD",
    "aligned_A": "text_TD",
    "hard_region_index_N": "region_RD",
}
LABELS = ("region_text_id_R",)


class CachedContrast:
    r"""
    The loss of several micro-batches as one batch, and for each micro-batch the objective that gives its share of the
    gradient.

    Args:
        model (`BetaCLIPModel`): not wrapped; in training mode if dropout is to count.
        batches: micro-batches as the collator gives them, on the model's device or moved there by `prepare`.
        gather: as in `BetaCLIPModel.forward`, over the processes.
        prepare: moves a micro-batch to the device.
        autocast: gives the context in which the model runs in the first pass. It must be no part of an outer autocast:
            this would keep the half weights of the first pass, which have no gradient, for the second.

    Raises:
        ValueError: without micro-batches.

    Attributes:
        loss, losses: of the whole contrast, detached.

    Example: one step of training by hand; with DDP, call the wrapped model in the loop.

    ```python
    contrast = CachedContrast(model, batches, gather=None)
    for number, batch in enumerate(batches):
        model(**batch, objective=contrast.objective(number)).loss.backward()
    ```
    """

    def __init__(
        self,
        model: Any,
        batches: Sequence[dict[str, Any]],
        *,
        gather: Any = None,
        prepare: Callable[[dict[str, Any]], dict[str, Any]] = dict,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        if not batches:
            raise ValueError("batches must hold at least one micro-batch, but is empty")
        self.random_states: list[Any] = []
        parts: list[FlatEmbeds] = []
        for batch in batches:
            batch = prepare(batch)
            self.random_states.append(_random_state(model.device))
            with torch.no_grad(), autocast():
                model(**batch, objective=lambda embeds, scales: _kept(parts, embeds))
        scales = {name: scale.detach().requires_grad_() for name, scale in model.loss_scales().items()}
        whole, leaves = _joined(parts)
        loss, losses = batch_objective(model.config, whole, scales, gather)
        loss.backward()
        self.loss = loss.detach()
        self.losses = {name: part.detach() for name, part in losses.items()}
        self.scale_gradients = {name: scale.grad for name, scale in scales.items()}
        self.gradients = [{name: leaf.grad for name, leaf in of_batch.items()} for of_batch in leaves]

    def objective(self, number: int) -> Callable[[FlatEmbeds, dict[str, Tensor]], tuple[Tensor, dict[str, Tensor]]]:
        """
        The objective of micro-batch `number`: for `BetaCLIPModel.forward`, called within [`replayed`] where the model
        draws random numbers. Its value is the loss of the whole contrast; over all micro-batches its gradients add up
        to those of that loss.
        """

        def share(embeds: FlatEmbeds, scales: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
            products = [
                (getattr(embeds, name) * gradient).sum()
                for name, gradient in self.gradients[number].items()
                if gradient is not None
            ]
            # The scales are shared by all micro-batches: each takes a part, as DDP expects all parameters in the last.
            products += [
                scales[name] * (gradient / len(self.gradients))
                for name, gradient in self.scale_gradients.items()
                if gradient is not None
            ]
            total = torch.stack([product.to(self.loss.dtype) for product in products]).sum()
            return self.loss + (total - total.detach()), self.losses

        return share

    @contextmanager
    def replayed(self, number: int) -> Iterator[None]:
        """Random numbers are those of the first pass over micro-batch `number`, and afterwards as if never drawn."""
        device, states = self.random_states[number]
        with torch.random.fork_rng([device] if device.type == "cuda" else [], device_type="cuda"):
            _set_random_state(device, states)
            yield


def _kept(parts: list[FlatEmbeds], embeds: FlatEmbeds) -> tuple[Tensor, dict[str, Tensor]]:
    parts.append(embeds)
    return embeds.image_BD.new_zeros(()), {}


def _joined(parts: list[FlatEmbeds]) -> tuple[FlatEmbeds, list[dict[str, Tensor]]]:
    """The batch of all parts, made of leaves that collect gradients, and these leaves part by part."""
    leaves = [
        {name: getattr(part, name).detach().requires_grad_() for name in EMBEDDINGS if getattr(part, name) is not None}
        for part in parts
    ]
    fields: dict[str, Any] = {
        name: torch.cat([of_part[name] for of_part in leaves if name in of_part])
        for name in EMBEDDINGS
        if any(name in of_part for of_part in leaves)
    }
    for name in LABELS:
        given = [getattr(part, name) for part in parts if getattr(part, name) is not None]
        fields[name] = torch.cat(given) if given else None
    for name, target in POINTERS.items():
        first, shifted = 0, []
        for part in parts:
            if getattr(part, name) is not None:
                shifted.append(getattr(part, name) + first)
            first += 0 if getattr(part, target) is None else len(getattr(part, target))
        fields[name] = torch.cat(shifted) if shifted else None
    return FlatEmbeds(**fields), leaves


def _random_state(device: torch.device) -> tuple[torch.device, list[Tensor]]:
    states = [torch.get_rng_state()]
    return device, states + ([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])


def _set_random_state(device: torch.device, states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)


__all__ = ["CachedContrast"]
