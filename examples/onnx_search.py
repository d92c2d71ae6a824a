"""Search photos with the graphs of `beta-clip export onnx`: `python examples/onnx_search.py EXPORTED PHOTOS TEXT`."""

import json
import sys
from pathlib import Path

import numpy as np
from onnxruntime import InferenceSession
from PIL import Image
from tokenizers import Tokenizer


def pixels(path: Path, how: dict) -> np.ndarray:
    """(3, S, S): a photo resized, cropped and normalised as the model was trained on."""
    image, resize, crop = Image.open(path).convert("RGB"), how["resize"], how["center_crop"]
    if resize:
        short = min(image.size)  # the other side is as long as it takes
        width, height = (int(resize.get("shortest_edge", 0) * side / short) for side in image.size)
        image = image.resize((resize.get("width", width), resize.get("height", height)), how["resample"])
    if crop:
        left, top = (image.width - crop["width"]) // 2, (image.height - crop["height"]) // 2
        image = image.crop((left, top, left + crop["width"], top + crop["height"]))
    values = (np.asarray(image, np.float32) * how["rescale_factor"] - how["mean"]) / how["std"]
    return values.transpose(2, 0, 1).astype(np.float32)


def unit(embeds: np.ndarray) -> np.ndarray:
    return embeds / np.linalg.norm(embeds, axis=-1, keepdims=True)


folder, photos, text = Path(sys.argv[1]), sorted(Path(sys.argv[2]).glob("*.[jp][pn]*g")), sys.argv[3]
about = json.loads((folder / "export.json").read_text())
run = {name: InferenceSession(folder / graph["file"]).run for name, graph in about["graphs"].items()}
tokens = Tokenizer.from_file(str(folder / "tokenizer.json")).encode_batch([text])
text_embeds = run["text"](None, {"input_ids": np.array([one.ids for one in tokens])})[0]
batch = np.stack([pixels(photo, about["image"]) for photo in photos])
image_embeds, patch_features = run["image"](None, {"pixel_values": batch})
scores = (unit(image_embeds) @ unit(text_embeds).T)[:, 0]
best = np.argsort(-scores)[:20]
if "pooler" in run:  # the best once more, each as the text sees it
    texts, index = np.repeat(text_embeds, len(best), axis=0), np.arange(len(best))
    inputs = {"patch_features": patch_features[best], "text_embeds": texts, "image_index": index}
    scores[best] = run["pooler"](None, inputs)[0] @ unit(text_embeds)[0]
    best = best[np.argsort(-scores[best])]
for place in best:
    sys.stdout.write(f"{scores[place]:.4f}  {photos[place].name}\n")
