"""data.h5: what is in it, when it is prepared anew, and that nothing is lost or half written."""

import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from data.fer2013.load import load
from data.fer2013.prepare import ensure, main
from tests.conftest import run_program
from tests.samples import (
    PLAIN,
    SPLIT_FILES,
    class_folders,
    contents,
    dropped_rows,
    expected,
    image,
    pixel_text,
    plain_table,
    read_h5,
    sample_row,
    split_rows,
    table,
    three_splits,
    votes_table,
    without_vad,
    write_files,
    write_stored_rar,
    write_zip,
)
from utils.files import UserError
from utils.tasks import EMOTIONS

MEMBERS, ANNOTATED = three_splits()
FACES = without_vad(ANNOTATED)
PLAIN_TABLE = {"fer2013.csv": plain_table()}
REPORT = "data_report.csv"
unix = pytest.mark.skipif(sys.platform == "win32", reason="needs limits, rights or signals of Unix")


@pytest.fixture
def folder(tmp_path):
    """A folder with a small data.rar of three annotated splits."""
    write_stored_rar(tmp_path / "data.rar", MEMBERS)
    return tmp_path


def stamp(path):
    """Tells whether a file was written again: a new file in its place has another inode."""
    return path.stat().st_ino, path.stat().st_mtime_ns


def in_memory(dataset):
    """{split: [(label, V/A/D, pixels)]} of a `Dataset`."""
    found = {}
    for split, faces in dataset.splits.items():
        parts = (faces.labels, faces.vad, faces.images.flatten(1))
        found[split] = list(zip(*(part.tolist() for part in parts), strict=True))
    return found


# What is written


def test_what_data_h5_holds(folder):
    h5_path = ensure(folder)
    assert h5_path == folder / "data.h5"
    assert contents(folder).keys() == {"data.h5", "data.rar", "data_report.csv"}
    assert dropped_rows(folder) == []
    assert read_h5(h5_path) == ANNOTATED
    with h5py.File(h5_path) as h5:
        assert list(h5.attrs["class_names"]) == list(EMOTIONS)
        assert json.loads(h5.attrs["counts"]) == dict.fromkeys(SPLIT_FILES, 3)


def test_the_origin_of_the_annotations_is_in_the_description(tmp_path):
    usages = [split for split in SPLIT_FILES for _ in range(3)]
    votes = votes_table([{"happiness": 10}] * 9, usages=usages)
    for keyword, files in {
        "annotations": MEMBERS,
        "none": PLAIN_TABLE,
        "FER+": PLAIN_TABLE | {"fer2013new.csv": votes},
    }.items():
        place = write_files(tmp_path / keyword, files)
        assert keyword in load(place).description and keyword in load(place / "data.h5").description


# When it is prepared anew


def test_an_intact_file_stands_and_its_sources_are_not_even_read(folder, capsys):
    h5_path = ensure(folder)
    before, source = stamp(h5_path), (folder / "data.rar").stat()
    (folder / "data.rar").write_bytes(bytes(source.st_size))  # would be refused if it were read
    os.utime(folder / "data.rar", ns=(source.st_atime_ns, source.st_mtime_ns))
    capsys.readouterr()
    assert ensure(folder) == ensure(folder / "data.rar") == ensure(h5_path) == h5_path
    (folder / "data.rar").unlink()  # nor is it prepared anew without them
    assert ensure(folder) == ensure(h5_path) == h5_path
    assert stamp(h5_path) == before and capsys.readouterr().out == ""


def test_a_changed_source_is_noticed(tmp_path, capsys):
    write_files(tmp_path, {Path(member).name: content for member, content in MEMBERS.items()})
    h5_path = ensure(tmp_path)
    (tmp_path / SPLIT_FILES["PublicTest"]).write_bytes(table([sample_row(50)]))
    capsys.readouterr()
    assert ensure(tmp_path) == h5_path and str(h5_path) in capsys.readouterr().out
    assert read_h5(h5_path) == ANNOTATED | {"PublicTest": [expected(sample_row(50))]}


@pytest.mark.parametrize("name", ["a/faces.h5", "faces.hdf5"])
def test_what_was_prepared_below_its_source_is_no_change_of_it(folder, name):
    before = stamp(ensure(folder, folder / name))
    assert stamp(ensure(folder, folder / name)) == before


