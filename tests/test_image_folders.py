"""Pictures in folders of classes, train/<class>/ and test/<class>/."""

import os
import shutil
import sys

import numpy as np
import pytest

from data.fer2013.load import load
from data.fer2013.prepare import ensure
from tests.samples import (
    CLASS_FOLDERS,
    SPLIT_FILES,
    class_folders,
    dropped_rows,
    image,
    plain_table,
    png,
    read_pictures,
    write_files,
    write_zip,
)

SPLITS = tuple(SPLIT_FILES)
THREE = ("train", "val", "test")


@pytest.fixture
def made(tmp_path):
    """A function that writes pictures and gives {split: {(label, pixels as bytes)}}."""

    def make(splits=("train", "test"), classes=CLASS_FOLDERS, count=2, place=""):
        members, faces = class_folders(splits, classes, count)
        write_files(tmp_path / place, members)
        return faces

    return make


# The splits


def test_without_a_public_split_a_tenth_of_the_training_faces_becomes_it(made, tmp_path, capsys):
    faces = made(count=10)
    found = read_pictures(ensure(tmp_path))
    assert found["PrivateTest"] == faces["test"]
    assert found["Training"] | found["PublicTest"] == faces["train"]
    assert not found["Training"] & found["PublicTest"]
    assert sorted(label for label, _ in found["PublicTest"]) == list(range(7))  # of each class one
    assert "tenth" in capsys.readouterr().out and "tenth" in load(tmp_path).description
    assert read_pictures(ensure(tmp_path, tmp_path / "again.h5")) == found


def test_a_picture_that_is_there_twice_is_not_in_both_splits(made, tmp_path):
    """One would be trained on, the other would choose the epoch."""
    made(count=10)
    for folder in sorted((tmp_path / "train").iterdir()):
        for path in sorted(folder.iterdir())[2:]:
            shutil.copy(path, path.with_name(f"copy of {path.name}"))
    found = read_pictures(ensure(tmp_path))
    assert len(found["PublicTest"]) == 14 and not found["Training"] & found["PublicTest"]


NAMES = [THREE, ("Training", "Validation", "PrivateTest"), ("train", "PublicTest", "private_test")]


@pytest.mark.parametrize("names", NAMES)
def test_a_validation_folder_is_the_public_split(made, tmp_path, names):
    faces = made(names, place="images")
    assert read_pictures(ensure(tmp_path)) == dict(zip(SPLITS, faces.values(), strict=True))


def test_where_validation_is_all_there_is_beside_training_it_is_the_test(made, tmp_path):
    faces = made(("train", "validation"), count=10)
    found = read_pictures(ensure(tmp_path))
    assert found["PrivateTest"] == faces["validation"] and len(found["PublicTest"]) == 7


@pytest.mark.parametrize("way", ["ZIPs", "folders"])
def test_places_that_complete_each_other_are_one(tmp_path, way):
    members, faces = class_folders(THREE)
    for split in THREE:
        mine = {name: data for name, data in members.items() if name.startswith(split)}
        if way == "ZIPs":
            write_zip(tmp_path / f"{split}.zip", mine)
        else:
            write_files(tmp_path / f"{split} alone", mine)
    assert read_pictures(ensure(tmp_path)) == dict(zip(SPLITS, faces.values(), strict=True))


# The classes

SPELLINGS = [
    {label: str(label) for label in CLASS_FOLDERS},
    CLASS_FOLDERS | {0: "0 angry", 4: "SADNESS", 5: "surprised", 6: "6_Neutral", 2: "Fearful"},
]


@pytest.mark.parametrize("classes", SPELLINGS)
def test_spellings_of_the_folders_of_classes(made, tmp_path, classes):
    faces = made(classes=classes)
    assert read_pictures(ensure(tmp_path))["PrivateTest"] == faces["test"]


def test_other_classes_beside_all_seven_are_left_out_which_is_said(made, tmp_path, capsys):
    faces = made(classes=CLASS_FOLDERS | {7: "contempt", 8: "Unclear"})
    found = read_pictures(ensure(tmp_path))
    assert found["PrivateTest"] == {face for face in faces["test"] if face[0] < 7}
    said = capsys.readouterr().out
    assert "contempt" in said and "Unclear" in said


def test_a_class_without_a_face_in_one_split_is_named(made, tmp_path, capsys):
    made(THREE, count=1)
    shutil.rmtree(tmp_path / "train" / "happy")
    for text in (load(tmp_path).description, capsys.readouterr().out):
        assert "Happy" in text and "Training" in text


# What cannot be read


