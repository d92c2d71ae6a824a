"""A model on SigLIP 2 towers in parts that can be exported: images of one grid, texts of one path."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..model.configuration_beta_siglip2 import SIGLIP_TEXT_PATHS
from ..model.modeling_beta_siglip2 import BetaSiglip2Model
from ..model.towers_beta_siglip2 import patches_of
from .graphs import SAMPLE_BOXES, SAMPLE_INDEX, Graph, PoolerGraph, RegionGraph, sample_rows


class FixedGridImageGraph(nn.Module):
    """
    Turns pixels `(B, 3, height, width)` into image features `(B, D)` and patch features `(B, P, D)`, un-normalised.

    All images have one grid, so that the resized positions are a constant and nothing is padded.

    Args:
        model: The model.
        grid: Rows and columns of patches.
    """

    positions_1PD: Tensor

    def __init__(self, model: BetaSiglip2Model, grid: tuple[int, int]) -> None:
        super().__init__()
        tower: Any = model.vision_model
        embeddings = tower.embeddings
        self.patch_size = model.config.vision_config.patch_size
        self.patch_embedding = embeddings.patch_embedding
        self.layers = tower.encoder.layers
        self.post_layernorm = tower.post_layernorm
        self.head = tower.head
        self.patch_head = model.patch_head
        side = embeddings.position_embedding_size
        table = embeddings.position_embedding.weight.detach().reshape(side, side, -1)
        positions_1PD = embeddings.resize_positional_embeddings(table, torch.tensor([grid]), grid[0] * grid[1])
        self.register_buffer("positions_1PD", positions_1PD.clone())

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Computes the features of a batch of images."""
        patches, _ = patches_of(pixel_values, self.patch_size)
        hidden_states = self.patch_embedding(patches) + self.positions_1PD
        for layer in self.layers:
            hidden_states = layer(hidden_states, None)
        hidden_states = self.post_layernorm(hidden_states)
        image_features: Tensor = self.head(hidden_states)
        return image_features, self.patch_head(hidden_states)


class PathTextGraph(nn.Module):
    """
    Turns `input_ids` `(T, L)` into text features `(T, D)`, un-normalised. L is all positions of the path.

    Args:
        model: The model.
        path: The text path.
    """

    positions_LW: Tensor

    def __init__(self, model: BetaSiglip2Model, path: str) -> None:
        super().__init__()
        tower: Any = model.text_model
        embeddings = tower.embeddings
        self.token_embedding = embeddings.token_embedding
        *first_layers, last_layer = tower.encoder.layers
        self.first_layers = nn.ModuleList(first_layers)
        self.last_layer = last_layer
        self.final_layer_norm = tower.final_layer_norm
        self.head = {"short": tower.head, "long": model.long_text_head, "box": model.box_text_head}[path]
        table = embeddings.long_position_embedding if path == "long" else embeddings.position_embedding
        self.register_buffer("positions_LW", table.weight.detach().clone())

    def forward(self, input_ids: Tensor) -> Tensor:
        """Computes the features of a batch of texts."""
        hidden_states = self.token_embedding(input_ids) + self.positions_LW
        for layer in self.first_layers:
            hidden_states = layer(hidden_states, None)
        # The last position alone is read.
        last_TW = self.final_layer_norm(self.last_layer(hidden_states, None, last_only=True))
        features_TD: Tensor = self.head(last_TW)
        return features_TD


def checked_path(path: str | None) -> str:
    """Returns the text path of an export, "short" by default. Raises `ValueError` if there is no such path."""
    if path is not None and path not in SIGLIP_TEXT_PATHS:
        raise ValueError(f"path must be one of {SIGLIP_TEXT_PATHS}, but is {path!r}")
    return path or "short"


def checked_grid(model: BetaSiglip2Model, grid: tuple[int, int] | None) -> tuple[int, int]:
    """
    Returns the grid of an export; by default the square that the table of positions was made for.

    Raises:
        ValueError: if a side has no patch.
    """
    if grid is None:
        side = int(model.config.vision_config.num_patches**0.5)
        return side, side
    rows, columns = grid
    if rows < 1 or columns < 1:
        raise ValueError(f"grid must have at least 1 row and 1 column, but is {rows} × {columns}")
    return rows, columns


