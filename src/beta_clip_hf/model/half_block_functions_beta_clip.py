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
    Computes several linear layers of a layer norm side by side: `y @ weight.T + bias`, with y = LayerNorm(hidden).

    They are one matrix product, which a GPU fills with better than with several, and whose backward pass adds up the
    gradients of the hidden states by itself.

    Args of `apply`:
        hidden (`(…, W)`), norm_weight, norm_bias (`(W,)`), eps, precision: The hidden states and their norm.
        parameters: weight `(out, W)` and bias `(out,)` of the first layer, of the second, and so on.

    Returns:
        `(…, out + out + …)`, the layers in their order.
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
    ) -> Tensor:
        """Computes the layers, and keeps `hidden`."""
        ctx.save_for_backward(hidden, norm_weight, norm_bias, *parameters)
        ctx.eps = eps
        ctx.precision = precision
        weights, biases = parameters[::2], parameters[1::2]
        with _without_autocast(hidden.device.type):
            output_MW = _Norm(hidden, norm_weight, norm_bias, eps, precision).output_MW
            bias, weight = _joined(biases, precision.product), _joined(weights, precision.product)
            projected = torch.addmm(bias, output_MW, weight.t())
        return projected if hidden.ndim == 2 else projected.view(*hidden.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Computes the norm again, and the gradients of all tensors."""
        hidden, norm_weight, norm_bias, *parameters = ctx.saved_tensors
        (gradient,) = gradients
        if torch.is_grad_enabled():
            tensors = (hidden, norm_weight, norm_bias, *parameters)
            needed = (*ctx.needs_input_grad[:3], *ctx.needs_input_grad[5:])
            with _without_autocast(hidden.device.type):
                output = _normed_projections(tensors, ctx.eps, ctx.precision)
                first, second, third, *others = _graph_gradients(output, tensors, needed, gradient)
            return (first, second, third, None, None, *others)
        weights, biases = parameters[::2], parameters[1::2]
        weights_needed, biases_needed = ctx.needs_input_grad[5::2], ctx.needs_input_grad[6::2]
        sizes = [len(weight) for weight in weights]
        weight_gradients: Any = [None] * len(sizes)
        bias_gradients: Any = [None] * len(sizes)
        with _without_autocast(hidden.device.type):
            norm = _Norm(hidden, norm_weight, norm_bias, ctx.eps, ctx.precision)
            rows = _rows(gradient)
            if any(weights_needed):
                weight_gradients = _weight_gradient(rows, norm.output_MW, weights[0]).split(sizes)
            if any(biases_needed):
                bias_gradients = rows.sum(0, dtype=biases[0].dtype).split(sizes)
            gradient_MW = rows @ _joined(weights, ctx.precision.product)
            norm_gradients = norm.backward(gradient_MW, ctx.needs_input_grad[:3])
        gradient_hidden = norm_gradients[0]
        if gradient_hidden is not None:
            gradient_hidden = gradient_hidden.to(hidden.dtype)
        parameter_gradients: list[Tensor | None] = []
        needed_pairs = zip(weights_needed, biases_needed, strict=True)
        for number, (weight_needed, bias_needed) in enumerate(needed_pairs):
            parameter_gradients.append(weight_gradients[number] if weight_needed else None)
            parameter_gradients.append(bias_gradients[number] if bias_needed else None)
        return (gradient_hidden, *norm_gradients[1:], None, None, *parameter_gradients)


class ResidualLinear(torch.autograd.Function):
    r"""
    Computes `hidden + inputs @ weight.T + bias`.

    Args of `apply`:
        hidden (`(M, W)`): What is added.
        inputs (`(M, V)`): The input of the linear layer.
        precision: The dtypes.
        weight (`(W, V)`), bias (`(W,)`): The layer.

    Returns:
        `(M, W)`.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, inputs: Tensor, precision: Precision, weight: Tensor, bias: Tensor) -> Tensor:
        """Computes the layer, and keeps `inputs`."""
        dtype = precision.product
        with _without_autocast(hidden.device.type):
            update = torch.addmm(bias.to(dtype), inputs.to(dtype), weight.to(dtype).t())
            result = hidden + update
        ctx.save_for_backward(inputs, weight, bias)
        ctx.precision = precision
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Computes the gradients of all tensors, by operators that can be differentiated again."""
        inputs, weight, bias = ctx.saved_tensors
        dtype = ctx.precision.product
        (gradient,) = gradients
        needs_hidden, needs_inputs, _, needs_weight, needs_bias = ctx.needs_input_grad
        inputs_gradient = weight_gradient = bias_gradient = None
        with _without_autocast(inputs.device.type):
            update_gradient = gradient.to(dtype)
            if needs_inputs:
                inputs_gradient = update_gradient @ weight.to(dtype)
            if needs_weight:
                weight_gradient = _weight_gradient(update_gradient, inputs.to(dtype), weight)
            if needs_bias:
                bias_gradient = update_gradient.sum(0, dtype=bias.dtype)
        return gradient if needs_hidden else None, inputs_gradient, None, weight_gradient, bias_gradient


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
            inner_MX = torch.addmm((bias1 * factor).to(dtype), output_MW, weight1.to(dtype).t(), alpha=factor)
            del output_MW
            active_MX = activation.function(inner_MX)
            update_MW = torch.addmm(bias2.to(dtype), active_MX, weight2.to(dtype).t(), alpha=1 / factor)
            result = hidden + (update_MW if hidden.ndim == 2 else update_MW.view_as(hidden))
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
                first, second, third, *others = _graph_gradients(output, tensors, needed, gradient)
            return (first, second, third, None, None, None, *others)
        needs_weight1, needs_bias1, needs_weight2, needs_bias2 = ctx.needs_input_grad[6:]
        weight1_gradient = bias1_gradient = weight2_gradient = bias2_gradient = None
        with _without_autocast(hidden.device.type):
            update_gradient_MW = _rows(gradient).to(dtype)
            if needs_weight2:
                active_MX = activation.function(inner_MX)
                weight2_gradient = _weight_gradient(update_gradient_MW, active_MX, weight2, 1 / activation.factor)
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
        self.output_MW = _rows(output.to(precision.product))

    def backward(self, gradient_MW: Tensor, needed: Any) -> list[Tensor | None]:
        """
        Computes the gradients of hidden states, weight and bias from that of the output.

        It ends the life of the output.
        """
        del self.output_MW
        gradient = gradient_MW.to(self.rows.dtype)
        if len(self.shape) != 2:
            gradient = gradient.view(self.shape)
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


def _rows(tensor: Tensor) -> Tensor:
    """Returns a tensor `(…, X)` as rows `(M, X)`. Rows stay as they are: a view that changes nothing takes time too."""
    return tensor if tensor.ndim == 2 else tensor.reshape(-1, tensor.shape[-1])


def _joined(parameters: Any, dtype: torch.dtype) -> Tensor:
    """Returns the weights or biases of several layers as those of one, in the dtype of products."""
    return torch.cat(parameters).to(dtype)


def _weight_gradient(output_gradient: Tensor, inputs: Tensor, weight: Tensor, factor: float = 1.0) -> Tensor:
    """Returns the gradient of a linear layer's weight from rows of its output's gradient and rows of its input."""
    if factor == 1:
        return (output_gradient.t() @ inputs).to(weight.dtype)
    # A matrix product multiplies by a number for nothing. With beta = 0 it does not read what it would add.
    unread = weight.to(output_gradient.dtype)
    return torch.addmm(unread, output_gradient.t(), inputs, beta=0, alpha=factor).to(weight.dtype)


def _normed_projections(tensors: tuple[Tensor, ...], eps: float, precision: Precision) -> Tensor:
    """Returns what [`NormedProjections`] returns, by operators that can be differentiated."""
    hidden, norm_weight, norm_bias, *parameters = tensors
    output = _layer_norm(hidden, norm_weight, norm_bias, eps, precision)
    dtype = precision.product
    return F.linear(output, _joined(parameters[::2], dtype), _joined(parameters[1::2], dtype))


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


def _graph_gradients(output: Tensor, tensors: tuple[Tensor, ...], needed: Any, gradient: Tensor) -> list[Tensor | None]:
    """
    Returns the gradients of the tensors that need one, with a graph of their own (`create_graph=True`).

    The fused operators of a backward pass have no complete one of their own.
    """
    wanted = [tensor for tensor, is_needed in zip(tensors, needed, strict=True) if is_needed]
    found = iter(torch.autograd.grad(output, wanted, gradient, create_graph=True))
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


__all__ = ["NormedProjections", "Precision", "ResidualLinear", "ResidualMLP", "precision_of"]
