"""Measures any CLIP on your own photos: python examples/evaluate.py test.jsonl --model runs/photos

The columns decide what is measured: captions give retrieval, `hard_negatives` give choices, `phrases` with boxes tell
where phrases point, and `regions` with negatives tell which text fits a region.
"""

import argparse
import sys

import torch

from beta_clip_hf.data.readers import load_rows
from beta_clip_hf.data.scenes import default_model
from beta_clip_hf.evaluation.evaluator import evaluate
from beta_clip_hf.evaluation.results import format_table
from beta_clip_hf.files import write_json
from beta_clip_hf.inference.models import load_model


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("photos", help="photos with captions that the model was not trained on")
parser.add_argument("--model", help="directory or Hub id (default: the small β-CLIP that ships with the package)")
parser.add_argument("--output", default="results.json", help="file for the results (%(default)s)")
args = parser.parse_args()

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
name = args.model or default_model()
model, processor, _ = load_model(name, device)
# Strict, because a result over some of the photos would look like one over all.
rows = load_rows(args.photos, strict=True)
results = evaluate(model, processor, rows, protocol="photos/example")
sys.stdout.write(f"{format_table(name, results)}\n{write_json(results, args.output)}\n")
