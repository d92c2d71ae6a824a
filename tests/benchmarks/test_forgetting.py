"""What is forgotten of short captions: the base knows short ones alone, and the tables say what was measured."""

from dataclasses import replace

import pytest

from beta_clip_hf import BetaCLIPDataCollator, BetaCLIPProcessor


@pytest.fixture
def forgetting():
    """The benchmark. It is importable once the root is on the path."""
    from benchmarks.study import forgetting

    return forgetting


@pytest.fixture
def short(forgetting, plain_clip_dir):
    """Makes a fine-tuning of 4 scenes that is measured on 4."""

    def make(recipe: str, replayed: float):
        run = forgetting.tuning_run(recipe, replayed, 1, plain_clip_dir, scenes=4)
        return replace(run, test_scenes=4, schedule=replace(run.schedule, batch_size=2))

    return make


def captions_of(run, limit: int = 40):
    """The captions that a run trains on, as its collator draws them."""
    from benchmarks.study.run import build

    processor = BetaCLIPProcessor.from_pretrained(run.clip) if run.clip else build(run)[1]
    collator = BetaCLIPDataCollator(processor, seed=0, **run.arm.collator)
    rows = [run.training_rows()[index] for index in range(limit)]
    batch = collator(rows)
    granularity = batch.get("granularity")
    ids = batch["input_ids"] if granularity is None else batch["input_ids"][granularity == 0]
    texts = processor.batch_decode(ids, skip_special_tokens=True)
    return rows, [text.replace(" ", "") for text in texts]


@pytest.mark.slow
def test_the_base_sees_short_captions_alone(forgetting):
    rows, captions = captions_of(forgetting.base_run(40))
    for row, caption in zip(rows, captions, strict=True):
        assert caption.rstrip("!") == row["short_caption"].lower().replace(" ", "")


def test_a_share_of_the_rows_is_replayed(short):
    run = short("plain", 0.5)
    rows, captions = captions_of(replace(run, schedule=replace(run.schedule, points=(40,))))
    are_short = []
    for row, caption in zip(rows, captions, strict=True):
        are_short.append(caption == row["short_caption"].lower().replace(" ", ""))
