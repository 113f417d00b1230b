"""Pictures in folders of classes, train/<class>/ and test/<class>/."""

import os
import shutil
import warnings

import numpy as np
import pytest
from PIL import Image

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
    read_h5,
    read_pictures,
    write_files,
    write_zip,
)

SPLITS = tuple(SPLIT_FILES)


def write_pictures(folder, splits=("train", "test"), classes=CLASS_FOLDERS, count=2):
    """Write the pictures of `class_folders`; returns {split: {(label, pixels as bytes)}}."""
    members, faces = class_folders(splits, classes, count)
    write_files(folder, members)
    return faces


def zipped(folder, path, prefix=""):
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    return write_zip(
        path,
        {f"{prefix}{file.relative_to(folder).as_posix()}": file.read_bytes() for file in files},
    )


# The splits


def test_without_a_public_split_a_tenth_of_the_training_faces_becomes_it(tmp_path, capsys):
    made = write_pictures(tmp_path, count=10)
    found = read_pictures(ensure(tmp_path))
    assert found["PrivateTest"] == made["test"]
    assert found["Training"] | found["PublicTest"] == made["train"]
    assert not found["Training"] & found["PublicTest"]
    assert sorted(label for label, _ in found["PublicTest"]) == list(
        range(7)
    )  # one of ten, of each class
    assert "tenth" in capsys.readouterr().out
    assert "tenth" in load(tmp_path).description
    assert read_pictures(ensure(tmp_path, tmp_path / "again.h5")) == found


@pytest.mark.parametrize(
    "alone",
    [2, pytest.param(0, marks=pytest.mark.xfail(strict=True, reason="one of a pair is drawn"))],
)
def test_a_picture_that_is_there_twice_is_not_in_both_splits(tmp_path, alone):
    """One of its two would be trained on, the other would choose the epoch. alone: pictures without a copy."""
    write_pictures(tmp_path, count=10)
    for folder in sorted((tmp_path / "train").iterdir()):
        for path in sorted(folder.iterdir())[alone:]:
            shutil.copy(path, path.with_name(f"copy of {path.name}"))
    found = read_pictures(ensure(tmp_path))
    assert found["PublicTest"] and not found["Training"] & found["PublicTest"]


@pytest.mark.parametrize(
    "words",
    [
        ("train", "val", "test"),
        ("Training", "Validation", "PrivateTest"),
        ("train", "PublicTest", "private_test"),
    ],
)
def test_a_validation_folder_is_the_public_split(tmp_path, words):
    made = write_pictures(tmp_path / "images", words)
    assert read_pictures(ensure(tmp_path)) == {
        split: made[word] for split, word in zip(SPLITS, words, strict=True)
    }


def test_where_validation_is_all_there_is_beside_training_it_is_the_test(tmp_path):
    made = write_pictures(tmp_path, ("train", "validation"), count=10)
    found = read_pictures(ensure(tmp_path))
    assert found["PrivateTest"] == made["validation"] and len(found["PublicTest"]) == 7


@pytest.mark.parametrize("splits", [("train", "test"), ("train", "val", "test")])
@pytest.mark.parametrize("way", ["ZIPs", "folders"])
def test_places_that_complete_each_other_are_one(tmp_path, splits, way):
    made = write_pictures(tmp_path / "made", splits, count=10)
    for split in splits:
        place = tmp_path / "source" / f"{split} alone" / split
        if way == "folders":
            shutil.copytree(tmp_path / "made" / split, place)
        else:
            place.parent.parent.mkdir(exist_ok=True)
            zipped(tmp_path / "made" / split, tmp_path / "source" / f"{split}.zip", f"{split}/")
    found = read_pictures(ensure(tmp_path / "source"))
    assert found["PrivateTest"] == made["test"]
    if "val" in splits:
        assert found["Training"] == made["train"] and found["PublicTest"] == made["val"]
    else:
        assert found["Training"] | found["PublicTest"] == made["train"]


# The classes


@pytest.mark.parametrize(
    "classes",
    [
        {label: str(label) for label in CLASS_FOLDERS},
        CLASS_FOLDERS | {0: "0 angry", 4: "SADNESS", 5: "surprised", 6: "6_Neutral"},
        CLASS_FOLDERS | {0: "Anger", 3: "happiness", 2: "Fearful"},
    ],
)
def test_spellings_of_the_folders_of_classes(tmp_path, classes):
    made = write_pictures(tmp_path, classes=classes)
    assert read_pictures(ensure(tmp_path))["PrivateTest"] == made["test"]


