"""Degenerate data: one image, a batch of one, absent classes, constant targets. All work, with finite figures."""

import csv
import math

import numpy as np
import pytest

from tests.conftest import run_program
from tests.samples import SPLIT_FILES, write_csv
from training.losses import CONSTRAINTS
from utils.files import UserError
from utils.tasks import TASKS


def train_on(folder, out, labels, vad, *flags):
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in SPLIT_FILES.values():
        write_csv(folder / name, rng.integers(0, 256, (len(labels), 48, 48)), labels, vad)
    # oneDNN's bf16 convolutions of one image crash with as few channels as the narrow network has.
    flags = ("--data", folder, "--model", "Narrow", "--precision", "fp32", "--epochs", 2, "--eval", "center", *flags)
    assert run_program(out, *flags) == 0
    for name in TASKS:
        with open(out / f"AccProcess_{name}.csv", newline="") as table:
            rows = list(csv.DictReader(table))
        assert len(rows) == 2
        assert all(math.isfinite(float(cell)) for row in rows for cell in row.values()), name


@pytest.mark.parametrize("batch", [1, 8])
def test_one_image_in_each_split(tmp_path, batch):
    train_on(tmp_path / "data", tmp_path / "out", [3], [(1, 0, -1)], "--bs", batch)


def test_a_batch_of_one_and_a_last_batch_of_one(tmp_path):
    vad = [(n - 2, 0.5 * n, -1) for n in range(4)] + [(0, 0, 0)]
    train_on(tmp_path / "a", tmp_path / "one", [0, 1, 2, 3, 4], vad, "--bs", 1)
    train_on(tmp_path / "b", tmp_path / "last", [0, 1, 2, 3, 4], vad, "--bs", 4)


@pytest.mark.parametrize("recipe", ["default", "paper", "demo"])
def test_one_class_and_constant_targets(tmp_path, recipe):
    flags = ("--recipe", recipe, "--bs", 4, "--orth", 0)
    train_on(tmp_path / "data", tmp_path / "out", [6] * 8, [(2, 2, 2)] * 8, *flags)


def test_every_constraint_with_absent_classes(tmp_path):
    for name in CONSTRAINTS:
        flags = ("--constraint", name, "--consistency", 1, "--bs", 4)
        train_on(tmp_path / name, tmp_path / f"{name}-out", [0, 0, 3, 3] * 2, [(1, 0, -1), (0, 1, 0)] * 4, *flags)


def test_training_that_diverges_in_its_last_step_is_told(tmp_path):
    """The loss of that step was still finite; what the network predicts afterwards is not."""
    with pytest.raises(UserError, match="not finite.*smaller --lr"):
        train_on(tmp_path / "data", tmp_path / "out", [0, 1], [(1, 0, -1), (0, 1, 0)], "--bs", 2, "--lr", 1e30)
    assert not list((tmp_path / "out").rglob("*.csv")) and not list((tmp_path / "out").rglob("*.t7"))
