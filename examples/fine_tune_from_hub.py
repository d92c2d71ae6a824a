"""Fine-tunes a checkpoint of the Hub by a recipe, measures it before and after, and can push the result:

python examples/fine_tune_from_hub.py photos.jsonl --eval-data test.jsonl --model openai/clip-vit-base-patch16
python examples/fine_tune_from_hub.py photos.jsonl --set training.num_train_epochs=3 --push my-name/photos

`beta-clip train` and `beta-clip push` do the same. Here the Trainer is yours to change.
"""

import argparse
import sys
from pathlib import Path

from beta_clip_hf.release.hub import push
from beta_clip_hf.training.run import train_and_report
from beta_clip_hf.training.setup.build import build_trainer
from beta_clip_hf.training.setup.config import read_config


RECIPES = Path(__file__).parent / "configs"

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("photos", help="photos with captions to train on")
parser.add_argument("--eval-data", help="photos with captions to measure on")
parser.add_argument("--model", default="openai/clip-vit-base-patch16", help="Hub id or directory (%(default)s)")
parser.add_argument("--config", type=Path, default=RECIPES / "beta_clip_ce.yaml", help="recipe (%(default)s)")
parser.add_argument("--output", default="runs/photos", help="directory for the model (%(default)s)")
parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="value of the recipe to change")
parser.add_argument("--push", metavar="REPO_ID", help="private repository of the Hub that gets the model")
args = parser.parse_args()

changes = [("model.from_pretrained", args.model), ("data.train", args.photos), ("training.output_dir", args.output)]
if args.eval_data:
    changes.append(("data.eval", args.eval_data))
changes += [tuple(change.split("=", 1)) for change in args.set]
results = train_and_report(build_trainer(read_config(args.config, changes)))
# Without photos to measure on there are no metrics.
if results["after"]:
    for name in ("eval_i2t_r1", "eval_t2i_r1"):
        before, after = results["before"][name], results["after"][name]
        sys.stdout.write(f"{name}: {before:.1%} before, {after:.1%} after\n")
if args.push:
    sys.stdout.write(f"{push(args.output, args.push, private=True)}\n")
