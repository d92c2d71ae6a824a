from itertools import chain

import pytest
import torch
from PIL import Image, ImageDraw
from transformers import CLIPModel

from beta_clip_hf import BetaCLIPModel
from beta_clip_hf.evaluation.evaluator import evaluate
from beta_clip_hf.evaluation.probes import run_probes
from beta_clip_hf.evaluation.regions import LocalisationProbe
from beta_clip_hf.inference.embedder import Embedder
from evaluation.colours import ColourModel, ColourProcessor
from evaluation.naive_metrics import pointing_hit, raster
from evaluation.probe_helpers import metrics_of


def coloured_row(image_size, painted, phrases):
    """A black image with rectangles of the colours painted, {name: box}, and the phrases, {name: boxes}."""
    image = Image.new("RGB", image_size)
    for colour, (x1, y1, x2, y2) in painted.items():
        ImageDraw.Draw(image).rectangle((x1, y1, x2 - 1, y2 - 1), fill={"green": "lime"}.get(colour, colour))
    located = [{"text": colour, "boxes": boxes, "kind": "colour"} for colour, boxes in phrases.items()]
    return {"image": image, "caption": "a picture", "phrases": located}


def localise(rows, batch_size=2, model=None):
    embedder = Embedder(model or ColourModel(), ColourProcessor(), batch_size=batch_size)
    measured = run_probes(embedder, rows, [LocalisationProbe(embedder, rows)])
    return {str(metric.name): metric for metric in measured.metrics}, measured.counts


