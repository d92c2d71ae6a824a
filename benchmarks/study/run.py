"""Runs one arm with one seed: trains, measures along the way, and writes a result."""

import importlib
import logging
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from beta_clip_hf import (
    BetaCLIPConfig,
    BetaCLIPDataCollator,
    BetaCLIPModel,
    BetaCLIPProcessor,
    BetaCLIPTrainer,
    BetaCLIPTrainingArguments,
    SceneDataset,
)
from beta_clip_hf.data.scenes import scene_captions
from beta_clip_hf.data.tokenizers import train_clip_tokenizer
from beta_clip_hf.evaluation.results import Metric
from beta_clip_hf.inference.identity import environment, model_hash
from beta_clip_hf.model.configuration_beta_clip import CLIP_TEXT_POSITIONS
from beta_clip_hf.model.packing_beta_clip import text_lengths

from .arms import Arm
from .measure import measure_model, numbers, packed_values
from .records import rounded, write_record
from .schedules import IMAGE_SIZE, SCHEDULES, TEST_SCENES, TEST_SEED, Schedule, training_seed


logger = logging.getLogger(__name__)

SCHEMA = 1
VISION_TOWER = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4}
TEXT_TOWER = {**VISION_TOWER, "num_hidden_layers": 2}
_TEXTS = ("input_ids", "region_input_ids", "hard_input_ids", "negative_input_ids")


@dataclass(frozen=True)
class Run:
    """What is run: an arm with a seed, from a start, on scenes of a level."""

    arm: Arm
    seed: int
    start: str = "finetune"
    level: str = "easy"
    clip: Path | None = None
    """Directory of the plain CLIP to fine-tune; the one of the package by default."""
    test_seed: int = TEST_SEED
    test_scenes: int = TEST_SCENES
    device: str = "cpu"
    schedule: Schedule = field(default=SCHEDULES["finetune", "easy"])

    def training_rows(self) -> SceneDataset:
        """Returns the training scenes, in the order in which they are trained on."""
        steps = self.schedule.steps_of_points(self.arm.contrast)[-1]
        num_scenes = steps * (self.arm.contrast or self.schedule.batch_size)
        seed = training_seed(self.start, self.seed)
        return SceneDataset(num_scenes, seed=seed, level=self.level, image_size=IMAGE_SIZE)

    def test_rows(self) -> list[dict[str, Any]]:
        """Returns the test scenes, drawn once: they are measured several times."""
        scenes = SceneDataset(self.test_scenes, seed=self.test_seed, level=self.level, image_size=IMAGE_SIZE)
        return [scenes[index] for index in range(self.test_scenes)]


def build(run: Run) -> tuple[BetaCLIPModel, BetaCLIPProcessor]:
    """Returns the model that a run starts with, and its processor. What is new in it depends on the seed."""
    if run.start == "finetune":
        clip = run.clip or _shipped_clip()
        torch.manual_seed(run.seed)
        model = BetaCLIPModel.from_pretrained(clip, dtype=torch.float32, **run.arm.config)
        processor = BetaCLIPProcessor.from_pretrained(clip)
    else:
        tokenizer = train_clip_tokenizer(scene_captions(2000, seed=0, level=run.level), vocab_size=1000)
        processor = BetaCLIPProcessor.from_image_size(tokenizer, IMAGE_SIZE, squash=True)
        torch.manual_seed(run.seed)
        model = BetaCLIPModel(_new_config(run, tokenizer))
    if model.config.use_long_text_path:
        processor.short_max_length = CLIP_TEXT_POSITIONS
    return model, processor


def _shipped_clip() -> Path:
    """Returns the directory of the package's plain CLIP."""
    # Imported late: runs that name their own CLIP need no shipped one.
    scenes = importlib.import_module("beta_clip_hf.data.scenes")
    return Path(scenes.pretrained("clip"))


def _new_config(run: Run, tokenizer: Any) -> BetaCLIPConfig:
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return BetaCLIPConfig(
        projection_dim=128,
        text_config={**TEXT_TOWER, **ids, "vocab_size": len(tokenizer)},
        vision_config={**VISION_TOWER, "image_size": IMAGE_SIZE, "patch_size": 8},
        **run.arm.config,
    )


