"""Cross-validation as its user runs it: records, folds, resuming, and flags that do not go together."""

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import f1_score

import mainpro_FER
from data.demo.drawing import CLASS_VAD, draw_face
from data.subjects import ckplus
from data.subjects.folds import assign_folds
from inference.synthesize import FaceSynthesizer
from models import MODELS, checkpoint
from models.fersnet import FERSNet, SmallClassifier
from tests.conftest import ROOT, run_program
from tests.samples import oulu_tree, released_tree, write_files
from training.config import FERSNET_RECIPES, build_parser
from training.fersnet import cross_validation, guides
from training.fersnet import run as fold_run
from training.fersnet.engine import synthesize_to_balance
from training.fersnet.guides import train_classifier
from utils.files import UserError

FOLDERS = ("anger", "contempt", "disgust", "fear", "happy", "sadness", "surprise")


def draw_tree(root):
    """Make a folder like CK+: eleven drawn subjects with three expressions each. Returns the folder."""
    for folder in FOLDERS:
        (root / folder).mkdir(parents=True)
    for subject in range(11):
        for number in range(3):
            label = (subject + 2 * number) % 7
            face = draw_face(label, CLASS_VAD[label], subject)
            Image.fromarray(face).save(
                root / FOLDERS[label] / f"S{subject:03}_{number:03}_00000001.png"
            )
    return root


def shrink(set_item=dict.__setitem__, set_attribute=setattr):
    """Narrow networks that learn for a moment: what is tested is that nothing is lost or mixed up."""
    set_item(MODELS, "FERSNet", partial(FERSNet, base=4))
    for module in (fold_run, guides):
        set_attribute(module, "SmallClassifier", partial(SmallClassifier, base=4))
    set_attribute(guides, "GUIDE_EPOCHS", 1)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return draw_tree(tmp_path_factory.mktemp("data") / "CK+48")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    shrink(monkeypatch.setitem, monkeypatch.setattr)


def few_folds(monkeypatch, count):
    for module in (fold_run, cross_validation):
        monkeypatch.setattr(module, "FOLDS", count)


def run(tree, out, *flags, dataset="CK+"):
    parser = build_parser()
    fixed = [
        "--dataset",
        dataset,
        "--data",
        tree,
        "--out",
        out,
        "--device",
        "cpu",
        "--precision",
        "fp32",
    ]
    return mainpro_FER.main(parser.parse_args(list(map(str, (*fixed, *flags)))))


def table(path):
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def everything(out):
    """{name: content} of what equal runs write equally; tensors for checkpoints."""
    found = {path.name: path.read_bytes() for path in out.glob("*.csv")} | {
        "data.txt": (out / "data.txt").read_bytes()
    }
    for path in sorted((*out.rglob("*.png"), *out.rglob("fold*.json"))):
        found[str(path.relative_to(out))] = path.read_bytes()
    for path in sorted(out.rglob("Fold*.t7")):
        found[path.name] = {
            name: value.numpy().tobytes() for name, value in checkpoint.load(path)["net"].items()
        }
    return found