def test_numbers_that_are_not_those_of_fer2013_are_refused(tmp_path, refused):
    write_pictures(tmp_path, classes={label: str(label + 1) for label in CLASS_FOLDERS}, count=1)
    refused(tmp_path, "7")


def test_contempt_and_an_unknown_class_beside_all_seven_are_left_out_which_is_said(
    tmp_path, capsys
):
    made = write_pictures(tmp_path, classes=CLASS_FOLDERS | {7: "contempt", 8: "Unclear"})
    found = read_pictures(ensure(tmp_path))
    assert found["PrivateTest"] == {face for face in made["test"] if face[0] < 7}
    said = capsys.readouterr().out
    assert "contempt" in said and "Unclear" in said


def test_an_unknown_class_where_a_known_one_is_missing_is_refused(tmp_path, refused):
    write_pictures(tmp_path / "more", classes=CLASS_FOLDERS | {5: "Astonished"})
    refused(tmp_path, "more/test", "Astonished")
    write_files(tmp_path, {"fer2013.csv": plain_table()})  # another source is not blocked by that
    assert {
        split: len(faces) for split, faces in read_h5(ensure(tmp_path)).items()
    } == dict.fromkeys(SPLITS, 3)


def test_a_class_without_a_face_in_one_split_is_named(tmp_path, capsys):
    write_pictures(tmp_path, ("train", "val", "test"), count=1)
    shutil.rmtree(tmp_path / "train" / "happy")
    description = load(tmp_path).description
    assert (
        "Happy" in description and "Training" in description and "Happy" in capsys.readouterr().out
    )


# What cannot be read


def test_a_broken_picture_is_dropped_with_its_reason(tmp_path):
    made = write_pictures(tmp_path / "fer", ("train", "val", "test"))
    broken = {
        f"test/{name}/0.png": content
        for name, content in (("sad", b"\x89PNG broken"), ("happy", b""))
    }
    write_files(tmp_path / "fer", broken)
    found = read_pictures(ensure(tmp_path))
    assert found["Training"] == made["train"] and len(found["PrivateTest"]) == len(made["test"]) - 2
    named = [(split, next(name for name in broken if name in f"{file}/{row}")) for split, file, row, _ in
             dropped_rows(tmp_path)]  # fmt: skip
    assert sorted(named) == [("PrivateTest", name) for name in sorted(broken)]


LOSES = pytest.mark.xfail(strict=True, reason="the others are prepared without it")


@pytest.mark.parametrize(
    "lost", ["", pytest.param("train", marks=LOSES), pytest.param("test", marks=LOSES)]
)
def test_a_split_that_loses_all_its_pictures_is_named(tmp_path, refused, lost):
    members, _ = class_folders(count=1)
    write_files(
        tmp_path,
        {name: b"broken" if name.startswith(lost) else face for name, face in members.items()},
    )
    refused(tmp_path, lost)


def test_other_sizes_and_colours_are_brought_to_48_grey_and_that_is_said(tmp_path, capsys):
    write_pictures(tmp_path, ("train", "val", "test"), count=1)
    face = image(77).reshape(48, 48)
    large = np.kron(face, np.ones((3, 3), np.uint8))
    wide = np.zeros((144, 164, 3), np.uint8)
    wide[:, 10:-10] = large[:, :, None]
    wide[:, :10, 0] = 255
    write_files(
        tmp_path, {"test/angry/0.png": png(wide), "test/sad/0.png": png(np.dstack([face] * 3))}
    )
    found = {
        label: np.frombuffer(pixels, np.uint8)
        for label, pixels in read_pictures(ensure(tmp_path))["PrivateTest"]
    }
    assert "48" in capsys.readouterr().out and "48" in load(tmp_path).description
    assert np.array_equal(found[4], face.ravel())  # of three equal channels
    # Of random pixels, which the filter smooths; any other picture differs by 85.
    assert np.abs(found[0].astype(int) - face.ravel()).mean() < 25


