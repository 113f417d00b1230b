"""What people really have: containers, headers, separators, encodings and spellings in combination, and the choice."""

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
import zlib
from itertools import product
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from data.faces import load_split
from data.fer2013 import collect, containers, load, pictures, prepare, sources
from data.fer2013.sources import survey
from tests.conftest import ROOT
from tests.samples import image, pixel_text, sample_row, table, three_splits, write_stored_rar, write_zip
from utils.files import UserError
from utils.tasks import EMOTIONS, SPLITS

COUNT = 4
NAMES = dict(enumerate(("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")))


LOOSELY = {"Training": " train", "PublicTest": "Public_Test", "PrivateTest": "private test "}


def faces():
    """{split: [(label, pixels, V/A/D)]}: what every way of writing holds."""
    return {
        split: [((3 * place + i) % 7, image(10 * place + i), (i / 2 - 1, 0.5, -i / 4)) for i in range(COUNT)]
        for place, split in enumerate(SPLITS)
    }


def written(header, separator, encoding, spelling):
    """{file name: bytes} of the faces. header: names of the columns, of which V/A/D make three files, one a split."""
    spell = {
        "numbers": (str, lambda pixels: " ".join(map(str, pixels)), lambda split: split),
        "names": (lambda label: NAMES[label].title(), lambda pixels: str(pixels), str.upper),
        "mixed": (lambda label: f"{label}.0", lambda pixels: " ".join(f"{p:03}" for p in pixels), LOOSELY.get),
        "commas": (lambda label: f" {label} ", lambda pixels: ",".join(map(str, pixels)), str.lower),
    }[spelling]  # fmt: skip
    plain = [name.strip().lower() for name in header]
    texts = {split: io.StringIO() for split in (SPLITS if "valence" in plain else ["all"])}
    for stream in texts.values():
        csv.writer(stream, delimiter=separator, lineterminator="\r\n").writerow(header)
    for split, rows in faces().items():
        writer = csv.writer(texts[split if "valence" in plain else "all"], delimiter=separator, lineterminator="\r\n")
        for number, (label, pixels, vad) in enumerate(rows):
            numbers = [str(value).replace(".", "," if separator == ";" else ".") for value in vad]
            values = dict(zip(("valence", "arousal", "dominance"), numbers, strict=True))
            values |= {"emotion": spell[0](label), "pixels": spell[1](pixels.tolist()), "usage": spell[2](split)}
            writer.writerow([values.get(name, f"x{number}") for name in plain])
    files = {"all": "some faces.csv", "Training": "1 outputTrain-2024.csv", "PublicTest": "b_PUBLICtest.txt",
             "PrivateTest": "faces (private).csv"}  # fmt: skip
    return {files[split]: stream.getvalue().encode(encoding) for split, stream in texts.items()}


def into_folder(folder, files):
    for name, content in files.items():
        (folder / name).write_bytes(content)


def into_nested_folders(folder, files):
    (folder / "a" / "b c").mkdir(parents=True)
    into_folder(folder / "a" / "b c", files)


def into_links(folder, files):
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir()
    into_folder(elsewhere, files)
    os.symlink(elsewhere, folder / "linked", target_is_directory=True)


def into_zip(folder, files):
    write_zip(folder / "archive.zip", {f"deep/{name}": content for name, content in files.items()})


def into_rar(folder, files):
    write_stored_rar(folder / "faces.with.dots", files)


