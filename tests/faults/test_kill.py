"""A run that is killed at random moments and resumed each time ends as one that was left alone."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress

import psutil
import pytest
import torch

from tests.conftest import ROOT
from tests.test_training import FLAGS, PROGRAM, RUN_NAME, assert_same_run
from utils import lock

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
ASKED = [name for name in ("SIGTERM", "SIGINT") if hasattr(signal, name)]  # what a run answers by saving
KINDS = {"killed": ["SIGKILL"], "asked": ASKED}
LONGEST_WAIT = 2.0  # seconds of processor time from the start of the work to the signal

# The program, which also writes down what it is doing, so that it can be told where the signals hit.
WATCHED = """
import os
import sys

import mainpro_FER
import utils.checkpoint
import utils.run

stage = os.open({path!r}, os.O_CREAT | os.O_WRONLY)

def watch(module, name, told):
    function = getattr(module, name)

    def watched(*arguments, **options):
        os.pwrite(stage, told.ljust(16).encode(), 0)
        try:
            return function(*arguments, **options)
        finally:
            os.pwrite(stage, b"between         ", 0)

    setattr(module, name, watched)

os.pwrite(stage, b"beginning       ", 0)
watch(mainpro_FER, "train_one_epoch", "training")
watch(mainpro_FER, "evaluate", "evaluation")
watch(utils.checkpoint, "save", "a checkpoint")
watch(utils.run, "write_records", "CSVs and figures")
"""


def command(program, out, epochs):
    flags = [*FLAGS, "--epochs", str(epochs), "--eval", "center", "--device", "cpu", "--out", str(out)]
    if (out / RUN_NAME / "last.t7").exists():
        flags.append("--resume")
    return [sys.executable, "-c", program, *flags]


def pipes():
    environment = {**os.environ, "OMP_NUM_THREADS": str(min(2, torch.get_num_threads()))}
    return {"cwd": ROOT, "env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}


def wait(process, out, seconds):
    """Return once the process has worked for so many seconds of its own time, or has ended; whether it has not.

    Its work begins when it takes the lock of the output folder.
    """
    began = None
    with suppress(psutil.NoSuchProcess):
        while process.poll() is None:
            times = psutil.Process(process.pid).cpu_times()
            spent = times.user + times.system
            if began is not None and spent - began >= seconds:
                return True
            with suppress(OSError):
                if began is None and f'"process": {process.pid},' in (out / lock.NAME).read_text():
                    began = spent
            time.sleep(0.005)
    return False


def stop_and_resume(out, signals, kills, epochs):
    """Send `kills` signals at random moments, resuming after each, then let it end. {where they hit: number}."""
    moments, hits = random.Random(kills), Counter()
    stage = out.with_name("stage")
    while True:
        program = WATCHED.format(path=str(stage)) + PROGRAM
        with subprocess.Popen(command(program, out, epochs), **pipes()) as process:
            number = None
            if hits.total() < kills and wait(process, out, moments.uniform(0, LONGEST_WAIT)):
                hits[stage.read_text().strip()] += 1
                number = getattr(signal, moments.choice(signals))
                process.send_signal(number)
            output, _ = process.communicate(timeout=600)
        assert "Traceback" not in output, output
        if process.returncode == 0:
            return hits
        # Asked politely, it saves and says how to go on; just before it begins it ends at once.
        assert number is not None and process.returncode in (130, -number), output
        assert process.returncode != 130 or "--resume" in output, output


def assert_nothing_lost(whole, killed):
    assert not list(killed.rglob("*.tmp"))
    assert not (killed / lock.NAME).exists()
    assert_same_run(whole, killed)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_stopped_a_few_times(tmp_path, kind):
    hits = stop_and_resume(tmp_path / "out", KINDS[kind], kills=4, epochs=8)
    assert hits.total() > 0
    done = subprocess.run(command(PROGRAM, tmp_path / "whole", 8), **pipes())
    assert done.returncode == 0, done.stdout
    assert_nothing_lost(tmp_path / "whole", tmp_path / "out")


@pytest.mark.endurance
def test_stopped_two_hundred_times(tmp_path, capsys):
    """A hundred times killed, and a hundred times asked to stop by SIGTERM or Ctrl-C."""
    done = subprocess.run(command(PROGRAM, tmp_path / "whole", 120), **pipes())
    assert done.returncode == 0, done.stdout
    for kind, signals in KINDS.items():
        (tmp_path / kind).mkdir()
        hits = stop_and_resume(tmp_path / kind / "out", signals, kills=100, epochs=120)
        with capsys.disabled():
            print(f"\n{kind} {hits.total()} times, during: {dict(hits.most_common())}")
        assert hits.total() == 100 and {"training", "evaluation", "a checkpoint", "CSVs and figures"} <= hits.keys()
        assert_nothing_lost(tmp_path / "whole", tmp_path / kind / "out")
