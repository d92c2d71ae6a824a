"""Gradient checkpointing under the name that the installed transformers has for it."""

from typing import Any

from transformers import PreTrainedModel


def enable_checkpointing(model: PreTrainedModel, settings: dict[str, Any]) -> None:
    """Switches it on, and checks that it is."""
    # transformers 5.23 warns of the older name, which 5.17 knows alone.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable(settings)
    assert any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
