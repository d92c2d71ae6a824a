"""Finds parts of a model in its wrappers: DDP, FSDP, `torch.compile` and PEFT put words of their own into names."""

from collections.abc import Iterator
from typing import NamedTuple

from torch import nn


# The module of each tower.
TOWER_MODULES = {"vision": "vision_model", "text": "text_model"}
# Words of wrappers. No part of a model has one of these names.
_WRAPPERS = frozenset({
    "_checkpoint_wrapped_module", "_fsdp_wrapped_module", "_orig_mod", "base_layer", "base_model", "default", "model",
    "module", "modules_to_save",
})  # fmt: skip
# PEFT keeps a module as it was beside the one that is trained.
_REPLACED = "original_module"


def plain_name(name: str) -> str:
    """
    Returns the name that a parameter or module has without wrappers.

    >>> plain_name("module.base_model.model.pooler.modules_to_save.default.logit_scale")
    'pooler.logit_scale'
    """
    return ".".join(word for word in name.split(".") if word not in _WRAPPERS)


def is_logit_scalar(name: str) -> bool:
    """
    Tells whether a name is that of a logit scale, or of the logit bias of the sigmoid contrast.

    >>> is_logit_scalar("pooler.logit_scale"), is_logit_scalar("logit_bias"), is_logit_scalar("pooler.fc1.bias")
    (True, True, False)
    """
    return name.endswith(("logit_scale", "logit_bias"))


def used_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yields the parameters that the model computes with, by their names without wrappers."""
    for name, parameter in model.named_parameters():
        if _REPLACED not in name.split("."):
            yield plain_name(name), parameter


def unwrapped(model: nn.Module) -> nn.Module:
    """
    Returns the model inside of wrappers.

    Raises:
        ValueError: if it is no model with two towers.
    """
    for module in model.modules():
        children = {name for name, _ in module.named_children()}
        if children.issuperset(TOWER_MODULES.values()):
            return module
    raise ValueError(f"model must have a vision_model and a text_model, but is {type(model).__name__}")


class TowerParts(NamedTuple):
    """Holds the modules of a tower up to its last block, in the order in which they compute."""

    first: list[nn.Module]
    """The embeddings and, in CLIP's vision tower, the norm after them."""
    blocks: list[nn.Module]


def tower_parts(model: nn.Module, tower: str) -> TowerParts:
    """
    Takes a tower apart.

    Args:
        model: The model without wrappers, see [`unwrapped`].
        tower: "vision" or "text".
    """
    module = model.get_submodule(TOWER_MODULES[tower])
    first = [module.get_submodule("embeddings")]
    # CLIP spells the norm so.
    norm = getattr(module, "pre_layrnorm", None)
    if norm is not None:
        first.append(norm)
    return TowerParts(first, list(module.get_submodule("encoder.layers").children()))


__all__ = [
    "TOWER_MODULES",
    "TowerParts",
    "is_logit_scalar",
    "plain_name",
    "tower_parts",
    "unwrapped",
    "used_parameters",
]
