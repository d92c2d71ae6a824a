"""One run per directory, signals, processes that depend on each other, and a last save that fails."""

import json
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from transformers import TrainerCallback

from beta_clip_hf import BetaCLIPModel
from beta_clip_hf.training import companions, signals
from beta_clip_hf.training.companions import CompanionError, Companions
from beta_clip_hf.training.run import train_and_report
from beta_clip_hf.training.saving import last_save, locks
from beta_clip_hf.training.saving.checkpoints import find_newest_whole
from beta_clip_hf.training.saving.disk import writing_problem
from beta_clip_hf.training.saving.locks import LOCK_FILE, RunLock
from beta_clip_hf.training.signals import RunStopped, StopSignals
from training.tiny_runs import new_trainer, weights


# The lock


def test_a_lock_is_held_by_one_run_and_given_back(tmp_path):
    with RunLock(tmp_path / "run"):
        with pytest.raises(ValueError, match=rf"one run at a time, but process {os.getpid()} on .* since 20"):
            RunLock(tmp_path / "run").acquire()
        stored = json.loads((tmp_path / "run" / LOCK_FILE).read_text())
        assert stored["pid"] == os.getpid() and stored["host"]
    assert list((tmp_path / "run").iterdir()) == []
    with RunLock(tmp_path / "run"):
        assert (tmp_path / "run" / LOCK_FILE).exists()


def lock_of(tmp_path, **changes):
    """Writes a lock as another process would have left it."""
    with RunLock(tmp_path):
        stored = json.loads((tmp_path / LOCK_FILE).read_text())
    (tmp_path / LOCK_FILE).write_text(json.dumps(stored | changes))


def test_the_lock_of_a_process_that_has_ended_is_taken_over(tmp_path, caplog):
    child = os.fork()
    if child == 0:
        RunLock(tmp_path).acquire()
        os._exit(0)
    os.waitpid(child, 0)
    with RunLock(tmp_path):
        assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()
    assert f"process {child} on" in caplog.text and "is taken over" in caplog.text


def test_an_id_that_was_used_again_is_not_the_holder(tmp_path):
    lock_of(tmp_path, started="1")
    with RunLock(tmp_path):
        assert (tmp_path / LOCK_FILE).exists()


@pytest.mark.parametrize("content", ["", "[1", "[]", '{"pid": "x"}'])
def test_a_lock_that_says_nothing_is_watched_and_taken_over(tmp_path, content):
    (tmp_path / LOCK_FILE).write_text(content)
    with RunLock(tmp_path, stale_seconds=0.1):
        assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()


def test_a_lock_of_another_machine_counts_as_long_as_it_is_touched(tmp_path, monkeypatch):
    lock_of(tmp_path, machine="elsewhere", host="elsewhere")
    path, sleep = tmp_path / LOCK_FILE, time.sleep
    monkeypatch.setattr(locks.time, "sleep", lambda seconds: (sleep(0.01), os.utime(path)))
    with pytest.raises(ValueError, match="on elsewhere"):
        RunLock(tmp_path, stale_seconds=5).acquire()
    monkeypatch.setattr(locks.time, "sleep", sleep)
    with RunLock(tmp_path, stale_seconds=0.2):
        assert json.loads(path.read_text())["pid"] == os.getpid()


def test_a_lock_that_another_run_has_taken_over_meanwhile_stays_its(tmp_path):
    lock = RunLock(tmp_path)
    lock.acquire()
    lock_of_other = json.dumps({"pid": 1, "host": "x"})
    (tmp_path / LOCK_FILE).write_text(lock_of_other)
    lock.release()
    assert (tmp_path / LOCK_FILE).read_text() == lock_of_other


# Signals


@pytest.fixture
def signals_are_not_ignored():
    """The tests may run in the background or under `nohup`, where some are ignored, and then stay so."""
    previous = {number: signal.signal(number, signal.SIG_DFL) for number in signals.SIGNALS}
    yield
    for number, handler in previous.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("signals_are_not_ignored")
@pytest.mark.parametrize("number", signals.SIGNALS)
def test_outside_of_the_steps_a_signal_ends_the_run(number):
    previous = signal.getsignal(number)
    with StopSignals() as caught, pytest.raises(RunStopped) as stopped:
        os.kill(os.getpid(), number)
        time.sleep(5)
    assert stopped.value.code == 128 + number and caught.received == number
    assert signal.Signals(number).name in str(stopped.value)
    assert signal.getsignal(number) is previous


