"""Writes an adapter (LoRA) merged into its base model, as a model that needs no PEFT."""

from pathlib import Path

from ..model.adapters_beta_clip import is_adapter
from ..model.modeling_beta_clip import BetaCLIPModel
from ..model.modeling_beta_siglip2 import BetaSiglip2Model
from .directories import check_output, read_any_model, read_processor_of


def export_merged(source: str | Path, output_dir: str | Path) -> BetaCLIPModel | BetaSiglip2Model:
    """
    Writes an adapter, merged into its base model, with its processor.

    Args:
        source: Directory or Hub id of the adapter.
        output_dir: Directory to write.

    Returns:
        The model, in evaluation mode.

    Raises:
        ImportError: if peft is not installed.
        ValueError: if `source` is no adapter, or the output is the source itself.
    """
    check_output(output_dir, source)
    if not is_adapter(source):
        raise ValueError(f"{source} must be the directory of an adapter, but is not: there is nothing to merge")
    model = read_any_model(source)
    model.save_pretrained(output_dir)
    processor = read_processor_of(model, source)
    if processor is not None:
        processor.save_pretrained(output_dir)
    return model


__all__ = ["export_merged"]
