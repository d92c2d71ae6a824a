# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""
The two halves of a transformer block as functions that keep their input for the backward pass, and little else.

What matrix products gave is kept where it cannot be had without them: the inner layer of the MLP before its activation.
Layer norms and activations are computed again, by the operators that torch has for their backward passes.

M is the number of rows (tokens), X the width of the MLP's inner layer.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .activations_beta_clip import FusedActivation


class Precision(NamedTuple):
    """The dtypes of a half block. Autocast would choose the same, operator by operator."""

    norm: torch.dtype
    """That of layer norms."""
    product: torch.dtype
    """That of matrix products."""


def precision_of(hidden: Tensor) -> Precision:
    """Returns the dtypes of a half block of these hidden states, under the present autocast."""
    device = hidden.device.type
    # Autocast leaves float64 alone.
    if hidden.dtype == torch.float64 or not _is_autocast(device):
        return Precision(hidden.dtype, hidden.dtype)
    return Precision(torch.float32, torch.get_autocast_dtype(device))


class NormedProjections(torch.autograd.Function):
    r"""
    Computes linear layers of a layer norm: `y @ weight.T + bias` for each, with y = LayerNorm(hidden).

    Args of `apply`:
        hidden (`(…, W)`), norm_weight, norm_bias (`(W,)`), eps, precision: The hidden states and their norm.
        parameters: weight `(out, W)` and bias `(out,)` of the first layer, of the second, and so on.

    Returns:
        A tensor `(…, out)` for each layer.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        norm_weight: Tensor,
        norm_bias: Tensor,
        eps: float,
        precision: Precision,
        *parameters: Tensor,
    ) -> tuple[Tensor, ...]:
        """Computes the layers, and keeps `hidden`."""
        tensors = (hidden, norm_weight, norm_bias, *parameters)
        ctx.save_for_backward(*tensors)
        ctx.eps = eps
        ctx.precision = precision
        with _without_autocast(hidden.device.type):
            return _normed_projections(tensors, eps, precision)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Computes the norm again, and the gradients of all tensors."""
        hidden, norm_weight, norm_bias, *parameters = ctx.saved_tensors
        if torch.is_grad_enabled():
            tensors = (hidden, norm_weight, norm_bias, *parameters)
            needed = (*ctx.needs_input_grad[:3], *ctx.needs_input_grad[5:])
            with _without_autocast(hidden.device.type):
                outputs = _normed_projections(tensors, ctx.eps, ctx.precision)
                first, second, third, *others = _graph_gradients(outputs, tensors, needed, gradients)
            return (first, second, third, None, None, *others)
        with _without_autocast(hidden.device.type):
            norm = _Norm(hidden, norm_weight, norm_bias, ctx.eps, ctx.precision)
            gradient_MW = None
            parameter_gradients: list[Tensor | None] = []
            for number, gradient in enumerate(gradients):
                weight, bias = parameters[2 * number : 2 * number + 2]
                weight_needed, bias_needed = ctx.needs_input_grad[5 + 2 * number : 7 + 2 * number]
                rows = gradient.reshape(-1, gradient.shape[-1])
                parameter_gradients.append(_weight_gradient(rows, norm.output_MW, weight) if weight_needed else None)
                parameter_gradients.append(rows.sum(0, dtype=bias.dtype) if bias_needed else None)
                # As autograd adds the gradients of several layers under autocast: in the dtype of the norm.
                gradient_here_MW = (rows @ weight.to(ctx.precision.product)).to(ctx.precision.norm)
                gradient_MW = gradient_here_MW if gradient_MW is None else gradient_MW.add_(gradient_here_MW)
            assert gradient_MW is not None
            norm_gradients = norm.backward(gradient_MW, ctx.needs_input_grad[:3])
        gradient_hidden = norm_gradients[0]
        if gradient_hidden is not None:
            gradient_hidden = gradient_hidden.to(hidden.dtype)
        return (gradient_hidden, *norm_gradients[1:], None, None, *parameter_gradients)


