"""A run that is killed at random moments and resumed each time ends as one that was left alone."""

import json
import subprocess
import sys

import pytest

from models import checkpoint
from tests.conftest import ROOT
from tests.runs import FLAGS, RUN_NAME, assert_same, assert_same_run
from tests.samples import ck_tree, write_files
from utils.lock import exclusive_run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems do not fork safely")

# Forks the program again and again, so that PyTorch is imported once. Arguments: out, number of
# stops, names of signals, flags. Prints the exit codes. A signal comes within the time of about
# one epoch of an undisturbed run.
DRIVER = """
import glob, json, os, random, signal, sys, time
from functools import partial
import torch
import mainpro_FER
from models import MODELS
from models.fersnet import FERSNet
from models.multitask import MultiTask
from training.fersnet import guides
MODELS["Narrow"], MODELS["FERSNet"] = partial(MultiTask, base=8), partial(FERSNet, base=4)
guides.GUIDE_EPOCHS = 1
torch.set_num_threads(1)
out, stops, names, *flags = sys.argv[1:]
numbers = [getattr(signal, name) for name in names.split(",")]
epochs = int(flags[flags.index("--epochs") + 1])
chance = random.Random(0)

def run(folder, number=None, seconds=0):
    begun = glob.glob(f"{folder}/*/last*.t7") + glob.glob(f"{folder}/*/fold*.json")
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.argv = ["mainpro_FER.py", *flags, "--out", folder, *(["--resume"] if begun else [])]
        code = mainpro_FER.command_line()
        sys.stdout.flush()
        os._exit(code)
    if number:
        time.sleep(seconds)
        os.kill(pid, number)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

began = time.monotonic()
codes = [run(out + "/whole")]
most = 1.2 * (time.monotonic() - began) / epochs
codes += [run(out + "/stopped", chance.choice(numbers), chance.uniform(0, most))
          for _ in range(int(stops))]
codes.append(run(out + "/stopped"))
print(json.dumps(codes))
"""


def stop_and_resume(out, stops, signals, *flags):
    """Train undisturbed in out/whole, and with `stops` signals in out/stopped."""
    command = [sys.executable, "-c", DRIVER, out, stops, ",".join(signals), *flags]
    done = subprocess.run(
        [*map(str, command), "--device", "cpu", "--precision", "fp32"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert done.returncode == 0 and "Traceback" not in done.stdout, done.stdout[-3000:]
    first, *stopped, last = json.loads(done.stdout.splitlines()[-1])
    assert first == last == 0 and not list(out.rglob("*.unfinished"))
    # Asked politely, a run saves and says how to go on; before it has begun it ends at once.
    assert set(stopped) <= ({0, -9} if signals == ["SIGKILL"] else {0, 130, -15})
    assert stopped.count(0) <= stops // 2  # it may have ended before the last signals
    assert "--resume" in done.stdout or signals == ["SIGKILL"]
    with exclusive_run(out / "stopped"):  # the lock is free
        pass


KINDS = [["SIGKILL"], ["SIGTERM", "SIGINT"]]


@pytest.mark.parametrize(
    ("stops", "epochs"),
    [
        pytest.param(5, 8, marks=pytest.mark.slow),
        pytest.param(100, 140, marks=pytest.mark.endurance),
    ],
)
@pytest.mark.parametrize("signals", KINDS, ids=",".join)
def test_training(tmp_path, signals, stops, epochs):
    stop_and_resume(tmp_path, stops, signals, *FLAGS, "--epochs", epochs)
    assert_same_run(tmp_path / "whole", tmp_path / "stopped", RUN_NAME)


@pytest.mark.slow
@pytest.mark.parametrize("signals", KINDS, ids=",".join)
def test_a_fold_of_fersnet(tmp_path, signals):
    data = write_files(tmp_path / "CK+48", ck_tree(frames=1, subjects=range(10)))
    flags = "--dataset CK+ --fold 1 --epochs 4 --bs 8 --synthetic 4".split()
    stop_and_resume(tmp_path, 4, signals, *flags, "--data", data)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    files = [*whole.glob("*.csv"), *whole.glob("data.txt"), *whole.glob("*/*.t7")]
    tables = {"AccProcess_classify.csv", "AccProcess_folds.csv", "folds.csv", "data.txt"}
    assert {path.name for path in files} == tables | {"Fold01_model_classify.t7"}
    for path in files:
        other = stopped / path.relative_to(whole)
        if path.suffix == ".t7":
            assert_same(checkpoint.load(path), checkpoint.load(other), path.name)
        else:
            assert path.read_bytes() == other.read_bytes(), path
