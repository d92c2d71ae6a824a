# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""
The processor: images, texts and boxes become the batches of β-CLIP and FG-CLIP.

It is the one owner of tokenising and padding, and of how a box follows the resize of its image.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from transformers import BatchFeature, CLIPConfig, CLIPProcessor
from transformers.utils import is_torchvision_available

from .configuration_beta_clip import (
    CLIP_TEXT_POSITIONS,
    LONG_TEXT_POSITIONS,
    TEXT_PATHS,
    Granularity,
    hub_arguments_of,
)
from .flat_texts_beta_clip import (
    IndexedTexts,
    check_kind_of_batch,
    check_one_per_image,
    clean_plain_texts,
    flat_regions,
    texts_of_hierarchies,
    texts_of_negatives,
)
from .image_loading_beta_clip import load_images
from .image_views_beta_clip import squashed, within_memory
from .remote_code_beta_clip import carrying_code, render_first_card, save_processor_with_code
from .similar_names_beta_clip import check_misspelt
from .text_layout_beta_clip import (
    TextLayout,
    check_length,
    check_names,
    check_options,
    longest_text,
    options_of_caller,
    with_text_defaults,
)


# These options decide where a pixel lands. Boxes follow the image processor, so a call with boxes may not change them.
_GEOMETRY_OPTIONS = ("do_resize", "size", "do_center_crop", "crop_size")
# What a processor may be given beside its parts.
_SETTINGS = ("max_length", "short_max_length")
# What the image processor multiplies numbers from 0 to 255 by.
_FACTOR_OF_255 = 1 / 255


