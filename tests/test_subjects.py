"""Datasets with subjects: whole and faulty trees, in folders and in ZIPs."""

import hashlib
import io
import re
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

import mainpro_FER
from data.demo.drawing import draw_face
from data.subjects import ckplus, oulu
from data.subjects import faces as subject_faces
from data.subjects.faces import SubjectFaces
from tests.samples import write_zip
from utils.files import UserError

CK_FOLDERS = ("anger", "contempt", "disgust", "fear", "happy", "sadness", "surprise")


def png(picture):
    stream = io.BytesIO()
    picture = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    picture.save(stream, "PNG")
    return stream.getvalue()


def face(number, size=48):
    return draw_face(number % 7, (0, 0, 0), number, size)


def ck_tree(frames=3, size=48):
    """{name: bytes}: three subjects, each with a sequence of every class."""
    tree = {}
    for subject in (10, 5, 999):
        for sequence, folder in enumerate(CK_FOLDERS, 1):
            for frame in range(frames):
                name = f"{folder}/S{subject:03}_{sequence:03}_{frame + 8:08}.png"
                tree[name] = png(face(subject + 10 * sequence + frame, size))
    return tree


def as_folder(tree, folder):
    for name, content in tree.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def as_zip(tree, path):
    return write_zip(path, tree)


def assert_refused(load, tree, message, kind, place):
    """The tree, as the folder `place` or as a ZIP of that name, is refused in a sentence that names it."""
    path = as_folder(tree, place) if kind == "folder" else as_zip(tree, place.with_name(f"{place.name}.zip"))
    with pytest.raises(UserError, match=message) as told:
        load(path)
    assert place.name in str(told.value) and "\n" not in str(told.value)


def below(folder, tree):
    return {f"{folder}/{name}": content for name, content in tree.items()}


def pixels(content):
    return np.asarray(Image.open(io.BytesIO(content)))


def assert_is_ck(faces, tree):
    """Every face of the tree, as its name and its bytes say."""
    assert faces.files == tuple(sorted(tree)) and len(faces) == len(tree)
    assert faces.class_names == ("Angry", "Contempt", "Disgust", "Fear", "Happy", "Sad", "Surprise")
    assert faces.subject_names == ("S005", "S010", "S999")
    assert faces.labels.dtype == faces.subjects.dtype == torch.int64
    for number, name in enumerate(faces.files):
        assert np.array_equal(faces.images[number].numpy(), pixels(tree[name]))
        assert CK_FOLDERS[faces.labels[number]] == name.split("/")[0]
        assert faces.subject_names[faces.subjects[number]] == name.split("/")[1][:4]


def test_ck_is_read_from_a_folder_and_from_a_zip_and_from_what_contains_it(tmp_path):
    tree = ck_tree()
    places = [
        as_folder(tree, tmp_path / "plain"),
        as_folder(below("CK+48", tree), tmp_path / "above"),
        as_zip(tree, tmp_path / "plain.zip"),
        as_zip(dict(reversed(below("CK+48", tree).items())), tmp_path / "above.zip"),
    ]
    for place in places:
        assert_is_ck(ckplus.load(place), tree)
    assert len({ckplus.load(place).fingerprint() for place in places}) == 1


def test_only_the_last_three_frames_of_a_longer_sequence_are_used(tmp_path):
    tree = ck_tree(frames=5)
    faces = ckplus.load(as_folder(tree, tmp_path))
    assert_is_ck(faces, {name: content for name, content in tree.items() if int(name[-12:-4]) >= 10})
    assert "63 faces of 3 subjects" in faces.description and "21 sequences" in faces.description