def test_all_folds_are_trained_tested_and_told(tree, tmp_path, capsys):
    assert (
        run(tree, tmp_path, "--epochs", 2, "--bs", 8, "--synthetic", 6, "--sharing", "selective")
        == 0
    )
    faces = ckplus.load(tree)
    rows, results = (
        table(tmp_path / "AccProcess_classify.csv"),
        table(tmp_path / "AccProcess_folds.csv"),
    )
    folds_told = [*map(str, range(1, 11)), "all"]
    assert [(row["Fold"], row["Epoch"]) for row in rows] == [
        (fold, epoch) for fold in folds_told for epoch in "01"
    ]
    assert [result["Fold"] for result in results] == folds_told
    *each, overall = results
    last = {row["Fold"]: row for row in rows if row["Epoch"] == "1"}
    hits = 0.0
    for result in each:
        assert result["LastAcc"] == last[result["Fold"]]["TestAcc"]
        accuracies = [float(row["TestAcc"]) for row in rows if row["Fold"] == result["Fold"]]
        assert float(result["BestAccOptimistic"]) == max(accuracies)
        assert int(result["BestEpoch"]) == accuracies.index(max(accuracies))
        hits += float(result["LastAcc"]) * int(result["Faces"]) / 100
        # In this tree a sequence has one frame.
        assert (result["Sequences"], result["LastSeqAcc"]) == (result["Faces"], result["LastAcc"])
        assert result["BestSeqAccOptimistic"] == result["BestAccOptimistic"]
        assert 0 <= int(result["TunedWithFaces"]) <= 6
        if result["TunedWithFaces"] != "0":
            assert (
                float(result["BestTunedAccOptimistic"])
                >= float(result["TunedAcc"])
                == float(result["TunedSeqAcc"])
            )
        else:
            assert result["BestTunedAccOptimistic"] == result["TunedAcc"] == ""
    assert int(overall["Faces"]) == int(overall["Sequences"]) == len(faces) == 33
    assert float(overall["LastAcc"]) == pytest.approx(100 * hits / 33, abs=0.01)
    assert rows[-1]["TestAcc"] == overall["LastAcc"] and rows[-1]["TestL1"] == overall["L1"]

    assigned = {row["Subject"]: int(row["Fold"]) for row in table(tmp_path / "folds.csv")}
    expected = assign_folds(faces.labels, faces.subjects)
    for number, subject in enumerate(faces.subject_names):
        assert {assigned[subject]} == {int(fold) + 1 for fold in expected[faces.subjects == number]}
    folder, labels, predicted = tmp_path / "CK+_FERSNet", [], []
    assert sorted(path.stem for path in folder.glob("fold*.png")) == sorted(
        f"fold{k}" for k in range(1, 11)
    )
    assert len(list(folder.glob("fold*.json"))) == 10 and not list(folder.glob("last*.t7"))
    for fold in range(1, 11):
        network, content = checkpoint.load_model(folder / f"Fold{fold:02d}_model_classify.t7")
        held_out = faces.select(expected == fold - 1)
        with torch.no_grad():
            predicted += network(held_out.images[:, None] / 255)["classify"].argmax(1).tolist()
        labels += held_out.labels.tolist()
        assert set(content["held_out"]) == {
            name for name, other in assigned.items() if other == fold
        }
        was_tuned = each[fold - 1]["TunedWithFaces"] != "0"
        assert (
            network.sharing == "selective"
            and (folder / f"Fold{fold:02d}_model_tuned.t7").exists() == was_tuned
        )
    assert float(overall["LastF1"]) == pytest.approx(
        f1_score(labels, predicted, average="macro"), abs=1e-6
    )
    assert rows[-1]["TestF1"] == overall["LastF1"]  # of all faces together, not the mean of folds
    told = (tmp_path / "data.txt").read_text()
    assert "Overall, 10 folds" in told and "optimistic" in told
    assert (folder / "Test_confusion.png").stat().st_size > 1000
    assert "Finished" in capsys.readouterr().out


def test_frames_vote_for_their_sequence_in_folds_by_name(tmp_path):
    """Three frames a sequence, and the folds of the paper's protocol: what is told is what the saved network says."""
    root = tmp_path / "CK+48"
    for folder in FOLDERS:
        (root / folder).mkdir(parents=True)
    for subject in range(11):
        for number in range(2):
            label = (subject + 3 * number) % 7
            for frame in range(3):
                face = draw_face(label, CLASS_VAD[label], subject + 100 * frame)
                Image.fromarray(face).save(
                    root / FOLDERS[label] / f"S{subject:03}_{number:03}_{frame + 1:08}.png"
                )
    out = tmp_path / "out"
    run(root, out, "--epochs", 1, "--bs", 8, "--fold", 1, "--folds", "by-name", "--sharing", "none")
    assert {row["Subject"] for row in table(out / "folds.csv") if row["Fold"] == "1"} == {
        "S000",
        "S001",
    }
    network, content = checkpoint.load_model(out / "CK+_FERSNet" / "Fold01_model_classify.t7")
    assert content["held_out"] == ["S000", "S001"]
    right = []
    for subject in range(2):
        for number in range(2):
            frames = sorted(root.glob(f"*/S{subject:03}_{number:03}_*.png"))
            pictures = (
                torch.from_numpy(np.stack([np.array(Image.open(frame)) for frame in frames]))[
                    :, None
                ]
                / 255
            )
            with torch.no_grad():
                logits = network(pictures)["classify"]
            votes = logits.argmax(1).tolist()
            best = max(
                votes,
                key=lambda label: (votes.count(label), logits.softmax(1)[:, label].sum().item()),
            )
            right.append(FOLDERS[best] == frames[0].parent.name)
    (result, _) = table(out / "AccProcess_folds.csv")
    assert (result["Faces"], result["Sequences"]) == ("12", "4")
    assert float(result["LastSeqAcc"]) == pytest.approx(100 * np.mean(right), abs=0.001)


