"""Rows to the batches that the model is trained on."""

import logging
import random
from collections.abc import Sequence
from typing import Any, NamedTuple

from PIL import Image

from ..processing_beta_clip import BetaCLIPProcessor, clean_text
from ..text.phrases import PhraseExtractor
from .crop import random_resized_crop
from .row_dataset import report_skip
from .rows import Row, check_row, hierarchy_of, load_image, row_id
from .workers import SharedCount, SharedEpoch


logger = logging.getLogger(__name__)

CAPTION_MODES = ("sampled", "full", "caption_only")


class RowTexts(NamedTuple):
    """The texts that one row gives to a batch."""

    caption: str
    sentences: tuple[str, ...] = ()
    phrases: tuple[str, ...] = ()
    short_caption: str | None = None


class BetaCLIPDataCollator:
    """Reads the images of some rows, samples their texts, and has the processor make a batch of them.

    What a row gives depends on (seed, epoch, id of the row) alone: not on the number of workers or processes, nor on
    the rows next to it. The order of the rows is kept. Source of the recipe: β-CLIP (arXiv 2512.12678).

    Args:
        processor: Tokenises, pads, resizes and normalises.
        num_sentences: At most so many sentences of a caption, drawn without replacement.
        num_phrases: At most so many phrases, drawn across their kinds.
        caption_mode: "sampled": the drawn sentences, joined, are the caption, and the phrases are theirs. "full": the
            caption is whole; sentences and phrases are drawn as before. "caption_only": the whole caption and nothing
            else, as for CLIP.
        seed: Of the sampling and cropping.
        random_resized_crop: Range of the share of the image's area that is kept, as (0.5, 1.0); all of it by default.
        include_short_caption: Whether the `short_caption` of a row becomes a text as well.
        extractor: Finds the phrases of rows that bring none; the default [`PhraseExtractor`] otherwise.
        strict: Whether a row that cannot be used is an error; else it is skipped, logged and counted.

    Raises:
        ValueError: where an argument is out of range; on a call where no row of the batch can be used.
    """

    def __init__(
        self,
        processor: BetaCLIPProcessor,
        *,
        num_sentences: int = 5,
        num_phrases: int = 30,
        caption_mode: str = "sampled",
        seed: int = 0,
        random_resized_crop: tuple[float, float] | None = None,
        include_short_caption: bool = False,
        extractor: PhraseExtractor | None = None,
        strict: bool = False,
    ) -> None:
        if caption_mode not in CAPTION_MODES:
            raise ValueError(f"caption_mode must be one of {CAPTION_MODES}, but is {caption_mode!r}")
        if num_sentences < 1:
            raise ValueError(f"num_sentences must be at least 1, but is {num_sentences}")
        if num_phrases < 0:
            raise ValueError(f"num_phrases must not be negative, but is {num_phrases}")
        if random_resized_crop is not None and not 0 < random_resized_crop[0] <= random_resized_crop[1] <= 1:
            raise ValueError(f"random_resized_crop must be a range within (0, 1], but is {random_resized_crop}")
        self.processor = processor
        self.num_sentences = num_sentences
        self.num_phrases = num_phrases
        self.caption_mode = caption_mode
        self.seed = seed
        self.random_resized_crop = random_resized_crop
        self.include_short_caption = include_short_caption
        self.extractor = extractor
        self.strict = strict
        self._epoch = SharedEpoch()
        self._skipped = SharedCount()

    @property
    def skipped(self) -> int:
        """How many rows were skipped so far, by all dataloader workers; one skipped in two epochs counts twice."""
        return self._skipped.get()

    def set_epoch(self, epoch: int) -> None:
        """Has other texts and crops drawn; living workers see it too."""
        self._epoch.set(epoch)

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        """The tensors of [`BetaCLIPProcessor`] for the rows, and `return_loss=True`."""
        images, hierarchies = [], []
        for row in rows:
            try:
                row = check_row(row)
                hierarchy = self.sample_texts(row)
                image = self._image(row)
            except ValueError as error:
                self._skipped.add()
                report_skip(row_id(row), error, self.strict)
            else:
                images.append(image)
                hierarchies.append(hierarchy)
        if not images:
            names = ", ".join(map(row_id, rows))
            raise ValueError(f"a batch must have a row that can be used, but all {len(rows)} were skipped: {names}")
        return {**self.processor(images=images, hierarchies=hierarchies), "return_loss": True}

    def sample_texts(self, row: Row) -> RowTexts:
        """The texts of a row in the present epoch; the row is one that `check_row` has seen.

        Raises:
            ValueError: where one of them is empty after cleaning.
        """
        short_caption = row.get("short_caption") if self.include_short_caption else None
        if self.caption_mode == "caption_only":
            texts = RowTexts(row["caption"], short_caption=short_caption)
        else:
            hierarchy, rng = hierarchy_of(row, self.extractor), self._rng(row)
            sample = hierarchy.sample(rng, num_sentences=self.num_sentences, num_phrases=self.num_phrases)
            caption = sample.caption if self.caption_mode == "sampled" else hierarchy.caption
            texts = RowTexts(caption, sample.sentences, sample.phrases, short_caption)
        for text in (texts.caption, *texts.sentences, *texts.phrases, short_caption or texts.caption):
            if not clean_text(text):
                raise ValueError(f"a text must not be empty after cleaning, but is {text!r}")
        return texts

    def _image(self, row: Row) -> Image.Image:
        image = load_image(row["image"])
        if self.random_resized_crop is None:
            return image
        size = self.processor.image_processor.crop_size
        return random_resized_crop(
            image, (size["width"], size["height"]), scale=self.random_resized_crop, rng=self._rng(row, "/crop")
        )

    def _rng(self, row: Row, purpose: str = "") -> random.Random:
        """Texts and crop have one each, so that cropping does not change the texts."""
        return random.Random(f"{self.seed}/{self._epoch.get()}/{row_id(row)}{purpose}")