def test_other_spellings_and_other_files_do_not_matter(tmp_path):
    tree = ck_tree()
    spelled = {"anger": "Angry", "happy": "HAPPINESS", "sadness": "sad"}
    other = {re.sub(r"^\w+", lambda word: spelled.get(word[0], word[0]), name): tree[name] for name in tree}
    other |= {"fear/Thumbs.db": b"x", "fear/.hidden.png": b"x", "__MACOSX/fear/._S010_001_00000001.png": b"x"}
    other |= {"readme.txt": b"x", "preview.png": b"x"}
    for place in (as_folder(other, tmp_path / "folder"), as_zip(other, tmp_path / "a.zip")):
        faces = ckplus.load(place)
        assert sorted(map(bytes, faces.images.numpy())) == sorted(bytes(pixels(tree[name])) for name in tree)
        assert Counter(faces.labels.tolist()) == dict.fromkeys(range(7), 9)


def changed(tree, removed="^$", **added):
    return {name: content for name, content in tree.items() if not re.search(removed, name)} | added


def faulty_trees():
    tree = ck_tree()
    return {
        "no class folders": ({"S010_001_00000008.png": png(face(1))}, "has neither folders of classes"),
        "a class without pictures": (changed(tree, "^fear"), "no images of Fear.*fear is missing or empty"),
        "a foreign name": (tree | {"fear/face1.png": png(face(1))}, "fear/face1.png is not named like"),
        "no picture": (tree | {"fear/S010_004_00000010.png": b"text"}, "S010_004_00000010.png is not an image"),
        "an empty file": (tree | {"fear/S010_004_00000010.png": b""}, "S010_004_00000010.png is not an image"),
        "half a picture": (
            tree | {"fear/S010_004_00000010.png": tree["fear/S010_004_00000010.png"][:500]},
            "S010_004_00000010.png cannot be read",
        ),
        "a sequence of two classes": (
            tree | {"happy/S010_004_00000020.png": png(face(1))},
            "sequence 004 of S010 is in the folders of Fear and of Happy",
        ),
        "two folders of a class": (
            tree | {"angry/S011_004_00000020.png": png(face(1))},
            "two folders of Angry, .*anger and .*angry",
        ),
        "the dataset twice": (below("one", tree) | below("two", tree), "more than once, in .*one and in .*two"),
    }


@pytest.mark.parametrize("fault", faulty_trees())
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_faulty_ck_is_told_in_a_sentence(tmp_path, fault, kind):
    assert_refused(ckplus.load, *faulty_trees()[fault], kind, tmp_path / "CK+48")


def test_a_path_that_is_missing_or_no_zip_or_damaged_is_told(tmp_path):
    with pytest.raises(UserError, match="nowhere does not exist"):
        ckplus.load(tmp_path / "nowhere")
    (tmp_path / "text.zip").write_bytes(b"this is no archive")
    with pytest.raises(UserError, match="text.zip is damaged, or not an archive"):
        ckplus.load(tmp_path / "text.zip")
    content = as_zip(ck_tree(), tmp_path / "whole.zip").read_bytes()
    (tmp_path / "half.zip").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="half.zip is damaged"):
        ckplus.load(tmp_path / "half.zip")
    bits = bytearray(content)
    bits[200:300] = bytes(100)
    (tmp_path / "bits.zip").write_bytes(bits)
    with pytest.raises(UserError, match="bits.zip/anger/S010_001_00000008.png is damaged"):
        ckplus.load(tmp_path / "bits.zip")


