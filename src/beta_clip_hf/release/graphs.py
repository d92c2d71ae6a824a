"""A model in parts that can be exported: tensors in, tensors out, no list, and no shape that depends on a value."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..data.scenes import SceneDataset
from ..model.modeling_beta_clip import BetaCLIPModel
from ..model.pooler_beta_clip import TextConditionedPooler
from ..model.ragged_beta_clip import ImageSlots
from ..model.regions_beta_clip import grid_boxes, roi_align
from ..model.towers_beta_clip import CLIPTowers
from ..model.unit_vectors_beta_clip import normalize


# Example boxes, in shares of the image's sides. One ends beyond the image. None is empty: the export is compared by
# cosines, which an embedding of zeros does not have.
SAMPLE_BOXES = [[0, 0, 1, 1], [0.1, 0.2, 0.45, 0.9], [0.5, 0.5, 0.55, 0.52], [-0.1, 0.3, 0.4, 1.2], [0.3, 0, 0.9, 0.2]]
# The images of example texts and boxes in any order: one has none, and one has more than the others.
SAMPLE_INDEX = torch.tensor([3, 1, 0, 3, 3, 1, 0, 3])


class ImageGraph(nn.Module):
    """Turns pixels `(B, 3, height, width)` into CLS features `(B, D)` and patch features `(B, P, D)`, un-normalised."""

    # The model's own function. It needs no more of a model than this one has: the text tower is not exported along.
    encode_images = CLIPTowers.encode_images

    def __init__(self, model: BetaCLIPModel) -> None:
        super().__init__()
        self.vision_model = model.vision_model
        self.visual_projection = model.visual_projection
        self.block_runner = model.block_runner

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Computes the features of a batch of images."""
        return self.encode_images(pixel_values)


class TextGraph(nn.Module):
    """
    Turns `input_ids` `(T, L)`, right-padded, into text features `(T, D)`, un-normalised.

    Attention is causal and a text is read at its EOS, whichever of CLIP's rules finds that. Padding has no influence,
    so that there is no mask.
    """

    def __init__(self, model: BetaCLIPModel, path: str | None) -> None:
        super().__init__()
        self.text_model = model.text_model
        is_long = path == "long"
        self.projection: Any = model.text_projection
        # Without `position_ids` CLIP takes those of the short table.
        self.first_position = None
        if is_long:
            self.projection = model.long_text_projection
            # The long table of positions follows the short one.
            self.first_position = model.text_model.embeddings.position_embedding.num_embeddings

    def forward(self, input_ids: Tensor) -> Tensor:
        """Computes the features of a batch of texts."""
        positions = None
        if self.first_position is not None:
            positions = torch.arange(input_ids.shape[1], device=input_ids.device)[None] + self.first_position
        return self.projection(self.text_model(input_ids, position_ids=positions).pooler_output)


class PoolerGraph(nn.Module):
    """
    Turns patch features, text embeddings and the image of each text into contextualised embeddings and attention.

    Inputs are `patch_features` `(B, P, D)`, `text_embeds` `(T, D)`, normalised or not, and `image_index` `(T,)`.
    Outputs are the images as the texts see them, `(T, D)`, L2-normalised, and where each text looks, `(T, H, P)`. Keys
    and values are projected once per image, and then copied for each text: 2 · T · P · D numbers.
    """

    def __init__(self, pooler: TextConditionedPooler) -> None:
        super().__init__()
        self.pooler = pooler

    def forward(self, patch_features: Tensor, text_embeds: Tensor, image_index: Tensor) -> tuple[Tensor, Tensor]:
        """Pools each text's own image."""
        # The pooler's own forward lays texts out by image. How many slots that takes depends on values, which a graph
        # cannot express. Here each text is a batch row with a single query.
        pooler = self.pooler
        keys_BHPd, values_BHPd = pooler.project_patches(patch_features)
        queries_T1D = pooler.project_texts(text_embeds)[:, None]
        attended_T1D, weights_TH1P = pooler.attend(
            pooler.split_heads(queries_T1D), keys_BHPd[image_index], values_BHPd[image_index], output_attentions=True
        )
        assert weights_TH1P is not None
        return normalize(pooler.transform(attended_T1D[:, 0])), weights_TH1P[:, :, 0]