def into_tar(mode):
    def write(folder, files):
        with tarfile.open(folder / "download", f"w:{mode}") as archive:
            for name, content in files.items():
                info = tarfile.TarInfo(f"x/{name}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))

    return write


def into_nested_zip(folder, files):
    inner = io.BytesIO()
    write_zip(inner, files)
    write_zip(folder / "outer.zip", {"inner.zip": inner.getvalue(), "readme.txt": b"hello"})


def compressed(module, suffix):
    def write(folder, files):
        for name, content in files.items():
            (folder / f"{name}{suffix}").write_bytes(module.compress(content))

    return write


CONTAINERS = {
    "folder": into_folder, "nested folders": into_nested_folders, "links": into_links, "zip": into_zip, "rar": into_rar,
    "tar": into_tar(""), "tar.gz": into_tar("gz"), "tar.xz": into_tar("xz"), "zip in zip": into_nested_zip,
    "gzip": compressed(gzip, ".gz"), "bzip2": compressed(bz2, ".bz2"), "xz": compressed(lzma, ".xz"),
}  # fmt: skip
HEADERS = {
    "annotators": ("index", "emotionLabel", "Valence", "Arousal", "Dominance", "emotion", "pixels"),
    "annotators, other order": (" Pixels", "DOMINANCE ", "emotion", "valence", "arousal"),
    "plain": ("emotion", "pixels", "Usage"),
    "competition": ("emotion", " Usage", " pixels"),
    "more columns": ("id", "usage", "who", "EMOTION", "Pixels", ""),
}
SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t"}
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le")
SPELLINGS = ("numbers", "names", "mixed", "commas")
EVERY = list(product(HEADERS, SEPARATORS, ENCODINGS, SPELLINGS))
# Every container and every 4th or so of the combinations of the rest, each with another container.
COMBINATIONS = [(list(CONTAINERS)[number % len(CONTAINERS)], *ways) for number, ways in enumerate(EVERY[::5])]


def assert_holds(h5_path, annotated):
    with h5py.File(h5_path) as h5:
        for split, rows in faces().items():
            assert h5[f"{split}_label"][:].tolist() == [label for label, _, _ in rows]
            assert np.array_equal(h5[f"{split}_pixel"][:], [pixels for _, pixels, _ in rows])
            if annotated:
                assert h5[f"{split}_VAD"][:].tolist() == [list(vad) for _, _, vad in rows]
        assert h5.attrs["vad_origin"] == ("annotations" if annotated else "none")


@pytest.mark.parametrize("ways", COMBINATIONS, ids="-".join)
def test_every_way_of_writing_holds_the_same_faces(tmp_path, ways):
    container, header, separator, encoding, spelling = ways
    (tmp_path / "source").mkdir()
    files = written(HEADERS[header], SEPARATORS[separator], encoding, spelling)
    CONTAINERS[container](tmp_path / "source", files)
    assert_holds(prepare.ensure(tmp_path / "source", tmp_path / "made.h5", progress=False), "annotators" in header)


def test_there_are_enough_combinations():
    assert len(COMBINATIONS) >= 40 and {ways[0] for ways in COMBINATIONS} == set(CONTAINERS)


# Pictures


def write_pictures(folder, splits=("train", "test"), classes=NAMES, count=10):
    """{split: [(label, grey picture)]} as PNG in <split>/<class>/."""
    made = {}
    for place, split in enumerate(splits):
        for label, name in classes.items():
            for i in range(count):
                path = folder / split / name / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                face = image(1000 * place + 100 * label + i).reshape(48, 48)
                Image.fromarray(face).save(path)
                made.setdefault(split, []).append((label, face))
    return made


def read_back(h5_path):
    splits = {split: load_split(h5_path, split) for split in SPLITS}
    return {split: {(int(label), picture.numpy().tobytes()) for label, picture in zip(part.labels, part.images,
                                                                                     strict=True)}
            for split, part in splits.items()}  # fmt: skip


def as_set(rows):
    return {(label, face.tobytes()) for label, face in rows}


def test_without_a_public_split_a_tenth_of_the_training_faces_becomes_it(tmp_path, capsys):
    made = write_pictures(tmp_path)
    found = read_back(prepare.ensure(tmp_path))
    assert found["PrivateTest"] == as_set(made["test"])
    assert (
        found["Training"] | found["PublicTest"] == as_set(made["train"]) and not found["Training"] & found["PublicTest"]
    )
    assert sorted(label for label, _ in found["PublicTest"]) == list(range(7))  # one of ten, of each class
    assert "tenth of the training faces" in capsys.readouterr().out
    assert "tenth of the training faces" in load.load(tmp_path).description
    again = prepare.prepare(tmp_path, tmp_path / "again.h5", progress=False).h5_path
    assert read_back(again) == found


def test_a_picture_that_is_there_twice_is_not_drawn_for_the_public_split(tmp_path):
    """One of its two would be trained on, the other would choose the epoch."""
    write_pictures(tmp_path)
    for folder in sorted((tmp_path / "train").iterdir()):
        first, *others = sorted(folder.iterdir())
        for path in others[:-1]:
            shutil.copy(path, path.with_name(f"copy of {path.name}"))
    found = read_back(prepare.ensure(tmp_path))
    assert len(found["PublicTest"]) == 2 * 7 and not found["Training"] & found["PublicTest"]


@pytest.mark.parametrize("words", [("train", "val", "test"), ("Training", "Validation", "PrivateTest")])
def test_a_validation_folder_is_the_public_split(tmp_path, words):
    made = write_pictures(tmp_path / "images", words, count=2)
    found = read_back(prepare.ensure(tmp_path))
    assert found == {split: as_set(made[word]) for split, word in zip(SPLITS, words, strict=True)}


def test_where_validation_is_all_there_is_beside_training_it_is_the_test(tmp_path):
    made = write_pictures(tmp_path, ("train", "validation"))
    found = read_back(prepare.ensure(tmp_path))
    assert found["PrivateTest"] == as_set(made["validation"]) and len(found["PublicTest"]) == 7


def test_folders_may_be_numbers_but_only_those_of_fer2013(tmp_path):
    made = write_pictures(tmp_path / "a", classes={label: str(label) for label in NAMES}, count=2)
    assert read_back(prepare.ensure(tmp_path / "a"))["PrivateTest"] == as_set(made["test"])
    write_pictures(tmp_path / "b", classes={label: str(label + 1) for label in NAMES}, count=1)
    with pytest.raises(UserError, match="class folders 1, 2, 3, 4, 5, 6, 7, which are not 0 to 6"):
        prepare.ensure(tmp_path / "b")


def test_pictures_of_other_sizes_and_colours_are_brought_to_48_and_that_is_said(tmp_path, capsys):
    made = write_pictures(tmp_path, count=2)
    large = np.kron(made["test"][0][1], np.ones((3, 3), np.uint8))
    colour = np.zeros((3 * 48, 3 * 48 + 20, 3), np.uint8)
    colour[:, 10:-10] = large[:, :, None]
    colour[:, :10, 0] = 255
    Image.fromarray(colour).save(tmp_path / "test" / "angry" / "0.png")
    found = read_back(prepare.ensure(tmp_path))
    assert "1 picture of another size or in colour" in capsys.readouterr().out
    mine = [np.frombuffer(face, np.uint8) for label, face in found["PrivateTest"] if label == 0]
    best = min(np.abs(face.astype(int) - made["test"][0][1].ravel()).mean() for face in mine)
    assert best < 25  # of random pixels, which LANCZOS smooths; any other picture differs by 85


def zipped(folder, path):
    """All files of a folder as a ZIP."""
    files = {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    return write_zip(path, files)


def as_tar(members, path):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize("splits", [("train", "test"), ("train", "val", "test")])
def test_the_container_and_the_order_in_it_make_no_difference(tmp_path, splits, monkeypatch):
    made, read, content = tmp_path / "made", [], pictures._content
    write_pictures(made, splits)
    members = {file.relative_to(made).as_posix(): file.read_bytes() for file in sorted(made.rglob("*.png"))}
    mixed = dict(sorted(members.items(), key=lambda member: zlib.crc32(member[1])))
    shutil.move(made, tmp_path / "folder")
    write_zip(tmp_path / "sorted.zip", members)
    write_zip(tmp_path / "reversed.zip", dict(reversed(members.items())))
    write_zip(tmp_path / "deeper.zip", {f"fer/2013/{name}": content for name, content in mixed.items()})
    write_stored_rar(tmp_path / "mixed.rar", mixed)
    as_tar(mixed, tmp_path / "mixed.tgz")
    for split in splits:
        (tmp_path / "one each").mkdir(exist_ok=True)
        of_split = {name.partition("/")[2]: content for name, content in mixed.items() if name.startswith(split)}
        write_zip(tmp_path / "one each" / f"{split}.zip", of_split)
    monkeypatch.setattr(pictures, "_content", lambda entry: read.append(entry) or content(entry))
    found = {}
    for place in ("folder", "sorted.zip", "reversed.zip", "deeper.zip", "mixed.rar", "one each", "mixed.tgz"):
        read.clear()
        with h5py.File(prepare.ensure(tmp_path / place, tmp_path / f"{place}.h5", progress=False)) as h5:
            found[place] = {name: values[:].tobytes() for name, values in h5.items()}
    assert all(datasets == found["folder"] for datasets in found.values())
    # A compressed archive is only read fast from its beginning to its end.
    order = ["/".join(entry.path.parts[1:]) for entry in read]
    assert order == sorted(mixed, key=lambda name: splits.index(name.partition("/")[0]))


def test_pictures_beyond_the_memory_and_those_dropped_are_sorted_alike(tmp_path, monkeypatch):
    monkeypatch.setattr(collect, "_IN_MEMORY", 10_000)
    write_pictures(tmp_path / "made", count=30)
    (tmp_path / "made" / "train" / "sad" / "3.png").write_bytes(b"\x89PNG broken")
    files = sorted((tmp_path / "made").rglob("*.png"), reverse=True)
    members = {file.relative_to(tmp_path / "made").as_posix(): file.read_bytes() for file in files}
    write_zip(tmp_path / "a.zip", members)
    found = []
    for place in ("made", "a.zip"):
        with h5py.File(prepare.ensure(tmp_path / place, tmp_path / "a.h5", progress=False)) as h5:
            found.append({name: values[:].tobytes() for name, values in h5.items()})
    assert found[0] == found[1]


def test_a_class_without_a_face_in_one_split_is_named(tmp_path, capsys):
    write_pictures(tmp_path, ("train", "val", "test"), count=1)
    shutil.rmtree(tmp_path / "train" / "happy")
    for label in ("sad", "fear"):
        (tmp_path / "test" / label / "0.png").write_bytes(b"\x89PNG broken")
    done = prepare.prepare(tmp_path, tmp_path / "data.h5")
    assert done.notes == ["no Training faces of Happy", "no PrivateTest faces of Fear, Sad"]
    assert "  no Training faces of Happy\n" in capsys.readouterr().out
    assert "none; no Training faces of Happy; no Priv" in load.load(tmp_path).description


def test_a_class_without_a_face_in_a_table_is_named(tmp_path):
    rows = [{"emotion": str(label), "pixels": pixel_text(image(10 * place + label)), "Usage": split}
            for place, split in enumerate(SPLITS) for label in range(7) if (place, label) != (1, 6)]  # fmt: skip
    (tmp_path / "fer2013.csv").write_bytes(table(rows, ("emotion", "pixels", "Usage")))
    assert prepare.prepare(tmp_path, tmp_path / "data.h5", progress=False).notes == ["no PublicTest faces of Neutral"]


@pytest.mark.parametrize(
    ("first", "second", "split"),
    [("test", "test - Kopie", "PrivateTest"), ("test", "test2", "PrivateTest"), ("train", "train - Copy", "Training")],
)
@pytest.mark.parametrize("container", ["folder", "ZIP"])
def test_two_folders_of_pictures_of_one_split_are_refused(tmp_path, container, first, second, split):
    write_pictures(tmp_path / "a", ("train", "test"), count=1)
    write_pictures(tmp_path / "a", (second,), count=1)
    place, above = tmp_path, "a"
    if container == "ZIP":
        place, above = zipped(tmp_path / "a", tmp_path / "a.zip"), "a.zip"
    with pytest.raises(UserError, match=f"two candidates for the {split} split: {above}/{first} and {above}/{second}:"):
        prepare.ensure(place)


def test_a_folder_of_a_split_beside_its_archive_is_refused(tmp_path):
    write_pictures(tmp_path, count=1)
    zipped(tmp_path / "train", tmp_path / "train.zip")
    with pytest.raises(UserError, match="two candidates for the Training split: train and train.zip: remove one"):
        prepare.ensure(tmp_path)


def test_two_folders_of_one_split_do_not_block_another_source(tmp_path, capsys):
    write_pictures(tmp_path / "a", ("train", "test", "test2"), count=1)
    write_pictures(tmp_path / "b", count=1)
    assert len(read_back(prepare.ensure(tmp_path))["PrivateTest"]) == 7
    said = capsys.readouterr().out
    assert "in b\n" in said and "not used: two candidates for the PrivateTest split: a/test and a/test2" in said


def test_a_folder_like_that_of_a_split_without_class_folders_is_no_rival(tmp_path):
    made = write_pictures(tmp_path, count=1)
    write_pictures(tmp_path, ("test images",), {0: "unsorted"}, count=3)
    assert read_back(prepare.ensure(tmp_path, progress=False))["PrivateTest"] == as_set(made["test"])


@pytest.mark.parametrize("home", [False, True])
@pytest.mark.parametrize("below", ["train", "train/happy"])
def test_a_folder_that_nobody_may_list_is_named(tmp_path, monkeypatch, capsys, below, home):
    write_pictures(tmp_path, count=1)
    forbid(tmp_path / below, monkeypatch)
    if home:
        monkeypatch.setattr(sources, "HOME", tmp_path)
    assert prepare.main([str(tmp_path)]) == 2
    told = f"error: {tmp_path / below} cannot be listed (Permission denied): allow that, or move it elsewhere\n"
    assert capsys.readouterr().err == told


def test_a_folder_whose_files_nobody_may_look_at_is_named(tmp_path, monkeypatch):
    write_pictures(tmp_path, count=1)
    forbid(tmp_path / "train" / "happy", monkeypatch, listing=True)
    with pytest.raises(UserError, match=r"happy/0.png cannot be read \(Permission denied\): allow that, or move"):
        prepare.ensure(tmp_path)


def test_what_only_the_file_system_may_list_and_what_went_meanwhile_are_passed_over(tmp_path, monkeypatch):
    made = write_pictures(tmp_path, count=1)
    for name in ("lost+found", "System Volume Information"):
        (tmp_path / name).mkdir()
        forbid(tmp_path / name, monkeypatch)
    os.symlink(tmp_path / "absent", tmp_path / "train" / "link.png")
    assert read_back(prepare.ensure(tmp_path, progress=False))["PrivateTest"] == as_set(made["test"])
    assert list(containers.files_below(tmp_path / "absent")) == []


def test_beside_a_table_in_a_folder_that_nobody_may_list_there_are_no_votes(tmp_path, monkeypatch):
    into_folder(tmp_path, written(HEADERS["plain"], ",", "utf-8", "numbers"))
    forbid(tmp_path, monkeypatch, looking=True)
    assert_holds(prepare.ensure(tmp_path / "some faces.csv", progress=False), annotated=False)


def forbid(folder, monkeypatch, listing=False, looking=False):
    """Take the rights on a folder, which are no matter to root: to list it, and to look at what lies in it."""

    def refusing(original, forbidden):
        def call(path=".", *arguments, **options):
            if not isinstance(path, int) and forbidden(Path(path)):
                raise PermissionError(13, "Permission denied", os.fspath(path))
            return original(path, *arguments, **options)

        return call

    access = os.access
    if not listing:
        for name in ("listdir", "scandir"):
            monkeypatch.setattr(os, name, refusing(getattr(os, name), lambda path: path == folder))
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != folder and access(path, mode))
    if not looking:
        monkeypatch.setattr(os, "stat", refusing(os.stat, lambda path: path.parent == folder))


def test_pictures_that_moved_are_read_anew(tmp_path, capsys):
    write_pictures(tmp_path, count=2)
    before = {face: label for label, face in read_back(prepare.ensure(tmp_path, progress=False))["PrivateTest"]}
    (tmp_path / "test" / "angry" / "0.png").rename(tmp_path / "test" / "sad" / "new.png")
    moved = read_back(prepare.ensure(tmp_path, progress=False))["PrivateTest"]
    assert "of pictures that have changed since" in capsys.readouterr().out
    assert len(moved) == len(before) and [label for label, face in moved if label != before[face]] == [4]
    for old, new in (("test", "x"), ("train", "test"), ("x", "train")):
        (tmp_path / old).rename(tmp_path / new)
    swapped = read_back(prepare.ensure(tmp_path, progress=False))
    assert swapped["Training"] | swapped["PublicTest"] == moved
    capsys.readouterr()
    prepare.ensure(tmp_path, progress=False)
    assert capsys.readouterr().out == ""


def test_pictures_that_were_recorded_without_their_names_are_read_anew_once(tmp_path, capsys):
    write_pictures(tmp_path / "a", count=1)
    h5_path = prepare.ensure(tmp_path / "a", progress=False)

    def forget():
        with h5py.File(h5_path, "r+") as h5:
            (source,) = json.loads(h5.attrs["sources"])
            h5.attrs["sources"] = json.dumps([source | {"sha256": ""}])

    def said():
        assert prepare.ensure(tmp_path / "a", progress=False) == h5_path
        return capsys.readouterr().out

    forget()
    assert "anew: it is of pictures whose names it did not record" in said() and said() == ""
    forget()
    for split in ("train", "test"):
        (tmp_path / "a" / split).rename(tmp_path / split)
    assert said() == ""


@pytest.mark.parametrize("way", ["ZIPs", "folders"])
@pytest.mark.parametrize("splits", [("train", "test"), ("train", "val", "test"), ("train", "validation")])
def test_places_of_pictures_that_complete_each_other_are_one(tmp_path, splits, way, capsys):
    source = tmp_path / "source"
    source.mkdir()
    made = write_pictures(tmp_path, splits, count=2)
    for split in splits:
        place = (tmp_path if way == "ZIPs" else source) / f"{split} alone"
        place.mkdir()
        (tmp_path / split).rename(place / split)
        if way == "ZIPs":
            zipped(place, source / f"{split}.zip")
    found = read_back(prepare.ensure(source))
    assert found["PrivateTest"] == as_set(made[splits[-1]])
    if "val" in splits:
        assert found["Training"] == as_set(made["train"]) and found["PublicTest"] == as_set(made["val"])
    else:
        assert found["Training"] | found["PublicTest"] == as_set(made["train"])
    capsys.readouterr()
    prepare.ensure(source)
    assert capsys.readouterr().out == ""


def test_places_of_pictures_that_have_the_same_split_are_not_joined(tmp_path):
    for place in ("a", "b"):
        write_pictures(tmp_path / place, ("train",), count=1)
    write_pictures(tmp_path / "c", ("test",), count=1)
    with pytest.raises(UserError, match="a has 7 pictures in folders of classes in a, but none for PrivateTest; b has"):
        prepare.ensure(tmp_path)


def test_spellings_of_folders_of_classes(tmp_path):
    made = write_pictures(tmp_path, classes={0: "0 angry", 4: "SADNESS", 5: "suprise", 6: "6_Neutral"}, count=1)
    assert read_back(prepare.ensure(tmp_path, progress=False))["PrivateTest"] == as_set(made["test"])


def test_a_folder_of_an_unknown_class_is_refused_where_a_known_one_is_missing(tmp_path, capsys):
    made = write_pictures(tmp_path / "whole", classes=NAMES | {7: "Unclear"}, count=2)
    found = read_back(prepare.ensure(tmp_path / "whole"))
    assert found["PrivateTest"] == as_set((label, face) for label, face in made["test"] if label < 7)
    assert "test has folders that are no classes of FER2013: Unclear (2 pictures)" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "whole")
    write_pictures(tmp_path / "more", classes=NAMES | {5: "Astonished"}, count=2)
    with pytest.raises(UserError, match=r"more/test has folders that are no classes .*Astonished \(2 pictures\): name"):
        prepare.ensure(tmp_path)
    into_folder(tmp_path, written(HEADERS["plain"], ",", "utf-8", "numbers"))
    assert_holds(prepare.ensure(tmp_path), annotated=False)