def test_an_encrypted_zip_is_told(tmp_path):
    content = bytearray(as_zip(ck_tree(), tmp_path / "a.zip").read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # the flag in the directory
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(UserError, match="a.zip is encrypted"):
        ckplus.load(tmp_path / "a.zip")


def test_ck_is_found_in_the_data_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(subject_faces, "DATA_FOLDER", tmp_path)
    with pytest.raises(UserError, match=r"no CK\+ in .*: put CK\+48 or .* there"):
        ckplus.load()
    tree = ck_tree()
    as_zip(tree, tmp_path / "CK+.zip")
    assert_is_ck(ckplus.load(), tree)


def released_tree(labels):
    """{name: bytes} as CK+ was released: frames of 640x490 with a face, from neutral to peak. labels: of sequences."""
    tree = {}
    for number, label in enumerate(labels):
        subject, sequence = f"S{number + 5:03}", "001"
        folder = f"{subject}/{sequence}/{subject}_{sequence}_"
        for frame in range(1, 6):
            canvas = np.full((490, 640), 110, np.uint8)
            canvas[100:330, 50:280] = np.asarray(Image.fromarray(face(number + frame)).resize((230, 230)))
            tree[f"cohn-kanade-images/{folder}{frame:08}.png"] = png(canvas)
        if label is not None:
            tree[f"Emotion/{folder}00000005_emotion.txt"] = f"   {label:.7e}\n".encode()
    return tree


def test_ck_is_read_as_it_was_released(tmp_path):
    """Numbers 1 to 7 are the classes, sequences without a number are left out, faces are found in the frames."""
    tree = released_tree([1, 2, None, 3, 4, 5, 6, 7, 0])
    seen = []

    def find_face(grey):
        seen.append(grey.shape)
        return 50.0, 100.0, 230.0

    images = {name: content for name, content in tree.items() if name.startswith("cohn")}
    labels = {name: content for name, content in tree.items() if name.startswith("Emotion")}
    for place in (
        as_folder(tree, tmp_path / "folder"),
        as_zip(tree, tmp_path / "all.zip"),
        as_folder({"images.zip": as_zip(images, tmp_path / "i.zip").read_bytes(),
                   "labels.zip": as_zip(labels, tmp_path / "l.zip").read_bytes()}, tmp_path / "zips"),
    ):  # fmt: skip
        seen.clear()
        faces = ckplus.load(place, find_face)
        assert set(seen) == {(490, 640)} and len(seen) == 21
        assert faces.class_names == ("Angry", "Contempt", "Disgust", "Fear", "Happy", "Sad", "Surprise")
        assert [name[-7:-4] for name in faces.files] == ["003", "004", "005"] * 7
        assert faces.labels.tolist() == [label for label in range(7) for _ in range(3)]
        assert "S007" not in faces.subject_names and faces.size == 96
        assert "left out, without a label: 2 sequences" in faces.description
        whole = Image.open(io.BytesIO(tree["cohn-kanade-images/S005/001/S005_001_00000005.png"]))
        expected = whole.crop((50, 100, 280, 330)).resize((96, 96), Image.Resampling.LANCZOS)
        assert np.array_equal(faces.images[2].numpy(), np.asarray(expected))


def test_whole_frames_in_class_folders_are_cropped_and_never_squashed(tmp_path):
    tree = {
        name: png(np.pad(np.asarray(face(number, 96)), ((0, 0), (32, 32)))) for number, name in enumerate(ck_tree())
    }
    found = ckplus.load(as_folder(tree, tmp_path), lambda grey: (32, 0, 96))
    for number, name in enumerate(found.files):
        assert np.array_equal(found.images[number].numpy(), pixels(tree[name])[:, 32:-32])
    middle = ckplus.load(tmp_path, lambda grey: None)  # nothing found: the middle
    assert middle.fingerprint() == found.fingerprint()


@pytest.mark.parametrize(("left", "top"), [(-24, 100), (560.4, 100), (200, -30), (200, 400.5)])
def test_a_face_at_the_edge_of_a_frame_gets_no_black_bars(left, top):
    """What lies outside repeats the edge, as in photographs that are shown: here all is of one grey."""
    frame = png(np.full((480, 640), 200, np.uint8))
    cut = subject_faces.decode_face(frame, "frame.png", 96, lambda grey: (left, top, 100))
    assert cut.shape == (96, 96) and (cut == 200).all()


def test_the_middle_of_a_frame_is_a_square():
    """A disc stays one, in a frame whose height is odd, too."""
    down, across = np.mgrid[:491, :640]
    disc = np.where(np.hypot(down - 245, across - 319.5) < 240, 255, 0).astype(np.uint8)
    cut = subject_faces.decode_face(png(disc), "frame.png", 96) > 127
    assert abs(int(cut.any(axis=0).sum()) - int(cut.any(axis=1).sum())) <= 1 and cut[48, 48]


def test_ck_without_contempt_has_six_classes(tmp_path):
    faces = ckplus.load(as_folder(changed(ck_tree(), "^contempt"), tmp_path))
    assert faces.class_names == ("Angry", "Disgust", "Fear", "Happy", "Sad", "Surprise") and len(faces) == 54


def test_neutral_pictures_are_left_out_and_that_is_said(tmp_path):
    """Those of people of their own, and first frames of sequences whose last ones have another class."""
    tree = ck_tree()
    neutral = {f"neutral/{subject}_001_00000001.png": png(face(1)) for subject in ("S010", "S020")}
    faces = ckplus.load(as_folder(tree | neutral, tmp_path))
    assert_is_ck(faces, tree)
    assert "left out: 2 images in neutral" in faces.description


def test_a_damaged_archive_among_others_is_told(tmp_path):
    tree = released_tree([1, 2, 3, 4, 5, 6, 7])
    for name in ("cohn", "Emotion"):
        as_zip({path: content for path, content in tree.items() if path.startswith(name)}, tmp_path / f"{name}.zip")
    assert len(ckplus.load(tmp_path)) == 21
    content = (tmp_path / "cohn.zip").read_bytes()
    (tmp_path / "cohn.zip").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="cohn.zip is damaged"):
        ckplus.load(tmp_path)


