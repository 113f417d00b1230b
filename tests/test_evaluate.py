"""The evaluation command: figures against scikit-learn and closed forms, intervals, human ratings, errors."""

import hashlib
import json
import os
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import binomtest
from sklearn.metrics import f1_score, log_loss, mean_squared_error, recall_score

from data.batches import normalise, ten_crop
from data.copies import best_correlation
from data.faces import Faces
from data.fer2013 import load as fer2013
from inference import evaluate
from inference.ratings import floors
from models import checkpoint
from tests.samples import SPLIT_FILES, write_csv
from tests.test_visualize import PREPROCESSING, make_model, save
from utils.files import UserError
from utils.tasks import EMOTIONS, TASKS, TEST_SPLITS


def test_category_figures_equal_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 7, 900)
    logits = rng.normal(size=(900, 7)) + 1.5 * np.eye(7)[labels]
    found = evaluate.figures_of(TASKS["classify"], torch.from_numpy(logits), torch.from_numpy(labels))
    predicted = logits.argmax(1)
    accuracy = (predicted == labels).mean()
    assert found["Acc"]["value"] == pytest.approx(100 * accuracy)
    assert found["F1"]["value"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    probabilities = torch.from_numpy(logits).softmax(1).numpy()
    assert found["cross-entropy"]["value"] == pytest.approx(log_loss(labels, probabilities))
    assert found["cross-entropy"]["low"] < found["cross-entropy"]["value"] < found["cross-entropy"]["high"]
    recalls = 100 * recall_score(labels, predicted, average=None)
    assert [found[f"recall {name}"]["value"] for name in EMOTIONS] == pytest.approx(recalls)
    half = 196 * np.sqrt(accuracy * (1 - accuracy) / 900)  # the normal approximation
    assert found["Acc"]["high"] - found["Acc"]["value"] == pytest.approx(half, rel=0.15)
    assert found["Acc"]["value"] - found["Acc"]["low"] == pytest.approx(half, rel=0.15)


def test_dimension_figures_and_their_intervals():
    rng = np.random.default_rng(0)
    target = rng.normal(size=400)
    output = target + rng.normal(size=400)
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


def test_a_temperature_adds_calibrated_figures():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 7, 300)
    logits = rng.normal(size=(300, 7)) + 1.5 * np.eye(7)[labels]
    found = evaluate.figures_of(TASKS["classify"], torch.from_numpy(logits), torch.from_numpy(labels), 0.5)
    calibrated = torch.from_numpy(logits / 0.5).softmax(1).numpy()
    assert found["cross-entropy calibrated"]["value"] == pytest.approx(log_loss(labels, calibrated))
    brier = ((calibrated - np.eye(7)[labels]) ** 2).sum(1).mean()
    assert found["Brier calibrated"]["value"] == pytest.approx(brier) != found["Brier"]["value"]
    assert {"ECE", "ECE calibrated"} <= found.keys()


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (5, 5), (3, 9), (40, 61), (300, 420)])
def test_the_test_of_mcnemar_is_the_binomial_one(gained, lost):
    expected = 1 if gained + lost == 0 else binomtest(gained, gained + lost).pvalue
    assert evaluate.mcnemar(gained, lost) == pytest.approx(expected)


def test_differences_are_paired():
    """Of two predictions that share their errors the difference is far surer than either."""
    rng = np.random.default_rng(0)
    target = torch.from_numpy(rng.normal(size=300))
    before = target + torch.from_numpy(rng.normal(size=300))
    after = before + 0.1 * (target - before)
    task = TASKS["regressV"]
    found = evaluate.difference_of(task, after[:, None], before[:, None], target)["PCC"]
    alone = evaluate.figures_of(task, after[:, None], target)["PCC"]
    expected = np.corrcoef(after, target)[0, 1] - np.corrcoef(before, target)[0, 1]
    assert found["value"] == pytest.approx(expected) and found["low"] < expected < found["high"]
    assert found["low"] > 0 and found["high"] - found["low"] < 0.3 * (alone["high"] - alone["low"])
    labels, logits = torch.arange(70) % 7, torch.eye(7)[torch.arange(70) % 7]
    worse = logits.clone()
    worse[:4] = torch.eye(7)[(labels[:4] + 1) % 7]
    found = evaluate.difference_of(TASKS["classify"], logits, worse, labels)
    assert found["Acc"]["value"] == pytest.approx(100 * 4 / 70)
    assert found["McNemar"] == {"only these right": 4, "only the others": 0, "p": pytest.approx(0.125)}


