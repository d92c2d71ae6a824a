"""Images, texts and boxes to the flat batches of β-CLIP and FG-CLIP; the one owner of text cleaning, tokenising and
padding, and of how a box follows the resize of its image.

Letters: B images, T texts (flat), R regions (flat), N true and negative texts of regions (flat), L tokens, S pixels.
"""

import copy
import html
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from transformers import BatchFeature, CLIPConfig, CLIPProcessor
from transformers.image_utils import get_image_size, is_pil_image, make_flat_list_of_images
from transformers.utils import is_torchvision_available

from .boxes_beta_clip import Box, box_in_view, cut_box, pixel_box, seen_size, view_of_image
from .configuration_beta_clip import CLIP_TEXT_POSITIONS, HUB_ARGUMENTS, LONG_TEXT_POSITIONS, TEXT_PATHS, Granularity
from .remote_code_beta_clip import carrying_code, render_first_card


# What decides where a pixel lands: a call with boxes takes these from the image processor alone.
_GEOMETRY = ("do_resize", "size", "do_center_crop", "crop_size")
# Boxes written with few digits may end a little beyond the image.
_NORMALIZED_TOLERANCE = 0.01


def clean_text(text: str) -> str:
    """
    Cleans a text as OpenAI's tokenizer does: ftfy (curly quotes, mojibake), HTML entities twice, outer white space.

    White space inside and letter case are the tokenizer's own business.

    Raises:
        ImportError: if the text is not ASCII and ftfy is not installed.

    >>> clean_text(" a man &amp;amp; his dog ")
    'a man & his dog'
    """
    # ftfy leaves printable ASCII as it is, and costs more than tokenising.
    if not (text.isascii() and text.isprintable()):
        try:
            import ftfy
        except ImportError as error:
            raise ImportError("Cleaning a text that is not plain ASCII needs ftfy: pip install ftfy") from error
        text = ftfy.fix_text(text)
    return html.unescape(html.unescape(text)).strip()


