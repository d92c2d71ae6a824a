"""What the code promises about itself: imports point down, files and functions stay small."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


PROJECT = Path(__file__).resolve().parent.parent
SOURCE = PROJECT / "src" / "beta_clip_hf"
MODULES = {path.relative_to(SOURCE).as_posix(): path for path in sorted(SOURCE.rglob("*.py"))}

# Which parts of the package each part may import. The core is every file that ends in `_beta_clip.py`.
BELOW = {
    "core": {"core"},
    "text": {"text", "core"},
    "data": {"data", "text", "core", "reports"},
    "visualize": {"visualize", "inference", "data", "text", "core"},
    "reports": set(),
    "doctor": {"reports"},
    "completion": {"cli"},
    "inference": {"inference", "data", "text", "core"},
    "evaluation": {"evaluation", "inference", "visualize", "data", "text", "core", "reports"},
    "training": {
        "inference",
        "training",
        "release",
        "evaluation",
        "visualize",
        "pages",
        "data",
        "text",
        "core",
        "reports",
    },
    "release": {"inference", "release", "evaluation", "visualize", "data", "text", "core", "reports"},
    "search": {
        "inference",
        "search",
        "evaluation",
        "visualize",
        "heat_maps",
        "pages",
        "data",
        "text",
        "core",
        "reports",
    },
    "show": {"inference", "reports", "evaluation", "visualize", "data", "text", "core"},
    "demo": {"inference", "demo", "show", "search", "evaluation", "data", "core"},
    "errors": set(),
    "cli": {"errors"},  # its commands are imported by name when they are chosen
}
OUTSIDE_OF_CORE = {"torch", "transformers", "huggingface_hub", "ftfy"}
# `forward` of a transformers model takes every tensor of the batch by name.
MANY_PARAMETERS = {("model/modeling_beta_clip.py", "forward")}


def part_of(module: str) -> str:
    """The part of the package that a file belongs to: 'text/phrases.py' -> 'text', 'cli.py' -> 'cli'."""
    if module.split("/")[0].removesuffix(".py") == "model":
        return "core"
    return module.split("/")[0].removesuffix(".py")


def imports_of(module: str) -> Iterator[tuple[str, int]]:
    """Every import of a file, late ones too, as (absolute dotted name, line)."""
    package = ["beta_clip_hf", *module.split("/")[:-1]]
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
            yield from ((".".join(filter(None, [*base, alias.name])), node.lineno) for alias in node.names)


def imported_parts(module: str) -> Iterator[tuple[str, int]]:
    """The parts of this package that a file imports; 'package' is a public name taken from `beta_clip_hf` itself."""
    for name, line in imports_of(module):
        words = name.split(".")
        if words[0] == "beta_clip_hf" and words[1] not in ("version", "files"):
            file_or_folder = words[1] if len(words) > 1 else ""
            is_module = f"{file_or_folder}.py" in MODULES or (SOURCE / file_or_folder).is_dir()
            yield part_of(f"{file_or_folder}.py") if file_or_folder and is_module else "package", line


def functions_of(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
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


@pytest.mark.parametrize("module", [module for module in MODULES if part_of(module) in BELOW])
def test_imports_point_down(module: str) -> None:
    allowed = BELOW[part_of(module)]
    wrong = [f"line {line}: {part}" for part, line in imported_parts(module) if part not in allowed]
    assert not wrong, f"{module} may import {sorted(allowed)} only"


def test_every_module_has_a_place() -> None:
    parts = {part_of(module) for module in MODULES} - {"__init__", "__main__", "files", "version"}
    assert parts <= set(BELOW), "a new part of the package needs its line in BELOW"


def test_only_init_imports_from_every_part() -> None:
    assert {part for part, _ in imported_parts("__init__.py")} == {"core", "data", "text", "training"}


def test_core_can_be_saved_to_the_hub() -> None:
    """`save_pretrained` copies flat siblings only: the core imports `.x` and, from outside, next to nothing."""
    core = [module for module in MODULES if part_of(module) == "core"]
    assert len(core) >= 4
    for module in core:
        for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1 and f"model/{node.module}.py" in MODULES, f"{module}, line {node.lineno}"
        outside = {name.split(".")[0] for name, _ in imports_of(module)} - {"beta_clip_hf"}
        assert outside <= OUTSIDE_OF_CORE | sys.stdlib_module_names, module


@pytest.mark.parametrize(
    "module",
    ["model/loss_beta_clip.py", "model/tiled_beta_clip.py", "model/logit_tiles_beta_clip.py", "evaluation/metrics.py"],
)
def test_pure_functions_know_no_processes(module: str) -> None:
    assert not [name for name, _ in imports_of(module) if "distributed" in name]
    assert ".distributed" not in MODULES[module].read_text(encoding="utf-8")


def test_imports_have_no_circle_at_the_top() -> None:
    """Imports at the top of files, file by file: a circle would make the order of imports matter."""
    names = {".".join(["beta_clip_hf", *module.removesuffix(".py").split("/")]): module for module in MODULES}

    def tops(module: str) -> set[str]:
        tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
        lines = {node.lineno for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)}
        found = [name for name, line in imports_of(module) if line in lines]
        return {names[key] for name in found for key in (name, name.rpartition(".")[0]) if key in names}

    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        if module not in done:
            for below in tops(module):
                visit(below, (*path, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


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
        calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        prints = [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
        assert not prints, f"{module}, lines {prints}: use logging"


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
    """But for the small fixtures of random numbers."""
    files = [path for path in repository_files("") if "fixtures" not in path.parts]
    weights = (".pt", ".bin", ".safetensors", ".onnx", ".tar", ".jpg", ".jpeg", ".parquet")
    assert not [path.name for path in files if path.suffix in weights]
    assert not [path.name for path in repository_files("") if path.stat().st_size > 2**20]
