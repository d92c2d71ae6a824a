"""What the code promises about itself: imports point down, files and functions stay small."""

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


PROJECT = Path(__file__).resolve().parent.parent
SOURCE = PROJECT / "src"
# A file beside weights is no module: transformers copies and runs it.
MODULES = {
    path.relative_to(SOURCE).as_posix(): path for path in sorted(SOURCE.rglob("*.py")) if "weights" not in path.parts
}
LIBRARY, COMMAND_LINE = "beta_clip_hf", "beta_clip_cli"

# The floors of the house, from the lowest. A room imports itself and the rooms below its own floor.
FLOORS = (
    {"model", "text", "files", "version"},
    {"data"},
    {"inference"},
    {"visualize"},
    {"evaluation", "search", "release"},
    {"training", "demo", "scenes"},
    {COMMAND_LINE, "__init__", "__main__"},
)
# Arrows along a floor: a sweep of interpolated models evaluates each of them; `python -m beta_clip_hf` is `beta-clip`.
SIDEWAYS = {("release", "evaluation"), ("__main__", COMMAND_LINE)}
# The models that `beta_clip_hf.scenes.pretrained` names.
SHIPPED = SOURCE / LIBRARY / "data" / "scenes" / "weights"
OUTSIDE_OF_CORE = {"torch", "transformers", "huggingface_hub", "tokenizers", "ftfy", "numpy", "PIL"}
# `forward` of a transformers model takes every tensor of the batch by name, and `load_rows` all there is to say of a
# source: its arguments are the keys of `data.train` in a configuration.
MANY_PARAMETERS = {
    ("beta_clip_hf/model/modeling_beta_clip.py", "forward"),
    ("beta_clip_hf/model/modeling_beta_siglip2.py", "forward"),
    ("beta_clip_hf/data/readers.py", "load_rows"),
}


@functools.cache
def tree_of(path: Path) -> ast.Module:
    """The syntax tree of a file, parsed once for all tests."""
    return ast.parse(path.read_text(encoding="utf-8"))


def room_of(module: str) -> str:
    """The room of a file: "beta_clip_hf/text/phrases.py" -> "text", "beta_clip_cli/main.py" -> "beta_clip_cli"."""
    package, *rest = module.removesuffix(".py").split("/")
    return COMMAND_LINE if package == COMMAND_LINE else rest[0]


def imports_of(module: str) -> Iterator[tuple[str, int]]:
    """
    Every import of a file as (absolute dotted name, line): late ones too, and those of `import_module("…")`.
    """
    package = module.split("/")[:-1]

    def absolute(name: str, level: int) -> str:
        base = package[: len(package) - level + 1] if level else []
        return ".".join(filter(None, [*base, name]))

    for node in ast.walk(tree_of(MODULES[module])):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = absolute(node.module or "", node.level)
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.Constant) and re.fullmatch(r"\.{0,2}[a-z_]+(\.[a-z_]+)*", str(node.value)):
            # A dotted name of ours in a string: what `import_module` is given, directly or through a table.
            name = node.value.lstrip(".")
            name = absolute(name, len(node.value) - len(name))
            if "." in node.value and f"{name.replace('.', '/')}.py" in MODULES:
                yield name, node.lineno


def module_file(name: str) -> str | None:
    """The file of a dotted name, be it a module, a package or a name in one of them; `None` for other packages."""
    words = name.split(".")
    for length in range(len(words), 0, -1):
        stem = "/".join(words[:length])
        for file in (f"{stem}.py", f"{stem}/__init__.py"):
            if file in MODULES:
                return file
    return None


def imported_rooms(module: str) -> Iterator[tuple[str, int]]:
    """The rooms that a file imports, with the lines."""
    for name, line in imports_of(module):
        file = module_file(name)
        if file is not None:
            yield room_of(file), line


def rooms_below(room: str) -> set[str]:
    """What a room may import."""
    floor = next(number for number, rooms in enumerate(FLOORS) if room in rooms)
    below = set().union(*FLOORS[:floor])
    return below | {room} | {target for source, target in SIDEWAYS if source == room}