def test_the_official_release_of_ck_is_trained_at_96x96(tmp_path, monkeypatch):
    few_folds(monkeypatch, 2)
    monkeypatch.setattr(mainpro_FER, "largest_face", lambda grey: (50, 100, 230))
    root = write_files(tmp_path / "CK+", released_tree([1, 2, 3, 4, 5, 6, 7, None]))
    out = tmp_path / "out"
    assert run(root, out, "--epochs", 1, "--bs", 8, "--recipe", "paper", "--synthetic", 2) == 0
    assert "21 faces of 7 subjects, 96x96" in (out / "data.txt").read_text()
    synthesizer = FaceSynthesizer(out / "CK+_FERSNet", "cpu", "fp32")
    assert synthesizer.size == 96
    faces = ckplus.load(root, mainpro_FER.largest_face).images[:2].numpy()
    assert synthesizer.synthesize(faces, ("Happy",)).shape == (2, 1, 96, 96)
    assert {row["Fold"] for row in table(out / "folds.csv")} == {"1", "2"}


@pytest.mark.parametrize("size", (48, 96))
def test_oulu_casia_is_trained_from_its_own_layout(tmp_path, monkeypatch, size):
    few_folds(monkeypatch, 2)
    tree = {
        f"Preprocess Img/VL_Acropped/Strong/{name}": content
        for name, content in oulu_tree(3, size=size).items()
    }
    root, out = write_files(tmp_path / "Oulu", tree), tmp_path / "out"
    assert run(root, out, "--epochs", 1, "--bs", 8, dataset="Oulu-CASIA") == 0
    *results, overall = table(out / "AccProcess_folds.csv")
    assert (overall["Faces"], overall["Sequences"]) == ("54", "18") and len(results) == 2
    network, content = checkpoint.load_model(
        out / "Oulu-CASIA_FERSNet" / "Fold01_model_classify.t7"
    )
    assert content["class_names"] == ["Angry", "Disgust", "Fear", "Happy", "Sad", "Surprise"]
    assert content["options"]["size"] == size and network.synthesizes


def test_the_result_is_that_of_the_saved_network(tree, tmp_path):
    run(tree, tmp_path, "--epochs", 1, "--bs", 8, "--fold", 3, "--sharing", "none")
    faces = ckplus.load(tree)
    held_out = faces.select(assign_folds(faces.labels, faces.subjects) == 2)
    network, content = checkpoint.load_model(tmp_path / "CK+_FERSNet" / "Fold03_model_classify.t7")
    pictures = held_out.images[:, None].float() / 255 - content["preprocessing"]["mean"]
    with torch.no_grad():
        logits = network(pictures / content["preprocessing"]["std"])["classify"]
    accuracy = 100 * np.mean(logits.argmax(1).numpy() == held_out.labels.numpy())
    (result, _) = table(tmp_path / "AccProcess_folds.csv")
    assert float(result["LastAcc"]) == pytest.approx(accuracy, abs=0.001)
    assert result["L1"] == ""  # this network draws nothing
    assert {
        (row["TrainL1"], row["TestL1"]) for row in table(tmp_path / "AccProcess_classify.csv")
    } == {("", "")}


def agreeing(monkeypatch):
    """Let tuning take whatever was synthesized: so small a network may read none of it as wanted."""
    recipe = replace(FERSNET_RECIPES["default"], agreed=False)
    monkeypatch.setitem(FERSNET_RECIPES, "default", recipe)


