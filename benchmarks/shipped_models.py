"""
Makes the two small models that ship with the package, with their cards. Nothing is downloaded.

    python benchmarks/shipped_models.py clip
    python benchmarks/shipped_models.py beta_clip

The first trains a plain CLIP from random weights, the second fine-tunes it. Both are measured on scenes that they were
not trained on, as they ship: in half precision. The stages of the training are kept in `--run`; a stage that is there
is not trained again.
"""

import argparse
import itertools
import json
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from shipped_cards import LEVELS, LICENCE, METRICS, TEST_SCENES, TEST_SEED, format_results, write_card
from torch.utils.data import Dataset

from beta_clip_hf import (
    BetaCLIPConfig,
    BetaCLIPDataCollator,
    BetaCLIPModel,
    BetaCLIPProcessor,
    BetaCLIPTrainer,
    BetaCLIPTrainingArguments,
    SceneDataset,
)
from beta_clip_hf.data.scenes import pretrained, scene_captions
from beta_clip_hf.data.scenes.pretrained import PRETRAINED
from beta_clip_hf.data.tokenizers import train_clip_tokenizer
from beta_clip_hf.evaluation.evaluator import evaluate
from beta_clip_hf.files import write_json, write_text
from beta_clip_hf.inference.identity import environment
from beta_clip_hf.inference.models import load_model
from beta_clip_hf.release.export import export_clip
from beta_clip_hf.training.setup.config import read_config


RUNS = Path("runs/shipped")
IMAGE_SIZE = 64
TOWER = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4}


@dataclass(frozen=True)
class Stage:
    """Holds one stage of a training: its scenes, the texts that it takes of them, and its arguments."""

    levels: tuple[str, ...]
    """Levels of the scenes; the batches take them in turns."""
    seed: int
    """Seed of the scenes."""
    texts: dict[str, Any]
    """Settings of the collator."""
    training: dict[str, Any]
    """Training arguments that differ from those of all stages."""


# A process that has not imported the package finds its classes by this file, with `trust_remote_code=True`.
INSTALLED_CODE = "installed_code"
INSTALLED_CODE_TEXT = '''"""The classes of the installed package, for `trust_remote_code=True`."""

from beta_clip_hf import BetaCLIPConfig, BetaCLIPModel, BetaCLIPProcessor


__all__ = ["BetaCLIPConfig", "BetaCLIPModel", "BetaCLIPProcessor"]
'''
INSTALLED_CLASSES = {
    "config.json": {
        "AutoConfig": f"{INSTALLED_CODE}.BetaCLIPConfig",
        "AutoModel": f"{INSTALLED_CODE}.BetaCLIPModel",
        "AutoModelForZeroShotImageClassification": f"{INSTALLED_CODE}.BetaCLIPModel",
    },
    "processor_config.json": {"AutoProcessor": f"{INSTALLED_CODE}.BetaCLIPProcessor"},
}
# Long captions of easy scenes come first: with medium scenes or short captions from the start, little is learnt.
CLIP_STAGES = (
    Stage(
        levels=("easy",),
        seed=100,
        texts={"caption_mode": "caption_only"},
        training={"max_steps": 1200, "learning_rate": 1e-3, "warmup_steps": 120},
    ),
    Stage(
        levels=("easy", "medium"),
        seed=101,
        texts={"caption_mode": "caption_only", "short_caption_probability": 0.3},
        training={"max_steps": 1400, "learning_rate": 5e-4, "warmup_steps": 50},
    ),
)
CLIP_MODEL = {
    "projection_dim": 128,
    "use_pooler": False,
    "text_config": {**TOWER, "num_hidden_layers": 2},
    "vision_config": {**TOWER, "image_size": IMAGE_SIZE, "patch_size": 8},
}
# The losses and the texts are those of the recipe that is recommended.
RECIPE = read_config(Path(__file__).resolve().parents[1] / "examples" / "configs" / "recommended.yaml")
BETA_CLIP_MODEL = RECIPE["model"]["config"] | {"pooler_num_attention_heads": 2}
BETA_CLIP_TEXTS = RECIPE["data"]
BETA_CLIP_TRAINING = {
    "per_device_train_batch_size": 32,
    "learning_rate": 5e-4,
    "pooler_learning_rate": 1e-3,
    "pooler_learning_rate_end": 1e-5,
    "warmup_steps": 20,
}
BETA_CLIP_STAGES = (
    Stage(
        levels=("easy",),
        seed=77,
        texts=BETA_CLIP_TEXTS,
        training=BETA_CLIP_TRAINING | {"max_steps": 400, "train_sampling_strategy": "random"},
    ),
    Stage(
        levels=("medium", "easy"),
        seed=78,
        texts=BETA_CLIP_TEXTS,
        training=BETA_CLIP_TRAINING | {"max_steps": 900, "seed": 1},
    ),
)
COMMON_TRAINING = {
    "per_device_train_batch_size": 64,
    "learning_rate_end": 1e-5,
    "max_grad_norm": 1.0,
    # The levels take turns batch by batch, so the order stays.
    "train_sampling_strategy": "sequential",
    "logging_steps": 50,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "seed": 0,
}


