"""`sbatch examples/slurm/train.sbatch`: a job that is signalled before its time limit is queued again and goes on.

Slurm's commands are replaced by small ones that start the processes on this machine.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from integration.test_launch import CONFIG, assert_equal_models


pytestmark = [pytest.mark.stress, pytest.mark.skipif(os.name != "posix", reason="needs bash")]

NUM_PROCESSES = 2
STOPPED = 75
# Starts the processes of a job, passes on USR1 to each of them (`--signal=USR1@300`), and returns the largest code.
SRUN = """#!/bin/bash
shift
ids=()
for number in $(seq 0 $((SLURM_NTASKS - 1))); do
    SLURM_PROCID=$number SLURM_LOCALID=$number "$@" &
    ids+=($!)
done
trap 'kill -USR1 "${ids[@]}"' USR1
largest=0
for id in "${ids[@]}"; do
    wait "$id"; code=$?
    # A signal interrupts `wait`.
    while kill -0 "$id" 2>/dev/null; do wait "$id"; code=$?; done
    [ "$code" -gt "$largest" ] && largest=$code
done
exit "$largest"
"""
SCONTROL = """#!/bin/bash
case "$1" in
    show) echo localhost ;;
    requeue) echo "$2" >> "$REQUEUED" ;;
esac
"""


@pytest.fixture
def cluster(tmp_path, project_dir):
    """The environment of a job, and the file of the jobs that were queued again."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    slurm = {
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NODELIST": "localhost",
        "SLURM_NTASKS": str(NUM_PROCESSES),
        "SLURM_NTASKS_PER_NODE": str(NUM_PROCESSES),
    }
    # `python` is that of this environment.
    path = f"{commands}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    paths = {"PATH": path, "PYTHONPATH": str(project_dir / "src")}
    return os.environ | slurm | paths | {"REQUEUED": str(tmp_path / "requeued"), "OMP_NUM_THREADS": "1"}


def start_job(project_dir, environment, config, output):
    command = ["bash", str(project_dir / "examples/slurm/train.sbatch"), "--config", str(config)]
    command += ["--output", str(output), "--batch-size", "1"]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env=environment, start_new_session=True, **streams)


def signal_srun(job: subprocess.Popen[str]) -> None:
    """Signals the step of a job, as Slurm does: the batch script does not get the signal."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        parent = int(stat.read_text().rpartition(")")[2].split()[1])
        if parent == job.pid:
            os.kill(int(stat.parent.name), signal.SIGUSR1)


def test_a_job_goes_on_after_its_time_limit(cluster, project_dir, tmp_path):
    steps = {"max_steps": 40, "save_steps": 100, "logging_steps": 1}
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(CONFIG | {"training": CONFIG["training"] | steps}))
    whole = start_job(project_dir, cluster, config, tmp_path / "whole")
    output, _ = whole.communicate(timeout=500)
    assert whole.returncode == 0, output
    assert not Path(cluster["REQUEUED"]).exists()

    first = start_job(project_dir, cluster, config, tmp_path / "cut")
    # The first record of the log says that the training has begun.
    lines = []
    for line in first.stdout:
        lines.append(line)
        if "'loss'" in line or '"loss"' in line:
            break
    signal_srun(first)
    lines.append(first.communicate(timeout=300)[0])
    assert first.returncode == STOPPED, "".join(lines)
    assert Path(cluster["REQUEUED"]).read_text().split() == [cluster["SLURM_JOB_ID"]]
    assert not (tmp_path / "cut" / "model.safetensors").exists()

    second = start_job(project_dir, cluster, config, tmp_path / "cut")
    output, _ = second.communicate(timeout=500)
    assert second.returncode == 0, output
    assert_equal_models(tmp_path / "cut", tmp_path / "whole")
