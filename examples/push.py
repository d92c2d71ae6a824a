"""Uploads a model to the Hub with its processor, code, results and card. First look at what would be uploaded:

python examples/push.py runs/photos my-name/photos --license cc-by-nc-4.0
python examples/push.py runs/photos my-name/photos --license cc-by-nc-4.0 --upload
"""

import argparse
import sys
from pathlib import Path

from beta_clip_hf.release.hub import build_repository, push


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", help="directory that training has written")
parser.add_argument("repo_id", help="repository of the Hub: NAME/MODEL")
parser.add_argument("--license", required=True, help="licence of the weights, which depends on the data")
parser.add_argument("--folder", type=Path, default=Path("repository"), help="folder of the dry run (%(default)s)")
parser.add_argument("--upload", action="store_true", help="upload to a private repository, after `hf auth login`")
args = parser.parse_args()

if args.upload:
    sys.stdout.write(f"{push(args.model, args.repo_id, private=True, license=args.license)}\n")
else:
    build_repository(args.model, args.folder, args.repo_id, license=args.license)
    for file in sorted(args.folder.iterdir()):
        sys.stdout.write(f"{file.stat().st_size:>12,}  {file}\n")
    sys.stdout.write("Read README.md, the card, and upload with --upload.\n")
