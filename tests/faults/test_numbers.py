"""Degenerate data: one image, a batch of one, absent classes, constant targets."""

import csv
import math

import numpy as np
import pytest

from tests.conftest import run_program
from tests.samples import SPLIT_FILES, write_csv
from training.losses import CONSTRAINTS
from utils.files import UserError
from utils.tasks import TASKS

SPREAD = [(n - 2, 0.5 * n, -1) for n in range(4)] + [(0, 0, 0)]
CASES = {  # labels, V/A/D, flags
    "one image": ([3], [(1, 0, -1)], "--bs 8"),
    "a batch of one": (range(5), SPREAD, "--bs 1"),
    "a last batch of one": (range(5), SPREAD, "--bs 4"),
    "one class, paper": ([6] * 8, [(2, 2, 2)] * 8, "--recipe paper --bs 4 --orth 0"),
    "one class, demo": ([6] * 8, [(2, 2, 2)] * 8, "--recipe demo --bs 4"),
}
for _name in CONSTRAINTS:
    flags = f"--constraint {_name} --consistency 1 --bs 4"
    CASES[f"absent classes, {_name}"] = ([0, 0, 3, 3], [(1, 0, -1), (0, 1, 0)] * 2, flags)


def train_on(folder, labels, vad, flags):
    """Train two epochs on random pictures; returns the rows of all tables."""
    rng = np.random.default_rng(0)
    (folder / "data").mkdir()
    for name in SPLIT_FILES.values():
        write_csv(folder / "data" / name, rng.integers(0, 256, (len(labels), 48, 48)), labels, vad)
    # oneDNN's bf16 convolutions of one image crash with as few channels as the narrow network has.
    flags = f"--model Narrow --precision fp32 --epochs 2 --eval center {flags}"
    assert run_program(folder / "out", "--data", folder / "data", *flags.split()) == 0
    for name in TASKS:
        with open(folder / "out" / f"AccProcess_{name}.csv", newline="") as table:
            yield from csv.DictReader(table)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name == "one image" else pytest.mark.slow) for name in CASES],
)
def test_all_metrics_are_finite(tmp_path, name):
    rows = list(train_on(tmp_path, *CASES[name]))
    assert len(rows) == 2 * len(TASKS)
    assert all(math.isfinite(float(cell)) for row in rows for cell in row.values())


def test_divergence_in_the_last_step_is_an_error(tmp_path):
    """The loss of that step is still finite; what the network predicts afterwards is not."""
    with pytest.raises(UserError, match="finite"):
        list(train_on(tmp_path, [0, 1], [(1, 0, -1), (0, 1, 0)], "--bs 2 --lr 1e30"))
    assert not list((tmp_path / "out").rglob("*.csv")) and not list(
        (tmp_path / "out").rglob("*.t7")
    )
