# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""Where transformer blocks run in halves, which keep half of the memory in training, and where by their own modules."""

import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.clip.modeling_clip import CLIPMLP, CLIPAttention, CLIPEncoderLayer, eager_attention_forward

from .activations_beta_clip import fused_activation
from .half_block_functions_beta_clip import NormedProjections, ResidualLinear, ResidualMLP, precision_of
from .last_blocks_beta_clip import LastTextLayer, LastVisionAttention


logger = logging.getLogger(__name__)

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_CHECKPOINTING = "gradient checkpointing is on"

# Modules by the class that each must have, no subclass: a wrapper may do anything.
Parts = dict[nn.Module, type[nn.Module]]


class HalfBlocks:
    """
    Runs the blocks of a model: in training by two functions that keep their inputs and compute the rest again.

    Half a block needs its own modules where something is attached to them or has replaced them: hooks, adapters,
    quantised or sharded weights, gradient checkpointing. There, in compiled graphs, in inference and without gradients,
    the modules are called as usual. The first reason of a model is logged.

    The towers and the pooler of a model share one object.

    Attributes:
        enabled: The switch.
    """

    def __init__(self) -> None:
        self.enabled = True
        self._has_logged = False

    def run_layer(self, layer: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Computes a block of a tower, the last ones included, with the arguments of its `forward`."""
        kind = LastTextLayer if type(layer) is LastTextLayer else CLIPEncoderLayer
        if self._may_run(layer) and self._can_replace({layer: kind}):
            return self._run_halves(layer, hidden_states, *args, **kwargs)
        # Passed on as they come: a function that has taken the place of `forward` may know some of them by name only.
        return layer(hidden_states, *args, **kwargs)

    def _run_halves(
        self,
        layer: Any,
        hidden: Tensor,
        attention_mask: Tensor | None = None,
        last_T: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Computes what the `forward` of a block computes. Adapters often leave one of its halves as it is."""
        attention, norm = layer.self_attn, layer.layer_norm1
        # All but attention works on each token alone: tokens are rows here, so that products need no views of them.
        rows = hidden.flatten(0, 1)
        if self._can_replace(_parts_of_attention(attention, norm)):
            attended = _attend(attention, norm, hidden, rows, attention_mask, **kwargs)
            rows = _residual_linear(rows, attended, attention.out_proj, hidden.shape)
        else:
            attended, _ = attention(hidden_states=norm(hidden), attention_mask=attention_mask, **kwargs)
            rows = rows + attended.flatten(0, 1)
        if last_T is not None:
            rows = rows[last_T]
        mlp, norm = layer.mlp, layer.layer_norm2
        parts = {mlp: CLIPMLP, norm: nn.LayerNorm, mlp.fc1: nn.Linear, mlp.fc2: nn.Linear, mlp.activation_fn: nn.Module}
        if self._can_replace(parts):
            rows = _residual_mlp(rows, norm, mlp.fc1, mlp.activation_fn, mlp.fc2)
            return rows if last_T is not None else rows.view_as(hidden)
        if last_T is None:
            # A wrapper may look at the shape.
            rows = rows.view_as(hidden)
        return rows + mlp(norm(rows))

    def run_mlp(self, owner: Any, hidden: Tensor) -> Tensor:
        """Computes `hidden + fc2(activation(fc1(layer_norm(hidden))))` by the owner's modules of these names."""
        parts = {owner.layer_norm: nn.LayerNorm, owner.fc1: nn.Linear, owner.fc2: nn.Linear}
        if self._may_run(owner) and self._can_replace({**parts, owner.activation: nn.Module}):
            return _residual_mlp(hidden, owner.layer_norm, owner.fc1, owner.activation, owner.fc2)
        return hidden + owner.fc2(owner.activation(owner.fc1(owner.layer_norm(hidden))))

    def _may_run(self, module: nn.Module) -> bool:
        """Whether half blocks would save memory here. A compiled graph has its own ways to save it."""
        is_training = module.training and torch.is_grad_enabled()
        return self.enabled and is_training and not torch.compiler.is_compiling()

    def _can_replace(self, parts: Parts) -> bool:
        """Whether no module must be called itself. The first reason why one must is logged."""
        reason = _why_modules_are_needed(parts)
        if reason is None:
            return True
        if not self._has_logged:
            self._has_logged = True
            # Who checkpoints has chosen to. All else takes memory that nobody has asked for.
            level = logging.INFO if reason == _CHECKPOINTING else logging.WARNING
            message = "blocks run by their own modules, which keep more for the backward pass, where %s"
            logger.log(level, message, reason)
        return False


def _parts_of_attention(attention: Any, norm: nn.Module) -> Parts:
    """Returns the modules that the first half of a block does not call."""
    return {
        attention: LastVisionAttention if type(attention) is LastVisionAttention else CLIPAttention,
        norm: nn.LayerNorm,
        attention.q_proj: nn.Linear,
        attention.k_proj: nn.Linear,
        attention.v_proj: nn.Linear,
    }


def _why_modules_are_needed(parts: Parts) -> str | None:
    """Returns the first reason to call the modules themselves, as a clause; `None` if there is none."""
    # torch has no public way to ask for these.
    if any(getattr(torch_module, f"_global{hooks}") for hooks in _HOOKS):
        return "hooks of all modules are registered"
    for module, kind in parts.items():
        reason = _why_module_is_needed(module, kind)
        if reason is not None:
            return reason
    return None


def _why_module_is_needed(module: Any, kind: type[nn.Module]) -> str | None:
    """Returns the reason to call a module itself, as [`_why_modules_are_needed`] does."""
    name = type(module).__name__
    if kind is nn.Module:
        if fused_activation(module) is None:
            return f"{name} has no fused operators"
    elif type(module) is not kind:
        # Adapters, too, call their layers "Linear".
        return f"{type(module).__module__}.{name} has replaced {kind.__name__}"
    attributes = module.__dict__
    # A function in the place of the method: offloading and many other wrappers work in this way.
    if "forward" in attributes:
        return f"the forward method of {name} has been replaced"
    for hooks in _HOOKS:
        if attributes[hooks]:
            return f"{name} has hooks"
    if attributes.get("gradient_checkpointing"):
        return _CHECKPOINTING
    if kind in (nn.Linear, nn.LayerNorm):
        for parameter in (module.weight, module.bias):
            # Sharded and quantised weights are tensors around other tensors, those of an older FSDP views of one, and
            # those that `torch.func` puts in are no parameters.
            is_plain = isinstance(parameter, nn.Parameter) and parameter.is_floating_point()
            if not is_plain or is_traceable_wrapper_subclass(parameter):
                return f"a parameter of {name} is of the class {type(parameter).__name__}"
    return None


def _attend(
    attention: Any,
    norm: Any,
    hidden: Tensor,
    rows: Tensor,
    attention_mask: Tensor | None,
    value_only: bool = False,
    **kwargs: Any,
) -> Tensor:
    """
    Computes attention after its layer norm and before its last layer, as CLIP and the last vision block do.

    Args:
        attention, norm: The modules.
        hidden, rows: The hidden states, and the same as rows.
        attention_mask, kwargs: The arguments of attention.
        value_only: Whether only CLS attends.

    Returns:
        `(M, W)`.
    """
    # Queries, keys and values `(B, L, heads, width)` each.
    by_head = (*hidden.shape[:2], -1, attention.num_heads, attention.head_dim)
    if value_only:
        keys, values = _project(rows, norm, attention.k_proj, attention.v_proj).view(by_head).unbind(2)
        # Only CLS has a query: there is little to keep.
        queries = attention.q_proj(norm(hidden[:, :1])).unflatten(-1, by_head[-2:])
    else:
        linears = (attention.q_proj, attention.k_proj, attention.v_proj)
        queries, keys, values = _project(rows, norm, *linears).view(by_head).unbind(2)
    heads = [projected.transpose(1, 2) for projected in (queries, keys, values)]
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(attention.config._attn_implementation, eager_attention_forward)
    dropout = attention.dropout if attention.training else 0.0
    # The function reads from the module what kind of attention it is.
    attended, _ = attend(attention, *heads, attention_mask, scaling=attention.scale, dropout=dropout, **kwargs)
    if value_only:
        attended = torch.cat([attended, values[:, 1:]], dim=1)
    return attended.reshape(rows.shape[0], -1)


def _residual_linear(rows: Tensor, inputs: Tensor, linear: Any, shape: torch.Size) -> Tensor:
    """
    Returns rows and a linear layer of others, added.

    Args:
        rows, inputs: `(M, W)` each.
        linear: The layer. Adapters often sit on this one alone.
        shape: The shape that a wrapper of the layer wants to see.
    """
    if _why_modules_are_needed({linear: nn.Linear}) is not None:
        return rows + linear(inputs.view(*shape[:-1], -1)).flatten(0, 1)
    result: Tensor = ResidualLinear.apply(rows, inputs, precision_of(rows), linear.weight, linear.bias)
    return result


def _project(rows: Tensor, norm: Any, *linears: Any) -> Tensor:
    """Returns linear layers of a layer norm, side by side."""
    parameters = []
    for linear in linears:
        parameters += [linear.weight, linear.bias]
    result: Tensor = NormedProjections.apply(rows, norm.weight, norm.bias, norm.eps, precision_of(rows), *parameters)
    return result


def _residual_mlp(hidden: Tensor, norm: Any, fc1: Any, activation: Any, fc2: Any) -> Tensor:
    """Returns hidden states and the MLP of their layer norm, added."""
    parameters = (fc1.weight, fc1.bias, fc2.weight, fc2.bias)
    operators = fused_activation(activation)
    result: Tensor = ResidualMLP.apply(
        hidden, norm.weight, norm.bias, norm.eps, precision_of(hidden), operators, *parameters
    )
    return result


__all__ = ["HalfBlocks"]
