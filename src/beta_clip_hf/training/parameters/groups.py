"""Parameter groups of the optimiser: pooler, towers and their layers, each with and without weight decay."""

from typing import Any, NamedTuple

import torch
from torch import nn

from ...model.pooler_beta_clip import TextConditionedPooler
from ..arguments import BetaCLIPTrainingArguments
from .names import TOWER_MODULES, tower_parts, unwrapped


TOWERS = "towers"
POOLER = "pooler"


def decayed_names(model: nn.Module) -> list[str]:
    """
    Returns the names of the parameters that weight decay acts on: those with two axes or more, matrices and tables.

    Decay would pull a bias, the weight of a norm or a logit scale towards a 0 that means nothing.
    """
    return [name for name, parameter in model.named_parameters() if parameter.ndim >= 2]


def parameter_groups(model: nn.Module, args: BetaCLIPTrainingArguments, decayed: list[str]) -> list[dict[str, Any]]:
    r"""
    Returns the groups (towers, layers of towers, pooler) × (decayed, not decayed) of the parameters that are trained.

    Without `args.layer_decay` the layers belong to the towers. With a decay of d, block i (from 0) of a tower with L
    blocks has the learning rate of the towers times d^(L − i), and its embeddings times d^(L + 1). Final norms,
    projections and logit scales keep the whole rate, and so does the pooler its own.

    Args:
        model: The model, in any wrapper. Its parts are found as modules, because wrappers (DDP, FSDP2, PEFT,
            `torch.compile`) change the names of parameters.
        args: The learning rates, the decay over layers and the weight decay.
        decayed: The names of the parameters that weight decay acts on.

    Returns:
        A dict for each group that is not empty, as an optimiser takes it, with the `name` of its part of the model and,
        for a layer, its `layer` and the `layer_scale` of its learning rate.

    Source: BEiT (arXiv 2106.08254) for the rates of layers.
    """
    pooler_parameters = _pooler_parameters(model)
    layers = _layers(model) if args.layer_decay != 1 else []
    layer_of_parameter: dict[nn.Parameter, str] = {}
    for layer in layers:
        layer_of_parameter |= dict.fromkeys(layer.parameters, layer.name)
    members: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = POOLER if parameter in pooler_parameters else layer_of_parameter.get(parameter, TOWERS)
            key = (part, name in decayed)
            members.setdefault(key, []).append(parameter)
    settings: dict[str, dict[str, Any]] = {TOWERS: {"name": TOWERS, "lr": args.learning_rate}}
    for layer in layers:
        scale = args.layer_decay**layer.depth
        rate = args.learning_rate * scale
        settings[layer.name] = {"name": TOWERS, "lr": rate, "layer": layer.name, "layer_scale": scale}
    settings[POOLER] = {"name": POOLER, "lr": args.pooler_learning_rate}
    groups = []
    # The order is fixed: a checkpoint stores the state of the optimiser by the position of a parameter.
    for part, settings_of_part in settings.items():
        for is_decayed in (True, False):
            if (part, is_decayed) in members:
                weight_decay = args.weight_decay if is_decayed else 0.0
                group = {**settings_of_part, "params": members[part, is_decayed], "weight_decay": weight_decay}
                groups.append(group)
    return groups


def last_rates(optimizer: torch.optim.Optimizer, schedule: Any) -> dict[str, float]:
    """
    Returns the learning rates of the step just done, by the keys of the log.

    Args:
        optimizer: With the groups of [`parameter_groups`].
        schedule: The `LambdaLR` of its groups.

    Returns:
        `learning_rate` (towers), `pooler_learning_rate` and, with a decay over layers, the rate of each layer, such as
        `vision_block_0_learning_rate`. A part that is not trained has no rate.
    """
    rates = {}
    for group, decide, base_rate in zip(optimizer.param_groups, schedule.lr_lambdas, schedule.base_lrs, strict=True):
        # The scheduler is one step ahead.
        rate = float(base_rate * decide(schedule.last_epoch - 1))
        if group.get("name") == POOLER:
            rates["pooler_learning_rate"] = rate
        elif "layer" in group:
            rates[f"{group['layer']}_learning_rate"] = rate
            rates.setdefault("learning_rate", rate / group["layer_scale"])
        else:
            rates["learning_rate"] = rate
    return rates


class _Layer(NamedTuple):
    """Holds a block of a tower, or the embeddings before its blocks."""

    name: str
    parameters: list[nn.Parameter]
    depth: int
    """The power of the decay: 1 for the last block."""


def _layers(model: nn.Module) -> list[_Layer]:
    """Returns the layers of both towers, the first of each tower before the last."""
    layers = []
    core = unwrapped(model)
    for tower in TOWER_MODULES:
        first, blocks = tower_parts(core, tower)
        first_parameters: list[nn.Parameter] = []
        for module in first:
            first_parameters += module.parameters()
        layers.append(_Layer(f"{tower}_embeddings", first_parameters, len(blocks) + 1))
        for index, block in enumerate(blocks):
            layers.append(_Layer(f"{tower}_block_{index}", list(block.parameters()), len(blocks) - index))
    return layers


def _pooler_parameters(model: nn.Module) -> set[nn.Parameter]:
    parameters: set[nn.Parameter] = set()
    for module in model.modules():
        # By name: remote code has a class of its own, and FSDP2 makes a subclass.
        class_names = {cls.__name__ for cls in type(module).__mro__}
        if TextConditionedPooler.__name__ in class_names:
            parameters.update(module.parameters())
    return parameters


__all__ = ["POOLER", "TOWERS", "decayed_names", "last_rates", "parameter_groups"]
