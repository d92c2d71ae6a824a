"""Draws a generated scene with its boxes, and the text that a model chooses for each region, hard negatives included.

python -m benchmarks.study run --arm both_systems --seed 0 --save runs/both_systems
python benchmarks/scene_regions.py --model runs/both_systems --scene 0 --output docs/images/scene_regions.png
"""

import argparse
import sys
from pathlib import Path

import torch
from PIL import Image
from torch.nn.functional import normalize

from beta_clip_hf import BetaCLIPModel, BetaCLIPProcessor, SceneDataset
from beta_clip_hf.visualize import plot_region_choices


def main() -> None:
    """Draws the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="model with regions (use_regions)")
    parser.add_argument("--output", type=Path, required=True, help="PNG to write")
    parser.add_argument("--scene", type=int, default=0, help="number of a scene of the test (%(default)s)")
    parser.add_argument("--level", default="easy", choices=["easy", "medium", "hard"], help="level (%(default)s)")
    args = parser.parse_args()

    model = BetaCLIPModel.from_pretrained(args.model).eval()
    processor = BetaCLIPProcessor.from_pretrained(args.model)
    size = model.config.vision_config.image_size
    # No model of the study is trained on scenes of seed 1.
    row = SceneDataset(args.scene + 1, seed=1, level=args.level, image_size=size)[args.scene]
    texts = [[region["text"], *region["negatives"]] for region in row["regions"]]
    boxes = torch.tensor([region["box"] for region in row["regions"]], dtype=torch.float32)
    probabilities = []
    with torch.no_grad():
        pixel_values = processor(images=row["image"], return_tensors="pt")["pixel_values"]
        regions_RD = normalize(model.get_region_features(pixel_values, boxes, box_format="xyxy_pixels"), dim=-1)
        for region_D, region_texts in zip(regions_RD, texts, strict=True):
            tokens = processor(text=region_texts, padding=True, return_tensors="pt")
            embeds_ND = normalize(model.get_text_features(**tokens).pooler_output, dim=-1)
            logits_N = model.hard_negative_logit_scale.exp() * embeds_ND @ region_D
            probabilities.append(logits_N.softmax(dim=0))
    # Enlarged without smoothing: a pixel of the scene stays a square.
    enlarged = row["image"].resize((4 * size, 4 * size), Image.Resampling.NEAREST)
    plot_region_choices(enlarged, boxes / size, texts, probabilities, args.output)
    sys.stdout.write(f"{args.output}\n")


if __name__ == "__main__":
    main()
