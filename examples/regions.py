"""Finds the text that fits each region of a photo, by FG-CLIP's region features:

python examples/regions.py photo.jpg --box 30,40,120,160 "a red cup" "a blue cup" --model qihoo360/fg-clip-base
"""

import argparse
import sys

import torch

from beta_clip_hf import BetaCLIPModel, BetaCLIPProcessor
from beta_clip_hf.data.scenes import default_model
from beta_clip_hf.inference.look import look
from beta_clip_hf.visualize import plot_region_scores


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("image", help="photo")
parser.add_argument("texts", nargs="+", help="texts to choose from")
parser.add_argument("--box", action="append", required=True, metavar="X,Y,W,H", help="region in pixels of the photo")
parser.add_argument("--model", help="model with regions (default: the small β-CLIP that ships with the package)")
parser.add_argument("--output", default="regions.png", help="picture of the scores (%(default)s)")
args = parser.parse_args()

name = args.model or default_model()
model = BetaCLIPModel.from_pretrained(name).eval()
processor = BetaCLIPProcessor.from_pretrained(name)
boxes = [list(map(float, box.split(","))) for box in args.box]
seen = look(model, processor, args.image, args.texts, boxes=boxes, box_format="xywh_pixels")
with torch.no_grad():
    # The scale with which regions were trained against their hard negatives.
    probabilities = (model.hard_negative_logit_scale.exp() * seen.region_scores_RT).softmax(dim=-1)

for box, scores, shares in zip(args.box, seen.region_scores_RT, probabilities, strict=True):
    best = int(scores.argmax())
    sys.stdout.write(f"{box}: {args.texts[best]} ({shares[best]:.0%} of these texts, cosine {scores[best]:.3f})\n")
path = plot_region_scores(seen.view, seen.boxes_R4, args.texts, seen.region_scores_RT, args.output)
sys.stdout.write(f"{path}\n")
