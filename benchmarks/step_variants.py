"""The training step in many ways: of the package with different checkpointing or one part off, and of the reference.

A step is the loss and the gradients of all parameters.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from reference_step import last_vision_block, reference_loss
from step_batch import END, Batch, halves
from torch import Tensor

from beta_clip_hf import BetaCLIPModel, Granularity
from beta_clip_hf.model.batch_plan_beta_clip import plan_batch
from beta_clip_hf.model.packing_beta_clip import plan_texts, text_lengths
from beta_clip_hf.training.cached_gradients import CachedContrast
from beta_clip_hf.training.callbacks.recomputation import keep_linear_outputs


# A step calls this between its forward and its backward pass.
Mark = Callable[[], Any]
Step = Callable[[Mark], Tensor]
Context = Callable[[], AbstractContextManager[Any]]

# What the backward pass computes again, by tower, with the options of the checkpointing.
SELECTIVE = {"context_fn": keep_linear_outputs}
RECOMPUTED: dict[str, dict[str, dict[str, Any]]] = {
    "package": {},
    "both selective": {"text_model": SELECTIVE, "vision_model": SELECTIVE},
    "text full": {"text_model": {}},
    "text full, vision selective": {"text_model": {}, "vision_model": SELECTIVE},
    "both full": {"text_model": {}, "vision_model": {}},
}
OWN_MODULES = "half blocks off"
REFERENCE = "reference"


def settings(model: BetaCLIPModel, batch: Batch, is_half: bool | None = None) -> dict[str, Step]:
    """
    Returns the steps of the package by what the backward pass computes again, and the reference.

    Args:
        model, batch: The model and its batch.
        is_half: Whether they run under autocast to bfloat16; by default on a GPU.
    """
    steps: dict[str, Step] = {}
    loss = _package_loss(model, batch.package)
    for name, towers in RECOMPUTED.items():
        steps[name] = partial(_step, model, loss, recomputed(model, towers), is_half=is_half)
    steps[OWN_MODULES] = partial(_step, model, loss, partial(_without_half_blocks, model), is_half=is_half)
    reference = partial(reference_loss, model, **batch.reference)
    steps[REFERENCE] = partial(_step, model, reference, nullcontext, is_half=is_half)
    return steps


def parts_off(model: BetaCLIPModel, batch: Batch) -> dict[str, Step]:
    """Returns the package's step with one part off at a time."""
    last_text_layer = model.text_model.encoder.layers[-1]
    last_vision_layer = model.vision_model.encoder.layers[-1]
    whole_text_block = partial(_whole_text_block, last_text_layer)
    whole_vision_block = partial(last_vision_block, last_vision_layer)
    contexts: dict[str, Context] = {
        "texts padded in two groups": partial(_padded_groups, model, batch.package),
        "all of the last text block": partial(patch.object, last_text_layer, "forward", whole_text_block),
        "all queries of the last vision block": partial(
            patch.object, last_vision_layer, "forward", lambda hidden, mask, value_only: whole_vision_block(hidden)
        ),
        "keys and values once per text": partial(patch.object, model.pooler, "forward", _pool_text_by_text(model)),
        "eager attention": partial(_eager, model),
    }
    loss = _package_loss(model, batch.package)
    return {name: partial(_step, model, loss, context) for name, context in contexts.items()}


def repetitions(model: BetaCLIPModel, batch: Batch) -> dict[str, Step]:
    """Returns the step on a batch with equal texts: each encoded once, and each as often as it occurs."""
    inputs, ids_TL = batch.package, batch.package["input_ids"].cpu()
    # A plan of these ids, of which no two are equal, encodes every text.
    distinct_ids_TL = torch.arange(len(ids_TL))[:, None].expand_as(ids_TL)
    packing = plan_texts(distinct_ids_TL, text_lengths(ids_TL, END))
    num_images = len(inputs["pixel_values"])
    plan = plan_batch(packing, inputs["image_index"].cpu(), num_images, granularity_T=inputs["granularity"].cpu())
    repeating = inputs | {"plan": plan.to(model.device)}
    return {
        "equal texts once": partial(_step, model, _package_loss(model, inputs), nullcontext),
        "equal texts each time": partial(_step, model, _package_loss(model, repeating), nullcontext),
    }


