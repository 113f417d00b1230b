"""The metrics against plain Python, on whatever hypothesis thinks of."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.metrics import classification_metrics, regression_metrics

CLASSES = st.lists(st.tuples(st.integers(0, 6), st.lists(st.integers(-5, 5), min_size=7, max_size=7)), min_size=1,
                   max_size=30)  # fmt: skip
PAIRS = st.lists(st.tuples(*[st.integers(-200, 200).map(lambda n: n / 100)] * 2), min_size=1, max_size=30)


@settings(max_examples=150, deadline=None)
@given(CLASSES)
def test_category_figures_are_those_of_plain_python(faces):
    labels = [label for label, _ in faces]
    predicted = [logits.index(max(logits)) for _, logits in faces]
    f1 = []
    for emotion in range(7):
        hits = sum(a == b == emotion for a, b in zip(labels, predicted, strict=True))
        both = labels.count(emotion) + predicted.count(emotion)
        f1 += [2 * hits / both] if both else []
    losses = [math.log(sum(math.exp(x) for x in logits)) - logits[label] for label, logits in faces]
    found = classification_metrics(torch.tensor([logits for _, logits in faces]).float(), torch.tensor(labels))
    right = sum(a == b for a, b in zip(labels, predicted, strict=True))
    assert math.isclose(found["Acc"], 100 * right / len(faces), rel_tol=1e-9)
    assert math.isclose(found["F1"], sum(f1) / len(f1), rel_tol=1e-9, abs_tol=1e-12)
    assert math.isclose(found["Loss"], sum(losses) / len(faces), rel_tol=1e-6, abs_tol=1e-9)
    both = list(zip(labels, predicted, strict=True))
    assert found["confusion"] == [[both.count((row, column)) for column in range(7)] for row in range(7)]


@settings(max_examples=150, deadline=None)
@given(PAIRS)
def test_dimension_figures_are_those_of_plain_python(pairs):
    values, target = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    count = len(pairs)
    mean, true_mean = sum(values) / count, sum(target) / count
    spread = sum((x - mean) ** 2 for x in values) / count
    true_spread = sum((y - true_mean) ** 2 for y in target) / count
    common = sum((x - mean) * (y - true_mean) for x, y in pairs) / count
    constant = len(set(values)) == 1 or len(set(target)) == 1
    whole = spread + true_spread + (mean - true_mean) ** 2
    found = regression_metrics(
        torch.tensor(values, dtype=torch.float64)[:, None], torch.tensor(target, dtype=torch.float64)
    )
    assert all(math.isfinite(value) for value in found.values())
    assert math.isclose(found["Loss"], sum((x - y) ** 2 for x, y in pairs) / count, rel_tol=1e-9, abs_tol=1e-12)
    same = sum((x >= 0.5) - (x <= -0.5) == (y >= 0.5) - (y <= -0.5) for x, y in pairs)
    assert math.isclose(found["SAGR"], same / count, rel_tol=1e-9)
    pearson = 0 if constant else common / math.sqrt(spread * true_spread)
    assert math.isclose(found["PCC"], pearson, rel_tol=1e-6, abs_tol=1e-6)
    if whole > 1e-12:  # otherwise both are one and the same constant, but for rounding
        assert math.isclose(found["CCC"], 2 * common / whole, rel_tol=1e-6, abs_tol=1e-6)
