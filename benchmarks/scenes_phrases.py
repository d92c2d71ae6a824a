"""Draws the first picture of the README: where the small β-CLIP looks for phrases of generated scenes.

python benchmarks/scenes_phrases.py
"""

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from beta_clip_hf import BetaCLIPModel, BetaCLIPProcessor, SceneDataset, scenes
from beta_clip_hf.visualize.rows import draw_phrases


# Scenes that no model of the package was trained on, and the phrases to draw of each.
SEED = 7
SHOWN = {1: ["red square", "blue disc", "blue shape"], 2: ["yellow triangle", "green cross", "yellow shape"]}


def draw(model_dir: str, output: Path) -> None:
    """Draws the scenes of `SHOWN`, one below the other."""
    model = BetaCLIPModel.from_pretrained(model_dir).eval()
    processor = BetaCLIPProcessor.from_pretrained(model_dir)
    rows = SceneDataset(1 + max(SHOWN), seed=SEED, level="easy")
    strips = []
    with TemporaryDirectory() as folder:
        for index, phrases in SHOWN.items():
            path = draw_phrases(model, processor, rows[index], Path(folder) / f"{index}.png", phrases)
            strips.append(Image.open(path).convert("RGB"))
    picture = Image.new("RGB", (max(strip.width for strip in strips), sum(strip.height for strip in strips)), "white")
    top = 0
    for strip in strips:
        picture.paste(strip, (0, top))
        top += strip.height
    picture.save(output, optimize=True)


def main() -> None:
    """Draws the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=scenes.pretrained("beta_clip"), help="(the small β-CLIP of the package)")
    parser.add_argument("--output", type=Path, default=Path("docs/images/phrases.png"), help="PNG (%(default)s)")
    args = parser.parse_args()
    draw(args.model, args.output)
    sys.stdout.write(f"{args.output}\n")


if __name__ == "__main__":
    main()
