"""Search photos with the graphs of `beta-clip export onnx`: `python examples/onnx_search.py EXPORTED PHOTOS TEXT`."""

import json
import sys
from pathlib import Path

import numpy as np
from onnxruntime import InferenceSession
from PIL import Image, ImageOps
from tokenizers import Tokenizer


def pixels(path: Path, how: dict) -> np.ndarray:
    """(3, S, S): a photo turned upright, resized, cropped and normalised as the model was trained on."""
    image, resize, crop = ImageOps.exif_transpose(Image.open(path)).convert("RGB"), how["resize"], how["center_crop"]
    if resize:  # of the shortest edge alone, the other side is as long as it takes
        width, height = (int(resize.get("shortest_edge", 0) * side / min(image.size)) for side in image.size)
        image = image.resize((resize.get("width", width), resize.get("height", height)), how["resample"])
    if crop:
        left, top = (image.width - crop["width"]) // 2, (image.height - crop["height"]) // 2
        image = image.crop((left, top, left + crop["width"], top + crop["height"]))
    values = (np.asarray(image, np.float32) * how["rescale_factor"] - how["mean"]) / how["std"]
    return values.transpose(2, 0, 1).astype(np.float32)


def encode(photos: list[Path]) -> list[np.ndarray]:
    return run["image"](None, {"pixel_values": np.stack([pixels(photo, about["image"]) for photo in photos])})


if len(sys.argv) != 4:
    sys.exit("usage: python examples/onnx_search.py EXPORTED PHOTOS TEXT")
folder = Path(sys.argv[1])
photos = sorted(path for path in Path(sys.argv[2]).iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
about = json.loads((folder / "export.json").read_text())
run = {name: InferenceSession(folder / graph["file"]).run for name, graph in about["graphs"].items()}
tokens = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(sys.argv[3])
text_embeds = run["text"](None, {"input_ids": np.array([tokens.ids])})[0]
text = text_embeds[0] / np.linalg.norm(text_embeds)
embeds = np.concatenate([encode(photos[start : start + 16])[0] for start in range(0, len(photos), 16)])
scores = embeds @ text / np.linalg.norm(embeds, axis=1)
best, kind = np.argsort(-scores)[:20], "cosine with the whole image"
if "pooler" in run:  # the best once more, each as the text sees it: another scale
    kind, patch_features = "cosine with the image as the text sees it", encode([photos[place] for place in best])[1]
    texts, index = np.repeat(text_embeds, len(best), axis=0), np.arange(len(best))
    inputs = {"patch_features": patch_features, "text_embeds": texts, "image_index": index}
    scores[best] = run["pooler"](None, inputs)[0] @ text
    best = best[np.argsort(-scores[best])]
sys.stderr.write(f"the best {len(best)} of {len(photos)} photos, by {kind}\n")
sys.stdout.writelines(f"{scores[place]:.4f}  {photos[place].name}\n" for place in best)