@pytest.mark.parametrize("image_size", [(128, 64), (64, 128), (64, 64)])
def test_coloured_rectangles_are_found_through_resize_and_crop(image_size):
    width, height = image_size
    painted = {
        "red": [width // 2 - 32, height // 2 - 32, width // 2 - 16, height // 2],
        "blue": [width // 2 + 8, height // 2 + 8, width // 2 + 32, height // 2 + 16],
    }
    right = coloured_row(image_size, painted, {colour: [box] for colour, box in painted.items()})
    wrong = coloured_row(image_size, painted, {"red": [painted["blue"]], "blue": [painted["red"]]})
    for name in ("attention", "patch_similarity"):
        for rows, expected in (([right], 1.0), ([wrong], 0.0), ([right, wrong], 0.5)):
            figures, counts = localise(rows)
            assert figures[f"phrases/{name}/pointing"].value == expected
            assert figures[f"phrases/{name}/mass_inside"].value == pytest.approx(expected, abs=0.08)
            assert counts == {"phrases": 2 * len(rows), "phrases_outside_view": 0}
    # Areas of 16 x 32 and 24 x 8 in a view of 64 x 64: what a map that knows nothing gets.
    chance = (512 / 4096 + 192 / 4096) / 2
    assert figures["phrases/attention/mass_inside"].chance == pytest.approx(chance)
    assert figures["phrases/attention/pointing"].chance == pytest.approx(chance)


def test_phrases_that_are_cropped_away_are_counted_and_left_out():
    painted = {"red": [40, 8, 60, 28], "green": [0, 0, 24, 64]}  # the view is 32..96
    row = coloured_row((128, 64), painted, {"red": [painted["red"]], "green": [painted["green"]]})
    figures, counts = localise([row, {"image": Image.new("RGB", (9, 9)), "caption": "without phrases"}])
    assert counts == {"phrases": 2, "phrases_outside_view": 1}
    assert figures["phrases/attention/pointing"].count == 1 and figures["phrases/attention/pointing"].value == 1


def test_a_box_too_small_for_any_patch_centre_bounds_what_is_possible():
    painted = {"red": [8, 8, 32, 32], "blue": [33, 33, 34, 34]}
    figures, _ = localise([coloured_row((64, 64), painted, {colour: [box] for colour, box in painted.items()})])
    assert figures["phrases/best_possible/pointing"].value == 0.5
    assert figures["phrases/patch_similarity/pointing"].value == 0.5


def test_kinds_have_figures_of_their_own():
    painted = {"red": [0, 0, 16, 16], "blue": [40, 40, 64, 64]}
    row = coloured_row((64, 64), painted, {"red": [painted["red"]], "blue": [painted["red"]]})
    row["phrases"][1]["kind"] = "mistake"
    figures, _ = localise([row])
    values = {
        name: figures[f"{name}/attention/pointing"].value for name in ("phrases", "phrases[colour]", "phrases[mistake]")
    }
    assert values == {"phrases": 0.5, "phrases[colour]": 1.0, "phrases[mistake]": 0.0}


def test_each_head_has_figures_of_its_own():
    class TwoHeads(ColourModel):
        """Its second head looks at what its first one does not."""

        def get_text_conditioned_image_features(self, patch_features, text_embeds, image_index, output_attentions):
            _, attention_THP = super().get_text_conditioned_image_features(
                patch_features, text_embeds, image_index, output_attentions
            )
            first_TP = attention_THP[:, 0]
            second_TP = (first_TP == 0) / (first_TP == 0).sum(dim=1, keepdim=True)
            return text_embeds, torch.stack([first_TP, second_TP], dim=1)

    painted = {"red": [0, 0, 16, 16], "blue": [32, 32, 64, 64]}
    row = coloured_row((64, 64), painted, {colour: [box] for colour, box in painted.items()})
    row["phrases"][1]["kind"] = "another"
    figures, _ = localise([row], model=TwoHeads())
    values = {name.split("/")[1]: figure.value for name, figure in figures.items() if name.endswith("/pointing")}
    assert (values["attention[head 0]"], values["attention[head 1]"]) == (1, 0)
    masses = [figures[f"phrases/attention{head}/mass_inside"].value for head in ("[head 0]", "[head 1]", "")]
    # The first head's mass spreads a little over the borders, as the resized colours do.
    assert masses[:2] == [pytest.approx(1, abs=0.02), 0] and 0.4 < masses[2] < 0.6
    assert not any(name.startswith("phrases[") and "[head" in name for name in figures)


@pytest.mark.parametrize(("image_size", "side"), [((64, 64), 32), ((128, 64), 32), ((64, 128), 24)])
def test_windows_find_large_rectangles(image_size, side):
    left, top = image_size[0] // 2 - 32, image_size[1] // 2 - 32
    painted = {
        "red": [left, top, left + side, top + side],
        "blue": [left + 64 - side, top + 64 - side, left + 64, top + 64],
    }
    right = coloured_row(image_size, painted, {colour: [box] for colour, box in painted.items()})
    wrong = coloured_row(image_size, painted, {"red": [painted["blue"]], "blue": [painted["red"]]})
    for row, expected in ((right, 1), (wrong, 0)):
        figures, _ = localise([row])
        assert figures["phrases/region_similarity/pointing"].value == expected
        mass = figures["phrases/region_similarity/mass_inside"]
        assert mass.value > 2 * mass.chance if expected else mass.value < mass.chance / 2


def test_grounding_chooses_among_all_boxes_of_the_image():
    painted = {"red": [0, 0, 16, 16], "blue": [16, 16, 48, 48], "green": [48, 48, 64, 64]}
    own_boxes = {colour: [box] for colour, box in painted.items()}
    right = coloured_row((64, 64), painted, own_boxes)
    turned = coloured_row(
        (64, 64), painted, {"red": own_boxes["blue"], "blue": own_boxes["red"], "green": own_boxes["green"]}
    )
    for rows, hits, centre in (([right], 1, 1 / 3), ([turned], 1 / 3, 1 / 3), ([right, turned], 2 / 3, 1 / 3)):
        figures, _ = localise(rows)
        grounding = figures["phrases/region/grounding"]
        assert (grounding.value, grounding.count) == (pytest.approx(hits), 3 * len(rows))
        assert figures["phrases/centre/grounding"].value == pytest.approx(centre)
        assert grounding.chance == figures["phrases/centre/grounding"].chance == pytest.approx(1 / 3)


def test_grounding_asks_only_where_there_is_a_choice_and_shares_ties():
    painted = {"red": [0, 0, 16, 16], "blue": [48, 48, 64, 64]}
    alone = coloured_row((64, 64), painted, {"red": [painted["red"]]})
    assert not any(name.endswith("/grounding") for name in localise([alone])[0])
    # Every phrase but the first has all boxes: of two black boxes none is better, but one of them is nearer.
    several = coloured_row((64, 64), {}, {"red": [[8, 8, 24, 24]], "blue": [[8, 8, 24, 24], [24, 24, 48, 48]]})
    figures, _ = localise([alone, several])
    region, centre = figures["phrases/region/grounding"], figures["phrases/centre/grounding"]
    assert (region.value, region.count, region.chance) == (0.5, 1, 0.5)
    assert (centre.value, centre.count) == (0, 1)
    both = coloured_row((64, 64), painted, {"red": [painted["red"], [20, 0, 30, 9]], "blue": [painted["blue"]]})
    assert localise([both])[0]["phrases/region/grounding"].chance == pytest.approx((2 / 3 + 1 / 3) / 2)


def random_rows(count):
    """Images of noise, 48 × 32 pixels, each with three phrases of one or two boxes, on whole pixels."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for number in range(count):
        pixels = torch.randint(256, (32, 48, 3), generator=generator, dtype=torch.uint8).numpy()
        phrases = []
        for phrase in range(3):
            corners = torch.rand((1 + phrase % 2, 2, 2), generator=generator) * torch.tensor([45, 29])
            boxes = torch.cat([corners.amin(dim=1), corners.amax(dim=1) + 2], dim=1).int().tolist()
            phrases.append({"text": f"phrase {number} {phrase}", "boxes": boxes})
        rows.append({"image": Image.fromarray(pixels), "caption": "noise", "phrases": phrases})
    return rows


def naive_maps(patches, windows, text, attention_HP):
    """All maps of one phrase on one image, (4, 6) each, from the features of each patch and of its three windows."""
    similarity = {
        "patch_similarity": torch.stack([torch.cosine_similarity(patch, text, dim=0) for patch in patches]),
        "region_similarity": torch.stack([torch.cosine_similarity(three, text[None]).max() for three in windows]),
    }
    maps = {name: heat_map - heat_map.min() for name, heat_map in similarity.items()} | {
        "attention": attention_HP.mean(dim=0)
    }
    maps |= {f"attention[head {head}]": heat_map for head, heat_map in enumerate(attention_HP)}
    return {name: heat_map.reshape(4, 6).double() for name, heat_map in maps.items()}


def window_features(model, pixels, cell):
    """Of the windows of a quarter, a half and three quarters of the view, around a cell of the grid of 4 x 6."""
    x, y = (cell % 6 + 0.5) / 6, (cell // 6 + 0.5) / 4
    windows = torch.tensor([[x - half, y - half, x + half, y + half] for half in (1 / 8, 1 / 4, 3 / 8)])
    return model.get_region_features(pixels, windows.clamp(0, 1), interpolate_pos_encoding=True)


@torch.no_grad()
def test_all_figures_equal_loops_over_phrases(tiny_model, tiny_processor):
    """On images that are not square."""
    tiny_processor.image_processor.crop_size = {"height": 32, "width": 48}
    rows = random_rows(3)
    values = {}
    for row in rows:
        pixels = tiny_processor(images=row["image"], return_tensors="pt")["pixel_values"]
        ids = tiny_processor(text=[phrase["text"] for phrase in row["phrases"]], padding=True, return_tensors="pt")
        texts = tiny_model.get_text_features(**ids).pooler_output
        patches = tiny_model.get_patch_features(pixels, interpolate_pos_encoding=True)
        _, attention = tiny_model.get_text_conditioned_image_features(
            patch_features=patches, text_embeds=texts, output_attentions=True
        )
        windows = [window_features(tiny_model, pixels, cell) for cell in range(24)]
        boxes = []
        for phrase in row["phrases"]:
            boxes.append([[x / 48, y / 32, u / 48, v / 32] for x, y, u, v in phrase["boxes"]])
        candidates = list(chain.from_iterable(boxes))
        regions = tiny_model.get_region_features(pixels, torch.tensor(candidates), interpolate_pos_encoding=True)
        for own_boxes, text, attention_HP in zip(boxes, texts, attention, strict=True):
            best = candidates[int(torch.cosine_similarity(regions, text[None]).argmax())]
            values.setdefault("region/grounding", []).append(float(best in own_boxes))
            covered = raster(own_boxes, (4, 6), fine=8)
            for name, heat_map in naive_maps(patches[0], windows, text, attention_HP).items():
                mass = float((heat_map * covered).sum() / heat_map.sum())
                values.setdefault(f"{name}/pointing", []).append(pointing_hit(heat_map.tolist(), own_boxes))
                values.setdefault(f"{name}/mass_inside", []).append(mass)
    embedder = Embedder(tiny_model, tiny_processor, batch_size=2)
    figures = metrics_of(embedder, rows, [LocalisationProbe(embedder, rows)])
    assert len(values) == 1 + 2 * (3 + 8) and 0 < sum(values["region/grounding"]) < 9
    for name, expected in values.items():
        assert len(expected) == 9
        assert figures[f"phrases/{name}"].value == pytest.approx(sum(expected) / 9, abs=1e-5), name


def test_without_a_pooler_there_is_all_but_its_attention(tiny_config, tiny_model, tiny_processor):
    tiny_config.use_pooler = False
    rows = random_rows(2)
    measured = [
        evaluate(BetaCLIPModel(tiny_config), tiny_processor, rows)["figures"],
        evaluate(tiny_model, tiny_processor, rows, conditioned=False)["figures"],
    ]
    for figures in measured:
        names = {name.split("/")[1] for name in figures if name.startswith("phrases")}
        assert names == {"patch_similarity", "region_similarity", "region", "centre", "best_possible"}


def test_a_model_without_patch_features_cannot_be_measured_by_phrases(tiny_clip_config, tiny_processor):
    (row,) = random_rows(1)
    rows = [{"image": row["image"], "phrases": row["phrases"]}]
    with pytest.raises(ValueError, match="labels that CLIPModel can be measured by"):
        evaluate(CLIPModel(tiny_clip_config), tiny_processor, rows)
