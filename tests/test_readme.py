"""The README is run as it stands: its Python, on a tiny model and four pictures, and the words of its commands."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from PIL import Image

from beta_clip_cli import main as cli
from beta_clip_hf import BetaCLIPModel, BetaCLIPProcessor


PROJECT = Path(__file__).resolve().parent.parent
README = (PROJECT / "README.md").read_text(encoding="utf-8")


def python_of(page: str) -> list[str]:
    """The blocks of Python of a page, in order."""
    return re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)


PYTHON = python_of(README)
PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").rglob("*.md"))]


def commands_of(page: str) -> set[str]:
    """The command lines in the blocks of a page."""
    commands = set()
    for block in re.findall(r"^```\w*\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL):
        lines = block.replace("\\\n", " ").replace("&&\n", "\n").splitlines()
        commands.update(line.strip().removeprefix("$ ") for line in lines)
    return {command for command in commands if command.startswith("beta-clip ")}


COMMANDS = set().union(*(commands_of(page.read_text(encoding="utf-8")) for page in PAGES))
# The same code on something small: what a test has in the place of a checkpoint, and a training of two steps.
SMALLER = {
    'scenes.pretrained("beta_clip")': '"tiny"',
    '"openai/clip-vit-base-patch16"': '"tiny"',
    "num_train_epochs=10": "max_steps=2, per_device_train_batch_size=2, use_cpu=True, report_to=[]",
}


@pytest.fixture
def desk(tmp_path: Path, tiny_clip_dir: Path, tiny_processor, monkeypatch) -> Path:
    """A directory with a checkpoint, a photo, and four captioned photos in the format that the README shows."""
    shutil.copytree(tiny_clip_dir, tmp_path / "tiny")
    tiny_processor.save_pretrained(tmp_path / "tiny")
    shown = [json.loads(line) for line in README.splitlines() if line.startswith('{"image"')]
    rows = [{**row, "image": f"{number}.png"} for number, row in enumerate([*shown, *shown])]
    for number in range(len(rows)):
        Image.new("RGB", (48, 32), (60 * number, 90, 120)).save(tmp_path / f"{number}.png")
    Image.new("RGB", (48, 32), "red").save(tmp_path / "photo.jpg")
    (tmp_path / "photos.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def smaller(code: str) -> str:
    for big, small in SMALLER.items():
        code = code.replace(big, small)
    return code


def test_inference(desk: Path) -> None:
    names: dict = {}
    exec(smaller(PYTHON[0]), names)
    assert names["output"].logits_per_image.shape == (1, 2)
    assert names["seen"].shape == (2, 32) and names["attention"].shape == (2, 8, 16)
    assert len(PYTHON[0].strip().splitlines()) <= 13


@pytest.mark.slow
def test_fine_tuning(desk: Path) -> None:
    names: dict = {}
    exec(smaller(PYTHON[1]), names)
    assert names["trainer"].state.global_step == 2
    assert isinstance(BetaCLIPModel.from_pretrained("runs/photos"), BetaCLIPModel)
    assert len(PYTHON) == 2, "a new block needs its test"


def test_the_page_on_regions(desk: Path) -> None:
    blocks = python_of((PROJECT / "docs/regions.md").read_text(encoding="utf-8"))
    model = BetaCLIPModel.from_pretrained("tiny", use_long_text_path=True, use_regions=True)
    model.save_pretrained("two_paths")
    processor = BetaCLIPProcessor.from_pretrained("tiny")
    processor.short_max_length = 77
    processor.save_pretrained("two_paths")
    names: dict = {}
    for block in blocks:
        exec(re.sub(r'"(qihoo360/[\w-]+|runs/beta_fg)"', '"two_paths"', block), names)
    assert names["short"].shape == names["long"].shape == (1, 32)
    assert names["outputs"].losses.keys() == {"clip_loss", "beta_cal_loss", "region_loss", "hard_negative_loss"}
    assert len(blocks) == 3


@pytest.mark.parametrize("line", sorted(COMMANDS))
def test_commands_are_understood(line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    command = cli.find_command(words)
    assert callable(cli.build_parser(command).parse_args(words).run)
    assert [word for word in words if word.startswith("examples/") and not (PROJECT / word).is_file()] == []


def test_the_commands_of_the_readme_are_seen() -> None:
    assert {" ".join(line.split()[:2]) for line in COMMANDS} >= {f"beta-clip {c.words[0]}" for c in cli.COMMANDS}
