from dataclasses import replace
from itertools import chain

import pytest
import torch
from PIL import Image

from beta_clip_hf.evaluation import hierarchical, retrieval
from beta_clip_hf.evaluation.copies import first_copies
from beta_clip_hf.evaluation.evaluator import evaluate
from beta_clip_hf.evaluation.fitted import chosen_for_halves, fitted_ranks
from beta_clip_hf.evaluation.metrics import MatchRanks, RetrievalRanks, hits_at_k, recall_at_k
from beta_clip_hf.evaluation.probes import run_probes
from beta_clip_hf.evaluation.retrieval import RetrievalProbe
from beta_clip_hf.inference.embedder import Embedder
from beta_clip_hf.inference.reading import read_usable_texts
from beta_clip_hf.inference.shards import Shards
from evaluation.colours import ColourModel, ColourProcessor
from evaluation.probe_helpers import metrics_of


def rows_of(count, captions_per_image):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, 32, 32, 3), generator=generator, dtype=torch.uint8).numpy()
    rows = []
    for i in range(count):
        captions = [f"photo {i} of {j}" for j in range(captions_per_image(i))]
        rows.append({"image": Image.fromarray(pixels[i]), "captions": captions})
    return rows


def test_both_scores_equal_loops_over_single_images_and_texts(tiny_model, tiny_processor):
    rows = rows_of(7, lambda i: 1 + i % 3)
    flat = list(chain.from_iterable(row["captions"] for row in rows))
    image_index = torch.arange(7).repeat_interleave(torch.tensor([len(row["captions"]) for row in rows]))
    scores = {"cls": torch.zeros(7, len(flat)), "all_pairs": torch.zeros(7, len(flat))}
    for i, row in enumerate(rows):
        pixels = tiny_processor(images=row["image"], return_tensors="pt")["pixel_values"]
        for t, text in enumerate(flat):
            ids = tiny_processor(text=[text], return_tensors="pt")["input_ids"]
            with torch.no_grad():
                image = tiny_model.get_image_features(pixels).pooler_output[0]
                embed = tiny_model.get_text_features(ids).pooler_output[0]
                conditioned = tiny_model.get_text_conditioned_image_features(pixels, ids)[0]
            scores["cls"][i, t] = torch.cosine_similarity(image, embed, dim=0)
            scores["all_pairs"][i, t] = conditioned @ embed / embed.norm()
    figures = evaluate(tiny_model, tiny_processor, rows, ks=(1, 2, 5), batch_size=3)["figures"]
    values = set()
    for name, scores_BT in scores.items():
        image_to_text = recall_at_k(scores_BT, image_index == torch.arange(7)[:, None], (1, 2, 5))
        text_to_image = recall_at_k(scores_BT.T, image_index, (1, 2, 5))
        for k in (1, 2, 5):
            values |= {image_to_text[k], text_to_image[k]}
            assert figures[f"short/{name}/image_to_text/R@{k}"]["value"] == pytest.approx(image_to_text[k])
            assert figures[f"short/{name}/text_to_image/R@{k}"]["value"] == pytest.approx(text_to_image[k])
    assert len(values) > 4


def colour_rows(colours, **extra):
    return [{"image": Image.new("RGB", (32, 32), colour), "caption": colour, **extra} for colour in colours]


def test_planted_colours_are_found_by_cls():
    figures = evaluate(ColourModel(), ColourProcessor(), colour_rows(["red", "green", "blue"]))["figures"]
    assert figures["long/cls/image_to_text/R@1"]["value"] == figures["long/cls/text_to_image/R@1"]["value"] == 1
    assert figures["long/cls/text_to_image/R@1"]["chance"] == pytest.approx(1 / 3)
    assert figures["long/cls/text_to_image/median_rank"]["value"] == 1


def test_a_pooler_that_leaks_the_text_is_at_chance():
    """v_{i|t} = u_t whatever the image: conditioning each image on its own caption would make that 100 %."""
    figures = evaluate(ColourModel(), ColourProcessor(), colour_rows(["red", "green", "blue"]))["figures"]
    for direction in ("image_to_text", "text_to_image"):
        figure = figures[f"long/all_pairs/{direction}/R@1"]
        assert figure["value"] == pytest.approx(figure["chance"]) == pytest.approx(1 / 3)
        assert figures[f"long/all_pairs/{direction}/median_rank"]["value"] == 2


def test_equal_captions_share_the_hit():
    figures = evaluate(ColourModel(), ColourProcessor(), colour_rows(["red", "red", "blue"]))["figures"]
    assert figures["long/cls/image_to_text/R@1"]["value"] == pytest.approx((1 / 2 + 1 / 2 + 1) / 3)


