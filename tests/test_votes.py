"""Targets from the votes of FER+: shares, majorities, what a run learns and is measured against."""

import csv
import json
from itertools import product

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from data.faces import Dataset, Faces
from data.fer2013 import prepare
from data.votes import majority_votes, vote_shares, with_targets
from tests.conftest import run_program
from tests.samples import PLAIN, pixel_text, table
from training.losses import category_loss
from training.metrics import classification_metrics
from utils.files import UserError
from utils.tasks import SPLITS

CLASSES = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")  # of FER+
# Votes for each class, and the majority: none on a tie, nor where more votes were for no class.
VOTES = [
    ([6, 0, 0, 0, 4, 0, 0], 0),
    ([0, 0, 0, 4, 0, 3, 3], 3),
    ([5, 0, 0, 0, 5, 0, 0], -1),
    ([0, 0, 4, 0, 0, 0, 0], -1),
    ([0, 0, 0, 0, 0, 0, 6], 6),
    ([0, 0, 0, 0, 0, 0, 0], -1),
]


@pytest.fixture
def votes():
    return torch.tensor([row for row, _ in VOTES], dtype=torch.uint8)


def test_the_majority_has_more_votes_than_any_class_and_than_no_class(votes):
    assert majority_votes(votes).tolist() == [majority for _, majority in VOTES]


def test_majorities_of_the_real_faces(real_data):
    with open(real_data / "fer2013" / "labels.csv", newline="") as table:
        rows = [row for row in csv.DictReader(table) if row["Usage"] == "PrivateTest"]
    labels = np.array([int(row["emotion"]) for row in rows])
    votes = torch.tensor([[int(row[name]) for name in CLASSES] for row in rows], dtype=torch.uint8)
    majority = majority_votes(votes).numpy()
    assert (majority >= 0).sum() == 3326
    assert (majority == labels)[majority >= 0].mean() == pytest.approx(0.658, abs=0.001)


def test_the_loss_of_votes_equals_a_sum_by_hand(votes):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(6, 7)), [1, 3, 0, 2, 6, 5]
    shares = votes.numpy() / votes.numpy().sum(axis=1, keepdims=True).clip(1)
    shares[5, 5] = 1  # a face without votes keeps its label
    expected = -(shares * log_softmax(logits, axis=1)).sum(axis=1).mean()
    found = category_loss(torch.from_numpy(logits), torch.tensor(labels), votes=votes)
    assert found.item() == pytest.approx(expected)
    assert np.allclose(vote_shares(votes, torch.tensor(labels)), shares)


def test_faces_without_a_majority_are_not_measured():
    logits, labels = torch.eye(7)[[0, 1, 2, 3]], torch.tensor([0, 5, -1, -1])
    found = classification_metrics(logits, labels)
    assert found["Acc"] == 50 and np.sum(found["confusion"]) == 2


def dataset(votes):
    faces = Faces(torch.zeros(6, 48, 48, dtype=torch.uint8), torch.arange(6), None, votes)
    return Dataset(dict.fromkeys(SPLITS, faces), "made")


def test_labels_of_a_run_are_those_of_its_targets(votes):
    splits = with_targets(dataset(votes), "votes").splits
    assert splits["Training"].labels.tolist() == [0, 3, 0, 2, 6, 5]
    assert splits["PublicTest"].labels.tolist() == [majority for _, majority in VOTES]
    splits = with_targets(dataset(votes), "labels").splits
    for faces in splits.values():
        assert faces.votes is None and torch.equal(faces.labels, torch.arange(6))


@pytest.mark.parametrize("found", [None, torch.zeros(6, 7, dtype=torch.uint8)])
def test_data_without_votes_is_refused(found):
    with pytest.raises(UserError, match="--targets"):
        with_targets(dataset(found), "votes")


def test_a_run_on_votes_says_what_accuracy_is_and_evaluate_reports_both(tmp_path):
    from inference import evaluate

    rng = np.random.default_rng(0)
    source = tmp_path / "fer2013.csv"
    votes = (8 * np.eye(7, dtype=int)[(np.arange(14) + 1) % 7]).tolist()  # never the label
    votes[0] = [5, 5, 0, 0, 0, 0, 0]
    rows = []
    for split, number in product(SPLITS, range(14)):
        counts = dict(zip(CLASSES, votes[number], strict=True))
        face = pixel_text(rng.integers(0, 256, 2304))
        rows.append({"emotion": number % 7, "pixels": face, "Usage": split} | counts)
    source.write_bytes(table(rows, (*PLAIN, *CLASSES)))
    h5_path = prepare.ensure(source)
    flags = ("--data", h5_path, "--model", "Narrow", "--epochs", 1, "--bs", 7)
    with pytest.raises(UserError, match="--targets"):
        run_program(tmp_path / "demo", "--dataset", "Demo", "--limit", 8, "--targets", "votes")
    assert run_program(tmp_path / "out", *flags, "--targets", "votes") == 0
    assert "majority of the FER+ votes" in (tmp_path / "out" / "data.txt").read_text()
    folder = tmp_path / "out" / "FER2013_Narrow"
    parser = evaluate.build_parser()
    out = tmp_path / "evaluated"
    asked = ["--checkpoints", folder, "--data", h5_path, "--out", out, "--device", "cpu"]
    assert evaluate.main(parser.parse_args(list(map(str, asked)))) == 0
    report = json.loads((out / "evaluation.json").read_text())
    by_label, by_majority = (
        np.array(report[f"PublicTest{which}"]["classify"]["confusion"])
        for which in ("", ", majority of the FER+ votes")
    )
    assert by_label.sum(axis=1).tolist() == [2] * 7
    assert by_majority.sum(axis=1).tolist() == [2, 1, 2, 2, 2, 2, 2]  # face 0 has no majority
    without_first = by_label.sum(axis=0) - by_majority.sum(axis=0)  # of what is predicted
    assert sorted(without_first.tolist()) == [0] * 6 + [1]
