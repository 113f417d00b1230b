"""Faces of known people: CK+ and Oulu-CASIA, in folders and in ZIPs."""

import hashlib
import io
import os
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import mainpro_FER
from data.subjects import ckplus, oulu
from tests.samples import (
    CK_FOLDERS,
    OULU_FOLDERS,
    STRONG,
    below,
    ck_tree,
    drawn_face,
    lock_zip,
    oulu_tree,
    png,
    released_tree,
    write_files,
    write_zip,
)
from utils.files import UserError

FACE = png(drawn_face(1))


def pixels(content):
    return np.asarray(Image.open(io.BytesIO(content)))


def without(tree, pattern):
    return {name: content for name, content in tree.items() if not re.search(pattern, name)}


def assert_holds(faces, tree, folders, class_names, where):
    """Every face of the tree; where: places of class folder and subject in the parts of a name."""
    assert faces.files == tuple(sorted(tree)) and len(faces) == len(tree)
    assert faces.class_names == class_names
    assert faces.labels.dtype == faces.subjects.dtype == faces.sequences.dtype == torch.int64
    assert faces.images.dtype == torch.uint8 and faces.subject_names == tuple(
        sorted(faces.subject_names)
    )
    for number, name in enumerate(faces.files):
        assert np.array_equal(faces.images[number].numpy(), pixels(tree[name]))
        folder, subject = (re.split("[/_]", name)[place] for place in where)
        assert folders[faces.labels[number]] == folder
        assert faces.subject_names[faces.subjects[number]] == subject


def assert_is_ck(faces, tree):
    names = ("Angry", "Contempt", "Disgust", "Fear", "Happy", "Sad", "Surprise")
    assert_holds(faces, tree, CK_FOLDERS, names, (0, 1))
    assert faces.subject_names == ("S005", "S010", "S999")


def assert_is_oulu(faces, tree):
    names = ("Angry", "Disgust", "Fear", "Happy", "Sad", "Surprise")
    assert_holds(faces, tree, OULU_FOLDERS, names, (1, 0))


# CK+


def test_ck_is_read_from_a_folder_and_from_a_zip_and_from_what_contains_it(tmp_path):
    tree = ck_tree()
    places = [
        write_files(tmp_path / "plain", tree),
        write_files(tmp_path / "above", below("CK+48", tree)),
        write_zip(tmp_path / "plain.zip", tree),
        write_zip(tmp_path / "above.zip", dict(reversed(below("CK+48", tree).items()))),
    ]
    for place in places:
        assert_is_ck(ckplus.load(place), tree)
    assert len({ckplus.load(place).fingerprint() for place in places}) == 1


def test_only_the_last_three_frames_of_a_longer_sequence_are_used(tmp_path):
    tree = ck_tree(frames=5)
    faces = ckplus.load(write_files(tmp_path, tree))
    assert_is_ck(faces, {name: tree[name] for name in tree if int(name[-12:-4]) >= 10})
    assert "63 faces" in faces.description and "21 sequences" in faces.description
    assert Counter(faces.sequences.tolist()) == dict.fromkeys(range(21), 3)


def test_other_spellings_and_other_files_do_not_matter(tmp_path):
    tree = ck_tree()
    spelled = {"anger": "Angry", "happy": "HAPPINESS", "sadness": "sad"}
    other = {
        re.sub(r"^\w+", lambda word: spelled.get(word[0], word[0]), name): tree[name]
        for name in tree
    }
    junk = ["Thumbs.db", ".hidden.png", "../__MACOSX/fear/._S010_001_00000001.png", "../a.png"]
    other |= {os.path.normpath(f"fear/{name}"): b"x" for name in junk}
    for place in (write_files(tmp_path / "folder", other), write_zip(tmp_path / "a.zip", other)):
        faces = ckplus.load(place)
        found = sorted(map(bytes, faces.images.numpy()))
        assert found == sorted(bytes(pixels(content)) for content in tree.values())
        assert Counter(faces.labels.tolist()) == dict.fromkeys(range(7), 9)


