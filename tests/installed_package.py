"""
Uses the installed package, without its extras, as a new user would: `make package` runs it.

It is a program and no test, because it must import the package from the wheel and not from `src`.
"""

import subprocess
import sys
from importlib.metadata import version
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import torch
from PIL import Image

import beta_clip_hf
from beta_clip_hf import BetaCLIPModel, BetaCLIPProcessor, build_text_hierarchy
from beta_clip_hf.scenes import pretrained


# What the extras bring. `make package` installs none of them.
OPTIONAL = ("accelerate", "datasets", "evaluate", "gradio", "lancedb", "matplotlib", "nltk")
DATA_FILES = ("py.typed", "demo/style.css", "release/model_card_template.md")


def check_files() -> None:
    """The package comes from an environment, has its version, and brings the files that are not code."""
    root = files("beta_clip_hf")
    assert Path(str(root)).is_relative_to(sys.prefix), f"the package must be installed, but is {root}"
    assert beta_clip_hf.__version__ == version("beta-clip-hf")
    for name in DATA_FILES:
        assert root.joinpath(name).read_text(encoding="utf-8") or name == "py.typed", name


def check_models() -> None:
    """Both models that ship load, and the β-CLIP finds the red square."""
    BetaCLIPModel.from_pretrained(pretrained("clip"))
    directory = pretrained("beta_clip")
    model = BetaCLIPModel.from_pretrained(directory).eval()
    processor = BetaCLIPProcessor.from_pretrained(directory)
    image = Image.new("RGB", (64, 64), "white")
    image.paste((220, 20, 20), (16, 16, 48, 48))
    texts = ["a red square", "a blue circle"]
    with torch.no_grad():
        outputs = model(**processor(images=image, text=texts, return_tensors="pt", padding=True))
        batch = processor(images=[image], hierarchies=[build_text_hierarchy("A red square on white.")])
        flat = model(**batch)
    assert outputs.logits_per_image.shape == (1, 2)
    assert outputs.logits_per_image.argmax() == 0, outputs.logits_per_image
    assert flat.contextualized_embeds.isfinite().all()


def check_command() -> None:
    """The command is installed, and says what is missing."""
    command = Path(sys.executable).with_name("beta-clip")
    for arguments in (["--version"], ["--help"], ["doctor"]):
        done = subprocess.run([command, *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def main() -> None:
    """Runs all checks."""
    check_files()
    check_models()
    check_command()
    installed = [name for name in OPTIONAL if find_spec(name) is not None]
    print(f"beta-clip-hf {version('beta-clip-hf')} works; of its optional packages are here: {installed or 'none'}")


if __name__ == "__main__":
    main()
