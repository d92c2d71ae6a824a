# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""The processor of FG-CLIP 2 and SigLIP 2: images of any grid, and texts padded to all positions of their path."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, BatchFeature, Siglip2Processor
from transformers.utils import is_torchvision_available

from .checkpoints_beta_siglip2 import FG_CLIP2, fg_clip2_image_options, fg_clip2_text_lengths, read_json
from .configuration_beta_clip import Granularity, hub_arguments_of
from .configuration_beta_siglip2 import (
    DEFAULT_TEXT_PATHS,
    LONG_SIGLIP_TEXT_POSITIONS,
    SIGLIP_TEXT_PATHS,
    SIGLIP_TEXT_POSITIONS,
    BetaSiglip2Config,
)
from .flat_texts_beta_clip import (
    check_kind_of_batch,
    check_one_per_image,
    flat_regions,
    texts_of_hierarchies,
    texts_of_negatives,
)
from .image_loading_beta_clip import load_images
from .image_views_beta_clip import check_patch_budget, has_any_grid, within_memory
from .patch_budgets_beta_siglip2 import budget_of_image
from .path_tokenizer_beta_siglip2 import path_tokenizer
from .remote_code_beta_clip import carrying_code, save_processor_with_code
from .similar_names_beta_clip import check_misspelt
from .text_layout_beta_clip import (
    OPTIONS_BY_PART,
    check_given_once,
    check_length,
    check_names,
    check_option_names,
    options_of_caller,
)


# The smallest limit that leaves a text a token before its end.
_SHORTEST_TEXT = 2
# What a processor may be given beside its parts.
_SETTINGS = ("max_length", "long_max_length", "dynamic_max_patches", "text_path_of_kind")