def test_a_split_of_unknown_classes_alone_is_named_and_left_out(tmp_path, capsys):
    made = write_pictures(tmp_path, ("train", "val"), count=2)
    write_pictures(tmp_path, ("test",), {0: "images"}, count=3)
    assert read_back(prepare.ensure(tmp_path))["PrivateTest"] == as_set(made["val"])
    assert "not used: test has folders that are no classes of FER2013: images (3 pictures)" in capsys.readouterr().out


def test_the_report_tells_pictures_of_one_name_apart(tmp_path):
    write_pictures(tmp_path / "fer", count=1)
    for label in ("sad", "happy"):
        (tmp_path / "fer" / "test" / label / "0.png").write_bytes(b"\x89PNG broken")
    prepare.ensure(tmp_path, progress=False)
    text = (tmp_path / "data_report.csv").read_text(encoding="utf-8-sig")
    assert "PrivateTest,pictures,fer/test/happy/0.png," in text and "PrivateTest,pictures,fer/test/sad/0.png," in text


def test_hidden_folders_in_archives_are_passed_over(tmp_path):
    made = write_pictures(tmp_path / "made", count=1)
    (tmp_path / "made" / "train" / ".ipynb_checkpoints").mkdir()
    Image.fromarray(image(1).reshape(48, 48)).save(tmp_path / "made" / "train" / ".ipynb_checkpoints" / "0.png")
    (tmp_path / "source").mkdir()
    zipped(tmp_path / "made", tmp_path / "source" / "a.zip")
    assert read_back(prepare.ensure(tmp_path / "source", progress=False))["PrivateTest"] == as_set(made["test"])