@torch.no_grad()
def graphs_of_siglip2(
    model: BetaSiglip2Model, processor: Any, path: str, grid: tuple[int, int], image_settings: dict[str, Any]
) -> dict[str, Graph]:
    """
    Takes a model apart, with four generated scenes and their captions as the examples.

    Args:
        model: In float32 and in evaluation mode.
        processor: The processor of the model.
        path: The text path.
        grid: Rows and columns of patches of all images.
        image_settings: How an image becomes pixels, as `export.json` describes it.

    Returns:
        The parts by name: `image`, `text`, `pooler` if the model has one, and `regions`.
    """
    rows = sample_rows()
    pixels = torch.stack([_pixels(row["image"], image_settings) for row in rows])
    texts = [row["caption"] for row in rows] + [row["short_caption"] for row in rows]
    input_ids = processor.tokenize(texts, path)
    patches = model.get_patch_features(pixels)
    text_embeds = model.get_text_features(input_ids, path=path).pooler_output

    graphs = {
        "image": Graph(
            module=FixedGridImageGraph(model, grid),
            inputs={"pixel_values": pixels},
            axes={"pixel_values": {0: "images"}},
            expected={
                "image_embeds": model.get_image_features(pixels).pooler_output,
                "patch_features": patches.features,
            },
        ),
        "text": Graph(
            module=PathTextGraph(model, path),
            inputs={"input_ids": input_ids},
            axes={"input_ids": {0: "texts"}},
            expected={"text_embeds": text_embeds},
        ),
    }
    if model.pooler is not None:
        pooled, attention = model.get_text_conditioned_image_features(
            patch_features=patches, text_embeds=text_embeds, image_index=SAMPLE_INDEX, output_attentions=True
        )
        graphs["pooler"] = Graph(
            module=PoolerGraph(model.pooler),
            inputs={"patch_features": patches.features, "text_embeds": text_embeds, "image_index": SAMPLE_INDEX},
            axes={"patch_features": {0: "images"}, "text_embeds": {0: "texts"}, "image_index": {0: "texts"}},
            expected={"contextualized_embeds": pooled, "attention": attention},
        )
    boxes = torch.tensor(SAMPLE_BOXES)
    index = SAMPLE_INDEX[: len(boxes)]
    graphs["regions"] = Graph(
        module=RegionGraph(grid),
        inputs={"patch_features": patches.features, "boxes": boxes, "image_index": index},
        axes={"patch_features": {0: "images"}, "boxes": {0: "boxes"}, "image_index": {0: "boxes"}},
        expected={"region_embeds": model.get_region_features(pixels, boxes, index)},
    )
    return graphs


def _pixels(image: Image.Image, settings: dict[str, Any]) -> Tensor:
    """Makes pixels `(3, height, width)` of an image, as whoever uses the graphs does it."""
    height, width = settings["size"]
    resized = image.convert("RGB").resize((width, height), settings["resample"])
    values = np.asarray(resized, np.float32) * settings["rescale_factor"]
    values = (values - settings["mean"]) / settings["std"]
    return torch.from_numpy(values.transpose(2, 0, 1).astype(np.float32))


def standalone_tokenizer(processor: Any, path: str) -> Any:
    """
    Makes a tokenizer of the library `tokenizers` that does all of `BetaSiglip2Processor.tokenize`.

    It lowers texts, cuts them, ends each, and fills it up to all positions of the path.
    """
    from tokenizers import Tokenizer, normalizers, processors

    tokenizer = processor.tokenizer
    length = processor.text_positions(path)
    plain = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    steps: list[Any] = [normalizers.Lowercase()]
    if plain.normalizer is not None:
        steps.append(plain.normalizer)
    plain.normalizer = normalizers.Sequence(steps)
    end = tokenizer.eos_token
    plain.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", special_tokens=[(end, tokenizer.eos_token_id)]
    )
    plain.enable_truncation(length)
    plain.enable_padding(pad_id=tokenizer.pad_token_id, pad_token=tokenizer.pad_token, length=length)
    return plain


__all__ = ["checked_grid", "checked_path", "graphs_of_siglip2", "standalone_tokenizer"]
