"""Several processes against one: gradients, statistics, sampling, a whole run."""

import csv
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
import torch.nn.functional as F

from data.batches import plan_epoch
from data.faces import Faces
from models import checkpoint
from models.multitask import MultiTask
from tests.conftest import ROOT
from tests.runs import FLAGS, PROGRAM, RUN_NAME, TABLES, assert_same_tables
from training.config import RECIPES
from training.device import setup_device
from training.learner import MultiTaskLearner
from utils.distributed import check_share
from utils.files import UserError

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or sys.platform == "win32", reason="no gloo here"
)
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def command(processes, *arguments):
    """A command that runs a Python program alone or by torchrun."""
    several = "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"
    return [sys.executable, *(several if processes > 1 else ()), *map(str, arguments)]


def start(processes, *arguments):
    """Run a Python program alone or by torchrun; returns what it printed."""
    pipes = {"cwd": ROOT, "env": ENVIRONMENT, "capture_output": True, "text": True}
    done = subprocess.run(command(processes, *arguments), **pipes)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("sharing", ["trunk", pytest.param("none", marks=pytest.mark.slow)])
def test_two_processes_have_the_gradients_of_one(tmp_path, sharing):
    found = {}
    for processes in (1, 2):
        path = tmp_path / f"{processes}.pt"
        start(processes, ROOT / "tests" / "parallel_step.py", path, sharing)
        found[processes] = torch.load(path, weights_only=True)
    alone, shared = found[1], found[2]
    assert torch.allclose(alone["loss"], shared["loss"], rtol=1e-9)
    for part in ("gradients", "buffers"):
        for name, value in alone[part].items():
            difference = (value - shared[part][name]).norm() / value.norm().clamp_min(1e-6)
            assert difference < 1e-6, (part, name, difference)


@pytest.mark.parametrize(("count", "batch", "processes"), [(50, 12, 3), (7, 12, 3), (64, 8, 2)])
def test_the_processes_together_see_what_one_sees(monkeypatch, count, batch, processes):
    whole, parts = plan_epoch(count, batch, 0, 1), []
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    for rank in range(processes):
        monkeypatch.setenv("RANK", str(rank))
        parts.append(plan_epoch(count, batch, 0, 1))
    for step in range(whole.steps):
        seen = [plan.batch(step)["order"] for plan in parts]
        assert len({len(order) for order in seen}) == 1
        together, expected = torch.cat(seen).tolist(), whole.batch(step)["order"].tolist()
        assert len(set(together)) == len(together) and set(together) <= set(expected)
        # Only a single batch that cannot be shared loses any.
        assert len(expected) - len(together) < processes


def test_dropout_is_a_function_of_the_seed_the_step_and_the_process(monkeypatch):
    seen, faces = [], Faces(torch.zeros(4, 48, 48, dtype=torch.uint8), torch.arange(4), None)

    def dropout(features, *_):
        seen.append(torch.rand(8).tolist())
        return features

    monkeypatch.setattr(F, "dropout", dropout)
    batch = (torch.zeros(4, 1, 44, 44), torch.arange(4), None, None, None)
    for seed, number, rank in [(0, 0, 0), (0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]:
        monkeypatch.setenv("RANK", str(rank))
        model, runtime = MultiTask(("classify",), base=8, dropout=0.5), setup_device("cpu", "fp32")
        learner = MultiTaskLearner(model, RECIPES["paper"], faces, seed, runtime)
        learner.step(batch, number, 2)
    assert seen[0] == seen[1] and len({tuple(each) for each in seen}) == 4


def test_a_batch_that_cannot_be_shared_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UserError, match="shared by 3"):
        check_share(64, 100)
    with pytest.raises(UserError, match="2 faces cannot be shared by 3"):
        check_share(63, 2)


def read_table(path):
    with open(path, newline="") as table:
        return [{name: float(cell) for name, cell in row.items()} for row in csv.DictReader(table)]


@pytest.mark.slow
def test_two_processes_equal_one_to_rounding_and_go_on_after_a_stop(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    # A rate that does not magnify rounding; test faces that two processes cannot share equally.
    flags = [*FLAGS, "--lr", "0.001", "--limit", "25", "--device", "cpu"]
    rows, averages = [], []
    for processes in (1, 2):
        out = tmp_path / str(processes)
        start(processes, program, *flags, "--out", out)
        rows.append([row for name in TABLES for row in read_table(out / name)])
        averages.append(checkpoint.load(out / RUN_NAME / "last.t7")["learner"]["averaged"])
        assert not list(out.rglob("*.unfinished"))
    for one, two in zip(*rows, strict=True):
        for name, value in one.items():
            # A face more or less that is right: 4% of 25. F1 follows it.
            tolerance = 4.2 if "Acc" in name else 0.15 if "F1" in name or "SAGR" in name else 0.02
            assert value == pytest.approx(two[name], abs=tolerance), name
    for name, value in averages[0].items():
        assert torch.allclose(value.float(), averages[1][name].float(), atol=1e-4), name
    assert "1 thread), fp32, 2 processes" in (tmp_path / "2" / "data.txt").read_text()

    stopped = tmp_path / "stopped"
    last = stopped / RUN_NAME / "last.t7"
    started = command(2, program, *flags, "--out", stopped)
    with subprocess.Popen(started, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE) as process:
        deadline = time.monotonic() + 120
        while not last.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)  # torchrun passes it on
        process.communicate(timeout=120)
    assert process.returncode != 0 and checkpoint.load(last)["final"] is None  # not through
    assert "Finished" in start(2, program, *flags, "--out", stopped, "--resume")
    assert_same_tables(tmp_path / "2", stopped)
