"""Measure any CLIP on your own photos: python examples/evaluate.py test.jsonl --model runs/photos

What is measured follows from the columns: retrieval where there are captions, choices where there are `hard_negatives`,
where phrases point where `phrases` have boxes, regions where `regions` have negatives.
"""

import argparse
import sys

import torch

from beta_clip_hf.data.readers import load_rows
from beta_clip_hf.evaluation.evaluator import evaluate
from beta_clip_hf.evaluation.results import format_table
from beta_clip_hf.files import write_json
from beta_clip_hf.inference.models import load_model


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("photos", help="photos with captions that the model was not trained on")
parser.add_argument("--model", default="openai/clip-vit-base-patch16", help="directory or Hub id (%(default)s)")
parser.add_argument("--output", default="results.json", help="for the figures (%(default)s)")
args = parser.parse_args()

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
model, processor, _ = load_model(args.model, device)
rows = load_rows(args.photos, strict=True)  # a figure over a part of the photos would look like one over all
results = evaluate(model, processor, rows, protocol="photos/example")
sys.stdout.write(f"{format_table(args.model, results)}\n{write_json(results, args.output)}\n")
