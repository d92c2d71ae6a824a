"""
Kills trainings at random and resumes them: `make faults` writes the figures into docs/reliability.md.

    python tests/faults/kills.py --trials 100 --write docs/reliability.md

A trial begins a run, ends it by SIGKILL, resumes it, kills it once more, and resumes it to its end, each time with the
same command and without a hand. It has survived if no command fails and the weights are those of a run that nobody has
killed, bit for bit. Half of the kills come at a random time, and half at a random access to files, so that many hit the
writing of a checkpoint.

The processes are forked from this one, which has imported everything, so that a start takes no seconds.
"""

import argparse
import hashlib
import io
import json
import os
import random
import re
import shutil
import signal
import socket
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
MODEL = {
    "projection_dim": 32,
    "vision_config": {**TOWER, "image_size": 32, "patch_size": 8},
    "text_config": {**TOWER, "max_position_embeddings": 96},
}
# The last step is within an epoch, so that a resumed run which goes on after it is noticed.
STEPS, ROWS, SAVE_STEPS = 11, 24, 2
# The figures stand between these lines of a page.
START, END = "<!-- figures of make faults -->", "<!-- end of the figures -->"


@dataclass(frozen=True)
class Kind:
    """Holds a kind of run: its name, its processes, its settings beside those that all have, and where its rows are."""

    name: str
    processes: int
    settings: tuple[str, ...] = ()
    rows: str = "rows.jsonl"


KINDS = (
    Kind("JSONL, one process", 1),
    Kind("JSONL, two processes", 2),
    Kind(
        "JSONL, contrast of 8 in micro-batches of 4, with a worker",
        1,
        ("training.contrastive_batch_size=8", "training.dataloader_num_workers=1"),
    ),
    Kind(
        "JSONL, two micro-batches a step, with two workers",
        1,
        ("training.gradient_accumulation_steps=2", "training.dataloader_num_workers=2"),
    ),
    Kind("tars as a stream, with two workers", 1, ("training.dataloader_num_workers=2",), "rows-{0..1}.tar"),
    Kind("tars as a stream, two processes", 2, (), "rows-{0..1}.tar"),
    Kind("JSONL, two processes, FSDP2", 2, ("training.fsdp=true",)),
)


def write_rows(folder: Path) -> None:
    """Writes the rows, two of which cannot be used, as lines and as tars; and the model that is fine-tuned."""
    from beta_clip_hf import BetaCLIPConfig, BetaCLIPModel, BetaCLIPProcessor, SceneDataset
    from beta_clip_hf.data.tokenizers import train_clip_tokenizer

    scenes = SceneDataset(ROWS, level="easy")
    lines = []
    for index in range(ROWS):
        row = scenes[index]
        name = f"{index}.png"
        row["image"].save(folder / name)
        if index in (3, 7):
            (folder / name).write_bytes(b"no picture")
        lines.append(json.dumps({"id": str(index), "image": name, "caption": row["caption"]}))
    (folder / "rows.jsonl").write_text("\n".join(lines))
    for number in range(2):
        write_tar(folder / f"rows-{number}.tar", folder, lines[number::2])
    tokenizer = train_clip_tokenizer((json.loads(line)["caption"] for line in lines), vocab_size=600)
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    ids |= {"pad_token_id": tokenizer.pad_token_id, "vocab_size": len(tokenizer)}
    config = BetaCLIPConfig(**{**MODEL, "text_config": {**MODEL["text_config"], **ids}})
    BetaCLIPModel(config).save_pretrained(folder / "model")
    BetaCLIPProcessor.from_image_size(tokenizer, image_size=32).save_pretrained(folder / "model")


def write_tar(path: Path, folder: Path, lines: list[str]) -> None:
    """Writes rows as a tar: an image and a text for each."""
    with tarfile.open(path, "w") as tar:
        for line in lines:
            row = json.loads(line)
            tar.add(folder / row["image"], row["image"])
            text = row["caption"].encode()
            member = tarfile.TarInfo(f"{row['id']}.txt")
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text))


