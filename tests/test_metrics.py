"""Metrics against scikit-learn, NumPy and known degenerate values."""

import numpy as np
import pytest
import torch
from sklearn import metrics as reference

from training.metrics import (
    batch_sums,
    classification_metrics,
    concordance,
    confusion_matrix,
    macro_f1,
    measure,
    pearson,
    regression_metrics,
    training_metrics,
)


def random_classes(seed, count=500, classes=7):
    rng = np.random.default_rng(seed)
    return rng.integers(0, classes, count), rng.normal(size=(count, 7))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("classes", [7, 4])  # 4: classes 4..6 never occur
def test_classification_equals_scikit_learn(seed, classes):
    labels, logits = random_classes(seed, classes=classes)
    predicted, known = logits.argmax(1), np.arange(7)
    found = classification_metrics(torch.from_numpy(logits), torch.from_numpy(labels))
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = reference.confusion_matrix(labels, predicted, labels=known)
    assert found["Acc"] == pytest.approx(100 * reference.accuracy_score(labels, predicted))
    assert found["F1"] == pytest.approx(reference.f1_score(labels, predicted, average="macro"))
    assert found["confusion"] == expected.tolist()
    assert found["Loss"] == pytest.approx(reference.log_loss(labels, probabilities, labels=known))


def test_f1_leaves_out_a_class_that_neither_occurs_nor_is_predicted():
    labels, predicted = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1])
    expected = reference.f1_score(labels, predicted, average="macro")
    assert macro_f1(confusion_matrix(predicted, labels)).item() == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(3))
def test_regression_equals_numpy_and_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    target = rng.uniform(-2, 2, 300)
    values = 0.6 * target + rng.normal(0, 0.5, 300) + 0.3
    found = regression_metrics(torch.from_numpy(values)[:, None], torch.from_numpy(target))
    distance = values.var() + target.var() + (values.mean() - target.mean()) ** 2
    assert found == {
        "Loss": pytest.approx(reference.mean_squared_error(target, values)),
        "PCC": pytest.approx(np.corrcoef(values, target)[0, 1]),
        "CCC": pytest.approx(2 * np.cov(values, target, bias=True)[0, 1] / distance),
        "SAGR": pytest.approx(np.mean(plain_signs(values) == plain_signs(target))),
    }


def plain_signs(values):
    """The sign of each value; 0 for what annotators would round to it."""
    return np.array([0 if -0.5 < value < 0.5 else value / abs(value) for value in values])


@pytest.mark.parametrize("constant", [0.0, 0.1, 1 / 3, -1.7])
def test_constant_predictions_have_no_correlation(constant):
    values, target = torch.full((50, 1), constant), torch.linspace(-2, 2, 50)
    found = regression_metrics(values, target)
    assert found["PCC"] == 0 and abs(found["CCC"]) < 1e-6
    assert np.isfinite(list(found.values())).all()
    same = regression_metrics(values, values[:, 0])
    assert same["Loss"] == pytest.approx(0) and same["PCC"] == same["CCC"] == 0


def test_one_image():
    outputs = {"classify": torch.eye(7)[:1], "regressV": torch.tensor([[0.5]])}
    found = measure(outputs, torch.tensor([0]), torch.tensor([[1.0, 0.0, 0.0]]))
    assert found["classify"]["Acc"] == 100 and found["classify"]["F1"] == 1
    assert found["regressV"] == {"Loss": 0.25, "CCC": pytest.approx(0), "PCC": 0, "SAGR": 1}


def test_concordance_of_a_shifted_copy_is_below_its_correlation():
    target = torch.linspace(-1, 1, 20)
    assert concordance(target, target).item() == pytest.approx(1)
    assert pearson(target + 1, target).item() == pytest.approx(1)
    assert concordance(target + 1, target).item() < 0.5


def test_training_metrics_equal_those_of_all_batches_together():
    labels, logits = map(torch.from_numpy, random_classes(3, 90))
    generator = torch.Generator().manual_seed(0)
    vad, values = torch.randn(90, 3, generator=generator), torch.randn(90, 1, generator=generator)
    metrics = training_metrics(("classify", "regressA"))
    sums = torch.zeros(len(metrics), dtype=torch.float64)
    for part in torch.arange(90).split(32):
        outputs = {"classify": logits[part], "regressA": values[part]}
        sums += batch_sums(metrics, outputs, labels[part], vad[part])
    names = [(task.name, metric) for task, metric in metrics]
    whole = classification_metrics(logits, labels)
    assert dict(zip(names, (sums / 90).tolist(), strict=True)) == {
        ("classify", "Acc"): pytest.approx(whole["Acc"]),
        ("classify", "Loss"): pytest.approx(whole["Loss"]),
        ("regressA", "Loss"): pytest.approx(reference.mean_squared_error(vad[:, 1], values[:, 0])),
    }