def functions_of(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from the first statement after the docstring to the end."""
    has_docstring = ast.get_docstring(function) is not None
    body = function.body[1:] if has_docstring else function.body
    return function.end_lineno - body[0].lineno + 1 if body and function.end_lineno else 0


def repository_files(*suffixes: str) -> list[Path]:
    """The files of the repository: those that git knows or would add."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True).stdout.split("\0")
    return [PROJECT / name for name in listed if name.endswith(suffixes) and (PROJECT / name).is_file()]


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    allowed = rooms_below(room_of(module))
    wrong = [f"line {line}: {target}" for target, line in imported_rooms(module) if target not in allowed]
    assert not wrong, f"{module} may import {sorted(allowed)} only"


def test_the_house_has_these_rooms() -> None:
    """Sixteen entries at the top of the package; a new one is a decision, and has its floor above."""
    entries = {path.name for path in (SOURCE / LIBRARY).iterdir()} - {"__pycache__"}
    files = {"__init__", "__main__", "files", "scenes", "version"}
    rooms = set().union(*FLOORS) - {COMMAND_LINE, *files}
    assert entries == rooms | {f"{name}.py" for name in files} | {"py.typed"}
    assert len(entries) == 16
    assert {room_of(module) for module in MODULES} == set().union(*FLOORS)


def test_only_the_command_line_parses_arguments() -> None:
    parsing = set()
    for module in MODULES:
        if any(name.split(".")[0] == "argparse" for name, _ in imports_of(module)):
            parsing.add(module)
    assert {room_of(module) for module in parsing} == {COMMAND_LINE}


def test_core_can_be_saved_to_the_hub() -> None:
    """`save_pretrained` copies flat siblings only: the core imports `.x` and, from outside, next to nothing."""
    core = [module for module in MODULES if room_of(module) == "model"]
    assert len(core) >= 4
    for module in core:
        for node in ast.walk(tree_of(MODULES[module])):
            if isinstance(node, ast.ImportFrom) and node.level:
                sibling = f"{LIBRARY}/model/{node.module}.py"
                assert node.level == 1 and sibling in MODULES, f"{module}, line {node.lineno}"
        outside = {name.split(".")[0] for name, _ in imports_of(module)} - {LIBRARY}
        assert outside <= OUTSIDE_OF_CORE | sys.stdlib_module_names, module


def test_files_that_travel_with_a_checkpoint_name_their_licence() -> None:
    """The file LICENSE stays behind when `save_pretrained` copies them."""
    travelling = [path for module, path in MODULES.items() if module.endswith(("_beta_clip.py", "_beta_siglip2.py"))]
    assert len(travelling) >= 30
    for path in travelling:
        assert "# SPDX-License-Identifier: Apache-2.0\n" in path.read_text(encoding="utf-8").partition('"""')[0], path


@pytest.mark.parametrize(
    "module",
    [
        "model/gather_beta_clip.py",
        "model/loss_beta_clip.py",
        "model/paired_rows_beta_clip.py",
        "model/tiled_beta_clip.py",
        "model/logit_tiles_beta_clip.py",
        "evaluation/intervals.py",
        "evaluation/metrics.py",
        "evaluation/scores.py",
    ],
)
def test_pure_functions_know_no_processes(module: str) -> None:
    module = f"{LIBRARY}/{module}"
    assert not [name for name, _ in imports_of(module) if "distributed" in name]
    assert ".distributed" not in MODULES[module].read_text(encoding="utf-8")


def private_names(module: str) -> set[str]:
    """The functions, classes and attributes of a file whose names begin with one underscore."""
    names = set()
    for node in ast.walk(tree_of(MODULES[module])):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.attr)
    return {name for name in names if name.startswith("_") and not name.startswith("__")}


