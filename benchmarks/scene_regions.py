"""Draws a generated scene with its boxes, and the text that a model chooses for each region, hard negatives included.

python benchmarks/scene_regions.py
"""

import argparse
import sys
from pathlib import Path

from beta_clip_hf import BetaCLIPModel, BetaCLIPProcessor, SceneDataset, scenes
from beta_clip_hf.visualize.rows import SCORES, draw_region_choices


def main() -> None:
    """Draws the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=scenes.pretrained("beta_clip"), help="(the small β-CLIP of the package)")
    parser.add_argument("--output", type=Path, default=Path("docs/images/scene_regions.png"), help="PNG (%(default)s)")
    parser.add_argument("--scene", type=int, default=7, help="number of a scene of seed 1 (%(default)s)")
    parser.add_argument("--level", default="easy", choices=["easy", "medium", "hard"], help="level (%(default)s)")
    parser.add_argument("--score", default="region", choices=SCORES, help="score to choose by (%(default)s)")
    args = parser.parse_args()

    model = BetaCLIPModel.from_pretrained(args.model).eval()
    processor = BetaCLIPProcessor.from_pretrained(args.model)
    # No model of the package is trained on the scenes of seed 1.
    row = SceneDataset(args.scene + 1, seed=1, level=args.level)[args.scene]
    sys.stdout.write(f"{draw_region_choices(model, processor, row, args.output, args.score)}\n")


if __name__ == "__main__":
    main()
