"""The command line: one style of help, errors of one sentence, exit codes, and nothing imported unasked."""

import argparse
import errno
import os
import re
import resource
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import ModuleType

import pytest

from beta_clip_cli import main as cli
from beta_clip_cli.errors import sentence_of
from beta_clip_hf import __version__


COMMAND = [sys.executable, "-c", "import sys; from beta_clip_cli.main import main; sys.exit(main())"]
SECTIONS = {"positional arguments", "options", "sweep options", "commands", "kinds", "example"}
METAVARS = {
    "MODEL", "BASE", "TUNED", "DATA", "DIR", "FILE", "INDEX", "A", "B", "N", "X", "NAME", "NAMES", "TEXT", "SQL",
    "KEY", "KEY=VALUE", "THEIRS=OURS", "I/N", "X,Y,W,H", "C,S,P", "DEVICE", "HEAD", "REPO_ID", "ADDRESS", "MIB",
    "MILLIONS", "COMMAND", "KIND", "ROWS", "COLUMNS",
}  # fmt: skip
# Without a buffer argparse writes by itself, and keeps what goes wrong to itself.
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
OutOfMemoryError = type("OutOfMemoryError", (RuntimeError,), {})
SafetensorError = type("SafetensorError", (Exception,), {})
OFFLINE = (
    "We couldn't connect to 'https://huggingface.co' to load the files, and couldn't find them in the cached files."
)


class FakeCommand(ModuleType):
    """A command that fails as it is told to, instead of training for an hour."""

    def __init__(self, error: BaseException | None = None) -> None:
        super().__init__("fake")
        self.error = error

    def add_arguments(self, parser) -> None:
        parser.add_argument("--steps", type=int, default=1)
        parser.add_argument("--model", metavar="MODEL")

    def run(self, args) -> int:
        if self.error is not None:
            raise self.error
        return args.steps


@pytest.fixture
def fake(monkeypatch):
    """Puts a fake in the place of each command, and gives the list of what was imported."""
    imported = []

    def install(error: BaseException | None = None) -> list[str]:
        def import_module(name: str) -> ModuleType:
            imported.append(name)
            return FakeCommand(error)

        monkeypatch.setattr(cli, "import_module", import_module)
        return imported

    return install


@pytest.fixture(scope="module")
def parsers() -> dict[str, argparse.ArgumentParser]:
    """The parser of each command, by its words, and of what they are part of."""
    return {parser.prog: parser for parser in cli.parsers_of(cli.build_parser(*cli.COMMANDS))}


def output_of(argv: list[str], capsys) -> tuple[int, str, str]:
    try:
        code = cli.main(argv)
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_command_runs_and_gives_its_exit_code(fake) -> None:
    imported = fake()
    assert cli.main(["train", "--steps", "7"]) == 7
    assert cli.main(["convert", "b-clip"]) == 1
    assert imported == [cli.COMMANDS[0].module, cli.find_command(["convert", "b-clip"]).module]


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["convert", "--help"]])
def test_pages_that_import_no_command(argv: list[str], fake, capsys) -> None:
    imported = fake()
    code, out, _ = output_of(argv, capsys)
    assert (code, imported) == (0, [])
    assert out.strip().splitlines()[-1].strip().startswith("beta-clip ")


def test_version(capsys) -> None:
    assert output_of(["--version"], capsys) == (0, f"beta-clip {__version__}\n", "")


def test_every_page_of_help_has_the_same_sections(parsers) -> None:
    assert len(parsers) == len(cli.COMMANDS) + len(cli.GROUPS) + 1
    for name, parser in parsers.items():
        page = parser.format_help()
        sections = re.findall(r"^([a-z][a-z ]+):$", page, flags=re.MULTILINE)
        assert page.startswith(f"usage: {name} ") and set(sections) <= SECTIONS, name
        assert sections[-1] == "example" and "options" in sections, name
        assert re.fullmatch(r"[A-Z].*\.", parser.description or ""), name
        assert re.match(r'  (beta-clip |eval "\$\(beta-clip )', page.strip().splitlines()[-1]), name
        assert {"--help", "--debug"} <= set(parser._option_string_actions), name


