"""
Counts what the texts of a training step cost on the towers of CLIP and of SigLIP 2, in multiply-adds.

    python benchmarks/text_cost.py

Nothing is computed: texts of generated scenes are drawn and planned as in training, and the operations of the blocks
are counted. CLIP packs texts of any lengths; SigLIP 2 computes all positions of a text's path.
"""

import argparse
from typing import NamedTuple

import torch

from beta_clip_hf import BetaCLIPDataCollator, BetaCLIPProcessor, SceneDataset
from beta_clip_hf.data.tokenizers import train_clip_tokenizer
from beta_clip_hf.model.batch_beta_clip import BatchTexts
from beta_clip_hf.model.configuration_beta_siglip2 import (
    LONG_SIGLIP_TEXT_POSITIONS,
    SIGLIP_TEXT_POSITIONS,
    BetaSiglip2Config,
)
from beta_clip_hf.model.text_rows_beta_siglip2 import plan_batch_rows


class Tower(NamedTuple):
    """The sizes of a text tower."""

    width: int
    hidden: int
    layers: int


CLIP_BASE = Tower(512, 2048, 12)
SIGLIP2_BASE = Tower(768, 3072, 12)


def block_cost(tower: Tower, places: int, attended: int, read: int) -> int:
    """
    Returns the multiply-adds of a block.

    Args:
        tower: The sizes of the tower.
        places: Places whose keys and values are computed.
        attended: Places that a place attends to.
        read: Places that go on to the next block.
    """
    keys_and_values = 2 * places * tower.width**2
    queries_and_output = 2 * read * tower.width**2
    attention = 2 * read * attended * tower.width
    return keys_and_values + queries_and_output + attention + 2 * read * tower.width * tower.hidden


def siglip2_cost(num_texts: int, positions: int, *, last_only: bool, tower: Tower = SIGLIP2_BASE) -> int:
    """Returns the multiply-adds of texts that are all as long as their path."""
    places = num_texts * positions
    whole = block_cost(tower, places, positions, places)
    last = block_cost(tower, places, positions, num_texts if last_only else places)
    return (tower.layers - 1) * whole + last


def clip_cost(places: int, columns: int) -> int:
    """Returns the multiply-adds of packed rows. The masks of packed rows skip nothing."""
    return CLIP_BASE.layers * block_cost(CLIP_BASE, places, columns, places)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64, help="images of the step")
    args = parser.parse_args()
    rows = SceneDataset(args.images, image_size=32)
    tokenizer = train_clip_tokenizer((rows[index]["caption"] for index in range(args.images)), vocab_size=2048)
    collator = BetaCLIPDataCollator(BetaCLIPProcessor.from_image_size(tokenizer, image_size=32))
    batch = collator([rows[index] for index in range(args.images)])
    packing = batch["plan"].packing
    # The numbers of texts are all that counts: the ids may be those of another tokenizer.
    ids = torch.nn.functional.pad(batch["input_ids"], (0, LONG_SIGLIP_TEXT_POSITIONS))
    plan = plan_batch_rows(BatchTexts(ids), batch["granularity"], BetaSiglip2Config())
    num_long = int((batch["granularity"] == 0).sum())
    num_short = len(ids) - num_long
    costs = {
        "CLIP B, packed": clip_cost(packing.num_places, packing.position_FC.shape[1]),
        "SigLIP 2 B, every text": siglip2_cost(num_short, SIGLIP_TEXT_POSITIONS, last_only=False)
        + siglip2_cost(num_long, LONG_SIGLIP_TEXT_POSITIONS, last_only=False),
        "SigLIP 2 B, as here": siglip2_cost(len(plan.short_U), SIGLIP_TEXT_POSITIONS, last_only=True)
        + siglip2_cost(len(plan.long_U), LONG_SIGLIP_TEXT_POSITIONS, last_only=True),
    }
    print(f"{args.images} images, {len(ids)} texts; different: {len(plan.long_U)} captions, {len(plan.short_U)} others")
    for name, cost in costs.items():
        print(f"{name:24} {cost / 1e12:8.3f} T multiply-adds, {cost / costs['CLIP B, packed']:6.1f} × CLIP")


if __name__ == "__main__":
    main()