class ResidualMLP(torch.autograd.Function):
    r"""
    Computes `hidden + fc2(activation(fc1(LayerNorm(hidden))))`.

    Args of `apply`:
        hidden (`(…, W)`), norm_weight, norm_bias (`(W,)`), eps, precision: The hidden states and their norm.
        activation: The operators of the activation.
        weight1 (`(X, W)`), bias1 (`(X,)`), weight2 (`(W, X)`), bias2 (`(W,)`): The two layers.

    Returns:
        `(…, W)`.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        norm_weight: Tensor,
        norm_bias: Tensor,
        eps: float,
        precision: Precision,
        activation: FusedActivation,
        *parameters: Tensor,
    ) -> Tensor:
        """Computes the MLP, and keeps `hidden` and the inner layer before its activation."""
        weight1, bias1, weight2, bias2 = parameters
        dtype = precision.product
        with _without_autocast(hidden.device.type):
            output_MW = _Norm(hidden, norm_weight, norm_bias, eps, precision).output_MW
            # The activation wants a multiple of the inner layer. A matrix product multiplies by a number for nothing.
            factor = activation.factor
            inner_MX = torch.addmm((bias1 * factor).to(dtype), output_MW, weight1.to(dtype).T, alpha=factor)
            del output_MW
            active_MX = activation.function(inner_MX)
            update_MW = torch.addmm(bias2.to(dtype), active_MX, weight2.to(dtype).T, alpha=1 / factor)
            result = hidden + update_MW.view_as(hidden)
        ctx.save_for_backward(hidden, norm_weight, norm_bias, *parameters, inner_MX)
        ctx.eps = eps
        ctx.precision = precision
        ctx.activation = activation
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Computes norm and activation again, and the gradients of all tensors."""
        hidden, norm_weight, norm_bias, *parameters, inner_MX = ctx.saved_tensors
        weight1, bias1, weight2, bias2 = parameters
        activation, dtype = ctx.activation, ctx.precision.product
        (gradient,) = gradients
        if torch.is_grad_enabled():
            tensors = (hidden, norm_weight, norm_bias, *parameters)
            needed = (*ctx.needs_input_grad[:3], *ctx.needs_input_grad[6:])
            with _without_autocast(hidden.device.type):
                output = _residual_mlp(tensors, ctx.eps, ctx.precision, activation)
                first, second, third, *others = _graph_gradients((output,), tensors, needed, gradients)
            return (first, second, third, None, None, None, *others)
        needs_weight1, needs_bias1, needs_weight2, needs_bias2 = ctx.needs_input_grad[6:]
        weight1_gradient = bias1_gradient = weight2_gradient = bias2_gradient = None
        with _without_autocast(hidden.device.type):
            update_gradient_MW = gradient.reshape(-1, gradient.shape[-1]).to(dtype)
            if needs_weight2:
                active_MX = activation.function(inner_MX)
                weight2_gradient = _weight_gradient(update_gradient_MW, active_MX, weight2).div_(activation.factor)
                # The inner layer is the largest tensor of a block: at most two of them live here beside the kept one.
                del active_MX
            if needs_bias2:
                bias2_gradient = update_gradient_MW.sum(0, dtype=bias2.dtype)
            # The factor before the activation and the one after it cancel.
            inner_gradient_MX = activation.backward(update_gradient_MW @ weight2.to(dtype), inner_MX)
            norm = _Norm(hidden, norm_weight, norm_bias, ctx.eps, ctx.precision)
            if needs_weight1:
                weight1_gradient = _weight_gradient(inner_gradient_MX, norm.output_MW, weight1)
            if needs_bias1:
                bias1_gradient = inner_gradient_MX.sum(0, dtype=bias1.dtype)
            output_gradient_MW = inner_gradient_MX @ weight1.to(dtype)
            del inner_gradient_MX
            hidden_gradient, *norm_gradients = norm.backward(output_gradient_MW, ctx.needs_input_grad[:3])
            if hidden_gradient is not None:
                hidden_gradient = hidden_gradient.add_(gradient).to(hidden.dtype)
        mlp_gradients = (weight1_gradient, bias1_gradient, weight2_gradient, bias2_gradient)
        return (hidden_gradient, *norm_gradients, None, None, None, *mlp_gradients)


