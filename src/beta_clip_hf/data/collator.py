"""Rows to the batches that the model is trained on."""

import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import torch
from PIL import Image

from ..model.batch_plan_beta_clip import BatchPlan, plan_batch
from ..model.boxes_beta_clip import Box, box_in_view, cut_box, pixel_box, visible_share
from ..model.configuration_beta_clip import Granularity
from ..model.image_views_beta_clip import seen_size, view_of_image
from ..model.packing_beta_clip import plan_texts, text_lengths
from ..model.processing_beta_clip import BetaCLIPProcessor
from ..model.text_cleaning_beta_clip import clean_text
from ..model.towers_beta_clip import joined_texts
from ..text.phrases import PhraseExtractor
from ..text.sentences import split_sentences
from .crop import crop_box, resized_part
from .images import load_image
from .regions import check_boxes_in_image, regions_of
from .row_counts import report_skip
from .row_texts import hierarchy_of
from .rows import Row, check_row, row_id
from .workers import SharedCount, SharedEpoch


logger = logging.getLogger(__name__)

CAPTION_MODES = ("sampled", "full", "caption_only")
# A region of which less than half is seen may not show what its text says. Exactly half may come out a little less.
LEAST_VISIBLE_SHARE = 0.5 - 1e-9


class RowTexts(NamedTuple):
    """The texts that one row gives to a batch."""

    caption: str
    sentences: tuple[str, ...] = ()
    phrases: tuple[str, ...] = ()
    short_caption: str | None = None


