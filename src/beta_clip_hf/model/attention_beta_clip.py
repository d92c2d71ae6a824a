# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""
Attention through transformers' interface, with two functions beside those of transformers.

`eager_attention` is that of the pooler. `torch_varlen`, a name for `attn_implementation`, is torch's own kernel for
texts of any lengths in a row (`torch.nn.attention.varlen`); it needs no other package, where flash attention does.
"""

from importlib import import_module
from importlib.util import find_spec
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils.generic import is_flash_attention_requested


VARLEN = "torch_varlen"
# Imported where it is used: that takes longer than the rest of this package together. torch before 2.10 lacks it.
VARLEN_MODULE = "torch.nn.attention.varlen"


def eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """
    Computes attention in plain torch, with the arguments of transformers' interface.

    Returns:
        The attended values `(B, rows, H, d)` and the weights `(B, H, rows, columns)`.
    """
    logits = query @ key.transpose(-1, -2) * scaling
    if attention_mask is not None:
        logits = logits + attention_mask
    # As the fused kernels do: the softmax in at least float32, the product with the values in theirs.
    float_weights = logits.softmax(dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))
    weights = float_weights.to(value.dtype)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def varlen_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int = 0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """
    Computes causal attention within the texts of one row of all tokens, by torch's kernel for variable lengths.

    Where nothing is packed (images, the pooler, plain batches) it is SDPA.

    Args:
        module, query, key, value, attention_mask, scaling, dropout, kwargs: As transformers' interface passes them.
        cu_seq_lens_q (`Tensor` of shape `(V,)`, int32, *optional*): Where the texts begin, and the end.
        max_length_q: No text is longer than this.

    Raises:
        ValueError: on a CPU, in float32 or with dropout, which the kernel does not have.
    """
    if cu_seq_lens_q is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    problem = _problem_of_varlen(query, dropout)
    if problem:
        raise ValueError(
            f"attn_implementation must be 'sdpa' {problem}, but is {VARLEN!r}, whose kernel works on a GPU, in half "
            "precision and without dropout"
        )
    query_PHd, key_PHd, value_PHd = (part[0].transpose(0, 1) for part in (query, key, value))
    varlen_attn = import_module(VARLEN_MODULE).varlen_attn
    # Its argument for causal attention was renamed.
    is_new = "window_size" in signature(varlen_attn).parameters
    causal: dict[str, Any] = {"window_size": (-1, 0)} if is_new else {"is_causal": True}
    starts = (cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q)
    attended_PHd: Tensor = varlen_attn(query_PHd, key_PHd, value_PHd, *starts, scale=scaling, **causal)
    return attended_PHd[None], None


def _problem_of_varlen(query: Tensor, dropout: float) -> str | None:
    """Says where torch's kernel for variable lengths does not work."""
    if query.device.type == "cpu":
        return "on a CPU"
    if query.dtype not in (torch.float16, torch.bfloat16):
        return f"in {query.dtype}"
    return "with dropout" if dropout else None


def takes_starts(config: Any) -> bool:
    """Whether attention tells packed texts apart by the places where they begin, and not by a mask."""
    return is_flash_attention_requested(config) or config._attn_implementation == VARLEN


def check_attention(config: Any, device: torch.device) -> None:
    """
    Checks that the implementation of attention can work, before it fails in the midst of a model.

    Args:
        config: The configuration of a tower.
        device: Where it computes.

    Raises:
        ValueError: for a kernel that needs a GPU on a CPU, and for a gradient of flex attention there.
    """
    name = config._attn_implementation
    if device.type != "cpu":
        return
    if is_flash_attention_requested(config):
        raise ValueError(f"attn_implementation must be 'sdpa' or 'eager' on a CPU, but is {name!r}, which needs a GPU")
    if name == "flex_attention" and torch.is_grad_enabled():
        raise ValueError(
            "attn_implementation must be 'sdpa' or 'eager' for a gradient on a CPU, but is 'flex_attention', which has "
            "no backward pass there; or compute under torch.no_grad()"
        )


if find_spec(VARLEN_MODULE) is not None:
    ALL_ATTENTION_FUNCTIONS.register(VARLEN, varlen_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(VARLEN, sdpa_mask)


__all__ = ["VARLEN", "VARLEN_MODULE", "check_attention", "eager_attention", "takes_starts", "varlen_attention"]
