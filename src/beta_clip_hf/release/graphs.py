"""
A model in parts that can be exported: tensors in, tensors out, no list, and no shape that depends on a value.

Letters: B images, T texts, L tokens, P patches, D projection width, H heads, R boxes, S pixels.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..data.scenes import SceneDataset
from ..model.modeling_beta_clip import BetaCLIPModel
from ..model.pooler_beta_clip import TextConditionedPooler, normalize
from ..model.ragged_beta_clip import ImageSlots
from ..model.regions_beta_clip import grid_boxes, roi_align
from ..model.towers_beta_clip import CLIPTowers


# Shares of the sides; one ends beyond the image, none is empty: the cosine of nothing is none.
SAMPLE_BOXES = [[0, 0, 1, 1], [0.1, 0.2, 0.45, 0.9], [0.5, 0.5, 0.55, 0.52], [-0.1, 0.3, 0.4, 1.2], [0.3, 0, 0.9, 0.2]]


class ImageGraph(nn.Module):
    """`pixel_values` `(B, 3, S, S)` to CLS features `(B, D)` and patch features `(B, P, D)`, both un-normalised."""

    encode_images = CLIPTowers.encode_images

    def __init__(self, model: BetaCLIPModel) -> None:
        super().__init__()
        self.vision_model, self.visual_projection = model.vision_model, model.visual_projection

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        return self.encode_images(pixel_values)  # type: ignore[misc]  # it needs the two modules only


class TextGraph(nn.Module):
    """
    `input_ids` `(T, L)`, right-padded, to text features `(T, D)`, un-normalised. Attention is causal and a text is read
    at its EOS, whichever of CLIP's rules finds that: padding has no influence, so that there is no mask.
    """

    def __init__(self, model: BetaCLIPModel, path: str | None) -> None:
        super().__init__()
        self.text_model = model.text_model
        is_long = path == "long"
        self.projection: Any = model.long_text_projection if is_long else model.text_projection
        # The long table of positions stands behind the short one. Without `position_ids` CLIP takes its own.
        self.first_row = model.text_model.embeddings.position_embedding.num_embeddings if is_long else None

    def forward(self, input_ids: Tensor) -> Tensor:
        positions = None
        if self.first_row is not None:
            positions = torch.arange(input_ids.shape[1], device=input_ids.device)[None] + self.first_row
        return self.projection(self.text_model(input_ids, position_ids=positions).pooler_output)


class PoolerGraph(nn.Module):
    """
    `patch_features` `(B, P, D)`, `text_embeds` `(T, D)`, normalised or not, and `image_index` `(T,)` to the images as
    the texts see them, `(T, D)`, L2-normalised, and where each text looks, `(T, H, P)`. Keys and values are projected
    once per image, and then copied for each text: 2 · T · P · D numbers.
    """

    def __init__(self, pooler: TextConditionedPooler) -> None:
        super().__init__()
        self.pooler = pooler

    def forward(self, patch_features: Tensor, text_embeds: Tensor, image_index: Tensor) -> tuple[Tensor, Tensor]:
        pooler = self.pooler
        keys_BHPd, values_BHPd = pooler._keys_values(patch_features)
        queries_TH1d = pooler._heads(pooler._queries(text_embeds)[:, None])
        attended_T1D, weights_TH1P = pooler._attend(
            queries_TH1d, keys_BHPd[image_index], values_BHPd[image_index], output_attentions=True
        )
        assert weights_TH1P is not None
        return normalize(pooler._mlp(attended_T1D[:, 0])), weights_TH1P[:, :, 0]


class RegionGraph(nn.Module):
    """
    `patch_features` `(B, P, D)`, `boxes` `(R, 4)`, x1 y1 x2 y2 in shares of the image's sides, and `image_index` `(R,)`
    to region features `(R, D)`, un-normalised: RoIAlign, which takes as many samples as a box is long.
    """

    def __init__(self, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid = grid

    def forward(self, patch_features: Tensor, boxes: Tensor, image_index: Tensor) -> Tensor:
        boxes_R4 = grid_boxes(boxes, "xyxy_normalized", (1, 1), self.grid)
        slots = ImageSlots(torch.arange(boxes.shape[0], device=boxes.device), 1)  # an image for each box
        return roi_align(patch_features[image_index], boxes_R4, image_index, self.grid, slots)


class Graph(NamedTuple):
    """One part: its module, an example of each input, the names of their axes that may have any length, and what the
    methods of the model give for the example, by the names of the outputs."""

    module: nn.Module
    inputs: dict[str, Tensor]
    axes: dict[str, dict[int, str]]
    expected: dict[str, Tensor]

    @property
    def shapes(self) -> dict[str, list[str | int]]:
        """The shape of each input, with a name for what may have any length."""
        return {
            name: [self.axes[name].get(axis, size) for axis, size in enumerate(tensor.shape)]
            for name, tensor in self.inputs.items()
        }


@torch.no_grad()
def graphs_of(model: BetaCLIPModel, processor: Any, path: str | None) -> dict[str, Graph]:
    """
    The parts of a model by name: `image`, `text`, `pooler` if it has one, and `regions`. The examples are four
    generated scenes and their captions.

    Args:
        model: in float32 and in evaluation mode.
        processor: of the model.
        path: the text path of a model with two.
    """
    scenes = SceneDataset(4, level="easy")
    rows = [scenes[index] for index in range(len(scenes))]
    texts = [row["caption"] for row in rows] + [row["short_caption"] for row in rows]
    pixels = processor(images=[row["image"] for row in rows], return_tensors="pt")["pixel_values"]
    tokens = processor(text=texts, path=path, padding=True, return_tensors="pt")
    images, patches = model.get_image_features(pixels).pooler_output, model.get_patch_features(pixels)
    text_embeds = model.get_text_features(**tokens, path=path).pooler_output
    # Rows in any order, an image without any and one with most.
    index, boxes = torch.tensor([3, 1, 0, 3, 3, 1, 0, 3]), torch.tensor(SAMPLE_BOXES)

    side = model.config.vision_config.image_size // model.config.vision_config.patch_size
    graphs = {
        "image": Graph(
            ImageGraph(model),
            {"pixel_values": pixels},
            {"pixel_values": {0: "images"}},
            {"image_embeds": images, "patch_features": patches},
        ),
        "text": Graph(
            TextGraph(model, path),
            {"input_ids": tokens["input_ids"]},
            {"input_ids": {0: "texts", 1: "length"}},
            {"text_embeds": text_embeds},
        ),
    }
    if model.pooler is not None:
        inputs = {"patch_features": patches, "text_embeds": text_embeds, "image_index": index}
        pooled, attention = model.get_text_conditioned_image_features(**inputs, output_attentions=True)
        graphs["pooler"] = Graph(
            PoolerGraph(model.pooler),
            inputs,
            {"patch_features": {0: "images"}, "text_embeds": {0: "texts"}, "image_index": {0: "texts"}},
            {"contextualized_embeds": pooled, "attention": attention},
        )
    index = index[: len(boxes)]
    graphs["regions"] = Graph(
        RegionGraph((side, side)),
        {"patch_features": patches, "boxes": boxes, "image_index": index},
        {"patch_features": {0: "images"}, "boxes": {0: "boxes"}, "image_index": {0: "boxes"}},
        {"region_embeds": model.get_region_features(pixels, boxes, index)},
    )
    return graphs
