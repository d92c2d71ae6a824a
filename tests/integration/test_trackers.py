"""What TensorBoard, Weights & Biases and trackio are told: losses by name, scales, rates, recalls and pictures."""

import struct
import sys
import types

import numpy as np
import pytest
from PIL import Image
from transformers.integrations import TensorBoardCallback

from beta_clip_hf import BetaCLIPDataCollator, BetaCLIPProcessor, BetaCLIPTrainer, BetaCLIPTrainingArguments
from beta_clip_hf.data.scenes import SceneDataset
from beta_clip_hf.training.callbacks.gallery import show_pictures
from training.tiny_runs import new_model


pytestmark = pytest.mark.slow

SCALARS = {
    "train/loss", "train/clip_loss", "train/beta_cal_loss", "train/logit_scale", "train/pooler_logit_scale",
    "train/learning_rate", "train/pooler_learning_rate", "eval/t2i_r1", "eval/i2t_r10",
}  # fmt: skip
PICTURES = {"eval/attention/0", "eval/attention/1"}


class Writer:
    """Has the methods of `SummaryWriter` that are called, and remembers what it was told."""

    def __init__(self):
        self.scalars = {}
        self.pictures = {}

    def add_scalar(self, name, value, step):
        self.scalars.setdefault(name, {})[step] = value

    def add_image(self, name, pixels, step, dataformats):
        assert dataformats == "HWC"
        self.pictures.setdefault(name, {})[step] = pixels

    def add_text(self, *args):
        pass

    flush = close = add_text


@pytest.fixture
def processor(tiny_tokenizer):
    return BetaCLIPProcessor.from_image_size(tiny_tokenizer, image_size=32)


def scene_trainer(config, processor, folder, callbacks=(), **settings):
    rows = SceneDataset(8, image_size=48)
    values = {
        "use_cpu": True, "max_steps": 2, "per_device_train_batch_size": 4, "logging_steps": 1, "eval_strategy": "steps",
        "eval_steps": 1, "save_strategy": "no", "disable_tqdm": True, "attention_gallery": 2,
    }  # fmt: skip
    args = BetaCLIPTrainingArguments(str(folder), **values | settings)
    collator = BetaCLIPDataCollator(processor, num_phrases=3)
    return BetaCLIPTrainer(
        new_model(config), args, collator, processing_class=processor, train_dataset=rows,
        eval_dataset=SceneDataset(6, seed=1, image_size=48), callbacks=list(callbacks),
    )  # fmt: skip


def tensorboard(writer):
    """transformers' callback, with a writer of its own: its constructor wants TensorBoard to be installed."""
    callback = TensorBoardCallback.__new__(TensorBoardCallback)
    callback.tb_writer, callback.logging_dir = writer, "logs"
    return callback


def test_a_writer_gets_scalars_and_pictures(tiny_config, processor, tmp_path):
    writer = Writer()
    trainer = scene_trainer(tiny_config, processor, tmp_path, [tensorboard(writer)])
    trainer.train()
    assert writer.scalars.keys() >= SCALARS
    assert all({1, 2} <= writer.scalars[name].keys() for name in SCALARS)
    assert writer.pictures.keys() == PICTURES
    first, second = (writer.pictures["eval/attention/0"][step] for step in (1, 2))
    assert first.dtype == np.uint8 and first.shape[2] == 3 and min(first.shape[:2]) > 100
    # Each evaluation draws the model that it has measured, and pictures of two images differ.
    assert first.shape != second.shape or (first != second).any()
    stored = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png"))
    assert stored == [f"attention/step-{name}.png" for name in ("1/0", "1/1", "2/0", "2/1")]
    with Image.open(tmp_path / "attention/step-2/0.png") as picture:
        assert np.array_equal(np.asarray(picture.convert("RGB")), second)


def test_drawing_does_not_change_the_training(tiny_config, processor, tmp_path):
    losses = []
    for count in (0, 2):
        trainer = scene_trainer(tiny_config, processor, tmp_path / str(count), attention_gallery=count)
        trainer.train()
        losses.append([record["loss"] for record in trainer.state.log_history if "loss" in record])
    assert losses[0] == losses[1]
    assert not (tmp_path / "0" / "attention").exists()


def test_the_files_of_tensorboard(tiny_config, processor, tmp_path):
    tensorboard_x = pytest.importorskip("tensorboardX", reason="tensorboardX is not installed")
    writer = tensorboard_x.SummaryWriter(str(tmp_path / "logs"))
    trainer = scene_trainer(tiny_config, processor, tmp_path / "run", [tensorboard(writer)])
    trainer.train()
    writer.close()
    tags = set()
    for path in (tmp_path / "logs").iterdir():
        tags |= set(tags_of(path, tensorboard_x))
    assert tags >= SCALARS | PICTURES


def tags_of(path, tensorboard_x):
    """The names of the values in a file of events: records of a length, its checksum, a message, its checksum."""
    content = path.read_bytes()
    place = 0
    while place < len(content):
        (length,) = struct.unpack_from("<Q", content, place)
        event = tensorboard_x.proto.event_pb2.Event.FromString(content[place + 12 : place + 12 + length])
        yield from (value.tag for value in event.summary.value)
        place += length + 16


@pytest.mark.parametrize("tool", ["wandb", "trackio"])
def test_other_tools_get_the_pictures(tool, monkeypatch):
    told = []
    fake = types.ModuleType(tool)
    fake.Image = lambda pixels: ("image", pixels.shape)
    fake.log = told.append
    monkeypatch.setitem(sys.modules, tool, fake)
    callback = type(f"{tool.capitalize()}Callback", (), {})()
    show_pictures(callback, {"eval/attention/0": np.zeros((4, 6, 3), np.uint8)}, 7)
    assert told == [{"eval/attention/0": ("image", (4, 6, 3)), "train/global_step": 7}]


def test_impossible_galleries_are_an_error(tiny_config, processor, tmp_path):
    for count in (-1, True, 1.5):
        with pytest.raises(ValueError, match="attention_gallery must be an integer of at least 0"):
            scene_trainer(tiny_config, processor, tmp_path, attention_gallery=count)
    tiny_config.use_pooler = False
    with pytest.raises(ValueError, match="attention_gallery must be 0 for a model without a pooler"):
        scene_trainer(tiny_config, processor, tmp_path)
