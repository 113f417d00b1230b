"""The networks that come with the program, used as a fresh clone uses them."""

import csv
import re
import shutil

import pytest
from PIL import Image

import visualize
from inference import checkpoints, synthesize
from inference.checkpoints import RELEASED
from models import checkpoint
from tests.conftest import ROOT
from tests.harness import run_module
from utils.tasks import EMOTIONS, TASKS

SAMPLE = ROOT / "data" / "sample.png"


def run(*flags):
    return run_module(visualize, SAMPLE, "--device", "cpu", *flags)


def test_the_network_is_that_of_its_records():
    """The epoch is the one that its tables say the public split chose, and the figures are those
    of that row.
    """
    content = checkpoint.load(RELEASED / "released.t7")
    for name, task in TASKS.items():
        with open(RELEASED / "run" / f"AccProcess_{name}.csv", newline="") as table:
            rows = list(csv.DictReader(table))
        for split, prefix in (("PublicTest", "Pubtest"), ("PrivateTest", "Pritest")):
            if name not in content["results"][split]:  # its head was fitted anew, after that run
                assert task.dimension is not None and "fitted" in content["heads"]["V/A/D"]
                continue
            figure = content["results"][split][name][task.rules.decisive]
            written = float(rows[content["epoch"]][f"{prefix}{task.rules.decisive}{task.letter}"])
            assert written == pytest.approx(figure, abs=1e-3)
        if name == "classify":
            assert content["epoch"] == max(
                range(len(rows)), key=lambda epoch: float(rows[epoch]["PubtestAcc"])
            )


def test_the_network_for_photographs_is_that_of_its_records():
    """Epoch, accuracy and errors are those of the row that is best on the public split."""
    folder = RELEASED / "photographs"
    content = checkpoint.load(RELEASED / "photographs.t7")
    for name, task in TASKS.items():
        with open(folder / f"AccProcess_{name}.csv", newline="") as table:
            rows = list(csv.DictReader(table))
        for split, prefix in (("PublicTest", "Pubtest"), ("PrivateTest", "Pritest")):
            metric = content["results"][split][name][task.rules.decisive]
            written = rows[content["epoch"]][f"{prefix}{task.rules.decisive}{task.letter}"]
            assert float(written) == pytest.approx(metric, abs=1e-3)
        if name == "classify":
            best = max(range(len(rows)), key=lambda epoch: float(rows[epoch]["PubtestAcc"]))
            assert content["epoch"] == best


def test_a_picture_is_shown_without_any_training(tmp_path, capsys):
    assert run("--out", tmp_path, "--csv", tmp_path / "faces.csv") == 0
    with open(tmp_path / "faces.csv", newline="", encoding="utf-8-sig") as table:
        rows = list(csv.DictReader(table))
    assert len(rows) == 3 and all(row["emotion"] in EMOTIONS for row in rows)
    assert all(
        sum(float(row[name.lower()]) for name in EMOTIONS) == pytest.approx(1, abs=1e-3)
        for row in rows
    )
    assert Image.open(tmp_path / "sample_emotion.png").width > 500
    assert len(re.findall(r"V [+-]\d", capsys.readouterr().out)) == 3


def test_a_face_is_synthesized_without_any_training(tmp_path):
    out = tmp_path / "synthesized.png"
    assert run_module(synthesize, SAMPLE, "--device", "cpu", "--out", out) == 0
    assert Image.open(out).width > 8 * 48


def test_the_checkpoints_of_a_run_come_before_those_that_were_released(tmp_path):
    """In a folder of released networks: those of a run, best on the private split, come first."""
    run = ("PublicTest_model_classify.t7", "PrivateTest_model_privateClassify.t7")
    for name in ("released.t7", "photographs.t7", *run):
        shutil.copy(RELEASED / "released.t7", tmp_path / name)
        (network,) = checkpoints.load_networks(tmp_path)
        assert network.file == tmp_path / name and network.tasks == list(TASKS)


def test_the_file_in_use_is_named(tmp_path, capsys):
    assert run("--out", tmp_path, "--checkpoints", RELEASED) == 0
    assert "photographs.t7" in capsys.readouterr().out
