"""Pictures of rows: what reaches the figure is what the model says of each phrase and region."""

import pytest
import torch
from torch.nn.functional import normalize

from beta_clip_hf import BetaCLIPModel, SceneDataset
from beta_clip_hf.inference.look import look
from beta_clip_hf.visualize import rows as rows_module
from beta_clip_hf.visualize.rows import draw_phrases, draw_region_choices


@pytest.fixture
def row():
    return SceneDataset(1, seed=7, level="easy")[0]


@pytest.fixture
def drawn(monkeypatch):
    """What the figures are given, by their names."""
    calls = {}
    for name in ("plot_phrase_attention", "plot_region_choices"):
        monkeypatch.setattr(rows_module, name, lambda *words, name=name: calls.update({name: words}) or words[-1])
    return calls


def test_phrases_come_with_their_own_boxes(tiny_model, tiny_processor, row, drawn) -> None:
    draw_phrases(tiny_model, tiny_processor, row, "phrases.png")
    _, texts, maps_TYX, path, boxes = drawn["plot_phrase_attention"]
    nouns = [phrase for phrase in row["phrases"] if phrase["kind"] == "noun"]
    assert texts == [noun["text"] for noun in nouns] and path == "phrases.png" and len(texts) >= 4
    for noun, phrase_boxes in zip(nouns, boxes, strict=True):
        # The scene is squashed, not cropped: its view is the whole of it, 64 pixels a side.
        torch.testing.assert_close(64 * phrase_boxes, torch.tensor(noun["boxes"], dtype=torch.float32))
    expected = look(tiny_model, tiny_processor, row["image"], texts).maps()
    torch.testing.assert_close(maps_TYX, expected)
    draw_phrases(tiny_model, tiny_processor, row, "phrases.png", ["red shape"])
    assert drawn["plot_phrase_attention"][1] == ["red shape"]
    with pytest.raises(ValueError, match=r"phrases must be phrases of the row, .* but are \['a dog'\]"):
        draw_phrases(tiny_model, tiny_processor, row, "phrases.png", ["a dog"])


@pytest.mark.parametrize("score", ["cls", "conditioned", "region"])
@torch.no_grad()
def test_choices_are_made_by_the_score_with_its_scale(score, tiny_config, tiny_processor, row, drawn) -> None:
    tiny_config.use_regions = True
    model = BetaCLIPModel(tiny_config).eval()
    for number, scale in enumerate((model.logit_scale, model.pooler.logit_scale, model.hard_negative_logit_scale)):
        scale.fill_(1.0 + number)
    draw_region_choices(model, tiny_processor, row, "choices.png", score)
    _, boxes_R4, texts, probabilities, _ = drawn["plot_region_choices"]
    pixels = tiny_processor(images=row["image"], return_tensors="pt")["pixel_values"]
    for place, region in enumerate(row["regions"]):
        box = torch.tensor([region["box"]], dtype=torch.float32) / 64
        torch.testing.assert_close(boxes_R4[place : place + 1], box)
        assert texts[place] == [region["text"], *region["negatives"]]
        tokens = tiny_processor(text=texts[place], padding=True, return_tensors="pt")
        texts_TD = normalize(model.get_text_features(**tokens).pooler_output, dim=-1)
        if score == "cls":
            scores_T = (normalize(model.get_image_features(pixels).pooler_output, dim=-1) @ texts_TD.T)[0]
        elif score == "conditioned":
            seen_TD = model.get_text_conditioned_image_features(
                patch_features=model.get_patch_features(pixels), text_embeds=texts_TD
            )
            scores_T = (normalize(seen_TD, dim=-1) * texts_TD).sum(dim=-1)
        else:
            scores_T = (normalize(model.get_region_features(pixels, box), dim=-1) @ texts_TD.T)[0]
        scale = {"cls": 1.0, "conditioned": 2.0, "region": 3.0}[score]
        expected_T = (torch.tensor(scale).exp() * scores_T).softmax(dim=0)
        torch.testing.assert_close(probabilities[place], expected_T)
        assert expected_T.max() > expected_T.min() + 1e-3


def test_what_a_model_cannot_do_is_told(tiny_config, tiny_processor, row, drawn) -> None:
    tiny_config.use_pooler = False
    plain = BetaCLIPModel(tiny_config).eval()
    # Plain CLIP has patch features too, so its regions can be compared with.
    draw_region_choices(plain, tiny_processor, row, "choices.png")
    assert len(drawn["plot_region_choices"][3]) == len(row["regions"])
    with pytest.raises(ValueError, match="score must be 'cls' or 'region' for a model without a pooler"):
        draw_region_choices(plain, tiny_processor, row, "choices.png", "conditioned")
    with pytest.raises(ValueError, match=r"score must be one of \('cls', 'conditioned', 'region'\), but is 'best'"):
        draw_region_choices(plain, tiny_processor, row, "choices.png", "best")
    with pytest.raises(ValueError, match="row must have regions to choose texts for, but has none"):
        draw_region_choices(plain, tiny_processor, {**row, "regions": []}, "choices.png")


@pytest.mark.slow
def test_both_are_drawn(tiny_model, tiny_processor, row, tmp_path) -> None:
    pytest.importorskip("matplotlib")
    assert draw_phrases(tiny_model, tiny_processor, row, tmp_path / "phrases.png").is_file()
    assert draw_region_choices(tiny_model, tiny_processor, row, tmp_path / "choices.png").is_file()
