"""The batch of the training-step benchmark: noise for images, and texts with the lengths of the paper's data.

S is the number of texts of an image, so T = B · S.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from beta_clip_hf import Granularity
from beta_clip_hf.model.batch_plan_beta_clip import plan_batch
from beta_clip_hf.model.packing_beta_clip import plan_texts, text_lengths


START, END, WORDS = 49406, 49407, 49000
SENTENCES, PHRASES = 5, 30
TEXTS = 1 + SENTENCES + PHRASES
# Of the first hundred seeds the one whose padding is nearest to the mean over seeds, see `draw_lengths`.
SEED = 62


class Batch(NamedTuple):
    """The same texts in the forms of the package and of the reference."""

    package: dict[str, Any]
    reference: dict[str, Tensor]
    tokens: dict[str, int]
    """Tokens of the texts ("real"), and tokens that the package and the reference compute."""


def draw_lengths(batch_size: int, seed: int = SEED) -> tuple[Tensor, Tensor]:
    """
    Draws the tokens, with the two at the ends, of caption and sentences (B, 6) and of the phrases (B, 30).

    The statistics are those of the paper's data: phrases of 4.4 tokens on average, one in a thousand above 12;
    sentences of about 30. Captions consist of five sentences, and differ so much that at 64 images the released step's
    padding is 3.6 times the real tokens (2.9 at 4 images and 3.1 at 8, on average over seeds).
    """
    generator = torch.Generator().manual_seed(seed)
    # Long and short descriptions: the sentences of an image are alike.
    wordiness_B1 = 1 + 0.15 * torch.randn(batch_size, 1, generator=generator)
    sentences_BS = 30 * wordiness_B1 + 9 * torch.randn(batch_size, SENTENCES, generator=generator)
    sentences_BS = sentences_BS.round().long().clamp(8, 60)
    # A caption has the tokens of its sentences without the ends between them.
    caption_B1 = (sentences_BS.sum(dim=1, keepdim=True) - 2 * (SENTENCES - 1)).clamp(max=248)
    rates = torch._standard_gamma(torch.full((batch_size, PHRASES), 20.0), generator=generator) * (3.4 / 20)
    phrases_BS = 3 + torch.poisson(rates, generator=generator).long()
    return torch.cat([caption_B1, sentences_BS], dim=1), phrases_BS


def make_batch(batch_size: int, image_size: int, device: str, *, repeated: int = 0) -> Batch:
    """
    Makes a batch.

    Args:
        batch_size: The number of images.
        image_size: Their size in pixels.
        device: The device of the tensors.
        repeated: The number of phrases of each image that are those of the first image.
    """
    long_BS, phrases_BS = draw_lengths(batch_size)
    generator = torch.Generator().manual_seed(1)
    pixel_values = torch.randn(batch_size, 3, image_size, image_size, generator=generator)
    lengths_BS = torch.cat([long_BS, phrases_BS], dim=1)
    ids_BSL = torch.randint(0, WORDS, (*lengths_BS.shape, int(lengths_BS.max())), generator=generator)
    first_repeated = TEXTS - repeated
    for tensor in (lengths_BS, ids_BSL):
        tensor[:, first_repeated:] = tensor[:1, first_repeated:].clone()
    # These are views: the rows of images see the ends of the texts too.
    lengths_T, ids_TL = lengths_BS.flatten(), ids_BSL.flatten(0, 1)
    ids_TL[:, 0] = START
    ids_TL[torch.arange(ids_TL.shape[1]) >= lengths_T[:, None] - 1] = END
    package = flat_batch(pixel_values, ids_TL, device)
    num_long = 1 + SENTENCES
    long_ids_BSL = ids_BSL[:, :num_long, : int(lengths_BS[:, :num_long].max())]
    phrase_ids_BSL = ids_BSL[:, num_long:, : int(lengths_BS[:, num_long:].max())]
    reference = {"pixel_values": pixel_values, "long_ids_BSL": long_ids_BSL, "phrase_ids_BSL": phrase_ids_BSL}
    tokens = {
        "real": int(lengths_T.sum()),
        "package": package["plan"].packing.num_places,
        "reference": long_ids_BSL.numel() + phrase_ids_BSL.numel(),
    }
    return Batch(package, {name: tensor.to(device) for name, tensor in reference.items()}, tokens)


def flat_batch(pixel_values: Tensor, ids_TL: Tensor, device: str) -> dict[str, Any]:
    """Returns the batch that the collator makes of images with 36 texts each, the plan included."""
    kinds = [Granularity.CAPTION, *[Granularity.SENTENCE] * SENTENCES, *[Granularity.PHRASE] * PHRASES]
    granularity_T = torch.tensor(kinds).repeat(len(pixel_values))
    image_index_T = torch.arange(len(pixel_values)).repeat_interleave(TEXTS)
    packing = plan_texts(ids_TL, text_lengths(ids_TL, END))
    batch = {
        "pixel_values": pixel_values,
        "input_ids": ids_TL,
        "image_index": image_index_T,
        "granularity": granularity_T,
        "plan": plan_batch(packing, image_index_T, len(pixel_values), granularity_T=granularity_T),
    }
    return {name: value.to(device) for name, value in batch.items()} | {"return_loss": True}


def halves(batch: dict[str, Any]) -> list[dict[str, Any]]:
    """Splits a batch of the package into two, each with half of the images and their texts."""
    device = str(batch["pixel_values"].device)
    pixels = batch["pixel_values"].cpu().chunk(2)
    ids = batch["input_ids"].cpu().chunk(2)
    return [flat_batch(half_pixels, half_ids, device) for half_pixels, half_ids in zip(pixels, ids, strict=True)]
