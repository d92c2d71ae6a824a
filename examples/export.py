"""A model for programs without this package: python examples/export.py runs/photos exported

Writes `exported/clip`, a plain CLIPModel of transformers, and `exported/onnx`, graphs that need no torch: with them,
python examples/onnx_search.py exported/onnx photos/ "a dog in a red coat"
"""

import argparse
import sys
from pathlib import Path

from transformers import CLIPModel

from beta_clip_hf.release.export import export_clip
from beta_clip_hf.release.onnx import DTYPES, export_graphs


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", nargs="?", default="runs/demo/model", help="directory or Hub id (%(default)s)")
parser.add_argument("output", nargs="?", type=Path, default=Path("exported"), help="(%(default)s)")
parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the graphs (%(default)s)")
args = parser.parse_args()

export_clip(args.model, args.output / "clip")
plain = CLIPModel.from_pretrained(args.output / "clip")
sys.stdout.write(f"{args.output / 'clip'}: a {type(plain).__name__} of {plain.num_parameters():,} parameters\n")
about = export_graphs(args.model, args.output / "onnx", dtype=args.dtype)
for graph in about["graphs"].values():  # each was run, and compared with the model
    worst = min(agreement["lowest_cosine"] for agreement in graph["agreement"].values())
    sys.stdout.write(f"{args.output / 'onnx' / graph['file']}: cosine with the model {worst:.4f} or more\n")