class RegionGraph(nn.Module):
    """
    Turns patch features and boxes into region features `(R, D)`, un-normalised.

    Inputs are `patch_features` `(B, P, D)`, `boxes` `(R, 4)`, x1 y1 x2 y2 in shares of the image's sides, and
    `image_index` `(R,)`. It is RoIAlign with as many samples as a box is long.
    """

    def __init__(self, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid = grid

    def forward(self, patch_features: Tensor, boxes: Tensor, image_index: Tensor) -> Tensor:
        """Computes the features of boxes."""
        boxes_R4 = grid_boxes(boxes, "xyxy_normalized", (1, 1), self.grid)
        # The image is copied for each box, so that every image has a single slot, whatever the index holds.
        slots = ImageSlots(torch.arange(boxes.shape[0], device=boxes.device), 1)
        return roi_align(patch_features[image_index], boxes_R4, image_index, self.grid, slots)


class Graph(NamedTuple):
    """One part of a model, with an example."""

    module: nn.Module
    inputs: dict[str, Tensor]
    """An example of each input."""
    axes: dict[str, dict[int, str]]
    """For each input the axes that may have any length, with their names."""
    expected: dict[str, Tensor]
    """What the methods of the model give for the example, by the names of the outputs."""

    @property
    def shapes(self) -> dict[str, list[str | int]]:
        """The shape of each input, with a name for an axis that may have any length."""
        shapes = {}
        for name, tensor in self.inputs.items():
            shapes[name] = [self.axes[name].get(axis, size) for axis, size in enumerate(tensor.shape)]
        return shapes


@torch.no_grad()
def graphs_of(model: BetaCLIPModel, processor: Any, path: str | None) -> dict[str, Graph]:
    """
    Takes a model apart, with four generated scenes and their captions as the examples.

    Args:
        model: In float32 and in evaluation mode.
        processor: The processor of the model.
        path: The text path of a model with two.

    Returns:
        The parts by name: `image`, `text`, `pooler` if the model has one, and `regions`.
    """
    rows = sample_rows()
    captions = [row["caption"] for row in rows]
    short_captions = [row["short_caption"] for row in rows]
    pixels = processor(images=[row["image"] for row in rows], return_tensors="pt")["pixel_values"]
    tokens = processor(text=captions + short_captions, path=path, padding=True, return_tensors="pt")
    image_embeds = model.get_image_features(pixels).pooler_output
    patches = model.get_patch_features(pixels)
    text_embeds = model.get_text_features(**tokens, path=path).pooler_output

    graphs = {
        "image": Graph(
            module=ImageGraph(model),
            inputs={"pixel_values": pixels},
            axes={"pixel_values": {0: "images"}},
            expected={"image_embeds": image_embeds, "patch_features": patches},
        ),
        "text": Graph(
            module=TextGraph(model, path),
            inputs={"input_ids": tokens["input_ids"]},
            axes={"input_ids": {0: "texts", 1: "length"}},
            expected={"text_embeds": text_embeds},
        ),
    }
    if model.pooler is not None:
        inputs = {"patch_features": patches, "text_embeds": text_embeds, "image_index": SAMPLE_INDEX}
        pooled, attention = model.get_text_conditioned_image_features(**inputs, output_attentions=True)
        graphs["pooler"] = Graph(
            module=PoolerGraph(model.pooler),
            inputs=inputs,
            axes={"patch_features": {0: "images"}, "text_embeds": {0: "texts"}, "image_index": {0: "texts"}},
            expected={"contextualized_embeds": pooled, "attention": attention},
        )
    graphs["regions"] = _region_graph(model, pixels, patches)
    return graphs


def sample_rows() -> list[dict[str, Any]]:
    """Returns the rows of four generated scenes, the examples of all graphs."""
    scenes = SceneDataset(4, level="easy")
    return [scenes[index] for index in range(len(scenes))]


def _region_graph(model: BetaCLIPModel, pixels: Tensor, patches: Tensor) -> Graph:
    """Makes the part for regions, with the sample boxes on the first images of the index."""
    boxes = torch.tensor(SAMPLE_BOXES)
    image_index = SAMPLE_INDEX[: len(boxes)]
    side = model.config.vision_config.image_size // model.config.vision_config.patch_size
    return Graph(
        module=RegionGraph((side, side)),
        inputs={"patch_features": patches, "boxes": boxes, "image_index": image_index},
        axes={"patch_features": {0: "images"}, "boxes": {0: "boxes"}, "image_index": {0: "boxes"}},
        expected={"region_embeds": model.get_region_features(pixels, boxes, image_index)},
    )
