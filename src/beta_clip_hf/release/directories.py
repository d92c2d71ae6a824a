"""Model directories that the converters, exports and interpolation read and write."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPConfig, CLIPProcessor, PreTrainedModel

from ..files import naming_errors, replacing, write_json
from ..inference.stored_sizes import stored_config
from ..model.checkpoints_beta_siglip2 import is_on_siglip2
from ..model.configuration_beta_clip import BetaCLIPConfig
from ..model.modeling_beta_clip import BetaCLIPModel
from ..model.modeling_beta_siglip2 import BetaSiglip2Model
from ..model.processing_beta_clip import BetaCLIPProcessor
from ..model.processing_beta_siglip2 import BetaSiglip2Processor


logger = logging.getLogger(__name__)


def check_output(output_dir: str | Path, *sources: str | Path) -> None:
    """
    Checks that nothing is written over what is read.

    Raises:
        ValueError: if the output is the directory of a source.
    """
    for source in sources:
        if Path(source).is_dir() and Path(source).resolve() == Path(output_dir).resolve():
            raise ValueError(f"output must be another directory than the one that is read, but both are {source}")


def describe_output(output_dir: str | Path, model: PreTrainedModel) -> dict[str, Any]:
    """Describes a directory that was written: its path, its files, the number of parameters and the dtype."""
    return {
        "output": str(output_dir),
        "files": sorted(path.name for path in Path(output_dir).iterdir()),
        "parameters": model.num_parameters(),
        "dtype": str(model.dtype).removeprefix("torch."),
    }


def read_model(source: str | Path, **changes: Any) -> BetaCLIPModel:
    """
    Loads a model in the dtype of its checkpoint.

    Args:
        source: Directory or Hub id. A checkpoint in another layout has no pooler, and the model gets none.
        changes: Values of the configuration that replace the stored ones.
    """
    with naming_errors(source, "the directory of a model, or its Hub id"):
        stored = stored_config(source)
        if stored.get("model_type") != BetaCLIPConfig.model_type:
            # By default a plain CLIP gets a new pooler with random weights, which belongs in no export.
            changes = {"use_pooler": False, **changes}
        return BetaCLIPModel.from_pretrained(source, **changes)


def read_any_model(source: str | Path, **changes: Any) -> BetaCLIPModel | BetaSiglip2Model:
    """Loads a model of either family, on CLIP's towers as by [`read_model`], or on those of SigLIP 2."""
    with naming_errors(source, "the directory of a model, or its Hub id"):
        stored = stored_config(source)
        if is_on_siglip2(stored):
            loaded: BetaSiglip2Model = BetaSiglip2Model.from_pretrained(source, **changes)
            return loaded
    return read_model(source, **changes)


def read_processor_of(model: PreTrainedModel, source: str | Path) -> Any:
    """Loads the processor beside a model of either family, see [`read_processor`]."""
    processor_class = BetaSiglip2Processor if isinstance(model, BetaSiglip2Model) else BetaCLIPProcessor
    return read_processor(source, processor_class)


def read_processor(source: str | Path, processor_class: Any = BetaCLIPProcessor) -> Any:
    """Loads the processor beside a model. If it cannot be read, logs a warning and returns `None`."""
    try:
        return processor_class.from_pretrained(source)
    except (OSError, ValueError) as error:
        first_sentence = " ".join(str(error).split()).split(". ")[0]
        logger.warning("No processor is saved, because that of %s cannot be read: %s", source, first_sentence)
        return None


def check_positions(config: Any, expected: dict[str, int], layout: str) -> None:
    """
    Checks that a model has the text positions of another layout.

    Args:
        config: The configuration of the model.
        expected: The number of positions of the "short" and of the "long" path.
        layout: The name of the layout.

    Raises:
        ValueError: if it has other numbers.
    """
    positions = {
        "short": config.text_config.max_position_embeddings,
        "long": config.long_text_max_position_embeddings,
    }
    if positions != expected:
        raise ValueError(f"positions must be {expected} to be written as {layout}, but are {positions}")


def write_weights(tensors: Mapping[str, Tensor], config: dict[str, Any], folder: Path) -> None:
    """Writes tensors and a `config.json` that are of no class of transformers."""
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    # transformers refuses a safetensors file that does not name its format.
    with replacing(folder / "model.safetensors") as unfinished:
        save_file(contiguous, unfinished, {"format": "pt"})
    write_json(config, folder / "config.json", sort_keys=True)


def save_clip_processor(processor: BetaCLIPProcessor, output_dir: str | Path, model_max_length: int) -> None:
    """
    Saves the tokenizer and the image processor of a processor as those of a plain CLIP.

    Args:
        processor: The processor. Its tokenizer is changed.
        output_dir: The directory to write to.
        model_max_length: The number of tokens after which texts are cut.
    """
    tokenizer = processor.tokenizer
    image_processor = processor.image_processor
    tokenizer.model_max_length = model_max_length
    # A tokenizer that has been used saves the length at which it cut last, and a processor that loads it would take
    # that length as its own limit.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.init_kwargs.pop("max_length", None)
    # An auto_map names code that was saved beside the source, but is not in the output.
    vars(image_processor).pop("auto_map", None)
    tokenizer.init_kwargs.pop("auto_map", None)
    CLIPProcessor(image_processor, tokenizer).save_pretrained(output_dir)
    # Older versions of transformers read preprocessor_config.json, which the processor does not write any more.
    image_processor.save_pretrained(output_dir)


def clip_config(config: Any, text_positions: int) -> CLIPConfig:
    """
    Returns the configuration of the plain CLIP inside a model, without any field of this package.

    Args:
        config: The configuration of the model.
        text_positions: The number of rows of its position table.
    """
    text_config = {**config.text_config.to_dict(), "max_position_embeddings": text_positions}
    return CLIPConfig(
        text_config=text_config,
        vision_config=config.vision_config.to_dict(),
        projection_dim=config.projection_dim,
        logit_scale_init_value=config.logit_scale_init_value,
        initializer_factor=config.initializer_factor,
    )


__all__ = [
    "check_output",
    "check_positions",
    "clip_config",
    "describe_output",
    "read_any_model",
    "read_model",
    "read_processor",
    "read_processor_of",
    "save_clip_processor",
    "write_weights",
]
