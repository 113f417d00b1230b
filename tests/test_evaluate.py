"""The evaluation command: figures against scikit-learn and closed forms, intervals, human ratings, errors."""

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, mean_squared_error, recall_score

from data.faces import Faces
from data.ferplus import PLEASURE_AROUSAL_DOMINANCE
from tests.test_fer2013 import SPLIT_FILES, write_csv
from tests.test_visualize import make_model, save
from utils import evaluate
from utils.files import UserError
from utils.tasks import EMOTIONS, TASKS, TEST_SPLITS

RNG = np.random.default_rng(0)


def test_category_figures_equal_those_of_scikit_learn():
    labels = RNG.integers(0, 7, 900)
    logits = RNG.normal(size=(900, 7)) + 1.5 * np.eye(7)[labels]
    found = evaluate.figures_of(TASKS["classify"], torch.from_numpy(logits), torch.from_numpy(labels))
    predicted = logits.argmax(1)
    accuracy = (predicted == labels).mean()
    assert found["Acc"]["value"] == pytest.approx(100 * accuracy)
    assert found["F1"]["value"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    recalls = 100 * recall_score(labels, predicted, average=None)
    assert [found[f"recall {name}"]["value"] for name in EMOTIONS] == pytest.approx(recalls)
    half = 196 * np.sqrt(accuracy * (1 - accuracy) / 900)  # the normal approximation
    assert found["Acc"]["high"] - found["Acc"]["value"] == pytest.approx(half, rel=0.15)
    assert found["Acc"]["value"] - found["Acc"]["low"] == pytest.approx(half, rel=0.15)


def test_dimension_figures_and_their_intervals():
    target = RNG.normal(size=400)
    output = target + RNG.normal(size=400)
    found = evaluate.figures_of(TASKS["regressV"], torch.from_numpy(output)[:, None], torch.from_numpy(target))
    assert found["MSE"]["value"] == pytest.approx(mean_squared_error(target, output))
    assert found["RMSE"]["value"] == pytest.approx(np.sqrt(mean_squared_error(target, output)))
    correlation = np.corrcoef(output, target)[0, 1]
    assert found["PCC"]["value"] == pytest.approx(correlation)
    # Fisher's interval of a correlation
    low, high = np.tanh(np.arctanh(correlation) + np.array([-1.96, 1.96]) / np.sqrt(397))
    assert found["PCC"]["low"] == pytest.approx(low, abs=0.02) and found["PCC"]["high"] == pytest.approx(high, abs=0.02)
    assert all(one["low"] <= one["value"] <= one["high"] for one in found.values())


def test_a_class_that_is_missing_does_not_spoil_the_others():
    labels = torch.tensor([0, 0, 1, 1] * 5)
    found = evaluate.figures_of(TASKS["classify"], torch.eye(7)[labels], labels)
    assert found["Acc"] == {"value": 100, "low": 100, "high": 100} and found["recall Angry"]["value"] == 100
    assert "recall Happy" not in found


def test_the_stretch_gives_class_means_their_published_spread():
    labels = torch.from_numpy(RNG.integers(0, 7, 700))
    published = 2 * torch.tensor(list(PLEASURE_AROUSAL_DOMINANCE.values()))
    published = published[[4, 5, 6, 1, 3, 2, 0]]  # in the order of EMOTIONS
    shrunk = 0.3 + 0.5 * published[labels]
    faces = Faces(torch.zeros(700, 48, 48, dtype=torch.uint8), labels, shrunk)
    stretch = evaluate.spread_stretch(faces)
    for name, column in (("regressV", 0), ("regressA", 1), ("regressD", 2)):
        found = stretch(name, shrunk[:, [column]])
        middle = shrunk[:, column].mean()
        assert torch.allclose(found[:, 0], (middle + 2 * (shrunk[:, column] - middle)).clamp(-2, 2), atol=1e-4)
        assert found.std().item() == pytest.approx(published[labels, column].std().item(), rel=0.05)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Checkpoints, and a data folder of a few random faces."""
    folder = tmp_path_factory.mktemp("evaluation")
    save(folder / "checkpoints", make_model())
    (folder / "data").mkdir()
    for name in SPLIT_FILES.values():
        faces = RNG.integers(0, 256, (14, 48, 48), dtype=np.uint8)
        write_csv(folder / "data" / name, faces, list(range(7)) * 2, RNG.uniform(-2, 2, (14, 3)).tolist())
    return folder


def run(folder, *flags):
    flags = ["--checkpoints", folder / "checkpoints", "--data", folder / "data", "--device", "cpu", *flags]
    return evaluate.main(evaluate.build_parser().parse_args([str(flag) for flag in flags]))


def write_gold(path, rows, header="index,Valence,Arousal,Dominance"):
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_it_prints_and_writes_every_figure(folder, tmp_path, capsys):
    gold = write_gold(tmp_path / "gold.csv", ["3,1,0,-1", "0,-2,1,2", "7,0,1,1"])
    assert run(folder, "--gold", gold, "--out", tmp_path) == 0
    report = json.loads((tmp_path / "evaluation.json").read_text())
    printed = capsys.readouterr().out
    human = "human ratings of 3 PublicTest faces"
    assert list(report) == [*TEST_SPLITS, human, f"{human}, stretched"]
    for split in TEST_SPLITS:
        assert set(report[split]) == set(TASKS)
        accuracy = report[split]["classify"]["Acc"]
        assert f"{accuracy['value']:.2f}  [{accuracy['low']:.2f}, {accuracy['high']:.2f}]" in printed
        assert np.array(report[split]["classify"]["confusion"]).sum() == 14
    assert set(report[human]) == set(report[f"{human}, stretched"]) == {"regressV", "regressA", "regressD"}


def test_the_gold_rows_are_the_named_faces(folder, tmp_path):
    first = write_gold(tmp_path / "gold.csv", [f"{row},{row / 7 - 1},0,1" for row in range(14)])
    turned = write_gold(tmp_path / "turned.csv", [f"{row},{row / 7 - 1},0,1" for row in reversed(range(14))])
    found = []
    for gold in (first, turned):
        assert run(folder, "--gold", gold, "--split", "PrivateTest", "--out", tmp_path) == 0
        report = json.loads((tmp_path / "evaluation.json").read_text())
        found.append(report["human ratings of 14 PublicTest faces"]["regressV"]["MSE"]["value"])
    assert found[0] == pytest.approx(found[1], rel=1e-5) and list(report)[0] == "PrivateTest"


@pytest.mark.parametrize(
    "rows",
    [["14,0,0,0"], ["-1,0,0,0"], ["1,0,0,0", "1,0,0,0"], ["1,3,0,0"], ["1,x,0,0"], ["1,0,0"], []],
)
def test_a_gold_table_that_does_not_fit_is_told(folder, tmp_path, rows):
    with pytest.raises(UserError, match="gold"):
        run(folder, "--gold", write_gold(tmp_path / "gold.csv", rows), "--out", tmp_path)


def test_a_gold_table_that_is_not_there_or_has_other_columns_is_told(folder, tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        run(folder, "--gold", tmp_path / "none.csv")
    with pytest.raises(UserError, match="columns index"):
        run(folder, "--gold", write_gold(tmp_path / "gold.csv", ["1,1,1,1"], "row,V,A,D"))
