"""Exports a model for programs without this package: python examples/export.py runs/photos exported

It writes `exported/clip`, a plain CLIPModel of transformers, and `exported/onnx`, graphs that need no torch. They can
search photos: python examples/onnx_search.py exported/onnx photos/ "a dog in a red coat"
"""

import argparse
import sys
from pathlib import Path

from transformers import CLIPModel

from beta_clip_hf.data.scenes import default_model
from beta_clip_hf.release.export import export_clip
from beta_clip_hf.release.onnx import DTYPES, export_graphs


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", nargs="?", help="directory or Hub id (default: the small β-CLIP of the package)")
parser.add_argument("output", nargs="?", type=Path, default=Path("exported"), help="directory to write (%(default)s)")
parser.add_argument("--dtype", choices=DTYPES, default="float32", help="precision of the graphs (%(default)s)")
args = parser.parse_args()

name = args.model or default_model()
export_clip(name, args.output / "clip")
clip = CLIPModel.from_pretrained(args.output / "clip")
sys.stdout.write(f"{args.output / 'clip'}: a {type(clip).__name__} of {clip.num_parameters():,} parameters\n")

export = export_graphs(name, args.output / "onnx", dtype=args.dtype)
# The export has run each graph and compared its outputs with those of the model.
for graph in export["graphs"].values():
    lowest = min(agreement["lowest_cosine"] for agreement in graph["agreement"].values())
    sys.stdout.write(f"{args.output / 'onnx' / graph['file']}: cosine with the model {lowest:.4f} or more\n")