def test_ck_without_contempt_has_six_classes(tmp_path):
    faces = ckplus.load(write_files(tmp_path, without(ck_tree(), "^contempt")))
    assert faces.class_names == ("Angry", "Disgust", "Fear", "Happy", "Sad", "Surprise")
    assert len(faces) == 54 and faces.labels.max() == 5


def test_neutral_pictures_are_left_out_and_that_is_said(tmp_path):
    """Those of people of their own, and first frames of sequences of another class."""
    tree = ck_tree()
    neutral = {f"neutral/{subject}_001_00000001.png": FACE for subject in ("S010", "S020")}
    faces = ckplus.load(write_files(tmp_path, tree | neutral))
    assert_is_ck(faces, tree)
    assert "neutral" in faces.description


def test_ck_is_read_as_it_was_released(tmp_path):
    """Numbers 1 to 7 are the classes; sequences without one are left out; faces are found."""
    tree = released_tree([1, 2, None, 3, 4, 5, 6, 7, 0])
    seen = []

    def find_face(grey):
        seen.append(grey.shape)
        return 50.0, 100.0, 230.0

    parts = {}
    for name, pattern in (("images", "Emotion"), ("labels", "cohn")):
        path = write_zip(tmp_path / f"{name}.zip", without(tree, pattern))
        parts[path.name] = path.read_bytes()
    for place in (
        write_files(tmp_path / "folder", tree),
        write_zip(tmp_path / "all.zip", tree),
        write_files(tmp_path / "two ZIPs", parts),
    ):
        seen.clear()
        faces = ckplus.load(place, find_face)
        assert set(seen) == {(490, 640)} and len(seen) == 21
        assert [name[-7:-4] for name in faces.files] == ["003", "004", "005"] * 7
        assert faces.labels.tolist() == [label for label in range(7) for _ in range(3)]
        assert "S007" not in faces.subject_names and faces.size == 96
        assert "2 sequences" in faces.description
        whole = Image.open(io.BytesIO(tree["cohn-kanade-images/S005/001/S005_001_00000005.png"]))
        expected = whole.crop((50, 100, 280, 330)).resize((96, 96), Image.Resampling.LANCZOS)
        assert np.array_equal(faces.images[2].numpy(), np.asarray(expected))


# Oulu-CASIA


def test_oulu_is_read_at_every_level_and_nothing_else_is(tmp_path):
    tree = oulu_tree()
    last = {name: content for name, content in tree.items() if int(name[-8:-5]) >= 1}
    whole = below(STRONG, tree)
    others = ("Preprocess Img/VL_Acropped/Weak", "Preprocess Img/NI_Acropped/Strong", "VL/Strong")
    for other in others:
        whole |= below(other, dict.fromkeys(tree, b"not to be read"))
    folder = write_files(tmp_path / "above", below("Oulu", whole)) / "Oulu"
    levels = [folder.parent, folder, *(folder / STRONG).parents[:2], folder / STRONG]
    levels += [write_zip(tmp_path / "whole.zip", whole), write_zip(tmp_path / "strong.zip", tree)]
    for level in levels:
        assert_is_oulu(oulu.load(level), last)
    assert len({oulu.load(level).fingerprint() for level in levels}) == 1


def test_frames_follow_each_other_by_number(tmp_path):
    more = {f"P001/Fear/{frame}.jpeg": FACE for frame in (8, 9, 10, 11)}
    files = oulu.load(write_files(tmp_path, oulu_tree(frames=1, people=(1,)) | more)).files
    assert sorted(name[10:-5] for name in files if "Fear" in name) == ["10", "11", "9"]


# What is refused: {case: (loader, {relative name: bytes}, keywords)}

