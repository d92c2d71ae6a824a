"""The command line: every page of help ends with an example, an error is one sentence, nothing is imported unasked."""

import shlex
import subprocess
import sys
from types import ModuleType

import pytest

from beta_clip_hf import __version__, cli


class FakeCommand(ModuleType):
    """A command that fails as it is told to, instead of training for an hour."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__("fake")
        self.error = error

    def add_arguments(self, parser) -> None:
        parser.add_argument("--steps", type=int, default=1)

    def run(self, args) -> int:
        if self.error is not None:
            raise self.error
        return args.steps


@pytest.fixture
def fake(monkeypatch):
    """Puts a fake in the place of each command, and gives the list of what was imported."""
    imported = []

    def install(error: Exception | None = None) -> list[str]:
        def import_module(name: str, package: str) -> ModuleType:
            imported.append(name)
            return FakeCommand(error)

        monkeypatch.setattr(cli, "import_module", import_module)
        return imported

    return install


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
    assert imported == [".training.run", ".release.convert_b_clip"]


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["convert", "--help"]])
def test_pages_that_import_no_command(argv: list[str], fake, capsys) -> None:
    imported = fake()
    code, out, _ = output_of(argv, capsys)
    assert (code, imported) == (0, [])
    assert out.strip().splitlines()[-1].strip().startswith("beta-clip ")


def test_version(capsys) -> None:
    assert output_of(["--version"], capsys) == (0, f"beta-clip {__version__}\n", "")


@pytest.mark.parametrize("command", cli.COMMANDS, ids=lambda command: " ".join(command.words))
def test_help_of_a_command_ends_with_its_example(command: cli.Command, capsys) -> None:
    code, out, _ = output_of([*command.words, "--help"], capsys)
    assert code == 0
    assert out.strip().splitlines()[-1].strip() == command.example
    assert "--debug" in out


@pytest.mark.parametrize("command", cli.COMMANDS, ids=lambda command: " ".join(command.words))
def test_the_example_is_understood(command: cli.Command) -> None:
    """A parsed example: no option in it is misspelt or gone."""
    words = shlex.split(command.example)
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
        (FileNotFoundError(2, "No such file or directory", "photos.jsonl"), "photos.jsonl: No such file or directory"),
        (OSError("tiny is not a local folder"), "tiny is not a local folder"),
        (ImportError('reading Parquet needs datasets: pip install "beta-clip-hf[train]"'), "pip install"),
        (ValueError(), "ValueError"),
    ],
)
def test_an_error_is_one_sentence(error: Exception, sentence: str, fake, capsys) -> None:
    fake(error)
    code, out, err = output_of(["train"], capsys)
    assert (code, out) == (1, "")
    assert err.startswith("beta-clip: error: ") and sentence in err
    assert len(err.splitlines()) == 1
    with pytest.raises(type(error)):
        cli.main(["train", "--debug"])


def test_a_fault_of_the_program_keeps_its_traceback(fake) -> None:
    fake(RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError, match="shapes differ"):
        cli.main(["train"])


def test_python_m_is_the_same_command() -> None:
    command = [sys.executable, "-m", "beta_clip_hf", "--version"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == f"beta-clip {__version__}\n"
