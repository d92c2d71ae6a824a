"""
Measures what float16 and int8 cost a model that is exported to ONNX, on generated scenes. See docs/release.md.

    beta-clip export onnx runs/demo/model runs/onnx/float32
    beta-clip export onnx runs/demo/model runs/onnx/float16 --dtype float16
    beta-clip export onnx runs/demo/model runs/onnx/int8 --dtype int8
    python benchmarks/onnx_precision.py --model runs/demo/model --graphs runs/onnx
"""

import argparse
from pathlib import Path

import numpy as np
from onnxruntime import InferenceSession

from beta_clip_hf import BetaCLIPProcessor, SceneDataset


DTYPES = ("float32", "float16", "int8")


def unit(embeds: np.ndarray) -> np.ndarray:
    """Returns vectors of length 1."""
    return embeds / np.linalg.norm(embeds, axis=-1, keepdims=True)


def embed(folder: Path, pixels: np.ndarray, ids: np.ndarray) -> dict[str, np.ndarray]:
    """Embeds images and texts in ten parts each, so that no part needs much memory."""
    image_graph = InferenceSession(folder / "image.onnx")
    text_graph = InferenceSession(folder / "text.onnx")
    images, patches, texts = [], [], []
    for pixel_part, id_part in zip(np.array_split(pixels, 10), np.array_split(ids, 10), strict=True):
        image_embeds, patch_features = image_graph.run(None, {"pixel_values": pixel_part})
        (text_embeds,) = text_graph.run(None, {"input_ids": id_part})
        images.append(image_embeds)
        patches.append(patch_features)
        texts.append(text_embeds)
    return {"image": np.concatenate(images), "patch": np.concatenate(patches), "text": np.concatenate(texts)}


def conditioned_hits(folder: Path, embeds: dict[str, np.ndarray], num_texts: int) -> float:
    """Returns the share of the first texts whose own image has the best text-conditioned score of all images."""
    pooler = InferenceSession(folder / "pooler.onnx")
    num_images = len(embeds["image"])
    inputs = {"patch_features": embeds["patch"], "image_index": np.arange(num_images)}
    hits = 0
    for index, text in enumerate(embeds["text"][:num_texts]):
        contextualized, _ = pooler.run(None, {**inputs, "text_embeds": np.tile(text, (num_images, 1))})
        hits += int(np.argmax(contextualized @ unit(text)) == index)
    return hits / num_texts


def main() -> None:
    """Prints a row for each dtype."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="model directory that was exported")
    parser.add_argument("--graphs", type=Path, required=True, help="folder with one export per dtype")
    parser.add_argument("--scenes", type=int, default=500, help="number of scenes")
    parser.add_argument("--conditioned", type=int, default=200, help="texts that are scored with every image")
    arguments = parser.parse_args()

    processor = BetaCLIPProcessor.from_pretrained(arguments.model)
    scenes = SceneDataset(arguments.scenes, seed=1, level="easy")
    rows = [scenes[index] for index in range(len(scenes))]
    pixels = processor(images=[row["image"] for row in rows], return_tensors="np")["pixel_values"]
    ids = processor(text=[row["caption"] for row in rows], padding=True, return_tensors="np")["input_ids"]
    diagonal = np.arange(len(rows))
    reference: dict[str, np.ndarray] = {}
    print("dtype, lowest cosine to float32 (image, patch, text), image to text, text to image, text-conditioned")
    for dtype in DTYPES:
        embeds = embed(arguments.graphs / dtype, pixels, ids)
        reference = reference or embeds
        lowest = [float((unit(embeds[name]) * unit(reference[name])).sum(-1).min()) for name in embeds]
        cosines = unit(embeds["image"]) @ unit(embeds["text"]).T
        recalls = [(cosines.argmax(axis=1) == diagonal).mean(), (cosines.argmax(axis=0) == diagonal).mean()]
        recalls.append(conditioned_hits(arguments.graphs / dtype, embeds, arguments.conditioned))
        print(dtype, *(f"{cosine:.4f}" for cosine in lowest), *(f"{100 * recall:.1f}" for recall in recalls))


if __name__ == "__main__":
    main()