def test_private_names_stay_in_their_file() -> None:
    """Nothing imports or calls a private name of another file. A class may use those of its base classes."""
    names_of = {module: private_names(module) for module in MODULES}
    foreign = []
    for module, path in MODULES.items():
        elsewhere = set().union(*(names for other, names in names_of.items() if other != module)) - names_of[module]
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("beta_clip")):
                imported = [alias.name for alias in node.names if re.match(r"_[^_]", alias.name)]
                foreign += [f"{module}, line {node.lineno}: {name}" for name in imported]
            elif isinstance(node, ast.Attribute) and node.attr in elsewhere:
                owner = ast.unparse(node.value)
                if owner not in ("self", "cls", "super()"):
                    foreign.append(f"{module}, line {node.lineno}: {owner}.{node.attr}")
    assert not foreign


def test_imports_have_no_circle() -> None:
    """File by file, late imports and those by name too: a circle would make the order of imports matter."""
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        if module in done:
            return
        for name, _ in imports_of(module):
            below = module_file(name)
            if below is not None and below != module:
                visit(below, (*path, module))
        done.add(module)

    for module in MODULES:
        visit(module, ())


def test_cupboards_of_a_room_have_no_circle() -> None:
    """Folder by folder within a room: `training/saving` may stand on `training/record`, and then never the reverse."""
    arrows: dict[str, set[str]] = {}
    for module in MODULES:
        folder = str(Path(module).parent)
        for name, _ in imports_of(module):
            file = module_file(name)
            # Files directly in a room belong to no cupboard: they are its floor and its ceiling.
            if file is not None and room_of(file) == room_of(module) and min(file.count("/"), module.count("/")) > 2:
                arrows.setdefault(folder, set()).add(str(Path(file).parent))

    def below(folder: str) -> set[str]:
        reached: set[str] = set()
        waiting = arrows.get(folder, set()) - {folder}
        while waiting:
            reached |= waiting
            waiting = set().union(*(arrows.get(other, set()) - {other} for other in waiting)) - reached
        return reached

    assert [folder for folder in arrows if folder in below(folder)] == []
    assert arrows["beta_clip_hf/training/saving"] >= {"beta_clip_hf/training/record"}


def test_files_are_short() -> None:
    files = repository_files(".py")
    assert len(files) >= len(MODULES)
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert not {str(path.relative_to(PROJECT)): length for path, length in lengths.items() if length > 400}


@pytest.mark.parametrize("module", MODULES)
def test_functions_are_short(module: str) -> None:
    for function in functions_of(MODULES[module]):
        assert body_lines(function) <= 60, f"{module}: the body of {function.name} has {body_lines(function)} lines"
        arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
        count = len([argument for argument in arguments if argument.arg not in ("self", "cls")])
        if (module, function.name) not in MANY_PARAMETERS:
            assert count <= 10, f"{module}: {function.name} has {count} parameters"


