"""`beta-clip show`: its numbers are the model's own, its pictures hold them, its mistakes are told in one sentence."""

import base64
import io
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from beta_clip_cli.main import main
from beta_clip_hf import BetaCLIPModel, SceneDataset
from beta_clip_hf.inference.look import look, split_texts
from beta_clip_hf.visualize.heat_maps import enlarged, highest_of, overlay


pytestmark = pytest.mark.slow


pytest.importorskip("matplotlib")

CAPTION_TEXT = "A red ball lies on the left. Behind it a <b>blue</b> box stands."


@pytest.fixture
def photo() -> Image.Image:
    """Wider than high: the model sees the middle of it. Of the test's own seed, as Pillow's noise has none."""
    return Image.fromarray(torch.randint(256, (40, 60, 3), dtype=torch.uint8).numpy())


@pytest.fixture
def folder(tmp_path, photo, tiny_config, tiny_processor, monkeypatch):
    """A working directory with a photo and a model whose heads look at one patch or another."""
    tiny_config.use_regions = True
    torch.manual_seed(0)
    model = BetaCLIPModel(tiny_config).eval()
    with torch.no_grad():
        for parameter in model.pooler.parameters():
            if parameter.ndim > 1:
                parameter.normal_()
    model.save_pretrained(tmp_path / "model")
    tiny_processor.save_pretrained(tmp_path / "model")
    photo.save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def show(*words: str) -> int:
    return main(["show", "--image", "photo.png", *words])


def test_a_png_and_the_scores(folder, capsys):
    assert show("--model", "model", "--text", CAPTION_TEXT, "--phrases", "2", "--box", "15,5,20,20") == 0
    texts, hierarchies = capsys.readouterr().out.split("\n\n")
    head, *table = texts.splitlines()
    assert head.split() == ["as", "seen", "cosine", "window", "box", "1", "text"]
    shown = split_texts([CAPTION_TEXT], most_phrases=2)
    assert [line.split(maxsplit=4)[-1] for line in table] == [text.text for text in shown]
    assert [line.split()[4] for line in hierarchies.splitlines()[1:]] == ["hierarchical", "hierarchical_window"]
    for name in ("photo-seen.png", "photo-seen-regions.png"):
        with Image.open(folder / name) as picture:
            assert picture.format == "PNG" and picture.width > 500


def test_json_has_the_scores_of_texts_and_regions(folder, tiny_processor, photo, capsys):
    boxes = [[15.0, 5.0, 20.0, 20.0], [10.0, 0.0, 5.0, 5.0]]
    options = []
    for box in boxes:
        options += ["--box", ",".join(f"{number:g}" for number in box)]
    assert (
        show("--model", "model", "--text", CAPTION_TEXT, "--head", "2", "--output", "new/seen.png", "--json", *options)
        == 0
    )
    found = json.loads(capsys.readouterr().out)
    shown = split_texts([CAPTION_TEXT])
    model = BetaCLIPModel.from_pretrained("model").eval()
    seen = look(model, tiny_processor, photo, shown, boxes=boxes, box_format="xywh_pixels")
    assert [record["text"] for record in found["texts"]] == [text.text for text in shown]
    assert [record["conditioned"] for record in found["texts"]] == pytest.approx(seen.conditioned_T.tolist(), abs=1e-5)
    assert [record["similarity"] for record in found["texts"]] == pytest.approx(seen.similarity_T.tolist(), abs=1e-5)
    assert [record["window"] for record in found["texts"]] == pytest.approx(seen.window_T.tolist(), abs=1e-5)
    for record in found["hierarchical"]:
        parts = (record["caption"], record["sentences"], record["phrases"])
        weighted = [weight * part for weight, part in zip(record["weights"], parts, strict=True)]
        assert record["total"] == pytest.approx(sum(weighted), abs=1e-5)
    assert [record["score"] for record in found["hierarchical"]] == ["hierarchical", "hierarchical_window"]
    assert [record["box"] for record in found["regions"]] == boxes and found["head"] == "2"
    for region, scores in zip(found["regions"], seen.region_scores_RT.tolist(), strict=True):
        assert list(region["scores"].values()) == pytest.approx(scores, abs=1e-5)
    assert found["pictures"] == ["new/seen.png", "new/seen-regions.png"]
    assert all((folder / name).is_file() for name in found["pictures"])


def test_a_page_holds_a_map_for_each_text_and_escapes_it(folder, tiny_processor, photo):
    assert show("--model", "model", "--text", CAPTION_TEXT, "--text", "<script>alert(1)</script>", "--head", "1",
                "--output", "page.html", "--box", "15,5,20,20") == 0  # fmt: skip
    page = (folder / "page.html").read_text(encoding="utf-8")
    assert "<script" not in page and "&lt;script&gt;alert(1)" in page and "&lt;b&gt;blue" in page
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)
    shown = split_texts([CAPTION_TEXT, "<script>alert(1)</script>"])
    stored = [Image.open(io.BytesIO(base64.b64decode(code))) for code in re.findall(r"base64,([^\"]+)", page)]
    assert len(stored) == 2 + len(shown) + 1  # the view, the colour bar; the regions
    assert "head 1 of the pooler" in page
    seen = look(BetaCLIPModel.from_pretrained("model").eval(), tiny_processor, photo, shown)
    drawn = np.asarray(stored[1].convert("RGB"), dtype=float)

    def difference(head: int) -> float:
        maps = seen.maps(head)
        expected = overlay(enlarged(seen.view), maps[0], highest_of(*maps)).resize(stored[1].size)
        return float(np.abs(np.asarray(expected, dtype=float) - drawn).mean())

    differences = [difference(head) for head in range(8)]
    nearest, second, *_ = sorted(differences)
    # Of 255, because the picture is a JPEG.
    assert differences[1] == nearest < 3 and nearest < second / 1.5, differences