def test_a_better_source_beside_is_noticed(tmp_path, capsys):
    write_files(tmp_path, PLAIN_TABLE)
    assert read_h5(ensure(tmp_path)) == FACES
    write_zip(tmp_path / "annotated.zip", MEMBERS)
    capsys.readouterr()
    assert read_h5(ensure(tmp_path)) == ANNOTATED and "annotated.zip" in capsys.readouterr().out


def truncated(share):
    return lambda path: path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def edited(change):
    def damage(path):
        with h5py.File(path, "r+") as h5:
            change(h5)

    return damage


def replaced(name, values):
    return edited(lambda h5: (h5.pop(name), h5.create_dataset(name, data=values)))


DAMAGES = {
    **{f"cut at {share}": truncated(share) for share in (0, 0.5, 0.95)},
    "no counts": edited(lambda h5: h5.attrs.__delitem__("counts")),
    "no labels": edited(lambda h5: h5.pop("Training_label")),
    "labels of float": replaced("Training_label", np.zeros(3)),
    "labels beyond 6": replaced("Training_label", np.array([0, 7, 1])),
    "NaN valence": edited(lambda h5: h5["PublicTest_VAD"].__setitem__((0, 0), np.nan)),
    "fewer pixels": replaced("Training_pixel", np.zeros((3, 2303), np.uint8)),
    "fewer faces": replaced("Training_pixel", np.zeros((2, 2304), np.uint8)),
    "pixels of 16 bits": replaced("Training_pixel", np.zeros((3, 2304), np.uint16)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_prepared_anew_or_refused(folder, damage):
    """By itself, and beside its source: it is never loaded as it is."""
    h5_path = ensure(folder)
    DAMAGES[damage](h5_path)
    for source in (h5_path, folder):
        try:
            assert in_memory(load(source)) == ANNOTATED
        except UserError as error:
            assert "data.h5" in str(error)


def other_hdf5(path):
    with h5py.File(path, "w") as h5:
        h5["Training_pixel"] = np.arange(5)


@pytest.mark.parametrize(
    "make", [other_hdf5, lambda path: path.write_text("my notes")], ids=["hdf5", "notes"]
)
def test_a_file_of_someone_else_is_kept(folder, capsys, make):
    make(folder / "data.h5")
    theirs = (folder / "data.h5").read_bytes()
    assert main([str(folder / "data.h5")]) == 2
    h5_path = ensure(folder)
    assert read_h5(h5_path) == ANNOTATED and theirs in contents(folder).values()
    assert str(h5_path) in capsys.readouterr().out
    before = stamp(h5_path)
    assert ensure(folder) == h5_path and stamp(h5_path) == before


@pytest.mark.parametrize("named", [True, False])
def test_annotated_faces_are_never_replaced_by_plain_ones(folder, named):
    """Whether the plain table is named, or the annotated source is gone, they are kept."""
    annotated = ensure(folder).read_bytes()
    write_files(folder, PLAIN_TABLE)
    if named:
        assert read_h5(ensure(folder / "fer2013.csv")) == FACES
    else:
        (folder / "data.rar").unlink()
        ensure(folder)
    assert annotated in contents(folder).values()


def test_another_run_may_move_the_annotated_faces_first(folder, monkeypatch):
    annotated, rename = ensure(folder).read_bytes(), os.replace
    write_files(folder, PLAIN_TABLE)

    def moved_before(source, target):
        monkeypatch.setattr(os, "replace", rename)
        rename(source, folder / "moved.h5")
        rename(source, target)

    monkeypatch.setattr(os, "replace", moved_before)
    assert read_h5(ensure(folder / "fer2013.csv")) == FACES
    assert (folder / "moved.h5").read_bytes() == annotated


def test_what_killed_preparations_left_is_removed_an_hour_later(folder):
    names = [
        f"{name}.{12345678 + age}.unfinished" for name in ("data.h5", REPORT) for age in (0, 1)
    ]
    write_files(folder, dict.fromkeys(names, b"half"))
    for name in names[::2]:
        os.utime(folder / name, (0, 0))
    ensure(folder)
    assert contents(folder).keys() == {"data.rar", "data.h5", REPORT, *names[1::2]}


def test_faces_of_another_place_are_never_those_of_the_named_one(folder, tmp_path):
    out = tmp_path / "out" / "data.h5"
    ensure(folder, out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty"):
        ensure(tmp_path / "empty", out)
    ensure(write_files(tmp_path / "plain", PLAIN_TABLE), out)
    assert read_h5(out) == FACES


# Failures


def test_a_source_that_is_damaged_later_leaves_the_faces_as_they_were(folder, refused):
    ensure(folder)
    (folder / "data.rar").write_bytes((folder / "data.rar").read_bytes()[:-3000])
    refused(folder, "data.rar")


@unix
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_killed_at_any_time_the_old_file_or_the_new_one_is_there(tmp_path, step):
    write_files(tmp_path, PLAIN_TABLE)
    before = ensure(tmp_path).read_bytes()
    write_files(tmp_path, {"fer2013.csv": plain_table(4)})
    pid = os.fork()
    if pid == 0:
        setattr(os, step, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        ensure(tmp_path)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    assert (tmp_path / "data.h5").read_bytes() == before
    assert len(read_h5(ensure(tmp_path))["Training"]) == 4


@unix
def test_a_full_disk_is_told_and_nothing_is_lost(tmp_path, capsys):
    import resource

    write_files(tmp_path, {"fer2013.csv": plain_table(20)})
    good, listed = ensure(tmp_path).read_bytes(), contents(tmp_path).keys()
    write_files(tmp_path, {"fer2013.csv": plain_table(21)})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        code = main([str(tmp_path)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    said = capsys.readouterr().err
    assert code == 2 and "data.h5" in said and "room" in said and said.count("\n") == 1
    assert (tmp_path / "data.h5").read_bytes() == good and contents(tmp_path).keys() == listed
    assert main([str(tmp_path)]) == 0 and (tmp_path / "data.h5").read_bytes() != good


@pytest.fixture
def shared():
    """A place that others may look into, with a table in `source`, and a function that forbids.

    That takes the rights on a folder, also from root, who has all.
    """
    if sys.platform == "win32":
        pytest.skip("needs the rights of Unix")
    place, is_root = Path(tempfile.mkdtemp()).resolve(), os.geteuid() == 0

    def forbid(folder, mode):
        for path in (place, *place.rglob("*")):
            path.chmod(0o777)
        folder.chmod(mode)
        if is_root:
            os.seteuid(65534)

    yield write_files(place, {"source/fer2013.csv": PLAIN_TABLE["fer2013.csv"]}), forbid
    if is_root:
        os.seteuid(0)
    shutil.rmtree(place)


def test_beside_a_source_that_cannot_be_written_to_data_h5_is_in_out(shared):
    place, forbid = shared
    forbid(place / "source", 0o555)
    load(place / "source", out=place / "out")
    before = stamp(place / "out" / "data.h5")
    load(place / "source", out=place / "out")
    assert stamp(place / "out" / "data.h5") == before
    assert read_h5(place / "out" / "data.h5") == FACES
    assert contents(place / "source").keys() == {"fer2013.csv"}


def test_an_outdated_file_that_cannot_be_replaced_stays_and_another_is_in_out(shared):
    place, forbid = shared
    before = ensure(place / "source").read_bytes()
    write_files(place / "source", {"fer2013.csv": plain_table(4)})
    forbid(place / "source", 0o555)
    assert len(load(place / "source", out=place / "out").splits["Training"]) == 4
    assert (place / "source" / "data.h5").read_bytes() == before


def test_without_another_place_a_source_that_cannot_be_written_to_is_told(shared, refused):
    place, forbid = shared
    forbid(place / "source", 0o555)
    refused(place / "source", str(place / "source"), "--h5")


def test_a_folder_that_nobody_may_list_is_named(shared, refused):
    place, forbid = shared
    write_files(place / "source", class_folders(count=1)[0])
    forbid(place / "source" / "train" / "happy", 0)
    refused(place / "source", "train/happy ")


def test_a_report_that_cannot_be_written_does_not_stop_the_preparation(folder, capsys):
    (folder / "data_report.csv").mkdir()
    assert read_h5(ensure(folder)) == ANNOTATED and "data_report.csv" in capsys.readouterr().out


def test_h5_must_be_the_name_of_a_file(folder, capsys):
    write_files(folder, {"results/thesis.txt": b"mine"})
    for name in ("", "results", "results/thesis.txt", "data_report.csv", "data.rar", "new"):
        assert main([str(folder), "--h5", str(folder / name)]) == 2
        assert f"{folder / name} is " in capsys.readouterr().err
    assert contents(folder).keys() == {"data.rar", "results/thesis.txt"}


# The command


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every name of a file is text")
def test_a_dropped_picture_whose_name_is_no_text_is_reported(tmp_path):
    write_files(tmp_path, class_folders(count=1)[0])
    write_files(tmp_path, {os.fsdecode(b"train/happy/\xff.png"): b""})
    ensure(tmp_path)
    assert [file for _, file, *_ in dropped_rows(tmp_path)] == ["train/happy/\\udcff.png"]


def test_plain_faces_train_the_classification_alone(tmp_path, capsys):
    place = write_files(tmp_path / "data", PLAIN_TABLE)
    flags = ["--data", place, "--model", "Narrow", "--epochs", 1, "--bs", 2, "--eval", "center"]
    assert run_program(tmp_path / "out", *flags) == 0
    assert "classification" in capsys.readouterr().out
    tables = {path.name for path in (tmp_path / "out").glob("*.csv")}
    assert tables == {"AccProcess_classify.csv"}
    with pytest.raises(UserError, match="classify"):
        run_program(tmp_path / "more", *flags, "--tasks", "classify", "regressV")


# Three splits in memory


def test_every_face_and_annotation_arrives(folder):
    assert in_memory(load(folder)) == ANNOTATED


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_what_the_user_says_of_the_annotations_is_repeated(folder, encoding):
    """UTF-16 is what `echo ... > vad_origin.txt` gives in the PowerShell of Windows."""
    text = "derived by a regression\nmore\n"
    (folder / "vad_origin.txt").write_text(text, encoding=encoding)
    for source in (folder, folder / "data.h5"):
        description = load(source).description
        assert "derived by a regression" in description and "more" not in description


def whole_table(rows):
    """{name: bytes} of one table. rows: {split: [row]}."""
    return {"fer2013.csv": table([row for mine in rows.values() for row in mine], PLAIN)}


def test_a_limit_keeps_faces_from_the_whole_of_a_split(tmp_path):
    """Pictures from folders are sorted by class: the first would all be of one."""
    write_files(tmp_path, whole_table(split_rows(9)))
    faces = load(tmp_path, limit=4).splits["PrivateTest"]
    assert faces.images.reshape(4, -1).tolist() == [image(200 + n).tolist() for n in (0, 2, 4, 6)]
    for limit in (9, 100):
        assert len(load(tmp_path, limit=limit).splits["PrivateTest"]) == 9


def smooth_face(seed):
    small = Image.fromarray(image(seed)[:144].reshape(12, 12))
    return np.asarray(small.resize((48, 48), Image.Resampling.BICUBIC)).ravel()


def test_dropping_duplicates_concerns_training_faces_alone(tmp_path):
    """A copy that is a little darker counts, too."""
    splits = enumerate(FACES)
    faces = {split: [smooth_face(10 * n + place) for n in range(6)] for place, split in splits}
    faces["Training"][4] = (faces["PublicTest"][2] * 0.9).astype(np.uint8)
    rows = {split: [sample_row(0, Usage=split, pixels=pixel_text(face)) for face in mine]
            for split, mine in faces.items()}  # fmt: skip
    splits = load(write_files(tmp_path, whole_table(rows)), drop_duplicates=True).splits
    kept = np.delete(faces["Training"], 4, axis=0)
    assert np.array_equal(splits["Training"].images.reshape(5, -1), kept)
    assert [len(splits[split]) for split in ("PublicTest", "PrivateTest")] == [6, 6]


def test_a_missing_split_is_named_with_what_is_there(tmp_path):
    files = {name: data for name, data in MEMBERS.items() if "train" not in name}
    with pytest.raises(UserError, match=r"Training.*PublicTest \(3 faces\), PrivateTest"):
        load(write_files(tmp_path, files))
