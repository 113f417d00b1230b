"""From what a user has to three splits in memory, and what is said when a split is missing."""

import subprocess
import sys

import numpy as np
import pytest

from data.fer2013 import load as fer2013
from tests.conftest import ROOT
from utils.files import UserError
from utils.tasks import EMOTIONS

SPLIT_FILES = {"Training": "train.csv", "PublicTest": "publictest.csv", "PrivateTest": "privatetest.csv"}


def write_csv(path, images, labels, vad):
    lines = ["index,emotionLabel,Valence,Arousal,Dominance,emotion,pixels"]
    for index, (image, label, (valence, arousal, dominance)) in enumerate(zip(images, labels, vad, strict=True)):
        pixels = " ".join(map(str, image.ravel()))
        lines.append(f"{index},{label}={EMOTIONS[label]},{valence},{arousal},{dominance},{label},{pixels}")
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    return {
        split: (rng.integers(0, 256, (9, 48, 48)), rng.permutation(9) % 7, rng.integers(-2, 3, (9, 3)))
        for split in SPLIT_FILES
    }


@pytest.fixture
def folder(tmp_path, rows):
    rows["Training"][0][4] = rows["PublicTest"][0][2]  # one face in two splits
    for split, name in SPLIT_FILES.items():
        write_csv(tmp_path / name, *rows[split])
    return tmp_path


def test_every_face_and_annotation_arrives(folder, rows):
    dataset = fer2013.load(folder)
    splits, description = dataset.splits, dataset.description
    assert "annotations" in description
    for split, (images, labels, vad) in rows.items():
        assert np.array_equal(splits[split].images[:].numpy(), images)
        assert np.array_equal(splits[split].labels.numpy(), labels)
        assert np.array_equal(splits[split].vad.numpy(), vad)


def test_what_the_user_says_of_the_annotations_is_repeated(folder):
    assert fer2013.load(folder).description == "FER2013 faces, V/A/D: annotations"
    note = folder / "vad_origin.txt"
    note.write_text("\ufeffderived from class and FER+ votes\nby a regression\n", encoding="utf-8")
    stamp = (folder / "data.h5").stat().st_mtime_ns
    assert fer2013.load(folder).description == "FER2013 faces, V/A/D: derived from class and FER+ votes"
    assert (folder / "data.h5").stat().st_mtime_ns == stamp  # nothing is read anew
    assert fer2013.load(folder / "data.h5").description.endswith("derived from class and FER+ votes")
    note.write_text(" \n")
    with pytest.raises(UserError, match="is empty"):
        fer2013.load(folder)


def test_limit_keeps_faces_from_the_whole_of_a_split(folder, rows):
    """Pictures from folders are sorted by class: the first would all be of one."""
    splits = fer2013.load(folder, limit=4).splits
    assert np.array_equal(splits["PrivateTest"].images[:].numpy(), rows["PrivateTest"][0][[0, 2, 4, 6]])
    for limit in (9, 100):
        assert len(fer2013.load(folder, limit=limit).splits["PrivateTest"]) == 9


def test_dropping_duplicates_concerns_training_faces_alone(folder, rows):
    splits = fer2013.load(folder, drop_duplicates=True, limit=6).splits
    assert np.array_equal(splits["Training"].images[:].numpy(), rows["Training"][0][[0, 1, 2, 5, 6, 7]])
    assert np.array_equal(splits["PublicTest"].images[:].numpy(), rows["PublicTest"][0][[0, 1, 3, 4, 6, 7]])


def test_a_missing_split_is_named_with_what_to_do(folder):
    (folder / "train.csv").unlink()
    with pytest.raises(UserError, match=r"no Training split, only PublicTest \(9 faces\), PrivateTest \(9 faces\)"):
        fer2013.load(folder)


def test_plain_fer2013_trains_the_classification_only(tmp_path, rows):
    lines = ["emotion,pixels,Usage"]
    for split, (images, labels, _) in rows.items():
        for image, label in zip(images, labels, strict=True):
            lines.append(f"{label},{' '.join(map(str, image.ravel()))},{split}")
    (tmp_path / "fer2013.csv").write_text("\n".join(lines))
    command = [sys.executable, "mainpro_FER.py", "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    flags = "--epochs 1 --limit 4 --bs 4 --device cpu --eval center".split()
    done = subprocess.run([*command, *flags], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "training the classification only" in done.stdout
    assert (tmp_path / "out" / "AccProcess_classify.csv").exists()
    assert not (tmp_path / "out" / "AccProcess_regressV.csv").exists()
    assert subprocess.run([*command, *flags, "--resume"], cwd=ROOT).returncode == 0
    refused = subprocess.run([*command, "--tasks", "classify", "regressV"], cwd=ROOT, capture_output=True, text=True)
    assert refused.returncode == 2 and "only --tasks classify" in refused.stderr and "Traceback" not in refused.stderr


@pytest.mark.real
def test_training_refuses_an_archive_of_one_split(real_data, tmp_path):
    archive = tmp_path / "publictest-20251228.rar"
    archive.write_bytes((real_data / "authors" / archive.name).read_bytes())
    command = [sys.executable, "mainpro_FER.py", "--data", str(archive), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "no Training" in done.stderr and "PublicTest (464 faces)" in done.stderr
    assert not (tmp_path / "out").exists()