def test_no_subject_of_the_held_out_fold_is_learnt_from(tree, tmp_path, monkeypatch):
    seen = []

    def spy(name, original):
        def called(*arguments, **named):
            seen.append(
                (name, {tuple(face.flatten().tolist()) for a in arguments for face in images_of(a)})
            )
            return original(*arguments, **named)

        return called

    def images_of(argument):
        found = getattr(argument, "images", argument)
        return (
            found
            if isinstance(found, torch.Tensor) and found.dtype == torch.uint8 and found.ndim == 3
            else ()
        )

    for module, name in (
        (fold_run, "identity_network"),
        (fold_run, "expression_network"),
        (fold_run, "train_classifier"),
        (fold_run, "synthesize_to_balance"),
        (cross_validation, "train_one_epoch"),
    ):
        monkeypatch.setattr(module, name, spy(name, getattr(module, name)))
    agreeing(monkeypatch)
    run(tree, tmp_path, "--epochs", 1, "--bs", 8, "--fold", 2, "--synthetic", 3)
    faces = ckplus.load(tree)
    held_out = faces.select(assign_folds(faces.labels, faces.subjects) == 1)
    forbidden = {tuple(face.flatten().tolist()) for face in held_out.images}
    assert [name for name, _ in seen] == [
        "identity_network", "expression_network", "train_one_epoch", "synthesize_to_balance", "train_classifier",
    ]  # fmt: skip
    for name, pictures in seen:
        assert len(pictures) >= 30 and not pictures & forbidden, name


@pytest.mark.parametrize("recipe", ("default", "paper"))
def test_tuning_leaves_out_faces_in_which_the_network_reads_something_else(
    tree, tmp_path, monkeypatch, capsys, recipe
):
    """Here it reads the first expression in whatever it synthesized."""
    made, learnt = [], []

    def synthesize(*arguments):
        made.extend(synthesize_to_balance(*arguments))
        return tuple(made)

    def tune(network, images, labels, *arguments, **options):
        learnt.extend((images, labels))
        return train_classifier(network, images, labels, *arguments, **options)

    monkeypatch.setattr(fold_run, "synthesize_to_balance", synthesize)
    monkeypatch.setattr(fold_run, "train_classifier", tune)
    monkeypatch.setattr(
        fold_run, "recognize", lambda network, images, runtime: torch.eye(7)[[0] * len(images)]
    )
    run(tree, tmp_path, "--epochs", 1, "--bs", 8, "--fold", 2, "--synthetic", 20, "--recipe", recipe, "--folds",
        "balanced")  # fmt: skip
    (images, wanted), (tuned_with, labels), faces = made, learnt, ckplus.load(tree)
    real = faces.select(assign_folds(faces.labels, faces.subjects) != 1)
    kept = wanted == 0 if recipe == "default" else wanted >= 0
    assert 0 < kept.sum() and (recipe == "paper" or kept.sum() < 20)
    assert torch.equal(tuned_with, torch.cat((real.images, images[kept])))
    assert torch.equal(labels, torch.cat((real.labels, wanted[kept])))
    left_out = 20 - int(kept.sum())
    for told in (capsys.readouterr().out, (tmp_path / "run.log").read_text()):
        assert "tuning with 20 synthesized faces" in told
        assert (f"less {left_out} in which" in told) == (recipe == "default")


class StopAt:
    """A `StopRequest` that asks to stop when it is asked for the n-th time."""

    left = 0

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def at_once(self):
        return nullcontext()

    def __call__(self):
        StopAt.left -= 1
        return StopAt.left == 0


@pytest.mark.parametrize("sharing", ("hard", "selective"))
def test_a_resumed_run_ends_like_one_that_was_never_interrupted(
    tree, tmp_path, monkeypatch, capsys, sharing
):
    flags = ("--epochs", 2, "--bs", 8, "--sharing", sharing, "--synthetic", 4)
    few_folds(monkeypatch, 3)
    assert run(tree, tmp_path / "whole", *flags) == 0
    monkeypatch.setattr(cross_validation, "StopRequest", StopAt)
    interrupted, resume = tmp_path / "interrupted", ()
    # In the middle of an epoch, between epochs, right before a fold ends.
    for stop_after in (2, 3, 2, 4, 3):
        StopAt.left = stop_after
        code = run(tree, interrupted, *flags, *resume)
        assert code == 130, stop_after
        resume = ("--resume",)
    StopAt.left = 10**6
    assert run(tree, interrupted, *flags, "--resume") == 0
    told = re.search(r"Go on with: python mainpro_FER.py (.*)", capsys.readouterr().out)
    assert told and "--resume --dataset CK+" in told[1]
    whole, again = everything(tmp_path / "whole"), everything(interrupted)
    assert whole.keys() == again.keys() and len(whole) > 10
    for name, content in whole.items():
        assert again[name] == content, name


