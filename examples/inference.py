"""Scores how well texts fit a photo: python examples/inference.py photo.jpg "a red cup" "the dog" --model runs/photos

The model may be any CLIP, β-CLIP or FG-CLIP. A model with a trained pooler also scores each text against the part of
the photo that this text attends to.
"""

import argparse
import sys

import torch
from torch.nn.functional import normalize

from beta_clip_hf.data.images import load_image
from beta_clip_hf.data.scenes import default_model
from beta_clip_hf.inference.models import load_model


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("image", help="photo")
parser.add_argument("texts", nargs="+", help="texts to score")
parser.add_argument("--model", help="directory or Hub id (default: the small β-CLIP that ships with the package)")
args = parser.parse_args()

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
model, processor, has_trained_pooler = load_model(args.model or default_model(), device)
inputs = processor(images=load_image(args.image), text=args.texts, padding=True, return_tensors="pt").to(device)
with torch.no_grad():
    # As from CLIPModel: logits_per_image (1, T), image_embeds (1, D), text_embeds (T, D).
    output = model(**inputs)
    cosines = (output.image_embeds @ output.text_embeds.T)[0]
    shares = output.logits_per_image.softmax(dim=-1)[0]
    conditioned_words = [""] * len(args.texts)
    if has_trained_pooler:
        # The image once for each text, as the text sees it: (T, D).
        seen = normalize(model.get_text_conditioned_image_features(**inputs), dim=-1)
        conditioned_words = [f"{score:.3f}" for score in (seen * output.text_embeds).sum(dim=-1)]

sys.stdout.write("cosine   share   as seen  text\n")
for text, cosine, share, conditioned in zip(args.texts, cosines, shares, conditioned_words, strict=True):
    sys.stdout.write(f"{cosine:6.3f} {share:7.1%}  {conditioned:>8}  {text}\n")