CK, OULU, RELEASED = ck_tree(frames=1), oulu_tree(frames=1), released_tree([1, 2])
LABELS = [name for name in RELEASED if "Emotion" in name]
PICTURE = "fear/S010_004_00000008.png"
FAULTS = {
    "CK+: no class folders": (ckplus, {"S010_001_00000008.png": FACE}, ["folders"]),
    "CK+: a class without pictures": (ckplus, without(CK, "^fear"), ["Fear"]),
    "CK+: a foreign name": (ckplus, CK | {"fear/face1.png": FACE}, ["fear/face1.png"]),
    "CK+: no picture": (ckplus, CK | {PICTURE: b"text"}, [PICTURE]),
    "CK+: two classes": (ckplus, CK | {"happy/S010_004_00000020.png": FACE}, ["004", "Happy"]),
    "CK+: the dataset twice": (ckplus, below("one", CK) | below("two", CK), ["one", "two"]),
    "CK+: no labels": (ckplus, without(RELEASED, "Emotion"), ["Emotion"]),
    "CK+: no images": (ckplus, without(RELEASED, "cohn"), ["cohn-kanade-images"]),
    "CK+: a label of words": (ckplus, RELEASED | dict.fromkeys(LABELS, b"x"), ["emotion"]),
    "Oulu: no subjects": (oulu, {"Anger/000.jpeg": FACE}, ["P001"]),
    "Oulu: an expression missing": (oulu, without(OULU, "P002/Fear"), ["Fear", "P002"]),
    "Oulu: a foreign name": (oulu, OULU | {"P001/Fear/face.png": FACE}, ["P001/Fear/face.png"]),
    "Oulu: a foreign subject": (oulu, OULU | {"Q001/Fear/001.png": FACE}, ["Q001/Fear"]),
    "Oulu: a picture too deep": (oulu, OULU | {"P001/Fear/more/001.png": FACE}, ["more/001.png"]),
    "Oulu: twice": (oulu, below("one", OULU) | below("two", OULU), ["one", "two"]),
}  # fmt: skip


@pytest.mark.parametrize("case", FAULTS)
def test_a_faulty_dataset_is_refused_by_its_name(tmp_path, case):
    loader, tree, keywords = FAULTS[case]
    assert_refused(loader, write_files(tmp_path / "faces", tree), *keywords)


def assert_refused(loader, path, *keywords):
    with pytest.raises(UserError) as told:
        loader.load(path)
    message = str(told.value)
    assert "\n" not in message and all(keyword in message for keyword in keywords), message


