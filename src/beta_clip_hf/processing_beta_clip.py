"""Images and texts to the flat batches of β-CLIP; the one owner of text cleaning, tokenising and padding.

Letters: B images, T texts (flat), L tokens, S pixels.
"""

import html
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from transformers import BatchFeature, CLIPProcessor
from transformers.utils import is_torchvision_available

from .configuration_beta_clip import LONG_TEXT_POSITIONS
from .modeling_beta_clip import Granularity


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
    CLIP's image processor and tokenizer, and the way from captions, sentences and phrases to a flat batch.

    Args:
        image_processor: CLIP's image processor (either backend).
        tokenizer: CLIP's tokenizer.
        max_length (`int`, defaults to 248): tokens per text at most; a longer text is cut and keeps its EOS.

    Example: `processor(images=[image], hierarchies=[build_text_hierarchy(caption)])` gives `pixel_values`
    `(B, 3, S, S)`, `input_ids` and `attention_mask` `(T, L)`, `image_index` and `granularity` `(T,)`.
    """

    def __init__(
        self, image_processor: Any = None, tokenizer: Any = None, max_length: int = LONG_TEXT_POSITIONS, **kwargs: Any
    ) -> None:
        super().__init__(image_processor, tokenizer, **kwargs)
        self.max_length = max_length

    @classmethod
    def from_image_size(
        cls, tokenizer: Any, image_size: int = 224, max_length: int = LONG_TEXT_POSITIONS
    ) -> "BetaCLIPProcessor":
        """A processor with CLIP's resizing (bicubic, centre crop) and normalisation at `image_size` pixels."""
        # One of the two is imported: the name of the other makes transformers advise to install torchvision.
        if is_torchvision_available():
            from transformers import CLIPImageProcessor as ImageProcessor
        else:
            from transformers import CLIPImageProcessorPil as ImageProcessor
        size = {"size": {"shortest_edge": image_size}, "crop_size": {"height": image_size, "width": image_size}}
        return cls(ImageProcessor(**size), tokenizer, max_length=max_length)

    def __call__(
        self,
        images: Any = None,
        text: str | list[str] | None = None,
        hierarchies: Sequence[Any] | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        r"""
        A plain CLIP batch from `images` and `text` (as `CLIPProcessor`, with texts cleaned and cut to `max_length`), or
        a flat batch from `hierarchies` and, optionally, `images`.

        Args:
            images: an image or a list of B images.
            text: a text or a list of texts.
            hierarchies (`Sequence` of length B):
                Per image a caption (`str`) or an object with `caption`, `sentences`, `phrases` and optionally
                `short_caption`, such as a `TextHierarchy`.

        Returns:
            For hierarchies, tensors: `input_ids`, `attention_mask` `(T, L)` right-padded, `image_index`, `granularity`
            `(T,)`; per image its caption, sentences, phrases and short caption. With images also `pixel_values`
            `(B, 3, S, S)`.

        Raises:
            ValueError: if `text` and `hierarchies` are both given, there is not one hierarchy per image, a caption is
                empty or there is none, or the tokenizer ends a text without EOS.
        """
        if hierarchies is None:
            if text is not None:
                text = clean_text(text) if isinstance(text, str) else [clean_text(one) for one in text]
                kwargs = {"truncation": True, "max_length": self.max_length, **kwargs}
            return super().__call__(images=images, text=text, **kwargs)

        if text is not None:
            raise ValueError("only one of text and hierarchies must be given, but both are")
        batch = self._flat_texts(hierarchies)
        if images is not None:
            pixel_values = self.image_processor(images, return_tensors="pt", **kwargs)["pixel_values"]
            if len(pixel_values) != len(hierarchies):
                raise ValueError(
                    f"hierarchies must be one per image, but are {len(hierarchies)} for {len(pixel_values)} images"
                )
            batch["pixel_values"] = pixel_values
        return batch

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
        tokens = self.tokenizer(
            texts,
            padding=True,
            padding_side="right",
            truncation=True,
            max_length=self.max_length,
            return_tensors="pt",
        )
        if not (tokens["input_ids"] == self.tokenizer.eos_token_id).any(dim=1).all():
            raise ValueError(f"the tokenizer must end every text with {self.tokenizer.eos_token!r}, but does not")
        return BatchFeature(
            {
                "input_ids": tokens["input_ids"],
                "attention_mask": tokens["attention_mask"],
                "image_index": torch.tensor(image_index, dtype=torch.int64),
                "granularity": torch.tensor(granularity, dtype=torch.int64),
            }
        )


def _texts_by_granularity(hierarchy: Any) -> Iterable[tuple[Granularity, Sequence[str]]]:
    if isinstance(hierarchy, str):
        yield Granularity.CAPTION, [hierarchy]
        return
    yield Granularity.CAPTION, [hierarchy.caption]
    yield Granularity.SENTENCE, hierarchy.sentences
    yield Granularity.PHRASE, hierarchy.phrases
    if getattr(hierarchy, "short_caption", None):
        yield Granularity.SHORT_CAPTION, [hierarchy.short_caption]


__all__ = ["BetaCLIPProcessor", "clean_text"]
