"""A tiny model on SigLIP 2 towers whose pooler looks at places, images of several grids, and its scores in loops."""

from pathlib import Path

import torch
from PIL import Image
from torch.nn.functional import normalize
from transformers import SiglipImageProcessorPil

from beta_clip_hf import BetaSiglip2Model, BetaSiglip2Processor
from beta_clip_hf.inference.windows import window_sides
from model.fg_clip2_cases import word_tokenizer
from model.siglip2_batches import tiny_model


PATCH = 4
# Wide, high, one row, one column, a single patch, square.
SIZES = [(60, 40), (24, 44), (400, 4), (4, 300), (3, 3), (32, 32)]
KINDS = ("any grid", "budgets", "one size")


def model_folder(folder: Path, kind: str) -> Path:
    """
    Saves a model with a pooler and its processor.

    Args:
        folder: A new directory.
        kind: One of `KINDS`: images of up to 40 patches; of as many as each of them needs; all squashed to 4 × 4.
    """
    model = tiny_model()
    with torch.no_grad():
        for projection in (model.pooler.q_proj, model.pooler.k_proj):
            projection.weight.normal_(std=1.0)
    model.save_pretrained(folder)
    lengths = {"max_length": 8, "long_max_length": 20}
    if kind == "one size":
        image_processor = SiglipImageProcessorPil(size={"height": 16, "width": 16})
        processor = BetaSiglip2Processor(image_processor, word_tokenizer(), **lengths)
    else:
        lengths |= {"max_num_patches": 40} if kind == "any grid" else {"dynamic_max_patches": True}
        processor = BetaSiglip2Processor.from_patch_size(word_tokenizer(), patch_size=PATCH, **lengths)
    processor.save_pretrained(folder)
    return folder


def loaded(folder: Path) -> tuple[BetaSiglip2Model, BetaSiglip2Processor]:
    return BetaSiglip2Model.from_pretrained(folder).eval(), BetaSiglip2Processor.from_pretrained(folder)


def noise_images(sizes=SIZES) -> list[Image.Image]:
    generator = torch.Generator().manual_seed(3)
    images = []
    for width, height in sizes:
        # Few large spots: noise of single pixels is all alike once it is resized.
        spots = torch.randint(256, (3, 3, 3), generator=generator, dtype=torch.uint8).numpy()
        images.append(Image.fromarray(spots).resize((width, height), Image.Resampling.NEAREST))
    return images


class Alone:
    """What the model sees of one image alone, in float64 and without padding."""

    def __init__(self, model: BetaSiglip2Model, processor: BetaSiglip2Processor, image: Image.Image) -> None:
        inputs = dict(processor(images=[image]))
        inputs["pixel_values"] = inputs["pixel_values"].double()
        with torch.no_grad():
            features_1D, patches = model.encode_images(**inputs)
        self.embed_D = features_1D[0]
        self.grid = tuple(patches.grid_sizes[0].tolist())
        self.patches_PD = patches.features[0, : self.grid[0] * self.grid[1]]


def embed_alone(model, processor, text, path):
    inputs = processor(text=[text], path=path)
    with torch.no_grad():
        return normalize(model.get_text_features(**inputs, path=path).pooler_output[0], dim=-1)


def window_in_loops(seen, text_D):
    """The best cosine of a text with the mean of a window."""
    best = -2.0
    map_YXD = seen.patches_PD.unflatten(0, seen.grid)
    for side in window_sides(seen.grid):
        for row in range(seen.grid[0] - side + 1):
            for column in range(seen.grid[1] - side + 1):
                mean_D = map_YXD[row : row + side, column : column + side].flatten(0, 1).mean(dim=0)
                best = max(best, float(torch.cosine_similarity(mean_D, text_D, dim=0)))
    return best


def pooled_in_loops(model, seen, text_D):
    """The cosine of a text with the image as it sees it, and where each head looks, (H, P)."""
    with torch.no_grad():
        first = torch.zeros(1, dtype=torch.int64)
        pooled_1D, attention_1HP = model.pooler(text_D[None], seen.patches_PD[None], first, output_attentions=True)
    return float(torch.cosine_similarity(pooled_1D[0], text_D, dim=0)), attention_1HP[0]


def scores_in_loops(model, processor, images, hierarchies, weights, place, caption_path="long"):
    """The hierarchical scores, (B, T); the model is in float64."""
    scores = torch.zeros(len(images), len(hierarchies), dtype=torch.float64)
    for i, image in enumerate(images):
        seen = Alone(model, processor, image)
        for t, hierarchy in enumerate(hierarchies):
            caption_D = embed_alone(model, processor, hierarchy.caption, caption_path)
            parts = {"short": hierarchy.sentences, "box": hierarchy.phrases}
            means = []
            for path, texts in parts.items():
                part_scores = []
                for text in texts:
                    text_D = embed_alone(model, processor, text, path)
                    if place == "window":
                        part_scores.append(window_in_loops(seen, text_D))
                    else:
                        part_scores.append(pooled_in_loops(model, seen, text_D)[0])
                # A text without phrases has its sentences in their place.
                means.append(sum(part_scores) / len(part_scores) if part_scores else means[0])
            caption = float(torch.cosine_similarity(seen.embed_D, caption_D, dim=0))
            scores[i, t] = weights[0] * caption + weights[1] * means[0] + weights[2] * means[1]
    return scores