def test_every_option_is_told_in_the_same_style(parsers) -> None:
    seen = 0
    for name, parser in parsers.items():
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                assert action.metavar in METAVARS
                continue
            where, text = f"{name} {action.dest}", parser._get_formatter()._get_help_string(action)
            first = text.split()[0]
            assert first[0].islower() or first.isupper(), f"{where} begins with a small letter"
            assert not text.endswith("."), f"{where} is no sentence"
            defaults = re.findall(r"default", text)
            assert len(defaults) <= 1 and bool(defaults) == bool(re.search(r" \(default: [^()]+\)$", text)), where
            if action.nargs != 0 and action.choices is None:
                # Several values have a word each.
                words = action.metavar if isinstance(action.metavar, tuple) else (action.metavar,)
                assert METAVARS.issuperset(words), where
            if action.option_strings and action.nargs != 0 and not isinstance(action.default, list):
                assert (action.default in (None, argparse.SUPPRESS)) or "(default: " in text, where
            seen += 1
    assert seen > 100


def test_commands_that_report_have_json(parsers) -> None:
    without = {name for name, parser in parsers.items() if "--json" not in parser._option_string_actions}
    groups = {f"beta-clip {group}" for group in cli.GROUPS}
    assert without == {"beta-clip", *groups, "beta-clip completion", "beta-clip demo"}


@pytest.mark.parametrize("command", cli.COMMANDS, ids=lambda command: " ".join(command.words))
def test_help_of_a_command_ends_with_its_example(command: cli.Command, capsys) -> None:
    code, out, _ = output_of([*command.words, "--help"], capsys)
    assert code == 0
    assert out.strip().splitlines()[-1].strip() == command.example


@pytest.mark.parametrize("command", cli.COMMANDS, ids=lambda command: " ".join(command.words))
def test_the_example_is_understood(command: cli.Command) -> None:
    """A parsed example: no option in it is misspelt or gone."""
    words = shlex.split(command.example.removeprefix('eval "$(').removesuffix(')"'))
    assert words[0] == "beta-clip"
    assert cli.find_command(words[1:]) is command
    assert callable(cli.build_parser(command).parse_args(words[1:]).run)


@pytest.mark.parametrize("argv", [[], ["trian"], ["convert"], ["train", "--stpes", "3"], ["train", "--step", "3"]])
def test_wrong_usage(argv: list[str], fake, capsys) -> None:
    fake()
    code, out, err = output_of(argv, capsys)
    assert (code, out) == (2, "")
    assert err.startswith("usage: beta-clip")


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ValueError("beta must be in [0, 1],\n    but is 2"), "beta must be in [0, 1], but is 2"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a.jsonl"), "a.jsonl: No such file or directory: "
         "check the path"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), "/x: Permission denied: change its permissions"),
        (FileExistsError(errno.EEXIST, "File exists", "out"), "out: File exists: there is a file"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device: free some"),
        (OSError("tiny is not a local folder"), "tiny is not a local folder"),
        (OSError(OFFLINE), "nowhere cannot be downloaded, and is no directory here"),
        (OSError("nowhere is not a local folder and is not a valid model identifier listed on …"), "log in with hf"),
        (OSError("Error no file named model.safetensors found in directory x."), "directory must have its weights"),
        (SafetensorError("invalid header"), "the weights of the model must be whole, but are not (invalid header)"),
        (OutOfMemoryError("2 GiB"), "try a smaller --batch-size"),
        (ImportError("reading Parquet needs datasets: pip install datasets"), "pip install"),
        (ValueError(), "ValueError"),
    ],
)  # fmt: skip
def test_an_error_is_one_sentence(error: Exception, sentence: str, fake, capsys) -> None:
    fake(error)
    code, out, err = output_of(["train", "--model", "nowhere"], capsys)
    assert (code, out) == (1, "")
    assert err.startswith("beta-clip: error: ") and sentence in err
    assert len(err.splitlines()) == 1
    with pytest.raises(type(error)):
        cli.main(["train", "--debug"])


def test_only_models_that_are_not_there_are_said_not_to_be(tmp_path) -> None:
    there = str(tmp_path)
    assert sentence_of(OSError(OFFLINE), [there, "me/gone"]).startswith("me/gone cannot be downloaded")
    unknown = ValueError(f"Unrecognized model in {there}. Should have a `model_type` key in its config.json.")
    assert sentence_of(unknown, [there, "me/gone"]).startswith(f"{there} must be a model directory, whose config.json")
    assert f"the weights of {there} must be" in sentence_of(SafetensorError("cut"), [there, "me/gone"])
    full = "I/O error: No space left on device (os error 28)"
    for error in (SafetensorError(full), RuntimeError(f"lance error: {full}, local.rs:273:40")):
        expected = "No space left on device: free some, or choose another place; what is finished stays"
        assert sentence_of(error, [there]) == expected
    assert sentence_of(RuntimeError("not found (os error 2)")) is None