Loaded = tuple[BetaCLIPModel, BetaCLIPProcessor]


class LevelsInTurns(Dataset[dict[str, Any]]):
    """Scenes of several levels; a batch has those of one level, and the batches take the levels in turns."""

    def __init__(self, stage: Stage, batch_size: int, num_steps: int) -> None:
        self.batch_size = batch_size
        self.length = batch_size * num_steps
        self.levels = []
        for level in stage.levels:
            self.levels.append(SceneDataset(self.length, seed=stage.seed, level=level, image_size=IMAGE_SIZE))

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        step = index // self.batch_size
        return self.levels[step % len(self.levels)][index]


def load(folder: str | Path, **config: Any) -> Loaded:
    """Loads a model and its processor."""
    return BetaCLIPModel.from_pretrained(folder, **config), BetaCLIPProcessor.from_pretrained(folder)


def new_clip() -> Loaded:
    """Makes a CLIP with random weights, and a tokenizer of the captions of all levels."""
    captions = itertools.chain.from_iterable(
        scene_captions(2000, seed=0, level=level) for level in ("easy", "medium", "hard")
    )
    tokenizer = train_clip_tokenizer(captions, vocab_size=1000)
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    torch.manual_seed(0)
    text_config = CLIP_MODEL["text_config"] | ids | {"vocab_size": len(tokenizer)}
    config = BetaCLIPConfig(**CLIP_MODEL | {"text_config": text_config})
    return BetaCLIPModel(config), BetaCLIPProcessor.from_image_size(tokenizer, IMAGE_SIZE, squash=True)


def train_stage(stage: Stage, model: BetaCLIPModel, processor: BetaCLIPProcessor, output: Path) -> None:
    """Trains one stage, and saves the model with the seconds that it took."""
    training = COMMON_TRAINING | stage.training
    arguments = BetaCLIPTrainingArguments(output_dir=str(output), **training)
    rows = LevelsInTurns(stage, training["per_device_train_batch_size"], training["max_steps"])
    collator = BetaCLIPDataCollator(processor, seed=training["seed"], **stage.texts)
    trainer = BetaCLIPTrainer(model, arguments, collator, train_dataset=rows, processing_class=processor)
    seconds = trainer.train().metrics["train_runtime"]
    trainer.save_model()
    write_json({"seconds": round(seconds, 1), "threads": torch.get_num_threads()}, output / "seconds.json")


def train(stages: Sequence[Stage], start: Callable[[], Loaded], config: dict[str, Any], run: Path) -> Path:
    """
    Trains stage by stage. Returns the directory of the last stage.

    Args:
        stages: The stages. One that is there is not trained again.
        start: Makes or loads the model of the first stage.
        config: Settings of the model in the stages after the first.
        run: Directory of the stages.
    """
    folder = run
    for number, stage in enumerate(stages):
        previous, folder = folder, run / f"stage{number}"
        if (folder / "model.safetensors").exists():
            continue
        # A new pooler is random.
        torch.manual_seed((COMMON_TRAINING | stage.training)["seed"])
        model, processor = start() if number == 0 else load(previous, **config)
        train_stage(stage, model, processor, folder)
    return folder