def test_six_folders_deep_and_no_deeper(tmp_path):
    made = write_pictures(tmp_path / "deep" / "1" / "2" / "3" / "4", count=1)
    assert read_back(prepare.ensure(tmp_path / "deep", progress=False))["PrivateTest"] == as_set(made["test"])
    for written in ("data.h5", "data_report.csv"):
        (tmp_path / "deep" / written).unlink()
    with pytest.raises(UserError, match="no files in it, nor in folders up to 6 deep"):
        prepare.ensure(tmp_path)


def test_a_broken_picture_is_dropped_with_its_reason_and_contempt_is_left_out(tmp_path, capsys):
    write_pictures(tmp_path, classes=NAMES | {7: "contempt"}, count=2)
    (tmp_path / "test" / "sad" / "1.png").write_bytes(b"\x89PNG broken")
    done = prepare.prepare(tmp_path, tmp_path / "data.h5")
    assert done.counts == {"Training": 7 * 2 - done.counts["PublicTest"], "PublicTest": done.counts["PublicTest"],
                           "PrivateTest": 13}  # fmt: skip
    assert done.dropped == {"picture": 1}
    assert "1.png" in (tmp_path / "data_report.csv").read_text(encoding="utf-8-sig")
    assert "contempt, which is no class of FER2013" in capsys.readouterr().out


