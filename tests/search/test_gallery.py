"""Pages of results, and the commands that make an index and search it."""

import argparse
import json
import os

import pytest

from beta_clip_cli import main as cli
from beta_clip_cli import search as search_command
from beta_clip_hf.inference.hierarchical import DEFAULT_WEIGHTS
from beta_clip_hf.search.gallery import phrases_to_show, write_gallery
from beta_clip_hf.search.query import Query
from beta_clip_hf.search.rerank import DEFAULT_SCORE, SCORES


pytestmark = pytest.mark.slow


TEXT = "A red car stands in front of a white house."


def test_the_page_shows_each_phrase_of_the_description(index, tmp_path, photos):
    assert phrases_to_show(Query(TEXT)) == [("A red car", 1.0), ("a white house", 1.0)]
    assert phrases_to_show(Query(TEXT, phrases=[("a dog", 1.0)])) == [("a dog", 1.0)]
    hits = index.search(TEXT, top=2)
    os.unlink(hits[1].image)
    page = write_gallery(tmp_path / "found.html", hits, index, "<b>bold</b>", phrases_to_show(Query(TEXT))).read_text()
    assert page.count("data:image/jpeg") == 1 + 3  # the scale; the image and its two heat maps
    assert "the image can no longer be opened" in page and "<b>bold" not in page
    # Each hit is a card that links to its file, and shows its name; the maps of an untrained pooler are explained.
    assert page.count("<section>") == 3 and page.index('class="cards"') > page.index("Colour scale")
    assert f'<a href="{(photos / os.path.basename(hits[0].image)).as_uri()}"' in page or "below" in hits[0].image
    assert page.count("<a href=") == 1 and str(photos) not in page.replace(photos.as_uri(), "")
    assert "This model looks nowhere in particular" in page


def test_the_help_repeats_the_scores_and_the_weights_of_the_library():
    assert search_command.RERANK_SCORES == SCORES
    parser = argparse.ArgumentParser()
    search_command.add_arguments(parser)
    text = " ".join(parser.format_help().split())
    assert f"(default: {DEFAULT_SCORE})" in text
    for weights in DEFAULT_WEIGHTS.values():
        assert ",".join(f"{weight:g}" for weight in weights) in text


@pytest.mark.slow
def test_the_commands(tmp_path, checkpoint, photos, capsys):
    (photos / "7.jpg").write_text("no image")
    index, page = str(tmp_path / "photos.index"), tmp_path / "found.html"
    assert cli.main(["index", str(photos), "--output", index, "--model", str(checkpoint), "--device", "cpu"]) == 0
    told = capsys.readouterr().out
    assert f"{index}: 6 images (6 new, 0 changed, 0 updated, 0 deleted, 0 unchanged, 1 unreadable)" in told
    assert told.startswith(f"unreadable: {photos / '7.jpg'}: image must be readable")
    assert cli.main(["index", str(photos), "--output", index, "--json", "--device", "cpu"]) == 0
    assert json.loads(capsys.readouterr().out)["unchanged"] == 6
    words = ["search", index, TEXT, "--phrase", "a dog:-0.5", "--image", str(photos / "1.png"), "--device", "cpu"]
    assert cli.main([*words, "--top", "2", "--rerank", "4", "--json", "--html", str(page)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [hit["rank"] for hit in found] == [1, 2] and found[0]["score"] == found[0]["reranked"]
    options = ["--rerank-score", "hierarchical", "--rerank-weights", "0,0.5,0.5"]
    assert cli.main([*words, "--rerank", "4", "--json", *options]) == 0
    by_parts = json.loads(capsys.readouterr().out)
    assert [hit["reranked"] is None for hit in by_parts] == [False] * 4 + [True] * 2
    assert {hit["reranked"] for hit in by_parts[:4]}.isdisjoint(hit["reranked"] for hit in found)
    for wrong, message in (
        ([*options], "rerank must be at least 1 for --rerank-score or --rerank-weights, but is 0"),
        (["--rerank", "4", *options[:3], "1,2"], "weights must be three numbers from 0 whose sum is 1"),
        (["--rerank", "4", *options[:3], "a,b,c"], "rerank-weights must be three numbers between commas"),
    ):
        assert cli.main([*words, *wrong]) == 1 and message in capsys.readouterr().err
    html = page.read_text()
    assert html.count("<figcaption>not: a dog (−0.5)</figcaption>") == 2  # below the heat map of each hit
    assert f"<title>{TEXT}; not: a dog (−0.5); {photos / '1.png'}</title>" in html
    assert cli.main([*words, "--top", "3", "--where", "width < height"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert len(table) == 4 and table[1].split()[2] == str(photos / "1.png")
    assert cli.main([*words, "--where", "width < 0"]) == 0
    assert capsys.readouterr().out == "nothing was found\n"
    assert cli.main(["search", str(tmp_path / "new"), "a"]) == 1
    assert "must be" in capsys.readouterr().err
    # Without a model, the small one that ships makes the index.
    assert cli.main(["index", str(photos), "--output", str(tmp_path / "new")]) == 0


@pytest.mark.parametrize("name", ["absent", "empty", "absent.jsonl", "empty.jsonl"])
def test_a_mistaken_source_leaves_no_index_behind(tmp_path, checkpoint, capsys, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.jsonl").touch()
    index = tmp_path / "photos.index"
    assert cli.main(["index", str(tmp_path / name), "--output", str(index), "--model", str(checkpoint)]) == 1
    assert str(tmp_path / name) in capsys.readouterr().err and not index.exists()
