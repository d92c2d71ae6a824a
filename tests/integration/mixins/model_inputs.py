"""Configurations and inputs for transformers' tests of models: what these call a model tester."""

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from beta_clip_hf import BetaCLIPConfig, BetaSiglip2Config


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


class PlainSiglip2Inputs(PlainInputs):
    """The same texts on SigLIP 2 towers, with images of seven grids."""

    # All paths have as many positions: transformers' tests make a plain batch, of the short path, of any texts.
    num_positions = 7
    grids = ((3, 5), (4, 4), (1, 7), (5, 3), (2, 2), (1, 1), (16, 1))

    def get_config(self) -> BetaSiglip2Config:
        """Returns a configuration of a tiny model."""
        text = {**TEXT, "max_position_embeddings": self.num_positions}
        vision = {**TOWER, "patch_size": 4, "num_patches": 16}
        positions = {"long_text_max_position_embeddings": self.num_positions}
        return BetaSiglip2Config(text_config=text, vision_config=vision, **positions, **self.switches)

    def inputs(self) -> dict[str, Tensor]:
        """Returns the arguments of `forward`."""
        batch = {}
        for name, tensor in super().inputs().items():
            # Padding is attended to, up to all positions of a path.
            if name.endswith("input_ids"):
                batch[name] = pad(tensor, (0, self.num_positions - tensor.shape[1]))
            elif not name.endswith("attention_mask"):
                batch[name] = tensor
        grid_sizes = torch.tensor(self.grids)
        mask = (torch.arange(16) < grid_sizes.prod(dim=1)[:, None]).to(torch.int64)
        images = {"pixel_attention_mask": mask, "spatial_shapes": grid_sizes}
        return {**batch, "pixel_values": torch.rand(self.batch_size, 16, 48) * mask[:, :, None], **images}


class FlatSiglip2Inputs(PlainSiglip2Inputs, FlatInputs):
    """The flat batch on SigLIP 2 towers, for a model with a pooler."""

    switches: ClassVar[dict[str, Any]] = {"use_pooler": True}


class RegionSiglip2Inputs(PlainSiglip2Inputs, RegionInputs):
    """The batch with regions on SigLIP 2 towers, for a model with every part."""

    switches: ClassVar[dict[str, Any]] = {"use_pooler": True, "use_regions": True}