class BetaCLIPProcessor(CLIPProcessor):
    r"""
    CLIP's image processor and tokenizer, and the way from captions, sentences, phrases and regions to a flat batch.

    Args:
        image_processor: CLIP's image processor (either backend).
        tokenizer: CLIP's tokenizer.
        max_length (`int`, defaults to 248): tokens per text at most; a longer text is cut and keeps its EOS.
        short_max_length (`int`, *optional*):
            Tokens at most of a text on the short path of a model with two text paths (77 for FG-CLIP). In a flat batch
            captions are cut to `max_length`, all other texts to this. `None` for a model with one path.

    Raises:
        ValueError: if `short_max_length` is more than `max_length`.

    Example: `processor(images=[image], hierarchies=[build_text_hierarchy(caption)])` gives `pixel_values`
    `(B, 3, S, S)`, `input_ids` and `attention_mask` `(T, L)`, `image_index` and `granularity` `(T,)`.
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        max_length: int = LONG_TEXT_POSITIONS,
        short_max_length: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_processor, tokenizer, **kwargs)
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
        A processor with CLIP's normalisation and bicubic resizing at `image_size` pixels: of the shorter side, and a
        centre crop; with `squash`, of both sides, as in FG-CLIP.
        """
        # One of the two is imported: the name of the other makes transformers advise to install torchvision.
        if is_torchvision_available():
            from transformers import CLIPImageProcessor as ImageProcessor
        else:
            from transformers import CLIPImageProcessorPil as ImageProcessor
        size = {"size": {"shortest_edge": image_size}, "crop_size": {"height": image_size, "width": image_size}}
        processor = cls(ImageProcessor(**size), tokenizer, max_length=max_length, short_max_length=short_max_length)
        return processor.squash_images() if squash else processor

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> "BetaCLIPProcessor":
        """
        As `CLIPProcessor.from_pretrained`, from a directory or a Hub id. A checkpoint in FG-CLIP's own layout brings
        the files of a plain CLIP processor: it gets what FG-CLIP's code does beside them, squashed images and short
        texts of 77 tokens.
        """
        processor = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        hub = {name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs}
        if _is_fg_clip(pretrained_model_name_or_path, hub):
            processor.squash_images()
            if processor.short_max_length is None:
                processor.short_max_length = CLIP_TEXT_POSITIONS
        return processor

    def push_to_hub(self, *args: Any, **kwargs: Any) -> Any:
        """
        As [`~transformers.ProcessorMixin.push_to_hub`]; the code goes along, see [`carrying_code`], and a card where
        the repository has none, see [`render_first_card`].
        """
        with carrying_code({type(self): "AutoProcessor"}):
            return super().push_to_hub(*args, **kwargs)

    def _upload_modified_files(self, working_dir: Any, repo_id: str, *args: Any, **kwargs: Any) -> Any:
        render_first_card(working_dir, repo_id, kwargs.get("token"))
        return super()._upload_modified_files(working_dir, repo_id, *args, **kwargs)

    def squash_images(self) -> "BetaCLIPProcessor":
        """
        From now on squashes every image to the size that the model sees, whatever its shape, and crops nothing. Boxes
        follow. Returns this processor; the image processor that it was made with is left as it is.

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
        box_format: str = "xyxy_pixels",
        path: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        r"""
        A plain CLIP batch from `images` and `text` (as `CLIPProcessor`, with texts cleaned and cut), or a flat batch
        from `hierarchies` and, optionally, `images` and `regions`.

        Args:
            images: an image or a list of B images.
            text: a text or a list of texts.
            hierarchies (`Sequence` of length B):
                Per image a caption (`str`) or an object with `caption`, `sentences`, `phrases` and optionally
                `short_caption`, such as a `TextHierarchy`.
            regions (`Sequence` of length B):
                Per image its regions, none or more: `{"box": four numbers, "text": str}` and optionally `"hard_texts"`,
                the region's true text and then its negatives.
            box_format (`str`, defaults to `"xyxy_pixels"`):
                Unit of all boxes: "xyxy_pixels" or "xywh_pixels" of the image as given, or "xyxy_normalized", shares of
                its sides.
            path (`str`, *optional*):
                With two text paths, which one `text` is cut for: "short" (the default) or "long".

        Returns:
            For hierarchies, tensors: `input_ids`, `attention_mask` `(T, L)` right-padded, `image_index`, `granularity`
            `(T,)`; per image its caption, sentences, phrases and short caption. With images also `pixel_values`
            `(B, 3, S, S)`. With regions also `boxes` `(R, 4)` float32, xyxy in units of the sides of what the model
            sees of the image, cut at its borders (no area where nothing is seen), `region_image_index` `(R,)`,
            `region_input_ids`, `region_attention_mask` `(R, L)`, `hard_input_ids`, `hard_attention_mask` `(N, L)` and
            `hard_region_index` `(N,)`, the region of each; R and N may be 0.

        Raises:
            ValueError: if `text` and `hierarchies` are both given, there is not one hierarchy or one list of regions
                per image, a text is empty or there is none, a box is not four numbers in order, or the tokenizer ends a
                text without EOS.
        """
        if hierarchies is None:
            if regions is not None:
                raise ValueError("regions must come with hierarchies, but there are none")
            if text is not None:
                text = clean_text(text) if isinstance(text, str) else [clean_text(one) for one in text]
                kwargs = {"truncation": True, "max_length": self._path_length(path), **kwargs}
            return super().__call__(images=images, text=text, **kwargs)

        if text is not None:
            raise ValueError("only one of text and hierarchies must be given, but both are")
        if path is not None:
            raise ValueError(f"path must be None with hierarchies, whose texts have a path each, but is {path!r}")
        batch = self._flat_texts(hierarchies)
        if images is not None:
            pixel_values = self.image_processor(images, return_tensors="pt", **kwargs)["pixel_values"]
            if len(pixel_values) != len(hierarchies):
                raise ValueError(
                    f"hierarchies must be one per image, but are {len(hierarchies)} for {len(pixel_values)} images"
                )
            batch["pixel_values"] = pixel_values
        if regions is not None:
            changed = [name for name in _GEOMETRY if name in kwargs]
            if changed:
                raise ValueError(f"{changed[0]} must be the image processor's own where boxes follow it, but is given")
            batch.update(self._flat_regions(images, regions, box_format))
        return batch

    def _path_length(self, path: str | None) -> int:
        if self.short_max_length is None:
            if path is not None:
                raise ValueError(f"path must be None for a processor with one text path, but is {path!r}")
            return self.max_length
        if path not in (None, *TEXT_PATHS):
            raise ValueError(f"path must be one of {TEXT_PATHS}, but is {path!r}")
        return self.max_length if path == "long" else self.short_max_length

    def _flat_texts(self, hierarchies: Sequence[Any]) -> BatchFeature:
        texts: list[str] = []
        image_index: list[int] = []
        granularity: list[int] = []
        for image, hierarchy in enumerate(hierarchies):
            for kind, kind_texts in _texts_by_granularity(hierarchy):
                for one in map(clean_text, kind_texts):
                    if not one:
                        raise ValueError(f"a text must not be empty, but a {kind.name.lower()} of image {image} is")
                    texts.append(one)
                    image_index.append(image)
                    granularity.append(kind)
        if not texts:
            raise ValueError("hierarchies must hold at least one, but are empty")
        # Of a model with two text paths only the caption takes the long one.
        short = self.short_max_length or self.max_length
        limits = [self.max_length if kind == Granularity.CAPTION else short for kind in granularity]
        input_ids, attention_mask = self._tokens(texts, limits)
        return BatchFeature(
            {
                "input_ids": input_ids,
                "attention_mask": attention_mask,
                "image_index": torch.tensor(image_index, dtype=torch.int64),
                "granularity": torch.tensor(granularity, dtype=torch.int64),
            }
        )

    def _flat_regions(
        self, images: Any, regions: Sequence[Sequence[Mapping[str, Any]]], box_format: str
    ) -> dict[str, Tensor]:
        sizes = [] if images is None else list(map(_width_and_height, make_flat_list_of_images(images)))
        if len(regions) != len(sizes):
            raise ValueError(f"regions must be a list per image, but are {len(regions)} for {len(sizes)} images")
        boxes: list[Box] = []
        image_index: list[int] = []
        texts: list[str] = []
        hard_texts: list[str] = []
        hard_index: list[int] = []
        for image, (size, of_image) in enumerate(zip(sizes, regions, strict=True)):
            view = view_of_image(size, self.image_processor)
            for place, region in enumerate(of_image):
                name = f"regions[{image}][{place}]"
                hard = region.get("hard_texts") or ()
                hard_texts += [_clean(one, f"{name}.hard_texts") for one in hard]
                hard_index += [len(boxes)] * len(hard)
                texts.append(_clean(region.get("text"), f"{name}.text"))
                box = _checked_pixel_box(region.get("box"), box_format, size, f"{name}.box")
                boxes.append(cut_box(box_in_view(box, view)))
                image_index.append(image)
        short = self.short_max_length or self.max_length
        region_ids, region_mask = self._tokens(texts, [short] * len(texts))
        hard_ids, hard_mask = self._tokens(hard_texts, [short] * len(hard_texts))
        return {
            "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            "region_image_index": torch.tensor(image_index, dtype=torch.int64),
            "region_input_ids": region_ids,
            "region_attention_mask": region_mask,
            "hard_input_ids": hard_ids,
            "hard_attention_mask": hard_mask,
            "hard_region_index": torch.tensor(hard_index, dtype=torch.int64),
        }

    def _tokens(self, texts: Sequence[str], limits: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Ids and mask `(T, L)`, right-padded, of texts that have at most so many tokens; no texts give `(0, 1)`."""
        ids: list[list[int]] = [[]] * len(texts)
        for limit in set(limits):
            places = [place for place, one in enumerate(limits) if one == limit]
            # Not padded here: the tokenizer would turn the padding into Python numbers, and those into a tensor.
            tokens = self.tokenizer([texts[place] for place in places], truncation=True, max_length=limit)
            for place, ids_of_text in zip(places, tokens["input_ids"], strict=True):
                ids[place] = ids_of_text
        if not all(self.tokenizer.eos_token_id in ids_of_text for ids_of_text in ids):
            raise ValueError(f"the tokenizer must end every text with {self.tokenizer.eos_token!r}, but does not")
        lengths_T = torch.tensor([len(ids_of_text) for ids_of_text in ids], dtype=torch.int64)
        real_TL = torch.arange(max(map(len, ids), default=1)) < lengths_T[:, None]
        input_ids_TL = torch.full(real_TL.shape, self.tokenizer.pad_token_id or 0, dtype=torch.int64)
        input_ids_TL[real_TL] = torch.tensor(list(chain.from_iterable(ids)), dtype=torch.int64)
        return input_ids_TL, real_TL.to(torch.int64)


