"""Golden cases of FG-CLIP 2 as model directories, with the numbers that the authors' own code gave."""

import json
import shutil
from pathlib import Path

from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from beta_clip_hf import BetaSiglip2Model


CASES = ["fg_clip2_patch4", "fg_clip2_patch8"]
WORDS = ["a", "red", "dog", "on", "the", "beach"]
# Names of the release, and ours.
OUR_NAMES = {
    "longtext_head.": "long_text_head.",
    "boxtext_head.": "box_text_head.",
    "dense_feature_head.": "patch_head.",
    "logit_scale_finegraind": "region_logit_scale",
    "logit_scale_hardneg": "hard_negative_logit_scale",
}
LONG_TABLE = "text_model.embeddings.long_position_embedding.weight"
THEIR_LONG_TABLES = tuple(f"text_model.embeddings.position_embedding_{part}.weight" for part in ("ori", "res"))
IMAGES = ("pixel_values", "pixel_attention_mask", "spatial_shapes")


class Case:
    """A golden case: its directory, its model, and its numbers."""

    def __init__(self, golden: Path, folder: Path) -> None:
        shutil.copy(golden / "checkpoint.safetensors", folder / "model.safetensors")
        shutil.copy(golden / "config.json", folder / "config.json")
        self.folder = folder
        self.checkpoint = load_file(golden / "checkpoint.safetensors")
        self.tensors = load_file(golden / "tensors.safetensors")
        self.expected = json.loads((golden / "expected.json").read_text())
        self.model, self.info = BetaSiglip2Model.from_pretrained(folder, output_loading_info=True)

    @property
    def images(self) -> dict[str, Tensor]:
        return {name: self.tensors[name] for name in IMAGES}


def largest_difference(found: Tensor, expected: Tensor) -> float:
    """Returns the largest difference relative to the largest value."""
    return ((found - expected).abs().max() / expected.abs().max()).item()


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Makes a tokenizer of a few words, ids from 4 on. It pads on the left and returns a mask, as that of SigLIP 2."""
    special = {"<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3}
    vocab = {**special, **{word: 4 + number for number, word in enumerate(WORDS)}}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, padding_side="left", **names)
