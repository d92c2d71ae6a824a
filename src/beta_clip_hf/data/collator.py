"""Turns rows into the batches that the model is trained on."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

from PIL import Image
from torch import Tensor

from ..model.batch_beta_clip import BatchTexts, TextNegatives
from ..model.batch_plan_beta_clip import BatchPlan, plan_batch
from ..model.image_views_beta_clip import UNSCALED, has_any_grid, pixel_scale, seen_size
from ..model.processing_beta_clip import BetaCLIPProcessor
from ..model.processing_beta_siglip2 import BetaSiglip2Processor
from ..model.text_cleaning_beta_clip import clean_checked_text, clean_text, is_blank
from ..text.hierarchy import SENTENCE_ORDERS, TextHierarchy, with_checked_texts
from ..text.phrases import PhraseExtractor
from .crop import crop_box, resized_part
from .images import load_image
from .prefix_padding import pad_prefixes
from .records import as_value_error
from .region_sampling import Crop, draw_regions
from .row_counts import SkipLog, SkippedRow, report_skip
from .row_texts import hierarchy_of, sentences_of
from .rows import CheckedRow, Row, check_row, row_id
from .text_negatives import draw_caption_negatives, draw_phrase_negatives
from .text_plans import plan_batch_texts
from .workers import SharedCount, SharedEpoch


CAPTION_MODES = ("sampled", "full", "caption_only")


# Fields that are probabilities.
_PROBABILITIES = ("short_caption_probability", "drop_first_sentence_probability", "prefix_padding_probability")


class _Example(NamedTuple):
    """Holds the image, the texts with the negatives of each, and the regions that one row gives to a batch.

    `start` says where the caption begins, see [`pad_prefixes`].
    """

    image: Image.Image
    texts: TextHierarchy
    negatives: list[list[str]]
    regions: list[dict[str, Any]]
    start: float | None


class NoUsableRow(ValueError):
    """No row of a batch can be used."""


@dataclass(eq=False, repr=False)
class BetaCLIPDataCollator:
    """Reads the images of some rows, samples their texts and regions, and has the processor make a batch of them.

    What a row gives depends on the seed, the epoch and the id of the row alone: not on the number of workers or
    processes, nor on the rows next to it. The order of the rows is kept. Rows that come from a reader are checked
    already; others are checked here. Each text is cleaned here, once. Source of the recipe: β-CLIP (arXiv 2512.12678);
    of regions and hard negatives: FG-CLIP (arXiv 2505.05071).

    Args:
        processor: Tokenises, pads, resizes and normalises, and maps boxes.
        num_sentences: Largest number of sentences of a caption, drawn without replacement.
        num_phrases: Largest number of phrases, drawn across their kinds.
        caption_mode: "sampled": the drawn sentences, joined, are the caption, and the phrases are theirs. "full": the
            caption is whole; sentences and phrases are drawn as before. "caption_only": the whole caption and nothing
            else, as for CLIP.
        sentence_order: Order of the sentences in a "sampled" caption: "reading", as in the whole caption, or "random".
        drop_first_sentence_probability: With this probability the texts are drawn as if the caption began with its
            second sentence: the first one of a long caption often sums up the others. A caption of one sentence stays
            as it is. (DeBias-CLIP, arXiv 2602.22419.)
        prefix_padding_probability: With this probability the caption begins at a later position: padding tokens stand
            between its first token and its words. Their number is drawn from 0 to the number of free positions behind
            the caption. Later tokens attend to them like to any others. Sentences, phrases and short captions stay at
            the beginning. (DeBias-CLIP.)
        seed: Seed of the sampling and cropping.
        random_resized_crop: Range of the share of the image's area that is kept, as (0.5, 1.0); all of it by default.
        include_short_caption: Whether each row also gives a short caption: its `short_caption`; if it has none, one of
            its `captions`, drawn, or else its first sentence.
        short_caption_probability: With this probability a row is a short pair: its short caption, found as above, is
            its caption, and it gives no sentences and phrases. Such a replay of short captions keeps the model from
            forgetting them.
        num_regions: Largest number of regions of a row, drawn without replacement from those of which at least half is
            seen (after the crop, if any). Their boxes are cut at the borders; a region without area is left out. The
            text of a region is its `text` or its `long_text`, drawn; with `negatives`, the `text` and all of these are
            its hard texts. With 0 a batch has no region tensors; with more it always has them, even without regions.
        num_caption_negatives: Largest number of negatives of a caption, drawn without replacement from the row's
            `hard_negatives`. They vary the whole caption: a sampled caption cannot have them, and a short pair or a
            caption without its first sentence has none.
        num_phrase_negatives: Largest number of negatives of each phrase, drawn without replacement from the phrase's
            `negatives`. A phrase without these that relates two things ("a cup left of a plate") has one, in which they
            are exchanged. If this and `num_caption_negatives` are 0, a batch has no tensors of negatives; otherwise it
            always has them.
        packing_capacity: Columns of the rows that texts are packed into (see [`plan_texts`]), for shapes that stay the
            same from batch to batch, as `torch.compile` needs them; by default what costs least for each batch.
        packing_row_multiple: The number of these rows is rounded up to a multiple of it, by empty rows.
        uint8_pixels: Whether `pixel_values` are bytes beside their `pixel_scale`, with which the model normalises them
            on its device (equal to the processor's to 1e-6). Workers have less to do, and a quarter to send.
        extractor: Finds the phrases of rows that bring none; the default [`PhraseExtractor`] otherwise.
        strict: Whether a row that cannot be used is an error. By default it is skipped, logged and counted.

    Attributes:
        skip_log: Lists the rows that are skipped, see [`SkipLog`].

    Raises:
        ValueError: if an argument is out of range; on a call where no row of the batch can be used.
    """

    processor: BetaCLIPProcessor | BetaSiglip2Processor
    _: KW_ONLY
    num_sentences: int = 5
    num_phrases: int = 30
    caption_mode: str = "sampled"
    sentence_order: str = "reading"
    drop_first_sentence_probability: float = 0.0
    prefix_padding_probability: float = 0.0
    seed: int = 0
    random_resized_crop: tuple[float, float] | None = None
    include_short_caption: bool = False
    short_caption_probability: float = 0.0
    num_regions: int = 0
    num_caption_negatives: int = 0
    num_phrase_negatives: int = 0
    packing_capacity: int | None = None
    packing_row_multiple: int = 1
    uint8_pixels: bool = False
    extractor: PhraseExtractor | None = None
    strict: bool = False

    def __post_init__(self) -> None:
        self._check_numbers()
        self._check_caption_options()
        self._pixel_scale = self._checked_pixel_scale()
        # In shared memory: each worker has a copy of the collator, but must see the epoch of the training process. That
        # process must see the skips of the workers.
        self._epoch = SharedEpoch()
        self._skipped = SharedCount()
        self.skip_log = SkipLog()

    def _check_numbers(self) -> None:
        """Raises `ValueError` if a number is out of its range."""
        if self.num_sentences < 1:
            raise ValueError(f"num_sentences must be at least 1, but is {self.num_sentences}")
        for name in ("num_phrases", "num_regions", "num_caption_negatives", "num_phrase_negatives"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, but is {getattr(self, name)}")
        scale = self.random_resized_crop
        if scale is not None and not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError(f"random_resized_crop must be a range within (0, 1], but is {scale}")
        for name in _PROBABILITIES:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], but is {getattr(self, name)}")

    def _check_caption_options(self) -> None:
        """Raises `ValueError` if the options of captions are not known, or do not fit one another or the processor."""
        if self.caption_mode not in CAPTION_MODES:
            raise ValueError(f"caption_mode must be one of {CAPTION_MODES}, but is {self.caption_mode!r}")
        if self.sentence_order not in SENTENCE_ORDERS:
            raise ValueError(f"sentence_order must be one of {SENTENCE_ORDERS}, but is {self.sentence_order!r}")
        if self.sentence_order != "reading" and self.caption_mode != "sampled":
            raise ValueError(
                'sentence_order must be "reading" where captions are whole (caption_mode "full" or "caption_only"), '
                f"but is {self.sentence_order!r}"
            )
        if self.num_caption_negatives and self.caption_mode == "sampled":
            raise ValueError(
                'caption_mode must be "full" or "caption_only" where num_caption_negatives is not 0, because negatives '
                f"vary the whole caption, but is {self.caption_mode!r}"
            )
        if self.prefix_padding_probability and isinstance(self.processor, BetaSiglip2Processor):
            raise ValueError(
                "prefix_padding_probability must be 0 for SigLIP 2, whose texts are padded to all of their positions, "
                f"but is {self.prefix_padding_probability}"
            )

    def _checked_pixel_scale(self) -> Tensor | None:
        """Returns the `pixel_scale` of batches of bytes; `None` for batches of floats."""
        if not self.uint8_pixels:
            return None
        scale = pixel_scale(self.processor.image_processor)
        if scale is None:
            raise ValueError(
                "uint8_pixels must be False for an image processor that does not rescale and normalise three channels, "
                "but is True"
            )
        return scale

    @property
    def skipped(self) -> int:
        """Number of rows skipped so far by all dataloader workers. One skipped in two epochs counts twice."""
        return self._skipped.get()

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch, so that other texts, regions and crops are drawn. Running workers see it too."""
        self._epoch.set(epoch)

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Makes a batch of rows.

        Returns:
            The tensors of [`BetaCLIPProcessor`]; `plan`, so that the model need not make it and wait for the GPU; and
            `return_loss=True`.
        """
        examples = self._usable_examples(rows)
        regions = None
        if self.num_regions:
            # Also if no row of this batch has regions: all batches of all processes must have the same tensors.
            regions = [example.regions for example in examples]
        negatives = None
        if self.num_caption_negatives or self.num_phrase_negatives:
            negatives = [example.negatives for example in examples]
        image_options: dict[str, Any] = {"images_kwargs": UNSCALED} if self.uint8_pixels else {}
        batch = self.processor(
            images=[example.image for example in examples],
            hierarchies=[example.texts for example in examples],
            regions=regions,
            box_format="xyxy_normalized",
            negatives=negatives,
            **image_options,
        )
        if self._pixel_scale is not None:
            batch["pixel_scale"] = self._pixel_scale
        if self.prefix_padding_probability:
            starts = [example.start for example in examples]
            pad_prefixes(batch, starts, max_length=self.processor.max_length, tokenizer=self.processor.tokenizer)
        # Without labels, the Trainer computes a loss in evaluation only for batches that have `return_loss`.
        return {**batch, "plan": self._plan(batch), "return_loss": True}

    def _usable_examples(self, rows: Sequence[Row]) -> list[_Example]:
        """Returns the examples of the rows that can be used. The others are skipped, logged and counted."""
        if rows and all(isinstance(row, Mapping) and not row for row in rows):
            # transformers' Trainer removes what `forward` does not name.
            raise ValueError("rows must be mappings with fields, but are empty: set remove_unused_columns=False")
        examples = []
        for row in rows:
            try:
                examples.append(self._example(check_row(row)))
            # Whatever is wrong with a row, the others can still be used.
            except Exception as error:
                self._skipped.add()
                report_skip(SkippedRow.describe(row, as_value_error(error)), self.strict, self.skip_log)
        if not examples:
            names = ", ".join(SkippedRow.describe(row, ValueError()).id for row in rows)
            raise NoUsableRow(f"a batch must have a row that can be used, but all {len(rows)} were skipped: {names}")
        return examples

    def sample_texts(self, row: Row) -> TextHierarchy:
        """Draws the texts of a checked row for the present epoch. They are cleaned.

        Raises:
            ValueError: if one of them is empty after cleaning; the message names its field.
        """
        return _cleaned(self._drawn_texts(row))

    def _drawn_texts(self, row: Row) -> TextHierarchy:
        short_caption = None
        if self.include_short_caption:
            short_caption = self._short_caption(row)
        if self._rng(row, "/short_pair").random() < self.short_caption_probability:
            return TextHierarchy(self._short_caption(row), short_caption=short_caption)
        drops_first = self._rng(row, "/first_sentence").random() < self.drop_first_sentence_probability
        if self.caption_mode == "caption_only":
            caption = row["caption"]
            if drops_first:
                caption = TextHierarchy(caption, tuple(sentences_of(row))).without_first_sentence().caption
            return TextHierarchy(caption, short_caption=short_caption)
        hierarchy = hierarchy_of(row, self.extractor)
        if drops_first:
            hierarchy = hierarchy.without_first_sentence()
        drawn = hierarchy.sample(
            self._rng(row),
            num_sentences=self.num_sentences,
            num_phrases=self.num_phrases,
            order=self.sentence_order,
        )
        caption = hierarchy.caption
        if self.caption_mode == "sampled":
            caption = drawn.caption
        # A checked row has no blank short caption.
        return with_checked_texts(drawn, caption=caption, short_caption=short_caption)

    def _negatives(self, row: Row, texts: TextHierarchy) -> list[list[str]]:
        """Draws the negatives of each of a row's texts, in the order of a flat batch."""
        caption_negatives: list[str] = []
        # A short pair, and a caption without its first sentence, are not what the row's negatives vary.
        if self.num_caption_negatives and texts.caption == clean_text(row["caption"]):
            rng = self._rng(row, "/caption_negatives")
            caption_negatives = draw_caption_negatives(row, self.num_caption_negatives, rng)
        phrase_negatives: list[list[str]] = [[] for _ in texts.phrases]
        if self.num_phrase_negatives:
            rng = self._rng(row, "/phrase_negatives")
            phrase_negatives = draw_phrase_negatives(row, texts.phrases, self.num_phrase_negatives, rng)
        negatives = [caption_negatives, *([] for _ in texts.sentences), *phrase_negatives]
        if texts.short_caption is not None:
            negatives.append([])
        return negatives

    def _short_caption(self, row: Row) -> str:
        if row.get("short_caption"):
            return row["short_caption"]
        if row.get("captions"):
            return self._rng(row, "/short_caption").choice(row["captions"])
        return sentences_of(row)[0]

    def _example(self, row: CheckedRow) -> _Example:
        # Texts first: a row with a bad text is skipped before its image is decoded.
        texts = self.sample_texts(row)
        negatives = self._negatives(row, texts)
        whole_image = load_image(row["image"])
        image, crop = self._cropped(row, whole_image)
        regions: list[dict[str, Any]] = []
        if self.num_regions:
            image_processor = self.processor.image_processor
            rng = self._rng(row, "/regions")
            regions = draw_regions(row, self.num_regions, whole_image.size, crop, image_processor, rng)
        return _Example(image, texts, negatives, regions, self._start(row))

    def _cropped(self, row: Row, image: Image.Image) -> tuple[Image.Image, Crop]:
        """Draws the part of an image that is kept, and returns what the processor gets and where it was cut."""
        if self.random_resized_crop is None:
            # The processor resizes and cuts the whole image.
            return image, Crop((0, 0, *image.size), image.size)
        part = crop_box(image.size, self.random_resized_crop, self._rng(row, "/crop"))
        left, top, width, height = part
        # A processor of images of any shape resizes the part itself.
        size = (width, height)
        if not has_any_grid(self.processor.image_processor):
            size = seen_size(self.processor.image_processor)
        # Resized to what the model sees, so that the processor has nothing left to resize or cut.
        return resized_part(image, part, size), Crop((left, top, left + width, top + height), size)

    def _start(self, row: Row) -> float | None:
        """Draws where the caption begins, see [`pad_prefixes`]; `None` for a caption that begins at the first place."""
        rng = self._rng(row, "/prefix_padding")
        if rng.random() < self.prefix_padding_probability:
            return rng.random()
        return None

    def _plan(self, batch: Mapping[str, Any]) -> BatchPlan:
        """Plans how the texts are packed, in the order in which the model encodes them."""
        negatives = None
        if "negative_input_ids" in batch:
            negatives = TextNegatives(batch["negative_input_ids"], batch["negative_text_index"])
        texts = BatchTexts(batch["input_ids"], batch.get("region_input_ids"), batch.get("hard_input_ids"), negatives)
        packing = plan_batch_texts(
            self.processor,
            texts,
            batch["granularity"],
            capacity=self.packing_capacity,
            row_multiple=self.packing_row_multiple,
        )
        grid_sizes = None
        if "spatial_shapes" in batch:
            grid_sizes = batch["spatial_shapes"].tolist()
        return plan_batch(
            packing,
            batch["image_index"],
            len(batch["pixel_values"]),
            granularity_T=batch["granularity"],
            region_image_index_R=batch.get("region_image_index"),
            negative_text_index_n=batch.get("negative_text_index"),
            grid_sizes=grid_sizes,
        )

    def _rng(self, row: Row, purpose: str = "") -> random.Random:
        """Makes the random generator for one purpose, so that cropping, for instance, does not change the texts."""
        # A string seeds by its SHA-512, which is the same in every process. `hash` of a string is not.
        return random.Random(f"{self.seed}/{self._epoch.get()}/{row_id(row)}{purpose}")


def _cleaned(texts: TextHierarchy) -> TextHierarchy:
    """Cleans the texts of a batch. The processor, which gets them next, does not clean them again.

    Raises:
        ValueError: if one is empty after cleaning; the message names its field.
    """
    blank = [text for text in (*texts.sentences, *texts.phrases) if is_blank(text)]
    if blank:
        # A blank sentence costs the sentence, not the row.
        sentences = [text for text in texts.sentences if text not in blank]
        phrases = [text for text in texts.phrases if text not in blank]
        texts = TextHierarchy(texts.caption, tuple(sentences), tuple(phrases), short_caption=texts.short_caption)
    caption = clean_checked_text(texts.caption, "caption")
    short_caption: str | None = None
    if texts.short_caption == texts.caption:
        # A short pair: its short caption is its caption.
        short_caption = caption
    elif texts.short_caption is not None:
        short_caption = clean_checked_text(texts.short_caption, "short_caption")
    return with_checked_texts(
        texts,
        caption=caption,
        sentences=tuple(clean_checked_text(text, "a sentence") for text in texts.sentences),
        phrases=tuple(clean_checked_text(text, "a phrase") for text in texts.phrases),
        short_caption=short_caption,
    )
