"""Searches photos with ONNX graphs, without torch: `python examples/onnx_search.py EXPORTED PHOTOS TEXT`.

EXPORTED is a directory that `beta-clip export onnx` has written.
"""

import json
import sys
from pathlib import Path

import numpy as np
from onnxruntime import InferenceSession
from PIL import Image, ImageOps
from tokenizers import Tokenizer


BATCH_SIZE, TOP = 16, 20


def read_pixels(path: Path, settings: dict) -> np.ndarray:
    """Returns (3, height, width): a photo turned upright, resized, cropped and normalised as in training."""
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    resize, crop = settings["resize"], settings["center_crop"]
    if resize:
        # Either both sides are fixed, or the shortest one; the other side then keeps the shape.
        scale = resize.get("shortest_edge", 0) / min(image.size)
        width = resize.get("width", int(scale * image.width))
        height = resize.get("height", int(scale * image.height))
        image = image.resize((width, height), settings["resample"])
    if crop:
        left, top = (image.width - crop["width"]) // 2, (image.height - crop["height"]) // 2
        image = image.crop((left, top, left + crop["width"], top + crop["height"]))
    values = np.asarray(image, np.float32) * settings["rescale_factor"]
    values = (values - settings["mean"]) / settings["std"]
    return values.transpose(2, 0, 1).astype(np.float32)


def encode_photos(photos: list[Path]) -> list[np.ndarray]:
    """Returns embeddings (N, D) and, if the model has a pooler, patch features (N, P, D)."""
    pixels = [read_pixels(photo, export["image"]) for photo in photos]
    return run["image"](None, {"pixel_values": np.stack(pixels)})


if len(sys.argv) != 4:
    sys.exit("usage: python examples/onnx_search.py EXPORTED PHOTOS TEXT")
folder = Path(sys.argv[1])
photos = sorted(path for path in Path(sys.argv[2]).iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
export = json.loads((folder / "export.json").read_text())
run = {name: InferenceSession(folder / graph["file"]).run for name, graph in export["graphs"].items()}

tokens = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(sys.argv[3])
text_embeds = run["text"](None, {"input_ids": np.array([tokens.ids])})[0]
text = text_embeds[0] / np.linalg.norm(text_embeds)
batches = [photos[first : first + BATCH_SIZE] for first in range(0, len(photos), BATCH_SIZE)]
embeds = np.concatenate([encode_photos(batch)[0] for batch in batches])
scores = embeds @ text / np.linalg.norm(embeds, axis=1)
best, kind = np.argsort(-scores)[:TOP], "cosine with the whole image"
if "pooler" in run:
    # Order the best again by how the text sees each of them. These scores are on another scale.
    patch_features = encode_photos([photos[index] for index in best])[1]
    texts = np.repeat(text_embeds, len(best), axis=0)
    inputs = {"patch_features": patch_features, "text_embeds": texts, "image_index": np.arange(len(best))}
    scores[best] = run["pooler"](None, inputs)[0] @ text
    best, kind = best[np.argsort(-scores[best])], "cosine with the image as the text sees it"
sys.stderr.write(f"the best {len(best)} of {len(photos)} photos, by {kind}\n")
sys.stdout.writelines(f"{scores[index]:.4f}  {photos[index].name}\n" for index in best)
