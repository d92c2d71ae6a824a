"""Encodes images or texts in one call: what `model.encode(…)` does."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers.utils import logging

from ..model.encoding_beta_clip import EncodingSettings
from ..model.image_loading_beta_clip import load_images
from ..model.modeling_beta_siglip2 import BetaSiglip2Model
from ..model.processing_beta_clip import BetaCLIPProcessor
from ..model.processing_beta_siglip2 import BetaSiglip2Processor
from .embedder import Embedder
from .models import cut_to_positions, embedding_width
from .progress import progress_bars
from .quantization import check_precision, check_truncate_dim, quantize, truncate
from .reading import ProcessedImages
from .shards import split


def encode(model: Any, images: Any, texts: Any, settings: EncodingSettings) -> Tensor:
    """
    Encodes images or texts with the [`Embedder`] of evaluation and search.

    Args:
        model: A `BetaCLIPModel` or `BetaSiglip2Model`.
        images, texts: The images or the texts; the others are `None`.
        settings: The options. [`BetaCLIPModel.encode`] explains them.

    Returns:
        See [`BetaCLIPModel.encode`].

    Raises:
        ValueError: if there are not either images or texts, one of them cannot be read, an option is out of range, or
            there is no processor, also not beside the model.
    """
    if (images is None) == (texts is None):
        raise ValueError("exactly one of images and texts must be given")
    _check_settings(settings, model, are_images=texts is None)
    processor = _processor_for(model, settings.processor)
    embedder = Embedder(model, processor, batch_size=settings.batch_size, normalize=settings.normalize)
    with progress_bars(settings.show_progress_bar):
        if texts is None:
            is_single = _is_image(images)
            embeds_MD = _encode_images([images] if is_single else images, embedder)
        else:
            is_single = isinstance(texts, str)
            embeds_MD = embedder.texts_on_path(_checked_texts([texts] if is_single else texts), settings.path)
    embeds_MD = truncate(embeds_MD.cpu(), settings.truncate_dim, normalize=settings.normalize)
    quantized_MD = quantize(embeds_MD, settings.precision, settings.calibration_embeds)
    return quantized_MD[0] if is_single else quantized_MD


def _check_settings(settings: EncodingSettings, model: Any, *, are_images: bool) -> None:
    """Raises `ValueError` if an option is out of range, or does not fit the model or images."""
    check_precision(settings.precision)
    check_truncate_dim(settings.truncate_dim, embedding_width(model.config))
    if are_images and settings.path is not None:
        raise ValueError(f"path must be left out for images, but is {settings.path!r}")
    model.check_path(settings.path)
    if type(settings.batch_size) is not int:
        raise ValueError(f"batch_size must be a whole number, but is {settings.batch_size!r}")
    if type(settings.normalize) is not bool:
        raise ValueError(f"normalize must be True or False, but is {settings.normalize!r}")


def _processor_for(model: Any, processor: Any) -> Any:
    """Returns the processor that the caller gives, or else the one that was saved beside the model."""
    processor_class: Any = BetaSiglip2Processor if isinstance(model, BetaSiglip2Model) else BetaCLIPProcessor
    processor = processor or _saved_processor(model, processor_class)
    if not hasattr(processor, "image_processor"):
        raise ValueError(f"processor must be a {processor_class.__name__}, but is a {type(processor).__name__}")
    return processor


def _saved_processor(model: Any, processor_class: Any) -> Any:
    """Loads the processor that was saved beside a model, cut to the positions of the model."""
    name = model.name_or_path
    if not name:
        raise ValueError("processor must be given for a model that was not loaded from a directory, but is missing")
    # A model from the Hub knows its commit. The directory of a machine has none.
    revision = getattr(model.config, "_commit_hash", None)
    try:
        processor = processor_class.from_pretrained(name, revision=revision)
    except (OSError, ValueError) as error:
        raise ValueError(f"processor must be given, because none can be read from {name}") from error
    if processor_class is BetaCLIPProcessor:
        cut_to_positions(processor, model.config)
    return processor


def _is_image(images: Any) -> bool:
    """Tells a single image from several. An array of four axes holds several."""
    if isinstance(images, (np.ndarray, torch.Tensor)):
        return images.ndim < 4
    return isinstance(images, (Image.Image, str, os.PathLike, bytes, Mapping))


def _checked_texts(texts: Iterable[Any]) -> list[str]:
    """
    Returns texts as a list.

    Raises:
        ValueError: if one of them is no string.
    """
    checked = list(texts)
    for number, text in enumerate(checked):
        if not isinstance(text, str):
            raise ValueError(f"texts[{number}] must be a string, but is {text!r}")
    return checked


def _encode_images(images: Any, embedder: Embedder) -> Tensor:
    """Returns the embeddings of images, (M, D). A batch is read when it is its turn."""
    if not hasattr(images, "__getitem__"):
        images = list(images)
    embeds = [torch.zeros(0, embedding_width(embedder.model.config))]
    # The images have been read; the reader processes them as for evaluation and search.
    reader = embedder.reader([])
    with logging.tqdm(total=len(images), desc="images", unit=" images") as progress:
        for numbers in split(range(len(images)), embedder.batch_size):
            loaded = [_load(images[number], number) for number in numbers]
            # What a batch says of rows, sizes and files serves evaluation and search.
            processed = ProcessedImages(
                indices=list(numbers), rows=[], sizes=[], digests=[], inputs=reader.process(loaded)
            )
            embeds.append(embedder.encode_images(processed).image_embeds_BD.cpu())
            progress.update(len(numbers))
    return torch.cat(embeds)


def _load(image: Any, number: int) -> Any:
    """
    Reads an image as the processor does, see [`load_images`].

    Raises:
        ValueError: if it cannot be read, or it is several; the message holds its number.
    """
    try:
        loaded = load_images(image)
    except ValueError as error:
        raise ValueError(f"images[{number}]: {error}") from error
    if len(loaded) != 1:
        raise ValueError(f"images[{number}] must be a single image, but holds {len(loaded)}")
    return loaded[0]


__all__ = ["encode"]
