"""Loads any CLIP-like checkpoint as a model and a processor for an [`Embedder`], and tokenizes texts for it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import AutoModel, AutoProcessor, BatchFeature, CLIPModel

from ..files import naming_errors
from ..model.checkpoints_beta_clip import is_fg_clip, weight_names
from ..model.checkpoints_beta_siglip2 import FG_CLIP2
from ..model.configuration_beta_clip import BetaCLIPConfig
from ..model.configuration_beta_siglip2 import BetaSiglip2Config
from ..model.loading_checks_beta_clip import load_checked
from ..model.modeling_beta_clip import BetaCLIPModel
from ..model.modeling_beta_siglip2 import BetaSiglip2Model
from ..model.processing_beta_clip import BetaCLIPProcessor
from ..model.processing_beta_siglip2 import BetaSiglip2Processor
from .stored_sizes import stored_config


DTYPES = ("float32", "bfloat16", "float16")
"""Types that the weights of a model may have where it encodes images and texts."""
# A SigLIP 2 of one resolution has the first type, NaFlex the second.
SIGLIP_TYPES = ("siglip", "siglip2")


class LoadedModel(NamedTuple):
    """A model ready for evaluation, and its processor."""

    model: Any
    processor: Any
    has_trained_pooler: bool

    @property
    def image_size(self) -> int:
        """
        The side in pixels of the square images that the model was made for. For a model of images of any shape, the
        side of a square with as many patches as it was made for.
        """
        vision = self.model.config.vision_config
        size = getattr(vision, "image_size", None)
        return size or round(vision.num_patches**0.5) * vision.patch_size


def dtype_of(name: str) -> torch.dtype:
    """
    Returns the type of torch that has a name.

    Raises:
        ValueError: if it is none of [`DTYPES`].
    """
    if name not in DTYPES:
        raise ValueError(f"dtype must be one of {DTYPES}, but is {name!r}")
    return getattr(torch, name)


def load_model(name_or_path: str, device: torch.device, dtype: torch.dtype = torch.float32) -> LoadedModel:
    """
    Loads β-CLIP, FG-CLIP, FG-CLIP 2, a plain CLIP, SigLIP, SigLIP 2 or another model with features of images and texts.

    FG-CLIP and CLIP come without a pooler, because theirs would be untrained. A plain CLIP stays CLIP: its positions
    are not stretched, and texts are cut at its own length.

    Args:
        name_or_path: Directory or Hub id.
        device: Where the model runs.
        dtype: Type of its weights.

    Raises:
        ValueError: if the model has no features of images, or of texts.
    """
    with naming_errors(name_or_path, "the directory of a model, or its Hub id"):
        model, processor = _read(str(name_or_path))
    if isinstance(processor, BetaCLIPProcessor):
        cut_to_positions(processor, model.config)
    model = model.to(device, dtype).eval()
    # Weights that are mapped from a file lie at any address, and kernels sum in another order at another alignment.
    # Without copies, equal weights in two files would give embeddings that differ in their last bits.
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()
    return LoadedModel(model, processor, getattr(model, "pooler", None) is not None)


def _read(name_or_path: str) -> tuple[Any, Any]:
    """Returns a model and its processor. The type of the configuration says which classes they have."""
    model_type = stored_config(name_or_path).get("model_type")
    if model_type == BetaCLIPConfig.model_type:
        return BetaCLIPModel.from_pretrained(name_or_path), BetaCLIPProcessor.from_pretrained(name_or_path)
    if model_type in (BetaSiglip2Config.model_type, FG_CLIP2):
        return BetaSiglip2Model.from_pretrained(name_or_path), BetaSiglip2Processor.from_pretrained(name_or_path)
    # FG-CLIP calls itself a CLIP, but has weights that CLIP does not have.
    if model_type == "clip" and is_fg_clip(weight_names(name_or_path)):
        model = BetaCLIPModel.from_pretrained(name_or_path, use_pooler=False)
        return model, BetaCLIPProcessor.from_pretrained(name_or_path)
    if model_type == "clip":
        return _read_plain_clip(name_or_path)
    model = load_checked(AutoModel.from_pretrained, name_or_path, trust_remote_code=False)[0]
    if not (hasattr(model, "get_image_features") and hasattr(model, "get_text_features")):
        raise ValueError(
            f"model must have features of images and of texts, but is {type(model).__name__}: name a β-CLIP, FG-CLIP, "
            "CLIP, SigLIP or a model like these"
        )
    return model, AutoProcessor.from_pretrained(name_or_path, trust_remote_code=False)


def _read_plain_clip(name_or_path: str) -> tuple[BetaCLIPModel, BetaCLIPProcessor]:
    """Returns the weights of a CLIP in a `BetaCLIPModel`, which gives patch features too."""
    clip = load_checked(CLIPModel.from_pretrained, name_or_path)[0]
    config = BetaCLIPConfig(**clip.config.to_dict() | {"use_pooler": False})
    # `BetaCLIPModel.from_pretrained(name)` would stretch 77 positions to 248; with its own state dict it does not.
    model = BetaCLIPModel.from_pretrained(None, config=config, state_dict=clip.state_dict())
    processor = BetaCLIPProcessor.from_pretrained(name_or_path)
    processor.max_length = min(processor.max_length, processor.tokenizer.model_max_length)
    return model, processor


def cut_to_positions(processor: BetaCLIPProcessor, config: Any) -> None:
    """Shortens texts to the positions of the model, in case the processor was saved for longer ones."""
    positions = config.text_config.max_position_embeddings
    longest = positions
    if config.use_long_text_path:
        longest = config.long_text_max_position_embeddings
    processor.max_length = min(processor.max_length, longest)
    if processor.short_max_length is not None:
        processor.short_max_length = min(processor.short_max_length, positions)


def embedding_width(config: Any) -> int:
    """Returns D of a model: CLIP names it, that of SigLIP is the width of its text tower's projection."""
    return getattr(config, "projection_dim", None) or config.text_config.projection_size


def text_inputs(model: Any, processor: Any, texts: Sequence[str], path: str | None = None) -> BatchFeature:
    """
    Tokenizes texts as the model knows them from its training. A text that is too long is cut, but keeps its end token.

    Args:
        model: A model as from [`load_model`].
        processor: Its processor.
        texts: T texts.
        path: Text path of a model with several, "short", "long" or "box".
    """
    # A processor of ours knows the lengths of its paths itself.
    if isinstance(processor, BetaSiglip2Processor):
        return processor(text=list(texts), path=path)
    if isinstance(processor, BetaCLIPProcessor):
        return processor(text=list(texts), path=path, padding=True, return_tensors="pt")
    positions = model.config.text_config.max_position_embeddings
    lengths: dict[str, Any]
    if model.config.model_type in SIGLIP_TYPES:
        # SigLIP was trained on lower case, which some tokenizers of SigLIP 2 leave to the caller. It reads a text at
        # the last of its 64 positions, so every text is padded to all of them.
        texts = [text.lower() for text in texts]
        lengths = {"padding": "max_length", "max_length": positions}
    else:
        lengths = {"padding": True, "max_length": min(positions, processor.tokenizer.model_max_length)}
    return processor(text=list(texts), truncation=True, return_tensors="pt", **lengths)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Runs a model without gradients and without dropout, and leaves it in the mode that it was in."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
