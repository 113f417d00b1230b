"""Full disks and vanished folders: one sentence, earlier files intact, and resuming works once there is room."""

import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import mainpro_FER
from tests.conftest import ROOT
from tests.test_fer2013 import SPLIT_FILES, write_csv
from tests.test_training import FLAGS, MODELS_SAVED, PROGRAM, RUN_NAME, TABLES, assert_same_run, run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")


def limited(bytes_per_file):
    """What a child process does first: no file may grow beyond so many bytes, as on a full disk."""

    def limit():
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_per_file, bytes_per_file))

    return limit


def start(*command, room=None):
    """Run Python with the arguments; returns (exit code, output)."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"cwd": ROOT, "env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    hook = None if room is None else limited(room)
    done = subprocess.run([sys.executable, *map(str, command)], preexec_fn=hook, **pipes)
    return done.returncode, done.stdout


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "run.log"}


@pytest.mark.slow
@pytest.mark.parametrize("room", [1000, 20_000, 200_000])
def test_a_full_disk_is_told_and_nothing_is_lost(tmp_path, room):
    flags = [*FLAGS, "--device", "cpu", "--epochs", "3"]
    assert start("-c", PROGRAM, *flags, "--out", tmp_path / "whole")[0] == 0
    out = tmp_path / "full"
    command = [sys.executable, "-c", PROGRAM, *flags, "--out", str(out)]
    with subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:
        deadline = time.monotonic() + 120
        while not (out / RUN_NAME / "last.t7").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
    before = files(out)
    code, output = start("-c", PROGRAM, *flags, "--out", out, "--resume", room=room)
    assert code == 2 and "Traceback" not in output, output
    assert "room" in output and output.count("error:") <= 1
    after = files(out)
    assert not [path for path in after if path.suffix == ".tmp"]
    for path in before:
        if path.suffix == ".t7":
            assert after[path] == before[path], path
    assert start("-c", PROGRAM, *flags, "--out", out, "--resume")[0] == 0
    assert_same_run(tmp_path / "whole", out)


@pytest.mark.slow
def test_a_full_disk_while_preparing_is_told(tmp_path):
    rng = np.random.default_rng(0)
    for name in SPLIT_FILES.values():
        faces = rng.integers(0, 256, (60, 48, 48), dtype=np.uint8)
        write_csv(tmp_path / name, faces, [n % 7 for n in range(60)], rng.uniform(-2, 2, (60, 3)).tolist())
    code, output = start("-m", "data.prepare", tmp_path, room=100_000)
    assert code == 2 and "Traceback" not in output and "failed" in output, output
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(SPLIT_FILES.values())
    assert start("-m", "data.prepare", tmp_path)[0] == 0


def test_an_output_folder_that_vanishes_is_made_again(tmp_path, monkeypatch):
    out, evaluate = tmp_path / "out", mainpro_FER.evaluate
    calls = []

    def evaluate_and_remove(*arguments, **options):
        calls.append(1)
        if len(calls) == 3:  # in the second epoch
            shutil.rmtree(out)
        return evaluate(*arguments, **options)

    monkeypatch.setattr(mainpro_FER, "evaluate", evaluate_and_remove)
    assert run(out, "--eval", "center") == 0
    for name in [*TABLES, "data.txt", f"{RUN_NAME}/last.t7"]:
        assert (out / name).exists(), name
    assert len(MODELS_SAVED) == 8
