"""The documents: the site builds without a warning, and every link leads somewhere."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


PROJECT = Path(__file__).resolve().parent.parent
PAGES = [
    *(PROJECT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "examples/README.md")),
    *sorted((PROJECT / "model_cards").glob("*.md")),
    *sorted((PROJECT / "docs").rglob("*.md")),
]
FENCES = re.compile(r"^```.*?^```", flags=re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def text_of(page: Path) -> str:
    """A page without its blocks of code."""
    return FENCES.sub("", page.read_text(encoding="utf-8"))


def anchors_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as Markdown makes them."""
    headings = re.findall(r"^#+ (.+)$", text_of(page), flags=re.MULTILINE)
    plain = [re.sub(r"[^\w\s-]", "", heading.lower()).strip() for heading in headings]
    return {re.sub(r"\s+", "-", heading) for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(PROJECT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(text_of(page)):
        if "://" in link or link.startswith("mailto:") or "{{" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} links to {link}, which is not there"
        if anchor and target.suffix == ".md":
            assert anchor in anchors_of(target), f"{page.name} links to {link}, but there is no such heading"


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    """A missing link, anchor or API name is an error, and so is a page that the navigation lacks."""
    pytest.importorskip("mkdocs", reason="needs the extra `dev`")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    losses = (tmp_path / "site" / "reference" / "losses.html").read_text(encoding="utf-8")
    assert 'id="beta_clip_hf.beta_cal_loss"' in losses and "β-contextualised" in losses
    # The site works without a network: nothing is loaded from another server.
    for page in (tmp_path / "site").rglob("*.html"):
        html = page.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|link rel="stylesheet"|img)[^>]*(?:src|href)="(https?:[^"]+)"', html)
        assert not loaded, f"{page.name} loads {loaded}"


def test_the_readme_is_short_and_in_order() -> None:
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    assert len(readme.split()) <= 1400
    headings = re.findall(r"^## (.+)$", FENCES.sub("", readme), flags=re.MULTILINE)
    assert headings[:5] == ["Install", "Use a model", "Try it", "Fine-tune on your photos", "I want to …"]


def message_templates() -> list[str]:
    """Every string of the source that has several words, with `…` for the parts that are filled in."""
    templates = []
    for path in sorted((PROJECT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
                templates.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
                # Of the logging module and of `str.format`.
                templates.append(re.sub(r"%[sdg]|\{\d\}|\{\w*\}", "…", node.value))
    return templates


@pytest.mark.slow
def test_messages_of_the_troubleshooting_page_are_our_own() -> None:
    page = (PROJECT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    messages = re.findall(r"^### `(.+)`$", page, flags=re.MULTILINE)
    assert len(messages) >= 20
    templates = message_templates()
    for message in messages:
        pieces = [re.escape(piece) for piece in message.split("…")]
        pattern = re.compile(".*".join(pieces), flags=re.DOTALL)
        assert any(pattern.search(template) for template in templates), f"no message of ours reads {message!r}"
