"""inference.evaluate: metrics against scikit-learn and closed forms, ratings, what is written."""

import hashlib
import json
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import f1_score, log_loss, mean_squared_error, recall_score

from data.batches import normalise, ten_crop
from data.faces import Faces
from data.fer2013 import load as fer2013
from inference import evaluate
from tests.harness import PREPROCESSING, make_model, run_module, save_checkpoints
from tests.samples import PLAIN, SPLIT_FILES, pixel_text, table, write_csv
from utils.files import UserError
from utils.tasks import EMOTIONS, TASKS, TEST_SPLITS


def test_classification_metrics_equal_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 7, 900)
    logits = rng.normal(size=(900, 7)) + 1.5 * np.eye(7)[labels]
    outputs = {"classify": torch.from_numpy(logits)}
    found = evaluate.measure(outputs, {"classify": torch.from_numpy(labels)})["classify"]
    predicted = logits.argmax(1)
    accuracy = (predicted == labels).mean()
    probabilities = torch.from_numpy(logits).softmax(1).numpy()
    confidence = probabilities.max(1)
    bins, gaps = (confidence * 15).astype(int), (predicted == labels) - confidence
    expected = {
        "Acc": 100 * accuracy,
        "F1": f1_score(labels, predicted, average="macro"),
        "cross-entropy": log_loss(labels, probabilities),
        "Brier": ((probabilities - np.eye(7)[labels]) ** 2).sum(1).mean(),
        "ECE": sum(abs(gaps[bins == number].sum()) for number in range(15)) / 900,
    }
    recalls = 100 * recall_score(labels, predicted, average=None)
    expected |= {f"recall {name}": value for name, value in zip(EMOTIONS, recalls, strict=True)}
    assert {name: one["value"] for name, one in found.items() if name != "confusion"} == (
        pytest.approx(expected)
    )
    half = 196 * np.sqrt(accuracy * (1 - accuracy) / 900)  # the normal approximation
    assert found["Acc"]["high"] - found["Acc"]["value"] == pytest.approx(half, rel=0.15)
    assert found["Acc"]["value"] - found["Acc"]["low"] == pytest.approx(half, rel=0.15)


def test_regression_metrics_equal_closed_forms():
    rng = np.random.default_rng(0)
    target = rng.normal(size=400)
    output = target + rng.normal(size=400) + 0.3
    outputs = {"regressV": torch.from_numpy(output)[:, None]}
    found = evaluate.measure(outputs, {"regressV": torch.from_numpy(target)})["regressV"]
    correlation, covariance = np.corrcoef(output, target)[0, 1], np.cov(output, target, ddof=0)
    spread = np.trace(covariance) + (output.mean() - target.mean()) ** 2
    signs = [(values >= 0.5) * 1 - (values <= -0.5) * 1 for values in (output, target)]
    expected = {
        "CCC": 2 * covariance[0, 1] / spread,
        "PCC": correlation,
        "SAGR": (signs[0] == signs[1]).mean(),
        "MSE": mean_squared_error(target, output),
    }
    assert {name: one["value"] for name, one in found.items()} == pytest.approx(expected)
    # Fisher's interval of a correlation
    low, high = np.tanh(np.arctanh(correlation) + np.array([-1.96, 1.96]) / np.sqrt(397))
    assert found["PCC"]["low"] == pytest.approx(low, abs=0.02)
    assert found["PCC"]["high"] == pytest.approx(high, abs=0.02)


def test_degenerate_faces_have_metrics_all_the_same():
    labels = torch.tensor([0, 0, 1, 1] * 5)
    outputs = {"classify": torch.eye(7)[labels], "regressV": torch.full((20, 1), 0.3)}
    found = evaluate.measure(outputs, {"classify": labels, "regressV": torch.rand(20)})
    assert found["classify"]["Acc"] == {"value": 100, "low": 100, "high": 100}
    assert found["classify"]["recall Angry"]["value"] == 100
    assert "recall Happy" not in found["classify"]
    for metric in ("CCC", "PCC"):
        assert found["regressV"][metric]["value"] == 0


