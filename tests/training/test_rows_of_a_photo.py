"""Rows that name the same image: no photo is its own negative, and all measure the same of it."""

import json

import pytest
import torch
from PIL import Image

from beta_clip_hf import BetaCLIPTrainer, BetaCLIPTrainingArguments
from beta_clip_hf.data.readers import load_rows
from beta_clip_hf.evaluation.evaluator import evaluate


NUM_PHOTOS, NUM_CAPTIONS = 6, 5


@pytest.fixture
def source(tmp_path):
    generator = torch.Generator().manual_seed(0)
    lines = ["image,caption"]
    for number in range(NUM_PHOTOS):
        pixels = torch.randint(0, 256, (32, 32, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(tmp_path / f"{number}.png")
        lines += [f"{number}.png,Caption {k} of photo {number} ." for k in range(NUM_CAPTIONS)]
    (tmp_path / "captions.csv").write_text("\n".join(lines))
    return tmp_path / "captions.csv"


def trainer_of(model, processor, rows, tmp_path):
    arguments = BetaCLIPTrainingArguments(
        output_dir=str(tmp_path / "run"),
        per_device_train_batch_size=3,
        per_device_eval_batch_size=4,
        report_to="none",
        use_cpu=True,
    )
    return BetaCLIPTrainer(model, arguments, train_dataset=rows, eval_dataset=rows, processing_class=processor)


@pytest.mark.parametrize("group", [True, False])
def test_the_trainer_and_evaluate_agree(source, tiny_model, tiny_processor, tmp_path, group):
    rows = load_rows(source, group=group)
    assert len(rows) == (NUM_PHOTOS if group else NUM_PHOTOS * NUM_CAPTIONS)
    measured = trainer_of(tiny_model, tiny_processor, rows, tmp_path).evaluate()
    figures = evaluate(tiny_model.eval(), tiny_processor, rows, conditioned=False)["figures"]
    for k in (1, 5, 10):
        for short, long in (("i2t", "image_to_text"), ("t2i", "text_to_image")):
            wanted = figures[f"long/cls/{long}/R@{k}"]["value"]
            assert measured[f"eval_{short}_r{k}"] == pytest.approx(wanted, abs=1e-6), (short, k)
    assert measured["eval_images"] == len(rows)


def test_any_caption_of_a_photo_is_a_hit(source, tiny_model, tiny_processor):
    rows = load_rows(source)
    figures = evaluate(tiny_model.eval(), tiny_processor, rows, conditioned=False)["figures"]
    assert figures["short/cls/text_to_image/R@1"]["count"] == NUM_PHOTOS * NUM_CAPTIONS
    assert figures["short/cls/image_to_text/R@1"]["count"] == NUM_PHOTOS


def test_one_photo_is_found_whatever_the_model(source, tiny_model, tiny_processor):
    rows = load_rows(source, take=NUM_CAPTIONS)
    figures = evaluate(tiny_model.eval(), tiny_processor, rows, conditioned=False)["figures"]
    values = [figure["value"] for name, figure in figures.items() if name.endswith("/R@1")]
    assert values
    assert set(values) == {1.0}


def test_a_photo_with_a_single_caption_is_measured_too(source, tiny_model, tiny_processor):
    source.write_text(source.read_text() + "\n".join(["", "extra.png,A single caption ."]))
    Image.new("RGB", (32, 32), (200, 0, 0)).save(source.parent / "extra.png")
    figures = evaluate(tiny_model.eval(), tiny_processor, load_rows(source), conditioned=False)["figures"]
    assert figures["short/cls/text_to_image/R@1"]["count"] == NUM_PHOTOS * NUM_CAPTIONS + 1


def test_no_batch_has_a_photo_twice(source, tiny_model, tiny_processor, tmp_path):
    rows = load_rows(source)
    seen = [row["image"] for row in rows]
    assert len(set(seen)) == len(seen)
    trainer = trainer_of(tiny_model, tiny_processor, rows, tmp_path)
    batches = list(trainer.get_train_dataloader())
    assert sum(len(batch["pixel_values"]) for batch in batches) == NUM_PHOTOS


def test_the_task_photos_groups_every_kind_of_file(source):
    from beta_clip_hf.evaluation.benchmarks import load_benchmark

    lines = source.read_text().splitlines()[1:]
    records = [dict(zip(("image", "caption"), line.split(",", 1), strict=True)) for line in lines]
    (source.parent / "rows.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    for file in (source, source.parent / "rows.jsonl"):
        (part,) = load_benchmark("photos", file).parts
        assert part.counts == {"images": NUM_PHOTOS, "captions": NUM_PHOTOS * NUM_CAPTIONS}