# Other files, and the choice among several


def test_of_several_sources_the_annotated_one_is_taken_and_the_choice_is_said(tmp_path, capsys):
    into_zip(tmp_path, written(HEADERS["annotators"], ",", "utf-8", "numbers"))
    into_folder(tmp_path, written(HEADERS["plain"], ",", "utf-8", "numbers"))
    (tmp_path / "train_labels.csv").write_text("image,label\na.jpg,5\n")
    (tmp_path / "holiday.zip").write_bytes(b"PK\x03\x04 broken")
    assert_holds(prepare.ensure(tmp_path), annotated=True)
    said = capsys.readouterr().out
    assert "reading archive.zip:" in said
    assert "not used: some faces.csv (complete, too)" in said
    assert "not used: train_labels.csv has no column pixels" in said and "not used: holiday.zip" in said


def of_one_split(folder, names, annotated=False):
    """Tables of one split each that keep the column Usage, as a program that cuts fer2013.csv writes them."""
    header = HEADERS["annotators" if annotated else "plain"]
    for name, (split, rows) in zip(names, faces().items(), strict=True):
        values = [
            {"emotion": str(label), "pixels": pixel_text(pixels), "Usage": split}
            | dict(zip(("Valence", "Arousal", "Dominance"), map(str, vad), strict=True))
            for label, pixels, vad in rows
        ]
        (folder / name).write_bytes(table(values, list(dict.fromkeys((*header, "Usage")))))