def test_what_a_killed_run_lacks_is_repeated_with_the_same_result(tree, tmp_path, monkeypatch):
    flags = ("--epochs", 3, "--bs", 8, "--fold", 1, "--sharing", "hard")
    run(tree, tmp_path / "whole", *flags)

    def killed(*arguments, **named):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fold_run.FoldRun, "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            run(tree, tmp_path / "killed", *flags)
    assert run(tree, tmp_path / "killed", *flags, "--resume") == 0
    assert everything(tmp_path / "killed") == everything(tmp_path / "whole")


@pytest.mark.parametrize("changed", (("--fold", 2, "--epochs", 2), ("--fold", 1, "--seed", 1)))
def test_an_earlier_run_of_other_settings_is_moved_aside(tree, tmp_path, changed):
    flags = ("--epochs", 1, "--bs", 8, "--sharing", "none")
    run(tree, tmp_path, *flags, "--fold", 1)
    first = everything(tmp_path)
    run(tree, tmp_path, *flags, *changed)
    (moved,) = (tmp_path / "previous").iterdir()
    assert everything(moved) == first


def test_folds_trained_one_by_one_end_as_those_of_one_command(tree, tmp_path, monkeypatch, capsys):
    few_folds(monkeypatch, 3)
    flags = ("--epochs", 2, "--bs", 8, "--sharing", "hard")
    assert run(tree, tmp_path / "whole", *flags) == 0
    for fold in (3, 1):
        assert run(tree, tmp_path / "joined", *flags, "--fold", fold) == 0
    capsys.readouterr()
    assert run(tree, tmp_path / "joined", *flags) == 0  # what is missing
    assert capsys.readouterr().out.count("is finished") == 2
    assert not (tmp_path / "joined" / "previous").exists()
    whole, joined = everything(tmp_path / "whole"), everything(tmp_path / "joined")
    for name in (
        whole.keys() | joined.keys()
    ):  # a result tells which folds its command was asked for
        assert name.endswith(".json") or joined[name] == whole[name], name


def test_what_an_interrupted_run_left_of_a_fold_is_moved_aside(tree, tmp_path, monkeypatch):
    flags = ("--epochs", 2, "--bs", 8, "--sharing", "none")
    assert run(tree, tmp_path / "whole", *flags, "--fold", 2) == 0
    assert run(tree, tmp_path / "out", *flags, "--fold", 1) == 0
    with monkeypatch.context() as patch:
        patch.setattr(cross_validation, "StopRequest", StopAt)
        StopAt.left = 3
        assert run(tree, tmp_path / "out", *flags, "--fold", 2) == 130
    assert run(tree, tmp_path / "out", *flags, "--fold", 2) == 0
    (moved,) = (tmp_path / "out" / "previous").iterdir()
    assert {path.name for path in moved.rglob("*") if path.is_file()} == {
        "fold2.json",
        "last_fold2.t7",
    }
    folder = "CK+_FERSNet"
    whole, again = (tmp_path / name / folder / "fold2.json" for name in ("whole", "out"))
    assert whole.read_bytes() == again.read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_several_commands_train_several_folds_at_a_time(tree, tmp_path):
    """Neither moves or overwrites what the other has, and another kind of run is refused meanwhile."""
    flags = ("--model", "FERSNetHalf", "--bs", 4, "--sharing", "none", "--epochs", 3)
    flags = ("--dataset", "CK+", "--data", tree, *flags, "--device", "cpu", "--precision", "fp32")
    command = [sys.executable, "mainpro_FER.py", *map(str, flags), "--out"]
    options = {
        "cwd": ROOT,
        "env": {**os.environ, "OMP_NUM_THREADS": "1"},
        "stdout": subprocess.PIPE,
        "text": True,
    }
    out = tmp_path / "together"
    both = [subprocess.Popen([*command, out, "--fold", fold], **options) for fold in "12"]
    while not all((out / f"fold{fold}.lock").exists() for fold in "12"):
        time.sleep(0.05)
    with pytest.raises(UserError, match="Another run"):
        run_program(out, "--dataset", "Demo", "--model", "Narrow", "--limit", 8)
    for process in both:
        assert process.wait() == 0, process.communicate()
    for fold in "12":
        assert (
            subprocess.run([*command, tmp_path / "apart", "--fold", fold], **options).returncode
            == 0
        )
    assert everything(out) == everything(tmp_path / "apart") and not (out / "previous").exists()


