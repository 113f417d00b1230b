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
    sign_agreement,
    training_metrics,
)


def random_classes(seed, count=500, classes=7):
    rng = np.random.default_rng(seed)
    return rng.integers(0, classes, count), rng.normal(size=(count, 7))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("classes", [7, 4])  # 4: classes 4..6 never occur
def test_classification_equals_scikit_learn(seed, classes):
    labels, logits = random_classes(seed, classes=classes)
    predicted = logits.argmax(1)
    found = classification_metrics(torch.from_numpy(logits), torch.from_numpy(labels))
    assert found["Acc"] == pytest.approx(100 * reference.accuracy_score(labels, predicted))
    assert found["F1"] == pytest.approx(reference.f1_score(labels, predicted, average="macro"))
    assert (
        found["confusion"]
        == reference.confusion_matrix(labels, predicted, labels=range(7)).tolist()
    )
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert found["Loss"] == pytest.approx(
        reference.log_loss(labels, probabilities, labels=range(7))
    )


def test_f1_leaves_out_a_class_that_neither_occurs_nor_is_predicted():
    labels, predicted = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1])
    expected = reference.f1_score(labels, predicted, average="macro")
    assert macro_f1(confusion_matrix(predicted, labels)).item() == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(5))
def test_regression_equals_numpy_and_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    target = rng.uniform(-2, 2, 300)
    values = 0.6 * target + rng.normal(0, 0.5, 300) + 0.3
    found = regression_metrics(torch.from_numpy(values)[:, None], torch.from_numpy(target))
    assert found["Loss"] == pytest.approx(reference.mean_squared_error(target, values))
    assert found["PCC"] == pytest.approx(np.corrcoef(values, target)[0, 1])
    ccc = (
        2
        * np.cov(values, target, bias=True)[0, 1]
        / (values.var() + target.var() + (values.mean() - target.mean()) ** 2)
    )
    assert found["CCC"] == pytest.approx(ccc)
    assert found["SAGR"] == pytest.approx(
        np.mean([(-0.5 < x < 0.5) == (-0.5 < y < 0.5) and (x > 0) == (y > 0) if not -0.5 < x < 0.5 else -0.5 < y < 0.5
                 for x, y in zip(values, target, strict=True)])
    )  # fmt: skip


@pytest.mark.parametrize("constant", [0.0, 0.1, 1 / 3, -1.7])
def test_constant_predictions_have_no_correlation(constant):
    target = torch.linspace(-2, 2, 50)
    found = regression_metrics(torch.full((50, 1), constant), target)
    assert found["PCC"] == 0 and abs(found["CCC"]) < 1e-6
    assert np.isfinite(list(found.values())).all()


def test_constant_predictions_of_a_constant_target():
    found = regression_metrics(torch.full((5, 1), 0.1), torch.full((5,), 0.1))
    assert found["Loss"] == pytest.approx(0) and found["PCC"] == 0 and found["CCC"] == 0


def test_one_image():
    found = measure(
        {"classify": torch.eye(7)[:1], "regressV": torch.tensor([[0.5]])},
        torch.tensor([0]),
        torch.tensor([[1.0, 0.0, 0.0]]),
    )
    assert found["classify"]["Acc"] == 100 and found["classify"]["F1"] == 1
    assert found["regressV"]["Loss"] == pytest.approx(0.25)
    assert found["regressV"]["PCC"] == 0 and found["regressV"]["SAGR"] == 1


def test_zero_is_a_sign_as_wide_as_what_annotators_round_to_it():
    target = torch.tensor([-2.0, -1, 0, 0, 0, 1])
    values = torch.tensor([-0.6, -0.4, -0.4, 0.49, 0.6, 0.3])
    assert sign_agreement(values, target).item() == pytest.approx(3 / 6)


def test_perfect_predictions():
    target = torch.linspace(-2, 2, 20)
    assert concordance(target, target).item() == pytest.approx(1)
    assert pearson(target, target).item() == pytest.approx(1)


def test_concordance_of_a_shifted_copy_is_below_its_correlation():
    target = torch.linspace(-1, 1, 20)
    assert pearson(target + 1, target).item() == pytest.approx(1)
    assert concordance(target + 1, target).item() < 0.5


def test_training_metrics_equal_those_of_all_batches_together():
    labels, logits = random_classes(3, 90)
    rng = np.random.default_rng(0)
    vad, values = rng.uniform(-2, 2, (90, 3)).astype("f4"), rng.normal(size=(90, 1)).astype("f4")
    metrics = training_metrics(("classify", "regressA"))
    sums = torch.zeros(len(metrics), dtype=torch.float64)
    logits, labels, vad, values = map(torch.from_numpy, (logits, labels, vad, values))
    for part in torch.arange(90).split(32):
        outputs = {"classify": logits[part], "regressA": values[part]}
        sums += batch_sums(metrics, outputs, labels[part], vad[part])
    names = [(task.name, metric) for task, metric in metrics]
    means = dict(zip(names, (sums / 90).tolist(), strict=True))
    accuracy = reference.accuracy_score(labels, logits.argmax(1))
    assert means == {
        ("classify", "Acc"): pytest.approx(100 * accuracy),
        ("classify", "Loss"): pytest.approx(classification_metrics(logits, labels)["Loss"]),
        ("regressA", "Loss"): pytest.approx(reference.mean_squared_error(vad[:, 1], values[:, 0])),
    }