class BetaSiglip2Processor(Siglip2Processor):
    r"""
    SigLIP 2's image processor and tokenizer, with the text paths and the budgets of patches of FG-CLIP 2.

    Args:
        image_processor: SigLIP 2's image processor (either backend), or SigLIP's of a fixed resolution.
        tokenizer: The tokenizer of the checkpoint, which becomes [`path_tokenizer`].
        max_length (`int`, defaults to 64): Positions of the short and the box path.
        long_max_length (`int`, defaults to 196): Positions of the long path.
        dynamic_max_patches (`bool`, defaults to `False`):
            Whether a batch takes as many patches as its largest image needs, see [`patch_budget`], as FG-CLIP 2 does.
            SigLIP 2 takes 256 for all images.
        text_path_of_kind (`Sequence[str]`, *optional*):
            The text path of captions, sentences, phrases and short captions in a flat batch, as the model takes them,
            see [`BetaSiglip2Config`]. By default "long", "short", "box" and "short".

    Raises:
        TypeError: If an argument is not known.
        ValueError: If a length is no integer of at least 2, or a text path is unknown.

    Example: `processor(images=[image], text=["a dog"])` gives `pixel_values` (B, P, 3 · patch²), `pixel_attention_mask`
    (B, P), `spatial_shapes` (B, 2) and `input_ids` (T, 64).
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        max_length: int = SIGLIP_TEXT_POSITIONS,
        long_max_length: int = LONG_SIGLIP_TEXT_POSITIONS,
        dynamic_max_patches: bool = False,
        text_path_of_kind: Sequence[str] = DEFAULT_TEXT_PATHS,
        **kwargs: Any,
    ) -> None:
        # Stock processors take any name without a word.
        check_names(kwargs, (*_SETTINGS, "chat_template"), type(self).__name__)
        super().__init__(image_processor, path_tokenizer(tokenizer), **kwargs)
        check_length(max_length, "max_length", _SHORTEST_TEXT)
        check_length(long_max_length, "long_max_length", _SHORTEST_TEXT)
        self.text_path_of_kind = list(text_path_of_kind)
        if len(self.text_path_of_kind) != len(Granularity) or not set(self.text_path_of_kind) <= {*SIGLIP_TEXT_PATHS}:
            raise ValueError(
                f"text_path_of_kind must be {len(Granularity)} of {SIGLIP_TEXT_PATHS}, but is {text_path_of_kind!r}"
            )
        self.max_length = max_length
        self.long_max_length = long_max_length
        if dynamic_max_patches and not has_any_grid(image_processor):
            raise ValueError("dynamic_max_patches must be False for an image processor of one size, but is True")
        self.dynamic_max_patches = dynamic_max_patches

    @classmethod
    def from_patch_size(cls, tokenizer: Any, patch_size: int = 16, **settings: Any) -> "BetaSiglip2Processor":
        """
        Makes a processor of images of any grid, with SigLIP 2's normalisation.

        Args:
            tokenizer: The tokenizer.
            patch_size: The side of a patch in pixels.
            settings: Other arguments of the class, and "max_num_patches", the patches that an image may have.
        """
        options = {"patch_size": patch_size}
        if "max_num_patches" in settings:
            options["max_num_patches"] = settings.pop("max_num_patches")
        return cls(_image_processor(options), tokenizer, **settings)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> "BetaSiglip2Processor":
        """
        Loads a processor from a directory or a Hub id, as [`~transformers.ProcessorMixin.from_pretrained`] does.

        A checkpoint in FG-CLIP 2's own layout names image processor code of its own. Its options are taken for SigLIP
        2's image processor, which makes the same pixels, and budgets are dynamic. Lengths of texts are those of the
        model beside the processor, unless they are given here or stored.
        """
        check_misspelt(kwargs, _SETTINGS, f"{cls.__name__}.from_pretrained")
        hub_arguments = hub_arguments_of(kwargs)
        source = pretrained_model_name_or_path
        config = read_json(source, "config.json", hub_arguments)
        if config.get("model_type") == FG_CLIP2:
            stored_options = read_json(source, "preprocessor_config.json", hub_arguments)
            image_processor = _image_processor(fg_clip2_image_options(stored_options, config))
            tokenizer = AutoTokenizer.from_pretrained(source, **{"trust_remote_code": False, **hub_arguments})
            given_settings = {name: kwargs[name] for name in _SETTINGS if name in kwargs}
            settings = {"dynamic_max_patches": True, **fg_clip2_text_lengths(config), **given_settings}
            return cls(image_processor, tokenizer, **settings)
        # Code of a stranger runs only for those who ask for it.
        kwargs.setdefault("trust_remote_code", False)
        processor = super().from_pretrained(source, **kwargs)
        # That of a stock SigLIP 2 does not say how many positions the model has.
        positions = (config.get("text_config") or {}).get("max_position_embeddings")
        if positions and config.get("model_type") != BetaSiglip2Config.model_type and "max_length" not in kwargs:
            processor.max_length = positions
        return processor

    def push_to_hub(self, *args: Any, **kwargs: Any) -> Any:
        """Uploads the processor with its code, as [`BetaCLIPProcessor.push_to_hub`] does."""
        with carrying_code({type(self): "AutoProcessor"}):
            return super().push_to_hub(*args, **kwargs)

    def save_pretrained(self, *args: Any, **kwargs: Any) -> Any:
        """Saves the processor with its code, otherwise as [`~transformers.ProcessorMixin.save_pretrained`] does."""
        return save_processor_with_code(super().save_pretrained, self, *args, **kwargs)

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        hierarchies: Sequence[Any] | None = None,
        regions: Sequence[Sequence[Mapping[str, Any]]] | None = None,
        box_format: str | None = None,
        path: str | None = None,
        negatives: Sequence[Sequence[Sequence[str]]] | None = None,
        max_num_patches: int | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        r"""
        Makes the inputs of a [`BetaSiglip2Model`]: a plain batch from `images` and `text`, or a flat batch from
        `hierarchies`, which may also hold `images` and `regions`.

        Args:
            images: An image or a list of B images: PIL images, paths, bytes of image files, arrays or tensors.
            text: A text or a list of T texts that take the same path. They become lower case.
            path (`"short" | "long" | "box"`, defaults to "short"): The path of `text`.
            hierarchies, regions, box_format, negatives: As for [`BetaCLIPProcessor`].
            max_num_patches (`int`, *optional*):
                The patches that an image may have. By default the batch's budget with `dynamic_max_patches`, otherwise
                the image processor's own.
            kwargs: Options of the image processor, flat or in `images_kwargs` and `common_kwargs`. `return_tensors` is
                "pt", the only kind. Of the tokenizer's, `padding` and `truncation` are taken and not used, and
                `max_length` may be the positions of the path: every text fills its path.

        Returns:
            `input_ids` (T, L), L being all positions of the path; `pixel_values`, `pixel_attention_mask` and
            `spatial_shapes`, or `pixel_values` (B, 3, height, width) of a fixed resolution. For hierarchies L is all
            positions of the longest path, and there are the tensors of [`BetaCLIPProcessor`] but for masks of texts;
            texts of regions, and hard texts, have the positions of the box path.

        Raises:
            ValueError: If there are neither images nor texts, or none in a list, the path is unknown, a text is no
                string, an image cannot be read, an option has no meaning for these texts, or hierarchies, regions and
                negatives do not fit the images and one another.
            TypeError: If an option is not known.
        """
        if images is None and text is None and hierarchies is None:
            raise ValueError("at least one of images and text must be given, but neither is")
        check_kind_of_batch(text=text, path=path, hierarchies=hierarchies, regions=regions, negatives=negatives)
        # Texts of hierarchies fill several paths.
        length_of_texts = self.text_positions(path or "short") if hierarchies is None else None
        images_options = self._images_options(kwargs, length_of_texts)
        batch: dict[str, Any] = {}
        if images is not None:
            images = load_images(images)
            if not images:
                raise ValueError("images must hold at least one, but are empty")
        if hierarchies is not None:
            batch |= self._flat_texts(hierarchies, negatives)
            if images is not None:
                check_one_per_image(hierarchies, len(images))
        elif text is not None:
            texts = [text] if isinstance(text, str) else text
            if len(texts) == 0:
                raise ValueError("text must hold at least one, but is empty")
            batch["input_ids"] = self.tokenize(texts, path or "short")
        if regions is not None:
            # transformers' processors have no defaults in their signature but None.
            batch |= self._regions(images or [], regions, box_format or "xyxy_pixels")
        if images is not None:
            if max_num_patches is None and self.dynamic_max_patches:
                max_num_patches = self.patch_budget(images)
            batch |= self._image_tensors(images, max_num_patches, images_options)
        return BatchFeature(batch)

    def _image_tensors(self, images: list[Any], max_num_patches: int | None, options: dict[str, Any]) -> dict[str, Any]:
        """Makes the tensors of the images of a batch."""
        if max_num_patches is not None:
            check_patch_budget(max_num_patches, self.image_processor)
            options = {**options, "max_num_patches": max_num_patches}
        return dict(self.image_processor(within_memory(images, self.image_processor, options), **options))

    def _images_options(self, kwargs: dict[str, Any], length_of_texts: int | None) -> dict[str, Any]:
        """Returns the image processor's options of a call, and checks all of them."""
        check_option_names(kwargs, self)
        check_given_once(kwargs)
        options = options_of_caller(kwargs, "text_kwargs") | options_of_caller(kwargs, "images_kwargs")
        for name in (*OPTIONS_BY_PART, "common_kwargs", "padding", "truncation"):
            options.pop(name, None)
        return_tensors = options.setdefault("return_tensors", "pt")
        if return_tensors != "pt":
            raise ValueError(f'return_tensors must be "pt", but is {return_tensors!r}')
        max_length = options.pop("max_length", None)
        if max_length not in (None, length_of_texts):
            allowed = "left out" if length_of_texts is None else f"left out or {length_of_texts}"
            raise ValueError(f"max_length must be {allowed}, because every text fills its path, but is {max_length!r}")
        known = getattr(self.image_processor.valid_kwargs, "__annotations__", {})
        for name in options:
            if name not in known:
                raise ValueError(f"{name} must be left out, because every text fills its path, but is given")
        return options

    def _flat_texts(self, hierarchies: Any, negatives: Any) -> dict[str, Tensor]:
        """Makes the text tensors of a flat batch."""
        texts = texts_of_hierarchies(hierarchies)
        batch = {
            "input_ids": self._tokens_of_kinds(texts.texts, texts.granularity),
            "image_index": torch.tensor(texts.index, dtype=torch.int64),
            "granularity": torch.tensor(texts.granularity, dtype=torch.int64),
        }
        if negatives is not None:
            false_texts = texts_of_negatives(negatives, texts.count_by_index())
            # A negative takes the path of its text.
            kinds = [texts.granularity[index] for index in false_texts.index]
            batch["negative_input_ids"] = self._tokens_of_kinds(false_texts.texts, kinds)
            batch["negative_text_index"] = torch.tensor(false_texts.index, dtype=torch.int64)
        return batch

    def _tokens_of_kinds(self, texts: Sequence[str], kinds: Sequence[int]) -> Tensor:
        """Turns texts of some kinds into ids `(T, L)`, each cut to its path, and padded to the longest path."""
        width = max(self.text_positions(path) for path in self.text_path_of_kind)
        ids_TL = torch.full((len(texts), width), self.tokenizer.pad_token_id)
        paths = [self.text_path_of_kind[kind] for kind in kinds]
        for path in set(paths):
            places = [place for place, path_of_text in enumerate(paths) if path_of_text == path]
            ids_TL[places, : self.text_positions(path)] = self.tokenize([texts[place] for place in places], path)
        return ids_TL

    def _regions(self, images: list[Any], regions: Any, box_format: str) -> dict[str, Tensor]:
        """Makes the region tensors of a flat batch."""
        flat = flat_regions(regions, images, box_format, self.image_processor)
        return {
            "boxes": torch.tensor(flat.boxes, dtype=torch.float32).reshape(-1, 4),
            "region_image_index": torch.tensor(flat.texts.index, dtype=torch.int64),
            "region_input_ids": self.tokenize(flat.texts.texts, "box"),
            "hard_input_ids": self.tokenize(flat.hard_texts.texts, "box"),
            "hard_region_index": torch.tensor(flat.hard_texts.index, dtype=torch.int64),
        }

    def text_positions(self, path: str) -> int:
        """Returns the number of positions of a text path."""
        return self.long_max_length if path == "long" else self.max_length

    def tokenize(self, texts: Sequence[str], path: str = "short") -> Tensor:
        """
        Turns texts into ids: lower-case words, the end token, and padding on the right to all positions of the path.

        Args:
            texts: T texts. One that is too long is cut, and keeps its end token.
            path (`"short" | "long" | "box"`): The path of the texts.

        Returns:
            `(T, L)` int64.

        Raises:
            ValueError: If the path is unknown, or a text is no string.
        """
        if path not in SIGLIP_TEXT_PATHS:
            raise ValueError(f"path must be one of {SIGLIP_TEXT_PATHS}, but is {path!r}")
        for number, text in enumerate(texts):
            if not isinstance(text, str):
                raise ValueError(f"text[{number}] must be a string, but is {text!r}")
        length = self.text_positions(path)
        ids_TL = torch.full((len(texts), length), self.tokenizer.pad_token_id)
        if len(texts) == 0:
            return ids_TL
        lowered = [text.lower() for text in texts]
        # Without special tokens: tokenizer files differ in which they add.
        words = self.tokenizer(lowered, add_special_tokens=False, padding=False, truncation=False)["input_ids"]
        for row, word_ids in zip(ids_TL, words, strict=True):
            kept = [*word_ids[: length - 1], self.tokenizer.eos_token_id]
            row[: len(kept)] = torch.tensor(kept)
        return ids_TL

    def patch_budget(self, images: Sequence[Any]) -> int:
        """
        Returns the number of patches that a batch takes: the largest budget of its images, see [`patch_budget`].

        Args:
            images: PIL images, or arrays or tensors of one image each.
        """
        patch_size = self.image_processor.patch_size
        return max(budget_of_image(image, patch_size) for image in images)


def _image_processor(options: dict[str, Any]) -> Any:
    """Makes SigLIP 2's image processor."""
    # transformers advises to install torchvision as soon as the name of the class that needs it is imported.
    if is_torchvision_available():
        from transformers import Siglip2ImageProcessor as ImageProcessor
    else:
        from transformers import Siglip2ImageProcessorPil as ImageProcessor
    return ImageProcessor(**options)


__all__ = ["BetaSiglip2Processor"]
