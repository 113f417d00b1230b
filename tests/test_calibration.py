"""Temperatures against a general minimiser, and measures of calibration against plain Python."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from sklearn.metrics import log_loss

from training.calibration import (
    TEMPERATURES,
    calibration_metrics,
    calibration_terms,
    fit_temperature,
)


def drawn(seed, sharpness, count=400):
    """Logits, and labels that are drawn from softmax(logits / sharpness)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2 * sharpness, (count, 7))
    odds = np.exp(logits / sharpness)
    labels = [rng.choice(7, p=row / row.sum()) for row in odds]
    return torch.from_numpy(logits), torch.tensor(labels)


@pytest.mark.parametrize(("seed", "sharpness"), [(0, 0.4), (1, 1.0), (2, 3.0)])
def test_the_temperature_is_that_of_a_general_minimiser(seed, sharpness):
    logits, labels = drawn(seed, sharpness)

    def loss(log_temperature):
        return log_loss(labels, (logits / np.exp(log_temperature)).softmax(1), labels=range(7))

    expected = np.exp(
        minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-8}).x
    )
    assert fit_temperature(logits, labels) == pytest.approx(expected, rel=1e-4)
    assert fit_temperature(logits, labels) == pytest.approx(sharpness, rel=0.2)


def test_logits_that_are_always_right_or_say_nothing_have_a_bounded_temperature():
    labels = torch.arange(14) % 7
    assert TEMPERATURES[0] <= fit_temperature(10 * torch.eye(7)[labels], labels) < 0.3
    assert fit_temperature(10 * torch.eye(7)[(labels + 1) % 7], labels) == pytest.approx(
        TEMPERATURES[1]
    )
    assert TEMPERATURES[0] <= fit_temperature(torch.zeros(14, 7), labels) <= TEMPERATURES[1]


def test_calibration_figures_equal_plain_python():
    logits, labels = drawn(3, 0.5)
    found = calibration_metrics(calibration_terms(logits, labels).mean(dim=0))
    probabilities = np.exp(logits.numpy())
    probabilities /= probabilities.sum(1, keepdims=True)
    assert found["cross-entropy"] == pytest.approx(log_loss(labels, probabilities, labels=range(7)))
    brier, bins = 0, {}
    for row, label in zip(probabilities, labels.tolist(), strict=True):
        brier += sum((p - (c == label)) ** 2 for c, p in enumerate(row))
        bins.setdefault(int(row.max() * 15), []).append((row.argmax() == label, row.max()))
    gaps = [
        abs(np.mean([r for r, _ in some]) - np.mean([c for _, c in some])) * len(some)
        for some in bins.values()
    ]
    assert found["Brier"] == pytest.approx(brier / len(labels))
    assert found["ECE"] == pytest.approx(sum(gaps) / len(labels))
