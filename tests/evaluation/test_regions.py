import pytest
import torch
from PIL import Image, ImageDraw

from beta_clip_hf.evaluation.embedding import Embedder, run_probes
from beta_clip_hf.evaluation.regions import LocalisationProbe
from evaluation.colours import ColourModel, ColourProcessor


def coloured_row(image_size, painted, phrases):
    """A black image with rectangles of the colours painted, {name: box}, and the phrases, {name: boxes}."""
    image = Image.new("RGB", image_size)
    for colour, (x1, y1, x2, y2) in painted.items():
        ImageDraw.Draw(image).rectangle((x1, y1, x2 - 1, y2 - 1), fill={"green": "lime"}.get(colour, colour))
    located = [{"text": colour, "boxes": boxes, "kind": "colour"} for colour, boxes in phrases.items()]
    return {"image": image, "caption": "a picture", "phrases": located}


def localise(rows, batch_size=2):
    embedder = Embedder(ColourModel(), ColourProcessor(), batch_size=batch_size)
    probe = LocalisationProbe(embedder)
    return run_probes(embedder, rows, [probe]), probe.counts


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


def test_attention_is_the_mean_of_the_poolers_heads(tiny_model, tiny_processor):
    rows = [{"image": Image.radial_gradient("L").convert("RGB"), "caption": "a"}]
    embedder = Embedder(tiny_model, tiny_processor)
    (batch,) = embedder.images(rows)
    attention = embedder.attention(batch, embedder.texts(["one", "two"]), torch.tensor([0, 0]))
    inputs = tiny_processor(images=rows[0]["image"], text=["one", "two"], padding=True, return_tensors="pt")
    with torch.no_grad():
        _, heads = tiny_model.get_text_conditioned_image_features(
            inputs["pixel_values"], inputs["input_ids"], output_attentions=True
        )
    torch.testing.assert_close(attention, heads.mean(dim=1), atol=1e-6, rtol=0)
    torch.testing.assert_close(attention.sum(dim=1), torch.ones(2))
