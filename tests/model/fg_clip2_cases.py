"""Golden cases of FG-CLIP 2 as model directories, with the numbers that the authors' own code gave."""

import json
import shutil
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from beta_clip_hf import BetaSiglip2Model


CASES = ["fg_clip2_patch4", "fg_clip2_patch8"]
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
