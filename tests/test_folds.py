"""Folds by subject, against scikit-learn's."""

import csv
import hashlib

import numpy as np
import pytest
import torch

from data.subjects import ckplus
from data.subjects.folds import FOLD_RULES, assign_folds, consecutive_folds, folds_table
from tests.samples import ck_tree, write_files
from utils.files import UserError


def made(seed, people=60, classes=6):
    """Labels and subjects of people who show some of the classes, in random order."""
    rng = np.random.default_rng(seed)
    rows = []
    for person in range(people):
        shown = rng.random(classes) < np.linspace(0.15, 0.9, classes)
        shown[rng.integers(classes)] = True
        rows += [
            (label, 3 * person)
            for label in np.flatnonzero(shown)
            for _ in range(rng.integers(1, 5))
        ]
    labels, subjects = rng.permutation(rows).T
    return torch.from_numpy(labels.copy()), torch.from_numpy(subjects.copy())


def class_table(labels, fold, folds=10):
    """Faces of each class in each fold (folds, classes), counted one by one."""
    table = np.zeros((folds, int(max(labels)) + 1), int)
    for label, number in zip(labels.tolist(), fold.tolist(), strict=True):
        table[number, label] += 1
    return table


def imbalance(labels, fold, folds=10):
    """Sum of squared deviations from equal shares, of the classes and of the total size."""
    table = class_table(labels, fold, folds)
    table = np.concatenate((table, table.sum(1, keepdims=True)), axis=1)
    return ((table - table.mean(0)) ** 2).sum()


def by_scikit_learn(labels, subjects, folds=10, seed=None):
    splitter = pytest.importorskip("sklearn.model_selection").StratifiedGroupKFold(
        folds, shuffle=seed is not None, random_state=seed
    )
    fold = torch.empty(len(labels), dtype=torch.int64)
    for number, (_, held_out) in enumerate(splitter.split(np.zeros(len(labels)), labels, subjects)):
        fold[held_out] = number
    return fold


@pytest.mark.parametrize("seed", range(2))
def test_no_subject_is_in_two_folds_and_no_fold_is_empty(seed):
    labels, subjects = made(seed, people=11)
    fold = assign_folds(labels, subjects, seed=seed)
    assert fold.shape == labels.shape and fold.dtype == torch.int64
    assert set(fold.tolist()) == set(range(10))
    assert all(len(fold[subjects == subject].unique()) == 1 for subject in subjects.unique())


@pytest.mark.parametrize("seed", range(2))
def test_folds_are_not_less_balanced_than_scikit_learns(seed):
    labels, subjects = made(seed)
    others = [by_scikit_learn(labels, subjects, seed=other) for other in (None, 0, 1, 2)]
    ours = assign_folds(labels, subjects, seed=seed)
    assert imbalance(labels, ours) <= min(imbalance(labels, other) for other in others)


def test_no_move_and_no_exchange_of_two_subjects_would_balance_better():
    labels, subjects = made(5, people=24, classes=3)
    fold = assign_folds(labels, subjects, folds=4)
    reached, people = imbalance(labels, fold, 4), subjects.unique().tolist()
    for person in people:
        for place in range(4):
            assert imbalance(labels, torch.where(subjects == person, place, fold), 4) >= reached
        for other in people:
            mine, theirs = fold[subjects == person][0], fold[subjects == other][0]
            exchanged = torch.where(
                subjects == person, theirs, torch.where(subjects == other, mine, fold)
            )
            assert imbalance(labels, exchanged, 4) >= reached


def test_fewer_subjects_than_folds_are_told():
    labels, subjects = made(0, people=4)
    for rule in FOLD_RULES.values():
        with pytest.raises(UserError, match="5 folds need as many subjects, and there are 4"):
            rule(labels, subjects, folds=5)


@pytest.mark.parametrize(
    "people, folds, sizes", ((118, 10, [12] * 8 + [11] * 2), (80, 10, [8] * 10), (11, 3, [4, 4, 3]))
)
def test_consecutive_folds_are_blocks_of_names(people, folds, sizes):
    names = [f"S{5 + 7 * number:03}" for number in range(people)]
    rng = np.random.default_rng(people)
    subjects = torch.from_numpy(rng.permutation(np.repeat(np.arange(people), 3)))
    fold = consecutive_folds(torch.zeros(len(subjects), dtype=torch.int64), subjects, folds)
    expected, left = {}, sorted(names)
    for number, size in enumerate(sizes):
        expected |= dict.fromkeys(left[:size], number)
        left = left[size:]
    assert not left and fold.dtype == torch.int64
    assert fold.tolist() == [expected[names[subject]] for subject in subjects.tolist()]


def test_the_table_has_a_row_per_subject(tmp_path):
    faces = ckplus.load(write_files(tmp_path, ck_tree(frames=1)))
    faces = faces.select(torch.tensor([0, 1, 2, 3, 7]))
    names = [faces.subject_names[number] for number in faces.subjects]
    assert names == ["S005", "S010", "S999", "S005", "S010"]
    headings, *rows = csv.reader(folds_table(faces, faces.subjects * 4).splitlines())
    assert headings == ["Subject", "Fold", *faces.class_names]
    shown = [("S005", "1", "110"), ("S010", "5", "101"), ("S999", "9", "100")]
    assert rows == [[name, fold, *counts, *"0000"] for name, fold, counts in shown]


@pytest.mark.real
def test_the_published_folds_of_ck_stay_and_are_balanced(real_data):
    """Results name their folds."""
    faces = ckplus.load(real_data / "CK+48")
    folds = {name: rule(faces.labels, faces.subjects) for name, rule in FOLD_RULES.items()}
    digests = {name: hashlib.sha256(bytes(fold.tolist())) for name, fold in folds.items()}
    digests = {name: digest.hexdigest()[:16] for name, digest in digests.items()}
    assert digests == {"balanced": "c7a54387481d28b7", "by-name": "0199e44a6b7b8fda"}
    others = [by_scikit_learn(faces.labels, faces.subjects, seed=seed) for seed in (None, 0, 1)]
    best = min(imbalance(faces.labels, other) for other in others)
    assert imbalance(faces.labels, folds["balanced"]) <= best
    assert class_table(faces.labels, folds["balanced"]).min() > 0
