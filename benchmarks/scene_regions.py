"""One generated scene as a picture: its boxes, and what a model takes each region for, among its hard negatives.

python benchmarks/scene_study.py --methods beta_fg --seeds 0 --save
python benchmarks/scene_regions.py --model runs/scene_study/beta_fg_0 --scene 0 --output docs/images/scene_regions.png
"""

import argparse
import sys
from pathlib import Path

import torch
from torch.nn.functional import normalize

from beta_clip_hf import BetaCLIPModel, BetaCLIPProcessor, SceneDataset
from beta_clip_hf.visualize import plot_region_choices


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a model with regions (use_regions)")
    parser.add_argument("--output", type=Path, required=True, help="the PNG")
    parser.add_argument("--scene", type=int, default=0, help="which of the scenes that are measured (%(default)s)")
    parser.add_argument("--level", default="easy", choices=["easy", "medium", "hard"], help="(%(default)s)")
    args = parser.parse_args()

    model = BetaCLIPModel.from_pretrained(args.model).eval()
    processor = BetaCLIPProcessor.from_pretrained(args.model)
    size = model.config.vision_config.image_size
    row = SceneDataset(args.scene + 1, seed=1, level=args.level, image_size=size)[args.scene]
    texts = [[region["text"], *region["negatives"]] for region in row["regions"]]
    boxes = torch.tensor([region["box"] for region in row["regions"]], dtype=torch.float32)
    with torch.no_grad():
        pixel_values = processor(images=row["image"], return_tensors="pt")["pixel_values"]
        regions = normalize(model.get_region_features(pixel_values, boxes, box_format="xyxy_pixels"), dim=-1)
        probabilities = []
        for region, of_region in zip(regions, texts, strict=True):
            tokens = processor(text=of_region, padding=True, return_tensors="pt")
            embeds = normalize(model.get_text_features(**tokens).pooler_output, dim=-1)
            probabilities.append((model.hard_negative_logit_scale.exp() * embeds @ region).softmax(dim=0))
    large = row["image"].resize((4 * size, 4 * size), resample=0)  # a pixel stays a pixel
    plot_region_choices(large, boxes / size, texts, probabilities, args.output)
    sys.stdout.write(f"{args.output}\n")


if __name__ == "__main__":
    main()