def test_which_texts_are_measured():
    model, processor = ColourModel(), ColourProcessor()
    long = {"long/cls/image_to_text", "long/cls/text_to_image"}
    short = {"short/cls/image_to_text", "short/cls/text_to_image"}

    def measured(rows):
        figures = evaluate(model, processor, rows, conditioned=False, ks=(1,))["figures"]
        return {name.rsplit("/", 1)[0] for name in figures if "/hierarchical_window/" not in name}

    assert measured(colour_rows(["red", "blue"])) == long
    assert measured(colour_rows(["red", "blue"], short_caption="green")) == long | short
    some_with = [*colour_rows(["red"], captions=["red", "green"]), *colour_rows(["blue"])]
    assert measured(some_with) == long


def test_several_captions_count_each_as_a_query_and_any_as_a_hit():
    rows = [
        {"image": Image.new("RGB", (32, 32), "red"), "caption": "red", "captions": ["blue", "red"]},
        {"image": Image.new("RGB", (32, 32), "lime"), "caption": "green", "captions": ["green"]},
    ]
    figures = evaluate(ColourModel(), ColourProcessor(), rows, conditioned=False)["figures"]
    to_text, to_image = figures["short/cls/image_to_text/R@1"], figures["short/cls/text_to_image/R@1"]
    assert (to_text["count"], to_image["count"]) == (2, 3)
    assert to_text["value"] == 1  # "blue" is wrong of both images, tied between them: (1/2 + 1 + 1) / 3
    assert to_image["value"] == pytest.approx(2.5 / 3)
    assert to_text["chance"] == pytest.approx((2 / 3 + 1 / 3) / 2) and to_image["chance"] == pytest.approx(1 / 2)


@pytest.mark.parametrize("constant", [("visual_projection", "text_projection"), ("visual_projection",)])
def test_a_model_that_scores_all_alike_is_at_chance(tiny_model, tiny_processor, monkeypatch, constant):
    """Also where the shortlist, of which all candidates are tied at the end, is shorter than the k."""
    monkeypatch.setattr(retrieval, "RERANKED", (2, 5))
    for name in constant:
        getattr(tiny_model, name).weight.data.zero_()
    for most_pairs in (retrieval.MOST_PAIRS, 0):
        monkeypatch.setattr(retrieval, "MOST_PAIRS", most_pairs)
        monkeypatch.setattr(hierarchical, "MOST_PART_SCORES", most_pairs)
        figures = evaluate(tiny_model, tiny_processor, rows_of(9, lambda i: 1 + i % 3), ks=(1, 3, 6))["figures"]
        shortlist_figures = {name: figure for name, figure in figures.items() if "/rerank@" in name}
        assert len(shortlist_figures) == 2 * 2 * 2 * 4
        for name, figure in shortlist_figures.items():
            assert figure["value"] == pytest.approx(figure["chance"]), name


@pytest.mark.parametrize("most_pairs", [retrieval.MOST_PAIRS, 0])
def test_copies_of_one_image_are_tied_in_any_batch(tiny_model, tiny_processor, monkeypatch, tmp_path, most_pairs):
    """Image 4 is image 0 again, and the only one of its batch: alone it is embedded a last bit differently."""
    monkeypatch.setattr(retrieval, "RERANKED", (2, 4))
    monkeypatch.setattr(retrieval, "MOST_PAIRS", most_pairs)
    monkeypatch.setattr(hierarchical, "MOST_PART_SCORES", most_pairs)
    encode_images = Embedder.encode_images

    def alone_otherwise(self, processed):
        batch = encode_images(self, processed)
        if len(batch.rows) > 1:
            return batch
        bits = 1e-6 * torch.randn(batch.image_embeds_BD.shape[1], generator=torch.Generator().manual_seed(0))
        return replace(
            batch,
            image_embeds_BD=batch.image_embeds_BD + bits,
            patches=batch.patches._replace(features=batch.patches.features + bits),
        )

    monkeypatch.setattr(Embedder, "encode_images", alone_otherwise)
    rows = rows_of(5, lambda i: 1)
    rows[4]["image"] = rows[0]["image"]
    by_text = {}
    for swapped in (False, True):
        if swapped:
            rows[0], rows[4] = ({**rows[i], "captions": rows[4 - i]["captions"]} for i in (0, 4))
        found = evaluate(tiny_model, tiny_processor, rows, ks=(1,), batch_size=4)["figures"]
        by_text[swapped] = {name: figure["value"] for name, figure in found.items() if "/text_to_image/" in name}
    assert by_text[False] == by_text[True] and any("rerank@4" in name for name in by_text[False])

    for row in rows:
        row["image"] = rows[0]["image"]
    figures = evaluate(tiny_model, tiny_processor, rows, ks=(1, 2), batch_size=4)["figures"]
    for name, figure in figures.items():
        if "/text_to_image/" in name:
            assert figure["value"] == pytest.approx(figure["chance"]), name