@pytest.mark.usefixtures("signals_are_not_ignored")
@pytest.mark.parametrize("number", signals.SIGNALS)
def test_within_the_steps_a_signal_waits(number):
    with StopSignals() as caught:
        caught.is_training = True
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), signal.SIGTERM)  # at once: the same one, repeated by a launcher
        time.sleep(0.05)
        assert caught.received == number


def test_a_second_signal_ends_at_once_also_where_python_does_not_run(monkeypatch):
    monkeypatch.setattr(signals, "SAME_SECONDS", 0.2)
    child = os.fork()
    if child == 0:
        logging.disable()
        with StopSignals() as caught:
            caught.is_training = True
            # The main thread waits in C, and no handler of Python can run.
            torch.multiprocessing.get_context("fork").Event().wait(60)
        os._exit(0)
    time.sleep(0.5)
    for _ in range(2):
        os.kill(child, signal.SIGTERM)
        time.sleep(0.5)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGTERM


def test_a_worker_leaves_signals_of_the_terminal_to_its_parent():
    with StopSignals() as caught:
        caught.is_training = True
        child = os.fork()
        if child == 0:
            time.sleep(0.5)
            os._exit(7)
        os.kill(child, signal.SIGINT)
        os.kill(child, signal.SIGHUP)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 7
        assert caught.received is None


def test_the_code_of_a_stop_means_try_again():
    assert os.EX_TEMPFAIL == signals.STOPPED


def test_what_nohup_ignores_stays_ignored():
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as caught:
            os.kill(os.getpid(), signal.SIGHUP)
            assert caught.received is None
    finally:
        signal.signal(signal.SIGHUP, previous)


# Processes that depend on each other


class TwoProcesses:
    """Stands for the exchange between this process and another one."""

    rank, count = 0, 2

    def __init__(self, other):
        self.other = other

    def gather(self, value):
        return [value, self.other]

    def broadcast(self, value):
        return value


@pytest.fixture
def other_process():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    process.kill()
    process.wait()


def place_of(process):
    return (os.uname().nodename, process.pid, locks.process_start(process.pid))


def test_an_error_has_the_reason_of_the_process_that_ended_first(tmp_path, other_process):
    note = tmp_path / companions.NOTES_FOLDER / "1.json"
    processes = TwoProcesses(place_of(other_process))
    told = pytest.raises(CompanionError, match="process 1 has ended: ValueError: no rows")
    with told, Companions(processes, tmp_path):
        note.parent.mkdir()
        note.write_text('{"reason": "ValueError: no rows"}')
        raise RuntimeError("Connection closed by peer")
    with pytest.raises(ValueError, match="a mistake"), Companions(processes, tmp_path):
        raise ValueError("a mistake")
    assert json.loads((tmp_path / companions.NOTES_FOLDER / "0.json").read_text())["reason"] == "ValueError: a mistake"


def test_a_process_that_was_killed_is_named(tmp_path, other_process):
    processes = TwoProcesses(place_of(other_process))
    told = pytest.raises(CompanionError, match=f"process 1 .id {other_process.pid} on .* killed, or out of memory")
    with told, Companions(processes, tmp_path):
        other_process.kill()
        other_process.wait()
        raise RuntimeError("Connection closed by peer")


def ended_within(seconds, child):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def test_a_process_that_waits_for_another_one_ends_with_it(tmp_path, other_process, monkeypatch):
    monkeypatch.setattr(companions, "GRACE_SECONDS", 0.5)
    child = os.fork()
    if child == 0:
        logging.disable()
        with Companions(TwoProcesses(place_of(other_process)), tmp_path):
            time.sleep(60)
        os._exit(0)
    time.sleep(0.3)
    other_process.kill()
    other_process.wait()
    assert ended_within(10, child) == companions.FAILED