def test_a_run_whose_data_were_moved_goes_on(tree, tmp_path):
    flags = ("--epochs", 1, "--bs", 8, "--sharing", "none")
    out, moved = tmp_path / "out", tmp_path / "moved"
    assert run(tree, out, *flags, "--fold", 1) == 0
    shutil.copytree(tree, moved)
    assert run(moved, out, *flags, "--fold", 2) == 0
    assert run(moved, out, "--resume") == 0
    assert not (out / "previous").exists()
    assert [row["Fold"] for row in table(out / "AccProcess_folds.csv")] == ["1", "2", "all"]
    (moved / "happy" / sorted(path.name for path in (moved / "happy").iterdir())[0]).unlink()
    with pytest.raises(UserError, match="faces"):
        run(moved, out, "--resume")


@pytest.mark.parametrize("agreed", [0, 1])
def test_nothing_is_called_tuned_without_a_synthesized_face(tree, tmp_path, monkeypatch, agreed):
    """The network may read none of them as wanted; then further epochs on real faces would be all that tuned it."""

    def nobody_but(network, images, runtime, *view):
        logits = torch.zeros(len(images), 7)
        logits[:, 6] = 1  # those wanted as surprised agree
        return logits

    def all_of(wanted):
        def synthesize(network, faces, count, seed, runtime):
            return faces.images[:count], torch.full((count,), wanted)

        return synthesize

    monkeypatch.setattr(fold_run, "recognize", nobody_but)
    monkeypatch.setattr(fold_run, "synthesize_to_balance", all_of(6 if agreed else 0))
    assert (
        run(
            tree,
            tmp_path,
            "--epochs",
            1,
            "--bs",
            8,
            "--synthetic",
            5,
            "--sharing",
            "hard",
            "--fold",
            1,
        )
        == 0
    )
    result = table(tmp_path / "AccProcess_folds.csv")[0]
    told = (tmp_path / "data.txt").read_text(encoding="utf-8")
    assert int(result["TunedWithFaces"]) == 5 * agreed and (result["TunedAcc"] != "") == bool(
        agreed
    )
    assert ("tuned with 5 synthesized faces" in told) == bool(agreed)
    assert len(list(tmp_path.glob("*/Fold01_model_tuned.t7"))) == agreed


def test_resuming_on_other_faces_is_refused(tree, tmp_path):
    flags = ("--epochs", 1, "--bs", 8, "--fold", 1, "--sharing", "none")
    own = Path(shutil.copytree(tree, tmp_path / "CK+48"))
    run(own, tmp_path / "out", *flags)
    changed = next(own.rglob("*.png"))
    Image.fromarray(255 - np.array(Image.open(changed))).save(changed)
    with pytest.raises(UserError, match="faces"):
        run(own, tmp_path / "out", *flags, "--resume")


def test_pre_training_is_used_and_its_absence_told(tree, tmp_path):
    torch.manual_seed(1)
    pre = tmp_path / "pre.t7"
    checkpoint.save(pre, {"net": FERSNet(sharing="none", base=4).state_dict()})
    flags = ("--epochs", 1, "--bs", 8, "--fold", 1, "--sharing", "none")
    run(tree, tmp_path / "with", *flags, "--pretrain", pre)
    run(tree, tmp_path / "without", *flags)
    name = "Fold01_model_classify.t7"
    assert everything(tmp_path / "with")[name] != everything(tmp_path / "without")[name]
    told = (tmp_path / "with" / "data.txt").read_text()
    assert f"pre-trained: {pre}" in told and "Overall, 1 fold\n" in told
    with pytest.raises(UserError, match=r"gone\.t7 does not exist"):
        run(tree, tmp_path / "gone", *flags, "--pretrain", tmp_path / "gone.t7")
    assert not (tmp_path / "gone" / "data.txt").exists()


def test_what_cannot_serve_as_pre_training_is_refused_before_anything_is_moved(
    tree, tmp_path, monkeypatch
):
    flags = ("--epochs", 1, "--bs", 8, "--sharing", "none")
    run(tree, tmp_path / "out", *flags, "--fold", 2)
    earlier = everything(tmp_path / "out")
    wide = tmp_path / "wide.t7"
    checkpoint.save(wide, {"net": FERSNet(sharing="none", base=8).state_dict()})
    with pytest.raises(UserError, match="other widths"):
        run(tree, tmp_path / "out", *flags, "--fold", 1, "--pretrain", wide)
    mine = tmp_path / "out" / "CK+_FERSNet" / "Fold02_model_classify.t7"
    with pytest.raises(UserError, match=r"of the people of fold 1 \(S"):
        run(tree, tmp_path / "out", *flags, "--fold", 1, "--pretrain", mine)
    assert everything(tmp_path / "out") == earlier and not (tmp_path / "out" / "previous").exists()
    assert (
        run(tree, tmp_path / "more", *flags, "--fold", 2, "--pretrain", mine) == 0
    )  # which has not seen them