def squashed(image_processor: Any) -> Any:
    """A copy of an image processor that resizes both sides to the size that the model sees, and crops nothing."""
    width, height = seen_size(image_processor)
    image_processor = copy.deepcopy(image_processor)
    image_processor.size = {"height": height, "width": width}
    image_processor.do_resize, image_processor.do_center_crop = True, False
    return image_processor


def _texts_by_granularity(hierarchy: Any) -> Iterable[tuple[Granularity, Sequence[str]]]:
    if isinstance(hierarchy, str):
        yield Granularity.CAPTION, [hierarchy]
        return
    yield Granularity.CAPTION, [hierarchy.caption]
    yield Granularity.SENTENCE, hierarchy.sentences
    yield Granularity.PHRASE, hierarchy.phrases
    if getattr(hierarchy, "short_caption", None):
        yield Granularity.SHORT_CAPTION, [hierarchy.short_caption]


def _width_and_height(image: Any) -> tuple[int, int]:
    # Of a PIL image `get_image_size` gives the width first, of an array or a tensor the height.
    return image.size if is_pil_image(image) else get_image_size(image)[::-1]


def _clean(text: Any, name: str) -> str:
    cleaned = clean_text(text) if isinstance(text, str) else ""
    if not cleaned:
        raise ValueError(f"{name} must be a text that is not empty, but is {text!r}")
    return cleaned