@dataclass(eq=False, repr=False)
class BetaCLIPDataCollator:
    """Reads the images of some rows, samples their texts and regions, and has the processor make a batch of them.

    What a row gives depends on (seed, epoch, id of the row) alone: not on the number of workers or processes, nor on
    the rows next to it. The order of the rows is kept. Source of the recipe: β-CLIP (arXiv 2512.12678); of regions and
    hard negatives: FG-CLIP (arXiv 2505.05071).

    Args:
        processor: Tokenises, pads, resizes and normalises, and maps boxes.
        num_sentences: At most so many sentences of a caption, drawn without replacement.
        num_phrases: At most so many phrases, drawn across their kinds.
        caption_mode: "sampled": the drawn sentences, joined, are the caption, and the phrases are theirs. "full": the
            caption is whole; sentences and phrases are drawn as before. "caption_only": the whole caption and nothing
            else, as for CLIP.
        seed: Of the sampling and cropping.
        random_resized_crop: Range of the share of the image's area that is kept, as (0.5, 1.0); all of it by default.
        include_short_caption: Whether each row gives a short caption as well: its `short_caption`; if it has none, one
            of its `captions`, drawn, or else its first sentence.
        short_caption_probability: With this probability a row is a short pair: its short caption, found as above, is
            its caption, and it gives no sentences and phrases. Replay of short captions against forgetting them.
        num_regions: At most so many regions of a row, drawn without replacement from those of which at least half is
            seen (after the crop, if any). Their boxes are cut at the borders; a region without area is left out. The
            text of a region is its `text` or its `long_text`, drawn; with `negatives`, the `text` and all of these are
            its hard texts. With 0 a batch has no region tensors; else always, be there regions or not.
        packing_capacity: Columns of the rows that texts are packed into (see [`plan_texts`]), for shapes that stay the
            same from batch to batch, as `torch.compile` likes them; by default what costs least for each batch.
        packing_row_multiple: The number of these rows is rounded up to a multiple of it, by empty rows.
        extractor: Finds the phrases of rows that bring none; the default [`PhraseExtractor`] otherwise.
        strict: Whether a row that cannot be used is an error; else it is skipped, logged and counted.

    Raises:
        ValueError: where an argument is out of range; on a call where no row of the batch can be used.
    """

    processor: BetaCLIPProcessor
    _: KW_ONLY
    num_sentences: int = 5
    num_phrases: int = 30
    caption_mode: str = "sampled"
    seed: int = 0
    random_resized_crop: tuple[float, float] | None = None
    include_short_caption: bool = False
    short_caption_probability: float = 0.0
    num_regions: int = 0
    packing_capacity: int | None = None
    packing_row_multiple: int = 1
    extractor: PhraseExtractor | None = None
    strict: bool = False

    def __post_init__(self) -> None:
        if self.caption_mode not in CAPTION_MODES:
            raise ValueError(f"caption_mode must be one of {CAPTION_MODES}, but is {self.caption_mode!r}")
        if self.num_sentences < 1:
            raise ValueError(f"num_sentences must be at least 1, but is {self.num_sentences}")
        for name in ("num_phrases", "num_regions"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, but is {getattr(self, name)}")
        scale = self.random_resized_crop
        if scale is not None and not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError(f"random_resized_crop must be a range within (0, 1], but is {scale}")
        if not 0 <= self.short_caption_probability <= 1:
            raise ValueError(f"short_caption_probability must be in [0, 1], but is {self.short_caption_probability}")
        self._epoch = SharedEpoch()
        self._skipped = SharedCount()

    @property
    def skipped(self) -> int:
        """How many rows were skipped so far, by all dataloader workers; one skipped in two epochs counts twice."""
        return self._skipped.get()

    def set_epoch(self, epoch: int) -> None:
        """Has other texts, regions and crops drawn; living workers see it too."""
        self._epoch.set(epoch)

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        """The tensors of [`BetaCLIPProcessor`] for the rows, their plan, so that no GPU is waited for, and
        `return_loss=True`."""
        images, hierarchies, regions = [], [], []
        for row in rows:
            try:
                row = check_row(row)
                hierarchy = self.sample_texts(row)
                image, row_regions = self._image_and_regions(row)
            except ValueError as error:
                self._skipped.add()
                report_skip(row_id(row), error, self.strict)
            else:
                images.append(image)
                hierarchies.append(hierarchy)
                regions.append(row_regions)
        if not images:
            names = ", ".join(map(row_id, rows))
            raise ValueError(f"a batch must have a row that can be used, but all {len(rows)} were skipped: {names}")
        batch = self.processor(
            images=images,
            hierarchies=hierarchies,
            regions=regions if self.num_regions else None,
            box_format="xyxy_normalized",
        )
        return {**batch, "plan": self._plan(batch), "return_loss": True}

    def _plan(self, batch: Mapping[str, Any]) -> BatchPlan:
        """Texts in the order in which the model encodes them."""
        ids_TL, counts = joined_texts([batch.get(f"{kind}input_ids") for kind in ("", "region_", "hard_")])
        is_long_T = None
        if self.processor.short_max_length is not None:
            is_long_T = torch.zeros(len(ids_TL), dtype=torch.bool)
            is_long_T[: counts[0]] = batch["granularity"] == Granularity.CAPTION
        packing = plan_texts(
            ids_TL,
            text_lengths(ids_TL, self.processor.tokenizer.eos_token_id),
            is_long_T,
            capacity=self.packing_capacity,
            row_multiple=self.packing_row_multiple,
        )
        return plan_batch(
            packing,
            batch["image_index"],
            len(batch["pixel_values"]),
            granularity_T=batch["granularity"],
            region_image_index_R=batch.get("region_image_index"),
        )

    def sample_texts(self, row: Row) -> RowTexts:
        """The texts of a row in the present epoch; the row is one that `check_row` has seen.

        Raises:
            ValueError: where one of them is empty after cleaning.
        """
        if self._rng(row, "/short_pair").random() < self.short_caption_probability:
            texts = RowTexts(self._short_caption(row))
        elif self.caption_mode == "caption_only":
            texts = RowTexts(row["caption"])
        else:
            hierarchy, rng = hierarchy_of(row, self.extractor), self._rng(row)
            sample = hierarchy.sample(rng, num_sentences=self.num_sentences, num_phrases=self.num_phrases)
            caption = sample.caption if self.caption_mode == "sampled" else hierarchy.caption
            texts = RowTexts(caption, sample.sentences, sample.phrases)
        if self.include_short_caption:
            texts = texts._replace(short_caption=self._short_caption(row))
        for text in (texts.caption, *texts.sentences, *texts.phrases, texts.short_caption or texts.caption):
            if not clean_text(text):
                raise ValueError(f"a text must not be empty after cleaning, but is {text!r}")
        return texts

    def _short_caption(self, row: Row) -> str:
        if row.get("short_caption"):
            return row["short_caption"]
        if row.get("captions"):
            return self._rng(row, "/short_caption").choice(row["captions"])
        return (row.get("sentences") or split_sentences(row["caption"]))[0]

    def _image_and_regions(self, row: Row) -> tuple[Image.Image, list[dict[str, Any]]]:
        """The row's image, cropped, and its regions with boxes in shares of the sides of that image."""
        image = load_image(row["image"])
        if self.random_resized_crop is None:
            return image, list(self._regions(row, image.size, (0, 0, *image.size), image.size))
        left, top, width, height = part = crop_box(image.size, self.random_resized_crop, self._rng(row, "/crop"))
        size = seen_size(self.processor.image_processor)
        shown = (left, top, left + width, top + height)
        return resized_part(image, part, size), list(self._regions(row, image.size, shown, size))

    def _regions(
        self, row: Row, image_size: tuple[int, int], shown: Box, shown_size: tuple[int, int]
    ) -> Iterator[dict[str, Any]]:
        """Draws regions. `shown` is the part, in pixels, that becomes an image of `shown_size` for the processor."""
        if not self.num_regions:
            return
        check_boxes_in_image(row, image_size)
        regions, rng = regions_of(row), self._rng(row, "/regions")
        # All are put into an order and all texts are drawn: a crop changes neither.
        order = rng.sample(range(len(regions)), len(regions))
        texts = [rng.choice(_texts_of_region(region)) for region in regions]
        pixels = [pixel_box(one["box"], row.get("box_format", "xyxy_pixels"), image_size) for one in regions]
        shares = [box_in_view(box, shown) for box in pixels]
        view = view_of_image(shown_size, self.processor.image_processor)
        seen = [box_in_view(pixel_box(box, "xyxy_normalized", shown_size), view) for box in shares]
        enough = [index for index in order if visible_share(seen[index]) >= LEAST_VISIBLE_SHARE]
        for index in sorted(enough[: self.num_regions]):
            region: dict[str, Any] = {"box": cut_box(shares[index]), "text": texts[index]}
            if negatives := regions[index].get("negatives"):
                region["hard_texts"] = [regions[index]["text"], *negatives]
            for text in (texts[index], *region.get("hard_texts", ())):
                if not clean_text(text):
                    raise ValueError(f"a region's text must not be empty after cleaning, but is {text!r}")
            yield region

    def _rng(self, row: Row, purpose: str = "") -> random.Random:
        """Each purpose has one of its own, so that, for instance, cropping does not change the texts."""
        return random.Random(f"{self.seed}/{self._epoch.get()}/{row_id(row)}{purpose}")


def _texts_of_region(region: Mapping[str, Any]) -> list[str]:
    return [region[name] for name in ("text", "long_text") if region.get(name)]