def test_one_of_the_archives_of_the_release_is_not_enough(tmp_path):
    tree = released_tree([1, 2, 3, 4, 5, 6, 7])
    images, labels = (changed(tree, part) for part in ("Emotion", "cohn"))
    with pytest.raises(UserError, match="nor the labels of the release"):
        ckplus.load(as_zip(images, tmp_path / "extended-cohn-kanade-images.zip"))
    with pytest.raises(UserError, match="labels of the release without their images"):
        ckplus.load(as_zip(labels, tmp_path / "Emotion_labels.zip"))


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_table_has_no_subjects_and_that_is_said(tmp_path, kind):
    (tmp_path / "ckextended.csv").write_text("emotion,pixels,Usage\n6,1 2 3,Training\n")
    with pytest.raises(UserError, match="do not say whose face"):
        ckplus.load(tmp_path / "ckextended.csv" if kind == "file" else tmp_path)


@pytest.mark.real
def test_the_released_layout_with_real_faces(layouts):
    """The program's own detector finds the faces that the tool put into frames."""
    faces = ckplus.load(layouts / "ckplus_official", mainpro_FER.largest_face)
    assert len(faces) == 18 and faces.size == 96 and "left out, without a label: 2 sequences" in faces.description
    for path in (layouts / "ckplus_official").rglob("*00000011.png"):
        left, top, side = mainpro_FER.largest_face(np.asarray(Image.open(path)))
        width = min(left + side, 435) - max(left, 205)  # the tool puts them into 205..435 and 150..380
        height = min(top + side, 380) - max(top, 150)
        assert width * height / (side**2 + 230**2 - width * height) > 0.5, path


OULU_FOLDERS = ("Anger", "Disgust", "Fear", "Happiness", "Sadness", "Surprise")
STRONG = "Preprocess Img/VL_Acropped/Strong"


def oulu_tree(frames=4, people=(1, 2, 80), size=48):
    """{name: bytes}: a sequence of each expression per subject."""
    return {
        f"P{person:03}/{folder}/{frame:03}.jpeg": png(face(person + 10 * place + frame, size))
        for person in people
        for place, folder in enumerate(OULU_FOLDERS)
        for frame in range(frames)
    }


def assert_is_oulu(faces, tree):
    """Every face of the tree, as its name and its bytes say."""
    assert faces.files == tuple(sorted(tree)) and len(faces) == len(tree)
    assert faces.class_names == ("Angry", "Disgust", "Fear", "Happy", "Sad", "Surprise")
    for number, name in enumerate(faces.files):
        subject, folder, _ = name.split("/")
        assert np.array_equal(faces.images[number].numpy(), pixels(tree[name]))
        assert OULU_FOLDERS[faces.labels[number]] == folder and faces.subject_names[faces.subjects[number]] == subject


