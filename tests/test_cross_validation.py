"""Cross-validation as its user runs it: records, folds, resuming, flags that do not fit."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
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
from training.fersnet import cross_validation, guides
from training.fersnet import run as fold_run
from training.fersnet.report import result_files
from utils.files import UserError

FOLDERS = ("anger", "contempt", "disgust", "fear", "happy", "sadness", "surprise")
FOLDER = "CK+_FERSNet"
SHORT = ("--epochs", 1, "--bs", 8, "--sharing", "none")
FULL = ("--epochs", 2, "--bs", 8, "--synthetic", 6, "--no-agreed")


def draw_tree(root):
    """Make a folder like CK+: eleven drawn subjects with three expressions each; returns it."""
    for subject in range(11):
        for number in range(3):
            label = (subject + 2 * number) % 7
            path = root / FOLDERS[label] / f"S{subject:03}_{number:03}_00000001.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw_face(label, CLASS_VAD[label], subject)).save(path)
    return root


def shrink(set_item=dict.__setitem__, set_attribute=setattr, folds=3):
    """Narrow networks and few folds: what is tested is that nothing is lost or mixed up."""
    set_item(MODELS, "FERSNet", partial(FERSNet, base=4))
    set_attribute(guides, "SmallClassifier", partial(SmallClassifier, base=4))
    set_attribute(guides, "GUIDE_EPOCHS", 1)
    for module in (fold_run, cross_validation):
        set_attribute(module, "FOLDS", folds)


@pytest.fixture(scope="module", autouse=True)
def small():
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch.setitem, patch.setattr)
        yield


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return draw_tree(tmp_path_factory.mktemp("data") / "CK+48")


@pytest.fixture(scope="module")
def whole(tree, tmp_path_factory):
    """The output of a run of all folds."""
    out = tmp_path_factory.mktemp("whole")
    assert run(tree, out, *FULL) == 0
    return out


def run(tree, out, *flags, dataset="CK+"):
    fixed = ("--dataset", dataset, "--data", tree, "--precision", "fp32")
    return run_program(out, *fixed, *flags)


def table(path):
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def everything(out):
    """{name: content} of what equal runs write equally; bytes of the tensors of checkpoints."""
    found = {}
    for pattern in ("*.csv", "data.txt", f"{FOLDER}*/*.png", f"{FOLDER}*/fold*.json"):
        found |= {str(path.relative_to(out)): path.read_bytes() for path in out.glob(pattern)}
    for path in out.rglob("Fold*.t7"):
        tensors = checkpoint.load(path)["net"].items()
        found[path.name] = {name: value.numpy().tobytes() for name, value in tensors}
    return found


class StopAt:
    """A `StopRequest` that asks to stop when it is asked for the n-th time."""

    def __init__(self, count):
        self.left = count

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def at_once(self):
        return nullcontext()

    def __call__(self):
        self.left -= 1
        return self.left == 0


@pytest.fixture
def interrupted(monkeypatch):
    """A function that runs until it was asked `count` times whether to stop."""

    def start(count, *arguments):
        stop = StopAt(count)  # one for all folds
        with monkeypatch.context() as patch:
            patch.setattr(cross_validation, "StopRequest", lambda: stop)
            assert run(*arguments) == 130

    return start


# ---------------------------------------------------------------- records


def test_all_folds_are_trained_tested_and_told(tree, whole):
    faces, folder = ckplus.load(tree), whole / FOLDER
    rows, results = (table(whole / f"AccProcess_{name}.csv") for name in ("classify", "folds"))
    assert [(row["Fold"], row["Epoch"]) for row in rows] == [(k, e) for k in "123" for e in "01"]
    assert [result["Fold"] for result in results] == [*"123", "all"]
    fold_of, labels, predicted, hits = assign_folds(faces.labels, faces.subjects, 3), [], [], 0
    *each, overall = results
    for fold, result in enumerate(each):
        tests = [row for row in rows if row["Fold"] == result["Fold"]]
        accuracies = [float(row["TestAcc"]) for row in tests]
        assert result["LastAcc"] == tests[-1]["TestAcc"] and result["L1"] == tests[-1]["TestL1"]
        assert float(result["BestAccOptimistic"]) == max(accuracies)
        assert int(result["BestEpoch"]) == accuracies.index(max(accuracies))
        assert result["TunedWithFaces"] == "6"
        assert float(result["BestTunedAccOptimistic"]) >= float(result["TunedAcc"])
        network, content = checkpoint.load_model(folder / f"Fold{fold + 1:02d}_model_classify.t7")
        held_out = faces.select(fold_of == fold)
        with torch.no_grad():
            read = network(held_out.images[:, None] / 255)["classify"].argmax(1)
        right = (read == held_out.labels).double()
        assert float(result["LastAcc"]) == pytest.approx(100 * right.mean().item(), abs=0.001)
        hits += right.sum().item()
        predicted += read.tolist()
        labels += held_out.labels.tolist()
        assigned = {r["Subject"] for r in table(whole / "folds.csv") if r["Fold"] == str(fold + 1)}
        assert set(content["held_out"]) == assigned
        assert assigned == {faces.subject_names[number] for number in held_out.subjects}
    assert int(overall["Faces"]) == int(overall["Sequences"]) == len(faces) == 33
    assert float(overall["LastAcc"]) == pytest.approx(100 * hits / 33, abs=0.01)
    expected = f1_score(labels, predicted, average="macro")  # of all faces, not a mean of folds
    assert float(overall["LastF1"]) == pytest.approx(expected, abs=1e-6)
    text = (whole / "data.txt").read_text()
    assert "Optimistic" in text and "\t".join(overall.values()) in text
    written = {path.name for path in folder.iterdir()}
    kinds = ("fold{}.json", "fold{}.png", "Fold0{}_model_classify.t7", "Fold0{}_model_tuned.t7")
    files = {kind.format(fold) for fold in "123" for kind in kinds}
    assert written == files | {"Test_confusion.png"}


def test_the_official_release_of_ck_is_trained_at_96x96(tmp_path, monkeypatch):
    monkeypatch.setattr(mainpro_FER, "largest_face", lambda grey: (50, 100, 230))
    root = write_files(tmp_path / "CK+", released_tree([1, 2, 3, 4, 5, 6, 7, None]))
    out = tmp_path / "out"
    flags = ("--epochs", 1, "--bs", 8, "--recipe", "paper", "--synthetic", 2, "--fold", 1)
    assert run(root, out, *flags) == 0
    assert "21 faces of 7 subjects, 96x96" in (out / "data.txt").read_text()
    synthesizer = FaceSynthesizer(out / FOLDER, "cpu", "fp32")
    faces = ckplus.load(root, mainpro_FER.largest_face).images[:2].numpy()
    assert synthesizer.synthesize(faces, ("Happy",)).shape == (2, 1, 96, 96)


def test_oulu_casia_is_trained_from_its_own_layout(tmp_path):
    place = "Preprocess Img/VL_Acropped/Strong"
    tree = {f"{place}/{name}": content for name, content in oulu_tree(3, size=96).items()}
    root, out = write_files(tmp_path / "Oulu", tree), tmp_path / "out"
    assert run(root, out, *SHORT, "--fold", 1, dataset="Oulu-CASIA") == 0
    (result, _) = table(out / "AccProcess_folds.csv")
    assert (result["Faces"], result["Sequences"]) == ("18", "6")
    _, content = checkpoint.load_model(out / "Oulu-CASIA_FERSNet" / "Fold01_model_classify.t7")
    assert content["class_names"] == ["Angry", "Disgust", "Fear", "Happy", "Sad", "Surprise"]
    assert content["options"]["size"] == 96


def test_no_subject_of_the_held_out_fold_is_learnt_from(tree, whole, tmp_path):
    """Their faces replaced by noise, every network is the same."""
    own = Path(shutil.copytree(tree, tmp_path / "CK+48"))
    for row in table(whole / "folds.csv"):
        for path in own.glob(f"*/{row['Subject']}_*.png") if row["Fold"] == "2" else ():
            Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 48), np.uint8)).save(
                path
            )
    run(own, tmp_path / "out", *FULL, "--fold", 2)
    found, expected = everything(tmp_path / "out"), everything(whole)
    for name in ("Fold02_model_classify.t7", "Fold02_model_tuned.t7"):
        assert found[name] == expected[name], name
    assert found[f"{FOLDER}/fold2.png"] != expected[f"{FOLDER}/fold2.png"]


@pytest.mark.parametrize("read_as", [0, 1])
def test_only_synthesized_faces_that_are_read_as_wanted_tune(tree, tmp_path, monkeypatch, read_as):
    wanted = torch.tensor([1, 1, 2, 1, 3])

    def synthesize(network, faces, count, seed, runtime):
        return faces.images[:count], wanted

    def recognize(network, images, runtime):
        return torch.eye(7)[[read_as] * len(images)]

    monkeypatch.setattr(fold_run, "synthesize_to_balance", synthesize)
    monkeypatch.setattr(fold_run, "recognize", recognize)
    flags = ("--epochs", 1, "--bs", 8, "--synthetic", 5, "--sharing", "hard", "--fold", 1)
    assert run(tree, tmp_path, *flags) == 0
    (result, _), count = table(tmp_path / "AccProcess_folds.csv"), int((wanted == read_as).sum())
    assert int(result["TunedWithFaces"]) == count and (result["TunedAcc"] != "") == bool(count)
    assert len(list(tmp_path.glob("*/Fold01_model_tuned.t7"))) == bool(count)


# ---------------------------------------------------------------- resuming, several commands


@pytest.mark.parametrize("again", [("--resume",), pytest.param((), marks=pytest.mark.slow)])
def test_an_interrupted_run_ends_like_one_that_was_not(
    tree, whole, tmp_path, interrupted, capsys, again
):
    """In the middle of an epoch, between epochs, before a fold ends; with and without --resume."""
    interrupted(2, tree, tmp_path, *FULL)
    for count in (4, 5, 2):
        interrupted(count, tree, tmp_path, *FULL, *again)
    assert "--resume --dataset CK+ --model FERSNet" in capsys.readouterr().out
    assert run(tree, tmp_path, *FULL, *again) == 0
    assert everything(tmp_path) == everything(whole)
    assert not (tmp_path / "previous").exists() and not list(tmp_path.rglob("last_fold*"))


def test_what_a_killed_run_lacks_is_repeated_with_the_same_result(
    tree, whole, tmp_path, monkeypatch
):
    def killed(*arguments):
        raise KeyboardInterrupt

    for patched in ("finish", "record"):
        with monkeypatch.context() as patch:
            patch.setattr(fold_run.FoldRun, patched, killed)
            with pytest.raises(KeyboardInterrupt):
                run(tree, tmp_path, *FULL, *(("--resume",) if patched == "record" else ()))
            (tmp_path / FOLDER / "last_fold1.t7").unlink(missing_ok=True)
    assert run(tree, tmp_path, *FULL, "--resume") == 0
    assert everything(tmp_path) == everything(whole)


@pytest.mark.parametrize("phase", ["identity_network", "expression_network", "supervise"])
def test_ctrl_c_works_in_every_phase_of_a_fold(tree, whole, tmp_path, monkeypatch, phase):
    def interrupt(*arguments, **options):
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the signal came too late")

    with monkeypatch.context() as patch:
        patch.setattr(fold_run, phase, interrupt)
        assert run(tree, tmp_path, *FULL, "--fold", 1) == 130
    assert run(tree, tmp_path, *FULL, "--resume", "--fold", 1) == 0
    found, expected = everything(tmp_path), everything(whole)
    for name in ("Fold01_model_tuned.t7", f"{FOLDER}/fold1.json", f"{FOLDER}/fold1.png"):
        assert found[name] == expected[name], name


@pytest.mark.slow
def test_folds_trained_one_by_one_end_as_those_of_one_command(tree, whole, tmp_path, capsys):
    for fold in (3, 1):
        assert run(tree, tmp_path, *FULL, "--fold", fold) == 0
    capsys.readouterr()
    assert run(tree, tmp_path, *FULL) == 0  # what is missing
    assert capsys.readouterr().out.count("is finished") == 2
    assert everything(tmp_path) == everything(whole) and not (tmp_path / "previous").exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_several_commands_train_several_folds_at_a_time(tree, tmp_path):
    """Neither moves or overwrites what the other has, and another kind of run is refused."""
    flags = ("--dataset", "CK+", "--data", tree, "--model", "FERSNetHalf", "--bs", 4, "--epochs", 3)
    flags = (*flags, "--sharing", "none", "--device", "cpu", "--precision", "fp32", "--out")
    command = [sys.executable, "mainpro_FER.py", *map(str, flags)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    out, apart = tmp_path / "together", tmp_path / "apart"

    def start(folder, fold):
        return subprocess.Popen([*command, folder, "--fold", fold], cwd=ROOT, env=environment)

    both = [start(out, fold) for fold in "12"]
    while not all((out / f"fold{fold}.lock").exists() for fold in "12"):
        time.sleep(0.05)
    with pytest.raises(UserError, match="Another run"):
        run_program(out, "--dataset", "Demo", "--model", "Narrow", "--limit", 8)
    assert [process.wait() for process in both] == [0, 0]
    assert [start(apart, fold).wait() for fold in "12"] == [0, 0]
    assert everything(out) == everything(apart) and not (out / "previous").exists()


# ---------------------------------------------------------------- other settings, other data


def test_an_earlier_run_of_other_settings_is_moved_aside(tree, tmp_path):
    run(tree, tmp_path, *SHORT, "--fold", 1)
    first = everything(tmp_path)
    run(tree, tmp_path, *SHORT, "--fold", 2, "--epochs", 2)
    (moved,) = (tmp_path / "previous").iterdir()
    assert everything(moved) == first


def test_the_report_of_another_model_is_moved_aside_when_the_first_goes_on(tree, tmp_path):
    run(tree, tmp_path, *SHORT, "--fold", 1)
    folds = (tmp_path / "folds.csv").read_bytes()
    for again in (("--fold", 2), ("--model", "FERSNet", "--resume", "--fold", 1)):
        half = ("--model", "FERSNetHalf", "--folds", "by-name", "--fold", 1)
        run(tree, tmp_path, *SHORT, *half)
        others = {path.name: path.read_bytes() for path in tmp_path.glob("*.csv")}
        assert others["folds.csv"] != folds
        run(tree, tmp_path, *SHORT, *again)
        assert (tmp_path / "folds.csv").read_bytes() == folds
        moved = max((tmp_path / "previous").iterdir(), key=lambda path: path.stat().st_mtime_ns)
        assert {path.name: path.read_bytes() for path in moved.glob("*.csv")} == others


def test_data_may_be_moved_but_not_changed(tree, tmp_path):
    out, moved = tmp_path / "out", tmp_path / "moved"
    assert run(tree, out, *SHORT, "--fold", 1) == 0
    shutil.copytree(tree, moved)
    assert run(moved, out, "--resume", "--fold", 2) == 0
    assert not (out / "previous").exists()
    assert [row["Fold"] for row in table(out / "AccProcess_folds.csv")] == ["1", "2", "all"]
    changed = next(moved.rglob("*.png"))
    Image.fromarray(255 - np.array(Image.open(changed))).save(changed)
    with pytest.raises(UserError, match="faces"):
        run(moved, out, "--resume")


def test_pre_training_is_used_and_what_cannot_serve_is_refused(tree, tmp_path):
    torch.manual_seed(1)
    pre, wide = tmp_path / "pre.t7", tmp_path / "wide.t7"
    checkpoint.save(pre, {"net": FERSNet(sharing="none", base=4).state_dict()})
    checkpoint.save(wide, {"net": FERSNet(sharing="none", base=8).state_dict()})
    out, name = tmp_path / "without", "Fold01_model_classify.t7"
    run(tree, tmp_path / "with", *SHORT, "--fold", 1, "--pretrain", pre)
    run(tree, out, *SHORT, "--fold", 1)
    earlier = everything(out)
    assert everything(tmp_path / "with")[name] != earlier[name]
    assert f"pre-trained: {pre}" in (tmp_path / "with" / "data.txt").read_text()
    mine = out / FOLDER / name
    for file, keyword in ((wide, "wide"), (tmp_path / "gone.t7", "gone"), (mine, "people")):
        with pytest.raises(UserError, match=keyword):
            run(tree, out, *SHORT, "--fold", 2, "--pretrain", file)
    assert everything(out) == earlier and not (out / "previous").exists()
    more = tmp_path / "more"
    assert run(tree, more, *SHORT, "--fold", 1, "--pretrain", mine) == 0  # has not seen them


@pytest.mark.parametrize(
    ("dataset", "flags"),
    [
        ("CK+", "--tasks classify"),
        ("CK+", "--consistency 0"),
        ("CK+", "--sharing trunk"),
        ("CK+", "--model ResNet18RegressionTwoOutputs"),
        ("CK+", "--recipe demo"),
        ("Demo", "--fold 1"),
        ("Demo", "--sharing hard"),
        ("Demo", "--model FERSNet --sharing selective"),
        ("Demo", "--model FERSNet --tasks regressV"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(tmp_path, dataset, flags):
    with pytest.raises(UserError, match=flags.split()[-2]):
        run_program(tmp_path, "--dataset", dataset, *flags.split())
    assert not list(tmp_path.iterdir())


def test_fersnet_learns_to_recognize_from_faces_without_subjects(tmp_path):
    flags = "--dataset Demo --model FERSNet --limit 32 --epochs 1 --precision fp32".split()
    assert run_program(tmp_path, *flags) == 0
    path = tmp_path / "Demo_FERSNet" / "PublicTest_model_classify.t7"
    network, _ = checkpoint.load_model(path)
    assert network.sharing == "none" and network.tasks == ("classify",)
    lines = (tmp_path / "data.txt").read_text().splitlines()
    (recipe,) = [line for line in lines if line.startswith("recipe: ")]
    assert "epochs 1" in recipe
    assert not any(name in recipe for name in ("dropout", "width", "consistency"))
    checkpoint.load_pretrained(FERSNet(sharing="selective", base=4), path)


def test_other_files_beside_the_results_are_no_folds(tmp_path):
    for name in ("fold_notes.json", "fold10.json", "fold2.json", "fold3.json.bak"):
        (tmp_path / name).write_text("{}", encoding="utf-8")
    assert result_files(tmp_path) == [tmp_path / "fold2.json", tmp_path / "fold10.json"]
