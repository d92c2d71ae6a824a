"""SECURITY.md promises only what a test holds."""

import re


def test_every_promise_names_a_test_that_is_there(project_dir):
    text = (project_dir / "SECURITY.md").read_text(encoding="utf-8")
    promises = re.split(r"\n- ", text.partition("## What is protected")[2])[1:]
    assert len(promises) >= 15
    without_test = []
    for promise in promises:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", promise)
        for file, function in named:
            assert f"def {function}(" in (project_dir / file).read_text(encoding="utf-8"), f"{file}::{function}"
        if not named:
            without_test.append(promise)
    assert without_test == []