def test_oulu_is_read_at_every_level_and_nothing_else_is(tmp_path):
    tree = oulu_tree()
    last = {name: content for name, content in tree.items() if int(name[-8:-5]) >= 1}
    whole = below(STRONG, tree)
    for other in ("Preprocess Img/VL_Acropped/Weak", "Preprocess Img/NI_Acropped/Strong", "OriginalImg/VL/Strong"):
        whole |= below(other, dict.fromkeys(tree, b"not to be read"))
    folder = as_folder(below("Oulu", whole), tmp_path / "above") / "Oulu"
    levels = [folder.parent, folder, folder / "Preprocess Img", folder / "Preprocess Img/VL_Acropped", folder / STRONG]
    levels += [as_zip(whole, tmp_path / "whole.zip"), as_zip(tree, tmp_path / "strong.zip")]
    for level in levels:
        assert_is_oulu(oulu.load(level), last)
    assert len({oulu.load(level).fingerprint() for level in levels}) == 1


def test_oulu_jpeg_pictures_of_another_size_are_read(tmp_path):
    tree = oulu_tree(frames=1, people=(7,), size=200)
    for name, content in tree.items():
        stream = io.BytesIO()
        Image.open(io.BytesIO(content)).convert("RGB").save(stream, "JPEG", quality=95)
        tree[name] = stream.getvalue()
    faces = oulu.load(as_folder(tree, tmp_path))
    assert faces.images.shape == (6, 96, 96) and faces.subject_names == ("P007",)
    expected = Image.open(io.BytesIO(tree[faces.files[3]])).convert("L").reduce(2).resize((96, 96))
    assert np.abs(faces.images[3].numpy().astype(int) - np.asarray(expected)).mean() < 4


@pytest.mark.parametrize("where", ["OULU", "data/OULU CASIA/images", "VL_Acropped/Weak"])
def test_oulu_is_read_from_folders_of_other_names(tmp_path, where):
    """And which they are is said: they may be of another light."""
    tree = oulu_tree(frames=3)
    for place in (as_folder(below(where, tree), tmp_path / "folder"), as_zip(below(where, tree), tmp_path / "a.zip")):
        faces = oulu.load(place)
        assert_is_oulu(faces, tree)
        assert faces.description.endswith(where)


def test_frames_of_a_short_oulu_sequence_are_all_used(tmp_path):
    tree = oulu_tree(frames=3, people=(1,))
    del tree["P001/Fear/000.jpeg"], tree["P001/Fear/002.jpeg"]
    assert_is_oulu(oulu.load(as_folder(tree, tmp_path)), tree)


def test_oulu_frames_follow_each_other_by_number(tmp_path):
    tree = oulu_tree(frames=1, people=(1,))
    tree |= {f"P001/Fear/{frame}.jpeg": png(face(frame)) for frame in (8, 9, 10, 11)}
    files = oulu.load(as_folder(tree, tmp_path)).files
    assert [name for name in files if "Fear" in name] == [f"P001/Fear/{frame}.jpeg" for frame in (10, 11, 9)]


def faulty_oulu_trees():
    tree = oulu_tree(frames=1)
    return {
        "no subjects": ({"Anger/000.jpeg": png(face(1))}, "has no folders of subjects"),
        "an expression missing": (changed(tree, "P002/Fear"), "no images of Fear of P002: the folder P002/Fear is"),
        "a foreign name": (tree | {"P001/Fear/face.png": png(face(1))}, "P001/Fear/face.png is not named like P001"),
        "a foreign expression": (tree | {"P001/Contempt/001.png": png(face(1))}, "P001/Contempt/001.png is not named"),
        "a foreign subject": (tree | {"Q001/Fear/001.png": png(face(1))}, "Q001/Fear/001.png is not named like"),
        "a picture too high up": (tree | {"P001/001.png": png(face(1))}, "P001/001.png is not named like"),
        "a picture too deep": (tree | {"P001/Fear/more/001.png": png(face(1))}, "more/001.png is not named like"),
        "no picture": (tree | {"P080/Fear/000.jpeg": b"text"}, "000.jpeg is not an image"),
        "the dataset twice": (below("a/Strong", tree) | below("b/Strong", tree), "more than once"),
    }


