"""The scripts for the shells: bash's is run, word by word."""

import subprocess
import sys
from itertools import chain

import pytest

from beta_clip_cli import completion
from beta_clip_cli import main as cli


pytest.importorskip("shtab")

WORDS = [
    (["tr"], ["train"]),
    (["export", ""], ["clip", "merged", "onnx", "siglip2"]),
    (["train", "--le"], ["--learning-rate"]),
    (["train", "--config", ""], ["run.yaml", "model"]),
    (["train", "--model", ""], ["model"]),
    (["export", "onnx", "--dtype", ""], ["float32", "float16", "int8"]),
    (["evaluate", "--model", "model", "--dtype", "b"], ["bfloat16"]),
    (["evaluate", "--tasks", "ph"], ["phrases", "photos"]),
    (["hierarchy", "run.yaml", "--tagger", ""], ["rules", "nltk", "textblob"]),
    (["search", "m"], ["model"]),
    (["completion", ""], ["bash", "zsh", "fish"]),
]
COMPLETE = """
source "$1"
shift
COMP_WORDS=(beta-clip "$@")
COMP_CWORD=$#
_shtab_beta_clip 2> /dev/null
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("completion") / "beta-clip.bash"
    path.write_text(completion.completion_script("bash") + "\n")
    return path


@pytest.mark.parametrize(("words", "expected"), WORDS, ids=" ".join)
def test_bash_completes_words_choices_and_paths(script, tmp_path, words, expected):
    (tmp_path / "run.yaml").touch()
    (tmp_path / "model").mkdir()
    command = ["bash", "-c", COMPLETE, "bash", str(script), *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == set(expected)


def test_bash_uses_the_function_for_the_command(script):
    done = subprocess.run(["bash", "-c", f"source {script}; complete -p beta-clip"], capture_output=True, text=True)
    assert done.stdout.split()[-3:] == ["-F", "_shtab_beta_clip", "beta-clip"]


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_every_command_and_option_is_in_the_script(shell, capsys):
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    parsers = cli.parsers_of(cli.build_parser(*cli.COMMANDS))
    options = set(chain.from_iterable(parser._option_string_actions for parser in parsers))
    options = {option for option in options if option.startswith("--")}
    sought = options if shell != "fish" else {f"-l {option[2:]}" for option in options}
    assert len(options) > 50 and not [option for option in sought if option not in script]
    assert not [command for command in cli.COMMANDS if command.words[-1] not in script]


def test_a_command_without_its_extra_is_left_out_and_said(monkeypatch, capsys, caplog):
    monkeypatch.setitem(sys.modules, "beta_clip_cli.compare", None)
    assert cli.main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    assert "_shtab_beta_clip_compare" in script and "_shtab_beta_clip_compare___seed" not in script
    assert "options of beta-clip compare are left out" in caplog.text


def test_without_shtab_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert cli.main(["completion", "bash"]) == 1
    assert "pip install shtab" in capsys.readouterr().err
