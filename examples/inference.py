"""How well texts fit a photo: python examples/inference.py photo.jpg "a red cup" "the dog" --model runs/photos

Any CLIP, β-CLIP or FG-CLIP will do as the model. One with a trained pooler also says how well each text fits what this
text itself sees of the photo.
"""

import argparse
import sys

import torch
from torch.nn.functional import normalize

from beta_clip_hf.data.images import load_image
from beta_clip_hf.inference.models import load_model


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("image")
parser.add_argument("texts", nargs="+")
parser.add_argument("--model", default="openai/clip-vit-base-patch16", help="directory or Hub id (%(default)s)")
args = parser.parse_args()

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
model, processor, has_trained_pooler = load_model(args.model, device)
inputs = processor(images=load_image(args.image), text=args.texts, padding=True, return_tensors="pt").to(device)
with torch.no_grad():
    output = model(**inputs)  # as CLIPModel's: logits_per_image (1, T), image_embeds (1, D), text_embeds (T, D)
    cosines = (output.image_embeds @ output.text_embeds.T)[0]
    probabilities = output.logits_per_image.softmax(dim=-1)[0]
    as_seen = [None] * len(args.texts)
    if has_trained_pooler:
        seen, attention = model.get_text_conditioned_image_features(**inputs, output_attentions=True)
        as_seen = (normalize(seen, dim=-1) * output.text_embeds).sum(dim=-1)  # attention: (T, heads, patches)

sys.stdout.write("cosine   share   as seen  text\n")
for text, cosine, share, own in zip(args.texts, cosines, probabilities, as_seen, strict=True):
    sys.stdout.write(f"{cosine:6.3f} {share:7.1%}  {'' if own is None else f'{own:.3f}':>8}  {text}\n")
