"""A tiny model on SigLIP 2 towers, and flat batches for it: images of several grids, texts of all paths, regions."""

import torch

from beta_clip_hf import BetaSiglip2Config, BetaSiglip2Model


TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT = {
    **TOWER,
    "vocab_size": 99,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "max_position_embeddings": 8,
}
GRIDS = torch.tensor([[3, 5], [4, 4], [1, 7]])
# Caption, sentence, phrase, short caption; the phrase of the third image repeats the sentence of the first.
IMAGE_INDEX = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
GRANULARITY = torch.tensor([0, 1, 2, 3, 0, 2, 3, 0, 2, 3])
LONG, SHORT = 20, 8


def tiny_config(num_positions: int = SHORT, **changes) -> BetaSiglip2Config:
    text = {**TEXT, "max_position_embeddings": num_positions}
    vision = {**TOWER, "patch_size": 4, "num_patches": 64}
    settings = {"use_pooler": True, "use_regions": True, "long_text_max_position_embeddings": LONG, **changes}
    return BetaSiglip2Config(text_config=text, vision_config=vision, **settings)


def tiny_model(**changes) -> BetaSiglip2Model:
    """A model all of whose parameters are random, also those that start from 0 or 1."""
    torch.manual_seed(0)
    model = BetaSiglip2Model(tiny_config(**changes))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "logit" not in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
        model.logit_scale.fill_(1.5)
        model.logit_bias.fill_(-2.0)
        for name in ("region_logit_scale", "hard_negative_logit_scale"):
            if hasattr(model, name):
                getattr(model, name).fill_(1.2)
    return model.eval()


def padded_texts(lengths, columns, seed=0):
    """Random texts, each with its end token, padded with 0."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.zeros(len(lengths), columns, dtype=torch.int64)
    for row, length in zip(ids, lengths, strict=True):
        row[: length - 1] = torch.randint(3, 99, (length - 1,), generator=generator)
        row[length - 1] = 1
    return ids


def flat_batch(dtype=torch.float32):
    """The batch: 3 images of 18 slots, 10 texts, 4 boxes with texts, 2 of them flagged."""
    generator = torch.Generator().manual_seed(1)
    mask = (torch.arange(18) < GRIDS.prod(dim=1)[:, None]).long()
    ids = padded_texts([15, 4, 3, 8, 20, 3, 5, 11, 4, 6], LONG)
    ids[8] = ids[1]
    corner = torch.rand(4, 2, generator=generator) * 0.5
    boxes = torch.cat([corner, corner + 0.1 + torch.rand(4, 2, generator=generator) * 0.4], dim=1)
    return {
        "pixel_values": torch.randn(3, 18, 48, generator=generator, dtype=dtype) * mask[..., None],
        "pixel_attention_mask": mask,
        "spatial_shapes": GRIDS,
        "input_ids": ids,
        "image_index": IMAGE_INDEX,
        "granularity": GRANULARITY,
        "boxes": boxes.to(dtype),
        "region_image_index": torch.tensor([0, 0, 1, 2]),
        "region_input_ids": padded_texts([3, 4, 3, 5], SHORT, seed=2),
        "hard_input_ids": padded_texts([3, 4, 3, 5, 4], SHORT, seed=3),
        "hard_region_index": torch.tensor([0, 0, 0, 3, 3]),
        "return_loss": True,
    }