def micro_batches(model: BetaCLIPModel, batch: Batch) -> Step:
    """Returns the step with the same contrast over two halves of the batch, by cached gradients."""
    parts = halves(batch.package)

    def step(mark: Mark) -> Tensor:
        model.zero_grad()
        contrast = CachedContrast(model, parts, autocast=lambda: _autocast(model))
        for number, part in enumerate(parts):
            with _autocast(model), contrast.micro_batch(number):
                loss = model(**part).loss
            # Later, the gradients of the parameters are alive too.
            if number == 0:
                mark()
            loss.backward()
        return contrast.loss

    return step


def recomputed(model: BetaCLIPModel, towers: dict[str, dict[str, Any]]) -> Context:
    """Returns the context in which towers are checkpointed, each with its options."""

    @contextmanager
    def context() -> Iterator[None]:
        for name, options in towers.items():
            _checkpointing(model.get_submodule(name), "enable")({"use_reentrant": False, **options})
        yield
        for name in towers:
            _checkpointing(model.get_submodule(name), "disable")()

    return context


def _checkpointing(tower: Any, verb: str) -> Callable[..., None]:
    # transformers 5.23 renames the two methods.
    return getattr(tower, f"activation_checkpointing_{verb}", None) or getattr(tower, f"gradient_checkpointing_{verb}")


def _package_loss(model: BetaCLIPModel, inputs: dict[str, Any]) -> Callable[[], Tensor]:
    return lambda: model(**inputs).loss


def _step(
    model: BetaCLIPModel,
    compute_loss: Callable[[], Tensor],
    context: Context,
    mark: Mark,
    is_half: bool | None = None,
) -> Tensor:
    model.zero_grad()
    with context():
        with _autocast(model, is_half):
            loss = compute_loss()
        mark()
        loss.backward()
    return loss.detach()


def _autocast(model: BetaCLIPModel, is_half: bool | None = None) -> torch.autocast:
    if is_half is None:
        is_half = model.device.type == "cuda"
    return torch.autocast(model.device.type, torch.bfloat16, enabled=is_half)


@contextmanager
def _without_half_blocks(model: BetaCLIPModel) -> Iterator[None]:
    model.half_blocks = False
    yield
    model.half_blocks = True


def _padded_groups(model: BetaCLIPModel, inputs: dict[str, Any]) -> Any:
    """Pads captions and sentences to the longest of them, and phrases to the longest phrase; no text is left out."""
    encode = model.encode_texts
    is_phrase_T = inputs["granularity"].cpu() == Granularity.PHRASE
    text_indices, plans = [], []
    for text_index in ((~is_phrase_T).nonzero()[:, 0], is_phrase_T.nonzero()[:, 0]):
        ids_TL = inputs["input_ids"].cpu()[text_index]
        plan = plan_texts(ids_TL, text_lengths(ids_TL, END), one_text_per_row=True)
        text_indices.append(text_index.to(model.device))
        plans.append(plan.to(model.device))
    order_T = torch.cat(text_indices).argsort()

    def encode_padded(ids_TL: Tensor, is_long_T: Tensor | None, packing: Any) -> Tensor:
        groups = [encode(ids_TL[texts], None, plan) for texts, plan in zip(text_indices, plans, strict=True)]
        return torch.cat(groups)[order_T]

    return patch.object(model, "encode_texts", encode_padded)


def _whole_text_block(layer: Any, hidden_states: Tensor, last_T: Tensor, **inputs: Any) -> Tensor:
    # The instance's own `forward` is this function.
    return type(layer).forward(layer, hidden_states, **inputs).flatten(0, 1)[last_T]


def _pool_text_by_text(model: BetaCLIPModel) -> Callable[..., Any]:
    """Returns the forward of the pooler that repeats the patches of an image for each of its texts."""
    pool = model.pooler.forward

    def forward(text_embeds_TD: Tensor, patches_BPD: Tensor, image_index_T: Tensor, **unused: Any) -> Any:
        text_index_T = torch.arange(len(image_index_T), device=model.device)
        return pool(text_embeds_TD, patches_BPD[image_index_T], text_index_T)

    return forward


@contextmanager
def _eager(model: BetaCLIPModel) -> Iterator[None]:
    implementation = model.config._attn_implementation
    model.set_attn_implementation("eager")
    yield
    model.set_attn_implementation(implementation)