@pytest.mark.parametrize("fault", faulty_oulu_trees())
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_faulty_oulu_is_told_in_a_sentence(tmp_path, fault, kind):
    assert_refused(oulu.load, *faulty_oulu_trees()[fault], kind, tmp_path / "Oulu")


def test_oulu_is_found_in_the_data_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(subject_faces, "DATA_FOLDER", tmp_path)
    with pytest.raises(UserError, match="no Oulu-CASIA in .*: put Oulu-CASIA or Oulu-CASIA.zip there"):
        oulu.load()
    tree = oulu_tree(frames=1)
    as_folder(below(STRONG, tree), tmp_path / "Oulu-CASIA")
    assert_is_oulu(oulu.load(), tree)


@pytest.mark.parametrize(("size", "expected"), [(40, 48), (95, 48), (96, 96), (200, 96)])
def test_pictures_get_one_size(tmp_path, size, expected):
    tree = ck_tree(frames=1, size=size)
    last = max(tree)
    tree[last] = png(face(1, 60))  # another size than the first
    faces = ckplus.load(as_folder(tree, tmp_path))
    assert faces.size == expected and faces.images.shape == (21, expected, expected)


def test_a_large_picture_is_averaged_down_not_sampled():
    stripes = np.zeros((480, 480), np.uint8)
    stripes[:, ::2] = 200  # a sample would be 0 or 200
    small = subject_faces.decode_face(png(stripes), "stripes", 96)
    assert np.abs(small[2:-2, 2:-2].astype(int) - 100).max() <= 4


def test_pictures_of_every_mode_become_grey():
    grey = face(3)
    colour = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    weighted = colour @ np.array([0.299, 0.587, 0.114])
    sixteen = grey.astype(np.uint16) * 256 + 77
    for content in (png(grey), png(Image.fromarray(grey).convert("P")), png(np.dstack([grey] * 3)), png(sixteen)):
        assert np.array_equal(subject_faces.decode_face(content, "face", None), grey)
    assert np.abs(subject_faces.decode_face(png(colour), "face", None) - weighted).max() <= 0.51


@pytest.fixture
def faces(tmp_path):
    return ckplus.load(as_folder(ck_tree(), tmp_path))


@pytest.mark.parametrize("kind", ["numbers", "mask"])
def test_a_selection_keeps_pictures_and_annotations_together(faces, kind):
    numbers = torch.tensor([5, 17, 40]) if kind == "mask" else torch.tensor([40, 5, 17, 5])
    rows = torch.zeros(len(faces), dtype=torch.bool).index_fill(0, numbers, True) if kind == "mask" else numbers
    part = faces.select(rows)
    assert len(part) == len(numbers) and part.class_names == faces.class_names
    assert part.subject_names == faces.subject_names
    for place, number in enumerate(numbers.tolist()):
        assert torch.equal(part.images[place], faces.images[number]) and part.files[place] == faces.files[number]
        assert part.labels[place] == faces.labels[number] and part.subjects[place] == faces.subjects[number]


def test_the_fingerprint_covers_pictures_labels_and_subjects(faces):
    def digest(images, labels, numbers):
        parts = (images.numpy(), labels.numpy(), numbers.numpy())
        return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()

    assert faces.fingerprint() == digest(faces.images, faces.labels, faces.subjects)
    assert faces.select(torch.arange(len(faces)).flip(0)).fingerprint() != faces.fingerprint()


def test_shapes_are_checked():
    numbers = torch.zeros(2, dtype=torch.int64)
    for images, files in (
        (torch.zeros(2, 50, 50), "ab"),
        (torch.zeros(3, 48, 48), "ab"),
        (torch.zeros(2, 48, 48), "a"),
    ):
        with pytest.raises(ValueError):
            SubjectFaces(images.byte(), numbers, numbers, numbers, ("Angry",), ("S1",), tuple(files), "")


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
