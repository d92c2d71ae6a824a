"""Freezes parts of a model by name: a tower, embeddings, all but the last blocks, the pooler."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from .names import TOWER_MODULES, is_logit_scalar, tower_parts, unwrapped, used_parameters


PARTS = (
    "vision", "text", "embeddings", "vision_embeddings", "text_embeddings", "projections", "pooler", "logit_scales",
)  # fmt: skip
PATTERN = re.compile(r"(vision|text|towers)_but_last_([1-9]\d*)")
_EXPECTED = f"{', '.join(PARTS)}, vision_but_last_N, text_but_last_N or towers_but_last_N"
# What gives an embedding of the hidden states of a tower: projections of CLIP, heads of SigLIP 2. A model has some.
_PROJECTIONS = {
    "vision": ("visual_projection", "vision_model.head", "patch_head"),
    "text": ("text_projection", "long_text_projection", "text_model.head", "long_text_head", "box_text_head"),
}


def parts_to_freeze(freeze: str | Sequence[str] | None) -> tuple[str, ...]:
    """
    Returns the parts that `freeze` names.

    Raises:
        ValueError: if there is no such part.

    >>> parts_to_freeze(["vision", "text_but_last_2"])
    ('vision', 'text_but_last_2')
    """
    if freeze is None:
        return ()
    names: tuple[Any, ...] = (freeze,)
    if isinstance(freeze, Sequence) and not isinstance(freeze, str):
        names = tuple(freeze)
    for name in names:
        if name not in PARTS and not PATTERN.fullmatch(str(name)):
            raise ValueError(f"freeze must name parts of the model ({_EXPECTED}), but has {name!r}")
    return names


def freeze_parts(model: nn.Module, names: Sequence[str]) -> None:
    """
    Freezes parts of a model in place.

    | name | what is frozen |
    |---|---|
    | `vision`, `text` | a tower with its projections (`vision` is LiT: locked-image tuning, arXiv 2111.07991) |
    | `vision_embeddings`, `text_embeddings`, `embeddings` | patches, tokens, positions and the class token |
    | `vision_but_last_N`, `text_but_last_N`, `towers_but_last_N` | embeddings and blocks, but not the last N blocks |
    | `projections` | the projections of both towers; on SigLIP 2 all heads of both towers |
    | `pooler`, `logit_scales` | the pooler; all logit scales, and SigLIP's logit bias |

    Nothing is computed or kept for the backward pass in what is frozen, unless something before it is trained.

    Args:
        model: The model, in any wrapper.
        names: The parts, see [`parts_to_freeze`].

    Raises:
        ValueError: if a tower has fewer blocks than are to be trained, or the model has no pooler.
    """
    for module in frozen_modules(model, names):
        module.requires_grad_(False)
    if "logit_scales" in names:
        for name, parameter in used_parameters(model):
            if is_logit_scalar(name):
                parameter.requires_grad_(False)


def frozen_modules(model: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    """Returns the modules that [`freeze_parts`] freezes as a whole. Nothing is changed."""
    core = unwrapped(model)
    modules: list[nn.Module] = []
    for name in names:
        if name != "logit_scales":
            modules += _modules_of(core, name)
    return modules


def check_something_trains(model: nn.Module, freeze: Sequence[str]) -> None:
    """
    Checks that something is left to train.

    Raises:
        ValueError: if everything but the logit scales is frozen.
    """
    for name, parameter in used_parameters(model):
        if parameter.requires_grad and not is_logit_scalar(name):
            return
    cause = f"freeze={list(freeze)}" if freeze else "requires_grad=False of all parameters"
    raise ValueError(f"something besides logit scales must be left to train, but {cause} leaves nothing: freeze less")


def _modules_of(core: nn.Module, name: str) -> list[nn.Module]:
    if name == "pooler":
        pooler = getattr(core, "pooler", None)
        if pooler is None:
            raise ValueError("freeze must name parts that the model has, but it has no pooler")
        return [pooler]
    if name == "projections":
        return [*_projections(core, "vision"), *_projections(core, "text")]
    if name in TOWER_MODULES:
        return [core.get_submodule(TOWER_MODULES[name]), *_projections(core, name)]
    if name.endswith("embeddings"):
        towers = tuple(TOWER_MODULES) if name == "embeddings" else (name.removesuffix("_embeddings"),)
        return [core.get_submodule(f"{TOWER_MODULES[tower]}.embeddings") for tower in towers]
    match = PATTERN.fullmatch(name)
    assert match is not None, "the names have been checked"
    towers = tuple(TOWER_MODULES) if match[1] == "towers" else (match[1],)
    modules: list[nn.Module] = []
    for tower in towers:
        modules += _first_modules(core, tower, num_trained=int(match[2]))
    return modules


def _projections(core: nn.Module, tower: str) -> Iterator[nn.Module]:
    modules = dict(core.named_modules())
    for name in _PROJECTIONS[tower]:
        if name in modules:
            yield modules[name]


def _first_modules(core: nn.Module, tower: str, num_trained: int) -> list[nn.Module]:
    """Returns the modules of a tower before its last blocks, which are trained."""
    first, blocks = tower_parts(core, tower)
    num_frozen = len(blocks) - num_trained
    if num_frozen < 0:
        raise ValueError(
            f"freeze must leave at most the {len(blocks)} blocks of the {tower} tower to train, but names {num_trained}"
        )
    return [*first, *blocks[:num_frozen]]


__all__ = ["PARTS", "check_something_trains", "freeze_parts", "frozen_modules", "parts_to_freeze"]
