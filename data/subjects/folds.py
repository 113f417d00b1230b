"""Folds for cross-validation that keep each subject in one fold and the classes balanced."""

import numpy as np
import torch

from utils.files import UserError
from utils.text import to_csv

FOLDS = 10


def assign_folds(labels, subjects, folds=FOLDS, seed=0):
    """The fold of each image, an int64 tensor (N,) of 0..folds-1; all images of a subject are in one.

    labels, subjects: (N,) int64. The classes and the total size are spread as evenly as can be: each subject,
    the largest first, goes to the fold where the sum of squared deviations from equal shares grows least; then
    subjects are moved and exchanged as long as that lowers the sum. A pure function of its arguments, in whole
    numbers, so the same on every machine. Raises UserError when there are fewer subjects than folds.
    """
    names, numbers = np.unique(np.asarray(subjects.cpu()), return_inverse=True)
    if len(names) < folds:
        raise _too_few(folds, len(names))
    labels = np.asarray(labels.cpu())
    # Images of each subject in each class, and in all: the total size counts like one more class.
    counts = np.zeros((len(names), labels.max() + 2), np.int64)
    np.add.at(counts, (numbers, labels), 1)
    counts[:, -1] = counts.sum(1)
    # NumPy promises that this older generator never changes.
    fold = _distribute(counts, folds, np.random.RandomState(seed))
    _improve(counts, fold, folds)
    return torch.from_numpy(fold[numbers])


def _distribute(counts, folds, random):
    """Fold of each subject (S,), subjects taken one by one. counts: (S, classes + 1)."""
    order = random.permutation(len(counts))
    order = order[np.argsort(-counts[order, -1], kind="stable")]
    sums, fold = np.zeros((folds, counts.shape[1]), np.int64), np.empty(len(counts), np.int64)
    for subject in order:
        # What is added to the sum of squares, as far as it depends on the fold.
        growth = sums @ counts[subject]
        fold[subject] = random.choice(np.flatnonzero(growth == growth.min()))
        sums[fold[subject]] += counts[subject]
    return fold


def _improve(counts, fold, folds):
    """Move or exchange subjects, in place, until neither lowers the sum of squared deviations."""
    # To move a subject is to exchange it with nobody, of whom there is one in each fold.
    others = np.concatenate((counts, np.zeros((folds, counts.shape[1]), np.int64)))
    sums = np.zeros((folds, counts.shape[1]), np.int64)
    np.add.at(sums, fold, counts)
    improved = True
    while improved:
        improved = False
        for subject in range(len(counts)):
            here, places = fold[subject], np.concatenate((fold, np.arange(folds)))
            given = counts[subject] - others  # (S + folds, classes + 1), what `here` loses to the other's fold
            change = (given * (sums[places] - sums[here] + given)).sum(1)
            change[places == here] = 0
            best = change.argmin()
            if change[best] < 0:
                there = places[best]
                sums[here] -= given[best]
                sums[there] += given[best]
                fold[subject], improved = there, True
                if best < len(counts):
                    fold[best] = here


def consecutive_folds(labels, subjects, folds=FOLDS):
    """As `assign_folds`, but the subjects in the order of their numbers, cut into consecutive blocks of one size.

    Where that does not go into them, the first blocks have one subject more. labels: not looked at.
    """
    names, numbers = np.unique(np.asarray(subjects.cpu()), return_inverse=True)
    if len(names) < folds:
        raise _too_few(folds, len(names))
    blocks = np.array_split(np.arange(len(names)), folds)
    fold = np.repeat(np.arange(folds), [len(block) for block in blocks])
    return torch.from_numpy(fold[numbers])


def _too_few(folds, subjects):
    return UserError(f"{folds} folds need as many subjects, and there are {subjects}: give the whole dataset")


# {name of a way to make folds: the function, called with labels, subjects and how many}
FOLD_RULES = {"balanced": assign_folds, "by-name": consecutive_folds}


def folds_table(faces, fold):
    """The text of a CSV with a row per subject: its name, its fold, counted from 1, and its images of each class.

    faces: `SubjectFaces`; fold: (N,) int64, as `assign_folds` returns it.
    """
    import pandas

    subjects, labels = faces.subjects.cpu().numpy(), faces.labels.cpu().numpy()
    counts = pandas.crosstab([subjects, fold.cpu().numpy() + 1], labels)
    counts = counts.reindex(columns=range(len(faces.class_names)), fill_value=0).set_axis(faces.class_names, axis=1)
    frame = counts.rename_axis(["Subject", "Fold"]).reset_index()
    frame["Subject"] = [faces.subject_names[number] for number in frame["Subject"]]
    return to_csv(frame, {})
