"""The batch of the training-step benchmark: noise for images, and texts with the lengths of the paper's data.

Letters: B images, K texts of an image, T = B · K, L tokens.
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
# Of the first hundred the seed whose padding is nearest to the mean over seeds, see `draw_lengths`.
SEED = 62


class Batch(NamedTuple):
    """The same texts as the package and as the reference want them, and how many tokens they are."""

    ours: dict[str, Any]
    theirs: dict[str, Tensor]
    tokens: dict[str, int]


def draw_lengths(batch_size: int, seed: int = SEED) -> tuple[Tensor, Tensor]:
    """
    Tokens, with the two at the ends, of caption and sentences `(B, 6)` and of the phrases `(B, 30)`.

    The statistics of the paper's data: phrases of 4.4 tokens on average, one in a thousand above 12; sentences of about
    30, and captions of five of them that differ so much that at 64 images the released step's padding is 3.6 times the
    real tokens (2.9 at 4 images and 3.1 at 8, on average over seeds).
    """
    generator = torch.Generator().manual_seed(seed)
    of_image_B1 = 1 + 0.15 * torch.randn(batch_size, 1, generator=generator)
    sentences_BS = 30 * of_image_B1 + 9 * torch.randn(batch_size, SENTENCES, generator=generator)
    sentences_BS = sentences_BS.round().long().clamp(8, 60)
    caption_B1 = (sentences_BS.sum(dim=1, keepdim=True) - 2 * (SENTENCES - 1)).clamp(max=248)
    rates = torch._standard_gamma(torch.full((batch_size, PHRASES), 20.0), generator=generator) * (3.4 / 20)
    phrases_BK = 3 + torch.poisson(rates, generator=generator).long()
    return torch.cat([caption_B1, sentences_BS], dim=1), phrases_BK


def make_batch(batch_size: int, image_size: int, device: str, *, repeated: int = 0) -> Batch:
    """`repeated`: so many phrases of each image are those of the first one."""
    long_BK, phrases_BK = draw_lengths(batch_size)
    generator = torch.Generator().manual_seed(1)
    pixel_values = torch.randn(batch_size, 3, image_size, image_size, generator=generator)
    lengths_BK = torch.cat([long_BK, phrases_BK], dim=1)
    ids_BKL = torch.randint(0, WORDS, (*lengths_BK.shape, int(lengths_BK.max())), generator=generator)
    for of_texts in (lengths_BK, ids_BKL):
        of_texts[:, TEXTS - repeated :] = of_texts[:1, TEXTS - repeated :].clone()
    lengths_T, ids_TL = lengths_BK.flatten(), ids_BKL.flatten(0, 1)
    ids_TL[:, 0] = START
    ids_TL[torch.arange(ids_TL.shape[1]) >= lengths_T[:, None] - 1] = END
    ours = flat_batch(pixel_values, ids_TL, device)
    groups = (slice(0, 1 + SENTENCES), slice(1 + SENTENCES, None))
    long_BKL, phrase_BKL = (ids_BKL[:, group, : int(lengths_BK[:, group].max())] for group in groups)
    theirs = {"pixel_values": pixel_values, "long_ids_BKL": long_BKL, "phrase_ids_BKL": phrase_BKL}
    tokens = {
        "real": int(lengths_T.sum()),
        "package": ours["plan"].packing.num_places,
        "reference": long_BKL.numel() + phrase_BKL.numel(),
    }
    return Batch(ours, {name: value.to(device) for name, value in theirs.items()}, tokens)


def flat_batch(pixel_values: Tensor, ids_TL: Tensor, device: str) -> dict[str, Any]:
    """What the collator makes of images with 36 texts each, the plan too."""
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
    """The images of a batch of the package, and their texts, in two."""
    pixels, ids = (batch[name].cpu().chunk(2) for name in ("pixel_values", "input_ids"))
    return [flat_batch(*half, str(batch["pixel_values"].device)) for half in zip(pixels, ids, strict=True)]