def test_the_library_does_not_print() -> None:
    for module, path in MODULES.items():
        calls = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)]
        prints = [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
        assert not prints, f"{module}, lines {prints}: use logging"


# Names that say nothing about what they hold.
EMPTY_NAMES = re.compile(r"one|what|given|own|of_.*")
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


@pytest.mark.parametrize("folder", ["src", "tests", "benchmarks", "examples", "model_cards"])
def test_names_say_what_they_hold(folder: str) -> None:
    """No variable and no argument has a name like `one`; no comprehension has two loops or holds another one."""
    files = [path for path in repository_files(".py") if path.relative_to(PROJECT).parts[0] == folder]
    assert files
    wrong = []
    for path in files:
        wrong += [f"{path.relative_to(PROJECT)}, {finding}" for finding in names_and_loops_to_change(path)]
    assert not wrong


def names_and_loops_to_change(path: Path) -> list[str]:
    """The empty names and the comprehensions with several loops in a file, each with its line."""
    wrong = []
    for node in ast.walk(tree_of(path)):
        name = None
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            name = node.id
        elif isinstance(node, ast.arg):
            name = node.arg
        if name is not None and EMPTY_NAMES.fullmatch(name):
            wrong.append(f"line {node.lineno}: {name}")
        if isinstance(node, COMPREHENSIONS):
            loops = sum(len(inner.generators) for inner in ast.walk(node) if isinstance(inner, COMPREHENSIONS))
            if loops > 1:
                wrong.append(f"line {node.lineno}: a comprehension with {loops} loops")
    return wrong


def test_the_rule_of_names_and_loops_finds_what_it_forbids(tmp_path: Path) -> None:
    path = tmp_path / "dense.py"
    path.write_text(
        "one = [[x for x in row] for row in rows]\npairs = [a for a in b for c in d]\nplain = [x for x in y]\n"
    )
    assert names_and_loops_to_change(path) == [
        "line 1: one",
        "line 1: a comprehension with 2 loops",
        "line 2: a comprehension with 2 loops",
    ]


@pytest.mark.slow
def test_words_that_do_not_belong_in_the_repository() -> None:
    """No unfinished work, no catch-all files, none of the names that the paper's own words replace."""
    unfinished = re.compile("|".join(["TO" + "DO", "FIX" + "ME", r"\bXX" + r"X\b", "NotImplemented" + "Error"]))
    places = re.compile(r"(?<![\w.~-])/(?:home|root|tmp|work|opt|mnt)/\w")
    other_words = re.compile(r"\b(?:tci|tcil|mps)\b")
    for path in repository_files(".py", ".md", ".cfg", ".toml", ".txt", ".yaml", ".yml", "Makefile", ".ci/run"):
        if path == Path(__file__).resolve():
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            where = f"{path.relative_to(PROJECT)}, line {number}: {line.strip()}"
            assert not unfinished.search(line), where
            assert not places.search(line), where
            assert not (SOURCE in path.parents and other_words.search(line)), where
    assert not [path for path in repository_files(".py") if path.name in ("utils.py", "util.py", "helpers.py")]


def test_photos_and_weights_stay_outside() -> None:
    """But for the small fixtures of random numbers, and the two small models that ship."""
    shipped = [SHIPPED / name / "model.safetensors" for name in ("clip", "beta_clip")]
    committed = [path for path in repository_files("") if path not in shipped]
    files = [path for path in committed if "fixtures" not in path.parts]
    weights = (".pt", ".bin", ".safetensors", ".onnx", ".tar", ".jpg", ".jpeg", ".parquet")
    assert not [path.name for path in files if path.suffix in weights]
    assert not [path.name for path in committed if path.stat().st_size > 2**20]
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()) <= 8 * 10**6


@functools.cache
def legend() -> set[str]:
    """The letters of axes in the table of `model/__init__.py`."""
    table = MODULES[f"{LIBRARY}/model/__init__.py"].read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([A-Za-z, ]+) \| \w", table, flags=re.MULTILINE)
    letters: set[str] = set()
    for row in rows:
        letters.update(letter.strip() for letter in row.split(","))
    return {letter for letter in letters if len(letter) == 1}


@pytest.mark.parametrize("module", MODULES)
def test_shape_suffixes_use_the_one_legend(module: str) -> None:
    """`text_embeds_TD` is (T, D): every letter of such a suffix is in the legend, or said at the top of the file."""
    tree = tree_of(MODULES[module])
    docstring = ast.get_docstring(tree) or ""
    file_letters = set(re.findall(r"\b[A-Z]\b", docstring)) if "legend" in docstring else set()
    # The core has the letters of the legend only.
    assert not file_letters or room_of(module) != "model" or module.endswith("__init__.py")
    # S is slots: pixels are written (B, 3, height, width).
    assert not re.search(r"\bS, S\)", MODULES[module].read_text(encoding="utf-8"))
    letters = legend() | file_letters
    wrong = set()
    for node in ast.walk(tree):
        names = [getattr(node, field, None) for field in ("id", "arg", "attr")]
        for name in filter(None, names):
            suffix = re.search(r"[a-z0-9]_([A-Z][A-Z0-9]*|[a-z]?[mne]{0,2}[A-Z])$", str(name))
            if suffix and not name.isupper():
                wrong |= {name for letter in suffix[1] if letter.isalpha() and letter not in letters}
    assert not wrong