def test_records_of_another_run_are_moved_aside_and_the_folds_are_those_of_the_run(tree, tmp_path):
    flags = ("--epochs", 1, "--bs", 8, "--sharing", "none")
    for way in ("joined", "resumed"):
        out = tmp_path / way
        run(tree, out, *flags, "--fold", 1)
        folds = (out / "folds.csv").read_bytes()
        run(tree, out, *flags, "--fold", 1, "--folds", "by-name", "--model", "FERSNetHalf")
        others = {path.name: path.read_bytes() for path in out.glob("*.csv")}
        assert others["folds.csv"] != folds
        run(
            tree,
            out,
            *flags,
            *(("--fold", 2) if way == "joined" else ("--model", "FERSNet", "--resume")),
        )
        assert (out / "folds.csv").read_bytes() == folds
        moved = max((out / "previous").iterdir(), key=lambda path: path.stat().st_mtime_ns)
        assert {path.name: path.read_bytes() for path in moved.glob("*.csv")} == others


@pytest.mark.parametrize(
    "dataset, flags",
    (
        ("CK+", "--tasks classify"),
        ("CK+", "--consistency 0"),
        ("CK+", "--sharing trunk"),
        ("CK+", "--model ResNet18RegressionTwoOutputs"),
        ("CK+", "--recipe demo"),
        ("Demo", "--fold 1"),
        ("Demo", "--sharing hard"),
        ("Demo", "--model FERSNet --sharing selective"),
        ("Demo", "--model FERSNet --tasks regressV"),
    ),
)
def test_flags_that_do_not_go_together_are_refused(tmp_path, dataset, flags):
    with pytest.raises(UserError, match=flags.split()[-2]):
        run_program(tmp_path, "--dataset", dataset, *flags.split())
    assert not list(tmp_path.iterdir())


def test_fersnet_learns_to_recognize_from_faces_without_subjects(tmp_path):
    parser = build_parser()
    flags = [
        "--dataset",
        "Demo",
        "--model",
        "FERSNet",
        "--limit",
        "32",
        "--epochs",
        "1",
        "--out",
        str(tmp_path),
    ]
    assert (
        mainpro_FER.main(parser.parse_args([*flags, "--device", "cpu", "--precision", "fp32"])) == 0
    )
    network, _ = checkpoint.load_model(tmp_path / "Demo_FERSNet" / "PublicTest_model_classify.t7")
    assert network.sharing == "none" and network.tasks == ("classify",)
    (recipe,) = [
        line
        for line in (tmp_path / "data.txt").read_text().splitlines()
        if line.startswith("recipe: ")
    ]
    assert "epochs 1" in recipe and not any(
        name in recipe for name in ("dropout", "width", "consistency")
    )
    checkpoint.load_pretrained(
        FERSNet(sharing="selective", base=4),
        tmp_path / "Demo_FERSNet" / "PublicTest_model_classify.t7",
    )


@pytest.mark.parametrize("phase", ["identity_network", "expression_network", "train_classifier"])
def test_ctrl_c_works_in_every_phase_of_a_fold(tree, tmp_path, monkeypatch, capsys, phase):
    """While the networks of identity and expression are trained, and while the recognition is tuned."""
    agreeing(monkeypatch)
    flags = ("--epochs", 1, "--bs", 8, "--fold", 1, "--synthetic", 4)
    assert run(tree, tmp_path / "whole", *flags) == 0

    def interrupted(*arguments, **options):
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the signal came too late")

    with monkeypatch.context() as patch:
        patch.setattr(fold_run, phase, interrupted)
        assert run(tree, tmp_path / "stopped", *flags) == 130
    assert "Go on with" in capsys.readouterr().out
    assert run(tree, tmp_path / "stopped", *flags, "--resume") == 0
    assert everything(tmp_path / "stopped") == everything(tmp_path / "whole")