def test_pictures_may_be_jpeg(tmp_path):
    write_pictures(tmp_path, ("train", "val", "test"), count=1)
    smooth = np.add.outer(np.arange(48), np.arange(48)).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "test" / "sad" / "0.jpg", quality=95)
    (tmp_path / "test" / "sad" / "0.png").unlink()
    found = dict(read_pictures(ensure(tmp_path))["PrivateTest"])
    assert np.abs(np.frombuffer(found[4], np.uint8) - smooth.ravel().astype(int)).max() < 8


# What lies where


@pytest.mark.parametrize(
    ("first", "second", "split"),
    [
        ("test", "test - Kopie", "PrivateTest"),
        ("test", "test 2", "PrivateTest"),
        ("train", "train - Copy", "Training"),
    ],
)
@pytest.mark.parametrize("container", ["folder", "ZIP"])
def test_two_folders_of_one_split_are_refused(tmp_path, refused, container, first, second, split):
    write_pictures(tmp_path / "a", ("train", "test"), count=1)
    write_pictures(tmp_path / "a", (second,), count=1)
    source = tmp_path if container == "folder" else zipped(tmp_path / "a", tmp_path / "a.zip")
    refused(source, f"/{first}", f"/{second}", split)


def test_a_folder_of_a_split_beside_its_archive_is_refused(tmp_path, refused):
    write_pictures(tmp_path, count=1)
    zipped(tmp_path / "train", tmp_path / "train.zip")
    refused(tmp_path, "train.zip", "Training")


def test_two_folders_of_one_split_do_not_block_another_source(tmp_path, capsys):
    write_pictures(tmp_path / "a", ("train", "test", "test2"), count=1)
    made = write_pictures(tmp_path / "b", ("train", "val", "test"), count=2)
    assert read_pictures(ensure(tmp_path))["PrivateTest"] == made["test"]
    assert "a/test2" in capsys.readouterr().out


def test_places_that_have_the_same_split_are_not_joined(tmp_path, refused):
    for place in ("a", "b"):
        write_pictures(tmp_path / place, ("train",), count=1)
    write_pictures(tmp_path / "c", ("test",), count=1)
    refused(tmp_path, "a")


def test_a_training_split_alone_is_refused(tmp_path, refused):
    write_pictures(tmp_path, ("train",), count=1)
    refused(tmp_path, "PrivateTest")


def test_pictures_outside_of_folders_of_classes_are_refused(tmp_path, refused):
    write_files(tmp_path, {"photo.png": png(image(0).reshape(48, 48))})
    refused(tmp_path, "train/<class>")


def test_six_folders_deep(tmp_path):
    made = write_pictures(tmp_path / "1" / "2" / "3" / "4", count=1)
    assert read_pictures(ensure(tmp_path))["PrivateTest"] == made["test"]


def test_links_are_followed_but_not_in_circles(tmp_path):
    made = write_pictures(tmp_path / "elsewhere", count=1)
    source = tmp_path / "source"
    source.mkdir()
    os.symlink(tmp_path / "elsewhere", source / "linked", target_is_directory=True)
    os.symlink(tmp_path / "absent", tmp_path / "elsewhere" / "train" / "link.png")
    os.symlink(source, tmp_path / "elsewhere" / "circle", target_is_directory=True)
    assert read_pictures(ensure(source))["PrivateTest"] == made["test"]


def test_pictures_that_moved_are_read_anew(tmp_path):
    """The same files under other names: the faces are the same, their labels and splits are not."""
    write_pictures(tmp_path)
    before = {face: label for label, face in read_pictures(ensure(tmp_path))["PrivateTest"]}
    (tmp_path / "test" / "angry" / "0.png").rename(tmp_path / "test" / "sad" / "new.png")
    moved = read_pictures(ensure(tmp_path))["PrivateTest"]
    assert len(moved) == len(before) and [
        label for label, face in moved if label != before[face]
    ] == [4]
    for old, new in (("test", "x"), ("train", "test"), ("x", "train")):
        (tmp_path / old).rename(tmp_path / new)
    swapped = read_pictures(ensure(tmp_path))
    assert swapped["Training"] | swapped["PublicTest"] == moved


@pytest.mark.xfail(strict=True, reason="threads change the filters of the process at the same time")
def test_reading_pictures_leaves_the_warning_filters_as_they_were(tmp_path):
    write_pictures(tmp_path, count=100)
    with warnings.catch_warnings():
        before = list(warnings.filters)
        ensure(tmp_path)
        assert warnings.filters == before
