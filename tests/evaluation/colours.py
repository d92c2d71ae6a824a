"""A model that can be seen through: images are embedded as their mean colour, texts as the colour they name.

The fourth number of a patch is constant: a nearly black patch is then like no colour at all.
"""

from types import SimpleNamespace

import torch
from torch import nn
from torch.nn import functional as F
from transformers import BatchFeature, CLIPImageProcessorPil


COLOURS = {"red": (1.0, 0.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0, 0.0), "blue": (0.0, 0.0, 1.0, 0.0)}
SIZE, PATCH = 32, 4


class ColourProcessor:
    def __init__(self):
        size = {"size": {"shortest_edge": SIZE}, "crop_size": {"height": SIZE, "width": SIZE}}
        self.image_processor = CLIPImageProcessorPil(do_normalize=False, **size)
        self.tokenizer = SimpleNamespace(model_max_length=1)

    def __call__(self, text, **lengths):
        return BatchFeature({"input_ids": torch.tensor([[list(COLOURS).index(name)] for name in text])})


class ColourModel(nn.Module):
    """Its pooler hands the text itself back, as one that has learnt nothing but to leak would."""

    device, dtype = torch.device("cpu"), torch.float32
    config = SimpleNamespace(
        model_type="colours",
        projection_dim=4,
        vision_config=SimpleNamespace(patch_size=PATCH),
        text_config=SimpleNamespace(max_position_embeddings=1),
    )
    pooler = "not None"

    def get_text_features(self, input_ids):
        return SimpleNamespace(pooler_output=torch.tensor(list(COLOURS.values()))[input_ids[:, 0]])

    def encode_images(self, pixel_values):
        patches = F.avg_pool2d(pixel_values, PATCH).flatten(2).transpose(1, 2)
        return F.pad(pixel_values.mean(dim=(2, 3)), (0, 1)), F.pad(patches, (0, 1), value=1.0)

    def get_text_conditioned_image_features(self, patch_features, text_embeds, image_index, output_attentions=False):
        match_TP = torch.einsum("tpd,td->tp", patch_features[image_index], text_embeds)
        attention_TP = match_TP / match_TP.sum(dim=1, keepdim=True).clamp(min=1e-9)
        return (text_embeds, attention_TP[:, None].expand(-1, 2, -1)) if output_attentions else text_embeds

    def score_pairs(self, patch_features, text_embeds):
        return (text_embeds * text_embeds).sum(dim=-1).expand(len(patch_features), -1)
