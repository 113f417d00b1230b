"""Training learns what it should: drawn faces, and real ones where they are at hand."""

import csv

import numpy as np
import pytest
from PIL import Image

from tests.conftest import run_program
from tests.samples import SPLIT_FILES, write_csv
from utils.tasks import TASKS


def final_rows(out, *flags):
    """Run the program; {task: the last row of its table as {column: number}}."""
    assert run_program(out, "--model", "Small", "--eval", "center", *flags) == 0
    return {name: read_last(out / f"AccProcess_{name}.csv") for name in TASKS}


def read_last(path):
    with open(path, newline="") as table:
        return {column: float(cell) for column, cell in list(csv.DictReader(table))[-1].items()}


@pytest.mark.slow
def test_a_narrow_network_learns_the_drawn_faces(tmp_path):
    rows = final_rows(tmp_path, "--dataset", "Demo", "--epochs", 6)
    assert rows["classify"]["PritestAcc"] > 60 and rows["classify"]["PubtestAcc"] > 60
    for letter in "VAD":
        assert rows[f"regress{letter}"][f"PritestCCC{letter}"] > 0.5


def read_real_faces(folder, split, count):
    """The first faces of a contact sheet (50 a row) with their annotations."""
    sheet = np.asarray(Image.open(folder / "fer2013" / f"{split}-0.png"))
    faces = [sheet[i // 50 * 48 :, i % 50 * 48 :][:48, :48] for i in range(count)]
    with open(folder / "fer2013" / "labels.csv", newline="") as table:
        rows = [row for row in csv.DictReader(table) if row["Usage"] == split][:count]
    vad = [[float(row["Valence"]), float(row["Arousal"]), float(row["Dominance"])] for row in rows]
    return np.stack(faces), [int(row["emotion"]) for row in rows], vad


@pytest.mark.slow
@pytest.mark.real
def test_a_narrow_network_learns_from_real_faces(real_data, tmp_path):
    (tmp_path / "data").mkdir()
    labels = {}
    for split, name in SPLIT_FILES.items():
        faces, labels[split], vad = read_real_faces(
            real_data, split, 4000 if split == "Training" else 500
        )
        write_csv(tmp_path / "data" / name, faces, labels[split], vad)
    rows = final_rows(
        tmp_path / "out", "--data", tmp_path / "data", "--epochs", 8, "--bs", 32, "--lr", 0.02
    )
    # Always answering the most frequent class of the private split:
    majority = 100 * np.bincount(labels["PrivateTest"]).max() / 500
    assert rows["classify"]["PritestAcc"] > majority + 10
    assert rows["classify"]["TrainLoss"] < np.log(7)
    assert rows["regressV"]["PritestCCCV"] > 0.4  # a network that only learnt the mean has 0