def test_floors_equal_plain_python():
    rng = np.random.default_rng(0)
    ratings, labels = rng.uniform(-2, 2, (9, 3)), np.array([0, 0, 0, 1, 1, 2, 3, 3, 6])
    probabilities = rng.dirichlet(np.ones(7), 9)
    training = Faces(torch.zeros(21, 48, 48, dtype=torch.uint8), torch.arange(21) % 7, torch.rand(21, 3) * 4 - 2)
    found = floors(*(torch.from_numpy(part) for part in (ratings, labels, probabilities)), training)
    of_class, annotated, weighted, constant = (values.numpy() for values in found.values())
    vad = training.vad.numpy()
    for face in range(9):
        others = [ratings[i] for i in range(9) if i != face and labels[i] == labels[face]]
        others = others or [ratings[i] for i in range(9) if i != face]
        assert of_class[face] == pytest.approx(np.mean(others, axis=0), abs=1e-5)
        assert annotated[face] == pytest.approx(vad[labels[face] :: 7].mean(0), abs=1e-5)
        expected = sum(probabilities[face, c] * vad[c::7].mean(0) for c in range(7))
        assert weighted[face] == pytest.approx(expected, abs=1e-5)
        assert constant[face] == pytest.approx(vad.mean(0), abs=1e-5)


def test_faces_that_another_split_holds_are_found():
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (12, 48, 48), dtype=np.uint8))
    parts = {"Training": [0, 1, 2, 3], "PublicTest": [4, 1, 5, 4], "PrivateTest": [6, 7, 5, 0]}
    splits = {name: Faces(images[rows], torch.zeros(4, dtype=torch.int64), None) for name, rows in parts.items()}
    found = {name: evaluate.occurs_elsewhere(splits, name).tolist() for name in splits}
    assert found["PublicTest"] == [False, True, True, False]  # a face twice in one split is in no other
    assert found["PrivateTest"] == [False, False, True, True] and found["Training"] == [True, True, False, False]


def test_photographs_that_another_split_holds_are_found_moved_and_encoded_anew():
    generator = torch.Generator().manual_seed(0)
    pictures = F.interpolate(torch.rand(9, 1, 16, 16, generator=generator), (60, 60), mode="bicubic")[:, 0]
    pictures = (pictures.clamp(0, 1) * 255).round().to(torch.uint8)
    at = lambda left, top: pictures[:, top : top + 48, left : left + 48]  # noqa: E731
    darker = (at(6, 6)[4] * 0.7 + 20).to(torch.uint8)
    grainy = (at(6, 6)[5].float() + 8 * torch.randn(48, 48, generator=generator)).clamp(0, 255).to(torch.uint8)
    images = {
        "Training": at(6, 6)[:6],
        "PublicTest": torch.stack((at(6, 6)[0], at(9, 2)[1], at(6, 6)[2].flip(1), at(12, 12)[3], darker, grainy)),
        "PrivateTest": torch.cat((at(6, 6)[6:], torch.full((3, 48, 48), 80, dtype=torch.uint8))),
    }
    splits = {name: Faces(faces, torch.zeros(6, dtype=torch.int64), None) for name, faces in images.items()}
    # moved by 3 and 4 pixels; mirrored and moved by 6 is another picture
    assert evaluate.is_copied_elsewhere(splits, "PublicTest").tolist() == [True, True, False, False, True, True]
    assert not evaluate.is_copied_elsewhere(splits, "PrivateTest").any()


