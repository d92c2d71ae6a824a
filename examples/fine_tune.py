"""Fine-tunes a model on your own photos: python examples/fine_tune.py photos.jsonl --output runs/photos

A line of the file is {"image": "beach.jpg", "caption": "A dog runs along the beach. A child watches it."}. Paths are
relative to the file. Sentences and phrases are found in the captions.
"""

import argparse

from beta_clip_hf import BetaCLIPModel, BetaCLIPProcessor, BetaCLIPTrainer, BetaCLIPTrainingArguments
from beta_clip_hf.data.readers import load_rows


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("photos", help="photos with captions: JSONL, Parquet, folder, data set of the Hub, …")
parser.add_argument("--model", default="openai/clip-vit-base-patch16", help="model to start from (%(default)s)")
parser.add_argument("--output", default="runs/photos", help="directory for the model (%(default)s)")
parser.add_argument("--epochs", type=float, default=10, help="passes over the photos (%(default)s)")
parser.add_argument("--batch-size", type=int, default=64, help="photos at a time: more is better (%(default)s)")
args = parser.parse_args()

model = BetaCLIPModel.from_pretrained(args.model)
processor = BetaCLIPProcessor.from_pretrained(args.model)
arguments = BetaCLIPTrainingArguments(
    output_dir=args.output,
    num_train_epochs=args.epochs,
    per_device_train_batch_size=args.batch_size,
    # Few photos would spoil the positions that CLIP has learnt from many.
    freeze_text_positions=True,
    report_to="none",
)
trainer = BetaCLIPTrainer(model, arguments, train_dataset=load_rows(args.photos), processing_class=processor)
trainer.train()
trainer.save_model()