def test_photographs_that_another_split_holds_are_found_moved_and_encoded_anew():
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(9, 1, 16, 16, generator=generator)
    pictures = F.interpolate(pictures, (60, 60), mode="bicubic")[:, 0]
    pictures = (pictures.clamp(0, 1) * 255).round().to(torch.uint8)

    def at(left, top):
        return pictures[:, top : top + 48, left : left + 48]

    darker = (at(6, 6)[4] * 0.7 + 20).to(torch.uint8)
    grain = 8 * torch.randn(48, 48, generator=generator)
    grainy = (at(6, 6)[5].float() + grain).clamp(0, 255).to(torch.uint8)
    mirrored, moved_far = at(6, 6)[2].flip(1), at(12, 12)[3]
    images = {
        "Training": at(6, 6)[:6],
        "PublicTest": torch.stack((at(6, 6)[0], at(9, 2)[1], mirrored, moved_far, darker, grainy)),
        "PrivateTest": torch.cat((at(6, 6)[6:], torch.full((3, 48, 48), 80, dtype=torch.uint8))),
    }
    labels = torch.zeros(6, dtype=torch.int64)
    splits = {name: Faces(faces, labels, None) for name, faces in images.items()}
    expected = [True, True, False, False, True, True]
    assert evaluate.is_copied(splits, "PublicTest").tolist() == expected
    assert not evaluate.is_copied(splits, "PrivateTest").any()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Checkpoints, and a data folder of 14 random faces a split."""
    folder, rng = tmp_path_factory.mktemp("evaluation"), np.random.default_rng(0)
    save_checkpoints(folder / "checkpoints", make_model())
    (folder / "data").mkdir()
    for name in SPLIT_FILES.values():
        faces = rng.integers(0, 256, (14, 48, 48), dtype=np.uint8)
        vad = rng.uniform(-2, 2, (14, 3)).tolist()
        write_csv(folder / "data" / name, faces, list(range(7)) * 2, vad)
    (folder / "data" / "vad_origin.txt").write_text("derived from a song\n")
    return folder


def run(folder, out, *flags):
    """Evaluate, and return the report."""
    files = ("--checkpoints", folder / "checkpoints", "--data", folder / "data", "--out", out)
    assert run_module(evaluate, *files, "--device", "cpu", *flags) == 0
    return json.loads((out / "evaluation.json").read_text())


def write_ratings(path, rows, header="index,Valence,Arousal,Dominance"):
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_every_metric_is_printed_and_written(folder, tmp_path, capsys):
    rows = ["a,PublicTest,3,1,0,-1", "a,PublicTest,0,-2,1,2", "b,PrivateTest,3,1,0,1"]
    header = "block,split,index,Valence,Arousal,Dominance"
    gold = write_ratings(tmp_path / "gold.csv", [*rows, "c,Training,3,1,0,1"], header)
    report = run(folder, tmp_path, "--gold", gold)
    printed = capsys.readouterr().out
    ratings = [
        f"human ratings of {n} faces ({b})"
        for n, b in (("2 PublicTest", "a"), ("1 PrivateTest", "b"))
    ]
    assert set(report) == {"how", *TEST_SPLITS, *ratings}
    for split in TEST_SPLITS:
        assert set(report[split]) == set(TASKS)
        accuracy = report[split]["classify"]["Acc"]
        line = rf"Acc +{accuracy['value']:.3f} +{accuracy['low']:.3f} +{accuracy['high']:.3f}"
        assert re.search(line, printed)
        assert np.array(report[split]["classify"]["confusion"]).sum() == 14
    for title in ratings:
        assert set(report[title]) == {"regressV", "regressA", "regressD"}
        assert {"CCC", "PCC", "SAGR", "MSE"} == set(report[title]["regressA"])
    assert "human ratings of 1 Training faces (c): left out" in printed


def test_it_says_which_files_and_faces_were_evaluated(folder, tmp_path):
    how = run(folder, tmp_path, "--split", "PrivateTest", "--crops", "center")["how"]
    file = folder / "checkpoints" / TASKS["classify"].checkpoint("PrivateTest")
    assert str(file) in how["classify"]
    assert hashlib.sha256(file.read_bytes()).hexdigest() in how["regressV"]
    assert "derived from a song" in how["faces"] and "PrivateTest 14" in how["faces"]
    assert how["crops"] == "center" and how["device"].startswith("cpu")


def test_ratings_are_of_the_named_faces(folder, tmp_path):
    """Against the network on the ten crops of those faces, rated in another order."""
    rated = {9: (0.5, -1, 1), 2: (-2, 2, 0.25), 13: (1, 1, -1)}
    rows = [f"{row},{v},{a},{d}" for row, (v, a, d) in rated.items()]
    gold = write_ratings(tmp_path / "gold.csv", rows)
    flags = ("--gold", gold, "--split", "PublicTest", "--precision", "fp32")
    report = run(folder, tmp_path, *flags)["human ratings of 3 PublicTest faces"]
    public = fer2013.load(folder / "data").splits["PublicTest"]
    faces = public.select(torch.tensor(list(rated)))
    crops = [normalise(crop[:, None], **PREPROCESSING) for crop in ten_crop(faces.images)]
    with torch.no_grad():
        outputs = [make_model()(crop) for crop in crops]
    for column, name in enumerate(("regressV", "regressA", "regressD")):
        ratings = np.array([rating[column] for rating in rated.values()])
        values = [output[name].mean().item() for output in outputs]
        expected = mean_squared_error(ratings, values)
        assert report[name]["MSE"]["value"] == pytest.approx(expected, rel=1e-3)


def test_probabilities_are_those_of_the_temperature(folder, tmp_path):
    hot = save_checkpoints(tmp_path / "hot", make_model(), temperature=4.0)
    flags = ("--split", "PublicTest", "--crops", "center")
    plain, warm = run(folder, tmp_path), run(folder, tmp_path, *flags, "--checkpoints", hot)
    faces = fer2013.load(folder / "data").splits["PublicTest"]
    with torch.no_grad():
        pixels = normalise(faces.images[:, None, 2:46, 2:46], **PREPROCESSING)
        logits = make_model()(pixels)["classify"]
    expected = F.cross_entropy(logits / 4, faces.labels).item()
    entropy = warm["PublicTest"]["classify"]["cross-entropy"]["value"]
    assert entropy == pytest.approx(expected, rel=0.02)
    assert entropy != plain["PublicTest"]["classify"]["cross-entropy"]["value"]


def test_of_a_run_the_checkpoints_best_on_the_public_split_are_taken_and_why(
    folder, tmp_path, capsys
):
    checkpoints = save_checkpoints(tmp_path / "run", make_model(seed=1))
    save_checkpoints(checkpoints, make_model(), split="PublicTest", epoch=5)
    flags = ("--split", "PrivateTest", "--crops", "center")
    best_on_public = run(folder, tmp_path, *flags, "--checkpoints", checkpoints)
    assert best_on_public["PrivateTest"] == run(folder, tmp_path, *flags)["PrivateTest"]
    assert len(list((tmp_path / "previous").rglob("evaluation.json"))) == 1  # the first is kept
    chosen = best_on_public["how"]["classify"]
    assert TASKS["classify"].checkpoint("PublicTest") in chosen and "epoch 5" in chosen
    assert "best on the public split" in chosen
    assert "optimistic" in capsys.readouterr().out  # of the second, which has only the others
    assert "best on the public split" in " ".join(evaluate.build_parser().format_help().split())


def test_faces_without_annotations_are_classified_and_compared_with_ratings(folder, tmp_path):
    rows = []
    for split, faces in fer2013.load(folder / "data").splits.items():
        for image, label in zip(faces.images, faces.labels.tolist(), strict=True):
            pixels = pixel_text(image.flatten().numpy())
            rows.append({"emotion": label, "pixels": pixels, "Usage": split})
    (tmp_path / "fer2013.csv").write_bytes(table(rows, PLAIN))
    gold = write_ratings(tmp_path / "gold.csv", ["3,1,0,-1", "0,-2,1,2", "7,0,1,1"])
    report = run(folder, tmp_path, "--data", tmp_path / "fer2013.csv", "--gold", gold)
    assert set(report["PublicTest"]) == {"classify"}
    assert "CCC" in report["human ratings of 3 PublicTest faces"]["regressV"]
    classifier = save_checkpoints(tmp_path / "run", make_model(tasks=("classify",)), ["classify"])
    with pytest.raises(UserError, match="valence"):
        run(folder, tmp_path, "--checkpoints", classifier, "--gold", gold)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "row,V,A,D\n1,1,1,1\n",
        "index,Valence,Arousal,Dominance\n",
        "index,Valence,Arousal,Dominance\n1,x,0,0\n",
        "index,Valence,Arousal,Dominance\n14,0,0,0\n",
        "index,Valence,Arousal,Dominance\n-1,0,0,0\n",
        "index,Valence,Arousal,Dominance\n0.5,0,0,0\n",
        "index,Valence,Arousal,Dominance\n1,0,0,0\n1,0,0,0\n",
        "index,Valence,Arousal,Dominance\n1,nan,0,0\n",
        "index,Valence,Arousal,Dominance\n1,3,0,0\n",
        "index,split,Valence,Arousal,Dominance\n1,Test,1,0,0\n",
    ],
)
def test_ratings_that_cannot_be_used_are_refused(tmp_path, text):
    path = tmp_path / "ratings.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=r"ratings\.csv"):
        evaluate.read_ratings(path, {"Training": 14, "PublicTest": 14})
