"""The row parser and the metrics against plain Python, on whatever hypothesis thinks of."""

import csv
import io
import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.samples import COLUMNS, read_source, table
from training.metrics import classification_metrics, regression_metrics
from utils.files import UserError

# Rows: fields that are right, nearly right, or wrong.

LABELS = st.sampled_from(["0", "3", "6", "3.0", " 2 ", "7", "-1", "", "1.5", "nan", "x", "00", "+1", "3.00"])
VALUES = st.sampled_from(
    ["0", "-2", "2.0", " 1.5 ", "1e-3", "2.0001", "-2.1", "", "nan", "inf", "-inf", "x", "1,5", "1e400"]
)
WORDS = st.sampled_from(["0", "255", "7", "007", "00000", "256", "-1", "1.0", "", "x", "999", "1" * 30])


@st.composite
def pixels(draw):
    words = ["7"] * draw(st.sampled_from([2304, 2304, 2304, 2303, 2305]))
    for place in draw(st.lists(st.integers(0, 2302), max_size=2)):
        words[place] = draw(WORDS)
    words[0] = draw(st.sampled_from(["8", "8", "0", "256"]))
    return draw(st.sampled_from([" ", " ", "  ", "\t"])).join(words)


ROWS = st.fixed_dictionaries(
    {
        "index": st.sampled_from(["0", "", "a,b", 'say "hi"', "two\nlines"]),
        "emotionLabel": st.just("3=Happy"),
        "Valence": VALUES,
        "Arousal": VALUES,
        "Dominance": VALUES,
        "emotion": LABELS,
        "pixels": pixels(),
    }
)


def plainly(row):
    """(label, V/A/D, pixels) of a row of text, or None when it is to be dropped; by the words of the README alone."""
    label = row["emotion"].strip()
    label = label[:-2] if label.endswith(".0") else label
    if label not in list("0123456"):
        return None
    vad = []
    for name in ("Valence", "Arousal", "Dominance"):
        try:
            vad.append(float(row[name]))
        except ValueError:
            return None
        if not -2 <= vad[-1] <= 2:
            return None
    words = row["pixels"].split()
    if len(words) != 2304 or not all(word.isdigit() and int(word) <= 255 for word in words):
        return None
    return int(label), vad, [int(word) for word in words]


@settings(max_examples=60, deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=5), st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]), st.booleans())
def test_rows_are_read_or_dropped_as_plain_python_does(tmp_path_factory, rows, quoting, windows):
    path = tmp_path_factory.mktemp("rows") / "train.csv"
    path.write_bytes(table(rows, quoting=quoting, newline="\r\n" if windows else "\n", bom=windows))
    found, numbers, dropped = [], [], []
    with read_source(path) as blocks:
        for _, block in blocks:
            found += zip(block.labels.tolist(), block.vad.tolist(), block.pixels.tolist(), strict=True)
            numbers += block.numbers
            dropped += [row for _, row, _ in block.dropped]
    wanted = [plainly(row) for row in rows]
    assert numbers == [number for number, values in enumerate(wanted, 1) if values is not None]
    assert dropped == [number for number, values in enumerate(wanted, 1) if values is None]
    for (label, vad, face), (true_label, true_vad, true_face) in zip(found, filter(None, wanted), strict=True):
        assert label == true_label and face == true_face
        assert all(math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9) for a, b in zip(vad, true_vad, strict=True))


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=3000))
def test_any_bytes_are_a_table_or_refused(tmp_path_factory, content):
    """No exception but the one for people, whatever the file holds after a good header."""
    path = tmp_path_factory.mktemp("bytes") / "train.csv"
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerow(COLUMNS)
    path.write_bytes(stream.getvalue().encode() + content)
    try:
        with read_source(path) as blocks:
            assert not any(len(block.labels) for _, block in blocks)
    except UserError as error:
        assert "train.csv" in str(error)


# Metrics

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