@pytest.mark.parametrize(
    "names", [("train.csv", "val.csv", "test.csv"), ("a_train.csv", "my public.csv", "private.csv")]
)
@pytest.mark.parametrize("annotated", [False, True])
def test_tables_of_one_split_each_that_keep_the_column_usage_are_one_source(tmp_path, names, annotated):
    of_one_split(tmp_path, names, annotated)
    assert_holds(prepare.ensure(tmp_path, progress=False), annotated)


def test_of_tables_that_are_named_for_splits_the_column_usage_counts(tmp_path):
    of_one_split(tmp_path, ("train.csv", "x.csv", "y.csv"))
    header, *rows = (tmp_path / "x.csv").read_bytes().splitlines(keepends=True)
    (tmp_path / "test.csv").write_bytes((tmp_path / "y.csv").read_bytes() + b"".join(rows))
    for name in "xy":
        (tmp_path / f"{name}.csv").unlink()
    assert_holds(prepare.ensure(tmp_path, progress=False), annotated=False)


def test_a_whole_table_beside_those_it_was_cut_into_is_enough(tmp_path, capsys):
    of_one_split(tmp_path, ("train.csv", "val.csv", "test.csv"))
    into_folder(tmp_path, written(HEADERS["plain"], ",", "utf-8", "numbers"))
    assert_holds(prepare.ensure(tmp_path), annotated=False)
    assert "not used: train.csv, val.csv, test.csv (complete, too)" in capsys.readouterr().out


def test_two_whole_tables_are_never_poured_together(tmp_path):
    """Even where their names have words of different splits in them."""
    (content,) = written(HEADERS["plain"], ",", "utf-8", "numbers").values()
    for name in ("fer2013_train.csv", "fer2013_latest.csv"):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=r"two candidates for the Training split: fer2013_\w+.csv and fer2013_\w+.csv"):
        prepare.ensure(tmp_path)
    (tmp_path / "fer2013_latest.csv").unlink()
    assert_holds(prepare.ensure(tmp_path), annotated=False)


def test_a_partial_table_beside_a_complete_source_is_named(tmp_path, capsys):
    into_zip(tmp_path, written(HEADERS["annotators"], ",", "utf-8", "numbers"))
    (tmp_path / "train_corrected.csv").write_bytes(table([sample_row(7)]))
    assert_holds(prepare.ensure(tmp_path), annotated=True)
    assert "not used: train_corrected.csv has only Training, and a complete" in capsys.readouterr().out


def test_an_unrelated_broken_archive_never_blocks_an_intact_file(tmp_path, monkeypatch):
    into_folder(tmp_path, written(HEADERS["plain"], ",", "utf-8", "numbers"))
    h5_path = prepare.ensure(tmp_path, progress=False)
    before = h5_path.read_bytes()
    (tmp_path / "other.rar").write_bytes(b"Rar!\x1a\x07\x01\x00 broken")
    assert prepare.ensure(tmp_path) == h5_path and h5_path.read_bytes() == before
    (tmp_path / "some faces.csv").unlink()
    assert prepare.ensure(tmp_path) == h5_path and h5_path.read_bytes() == before


def test_faces_with_annotations_are_not_replaced_by_some_without_when_their_source_is_gone(tmp_path):
    into_zip(tmp_path, written(HEADERS["annotators"], ",", "utf-8", "numbers"))
    h5_path = prepare.ensure(tmp_path, progress=False)
    (tmp_path / "archive.zip").unlink()
    into_folder(tmp_path, written(HEADERS["plain"], ",", "utf-8", "numbers"))
    assert_holds(prepare.ensure(tmp_path), annotated=True)
    h5_path.unlink()
    assert_holds(prepare.ensure(tmp_path), annotated=False)


def test_nothing_is_opened_when_the_file_is_up_to_date(tmp_path, monkeypatch):
    into_tar("gz")(tmp_path, written(HEADERS["plain"], ",", "utf-8", "numbers"))
    h5_path = prepare.ensure(tmp_path, progress=False)
    monkeypatch.setattr(prepare, "survey", None)
    assert prepare.ensure(tmp_path) == h5_path