class _Norm:
    """A layer norm of the rows of hidden states, and its backward pass."""

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor, eps: float, precision: Precision) -> None:
        self.shape = hidden.shape
        self.parameters = weight, bias
        self.width = [hidden.shape[-1]]
        # The fused operators want one dtype for all their tensors.
        self.rows = hidden.to(precision.norm)
        self.weight = weight.to(precision.norm)
        self.bias = bias.to(precision.norm)
        output, self.mean, self.reciprocal_deviation = torch.native_layer_norm(
            self.rows, self.width, self.weight, self.bias, eps
        )
        self.output_MW = output.to(precision.product).view(-1, *self.width)

    def backward(self, gradient_MW: Tensor, needed: Any) -> list[Tensor | None]:
        """
        Computes the gradients of hidden states, weight and bias from that of the output.

        It ends the life of the output.
        """
        del self.output_MW
        gradient = gradient_MW.to(self.rows.dtype).view(self.shape)
        rows_gradient, *parameter_gradients = torch.ops.aten.native_layer_norm_backward(
            gradient,
            self.rows,
            self.width,
            self.mean,
            self.reciprocal_deviation,
            self.weight,
            self.bias,
            list(needed),
        )
        # An operator returns an undefined tensor, which is None here, for what is not needed.
        results: list[Tensor | None] = [rows_gradient if needed[0] else None]
        for found, parameter, is_needed in zip(parameter_gradients, self.parameters, needed[1:], strict=True):
            results.append(found.to(parameter.dtype) if is_needed else None)
        return results


def _weight_gradient(output_gradient: Tensor, inputs: Tensor, weight: Tensor) -> Tensor:
    """Returns the gradient of a linear layer's weight from rows of its output's gradient and rows of its input."""
    return (output_gradient.T @ inputs).to(weight.dtype)


def _normed_projections(tensors: tuple[Tensor, ...], eps: float, precision: Precision) -> tuple[Tensor, ...]:
    """Returns what [`NormedProjections`] returns, by operators that can be differentiated."""
    hidden, norm_weight, norm_bias, *parameters = tensors
    output = _layer_norm(hidden, norm_weight, norm_bias, eps, precision)
    dtype = precision.product
    results = []
    for weight, bias in zip(parameters[::2], parameters[1::2], strict=True):
        results.append(F.linear(output, weight.to(dtype), bias.to(dtype)))
    return tuple(results)


def _residual_mlp(tensors: tuple[Tensor, ...], eps: float, precision: Precision, activation: FusedActivation) -> Tensor:
    """Returns what [`ResidualMLP`] returns, by operators that can be differentiated."""
    hidden, norm_weight, norm_bias, *parameters = tensors
    weight1, bias1, weight2, bias2 = (parameter.to(precision.product) for parameter in parameters)
    output = _layer_norm(hidden, norm_weight, norm_bias, eps, precision)
    active = activation.function(F.linear(output, weight1, bias1) * activation.factor) / activation.factor
    return hidden + F.linear(active, weight2, bias2)


def _layer_norm(hidden: Tensor, weight: Tensor, bias: Tensor, eps: float, precision: Precision) -> Tensor:
    rows, weight, bias = (tensor.to(precision.norm) for tensor in (hidden, weight, bias))
    return F.layer_norm(rows, weight.shape, weight, bias, eps).to(precision.product)


def _graph_gradients(
    outputs: tuple[Tensor, ...], tensors: tuple[Tensor, ...], needed: Any, gradients: tuple[Tensor, ...]
) -> list[Tensor | None]:
    """
    Returns the gradients of the tensors that need one, with a graph of their own (`create_graph=True`).

    The fused operators of a backward pass have no complete one of their own.
    """
    wanted = [tensor for tensor, is_needed in zip(tensors, needed, strict=True) if is_needed]
    found = iter(torch.autograd.grad(outputs, wanted, gradients, create_graph=True))
    return [next(found) if is_needed else None for is_needed in needed]


def _is_autocast(device: str) -> bool:
    # Some devices, such as "meta", have no autocast, and refuse the question whether it is on.
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def _without_autocast(device: str) -> AbstractContextManager[Any]:
    """
    Switches autocast off: the functions cast by themselves.

    Autocast would remember the half-precision weights that are made here, where nothing has a gradient, and hand them
    to the next module that uses the same weights.
    """
    return torch.autocast(device, enabled=False) if _is_autocast(device) else nullcontext()


__all__ = ["NormedProjections", "Precision", "ResidualMLP", "precision_of"]
