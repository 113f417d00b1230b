"""Plans of pairs against what the subjects show, and shifts against NumPy's."""

from collections import Counter

import numpy as np
import pytest
import torch

from data.batches import draw_crops, plan_epoch, random_crops
from data.subjects.pairs import choose_targets, shifts

CLASSES = 5
# (subject, class, faces). Subject 4 shows one class, nobody class 4; subject 2 does not exist.
# fmt: off
SHOWN = (
    (0, 0, 3), (0, 1, 1), (0, 3, 2), (1, 2, 2), (1, 3, 5), (3, 0, 1), (3, 1, 4), (3, 2, 3),
    (3, 3, 2), (4, 2, 3),
)
# fmt: on


@pytest.fixture
def made():
    """Labels and subjects of SHOWN in random order."""
    rows = torch.tensor([(label, subject) for subject, label, count in SHOWN for _ in range(count)])
    labels, subjects = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(2))].T
    return labels, subjects


def plan_pairs(made, batch_size, seed, epoch, size=48):
    """The columns of the plan of an epoch of `made` with targets."""

    def draw(order, generator):
        target, target_class = choose_targets(*made, CLASSES, generator)
        crops = draw_crops(order, generator, shifts(size))
        return {"target": target[order], "target_class": target_class[order], **crops}

    return plan_epoch(len(made[0]), batch_size, seed, epoch, draw).columns


def epochs(made, count, seed=0):
    """(source, target, target class) of `count` epochs."""
    for epoch in range(count):
        plan = plan_pairs(made, 4, seed, epoch)
        yield from zip(
            plan["order"].tolist(),
            plan["target"].tolist(),
            plan["target_class"].tolist(),
            strict=True,
        )


def test_a_target_is_the_same_subject_with_another_expression(made):
    """Every pair of classes that a subject shows occurs."""
    labels, subjects = made
    drawn = set()
    for source, target, target_class in epochs(made, 60):
        assert target_class != labels[source] and 0 <= target_class < CLASSES
        subject = int(subjects[source])
        assert (target < 0) == (subject == 4)
        if target >= 0:
            assert subjects[target] == subject and labels[target] == target_class
            drawn.add((subject, int(labels[source]), target_class))
    pairs = {(who, a, b) for who, a, _ in SHOWN for other, b, _ in SHOWN if who == other}
    assert drawn == {(who, a, b) for who, a, b in pairs if a != b}


def test_targets_are_uniform_over_classes_then_over_faces(made):
    chisquare = pytest.importorskip("scipy.stats").chisquare
    labels, subjects = made
    of_subject = torch.nonzero((subjects == 3) & (labels == 0)).item()
    counts = Counter(target for source, target, _ in epochs(made, 4000) if source == of_subject)
    expected = {
        face: 4000 / 3 / int(((subjects == 3) & (labels == labels[face])).sum())
        for face in torch.nonzero((subjects == 3) & (labels != 0)).flatten().tolist()
    }
    assert counts.keys() == expected.keys() and len(expected) == 9
    assert chisquare([counts[face] for face in expected], list(expected.values())).pvalue > 1e-3


def test_without_a_target_the_class_is_uniform_over_the_others(made):
    chisquare = pytest.importorskip("scipy.stats").chisquare
    counts = Counter(target_class for _, target, target_class in epochs(made, 1500) if target < 0)
    assert counts.keys() == {0, 1, 3, 4}
    assert chisquare(list(counts.values())).pvalue > 1e-3


@pytest.mark.parametrize("size", [48, 96])
def test_shifts_equal_padding_cropping_and_mirroring(size):
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (6, size, size), dtype=torch.uint8, generator=generator)
    rows = torch.tensor([3, 0, 5, 5, 1, 2, 4])
    margin = {48: 4, 96: 7}[size]  # 96 of 110 pixels
    top, left = (
        torch.tensor(numbers).clamp(max=2 * margin) - margin
        for numbers in ([0, 14, 4, 3, 8, 0, 5], [8, 8, 4, 1, 0, 0, 14])
    )
    assert set(top.tolist()) | set(left.tolist()) <= set(shifts(size))
    flip = torch.tensor([False, True, False, True, True, False, True])
    result = random_crops(images[rows], top, left, flip, torch.zeros(7), torch.ones(7), size)
    assert result.shape == (7, 1, size, size) and result.dtype == torch.uint8
    for place, row in enumerate(rows):
        padded = np.pad(images[row].numpy(), margin, mode="edge")
        y, x = int(top[place]) + margin, int(left[place]) + margin
        expected = padded[y : y + size, x : x + size]
        assert np.array_equal(
            result[place, 0].numpy(), expected[:, ::-1] if flip[place] else expected
        )