class BetaCLIPProcessor(CLIPProcessor):
    r"""
    CLIP's image processor and tokenizer, and the way from captions, sentences, phrases and regions to a flat batch.

    Args:
        image_processor: CLIP's image processor (either backend).
        tokenizer: CLIP's tokenizer.
        max_length (`int`, defaults to 248): Largest number of tokens of a text. A longer text is cut and keeps its EOS.
        short_max_length (`int`, *optional*):
            Largest number of tokens on the short path of a model with two text paths (77 for FG-CLIP). In a flat batch
            captions are cut to `max_length`, all other texts to `short_max_length`. `None` for a model with one path.

    Raises:
        TypeError: if an argument is not known.
        ValueError: if a length is no integer of at least 3, or `short_max_length` is more than `max_length`.

    Example: `processor(images=[image], hierarchies=[build_text_hierarchy(caption)])` gives `pixel_values`
    `(B, 3, height, width)`, `input_ids` and `attention_mask` `(T, L)`, `image_index` and `granularity` `(T,)`.
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        max_length: int = LONG_TEXT_POSITIONS,
        short_max_length: int | None = None,
        **kwargs: Any,
    ) -> None:
        # Stock processors take any name without a word.
        check_names(kwargs, (*_SETTINGS, "chat_template"), type(self).__name__)
        super().__init__(image_processor, tokenizer, **kwargs)
        check_length(max_length, "max_length")
        check_length(short_max_length, "short_max_length")
        if short_max_length is not None and short_max_length > max_length:
            raise ValueError(f"short_max_length must be at most max_length ({max_length}), but is {short_max_length}")
        self.max_length = max_length
        self.short_max_length = short_max_length

    @classmethod
    def from_image_size(
        cls,
        tokenizer: Any,
        image_size: int = 224,
        max_length: int = LONG_TEXT_POSITIONS,
        short_max_length: int | None = None,
        squash: bool = False,
    ) -> "BetaCLIPProcessor":
        """
        Makes a processor with CLIP's normalisation and bicubic resizing.

        Args:
            tokenizer: CLIP's tokenizer.
            image_size: Side of the model's images in pixels. The shorter side of an image is resized to it, and the
                centre is cropped.
            max_length, short_max_length: As for the class.
            squash: Whether to resize both sides instead, and crop nothing, as FG-CLIP does.
        """
        # transformers advises to install torchvision as soon as the name of the class that needs it is imported.
        if is_torchvision_available():
            from transformers import CLIPImageProcessor as ImageProcessor
        else:
            from transformers import CLIPImageProcessorPil as ImageProcessor
        image_processor = ImageProcessor(
            size={"shortest_edge": image_size}, crop_size={"height": image_size, "width": image_size}
        )
        processor = cls(image_processor, tokenizer, max_length=max_length, short_max_length=short_max_length)
        return processor.squash_images() if squash else processor

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> "BetaCLIPProcessor":
        """
        Loads a processor from a directory or a Hub id, as [`~transformers.ProcessorMixin.from_pretrained`] does.

        Lengths of texts are cut to what the model beside the processor has positions for, unless they are given here.

        A checkpoint in FG-CLIP's own layout brings the files of a plain CLIP processor. Its processor also gets what
        FG-CLIP's code does beside these files: squashed images, and 77 tokens for short texts.
        """
        check_misspelt(kwargs, _SETTINGS, f"{cls.__name__}.from_pretrained")
        # Code of a stranger runs only for those who ask for it.
        kwargs.setdefault("trust_remote_code", False)
        processor = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        hub_arguments = hub_arguments_of(kwargs)
        config = _stored_config(pretrained_model_name_or_path, hub_arguments)
        if config.get("model_type") == "clip" and "FGCLIPModel" in (config.get("architectures") or ()):
            processor.squash_images()
            if processor.short_max_length is None:
                processor.short_max_length = CLIP_TEXT_POSITIONS
        elif "max_length" not in kwargs:
            processor.max_length = min(processor.max_length, longest_text(config) or processor.max_length)
        return processor

    def save_pretrained(self, *args: Any, **kwargs: Any) -> Any:
        """Saves the processor with its code, otherwise as [`~transformers.ProcessorMixin.save_pretrained`] does."""
        return save_processor_with_code(super().save_pretrained, self, *args, **kwargs)

    def push_to_hub(self, *args: Any, **kwargs: Any) -> Any:
        """
        Uploads the processor with its code, as [`~transformers.ProcessorMixin.push_to_hub`] does.

        See [`carrying_code`] for the code. A repository without a model card gets one, see [`render_first_card`].
        """
        with carrying_code({type(self): "AutoProcessor"}):
            return super().push_to_hub(*args, **kwargs)

    def _upload_modified_files(self, working_dir: Any, repo_id: str, *args: Any, **kwargs: Any) -> Any:
        # transformers calls this inside of `push_to_hub`, once the folder holds all files.
        render_first_card(working_dir, repo_id, kwargs.get("token"))
        return super()._upload_modified_files(working_dir, repo_id, *args, **kwargs)

    def squash_images(self) -> "BetaCLIPProcessor":
        """
        Makes this processor resize every image to the size that the model sees, whatever its shape, and crop nothing.

        Boxes follow. The image processor that this processor was made with is copied, not changed.

        Returns:
            This processor.

        Source: FG-CLIP (arXiv 2505.05071), whose training and examples resize to a square before anything else.
        """
        self.image_processor = squashed(self.image_processor)
        return self

    def __call__(
        self,
        images: Any = None,
        text: str | list[str] | None = None,
        hierarchies: Sequence[Any] | None = None,
        regions: Sequence[Sequence[Mapping[str, Any]]] | None = None,
        box_format: str | None = None,
        path: str | None = None,
        negatives: Sequence[Sequence[Sequence[str]]] | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        r"""
        Makes a plain CLIP batch from `images` and `text`, or a flat batch from `hierarchies`.

        A plain batch is that of `CLIPProcessor`, with texts cleaned and cut. A flat batch may also hold `images` and
        `regions`. Both read images as training does, see [`load_images`].

        Args:
            images:
                An image or a list of B images: PIL images, paths, bytes of image files, arrays or tensors. They are
                turned as their EXIF orientation says; grey of 16 bits, palettes and transparency become RGB. Floats are
                colours from 0 to 255, or, if none is above 1, from 0 to 1; without `do_rescale` they stay as they are.
            text: A text or a list of texts.
            hierarchies (`Sequence` of length B):
                For each image a caption (`str`) or an object with `caption`, `sentences`, `phrases` and optionally
                `short_caption`, such as a `TextHierarchy`.
            regions (`Sequence` of length B):
                For each image its regions, none or more: `{"box": four numbers, "text": str}` and optionally
                `"hard_texts"`, the region's true text and then its negatives.
            box_format (`str`, *optional*):
                Format of all boxes: "xyxy_pixels" (the default) or "xywh_pixels" of the image as passed, or
                "xyxy_normalized", shares of its sides.
            path (`str`, *optional*):
                Text path that `text` is cut for, in a processor with two: "short" (the default) or "long".
            negatives (`Sequence` of length B, *optional*):
                For each image a list for each of its texts, in their order in the batch: the negatives of that text,
                none or more, which are false of the image.
            kwargs:
                Options of the tokenizer and the image processor, flat or in `text_kwargs`, `images_kwargs` and
                `common_kwargs`, as transformers' processors take them. For a flat batch the tokenizer's are `padding`
                (`True` or "max_length"), `max_length`, `pad_to_multiple_of` and `return_tensors` ("pt", the default,
                "np", or `None` for lists).

        Returns:
            For hierarchies, tensors: `input_ids`, `attention_mask` `(T, L)` right-padded, `image_index`, `granularity`
            `(T,)`; per image its caption, sentences, phrases and short caption. With images also `pixel_values`
            `(B, 3, height, width)`. With regions also `boxes` `(R, 4)` float32, xyxy in shares of the sides of what
            the model sees of the image, cut at its borders (no area where nothing is seen), `region_image_index`
            `(R,)`, `region_input_ids`, `region_attention_mask` `(R, L)`, `hard_input_ids`, `hard_attention_mask`
            `(N, L)` and `hard_region_index` `(N,)`, the region of each hard text. With negatives also
            `negative_input_ids`, `negative_attention_mask` `(n, L)` and `negative_text_index` `(n,)`, the text of each
            negative. R, N and n may be 0.

        Raises:
            ValueError: if `text` and `hierarchies` are both given, there is not one hierarchy or one list of regions
                per image or one list of negatives per text, a text is empty or there is none, a box is not four numbers
                in order, an image cannot be read, an option has no meaning for a flat batch, a length cannot be, texts
                would be padded on the left, or the tokenizer ends a text without EOS.
            TypeError: if an option is not known.
        """
        check_options(kwargs, self)
        check_kind_of_batch(text=text, path=path, hierarchies=hierarchies, regions=regions, negatives=negatives)
        if images is not None:
            images = self._load_images(images, options_of_caller(kwargs, "images_kwargs"))
        if hierarchies is None:
            return self._plain_batch(images, text, path, kwargs)
        # The tokenizer's own settings are left out, so that only what the caller chose remains.
        options = self._merge_kwargs(self.valid_processor_kwargs, tokenizer_init_kwargs={}, **kwargs)
        layout = TextLayout.from_options(options["text_kwargs"], self.max_length, self.short_max_length)
        texts = texts_of_hierarchies(hierarchies)
        batch = self._text_tensors(texts, layout)
        if negatives is not None:
            batch |= self._negative_tensors(texts_of_negatives(negatives, texts.count_by_index()), texts, layout)
        if images is not None:
            check_one_per_image(hierarchies, len(images))
            batch["pixel_values"] = self._pixel_values(images, options["images_kwargs"])
        if regions is not None:
            _check_geometry(options["images_kwargs"])
            # transformers' processors have no defaults in their signature but None.
            format_of_boxes = "xyxy_pixels" if box_format is None else box_format
            batch |= self._region_tensors(images, regions, format_of_boxes, layout)
        return BatchFeature(layout.as_asked(batch))

    def _load_images(self, images: Any, options: Mapping[str, Any]) -> list[Any]:
        """
        Reads the images of a call. The options are what the caller chose of the image processor's.

        Raises:
            ValueError: if there is none, or one cannot be read.
        """
        rescale_factor = options.get("rescale_factor") or self.image_processor.rescale_factor
        do_rescale = options.get("do_rescale")
        if do_rescale is None:
            do_rescale = self.image_processor.do_rescale
        loaded = load_images(
            images,
            channels_are_inferred="input_data_format" not in options,
            # With another factor the caller says himself what his numbers mean.
            floats_are_rescaled=bool(do_rescale) and rescale_factor == _FACTOR_OF_255,
        )
        if not loaded:
            raise ValueError("images must hold at least one, but are empty")
        return loaded

    def _plain_batch(self, images: Any, text: Any, path: str | None, options: dict[str, Any]) -> BatchFeature:
        """Makes the batch of `CLIPProcessor`, with texts cleaned and cut."""
        if images is not None:
            images = within_memory(images, self.image_processor, options_of_caller(options, "images_kwargs"))
        if text is None:
            return super().__call__(images=images, **options)
        # What the caller passes wins over our limit.
        options = with_text_defaults(options, {"truncation": True, "max_length": self._length_limit(path)})
        return super().__call__(images=images, text=clean_plain_texts(text), **options)

    def _length_limit(self, path: str | None) -> int:
        """Returns the largest number of tokens of a text on a path."""
        if self.short_max_length is None:
            if path is not None:
                raise ValueError(f"path must be None for a processor with one text path, but is {path!r}")
            return self.max_length
        if path not in (None, *TEXT_PATHS):
            raise ValueError(f"path must be one of {TEXT_PATHS}, but is {path!r}")
        return self.max_length if path == "long" else self.short_max_length

    def _pixel_values(self, images: list[Any], options: Mapping[str, Any]) -> Tensor:
        """Makes the image tensor of a flat batch."""
        options = {**options, "return_tensors": "pt"}
        return self.image_processor(within_memory(images, self.image_processor, options), **options)["pixel_values"]

    def _text_tensors(self, texts: IndexedTexts, layout: TextLayout) -> dict[str, Tensor]:
        """Makes the text tensors of a flat batch."""
        input_ids, attention_mask = self._tokens(texts.texts, layout.length_limits(texts.granularity), layout)
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "image_index": torch.tensor(texts.index, dtype=torch.int64),
            "granularity": torch.tensor(texts.granularity, dtype=torch.int64),
        }

    def _negative_tensors(self, negatives: IndexedTexts, texts: IndexedTexts, layout: TextLayout) -> dict[str, Tensor]:
        """Makes the tensors of the negatives of a flat batch's texts."""
        # A negative takes the path of its text.
        limits = layout.length_limits([texts.granularity[index] for index in negatives.index])
        input_ids, attention_mask = self._tokens(negatives.texts, limits, layout)
        return {
            "negative_input_ids": input_ids,
            "negative_attention_mask": attention_mask,
            "negative_text_index": torch.tensor(negatives.index, dtype=torch.int64),
        }

    def _region_tensors(
        self, images: list[Any] | None, regions: Any, box_format: str, layout: TextLayout
    ) -> dict[str, Tensor]:
        """Makes the region tensors of a flat batch."""
        flat = flat_regions(regions, images or [], box_format, self.image_processor)
        # All texts of regions take the short path.
        region_limits = layout.length_limits([Granularity.PHRASE] * len(flat.texts.texts))
        hard_limits = layout.length_limits([Granularity.PHRASE] * len(flat.hard_texts.texts))
        region_ids, region_mask = self._tokens(flat.texts.texts, region_limits, layout)
        hard_ids, hard_mask = self._tokens(flat.hard_texts.texts, hard_limits, layout)
        return {
            "boxes": torch.tensor(flat.boxes, dtype=torch.float32).reshape(-1, 4),
            "region_image_index": torch.tensor(flat.texts.index, dtype=torch.int64),
            "region_input_ids": region_ids,
            "region_attention_mask": region_mask,
            "hard_input_ids": hard_ids,
            "hard_attention_mask": hard_mask,
            "hard_region_index": torch.tensor(flat.hard_texts.index, dtype=torch.int64),
        }

    def _tokens(self, texts: Sequence[str], limits: Sequence[int], layout: TextLayout) -> tuple[Tensor, Tensor]:
        """
        Tokenises texts, and pads them on the right.

        Args:
            texts: T cleaned texts.
            limits: The largest number of tokens of each.
            layout: Says how wide the tensors are.

        Returns:
            Ids and attention mask, both `(T, L)` int64; `(0, 1)` without texts.
        """
        token_ids: list[list[int]] = [[] for _ in texts]
        # The tokenizer takes one limit per call.
        for limit in set(limits):
            positions = [position for position, text_limit in enumerate(limits) if text_limit == limit]
            # Padding is done below: the tokenizer would turn it into Python numbers, and these back into a tensor.
            encoded = self.tokenizer([texts[position] for position in positions], truncation=True, max_length=limit)
            for position, ids in zip(positions, encoded["input_ids"], strict=True):
                token_ids[position] = ids
        # The model reads a text at its EOS. A text without one would give a wrong embedding, and no error.
        if not all(self.tokenizer.eos_token_id in ids for ids in token_ids):
            raise ValueError(f"the tokenizer must end every text with {self.tokenizer.eos_token!r}, but does not")

        lengths_T = torch.tensor([len(ids) for ids in token_ids], dtype=torch.int64)
        width = layout.width(max(map(len, token_ids), default=1), max(limits, default=1))
        is_token_TL = torch.arange(width) < lengths_T[:, None]
        input_ids_TL = torch.full(is_token_TL.shape, self.tokenizer.pad_token_id or 0, dtype=torch.int64)
        # A mask selects row by row, in the order of the flat list.
        input_ids_TL[is_token_TL] = torch.tensor(list(chain.from_iterable(token_ids)), dtype=torch.int64)
        return input_ids_TL, is_token_TL.to(torch.int64)


def _check_geometry(options: Mapping[str, Any]) -> None:
    """Raises `ValueError` if a call with boxes changes where the image processor puts a pixel."""
    for option in _GEOMETRY_OPTIONS:
        if option in options:
            raise ValueError(f"{option} must be the image processor's own where boxes follow it, but is given")


def _stored_config(name_or_path: Any, hub_arguments: dict[str, Any]) -> dict[str, Any]:
    """Returns the config of the model beside a processor; an empty one if there is no model."""
    try:
        return CLIPConfig.get_config_dict(name_or_path, **hub_arguments)[0]
    except OSError:
        return {}


__all__ = ["BetaCLIPProcessor"]
