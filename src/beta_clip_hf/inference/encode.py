"""Encodes images or texts in one call: what `model.encode(…)` does."""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers.utils import logging

from ..model.configuration_beta_siglip2 import SIGLIP_TEXT_PATHS
from ..model.encoding_beta_clip import EncodingSettings
from ..model.image_loading_beta_clip import load_images
from ..model.image_views_beta_clip import within_memory
from ..model.modeling_beta_siglip2 import BetaSiglip2Model
from ..model.processing_beta_clip import BetaCLIPProcessor
from ..model.processing_beta_siglip2 import BetaSiglip2Processor, process_by_budget
from .embedder import Embedder, embedding_width
from .models import cut_to_positions
from .quantization import check_precision, check_truncate_dim, quantize, truncate
from .reading import ProcessedImages
from .shards import split


def encode(model: Any, images: Any, texts: Any, settings: EncodingSettings) -> Tensor:
    """
    Encodes images or texts with the [`Embedder`] of evaluation and search.

    Args:
        model: A `BetaCLIPModel` or a `BetaSiglip2Model`.
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
    check_precision(settings.precision)
    check_truncate_dim(settings.truncate_dim, embedding_width(model.config))
    if texts is None and settings.path is not None:
        raise ValueError(f"path must be left out for images, but is {settings.path!r}")
    path = _checked_path(model, settings.path)
    processor = settings.processor or _processor_of(model)
    if not hasattr(processor, "image_processor"):
        expected = _processor_class(model).__name__
        raise ValueError(f"processor must be a {expected}, but is a {type(processor).__name__}")
    if type(settings.batch_size) is not int:
        raise ValueError(f"batch_size must be a whole number, but is {settings.batch_size!r}")
    if type(settings.normalize) is not bool:
        raise ValueError(f"normalize must be True or False, but is {settings.normalize!r}")
    embedder = Embedder(model, processor, batch_size=settings.batch_size, normalize=settings.normalize)
    with _progress_bars(settings.show_progress_bar):
        if texts is None:
            is_single = _is_image(images)
            embeds_MD = _encode_images([images] if is_single else images, embedder)
        else:
            is_single = isinstance(texts, str)
            embeds_MD = embedder.texts(_checked_texts([texts] if is_single else texts), path=path)
    embeds_MD = truncate(embeds_MD.cpu(), settings.truncate_dim, normalize=settings.normalize)
    quantized_MD = quantize(embeds_MD, settings.precision, settings.calibration_embeds)
    return quantized_MD[0] if is_single else quantized_MD


def _checked_path(model: Any, path: str | None) -> str | None:
    """
    Returns the text path under which an [`Embedder`] knows it; `None` is the usual one.

    Raises:
        ValueError: if the model does not have the path.
    """
    if not isinstance(model, BetaSiglip2Model):
        return "long" if model.is_long_path(path) else None
    if path not in (None, *SIGLIP_TEXT_PATHS):
        raise ValueError(f"path must be one of {SIGLIP_TEXT_PATHS} or None, but is {path!r}")
    return path


def _processor_class(model: Any) -> Any:
    """Returns the class of the processor of a model."""
    return BetaSiglip2Processor if isinstance(model, BetaSiglip2Model) else BetaCLIPProcessor


def _processor_of(model: Any) -> Any:
    """Loads the processor that was saved beside a model, cut to the positions of the model."""
    name = model.name_or_path
    if not name:
        raise ValueError("processor must be given for a model that was not loaded from a directory, but is missing")
    # A model from the Hub knows its commit. The directory of a machine has none.
    revision = getattr(model.config, "_commit_hash", None)
    try:
        processor = _processor_class(model).from_pretrained(name, revision=revision)
    except (OSError, ValueError) as error:
        raise ValueError(f"processor must be given, because none can be read from {name}") from error
    if isinstance(processor, BetaCLIPProcessor):
        cut_to_positions(processor, model.config)
    return processor


def _is_image(images: Any) -> bool:
    """Tells a single image from several. An array of four axes holds several."""
    if isinstance(images, (np.ndarray, torch.Tensor)):
        return images.ndim < 4
    return isinstance(images, (Image.Image, str, os.PathLike, bytes, Mapping))


def _checked_texts(texts: Iterable[Any]) -> list[str]:
    """Returns texts as a list.

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
    with logging.tqdm(total=len(images), desc="images", unit=" images") as progress:
        for numbers in split(range(len(images)), embedder.batch_size):
            loaded = [_load(images[number], number) for number in numbers]
            if embedder.by_budget:
                inputs = process_by_budget(loaded, embedder.image_processor)
            else:
                loaded = within_memory(loaded, embedder.image_processor)
                inputs = dict(embedder.image_processor(loaded, return_tensors="pt"))
            # What a batch says of rows, sizes and files serves evaluation and search.
            processed = ProcessedImages(indices=list(numbers), rows=[], sizes=[], digests=[], inputs=inputs)
            embeds.append(embedder.encode_images(processed).image_embeds_BD.cpu())
            progress.update(len(numbers))
    return torch.cat(embeds)


def _load(image: Any, number: int) -> Any:
    """Reads an image as the processor does, see [`load_images`].

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


@contextmanager
def _progress_bars(are_shown: bool) -> Iterator[None]:
    """Shows the progress bars of transformers or hides them, and leaves the setting as it was."""
    were_shown = logging.is_progress_bar_enabled()
    _set_progress_bars(are_shown)
    try:
        yield
    finally:
        _set_progress_bars(were_shown)


def _set_progress_bars(are_shown: bool) -> None:
    if are_shown:
        logging.enable_progress_bar()
    else:
        logging.disable_progress_bar()


__all__ = ["encode"]