def test_the_ancestors_h5_is_read_and_stays_where_it_is(tmp_path):
    with h5py.File(tmp_path / "data.h5", "w") as h5:
        for split, rows in faces().items():
            h5[f"{split}_pixel"] = np.array([pixels for _, pixels, _ in rows], np.int64).reshape(-1, 48, 48)
            h5[f"{split}_label"] = np.array([label for label, _, _ in rows])
    theirs = (tmp_path / "data.h5").read_bytes()
    for source in (tmp_path, tmp_path / "data.h5"):
        h5_path = prepare.ensure(source, progress=False)
        assert_holds(h5_path, annotated=False)
        assert h5_path != tmp_path / "data.h5" and (tmp_path / "data.h5").read_bytes() == theirs


def test_rows_of_an_ancestors_h5_that_make_no_sense_are_dropped_and_reported(tmp_path):
    """V/A/D on another scale or none, pixels from 0 to 1, labels beyond the classes."""
    faulty = {1: ("VAD", 5.0), 2: ("VAD", np.nan), 3: ("pixel", 0.5), 4: ("label", 7)}
    with h5py.File(tmp_path / "theirs.h5", "w") as h5:
        for place, split in enumerate(SPLITS):
            arrays = {
                "pixel": np.stack([image(10 * place + i) for i in range(6)]).astype(np.float32),
                "label": np.arange(6),
                "VAD": np.ones((6, 3), np.float32),
            }
            for row, (name, value) in faulty.items():
                arrays[name][row] = value
            for name, values in arrays.items():
                h5[f"{split}_{name}"] = values
    h5_path = prepare.ensure(tmp_path / "theirs.h5", progress=False)
    for place, split in enumerate(SPLITS):
        faces = load_split(h5_path, split)
        assert faces.labels.tolist() == [0, 5] and faces.vad.tolist() == [[1.0] * 3] * 2
        assert np.array_equal(faces.images.numpy().reshape(2, -1), [image(10 * place), image(10 * place + 5)])
    report = (tmp_path / "data_report.csv").read_text(encoding="utf-8-sig")
    for row, reason in ((2, "V/A/D: not all"), (3, "V/A/D: not all"), (4, "pixels: not all"), (5, "label: not in 0-6")):
        assert report.count(f"theirs.h5,{row},{reason}") + report.count(f"theirs.h5,{row},dropped,{reason}") == 3


def test_beside_a_table_that_was_named_only_its_own_folder_is_looked_at(tmp_path, monkeypatch):
    into_folder(tmp_path, written(HEADERS["plain"], ",", "utf-8", "numbers"))
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "other.csv").write_bytes(b"x")
    looked, original = [], sources.Tree._add
    monkeypatch.setattr(
        sources.Tree, "_add", lambda self, path, base: looked.append(path) or original(self, path, base)
    )
    (source,) = tmp_path.glob("*.csv")
    prepare.ensure(source, progress=False)
    assert source in looked and tmp_path / "below" / "other.csv" not in looked


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs a folder that refuses to be written to")
def test_a_read_only_source_is_prepared_elsewhere(tmp_path):
    into_folder(tmp_path, written(HEADERS["plain"], ",", "utf-8", "numbers"))
    tmp_path.chmod(0o555)
    try:
        assert_holds(prepare.ensure(tmp_path, fallback=tmp_path.parent / "out"), annotated=False)
    finally:
        tmp_path.chmod(0o755)


def test_a_source_that_cannot_be_written_to_is_prepared_in_out(tmp_path, monkeypatch):
    (tmp_path / "input").mkdir()
    into_folder(tmp_path / "input", written(HEADERS["plain"], ",", "utf-8", "numbers"))
    original = prepare.temporary_file

    def refuse(folder):
        if folder == tmp_path / "input":
            raise OSError(30, "Read-only file system")
        return original(folder)

    monkeypatch.setattr(prepare, "temporary_file", refuse)
    h5_path = prepare.ensure(tmp_path / "input", fallback=tmp_path / "out", progress=False)
    assert h5_path == tmp_path / "out" / "data.h5"
    assert_holds(h5_path, annotated=False)
    with monkeypatch.context() as patch:
        patch.setattr(prepare, "survey", None)
        assert prepare.ensure(tmp_path / "input", fallback=tmp_path / "out") == h5_path
    # An outdated data.h5 that lies there already stays, and another is made.
    other = shutil.copytree(tmp_path / "input", tmp_path / "other")
    prepare.ensure(other, progress=False)
    shutil.copy(other / "data.h5", tmp_path / "input")
    before = (tmp_path / "input" / "data.h5").read_bytes()
    into_folder(tmp_path / "input", written(HEADERS["annotators"], ",", "utf-8", "numbers"))
    assert prepare.ensure(tmp_path / "input", fallback=tmp_path / "out", progress=False) == h5_path
    assert_holds(h5_path, annotated=True)
    assert (tmp_path / "input" / "data.h5").read_bytes() == before


def test_a_report_that_is_open_elsewhere_does_not_stop_the_preparation(tmp_path, monkeypatch, capsys):
    into_folder(tmp_path, written(HEADERS["plain"], ",", "utf-8", "numbers"))

    def held(*arguments):
        raise PermissionError(13, "another program has it open")

    monkeypatch.setattr(prepare, "write_report", held)
    assert_holds(prepare.ensure(tmp_path), annotated=False)
    assert "data_report.csv could not be written (another program has it open)" in capsys.readouterr().out


