"""The training step in many ways: as the package does it, with what it keeps, with one part off, and the reference.

A step is the loss and the gradients of all parameters. Letters: T texts, L tokens, D projection width.
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
from beta_clip_hf.model import towers_beta_clip
from beta_clip_hf.model.batch_plan_beta_clip import plan_batch
from beta_clip_hf.model.packing_beta_clip import plan_texts, text_lengths
from beta_clip_hf.training.cached_gradients import CachedContrast
from beta_clip_hf.training.recomputation import keep_linear_outputs


# A step calls this between its forward and its backward pass.
Mark = Callable[[], Any]
Step = Callable[[Mark], Tensor]

# What the backward pass computes again, by tower.
RECOMPUTED: dict[str, dict[str, dict[str, Any]]] = {
    "package": {},
    "both selective": {
        "text_model": {"context_fn": keep_linear_outputs},
        "vision_model": {"context_fn": keep_linear_outputs},
    },
    "text full": {"text_model": {}},
    "text full, vision selective": {"text_model": {}, "vision_model": {"context_fn": keep_linear_outputs}},
    "both full": {"text_model": {}, "vision_model": {}},
}
REFERENCE = "reference"


def settings(model: BetaCLIPModel, batch: Batch) -> dict[str, Step]:
    """The steps of the package, by what the backward pass computes again, and the reference."""
    steps: dict[str, Step] = {
        name: partial(_step, model, lambda: model(**batch.ours).loss, recomputed(model, towers))
        for name, towers in RECOMPUTED.items()
    }
    return steps | {REFERENCE: partial(_step, model, lambda: reference_loss(model, **batch.theirs), nullcontext)}


def parts_off(model: BetaCLIPModel, batch: Batch) -> dict[str, Step]:
    """The package's step with one part off at a time."""
    without = {
        "texts padded in two groups": partial(_padded_groups, model, batch.ours),
        "all of the last text block": partial(patch.object, towers_beta_clip, "ends_only_block", _whole_text_block),
        "all queries of the last vision block": partial(
            patch.object, towers_beta_clip, "value_only_block", last_vision_block
        ),
        "keys and values once per text": partial(patch.object, model.pooler, "forward", _pooled_text_by_text(model)),
        "eager attention": partial(_eager, model),
    }
    return {name: partial(_step, model, lambda: model(**batch.ours).loss, context) for name, context in without.items()}


def repetitions(model: BetaCLIPModel, batch: Batch) -> dict[str, Step]:
    """The step on a batch with equal texts, each encoded once, and each as often as it occurs."""
    ours, ids_TL = batch.ours, batch.ours["input_ids"].cpu()
    places_TL = torch.arange(len(ids_TL))[:, None].expand_as(ids_TL)  # as ids: no two texts are equal
    packing = plan_texts(places_TL, text_lengths(ids_TL, END))
    kinds = {"granularity_T": ours["granularity"].cpu()}
    every = plan_batch(packing, ours["image_index"].cpu(), len(ours["pixel_values"]), **kinds).to(model.device)
    return {
        "equal texts once": partial(_step, model, lambda: model(**ours).loss, nullcontext),
        "equal texts each time": partial(_step, model, lambda: model(**ours | {"plan": every}).loss, nullcontext),
    }


def micro_batches(model: BetaCLIPModel, batch: Batch) -> Step:
    """The same contrast over two halves of the batch, by cached gradients."""
    parts = halves(batch.ours)

    def step(mark: Mark) -> Tensor:
        model.zero_grad()
        contrast = CachedContrast(model, parts, autocast=lambda: _autocast(model))
        for number, part in enumerate(parts):
            with _autocast(model), contrast.micro_batch(number):
                loss = model(**part).loss
            if number == 0:  # later there are gradients of the parameters too
                mark()
            loss.backward()
        return contrast.loss

    return step


def recomputed(model: BetaCLIPModel, towers: dict[str, dict[str, Any]]) -> Callable[[], AbstractContextManager[None]]:
    @contextmanager
    def context() -> Iterator[None]:
        for name, options in towers.items():
            _switch(model.get_submodule(name), "enable")({"use_reentrant": False, **options})
        yield
        for name in towers:
            _switch(model.get_submodule(name), "disable")()

    return context


def _switch(tower: Any, verb: str) -> Callable[..., None]:
    """transformers 5.23 has new names for the two."""
    return getattr(tower, f"activation_checkpointing_{verb}", None) or getattr(tower, f"gradient_checkpointing_{verb}")


def _step(model: BetaCLIPModel, loss_of: Callable[[], Tensor], context: Callable[[], Any], mark: Mark) -> Tensor:
    model.zero_grad()
    with context():
        with _autocast(model):
            loss = loss_of()
        mark()
        loss.backward()
    return loss.detach()


def _autocast(model: BetaCLIPModel) -> torch.autocast:
    return torch.autocast(model.device.type, torch.bfloat16, enabled=model.device.type == "cuda")


def _padded_groups(model: BetaCLIPModel, ours: dict[str, Any]) -> Any:
    """Captions and sentences padded to the longest of them, phrases to the longest phrase; no text is left out."""
    encode, groups = model.encode_texts, []
    is_phrase_T = ours["granularity"].cpu() == Granularity.PHRASE
    for texts in ((~is_phrase_T).nonzero()[:, 0], is_phrase_T.nonzero()[:, 0]):
        ids_NL = ours["input_ids"].cpu()[texts]
        plan = plan_texts(ids_NL, text_lengths(ids_NL, END), one_text_per_row=True)
        groups.append((texts.to(model.device), plan.to(model.device)))
    order_T = torch.cat([texts for texts, _ in groups]).argsort()

    def padded(ids_TL: Tensor, is_long_T: Tensor | None, packing: Any) -> Tensor:
        return torch.cat([encode(ids_TL[texts], None, plan) for texts, plan in groups])[order_T]

    return patch.object(model, "encode_texts", padded)


def _whole_text_block(layer: Any, hidden_states: Tensor, last_T: Tensor, **inputs: Any) -> Tensor:
    return layer(hidden_states, **inputs).flatten(0, 1)[last_T]


def _pooled_text_by_text(model: BetaCLIPModel) -> Callable[..., Any]:
    pool = model.pooler.forward

    def forward(text_embeds_TD: Tensor, patches_BPD: Tensor, image_index_T: Tensor, **unused: Any) -> Any:
        return pool(text_embeds_TD, patches_BPD[image_index_T], torch.arange(len(image_index_T), device=model.device))

    return forward


@contextmanager
def _eager(model: BetaCLIPModel) -> Iterator[None]:
    usual = model.config._attn_implementation
    model.set_attn_implementation("eager")
    yield
    model.set_attn_implementation(usual)
