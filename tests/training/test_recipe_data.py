"""The recipes of ShareGPT4V: what they hold out, and the numbers that their heads name."""

import argparse
import logging
import math
import re

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, normalize

from beta_clip_cli.train import add_arguments, configuration
from beta_clip_hf import BetaCLIPDataCollator
from beta_clip_hf.data.rows import check_row
from beta_clip_hf.evaluation.benchmarks import load_benchmark
from beta_clip_hf.evaluation.benchmarks.long_captions import FILTERED_SHARE_CAPTIONS, SHARE_CAPTIONS
from beta_clip_hf.model.loss_beta_clip import beta_cal_loss
from beta_clip_hf.training.setup.build import open_rows
from beta_clip_hf.training.setup.config import COLLATOR_KEYS, read_config
from evaluation.benchmarks.files import touch, write


RECIPES = ("beta_clip_ce", "beta_clip_bce")
RECORDS = 1_100


def share_record(number):
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": f"Photo {number}.\nIt is large."}]
    return {"id": f"sa_{number}", "image": f"sam/images/sa_{number}.jpg", "conversations": turns}


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """ShareGPT4V as the release has it: the published list, and the list without every 50th record."""
    folder = tmp_path_factory.mktemp("release") / "ShareGPT4V"
    records = [share_record(number) for number in range(RECORDS)]
    kept = [record for number, record in enumerate(records) if number % 50 != 49]
    write(folder / "annotations" / SHARE_CAPTIONS, records)
    write(folder / "annotations" / FILTERED_SHARE_CAPTIONS, kept)
    touch(folder / "data", (record["image"] for record in records))
    return folder


def names_and_captions(rows):
    """The names of the images of rows, and their captions with line breaks as spaces."""
    names = {str(row["image"]).rpartition("/")[2] for row in rows}
    return names, {row["caption"].replace("\n", " ") for row in rows}


def training_rows(recipe, folder, monkeypatch, *overrides):
    monkeypatch.chdir(folder.parent)
    config = read_config(recipe, overrides)
    return open_rows(config["data"]["train"], seed=0, strict=True, shuffle=True)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_does_not_train_on_its_benchmark(project_dir, release, monkeypatch, name):
    recipe = project_dir / f"examples/configs/{name}.yaml"
    rows = training_rows(recipe, release, monkeypatch)
    names, captions = names_and_captions(rows)
    assert len(rows) == len(names) == len(captions) == RECORDS - RECORDS // 50 - 1000
    assert len(rows) + rows.held_out == RECORDS - RECORDS // 50
    parts = load_benchmark("sharegpt4v_1k", release).parts
    assert [part.name for part in parts] == ["", "filtered"]
    for part in parts:
        tested_names, tested_captions = names_and_captions(part.rows)
        assert len(tested_names) == len(tested_captions) == 1000
        assert not names & tested_names and not captions & tested_captions
    # Without the hold-out, every one of them is trained on.
    everything = training_rows(recipe, release, monkeypatch, ("data.train.skip", 0))
    assert names_and_captions(parts[1].rows)[0] < names_and_captions(everything)[0]


@pytest.mark.parametrize("name", RECIPES)
def test_the_published_list_holds_out_the_main_part(project_dir, release, monkeypatch, name):
    source = ("data.train.source", str(release / "annotations" / SHARE_CAPTIONS))
    rows = training_rows(project_dir / f"examples/configs/{name}.yaml", release, monkeypatch, source)
    main, filtered = load_benchmark("sharegpt4v_1k", release).parts
    assert len(rows) == RECORDS - 1000
    assert not names_and_captions(rows)[0] & names_and_captions(main.rows)[0]
    # The filtered list reaches further: these are the "few records" of the recipe's head.
    assert len(names_and_captions(rows)[0] & names_and_captions(filtered.rows)[0]) == 20


@pytest.mark.parametrize(("words", "is_warned"), [((), True), (("--skip", "999"), True), (("--skip", "1000"), False)])
def test_a_training_on_the_benchmark_is_warned_of(release, caplog, words, is_warned):
    for name in (SHARE_CAPTIONS, FILTERED_SHARE_CAPTIONS):
        caplog.clear()
        config = command_line("--train-data", str(release / "annotations" / name), *words)
        rows = {**as_mapping(config["data"]["train"]), "image_root": str(release / "data")}
        with caplog.at_level(logging.WARNING):
            open_rows(rows, seed=0, strict=True, shuffle=True)
        message = f"the first 1000 records of {name} are the benchmark sharegpt4v_1k"
        assert (message in caplog.text) == is_warned
        # The test set itself is read without a word.
        caplog.clear()
        open_rows(rows, seed=0, strict=True)
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def command_line(*words):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return configuration(parser.parse_args(words))


def as_mapping(source):
    return source if isinstance(source, dict) else {"source": source}


@pytest.mark.parametrize("name", RECIPES)
def test_photos_of_a_user_are_not_held_out(project_dir, name):
    recipe = str(project_dir / f"examples/configs/{name}.yaml")
    config = command_line("--config", recipe, "--train-data", "photos.jsonl")
    assert config["data"]["train"] == "photos.jsonl"
    config = command_line("--config", recipe, "--set", "data.train.image_root=elsewhere")
    assert config["data"]["train"]["skip"] == 1000 and config["data"]["train"]["image_root"] == "elsewhere"