@pytest.mark.parametrize("number", ["300000000000", "65536", "4294967296", "18446744073709551616", "256"])
def test_a_number_that_is_too_large_never_wraps(tmp_path, number):
    rows = [sample_row(0), sample_row(1, pixels=f"{number} " + "7 " * 2303), sample_row(2)]
    (tmp_path / "train.csv").write_bytes(table(rows))
    done = prepare.prepare(tmp_path, tmp_path / "data.h5", progress=False)
    assert done.counts == {"Training": 2} and done.dropped == {"pixels": 1}


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"train.csv": table([sample_row(0)], ("pixels",))}, "no column emotion"),
        ({"faces.csv": table([sample_row(0)])}, "neither a column Usage nor a split"),
        ({"votes.csv": b"Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear\n"}, "FER. votes, but"),
        ({"a.7z": b"7z\xbc\xaf\x27\x1c"}, "7-Zip"),
        ({"photo.jpg": b"\xff\xd8"}, "outside of train/<class> and test/<class>"),
    ],
)  # fmt: skip
def test_what_is_incomplete_or_not_ours_gets_a_sentence(tmp_path, files, told):
    into_folder(tmp_path, files)
    with pytest.raises(UserError, match=told):
        prepare.ensure(tmp_path)


def own_h5(folder):
    source = folder.parent / "source"
    source.mkdir()
    into_folder(source, written(HEADERS["plain"], ",", "utf-8", "numbers"))
    (folder / "fer").mkdir()
    prepare.ensure(source, folder / "fer" / "data.h5", progress=False)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda folder: write_zip(folder / "fer2013.xlsx", {"xl/sheet1.xml": b"", "xl/sheet2.xml": b""}),
         "files of other kinds: 1 .xlsx"),
        (lambda folder: into_nested_folders(folder, {"a.parquet": b"PAR1", "b.parquet": b"PAR1", "c.mat": b""}),
         "files of other kinds: 2 .parquet, 1 .mat"),
        (lambda folder: into_folder(folder, {f"x.{letter}": b"" for letter in ("bib", "md", "py", "pdf", "log",
                                                                             "json", "html")}),
         "1 .md, 1 .pdf, ..."),
        (lambda folder: write_zip(folder / "a.zip", {"fer2013.csv.gz": b"emotion,pixels,Usage"}),
         "a.zip:fer2013.csv.gz is not an archive in spite of its name"),
        (own_h5, "fer/data.h5 was prepared earlier: give its path to use it"),
    ],
)  # fmt: skip
def test_what_is_not_looked_into_is_named(tmp_path, monkeypatch, capsys, make, told):
    place = tmp_path / "place"
    place.mkdir()
    make(place)
    with pytest.raises(UserError) as caught:
        prepare.ensure(place)
    assert told in str(caught.value)
    monkeypatch.setattr(load, "HOME", place)
    assert not load.available() and told in capsys.readouterr().out


def test_before_it_trains_on_drawn_faces_it_says_what_it_found_instead(tmp_path, monkeypatch, capsys):
    write_zip(tmp_path / "holiday.zip", {"beach.jpg": b"\xff\xd8", "tour.txt": b"we went\n"})
    (tmp_path / "notes.csv").write_text("day,hour\n1,2\n")
    monkeypatch.setattr(load, "HOME", tmp_path)
    assert not load.available()
    said = capsys.readouterr().out
    assert "holds no faces of FER2013" in said and "Training on drawn faces instead" in said
    assert "notes.csv has no column pixels" in said and "holiday.zip has 1 picture" in said


def test_all_of_it_through_the_training_program(tmp_path):
    (tmp_path / "source").mkdir()
    into_nested_zip(tmp_path / "source", written(HEADERS["competition"], ";", "utf-16", "names"))
    flags = "--epochs 1 --bs 2 --device cpu --eval center --tasks classify".split()
    command = [sys.executable, "mainpro_FER.py", "--data", tmp_path / "source", "--out", tmp_path / "out", *flags]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"Training {COUNT}, PublicTest {COUNT}, PrivateTest {COUNT} faces" in done.stdout


def test_annotated_files_of_three_places_complete_each_other(tmp_path):
    members, _ = three_splits()
    for number, (name, content) in enumerate(members.items()):
        write_zip(tmp_path / f"{number}.zip", {name: content})
    with survey(tmp_path) as found:
        assert [part.split for part in found.source.parts] == list(SPLITS) and not found.unused


@pytest.mark.real
def test_the_layouts_of_public_downloads(layouts):
    wanted = json.loads((layouts / "expected.json").read_text())
    checked = 0
    for name, layout in wanted.items():
        if "splits" not in layout:
            continue
        h5_path = prepare.ensure(layouts / name, progress=False)
        with h5py.File(h5_path) as h5:
            counts = {split: len(h5[f"{split}_label"]) for split in SPLITS}
            assert (h5.attrs["vad_origin"] == "annotations") == layout["annotated"], name
            for split, what in layout["splits"].items():
                if "pixel_sum" in what:
                    assert counts[split] == what["faces"], (name, split)
                    assert int(h5[f"{split}_pixel"][:].sum(dtype=np.int64)) == what["pixel_sum"], (name, split)
            if "PublicTest" not in layout["splits"]:
                training = layout["splits"]["Training"]["faces"]
                assert counts["Training"] + counts["PublicTest"] == training and counts["PublicTest"] > 0, name
        checked += 1
    assert checked >= 10 and len(EMOTIONS) == 7
