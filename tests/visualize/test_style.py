"""What all figures share."""

import ast
import warnings
from pathlib import Path

import pytest

from beta_clip_hf import visualize
from beta_clip_hf.visualize import style


pytest.importorskip("matplotlib")


def test_other_warnings_of_a_figure_are_passed_on(tmp_path):
    figure = style.new_figure(1, 1)

    def savefig(file, **settings):
        Path(file).touch()
        warnings.warn("something else", UserWarning, stacklevel=2)

    figure.savefig = savefig
    with pytest.warns(UserWarning, match="something else"):
        style.save(figure, tmp_path / "figure.png")


def test_a_failure_leaves_the_old_figure(tmp_path):
    path = style.save(style.new_figure(1, 1), tmp_path / "figure.png")
    old = path.read_bytes()
    assert old.startswith(b"\x89PNG")
    figure = style.new_figure(1, 1)

    def savefig(file, **settings):
        Path(file).write_bytes(b"half")
        raise OSError("the disk is full")

    figure.savefig = savefig
    with pytest.raises(OSError, match="the disk is full"):
        style.save(figure, path)
    assert path.read_bytes() == old and list(tmp_path.iterdir()) == [path]


def top_imports(file):
    """The modules that a file imports when it is imported itself."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            yield from [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def test_matplotlib_is_not_imported_with_the_module():
    imported = set()
    for file in Path(visualize.__file__).parent.glob("*.py"):
        imported.update(top_imports(file))
    assert "torch" in imported and not any(name.startswith("matplotlib") for name in imported)


def test_titles_are_wrapped_and_never_empty():
    assert style.wrapped("a dog") == "a dog"
    assert style.wrapped("") == style.wrapped("\n\t") == " "
    lines = style.wrapped("word " * 40).split("\n")
    assert len(lines) == style.TITLE_LINES and lines[-1].endswith(" …")


def test_curves_differ_in_colour_and_in_dashes():
    styles = [style.line_style(index) for index in range(12)]
    assert styles[0]["color"] != styles[1]["color"] and styles[0]["linestyle"] != styles[1]["linestyle"]
    # The least common multiple of 6 colours and 4 dashes.
    assert len({(line["color"], line["linestyle"]) for line in styles}) == 12