def test_a_fault_of_the_program_is_told_and_its_traceback_kept(fake, capsys) -> None:
    fake(RuntimeError("shapes differ."))
    code, out, err = output_of(["train"], capsys)
    assert (code, out, len(err.splitlines())) == (70, "", 1)
    file = Path(err.split()[-1])
    assert "RuntimeError: shapes differ. This is" in err
    assert "Traceback" in file.read_text() and "in run" in file.read_text()
    file.unlink()
    with pytest.raises(RuntimeError, match="shapes differ"):
        cli.main(["train", "--debug"])


def test_an_interruption_has_its_exit_code(fake, capsys) -> None:
    fake(KeyboardInterrupt())
    assert output_of(["train"], capsys) == (130, "", "beta-clip: interrupted\n")


def test_nobody_reads_the_output() -> None:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([*COMMAND, "--help"], **pipes, env=BUFFERED) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_under_the_output() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([*COMMAND, "--help"], stdout=full, stderr=subprocess.PIPE, text=True, env=BUFFERED)
    assert (done.returncode, done.stderr.splitlines()) == (
        1,
        ["beta-clip: error: No space left on device: free some, or choose another place; what is finished stays"],
    )


HEAVY = {"torch", "transformers", "beta_clip_hf"}


def run_python(code: str, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["export", "--help"], ["doctor", "--help"], ["trian"]])
def test_help_comes_up_without_the_library(words: list[str]) -> None:
    code = (
        "import sys; from beta_clip_cli.main import main\n"
        "try:\n    main()\n"
        f"finally:\n    assert not {HEAVY} & set(sys.modules)\n"
    )
    done = run_python(code, *words)
    assert "AssertionError" not in done.stderr and done.returncode == (2 if words == ["trian"] else 0)


def test_help_of_every_command_comes_up_without_the_library() -> None:
    code = (
        "import sys\n"
        "from beta_clip_cli.commands import COMMANDS\n"
        "from beta_clip_cli.main import build_parser, parsers_of\n"
        "for command in COMMANDS:\n"
        "    for parser in parsers_of(build_parser(command)):\n"
        "        parser.format_help()\n"
        f"    assert not {HEAVY} & set(sys.modules), command.words\n"
    )
    assert run_python(code).stderr == ""


def test_help_costs_less_than_a_third_of_a_second_of_cpu_time() -> None:
    """CPU time, which other programs on the machine change little; the best of a few runs."""
    costs = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([*COMMAND, "--help"], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        costs.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(costs) < 0.3


@pytest.mark.slow
def test_the_package_is_whole_after_a_light_command() -> None:
    """A command that needs no model leaves the package as it is: it can be imported, and run with `-m`."""
    code = (
        "import sys; sys.argv = ['beta-clip', 'doctor', '--help']\n"
        "from beta_clip_cli.main import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "import runpy\nfrom beta_clip_hf import BetaCLIPConfig, __version__\nfrom transformers import AutoConfig\n"
        "print(type(AutoConfig.for_model('beta_clip')) is BetaCLIPConfig, __version__)\n"
        "sys.argv = ['-m', '--version']\n"
        "runpy.run_module('beta_clip_hf', run_name='__main__')"  # python -m beta_clip_hf
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-2:] == [f"True {__version__}", f"beta-clip {__version__}"]


def test_the_exit_codes_are_documented(project_dir) -> None:
    page = (project_dir / "docs" / "command_line.md").read_text(encoding="utf-8")
    codes = set(map(int, re.findall(r"^\| (\d+) \|", page, flags=re.MULTILINE)))
    assert codes == {0, 2, cli.ERROR, cli.FAULT, cli.INTERRUPTED, cli.OUTPUT_CLOSED, os.EX_TEMPFAIL}
    assert os.EX_SOFTWARE == cli.FAULT


def test_a_source_that_is_not_installed_knows_its_version(monkeypatch, capsys) -> None:
    def version(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(cli, "version", version)
    assert output_of(["--version"], capsys) == (0, f"beta-clip {__version__}\n", "")
