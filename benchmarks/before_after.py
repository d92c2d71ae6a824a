"""Draws the first picture of the README: which text the two small models of the package choose for an object.

python benchmarks/before_after.py

Both compare the embedding of the whole image (CLS) with the texts, so that nothing but the training differs.
"""

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

from beta_clip_hf import BetaCLIPModel, BetaCLIPProcessor, SceneDataset, scenes
from beta_clip_hf.visualize.rows import draw_region_choices


TITLES = {"clip": "plain CLIP", "beta_clip": "β-CLIP: the same CLIP after 21 minutes of fine-tuning"}
TITLE_HEIGHT = 60
# No model of the package is trained on the scenes of seed 1.
SEED = 1


def draw(scene: int, output: Path) -> None:
    """Draws a strip for each model, one below the other."""
    row = SceneDataset(scene + 1, seed=SEED, level="easy")[scene]
    strips = {}
    with TemporaryDirectory() as folder:
        for name in TITLES:
            model = BetaCLIPModel.from_pretrained(scenes.pretrained(name)).eval()
            processor = BetaCLIPProcessor.from_pretrained(scenes.pretrained(name))
            path = draw_region_choices(model, processor, row, Path(folder) / f"{name}.png", "cls")
            strips[name] = Image.open(path).convert("RGB")
    width = max(strip.width for strip in strips.values())
    height = sum(strip.height + TITLE_HEIGHT for strip in strips.values())
    picture = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(picture)
    # Pillow's own font has no β.
    font = ImageFont.truetype(font_manager.findfont("DejaVu Sans"), 32)
    top = 0
    for name, strip in strips.items():
        pen.text((20, top + 10), TITLES[name], fill="black", font=font)
        picture.paste(strip, (0, top + TITLE_HEIGHT))
        top += strip.height + TITLE_HEIGHT
    picture.save(output, optimize=True)


def main() -> None:
    """Draws the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("docs/images/before_after.png"), help="PNG (%(default)s)")
    parser.add_argument("--scene", type=int, default=7, help="number of a scene of seed 1 (%(default)s)")
    args = parser.parse_args()
    draw(args.scene, args.output)
    sys.stdout.write(f"{args.output}\n")


if __name__ == "__main__":
    main()