@pytest.mark.parametrize("loader", [ckplus, oulu])
def test_a_place_that_is_missing_or_damaged_or_encrypted_is_refused_by_its_name(tmp_path, loader):
    content = write_zip(tmp_path / "whole.zip", CK if loader is ckplus else OULU).read_bytes()
    bits = bytearray(content)
    bits[200:300] = bytes(100)
    half = content[: len(content) // 2]
    damaged = {"text.zip": b"no archive", "half.zip": half, "bits.zip": bits}
    write_files(tmp_path, damaged)
    for name in damaged:
        assert_refused(loader, tmp_path / name, name)
    assert_refused(loader, tmp_path / "nowhere", "nowhere", "exist")
    assert_refused(loader, lock_zip(tmp_path / "whole.zip"), "whole.zip", "encrypted")


def test_a_damaged_archive_among_others_is_refused(tmp_path):
    """A dataset without a part of it would look whole."""
    tree = released_tree([1, 2, 3, 4, 5, 6, 7])
    write_zip(tmp_path / "images.zip", without(tree, "Emotion"))
    content = write_zip(tmp_path / "labels.zip", without(tree, "cohn")).read_bytes()
    (tmp_path / "labels.zip").write_bytes(content[: len(content) // 2])
    assert_refused(ckplus, tmp_path, "labels.zip")


# The pictures


@pytest.mark.parametrize(("size", "expected"), [(40, 48), (95, 48), (96, 96), (200, 96)])
def test_pictures_get_one_size(tmp_path, size, expected):
    tree = ck_tree(frames=1, size=size)
    tree[max(tree)] = png(drawn_face(1, 60))  # another size than the first
    faces = ckplus.load(write_files(tmp_path, tree))
    assert faces.size == expected and faces.images.shape == (21, expected, expected)


def only(tmp_path, picture, find_face=None):
    """(S, S) uint8: what a picture becomes that is the first of a sequence in CK+."""
    tree = ck_tree(frames=1, size=200)
    write_files(tmp_path, tree | {min(tree): picture})
    return ckplus.load(tmp_path, find_face).images[0].numpy()


@pytest.mark.parametrize("found", [(32, 0, 96), None])
def test_whole_frames_in_class_folders_are_cropped_and_never_squashed(tmp_path, found):
    """Where no face is found the middle is taken, which is the same here."""
    wide = png(np.pad(drawn_face(1, 96), ((0, 0), (32, 32))))
    assert np.array_equal(only(tmp_path, wide, lambda grey: found), drawn_face(1, 96))


@pytest.mark.parametrize(("left", "top"), [(-24, 100), (560.4, 400.5)])
def test_a_face_at_the_edge_of_a_frame_gets_no_black_bars(tmp_path, left, top):
    """What lies outside repeats the edge; here all is of one grey."""
    cut = only(tmp_path, png(np.full((480, 640), 200, np.uint8)), lambda grey: (left, top, 100))
    assert cut.shape == (96, 96) and (cut == 200).all()


# The faces in memory


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return ckplus.load(write_files(tmp_path_factory.mktemp("ck"), ck_tree()))


@pytest.mark.parametrize("rows", [[40, 5, 17, 5], [n % 9 == 4 for n in range(63)]])
def test_a_selection_keeps_pictures_and_annotations_together(faces, rows):
    part, numbers = faces.select(torch.tensor(rows)), np.arange(63)[rows]
    assert (part.class_names, part.subject_names) == (faces.class_names, faces.subject_names)
    for name in ("images", "labels", "subjects", "sequences"):
        assert torch.equal(getattr(part, name), getattr(faces, name)[numbers])
    assert part.files == tuple(faces.files[number] for number in numbers)


def test_the_fingerprint_covers_pictures_labels_and_subjects(faces):
    parts = (faces.images, faces.labels, faces.subjects)
    whole = b"".join(part.numpy().tobytes() for part in parts)
    assert faces.fingerprint() == hashlib.sha256(whole).hexdigest()


@pytest.mark.parametrize("shape", [(63, 50, 50), (62, 48, 48)])
def test_shapes_are_checked(faces, shape):
    with pytest.raises(ValueError):
        replace(faces, images=torch.zeros(shape, dtype=torch.uint8))


# Real faces


@pytest.mark.real
def test_the_real_ck(real_data):
    faces = ckplus.load(real_data / "CK+48")
    paths = sorted((real_data / "CK+48").glob("*/*.png"))
    assert len(faces) == len(paths) == 981
    assert len(faces.subject_names) == len({path.name[:4] for path in paths}) == 118
    counts = Counter(path.parent.name for path in paths)
    assert torch.bincount(faces.labels).tolist() == [counts[folder] for folder in CK_FOLDERS]
    for number in (0, 500, 980):
        assert np.array_equal(faces.images[number].numpy(), np.asarray(Image.open(paths[number])))


@pytest.mark.real
def test_the_released_layout_with_real_faces(layouts):
    """The program's own detector finds the faces, which are at 205..435 and 150..380."""
    faces = ckplus.load(layouts / "ckplus_official", mainpro_FER.largest_face)
    assert len(faces) == 18 and faces.size == 96 and "2 sequences" in faces.description
    for path in (layouts / "ckplus_official").rglob("*00000011.png"):
        left, top, side = mainpro_FER.largest_face(np.asarray(Image.open(path)))
        width = min(left + side, 435) - max(left, 205)
        height = min(top + side, 380) - max(top, 150)
        assert width * height / (side**2 + 230**2 - width * height) > 0.5, path
