"""Configurations and inputs for transformers' tests of models: what these call a model tester."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from beta_clip_hf import BetaCLIPConfig


IMAGE_SIZE = 30
TOWER = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT = {**TOWER, "vocab_size": 99, "bos_token_id": 97, "eos_token_id": 98, "pad_token_id": 0}
VISION = {**TOWER, "image_size": IMAGE_SIZE, "patch_size": 15}


def texts(lengths: list[int]) -> tuple[Tensor, Tensor]:
    """Returns ids and mask of random texts: EOS is the last token of each, and padding follows."""
    ids = torch.zeros(len(lengths), max(lengths), dtype=torch.int64)
    for row, length in enumerate(lengths):
        ids[row, : length - 1] = torch.randint(1, 97, (length - 1,))
        ids[row, length - 1] = TEXT["eos_token_id"]
    return ids, (ids != TEXT["pad_token_id"]).to(torch.int64)


class PlainInputs:
    """CLIP's own batch of seven pairs, for a model without a pooler."""

    switches: ClassVar[dict[str, Any]] = {"use_pooler": False}
    # Names that transformers' tests read.
    is_training = True
    # Where they compare attentions they fill a batch up to seven texts with random ones, which lack EOS.
    batch_size = 7
    num_hidden_layers = TOWER["num_hidden_layers"]

    def get_config(self) -> BetaCLIPConfig:
        """Returns a configuration of a tiny model."""
        return BetaCLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=32, **self.switches)

    def inputs(self) -> dict[str, Tensor]:
        """Returns the arguments of `forward`."""
        input_ids, attention_mask = texts([7] * self.batch_size)
        pixel_values = torch.rand(self.batch_size, 3, IMAGE_SIZE, IMAGE_SIZE)
        return {"input_ids": input_ids, "attention_mask": attention_mask, "pixel_values": pixel_values}

    def prepare_config_and_inputs_for_common(self) -> tuple[BetaCLIPConfig, dict[str, Tensor]]:
        """Returns the configuration and the arguments of `forward`, as transformers' tests ask for them."""
        return self.get_config(), self.inputs()


class FlatInputs(PlainInputs):
    """
    Seven images and 14 texts, for a model with a pooler.

    The first seventh of each tensor is the first image with all that belongs to it: transformers' test of batching cuts
    it out. Seven images and the first seven texts are also a plain batch.
    """

    switches: ClassVar[dict[str, Any]] = {}

    def inputs(self) -> dict[str, Tensor]:
        """Returns the arguments of `forward`."""
        input_ids, attention_mask = texts([7, 5, 3, 6, 7, 4, 6, 5, 7, 7, 3, 4, 6, 5])
        return {
            **super().inputs(),
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "image_index": torch.tensor([0, 0, 1, 2, 2, 2, 3, 3, 4, 5, 5, 5, 6, 6]),
            "granularity": torch.tensor([0, 2, 0, 0, 1, 2, 0, 2, 0, 0, 1, 1, 0, 2]),
        }


class RegionInputs(FlatInputs):
    """The same with boxes, their texts and hard negatives, for a model with every part."""

    switches: ClassVar[dict[str, Any]] = {"use_long_text_path": True, "use_regions": True}

    def inputs(self) -> dict[str, Tensor]:
        """Returns the arguments of `forward`."""
        region_input_ids, region_attention_mask = texts([4, 5, 3, 4, 4, 5, 3])
        hard_input_ids, hard_attention_mask = texts([4, 4, 3, 5, 4, 3, 3, 4, 5, 5, 4, 4, 3, 5])
        corners = torch.rand(self.batch_size, 2, 2).sort(dim=1).values
        return {
            **super().inputs(),
            "boxes": corners.flatten(1),
            "region_image_index": torch.tensor([0, 2, 2, 3, 5, 6, 6]),
            "region_input_ids": region_input_ids,
            "region_attention_mask": region_attention_mask,
            "hard_input_ids": hard_input_ids,
            "hard_attention_mask": hard_attention_mask,
            "hard_region_index": torch.tensor([0, 0, 1, 1, 1, 3, 3, 3, 3, 4, 4, 4, 4, 4]),
        }
