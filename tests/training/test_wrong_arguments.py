"""What a Trainer is given by mistake, and what a resumed run cannot change: each is one sentence, at once."""

import logging

import pytest
from transformers import CLIPProcessor

from beta_clip_hf import BetaCLIPTrainer, BetaCLIPTrainingArguments, SceneDataset
from beta_clip_hf.training.record.run_identity import Change, find_impossible, refuse_changes
from beta_clip_hf.training.setup.build import prepare_trainer
from training.tiny_runs import new_model, new_trainer


@pytest.fixture
def arguments(tmp_path):
    return BetaCLIPTrainingArguments(str(tmp_path / "run"), use_cpu=True, report_to=[])


def test_another_processor_is_told(tiny_config, tiny_processor, arguments):
    plain = CLIPProcessor(tiny_processor.image_processor, tiny_processor.tokenizer)
    with pytest.raises(ValueError, match="processing_class must be a BetaCLIPProcessor, but is a CLIPProcessor"):
        BetaCLIPTrainer(new_model(tiny_config), arguments, processing_class=plain, train_dataset=SceneDataset(8))


@pytest.mark.parametrize("name", ["train_dataset", "eval_dataset"])
def test_the_name_of_a_file_is_no_data_set(name, tiny_config, tiny_processor, arguments):
    rows = {"train_dataset": SceneDataset(8), name: "photos.jsonl"}
    with pytest.raises(ValueError, match=rf"{name} must hold rows, but is 'photos.jsonl': open it with load_rows"):
        BetaCLIPTrainer(new_model(tiny_config), arguments, processing_class=tiny_processor, **rows)


def test_columns_of_a_data_set_are_checked_before_the_first_batch(tiny_config, tiny_processor, arguments):
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    rows = datasets.Dataset.from_dict({"image": ["a.jpg"], "text": ["A dog."]})
    with pytest.raises(ValueError, match=r'train_dataset must have the columns .*"text": "caption"'):
        BetaCLIPTrainer(new_model(tiny_config), arguments, processing_class=tiny_processor, train_dataset=rows)


def test_a_best_checkpoint_is_chosen_by_what_is_measured(tiny_config, tmp_path):
    settings = {"eval_strategy": "steps", "eval_steps": 2, "metric_for_best_model": "eval_loss"}
    with pytest.raises(ValueError, match=r"metric_for_best_model must be one of i2t_r1, .*, but is 'eval_loss'"):
        new_trainer(tiny_config, tmp_path, eval_rows=[1], **settings)
    with pytest.raises(ValueError, match="eval_dataset must be given for eval_strategy='steps', but is None"):
        new_trainer(tiny_config, tmp_path, **settings)
    for metric in ("t2i_r1", "eval_i2t_r10"):
        new_trainer(tiny_config, tmp_path, eval_rows=[1], **{**settings, "metric_for_best_model": metric})


@pytest.mark.parametrize(
    ("change", "is_impossible"),
    [
        (Change("training.freeze", None, "vision"), True),
        (Change("training.lora.rank", 8, 16), True),
        (Change("training.layer_decay", 1.0, 0.9), True),
        (Change("training.layer_decay", 0.8, 0.9), False),
        (Change("training.ema_decay", 0.0, 0.9), True),
        (Change("training.ema_decay", 0.9, 0.99), False),
        (Change("training.learning_rate", 1e-4, 1e-5), False),
        (Change("training.freeze_text_positions", False, True), False),
    ],
)
def test_what_a_resumed_run_cannot_change_is_not_offered(change, is_impossible):
    assert bool(find_impossible([change])) == is_impossible
    with pytest.raises(ValueError, match=f"differs in {change.key}") as error:
        refuse_changes([change], [], "checkpoint-3")
    assert ("--allow-changed" in str(error.value)) != is_impossible
    if is_impossible:
        with pytest.raises(ValueError, match="the optimiser's state does not fit"):
            refuse_changes([change], ["training"], "checkpoint-3")
    else:
        refuse_changes([change], ["training"], "checkpoint-3")


def test_a_resumed_run_does_not_end_before_its_checkpoint(tiny_config, tmp_path):
    new_trainer(tiny_config, tmp_path, max_steps=3, save_strategy="steps", save_steps=3).train()
    shorter = new_trainer(tiny_config, tmp_path, max_steps=2, save_strategy="steps", save_steps=3)
    shorter.allowed_changes = ["training"]
    with pytest.raises(ValueError, match=r"max_steps must be at least the 3 steps that .* has done, but is 2"):
        shorter.train(resume_from_checkpoint=True)


def test_regions_that_no_row_brings_are_told(tiny_clip_dir, tiny_processor, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    tiny_processor.save_pretrained(tmp_path / "model")
    for file in tiny_clip_dir.iterdir():
        (tmp_path / "model" / file.name).write_bytes(file.read_bytes())
    config = {
        "model": {"from_pretrained": str(tmp_path / "model"), "config": {"use_regions": True}},
        "data": {"train": {"scenes": 8}, "num_regions": 2},
        "training": {},
    }
    arguments = BetaCLIPTrainingArguments(str(tmp_path / "run"), use_cpu=True, report_to=[])
    prepare_trainer(config, arguments)
    assert "rows has regions" not in caplog.text
    prepare_trainer(config, arguments, [{"image": "a.jpg", "caption": "A dog."}] * 8)
    assert "none of the first 8 rows has regions" in caplog.text and "show --box" in caplog.text