def words_of(kind: Kind, folder: Path, output: Path) -> list[str]:
    """The command of a run. It is the same for a start and for each resume."""
    words = ["train", "--model", str(folder / "model"), "--train-data", str(folder / kind.rows)]
    words += ["--output", str(output)]
    words += ["--steps", str(STEPS), "--batch-size", str(4 // kind.processes), "--learning-rate", "1e-3", "--resume"]
    settings = [f"training.save_steps={SAVE_STEPS}", "training.save_strategy=steps", "training.save_total_limit=2"]
    settings += ["training.logging_steps=3", "training.disable_tqdm=true", "training.use_cpu=true", *kind.settings]
    for setting in settings:
        words += ["--set", setting]
    return words


def die_at_access(number: int) -> Callable[[str, tuple], None]:
    """Returns an audit hook that kills the process at its n-th access to files of the run."""
    left = [number]

    def hook(event: str, args: tuple) -> None:
        if event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.listdir", "open", "os.utime"):
            path = str(args[0]) if args else ""
            if "run-" in path:
                left[0] -= 1
                if left[0] <= 0:
                    os.kill(os.getpid(), signal.SIGKILL)

    return hook


def start(kind: Kind, words: list[str], log: Path, killed_rank: int = 0, access: int | None = None) -> list[int]:
    """Forks the processes of a run and returns their ids."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = []
    for rank in range(kind.processes):
        child = os.fork()
        if child:
            children.append(child)
            continue
        code = 1
        try:
            os.setsid()
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            if kind.processes > 1:
                variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": kind.processes}
                variables |= {"LOCAL_WORLD_SIZE": kind.processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
                os.environ.update({name: str(value) for name, value in variables.items()})
                os.environ["ACCELERATE_USE_CPU"] = "1"
            if access is not None and rank == killed_rank:
                sys.addaudithook(die_at_access(access))
            from beta_clip_cli.main import main

            code = main(words)
        finally:
            # Nothing of the parent's may run at the end of a fork.
            os._exit(code)
    return children


def wait(children: list[int], seconds: float) -> list[int | None]:
    """Waits for processes and kills what is left. Returns their exit codes; `None` for one that had to be killed."""
    deadline = time.monotonic() + seconds
    codes: dict[int, int | None] = {}
    while len(codes) < len(children):
        for child in children:
            if child in codes:
                continue
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                codes[child] = None
                continue
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                codes[child] = os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    return [codes[child] for child in children]


def digest(folder: Path) -> str:
    """The hash of the weights that a run has left."""
    path = folder / "model.safetensors"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "no weights"


@dataclass
class Outcome:
    """Holds how the trials of a kind of run went."""

    kind: Kind
    trials: int = 0
    survived: int = 0
    kills: int = 0
    in_writing: int = 0
    longest_end: float = 0.0


def kill_once(kind: Kind, words: list[str], log: Path, rng: random.Random, duration: float) -> tuple[bool, float]:
    """Starts a run and kills one of its processes. Returns whether it was hit, and how long the others took to end."""
    rank = rng.randrange(kind.processes)
    access = rng.randrange(1, 200) if rng.random() < 0.5 else None
    children = start(kind, words, log, rank, access)
    begin = time.monotonic()
    if access is None:
        time.sleep(rng.uniform(0.1, 0.9) * duration)
        os.kill(children[rank], signal.SIGKILL)
    # A process that its kill has not reached ends by itself.
    _, status = os.waitpid(children[rank], 0)
    was_killed = os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    begin = time.monotonic()
    others = [child for child in children if child != children[rank]]
    wait(others, 60)
    return was_killed, time.monotonic() - begin


def run_trials(kind: Kind, trials: int, seed: int, folder: Path) -> Outcome:
    """Runs the trials of a kind, and says on the standard error which failed."""
    # `die_at_access` counts the files of such a directory.
    runs = folder / f"run-{KINDS.index(kind)}"
    runs.mkdir()
    whole = runs / "whole"
    begin = time.monotonic()
    codes = wait(start(kind, words_of(kind, folder, whole), folder / "whole.log"), 600)
    if any(codes):
        raise SystemExit(
            f"the run that nobody kills must end with 0, but has ended with {codes}: see {folder}/whole.log"
        )
    duration, expected = time.monotonic() - begin, digest(whole)
    outcome = Outcome(kind)
    for trial in range(trials):
        rng = random.Random(f"{seed}/{kind.name}/{trial}")
        output = runs / str(trial)
        words, log = words_of(kind, folder, output), folder / f"{trial}.log"
        log.unlink(missing_ok=True)
        for _ in range(2):
            was_killed, seconds = kill_once(kind, words, log, rng, duration)
            outcome.kills += was_killed
            outcome.in_writing += was_killed and (output / ".unfinished").exists()
            outcome.longest_end = max(outcome.longest_end, seconds)
        codes = wait(start(kind, words, log), 600)
        outcome.trials += 1
        if any(codes) or digest(output) != expected:
            sys.stderr.write(f"{kind.name}, trial {trial}: codes {codes}, {log.read_text()[-2000:]}\n")
        else:
            outcome.survived += 1
            shutil.rmtree(output)
    return outcome


def table(outcomes: list[Outcome], command: str) -> str:
    """The figures as a table of Markdown, with the command that has measured them."""
    lines = [
        "| kind of run | survived / trials | kills | of these while a checkpoint was written | others ended within |"
    ]
    lines.append("|---|---|---|---|---|")
    for found in outcomes:
        end = f"{found.longest_end:.1f} s" if found.kind.processes > 1 else "–"
        lines.append(
            f"| {found.kind.name} | {found.survived} / {found.trials} | {found.kills} | {found.in_writing} | {end} |"
        )
    return "\n".join([*lines, "", f"`{command}`"])


def write_figures(page: Path, figures: str) -> None:
    """Puts the figures into their place in a page."""
    text = page.read_text(encoding="utf-8")
    block = f"{START}\n\n{figures}\n\n{END}"
    page.write_text(
        re.sub(f"{re.escape(START)}.*{re.escape(END)}", lambda _: block, text, flags=re.DOTALL), encoding="utf-8"
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Kills trainings at random and resumes them.")
    parser.add_argument("--trials", type=int, default=20, help="trials of each kind of run (default: 20)")
    parser.add_argument("--kinds", type=int, nargs="*", default=range(len(KINDS)), help="numbers of the kinds, from 0")
    parser.add_argument("--seed", type=int, default=0, help="seed of the kills (default: 0)")
    parser.add_argument("--write", metavar="PAGE", help="the page into which the figures go")
    return parser.parse_args()


def main() -> int:
    """Runs all trials and prints the figures. The exit code is 1 if one has not survived."""
    args = parse_arguments()
    # Forks must not share a pool of threads.
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)
    from beta_clip_hf.training import run  # noqa: F401

    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    write_rows(folder)
    outcomes = [run_trials(KINDS[number], args.trials, args.seed, folder) for number in args.kinds]
    command = f"make faults FAULTS_ARGS='--trials {args.trials}'"
    figures = table(outcomes, command)
    sys.stdout.write(f"{figures}\n")
    if args.write:
        write_figures(Path(args.write), figures)
    is_whole = all(found.survived == found.trials for found in outcomes)
    if is_whole:
        shutil.rmtree(folder)
    else:
        sys.stderr.write(f"what is left is in {folder}\n")
    return 0 if is_whole else 1


if __name__ == "__main__":
    raise SystemExit(main())