def release_bce(images_BKD, texts_BKD, is_text_BK, scale, beta):
    """The mean of the release: over all pairs of padded texts, those of padding counting 0 (losses.py, 7be4476)."""
    num_images, num_texts = is_text_BK.shape
    total = 0.0
    for image in range(num_images):
        for text in range(num_texts):
            for other_image in range(num_images):
                for other_text in range(num_texts):
                    if not (is_text_BK[image, text] and is_text_BK[other_image, other_text]):
                        continue
                    logit = scale * images_BKD[image, text] @ texts_BKD[other_image, other_text]
                    is_own = torch.tensor(float(image == other_image), dtype=torch.float64)
                    is_same = (image, text) == (other_image, other_text)
                    weight = beta if image == other_image and not is_same else 1.0
                    total += weight * binary_cross_entropy_with_logits(logit, is_own)
    return total / (num_images * num_texts) ** 2


@pytest.mark.parametrize("lengths", [(4, 4, 4), (4, 1, 2), (3, 0, 4)])
def test_the_weight_gives_the_scale_of_the_release(lengths):
    """Padding-free β-CAL in its binary form, times the square of the share of real texts, is the release's."""
    generator = torch.Generator().manual_seed(0)
    shape = (len(lengths), 4, 8)
    images_BKD = normalize(torch.randn(shape, generator=generator, dtype=torch.float64), dim=-1)
    texts_BKD = normalize(torch.randn(shape, generator=generator, dtype=torch.float64), dim=-1)
    is_text_BK = torch.arange(4) < torch.tensor(lengths)[:, None]
    image_index_T = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    expected = release_bce(images_BKD, texts_BKD, is_text_BK, 5.0, 0.5)
    loss = beta_cal_loss(
        images_BKD[is_text_BK], texts_BKD[is_text_BK], image_index_T, logit_scale=5.0, beta=0.5, kind="bce"
    )
    share = sum(lengths) / is_text_BK.numel()
    torch.testing.assert_close(share**2 * loss, expected, rtol=1e-12, atol=0)
    assert share == 1 or loss > 1.5 * expected


def test_the_weight_in_the_head(project_dir):
    """26.6 of 36 texts: the number of the comment, of the commented setting and of the example."""
    text = (project_dir / "examples/configs/beta_clip_bce.yaml").read_text(encoding="utf-8")
    weight = (26.6 / 36) ** 2
    (setting,) = re.findall(r"# beta_cal_loss_weight: ([\d.]+)", text)
    assert float(setting) == pytest.approx(weight, abs=5e-4)
    (in_words,) = re.findall(r"\(26\.6 / 36\)² = ([\d.]+)", text)
    assert in_words == setting
    (theirs, ours) = re.findall(r"as in ([\d.]+) against ([\d.]+)\.", text)[0]
    assert float(theirs) == pytest.approx(weight * float(ours), abs=5e-3)
    # As a setting it is one that the recipe takes.
    config = read_config(None, [("model.config.beta_cal_loss_weight", setting)])
    assert config["model"]["config"] == {"beta_cal_loss_weight": float(setting)}


def test_the_weight_moves_the_towers_and_not_the_pooler():
    """AdamW divides a constant factor out of the steps of whatever has no other loss."""
    movements = {}
    for weight in (1.0, 0.546):
        torch.manual_seed(0)
        tower, pooler = torch.nn.Parameter(torch.randn(6)), torch.nn.Parameter(torch.randn(6))
        before = [tower.detach().clone(), pooler.detach().clone()]
        optimiser = torch.optim.AdamW([tower, pooler], lr=1e-3, betas=(0.9, 0.98), eps=1e-8, weight_decay=0.01)
        for step in range(5):
            optimiser.zero_grad()
            clip_loss = (tower - step).square().sum()
            beta_cal = (tower * pooler).sin().sum() + pooler.square().sum()
            (clip_loss + weight * beta_cal).backward()
            optimiser.step()
        movements[weight] = [after.detach() - start for after, start in zip((tower, pooler), before, strict=True)]
    (tower_1, pooler_1), (tower_2, pooler_2) = movements.values()
    assert float((pooler_1 - pooler_2).norm() / pooler_1.norm()) < 1e-3
    assert float((tower_1 - tower_2).norm() / tower_1.norm()) > 1e-2


DIFFERENCES = (
    "random crop", "warm-up", "weight decay", "several GPUs", "sentences", "fewer than 5", "phrases",
    "more than 248 tokens", "half precision", "padded texts",
)  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_sentences_are_in_the_order_of_the_paper(project_dir, name):
    """The first of eight sentences leads in an eighth of the captions; in reading order it would in five eighths."""
    data = read_config(project_dir / f"examples/configs/{name}.yaml")["data"]
    collator = BetaCLIPDataCollator(None, **{key: data[key] for key in COLLATOR_KEYS if key in data})
    leads, has_first = 0, 0
    for number in range(400):
        caption = " ".join(f"Thing {place} is here." for place in range(8))
        texts = collator.sample_texts(check_row({"image": b"", "caption": caption, "id": str(number)}))
        first = "Thing 0 is here."
        assert len(texts.sentences) == 5
        has_first += first in texts.sentences
        leads += texts.caption.startswith("Thing 0 ")
    assert 0.53 < has_first / 400 < 0.72  # 5 of 8
    assert 0.07 < leads / 400 < 0.18  # 1 of 8


@pytest.mark.parametrize("name", RECIPES)
def test_the_head_names_each_difference(project_dir, name):
    text = (project_dir / f"examples/configs/{name}.yaml").read_text(encoding="utf-8")
    rows = [line.split("|") for line in text.splitlines() if line.startswith("#   ") and line.count("|") == 2]
    named = [cells[0].strip("# ") for cells in rows[2:]]
    differences = ["warm-up over w steps" if name == "warm-up" else name for name in DIFFERENCES]
    assert list(filter(None, named)) == differences
    # The clamp is no difference any more: the setting is the release's.
    maximum = read_config(project_dir / f"examples/configs/{name}.yaml")["training"]["logit_scale_max"]
    assert math.log(maximum) == pytest.approx(4.6052, abs=1e-7)
