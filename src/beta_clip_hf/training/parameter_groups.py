"""Parameter groups of the optimiser: towers and pooler, each with and without weight decay."""

from typing import Any

from torch import nn

from ..model.pooler_beta_clip import TextConditionedPooler
from .arguments import BetaCLIPTrainingArguments


TOWERS = "towers"
POOLER = "pooler"


def decayed_names(model: nn.Module) -> list[str]:
    """
    Returns the names of the parameters that weight decay acts on: those with two axes or more, matrices and tables.

    Decay would pull a bias, the weight of a norm or a logit scale towards a 0 that means nothing.
    """
    return [name for name, parameter in model.named_parameters() if parameter.ndim >= 2]


def parameter_groups(model: nn.Module, args: BetaCLIPTrainingArguments, decayed: list[str]) -> list[dict[str, Any]]:
    """
    Returns the groups (towers, pooler) × (decayed, not decayed) of the parameters that are trained.

    Args:
        model: The model, in any wrapper. The pooler is found by its class, because wrappers (DDP, FSDP2, PEFT,
            `torch.compile`) change the names of parameters.
        args: The learning rates and the weight decay.
        decayed: The names of the parameters that weight decay acts on.

    Returns:
        A dict for each group that is not empty, as an optimiser takes it, with the `name` of its part of the model.
    """
    pooler_parameters = _pooler_parameters(model)
    members: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = POOLER if parameter in pooler_parameters else TOWERS
            key = (part, name in decayed)
            members.setdefault(key, []).append(parameter)
    rates = {TOWERS: args.learning_rate, POOLER: args.pooler_learning_rate}
    groups = []
    # The order is fixed: a checkpoint stores the state of the optimiser by the position of a parameter.
    for part in (TOWERS, POOLER):
        for is_decayed in (True, False):
            if (part, is_decayed) in members:
                weight_decay = 0.0
                if is_decayed:
                    weight_decay = args.weight_decay
                group = {
                    "name": part,
                    "params": members[part, is_decayed],
                    "lr": rates[part],
                    "weight_decay": weight_decay,
                }
                groups.append(group)
    return groups


def _pooler_parameters(model: nn.Module) -> set[nn.Parameter]:
    parameters: set[nn.Parameter] = set()
    for module in model.modules():
        # By name: remote code has a class of its own, and FSDP2 makes a subclass.
        class_names = {cls.__name__ for cls in type(module).__mro__}
        if TextConditionedPooler.__name__ in class_names:
            parameters.update(module.parameters())
    return parameters


__all__ = ["POOLER", "TOWERS", "decayed_names", "parameter_groups"]