def test_a_broken_picture_is_dropped_with_its_reason(made, tmp_path):
    faces = made(THREE, place="fer")
    broken = {"test/happy/0.png": b"", "test/sad/0.png": b"\x89PNG broken"}
    write_files(tmp_path / "fer", broken)
    found = read_pictures(ensure(tmp_path))
    assert found["Training"] == faces["train"] and len(found["PrivateTest"]) == 12
    dropped = dropped_rows(tmp_path)
    assert [row[:2] for row in dropped] == [("PrivateTest", f"fer/{name}") for name in broken]
    assert all(reason for *_, reason in dropped)


@pytest.mark.parametrize("lost", ["train", "test", ""])
def test_a_split_that_loses_all_its_pictures_is_refused_by_its_name(refused, lost):
    members, _ = class_folders(count=1)
    refused({name: b"?" if name.startswith(lost) else data for name, data in members.items()}, lost)


def test_other_sizes_and_colours_are_brought_to_48_grey(made, tmp_path):
    made(THREE, count=1)
    face = image(77).reshape(48, 48)
    wide = np.zeros((144, 164, 3), np.uint8)
    wide[:, 10:-10] = np.kron(face, np.ones((3, 3), np.uint8))[:, :, None]
    wide[:, :10, 0] = 255
    channels = png(np.dstack([face] * 3))
    write_files(tmp_path, {"test/angry/0.png": png(wide), "test/sad/0.png": channels})
    found = dict(read_pictures(ensure(tmp_path))["PrivateTest"])
    assert found[4] == face.tobytes()
    # Of random pixels, which the filter smooths; any other picture differs by 85.
    assert np.abs(np.frombuffer(found[0], np.uint8) - face.ravel().astype(int)).mean() < 25


# Where they lie

TWO = ("train", "test")
REFUSED = [  # splits, classes, keywords
    (TWO, {label: str(label + 1) for label in CLASS_FOLDERS}, ["test/7"]),
    (TWO, CLASS_FOLDERS | {5: "Astonished"}, ["a/test", "Astonished"]),
    ((*TWO, "test - Kopie"), CLASS_FOLDERS, ["a/test - Kopie", "a/test"]),
    ((*TWO, "train 2"), CLASS_FOLDERS, ["a/train 2", "a/train"]),
]


@pytest.mark.parametrize(("splits", "classes", "keywords"), REFUSED)
@pytest.mark.parametrize("container", ["folder", "ZIP"])
def test_misleading_folders_are_refused_but_block_no_other_source(
    tmp_path, refused, capsys, container, splits, classes, keywords
):
    members = {f"a/{name}": data for name, data in class_folders(splits, classes, 1)[0].items()}
    if container == "ZIP":
        write_zip(tmp_path / "a.zip", members)
    else:
        write_files(tmp_path, members)
    refused(tmp_path, *keywords)
    write_files(tmp_path, {"fer2013.csv": plain_table()})
    assert len(read_pictures(ensure(tmp_path))["Training"]) == 3
    assert keywords[0] in capsys.readouterr().out


@pytest.mark.skipif(sys.platform == "win32", reason="Windows makes links for administrators only")
def test_links_are_followed_but_not_in_circles(made, tmp_path, capsys):
    """Two to a folder around them would be as many ways as 2**40."""
    faces = made(place="elsewhere", count=1)
    (source := tmp_path / "source").mkdir()
    os.symlink(tmp_path / "elsewhere", source / "linked", target_is_directory=True)
    os.symlink(tmp_path / "absent", tmp_path / "elsewhere" / "train" / "link.png")
    for name in ("one", "two"):
        os.symlink(source, tmp_path / "elsewhere" / name, target_is_directory=True)
        os.symlink(tmp_path / "elsewhere", tmp_path / "elsewhere" / "train" / name)
    assert read_pictures(ensure(source))["PrivateTest"] == faces["test"]
    assert "not used" not in capsys.readouterr().out


def test_pictures_that_moved_are_read_anew(made, tmp_path):
    """The same files under other names: the faces are the same, their labels and splits are not."""
    made()
    before = {face: label for label, face in read_pictures(ensure(tmp_path))["PrivateTest"]}
    (tmp_path / "test" / "angry" / "0.png").rename(tmp_path / "test" / "sad" / "new.png")
    moved = read_pictures(ensure(tmp_path))["PrivateTest"]
    assert [label for label, face in moved if label != before[face]] == [4]
    for old, new in (("test", "x"), ("train", "test"), ("x", "train")):
        (tmp_path / old).rename(tmp_path / new)
    swapped = read_pictures(ensure(tmp_path))
    assert swapped["Training"] | swapped["PublicTest"] == moved