def _checked_pixel_box(box: Any, box_format: str, image_size: tuple[int, int], name: str) -> Box:
    try:
        numbers = [float(x) for x in box]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != 4 or not all(map(math.isfinite, numbers)):
        raise ValueError(f"{name} must be four finite numbers, but is {box}")
    x1, y1, x2, y2 = checked = pixel_box(numbers, box_format, image_size)
    if x1 > x2 or y1 > y2:
        raise ValueError(f"{name} must have x1 <= x2 and y1 <= y2 ({box_format}), but is {numbers}")
    beyond = max(-min(numbers), max(numbers) - 1)
    if box_format == "xyxy_normalized" and beyond > _NORMALIZED_TOLERANCE:
        raise ValueError(f"{name} must be shares of the image's sides, in [0, 1], but is {numbers}")
    return checked


def _is_fg_clip(name_or_path: Any, hub: dict[str, Any]) -> bool:
    """Whether the config of a checkpoint is FG-CLIP's own; one without a config is not."""
    try:
        config, _ = CLIPConfig.get_config_dict(name_or_path, **hub)
    except OSError:
        return False
    return config.get("model_type") == "clip" and "FGCLIPModel" in (config.get("architectures") or ())


__all__ = ["BetaCLIPProcessor", "clean_text", "squashed"]
