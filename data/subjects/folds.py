"""Folds for cross-validation that keep each subject in one fold and the classes balanced."""

import numpy as np
import torch

from utils.files import UserError
from utils.text import to_csv

FOLDS = 10


def assign_folds(labels, subjects, folds=FOLDS, seed=0):
    """Balanced folds: the fold of each image, (N,) int64 in 0..folds-1.

    labels, subjects: (N,) int64. All images of a subject are in one fold; classes and total sizes
    are spread evenly. Greedy: each subject, the largest first, goes to the fold where the sum of
    squared deviations from equal shares grows least; then subjects are moved and exchanged as long
    as that lowers the sum. In whole numbers, so that equal arguments give equal folds on every
    machine. Raises UserError when there are fewer subjects than folds.
    """
    names, indices = _subjects(subjects, folds)
    labels = np.asarray(labels.cpu())
    # Images of each subject in each class; the total counts like one more class.
    counts = np.zeros((len(names), labels.max() + 2), np.int64)
    np.add.at(counts, (indices, labels), 1)
    counts[:, -1] = counts.sum(1)
    # NumPy promises that the stream of this legacy generator never changes.
    fold = _distribute(counts, folds, np.random.RandomState(seed))
    _improve(counts, fold, folds)
    return torch.from_numpy(fold[indices])


def _subjects(subjects, folds):
    """(the distinct subjects, their index for each image). Raises UserError for too few."""
    names, indices = np.unique(np.asarray(subjects.cpu()), return_inverse=True)
    if len(names) < folds:
        raise UserError(
            f"{folds} folds need as many subjects, and there are {len(names)}: give the whole "
            "dataset"
        )
    return names, indices


def _distribute(counts, folds, random):
    """Fold of each subject (S,), assigned one by one. counts: (S, classes + 1)."""
    order = random.permutation(len(counts))
    order = order[np.argsort(-counts[order, -1], kind="stable")]
    sums, fold = np.zeros((folds, counts.shape[1]), np.int64), np.empty(len(counts), np.int64)
    for subject in order:
        growth = sums @ counts[subject]  # of the sum of squares, as far as it depends on the fold
        fold[subject] = random.choice(np.flatnonzero(growth == growth.min()))
        sums[fold[subject]] += counts[subject]
    return fold


def _improve(counts, fold, folds):
    """Move or exchange subjects, in place, until neither lowers the sum of squared deviations."""
    # Moving a subject is exchanging it with nobody, of whom there is one in each fold.
    others = np.concatenate((counts, np.zeros((folds, counts.shape[1]), np.int64)))
    sums = np.zeros((folds, counts.shape[1]), np.int64)
    np.add.at(sums, fold, counts)
    improved = True
    while improved:
        improved = False
        for subject in range(len(counts)):
            here, places = fold[subject], np.concatenate((fold, np.arange(folds)))
            given = counts[subject] - others  # (S + folds, classes + 1), from `here` to the other
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
    """Folds by name: the sorted subjects, cut into consecutive blocks of equal size.

    Arguments and result as in `assign_folds`; labels are ignored. The first blocks have one subject
    more where the number of subjects is not divisible.
    """
    names, indices = _subjects(subjects, folds)
    blocks = np.array_split(np.arange(len(names)), folds)
    fold = np.repeat(np.arange(folds), [len(block) for block in blocks])
    return torch.from_numpy(fold[indices])


FOLD_RULES = {"balanced": assign_folds, "by-name": consecutive_folds}


def folds_table(faces, fold):
    """CSV text with a row per subject: its name, its fold from 1, its images of each class.

    faces: `SubjectFaces`; fold: (N,) int64, as `assign_folds` returns it.
    """
    import pandas

    subjects, labels = faces.subjects.cpu().numpy(), faces.labels.cpu().numpy()
    counts = pandas.crosstab([subjects, fold.cpu().numpy() + 1], labels)
    counts = counts.reindex(columns=range(len(faces.class_names)), fill_value=0)
    frame = (
        counts.set_axis(faces.class_names, axis=1).rename_axis(["Subject", "Fold"]).reset_index()
    )
    frame["Subject"] = [faces.subject_names[index] for index in frame["Subject"]]
    return to_csv(frame, {})