def test_the_first_copy_of_each_image():
    digests = torch.tensor([[9] * 32, [1] * 32, [9] * 32, [5] * 32, [1] * 31 + [2], [1] * 32]).byte()
    assert first_copies(digests).tolist() == [0, 1, 0, 3, 4, 1]


def test_ranks_are_found_once(tiny_model, tiny_processor, monkeypatch):
    calls = []
    compute_ranks = RetrievalProbe._compute_ranks
    monkeypatch.setattr(RetrievalProbe, "_compute_ranks", lambda *args: calls.append(1) or compute_ranks(*args))
    embedder, rows = Embedder(tiny_model, tiny_processor), rows_of(3, lambda i: 1)
    probe = RetrievalProbe("short", embedder, [row["captions"] for row in rows])
    for runs in (1, 2):  # each run has its own
        measured = run_probes(embedder, rows, [probe])
        assert len(calls) == runs and measured.metrics and measured.reports["short"]["curves"]


def test_a_setting_is_chosen_on_the_other_half_of_the_queries():
    """Setting 0 is right for even queries alone, setting 1 for odd ones: each half is given what serves the other."""
    is_odd = torch.arange(6) % 2 == 1
    right, wrong = torch.zeros(6, dtype=torch.int64), torch.full((6,), 3)
    tried = [
        MatchRanks(torch.where(is_odd == odd, right, wrong), torch.ones_like(right), torch.ones_like(right))
        for odd in (False, True)
    ]
    assert chosen_for_halves(tried, is_odd) == (1, 0)
    assert chosen_for_halves([tried[0], tried[0]], is_odd) == (0, 0)
    by_weight = {weight: RetrievalRanks(ranks, ranks) for weight, ranks in zip((0.5, 1.0), tried, strict=True)}
    fitted = fitted_ranks(by_weight, torch.arange(6), 6)
    for direction, ranks in fitted.ranks._asdict().items():
        assert hits_at_k(ranks, 1).sum() == 0
        assert fitted.weights[direction] == {"even": 1.0, "odd": 0.5}


def test_the_sum_and_reranking_are_figures_of_their_own(tiny_model, tiny_processor):
    figures = evaluate(tiny_model, tiny_processor, rows_of(18, lambda i: 1), ks=(1,))["figures"]
    scores = {name.split("/")[1] for name in figures}
    by_parts = {"hierarchical", "hierarchical@16", "hierarchical_window", "hierarchical_window@16"}
    assert scores == {"cls", "all_pairs", "rerank@16", "sum"} | by_parts
    assert all(0 <= figures[f"long/{score}/image_to_text/R@1"]["value"] <= 1 for score in scores)


def measured_metrics(model, processor, rows, folder=None):
    embedder = Embedder(model, processor, batch_size=4, shards=Shards(folder))
    return metrics_of(embedder, rows, retrieval.retrieval_probes(embedder, read_usable_texts(rows)[0], ks=(1, 2)))


def test_shortlists_of_a_second_pass_give_what_all_pairs_give(tiny_model, tiny_processor, monkeypatch, tmp_path):
    rows = rows_of(11, lambda i: 1 + i % 3)
    rows[3]["captions"] = rows[7]["captions"] = ["a photo of both"]  # copies stay tied
    monkeypatch.setattr(retrieval, "RERANKED", (2, 5))
    whole = measured_metrics(tiny_model, tiny_processor, rows)
    monkeypatch.setattr(retrieval, "MOST_PAIRS", 0)
    monkeypatch.setattr(hierarchical, "MOST_PART_SCORES", 0)
    in_two_passes = measured_metrics(tiny_model, tiny_processor, rows, tmp_path)
    kinds = {"cls", "rerank@2", "rerank@5", "hierarchical@2", "hierarchical_window@2"}
    assert in_two_passes == {name: figure for name, figure in whole.items() if name.split("/")[1] in kinds}
    assert {name.split("/")[1] for name in whole} == kinds | {
        "all_pairs",
        "sum",
        "hierarchical",
        "hierarchical_window",
    }
    assert in_two_passes["short/rerank@5/text_to_image/R@2"] != in_two_passes["short/cls/text_to_image/R@2"]

    def encoded_again(*args):
        raise AssertionError("what was kept is not measured again")

    monkeypatch.setattr(Embedder, "images", lambda *args: iter(()) if not args[2] else encoded_again())
    assert measured_metrics(tiny_model, tiny_processor, rows, tmp_path) == in_two_passes
