"""Short runs of the training program on drawn faces, which several test modules start."""

import torch

from models import checkpoint
from tests.conftest import run_program
from utils.tasks import TASKS

FLAGS = (
    "--dataset Demo --model Narrow --limit 24 --bs 8 --epochs 2 --lr 0.01 --precision fp32".split()
)
RUN_NAME = "Demo_Narrow"
TABLES = [f"AccProcess_{name}.csv" for name in TASKS]
MODELS_SAVED = [
    task.checkpoint(split) for task in TASKS.values() for split in ("PublicTest", "PrivateTest")
]
# A program that knows the narrow network, for a process of its own.
PROGRAM = """
import sys
from functools import partial
import mainpro_FER
from models import MODELS
from models.multitask import MultiTask
MODELS["Narrow"] = partial(MultiTask, base=8)
sys.exit(mainpro_FER.command_line())
"""


def run(out, *flags):
    """Run the program in this process; returns its exit code."""
    return run_program(out, *FLAGS, *flags)


def assert_same_tables(one, other):
    for name in [*TABLES, "data.txt"]:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def assert_same_run(one, other, run_name=RUN_NAME):
    """The records of two folders are equal, and so is all that their checkpoints hold."""
    assert_same_tables(one, other)
    for name in [*MODELS_SAVED, "last.t7"]:
        assert_same(*(checkpoint.load(folder / run_name / name) for folder in (one, other)), name)


def assert_same(one, other, place):
    """Weights, averages, momenta, random states, metrics: all that a checkpoint holds."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), place
        for key in one:
            assert_same(one[key], other[key], f"{place}: {key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), place
        for number, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{place}: {number}")
    else:
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other, place
