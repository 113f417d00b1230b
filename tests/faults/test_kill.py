"""A run that is killed at random moments and resumed each time ends as one that was left alone."""

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass

import pytest

from tests.conftest import ROOT
from tests.faults.folds import FOLDS_PROGRAM, FOLDS_RUN, folds_flags
from tests.test_cross_validation import draw_tree, everything
from tests.runs import FLAGS, PROGRAM, RUN_NAME, assert_same_run
from utils.lock import exclusive_run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
ASKED = [name for name in ("SIGTERM", "SIGINT") if hasattr(signal, name)]  # what a run answers by saving
KINDS = {"killed": ["SIGKILL"], "asked": ASKED}
MANY = 140  # epochs that are not over before the hundredth stop
MOST_STAGES, LONGEST_WAIT = 20, 0.3  # until the signal: changes of what is being done, and then seconds

# The program, which also writes down what it is doing, so that it can be told where the signals hit.
WATCHED = """
import itertools
import os

import mainpro_FER
import models.checkpoint
import training.fersnet.run
import training.fersnet.cross_validation
import training.run

stage, number = os.open({path!r}, os.O_CREAT | os.O_WRONLY), itertools.count()

def tell(doing):
    os.pwrite(stage, f"{{next(number):6}} {{doing:20}}".encode(), 0)

def watch(module, name, doing):
    function = getattr(module, name)

    def watched(*arguments, **options):
        tell(doing)
        try:
            return function(*arguments, **options)
        finally:
            tell("between")

    setattr(module, name, watched)

tell("beginning")
for module in (mainpro_FER, training.fersnet.cross_validation):
    watch(module, "train_one_epoch", "training")
watch(mainpro_FER, "evaluate", "evaluation")
watch(training.fersnet.cross_validation, "evaluate_fold", "evaluation")
watch(models.checkpoint, "save", "a checkpoint")
watch(training.run, "write_tables", "CSVs and figures")
watch(training.fersnet.run, "write_report", "CSVs and figures")
"""


@dataclass(frozen=True)
class Trained:
    """A run that is disturbed: its program, flags and the name of the folder of its checkpoints."""

    program: str
    flags: tuple
    name: str

    def command(self, out, before=""):
        """The command line that begins it or, where it can, goes on; before: code to run before the program."""
        begun = [*out.glob(f"{self.name}/last.t7"), *out.glob(f"{self.name}/fold*.json")]
        resume = ["--resume"] if begun else []
        return [sys.executable, "-c", before + self.program, *map(str, (*self.flags, "--out", out)), *resume]


def demo(epochs):
    return Trained(PROGRAM, (*FLAGS, "--epochs", epochs, "--eval", "center", "--device", "cpu"), RUN_NAME)


def pipes():
    told = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return {"cwd": ROOT, "preexec_fn": listen, **told}


def listen():
    """What a child does first: whoever starts the tests in the background lets them, and it, ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def doing(stage):
    """(number of changes so far, what the program does now)."""
    number, _, told = stage.read_text().strip().partition(" ")
    return int(number or 0), told


def wait(process, stage, stages, seconds):
    """Return after so many changes and then seconds, whether the process still runs."""
    while process.poll() is None and (not stage.exists() or doing(stage)[0] < stages):
        time.sleep(0.002)
    time.sleep(seconds)
    return process.poll() is None


def stop_and_resume(trained, out, signals, kills):
    """Send `kills` signals at random moments, resuming after each, then let it end. {where they hit: number}."""
    moments, hits = random.Random(kills), Counter()
    stage = out.with_name("stage")
    while True:
        stage.unlink(missing_ok=True)
        command = trained.command(out, WATCHED.format(path=str(stage)))
        with subprocess.Popen(command, **pipes()) as process:
            number = None
            moment = moments.randrange(MOST_STAGES), moments.uniform(0, LONGEST_WAIT)
            if hits.total() < kills and wait(process, stage, *moment):
                hits[doing(stage)[1]] += 1
                number = getattr(signal, moments.choice(signals))
                process.send_signal(number)
            output, _ = process.communicate(timeout=1200)
        assert "Traceback" not in output, output
        if process.returncode == 0:
            return hits
        # Asked politely, it saves and says how to go on; just before it begins it ends at once.
        assert number is not None and process.returncode in (130, -number), output
        assert process.returncode != 130 or "--resume" in output, output


def assert_nothing_unfinished(out):
    assert not list(out.rglob("*.unfinished"))
    with exclusive_run(out):  # which nobody holds any more
        pass


def undisturbed(trained, out):
    done = subprocess.run(trained.command(out), **pipes())
    assert done.returncode == 0, done.stdout
    return out


@pytest.fixture(scope="module")
def short_run(tmp_path_factory):
    return undisturbed(demo(8), tmp_path_factory.mktemp("short") / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_stopped_a_few_times(tmp_path, kind, short_run, record_property):
    hits = stop_and_resume(demo(8), tmp_path / "out", KINDS[kind], kills=4)
    record_property("faults", hits.total())
    assert hits.total() == 4
    assert_nothing_unfinished(tmp_path / "out")
    assert_same_run(short_run, tmp_path / "out")


@pytest.mark.slow
def test_a_cross_validation_stopped_a_few_times(tmp_path, record_property):
    trained = Trained(FOLDS_PROGRAM, folds_flags(draw_tree(tmp_path / "CK+48")), FOLDS_RUN)
    hits = stop_and_resume(trained, tmp_path / "out", [*KINDS["killed"], *KINDS["asked"]], kills=4)
    record_property("faults", hits.total())
    assert hits.total() >= 3
    assert_nothing_unfinished(tmp_path / "out")
    whole = everything(undisturbed(trained, tmp_path / "whole"))
    assert len(whole) > 10 and everything(tmp_path / "out") == whole


@pytest.fixture(scope="module")
def long_run(tmp_path_factory):
    return undisturbed(demo(MANY), tmp_path_factory.mktemp("long") / "whole")


@pytest.mark.endurance
@pytest.mark.parametrize("kind", KINDS)
def test_stopped_a_hundred_times(tmp_path, kind, long_run, capsys, record_property):
    hits = stop_and_resume(demo(MANY), tmp_path / "out", KINDS[kind], kills=100)
    record_property("faults", hits.total())
    with capsys.disabled():
        print(f"\n{kind} {hits.total()} times, during: {dict(hits.most_common())}")
    assert_nothing_unfinished(tmp_path / "out")
    assert_same_run(long_run, tmp_path / "out")
    assert hits.total() == 100
    assert {"training", "evaluation", "a checkpoint", "CSVs and figures"} <= hits.keys()
