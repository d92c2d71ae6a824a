"""Searches a folder of photos, and draws where each phrase looks:

python examples/search.py photos/ "A dog runs along a beach." --phrase "a red coat" --model runs/photos
"""

import argparse
import sys
from pathlib import Path

from beta_clip_hf.data.scenes import default_model
from beta_clip_hf.search.gallery import format_hits, phrases_to_show, write_gallery
from beta_clip_hf.search.index import PhotoIndex, load_embedder
from beta_clip_hf.search.query import Query


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("photos", help="folder of photos, JSONL file, …")
parser.add_argument("text", help="description of any length")
parser.add_argument("--phrase", action="append", default=[], help="phrase of weight 2; may be given several times")
parser.add_argument("--model", help="directory or Hub id (default: the small β-CLIP that ships with the package)")
parser.add_argument("--index", type=Path, default=Path("photos.index"), help="index, made if missing (%(default)s)")
parser.add_argument("--top", type=int, default=10, help="number of photos to show (%(default)s)")
parser.add_argument("--html", default="found.html", help="page of the photos (%(default)s)")
args = parser.parse_args()

name = args.model or default_model()
embedder = load_embedder(name)
if args.index.exists():
    index = PhotoIndex.open(args.index, embedder)
else:
    index = PhotoIndex.create(args.index, embedder, model_name=name)
# This embeds new photos and removes those that are gone.
added = index.add(args.photos)
sys.stdout.write(f"{len(index)} photos, {added.new} of them new, {len(added.unreadable)} unreadable\n")

query = Query(args.text, phrases=[(phrase, 2.0) for phrase in args.phrase])
# Text-conditioned scores need a pooler. They order ten times as many photos as are shown.
hits = index.search(query, top=args.top, rerank=10 * args.top if embedder.has_pooler else 0)
page = write_gallery(args.html, hits, index, args.text, phrases_to_show(query))
sys.stdout.write(f"{format_hits(hits)}\n{page}\n")
