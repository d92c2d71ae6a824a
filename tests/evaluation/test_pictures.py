import json

import pytest
from PIL import Image

from beta_clip_hf.evaluation import pictures
from beta_clip_hf.evaluation.pictures import draw_retrieval
from beta_clip_hf.evaluation.probes import run_probes
from beta_clip_hf.evaluation.retrieval import RetrievalProbe
from beta_clip_hf.inference.embedder import Embedder
from beta_clip_hf.visualize import plot_recall_curves
from evaluation.colours import ColourModel, ColourProcessor


@pytest.mark.slow
def test_curves_and_the_worst_texts_are_drawn(tmp_path):
    """The third text is wrong of its image: it is the worst, and the page shows its own image and those found."""
    colours = {"red": "red", "lime": "green", "blue": "red"}
    rows = [{"image": Image.new("RGB", (32, 32), colour), "caption": text} for colour, text in colours.items()]
    embedder = Embedder(ColourModel(), ColourProcessor())
    probe = RetrievalProbe("long", embedder, [[row["caption"]] for row in rows])
    report = run_probes(embedder, rows, [probe]).reports["long"]
    worst = report["misses"][0]
    assert (worst["text"], worst["image"], worst["first"][0]) == ("red", 2, 0) and worst["rank"] == 2.5
    assert json.loads(json.dumps(report)) == report
    assert dict(map(tuple, report["curves"]["text_to_image"]["long/cls"]))[1] == pytest.approx(2 / 3)
    assert dict(map(tuple, report["curves"]["text_to_image"]["long/chance"]))[2] == pytest.approx(2 / 3)
    pages = draw_retrieval({"long": report, "other": {}}, rows, tmp_path / "pictures", "colours")
    assert [page.name for page in pages] == ["colours-long-misses.html", "colours-long-recall.png"]
    html = pages[0].read_text(encoding="utf-8")
    assert (
        html.count("<section>") == 3 and html.count("rank 2.5") == 2
    )  # below the picture, and for who does not see it
    assert Image.open(pages[1]).size[0] > 500


def test_the_curve_of_chance_is_named(tmp_path, monkeypatch):
    named = []
    monkeypatch.setattr(
        pictures, "plot_recall_curves", lambda curves, path, *, chance_labels: named.extend(chance_labels)
    )
    draw_retrieval({"short": {"misses": [], "curves": {}}}, [], tmp_path, "photos")
    assert named == ["short/chance"]


def test_no_curve_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one"):
        plot_recall_curves({}, tmp_path / "curves.png")