def test_pictures_correlate_as_numpy_has_it():
    generator = torch.Generator().manual_seed(1)
    images, others = torch.randint(256, (2, 5, 48, 48), dtype=torch.uint8, generator=generator)
    others[1] = 7
    expected = [
        max(
            np.corrcoef(image[4:44, 4:44].ravel(), other[y : y + 40, x : x + 40].ravel())[0, 1] if other.std() else 0
            for y in range(9) for x in range(9)
        )
        for image, other in zip(images.numpy(), others.numpy(), strict=True)
    ]  # fmt: skip
    assert best_correlation(images, others).tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("count", (3573, 400))
def test_the_calibration_error_by_chance_is_that_of_labels_drawn_from_the_probabilities(count):
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(2 * rng.normal(size=(count, 7)))
    found = evaluate.figures_of(TASKS["classify"], logits, torch.from_numpy(rng.integers(0, 7, count)))["ECE by chance"]
    probabilities = logits.softmax(1).numpy()
    confidence, bins = probabilities.max(1), (probabilities.max(1) * 15).astype(int)
    errors = []
    for _ in range(200):
        labels = (rng.random((count, 1)) > probabilities.cumsum(1)).sum(1)
        right = labels == probabilities.argmax(1)
        errors.append(sum(abs((right - confidence)[bins == place].sum()) for place in range(15)) / count)
    assert found["value"] == pytest.approx(np.mean(errors), rel=0.08)
    assert found["low"] == pytest.approx(np.percentile(errors, 2.5), rel=0.25)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Checkpoints, and a data folder of a few random faces."""
    folder, rng = tmp_path_factory.mktemp("evaluation"), np.random.default_rng(0)
    save(folder / "checkpoints", make_model())
    (folder / "data").mkdir()
    for name in SPLIT_FILES.values():
        faces = rng.integers(0, 256, (14, 48, 48), dtype=np.uint8)
        write_csv(folder / "data" / name, faces, list(range(7)) * 2, rng.uniform(-2, 2, (14, 3)).tolist())
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
    floor_titles = [title for title in report if title.startswith(f"{human}: ")]
    assert list(report) == ["how", *TEST_SPLITS, human, *floor_titles] and len(floor_titles) == 4
    assert report["how"]["crops"] == "tencrop" and report["how"]["device"].startswith("cpu")
    for split in TEST_SPLITS:
        assert set(report[split]) == set(TASKS)
        accuracy = report[split]["classify"]["Acc"]
        assert f"{accuracy['value']:.2f}  [{accuracy['low']:.2f}, {accuracy['high']:.2f}]" in printed
        assert np.array(report[split]["classify"]["confusion"]).sum() == 14
    for title in (human, *floor_titles):
        assert set(report[title]) == {"regressV", "regressA", "regressD"}


def test_an_earlier_evaluation_is_moved_aside(folder, tmp_path, capsys):
    flags = ["--split", "PrivateTest", "--crops", "center", "--out", tmp_path]
    assert run(folder, *flags) == 0
    before = (tmp_path / "evaluation.json").read_bytes()
    assert "was moved to" not in capsys.readouterr().out
    assert run(folder, *flags) == 0
    (moved,) = (tmp_path / "previous").rglob("evaluation.json")
    assert f"The earlier evaluation.json was moved to {moved.parent}\n" in capsys.readouterr().out
    assert moved.read_bytes() == before == (tmp_path / "evaluation.json").read_bytes()


def test_a_folder_in_the_place_of_the_evaluation_stays(folder, tmp_path):
    (tmp_path / "evaluation.json").mkdir()
    with pytest.raises(UserError, match=r"evaluation\.json is a folder: move it away"):
        run(folder, "--split", "PrivateTest", "--crops", "center", "--out", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.json"]


def test_it_says_which_files_and_faces_were_measured(folder, tmp_path):
    """Though the files of two networks have the same names."""
    other = save(tmp_path / "other", make_model(seed=1))
    assert run(folder, "--compare", other, "--crops", "center", "--out", tmp_path) == 0
    how = json.loads((tmp_path / "evaluation.json").read_text())["how"]
    name = TASKS["classify"].checkpoint("PrivateTest")
    for place, key in ((folder / "checkpoints", "classify"), (other, "classify, compared with")):
        assert how[key].startswith(name) and how[key].endswith(f", from {place}")
        assert how[f"SHA-256 of {place / name}"] == hashlib.sha256((place / name).read_bytes()).hexdigest()
    dataset = fer2013.load(folder / "data")
    assert how["data"] == dataset.description
    assert [how[f"fingerprint of {split}"] for split in dataset.splits] == [
        faces.fingerprint() for faces in dataset.splits.values()
    ]


def test_of_data_that_cannot_be_written_to_the_faces_go_to_out(folder, tmp_path, monkeypatch):
    data = shutil.copytree(folder / "data", tmp_path / "data", ignore=shutil.ignore_patterns("data*"))
    before = sorted(data.iterdir())
    access = os.access
    monkeypatch.setattr(os, "access", lambda place, *rest, **options: place != data and access(place, *rest, **options))
    assert run(folder, "--data", data, "--split", "PrivateTest", "--crops", "center", "--out", tmp_path / "out") == 0
    assert sorted(data.iterdir()) == before and (tmp_path / "out" / "data.h5").exists()


def test_blocks_of_ratings_are_told_apart(folder, tmp_path, capsys):
    rows = ["one,PublicTest,3,1,0,-1", "one,PublicTest,0,-2,1,2", "two,PrivateTest,3,1,0,1", "two,PrivateTest,4,0,1,1"]
    gold = write_gold(
        tmp_path / "gold.csv", [*rows, "three,Training,3,1,0,1"], "block,split,index,Valence,Arousal,Dominance"
    )
    assert run(folder, "--gold", gold, "--out", tmp_path, "--split", "PublicTest") == 0
    report = json.loads((tmp_path / "evaluation.json").read_text())
    titles = ["human ratings of 2 PublicTest faces (one)", "human ratings of 2 PrivateTest faces (two)"]
    assert [title for title in report if title.endswith(")")] == titles
    assert "human ratings of 1 Training faces (three): left out" in capsys.readouterr().out


def test_other_checkpoints_are_compared_face_by_face(folder, tmp_path, capsys):
    other = save(tmp_path / "other", make_model(seed=1))
    gold = write_gold(tmp_path / "gold.csv", ["3,1,0,-1", "0,-2,1,2", "7,0,1,1"])
    assert run(folder, "--gold", gold, "--compare", other, "--out", tmp_path) == 0
    report = json.loads((tmp_path / "evaluation.json").read_text())
    difference = report[f"PrivateTest, difference from {other}"]
    assert run(folder, "--checkpoints", other, "--out", tmp_path / "alone") == 0
    alone = json.loads((tmp_path / "alone" / "evaluation.json").read_text())["PrivateTest"]
    for name, figure in (("classify", "Acc"), ("regressV", "CCC")):
        expected = report["PrivateTest"][name][figure]["value"] - alone[name][figure]["value"]
        assert difference[name][figure]["value"] == pytest.approx(expected)
    changes = difference["classify"]["McNemar"]
    gained = round((report["PrivateTest"]["classify"]["Acc"]["value"] - alone["classify"]["Acc"]["value"]) * 14 / 100)
    assert changes["only these right"] - changes["only the others"] == gained
    assert f"human ratings of 3 PublicTest faces, difference from {other}" in report
    assert "(McNemar)" in capsys.readouterr().out


def test_the_gold_rows_are_the_named_faces(folder, tmp_path):
    """Against the network itself on the ten crops of those faces, rated in another order than they stand in."""
    rated = {9: (0.5, -1, 1), 2: (-2, 2, 0.25), 13: (1, 1, -1)}
    gold = write_gold(tmp_path / "gold.csv", [f"{row},{v},{a},{d}" for row, (v, a, d) in rated.items()])
    assert run(folder, "--gold", gold, "--split", "PrivateTest", "--out", tmp_path, "--precision", "fp32") == 0
    report = json.loads((tmp_path / "evaluation.json").read_text())
    assert list(report)[1] == "PrivateTest" and "PublicTest" not in report
    faces = fer2013.load(folder / "data").splits["PublicTest"].images[:][list(rated)]
    with torch.no_grad():
        outputs = [make_model()(normalise(crops[:, None], **PREPROCESSING)) for crops in ten_crop(faces)]
    for column, name in enumerate(("regressV", "regressA", "regressD")):
        values = [output[name].mean().item() for output in outputs]
        expected = mean_squared_error([rating[column] for rating in rated.values()], values)
        assert report["human ratings of 3 PublicTest faces"][name]["MSE"]["value"] == pytest.approx(expected, rel=1e-3)


def test_what_the_public_split_chose_is_measured(folder, tmp_path, capsys):
    """Of a run's folder, which has what either split chose; the figures say which."""
    checkpoints = save(tmp_path / "run", make_model(seed=1))
    for task in TASKS.values():
        content = checkpoint.task_checkpoint(make_model(), task.name, 5, {}, {
            "dataset": "FER2013", "model": "Narrow", "preprocessing": PREPROCESSING})  # fmt: skip
        checkpoint.save(checkpoints / task.checkpoint("PublicTest"), content)
    flags = ["--split", "PrivateTest", "--out", tmp_path]
    assert run(folder, *flags, "--checkpoints", checkpoints) == 0
    both = json.loads((tmp_path / "evaluation.json").read_text())
    assert run(folder, *flags, "--checkpoints", checkpoints / TASKS["classify"].checkpoint("PublicTest")) == 0
    public = json.loads((tmp_path / "evaluation.json").read_text())
    assert both["PrivateTest"] == public["PrivateTest"]
    assert "PublicTest_model_classify.t7, trained on FER2013, epoch 5 (chosen on PublicTest" in both["how"]["classify"]
    assert run(folder, *flags) == 0
    assert "classify: PrivateTest_model_privateClassify.t7, trained on FER2013, epoch 3 (chosen on PrivateTest" in (
        capsys.readouterr().out
    )


