"""A run that is killed at random moments and resumed each time ends as one that was left alone."""

import os
import random
import signal
import subprocess
import sys

import pytest
import torch

from tests.conftest import ROOT
from tests.test_training import FLAGS, PROGRAM, RUN_NAME, assert_same_run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


def command(out, epochs):
    flags = [*FLAGS, "--epochs", str(epochs), "--eval", "center", "--device", "cpu", "--out", str(out)]
    if (out / RUN_NAME / "last.t7").exists():
        flags.append("--resume")
    return [sys.executable, "-c", PROGRAM, *flags]


def kill_and_resume(tmp_path, kills, epochs):
    """Kill at least `kills` times at random moments, then let it end; compare with an undisturbed run."""
    moments = random.Random(kills)
    environment = {**os.environ, "OMP_NUM_THREADS": str(min(2, torch.get_num_threads()))}
    pipes = {"cwd": ROOT, "env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done = 0
    while True:
        with subprocess.Popen(command(tmp_path / "killed", epochs), **pipes) as process:
            try:
                patience = moments.uniform(1.5, 8.0) if done < kills else 600
                output, _ = process.communicate(timeout=patience)
                assert process.returncode == 0, output
                break
            except subprocess.TimeoutExpired:
                process.send_signal(moments.choice(SIGNALS))
                output, _ = process.communicate(timeout=120)
                assert "Traceback" not in output, output
                done += 1
    undisturbed = subprocess.run(command(tmp_path / "whole", epochs), **pipes)
    assert undisturbed.returncode == 0, undisturbed.stdout
    assert not list((tmp_path / "killed").rglob("*.tmp"))
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    return done


@pytest.mark.slow
def test_killed_a_few_times(tmp_path):
    assert kill_and_resume(tmp_path, kills=6, epochs=8) > 0


@pytest.mark.endurance
def test_killed_a_hundred_times(tmp_path):
    assert kill_and_resume(tmp_path, kills=100, epochs=200) >= 100