class CountingTrainer(BetaCLIPTrainer):
    """A Trainer that counts the tokens it trains on, without padding."""

    num_tokens: Any = 0
    num_texts: int = 0

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Computes the loss like [`BetaCLIPTrainer`]."""
        eos_token_id = self.processing_class.tokenizer.eos_token_id
        for name in _TEXTS:
            if inputs.get(name) is not None:
                # The sum stays on the device, so that no step waits for it.
                self.num_tokens = self.num_tokens + text_lengths(inputs[name], eos_token_id).sum()
                self.num_texts += len(inputs[name])
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)


class MemoryPeak:
    """
    Peak memory of the process while it trains: on the GPU if the model is there, resident memory otherwise.

    Where the operating system cannot forget an earlier peak, evaluations count too.
    """

    def __init__(self, device: str) -> None:
        self.is_cuda = device.startswith("cuda")
        self.highest = 0

    def restart(self) -> None:
        """Forgets the peak so far."""
        if self.is_cuda:
            torch.cuda.reset_peak_memory_stats()
            return
        try:
            # Linux sets the peak to what is resident now.
            Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
        except OSError:
            logger.debug("the peak of memory cannot be reset here")

    def note(self) -> None:
        """Notes the peak since the last restart."""
        peak = torch.cuda.max_memory_allocated() if self.is_cuda else _resident_peak()
        self.highest = max(self.highest, peak)


def _resident_peak() -> int:
    """Returns the highest resident memory of the process in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class Evaluations(TrainerCallback):
    """
    Measures the model after given steps, and the time and memory of training without the evaluations.

    Args:
        steps: Optimiser steps after which the model is measured.
        images: Scenes of a step.
        measure: Returns the metrics of the model as it is now. It is told whether this is the last time.
        device: Device of the training.
    """

    def __init__(
        self, steps: tuple[int, ...], images: int, measure: Callable[[bool], list[Metric]], device: str
    ) -> None:
        self.steps = steps
        self.images = images
        self.measure = measure
        self.memory = MemoryPeak(device)
        self.is_cuda = device.startswith("cuda")
        self.curve: list[dict[str, Any]] = []
        self.last: list[Metric] = []
        self.seconds = 0.0
        self.cpu_seconds = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Starts to watch the memory."""
        self.memory.restart()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measures after some steps."""
        if state.global_step in self.steps:
            self.memory.note()
            self.evaluate(state.global_step, is_last=state.global_step == self.steps[-1])
            self.memory.restart()

    def evaluate(self, step: int, *, is_last: bool) -> None:
        """Measures the model now, and adds a point to the curve."""
        if self.is_cuda:
            # Work of the training that is still queued is not the evaluation's.
            torch.cuda.synchronize()
        start, cpu_start = time.perf_counter(), time.process_time()
        self.last = self.measure(is_last)
        self.seconds += time.perf_counter() - start
        self.cpu_seconds += time.process_time() - cpu_start
        self.curve.append({"step": step, "scenes": step * self.images, "metrics": numbers(self.last)})