def test_a_model_without_pooler_scores_regions(tiny_config, tiny_processor, folder, capsys):
    tiny_config.use_pooler, tiny_config.use_regions = False, True
    BetaCLIPModel(tiny_config).save_pretrained("fg")
    tiny_processor.save_pretrained("fg")
    assert show("--model", "fg", "--text", "a ball", "--box", "15,5,20,20") == 0
    assert "as seen" not in capsys.readouterr().out
    assert (folder / "photo-seen.png").is_file() and not (folder / "photo-seen-regions.png").exists()
    assert show("--model", "fg", "--text", "a ball", "--box", "15,5,20,20", "--output", "fg.html") == 0
    assert (folder / "fg.html").read_text(encoding="utf-8").count("<img") == 1
    assert show("--model", "fg", "--text", "a ball") == 1
    assert "must have a trained pooler" in capsys.readouterr().err


def test_regions_that_were_never_trained_are_told(folder, caplog):
    words = ("--model", "model", "--text", "a ball")
    assert show(*words, "--box", "15,5,20,20") == 0
    assert "model looks as if it was never trained with boxes" in caplog.text
    caplog.clear()
    assert show(*words) == 0
    assert "never trained with boxes" not in caplog.text
    # A step of a training with boxes moves the two scales apart.
    model = BetaCLIPModel.from_pretrained("model")
    with torch.no_grad():
        model.region_logit_scale += 0.001
    model.save_pretrained("model")
    caplog.clear()
    assert show(*words, "--box", "15,5,20,20") == 0
    assert "never trained with boxes" not in caplog.text


def test_without_an_image_a_scene_is_drawn_with_its_phrases(folder, capsys, caplog):
    caplog.set_level("INFO", logger="beta_clip_cli")
    assert main(["show", "--model", "model", "--scene", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    scene = SceneDataset(2, seed=7, level="easy")[1]
    nouns = [phrase["text"] for phrase in scene["phrases"] if phrase["kind"] == "noun"]
    assert [record["text"] for record in found["texts"]] == nouns and len(nouns) >= 3
    assert found["image"] == scene["id"] == "scenes-easy-7-1"
    assert found["pictures"] == ["scenes-easy-7-1-seen.png"]
    assert {path.name for path in folder.iterdir()} == {"model", "photo.png", "scenes-easy-7-1-seen.png"}
    assert "no --image: drawing scene 1" in caplog.text


def test_a_scene_is_shown_with_other_texts_too(folder, capsys):
    assert main(["show", "--model", "model", "--text", "A red square. A blue disc.", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [record["text"] for record in found["texts"]] == [
        text.text for text in split_texts(["A red square. A blue disc."])
    ]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--text", "a", "--head", "8"], "head must be 'mean' or one of 0 to 7, but is 8"),
        (["--text", "a", "--head", "first"], "head must be 'mean' or a number from 0, but is 'first'"),
        (["--text", "a", "--box", "1,2,3"], "box must be X,Y,W,H in pixels with W and H above 0, but is '1,2,3'"),
        (["--text", "a", "--box", "0,0,8,30"], "boxes must lie in what the model sees of the image, (10, 0, 50, 40)"),
        (["--text", "a", "--phrases", "-1"], "phrases must be 0 or more, but is -1"),
        ([], "text must be given for an image, but is not: add --text"),
        (["--text", "a", "--scene", "-1"], "scene must be 0 or more, but is -1"),
        (["--text", " "], "text must hold some text, but is blank"),
        (["--text", "a", "--output", "seen.gif"], "output must end in one of ('.png', '.html'), but is 'seen.gif'"),
        (["--text", "a", "--image", "nothing.jpg"], "image must be readable, but is 'nothing.jpg'"),
    ],
)
def test_mistakes_are_one_sentence(words, sentence, folder, capsys):
    assert show("--model", "model", *words) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("beta-clip: error: ") and sentence in error
    assert [path.name for path in folder.iterdir() if path.suffix in (".gif", ".html")] == []


def test_a_model_that_learnt_no_regions(folder, tiny_model, tiny_processor, capsys):
    tiny_model.config.use_regions = False
    tiny_model.save_pretrained("plain")
    tiny_processor.save_pretrained("plain")
    assert show("--model", "plain", "--text", "a", "--box", "15,5,20,20") == 1
    assert "examples/configs/beta_fg.yaml" in capsys.readouterr().err


def test_the_page_of_the_documents(folder, photo, project_dir):
    page = (project_dir / "docs" / "pictures.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    photo.save("photo.jpg")
    names: dict = {}
    exec(block.replace('scenes.pretrained("beta_clip")', '"model"'), names)
    assert names["seen"].attention_THYX.shape == (len(names["texts"]), 8, 4, 4)
    assert "head 0 of the pooler" in (folder / "seen.html").read_text(encoding="utf-8")
