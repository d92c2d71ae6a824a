"""Times how an embedder encodes texts: packed into rows, beside batches that are sorted by length and padded.

    OMP_NUM_THREADS=1 python benchmarks/text_packing.py

The text tower has the size of ViT-B/16 with new weights. Half of the texts are long captions of generated scenes, half
are their phrases. Both run in turn, round by round, in CPU time; operations are counted.
"""

import argparse
import statistics
import sys
import time

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers.utils import logging

from beta_clip_hf import BetaCLIPConfig, BetaCLIPModel, BetaCLIPProcessor, SceneDataset
from beta_clip_hf.data.scenes import pretrained
from beta_clip_hf.inference.embedder import Embedder
from beta_clip_hf.inference.models import text_inputs


BATCH_SIZE = 32


def scene_texts(count: int) -> list[str]:
    """Returns different texts, half of them captions and half of them phrases."""
    captions: list[str] = []
    phrases: list[str] = []
    for row in SceneDataset(count, seed=0, level="hard"):
        captions.append(row["caption"])
        phrases += [phrase["text"] if isinstance(phrase, dict) else phrase for phrase in row["phrases"]]
    return list(dict.fromkeys(captions))[: count // 2] + list(dict.fromkeys(phrases))[: count // 2]


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=96, help="number of texts (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds (%(default)s)")
    args = parser.parse_args()
    logging.disable_progress_bar()
    processor = BetaCLIPProcessor.from_pretrained(pretrained("beta_clip"))
    vocabulary = {"vocab_size": len(processor.tokenizer), "eos_token_id": processor.tokenizer.eos_token_id}
    config = BetaCLIPConfig(
        text_config={**vocabulary, "max_position_embeddings": 248}, vision_config={"num_hidden_layers": 1}
    )
    torch.manual_seed(0)
    model = BetaCLIPModel(config).eval()
    embedder = Embedder(model, processor, batch_size=BATCH_SIZE)
    texts = scene_texts(args.texts)
    by_length = sorted(texts, key=lambda text: len(processor.tokenizer(text)["input_ids"]))

    def packed() -> None:
        """Encodes the texts as evaluation and search do."""
        embedder.texts(texts)

    def padded() -> None:
        """Encodes the texts in sorted batches."""
        for start in range(0, len(texts), BATCH_SIZE):
            with torch.no_grad():
                model.get_text_features(**text_inputs(model, processor, by_length[start : start + BATCH_SIZE]))

    operations = {}
    for work in (packed, padded):
        with FlopCounterMode(display=False) as counter:
            work()
        operations[work] = counter.get_total_flops()
    ratios = []
    for _ in range(args.rounds):
        start = time.process_time()
        packed()
        between = time.process_time()
        padded()
        ratios.append((between - start) / (time.process_time() - between))
    lengths = [len(processor.tokenizer(text)["input_ids"]) for text in by_length]
    sys.stdout.write(
        f"{len(texts)} texts of {lengths[0]} to {lengths[-1]} tokens, packed relative to sorted batches: time "
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f} – {max(ratios):.2f}), operations "
        f"{operations[packed] / operations[padded]:.2f}\n"
    )


if __name__ == "__main__":
    main()