def test_ratings_of_faces_without_annotations_are_compared_as_predicted(folder, tmp_path):
    splits = fer2013.load(folder / "data").splits
    lines = ["emotion,pixels,Usage"]
    for split, faces in splits.items():
        for image, label in zip(faces.images[:].flatten(1).tolist(), faces.labels.tolist(), strict=True):
            lines.append(f"{label},{' '.join(map(str, image))},{split}")
    (tmp_path / "fer2013.csv").write_text("\n".join(lines))
    gold = write_gold(tmp_path / "gold.csv", ["3,1,0,-1", "0,-2,1,2", "7,0,1,1"])
    assert run(folder, "--data", tmp_path / "fer2013.csv", "--gold", gold, "--out", tmp_path) == 0
    report = json.loads((tmp_path / "evaluation.json").read_text())
    assert set(report["PublicTest"]) == {"classify"}
    titles = [title for title in report if "human" in title]
    assert titles[0] == "human ratings of 3 PublicTest faces" and len(titles) == 2  # with one floor: class means


def test_ratings_need_a_network_that_predicts_them(folder, tmp_path):
    checkpoints = save(tmp_path / "run", make_model(tasks=("classify",)), ["classify"])
    gold = write_gold(tmp_path / "gold.csv", ["3,1,0,-1", "0,-2,1,2"])
    with pytest.raises(UserError, match="no valence, arousal or dominance"):
        run(folder, "--checkpoints", checkpoints, "--gold", gold, "--out", tmp_path)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (["14,0,0,0"], "different rows"), (["-1,0,0,0"], "different rows"), (["1,0,0,0", "1,0,0,0"], "different rows"),
        (["1,3,0,0"], r"lie in -2\.\.2"), (["1,x,0,0"], "all numbers"), (["1,0,0"], "all numbers"), ([], "has no rows"),
    ],
)  # fmt: skip
def test_a_gold_table_that_does_not_fit_is_told(folder, tmp_path, rows, told):
    with pytest.raises(UserError, match=told):
        run(folder, "--gold", write_gold(tmp_path / "ratings.csv", rows), "--out", tmp_path)


def test_a_gold_table_that_is_not_there_or_has_other_columns_is_told(folder, tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        run(folder, "--gold", tmp_path / "none.csv")
    with pytest.raises(UserError, match="columns index"):
        run(folder, "--gold", write_gold(tmp_path / "gold.csv", ["1,1,1,1"], "row,V,A,D"))