def test_workers_end_when_their_launcher_is_gone(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    reader, writer = os.pipe()
    launcher = os.fork()
    if launcher == 0:
        worker = os.fork()
        if worker == 0:
            logging.disable()
            with Companions(TwoProcesses(("elsewhere", 1, "")), tmp_path):
                time.sleep(60)
            os._exit(0)
        os.write(writer, str(worker).encode())
        time.sleep(60)
        os._exit(0)
    worker = int(os.read(reader, 20))
    time.sleep(0.5)
    os.kill(launcher, signal.SIGKILL)
    os.waitpid(launcher, 0)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and locks.process_start(worker):
        time.sleep(0.05)
    assert not locks.process_start(worker)


# A disk that cannot be written


class LimitedFiles(TrainerCallback):
    """Files may not grow beyond some bytes from one step to another, as on a disk that is full."""

    def __init__(self, first, last, size=2**15):
        self.first, self.last, self.size = first, last, size
        self.previous = resource.getrlimit(resource.RLIMIT_FSIZE)

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.first - 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.previous[1]))
        if state.global_step == self.last:
            resource.setrlimit(resource.RLIMIT_FSIZE, self.previous)


@pytest.mark.slow
def test_a_save_that_fails_costs_no_more_than_itself(tiny_config, tmp_path, caplog):
    limit = LimitedFiles(2, 3)
    trainer = new_trainer(tiny_config, tmp_path, callbacks=[limit], save_strategy="steps", save_steps=1, max_steps=5)
    try:
        trainer.train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit.previous)
    assert "checkpoint-2 could not be saved (a file would be larger than is allowed (EFBIG))" in caplog.text
    assert f"the last one is {tmp_path / 'checkpoint-1'}; the training goes on" in caplog.text
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["checkpoint-1", "checkpoint-4", "checkpoint-5"]
    assert find_newest_whole(tmp_path).skipped == []
    plain = new_trainer(tiny_config, tmp_path / "plain", max_steps=5)
    plain.train()
    assert all(torch.equal(value, weights(trainer.model)[name]) for name, value in weights(plain.model).items())


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 kilobytes."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_the_last_save_on_a_full_disk_keeps_the_model_elsewhere(tiny_config, tmp_path, small_disk, monkeypatch, caplog):
    kept_in = tmp_path / "kept"
    kept_in.mkdir()
    monkeypatch.setattr(last_save.tempfile, "gettempdir", lambda: str(kept_in))
    output = small_disk / "run"
    trainer = new_trainer(tiny_config, output, max_steps=2, save_strategy="steps", save_steps=1)
    with pytest.raises(OSError, match=r"no space is left on the device \(ENOSPC\); it is kept in .*kept") as raised:
        train_and_report(trainer)
    assert "checkpoint-1 could not be saved (no space is left on the device (ENOSPC))" in caplog.text
    (folder,) = kept_in.iterdir()
    assert str(folder) in str(raised.value)
    loaded = weights(BetaCLIPModel.from_pretrained(folder))
    assert all(torch.equal(loaded[name], value) for name, value in weights(trainer.model).items())
    assert json.loads((folder / "train_results.json").read_text())["run"]["steps"] == 2
    assert not list(small_disk.rglob("*.safetensors"))


@pytest.mark.slow
def test_a_directory_that_vanishes_is_made_again(tiny_config, tmp_path):
    class Vanish(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 2:
                shutil.rmtree(tmp_path / "run")

    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    trainer = new_trainer(tiny_config, tmp_path / "run", callbacks=[Vanish()], **settings)
    train_and_report(trainer)
    assert find_newest_whole(tmp_path / "run").path == tmp_path / "run" / "checkpoint-4"
    assert (tmp_path / "run" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (OSError(28, "No space left on device"), "no space is left on the device (ENOSPC)"),
        (OSError(122, "Disk quota exceeded"), "the disk quota is used up (EDQUOT)"),
        (ValueError("I/O error: No space left on device (os error 28)"), "no space is left on the device (ENOSPC)"),
        (
            RuntimeError("[enforce fail at inline_container.cc:778] . PytorchStreamWriter failed writing file"),
            "enforce",
        ),
        (RuntimeError("Connection closed by peer"), None),
        (ValueError("a mistake"), None),
    ],
)
def test_errors_of_a_disk_are_told_from_others(tmp_path, error, problem):
    found = writing_problem(error, tmp_path / "not" / "there")
    assert (found is None) == (problem is None)
    assert problem is None or problem in found
