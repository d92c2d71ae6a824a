"""What a model saw, as figures, a page and a table."""

import pytest
import torch
from PIL import Image

from beta_clip_hf.inference.look import CAPTION, PHRASE, SENTENCE, Look, ShownText, look
from beta_clip_hf.visualize.look import format_scores, write_look


pytestmark = pytest.mark.slow


pytest.importorskip("matplotlib")


@pytest.fixture
def photo() -> Image.Image:
    """An image of noise that is wider than high: the model sees the middle of it."""
    return Image.fromarray(torch.randint(256, (40, 60, 3), dtype=torch.uint8).numpy())


def test_more_texts_than_a_figure_holds(tiny_model, tiny_processor, photo, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("beta_clip_hf.visualize.look.MOST_ON_PNG", 2)
    texts = [ShownText(f"text {number}", group=number) for number in range(5)]
    seen = look(tiny_model, tiny_processor, photo, texts)
    (path,) = write_look(tmp_path / "many.png", seen, texts)
    assert "2 of 5 texts are drawn: a page (.html) holds all" in caplog.text and path.is_file()
    (page,) = write_look(tmp_path / "many.html", seen, texts)
    assert page.read_text(encoding="utf-8").count("<img") == 2 + 5


def test_the_table_has_a_column_for_each_score_and_indents_the_parts_of_a_text():
    texts = [ShownText("x" * 80, CAPTION), ShownText("A dog.", SENTENCE), ShownText("a dog", PHRASE)]
    seen = Look(
        view=Image.new("RGB", (8, 8)),
        similarity_T=torch.tensor([0.25, 0.5, 1.0]),
        conditioned_T=torch.tensor([0.3, 0.4, -0.5]),
        attention_THYX=torch.ones(3, 1, 2, 2),
        window_T=torch.tensor([0.6, 0.7, 0.8]),
        boxes_R4=torch.zeros(1, 4),
        region_scores_RT=torch.tensor([[0.1, 0.2, 0.3]]),
    )
    assert format_scores(seen, texts).splitlines() == [
        "as seen  cosine  window  box 1  text",
        f"  0.300   0.250   0.600  0.100  {'x' * 69}…",
        "  0.400   0.500   0.700  0.200    A dog.",
        " -0.500   1.000   0.800  0.300      a dog",
    ]
    without_pooler = seen._replace(conditioned_T=None, attention_THYX=None)
    assert format_scores(without_pooler, texts).splitlines()[1:3] == [
        f" 0.250   0.600  0.100  {'x' * 69}…",
        " 0.500   0.700  0.200    A dog.",
    ]
