"""The measurement of docs/text.md, held."""

import runpy

from beta_clip_hf.text.phrases import PhraseExtractor


def test_recall_of_human_phrases(shared_dir, project_dir, monkeypatch) -> None:
    # The benchmarks import each other by name.
    monkeypatch.syspath_prepend(str(project_dir / "benchmarks"))
    benchmark = runpy.run_path(str(project_dir / "benchmarks" / "phrase_taggers.py"))
    marked = benchmark["read_marked_captions"]([shared_dir / "data" / "photos" / "test.jsonl"])
    assert len(marked) > 200
    scores = benchmark["score"](PhraseExtractor(kinds=["noun"]), marked)
    assert scores["exact recall"] > 0.91
    assert scores["exact precision"] > 0.79
    assert scores["overlap recall"] > 0.94
    no_phrases = benchmark["score"](PhraseExtractor(kinds=["relation"]), marked)
    assert no_phrases["exact recall"] < 0.1