def training_arguments(run: Run, output_dir: str) -> BetaCLIPTrainingArguments:
    """Returns the arguments of the training, which differ between arms in the size of the contrast alone."""
    schedule = run.schedule
    steps = schedule.steps_of_points(run.arm.contrast)[-1]
    return BetaCLIPTrainingArguments(
        output_dir=output_dir,
        max_steps=steps,
        per_device_train_batch_size=schedule.batch_size,
        contrastive_batch_size=run.arm.contrast,
        learning_rate=schedule.learning_rate,
        learning_rate_end=schedule.learning_rate_end,
        pooler_learning_rate=schedule.pooler_learning_rate,
        pooler_learning_rate_end=schedule.pooler_learning_rate_end,
        warmup_steps=round(schedule.warmup * steps),
        max_grad_norm=1.0,
        # Scenes are independent draws, so their own order is a random one, and the same for every arm.
        train_sampling_strategy="sequential",
        logging_steps=max(1, steps // 10),
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        bf16=False,
        use_cpu=run.device == "cpu",
        seed=run.seed,
    )


@dataclass
class Trained:
    """A model after its training, with what was measured along the way."""

    model: BetaCLIPModel
    processor: BetaCLIPProcessor
    evaluations: Evaluations
    cost: dict[str, Any]


def train(run: Run, *, is_measured: bool = True) -> Trained:
    """Trains the arm of a run. Without `is_measured` no evaluation takes place."""
    model, processor = build(run)
    steps = run.schedule.steps_of_points(run.arm.contrast)
    images = run.arm.contrast or run.schedule.batch_size
    rows = run.test_rows() if is_measured else []

    def measure(is_last: bool) -> list[Metric]:
        return measure_model(model, processor, rows, is_last=is_last)

    evaluations = Evaluations(steps if is_measured else (), images, measure, run.device)
    if not run.arm.is_trained:
        model.to(run.device)
        evaluations.evaluate(0, is_last=True)
        return Trained(model, processor, evaluations, {})
    collator = BetaCLIPDataCollator(processor, seed=run.seed, **run.arm.collator)
    with tempfile.TemporaryDirectory() as folder:
        trainer = CountingTrainer(
            model,
            training_arguments(run, folder),
            collator,
            train_dataset=run.training_rows(),
            processing_class=processor,
            callbacks=[evaluations],
        )
        start, cpu_start = time.perf_counter(), time.process_time()
        trainer.train()
        seconds = time.perf_counter() - start - evaluations.seconds
        cpu_seconds = time.process_time() - cpu_start - evaluations.cpu_seconds
    cost = {
        "training_seconds": round(seconds, 1),
        "training_cpu_seconds": round(cpu_seconds, 1),
        "peak_mib": round(evaluations.memory.highest / 2**20),
        "tokens": int(trainer.num_tokens),
        "texts": trainer.num_texts,
    }
    return Trained(model, processor, evaluations, cost)


def record_of(run: Run, trained: Trained) -> dict[str, Any]:
    """Returns the result of a run, ready for JSON."""
    evaluations = trained.evaluations
    last = evaluations.last
    values, clusters = packed_values(last)
    metrics = {}
    for metric in last:
        # Not every metric is measured at every point.
        points = [point["metrics"].get(str(metric.name), (None, None, None)) for point in evaluations.curve]
        values_of_points, lows, highs = (list(column) for column in zip(*points, strict=True))
        metrics[str(metric.name)] = {
            "chance": rounded(metric.chance),
            "count": metric.count,
            "value": values_of_points,
            "low": lows,
            "high": highs,
        }
    clip_hash = None
    if run.start == "finetune":
        clip_hash = model_hash(BetaCLIPModel.from_pretrained(run.clip or _shipped_clip()))[:16]
    schedule = vars(run.schedule) | {"points": list(run.schedule.points)}
    return {
        "schema": SCHEMA,
        "arm": run.arm.name,
        "seed": run.seed,
        "start": run.start,
        "level": run.level,
        "settings": run.arm.settings(),
        "schedule": schedule,
        "clip": clip_hash,
        "test": {"seed": run.test_seed, "scenes": run.test_scenes},
        "commit": commit(),
        "environment": environment(torch.device(run.device)) | {"threads": torch.get_num_threads()},
        "cost": trained.cost | {"evaluation_seconds": round(evaluations.seconds, 1)},
        "steps": [point["step"] for point in evaluations.curve],
        "scenes": [point["scenes"] for point in evaluations.curve],
        "metrics": metrics,
        "clusters": clusters,
        "values": values,
    }


def commit() -> str:
    """Returns the commit of the code, with a mark if tracked files were changed."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def run_arm(run: Run, path: Path, save: Path | None = None) -> Path:
    """
    Runs an arm and writes its result, if it is not there yet. Returns the path of the result.

    Args:
        run: What to run.
        path: File of the result.
        save: Directory for the model and its processor; without one they are not kept.
    """
    if path.exists() and (save is None or save.exists()):
        logger.info("%s is there already", path)
        return path
    trained = train(run)
    if save is not None:
        trained.model.save_pretrained(save)
        trained.processor.save_pretrained(save)
    return write_record(record_of(run, trained), path)
