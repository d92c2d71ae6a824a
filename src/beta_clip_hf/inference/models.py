"""Any CLIP-like checkpoint as a model and a processor that an [`Embedder`] can use; and how its texts become tokens."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from transformers import AutoModel, AutoProcessor, BatchFeature, CLIPModel

from ..model.checkpoints_beta_clip import is_fg_clip, weight_names
from ..model.configuration_beta_clip import BetaCLIPConfig
from ..model.modeling_beta_clip import BetaCLIPModel
from ..model.processing_beta_clip import BetaCLIPProcessor


SIGLIP_TYPES = ("siglip", "siglip2")  # SigLIP 2 of one resolution is of the first type, NaFlex of the second


class LoadedModel(NamedTuple):
    """A model ready for evaluation, and its processor."""

    model: Any
    processor: Any
    has_trained_pooler: bool

    @property
    def image_size(self) -> int:
        """The side in pixels of the square images that the model was made for; where it takes images of any shape, of
        the square with as many patches as it was made for."""
        vision = self.model.config.vision_config
        return getattr(vision, "image_size", None) or round(vision.num_patches**0.5) * vision.patch_size


def load_model(name_or_path: str, device: torch.device, dtype: torch.dtype = torch.float32) -> LoadedModel:
    """
    Loads β-CLIP, FG-CLIP, a plain CLIP, SigLIP or SigLIP 2, or another model with features of images and of texts.

    FG-CLIP and CLIP come without a pooler, which would be a fresh one. A plain CLIP is CLIP: its positions are not
    stretched, and its texts are cut where they end.

    Args:
        name_or_path: Directory or Hub id.
        device, dtype: Of the model.

    Raises:
        ValueError: if the model has no features of images, or of texts.
    """
    name_or_path = str(name_or_path)
    kind = BetaCLIPConfig.get_config_dict(name_or_path)[0].get("model_type")
    if kind == BetaCLIPConfig.model_type:
        model, processor = BetaCLIPModel.from_pretrained(name_or_path), BetaCLIPProcessor.from_pretrained(name_or_path)
    elif kind == "clip" and is_fg_clip(weight_names(name_or_path)):
        model = BetaCLIPModel.from_pretrained(name_or_path, use_pooler=False)
        processor = BetaCLIPProcessor.from_pretrained(name_or_path)
    elif kind == "clip":
        model, processor = _plain_clip(name_or_path)
    else:
        model = AutoModel.from_pretrained(name_or_path)
        if not (hasattr(model, "get_image_features") and hasattr(model, "get_text_features")):
            raise ValueError(f"model must have features of images and of texts, but is {type(model).__name__}")
        processor = AutoProcessor.from_pretrained(name_or_path)
    if isinstance(processor, BetaCLIPProcessor):
        _cut_to_positions(processor, model.config)
    model = model.to(device, dtype).eval()
    # Weights lie as in their file, at any address, and kernels sum in another order at another alignment: the same
    # weights in two files would differ in the last bits of what they give.
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()
    return LoadedModel(model, processor, getattr(model, "pooler", None) is not None)


def text_inputs(model: Any, processor: Any, texts: Sequence[str], path: str | None = None) -> BatchFeature:
    """
    Tokens of texts as the model knows them from its training, cut to what it can read with the end of the text kept.

    A processor of ours knows all of that. SigLIP was trained on lower case, which not every tokenizer of SigLIP 2 sees
    to, and reads a text at the last of its 64 positions, so that all are filled up.

    Args:
        model, processor: As from [`load_model`].
        texts: T of them.
        path: The text path of a model with two.
    """
    if isinstance(processor, BetaCLIPProcessor):
        return processor(text=list(texts), path=path, padding=True, return_tensors="pt")
    positions = model.config.text_config.max_position_embeddings
    if model.config.model_type in SIGLIP_TYPES:
        texts = [text.lower() for text in texts]
        lengths = {"padding": "max_length", "max_length": positions}
    else:
        lengths = {"padding": True, "max_length": min(positions, processor.tokenizer.model_max_length)}
    return processor(text=list(texts), truncation=True, return_tensors="pt", **lengths)


def _plain_clip(name_or_path: str) -> tuple[BetaCLIPModel, BetaCLIPProcessor]:
    """The weights of a CLIP in a model of ours, which has its patch features too. Loaded by name, one of 77 positions
    would be stretched to 248."""
    clip = CLIPModel.from_pretrained(name_or_path)
    config = BetaCLIPConfig(**clip.config.to_dict() | {"use_pooler": False})
    model = BetaCLIPModel.from_pretrained(None, config=config, state_dict=clip.state_dict())
    processor = BetaCLIPProcessor.from_pretrained(name_or_path)
    processor.max_length = min(processor.max_length, processor.tokenizer.model_max_length)
    return model, processor


def _cut_to_positions(processor: BetaCLIPProcessor, config: Any) -> None:
    """A processor may have been saved for longer texts than the model has positions for."""
    positions = config.text_config.max_position_embeddings
    whole = config.long_text_max_position_embeddings if config.use_long_text_path else positions
    processor.max_length = min(processor.max_length, whole)
    if processor.short_max_length is not None:
        processor.short_max_length = min(processor.short_max_length, positions)