def write_in_half_precision(name: str, trained: Path, output: Path) -> None:
    """Writes a trained model in half precision; the plain CLIP as one of transformers."""
    if name == "clip":
        export_clip(trained, output).half().save_pretrained(output)
    else:
        model, processor = load(trained)
        model.half().save_pretrained(output)
        processor.save_pretrained(output)
        name_installed_code(output)
    # `from_pretrained` takes the dtype from here. A CPU trains and infers in float32.
    config = json.loads((output / "config.json").read_text(encoding="utf-8"))
    write_json(config | {"dtype": "float32"}, output / "config.json")
    write_text(output / "LICENSE", LICENCE)


def name_installed_code(folder: Path) -> None:
    """Replaces the code of a saved model by one file that imports the package: these weights come with it."""
    for path in folder.glob("*.py"):
        path.unlink()
    write_text(folder / f"{INSTALLED_CODE}.py", INSTALLED_CODE_TEXT)
    for name in ("config.json", "processor_config.json"):
        content = json.loads((folder / name).read_text(encoding="utf-8"))
        content.get("image_processor", {}).pop("auto_map", None)
        content["auto_map"] = INSTALLED_CLASSES[name]
        write_json(dict(sorted(content.items())), folder / name)
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    tokenizer.pop("auto_map", None)
    write_json(tokenizer, folder / "tokenizer_config.json")


def measure(folder: Path) -> dict[str, Any]:
    """Measures a model on scenes of each level. Returns the metrics of the card."""
    measured = {}
    for level in LEVELS:
        model, processor, _ = load_model(str(folder), torch.device("cpu"))
        rows = SceneDataset(TEST_SCENES, seed=TEST_SEED, level=level, image_size=IMAGE_SIZE)
        result = evaluate(model, processor, rows, protocol=f"scenes-{level}/shipped")
        shown = {key: result["figures"][key] for _, key in METRICS if key in result["figures"]}
        measured[level] = result | {"figures": shown}
    return measured


def describe(stage: Stage) -> dict[str, Any]:
    """Describes a stage by everything that makes it."""
    training = {**COMMON_TRAINING, **stage.training}
    unimportant = {"logging_steps", "save_strategy", "report_to", "disable_tqdm"}
    return {
        "scenes": {"levels": stage.levels, "seed": stage.seed, "image_size": IMAGE_SIZE},
        "texts": stage.texts,
        "training": {name: value for name, value in training.items() if name not in unimportant},
    }


def main() -> None:
    """Trains, writes and measures one of the models."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=PRETRAINED, help="model to make")
    parser.add_argument("--output", type=Path, help="directory of the model (that of the package)")
    parser.add_argument("--run", type=Path, help="directory of the stages (runs/shipped/NAME)")
    # In float32, as it was trained.
    clip_run = RUNS / "clip" / f"stage{len(CLIP_STAGES) - 1}"
    parser.add_argument("--clip", default=clip_run, help="plain CLIP to start the β-CLIP from (%(default)s)")
    measured_clip = Path(pretrained("clip"))
    parser.add_argument("--measured-clip", type=Path, default=measured_clip, help="it as it ships, for the card")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    output = args.output or Path(pretrained(args.name))
    run = args.run or RUNS / args.name

    stages, config, clip = CLIP_STAGES, CLIP_MODEL, None
    if args.name == "clip":
        trained = train(stages, new_clip, {}, run)
    else:
        stages, config = BETA_CLIP_STAGES, BETA_CLIP_MODEL
        trained = train(stages, lambda: load(args.clip, **config), config, run)
        clip = json.loads((args.measured_clip / "results.json").read_text(encoding="utf-8"))
    write_in_half_precision(args.name, trained, output)

    times = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(run.glob("stage*/seconds.json"))]
    results = {
        "model": config,
        "stages": [describe(stage) for stage in stages],
        "seconds": sum(time["seconds"] for time in times),
        "threads": times[-1]["threads"],
        "environment": environment(torch.device("cpu")),
        "parameters": BetaCLIPModel.from_pretrained(trained).num_parameters(),
        "levels": measure(output),
    }
    write_json(results, output / "results.json")
    write_card(args.name, output, results, clip)
    sys.stdout.write(f"{format_results({args.name: results['levels']})}\n{output}\n")


if __name__ == "__main__":
    main()
