"""data.h5: what is in it, when it is made anew, and that nothing is lost or half written."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from data.faces import load_split
from data.fer2013 import collect, prepare, store
from data.fer2013.prepare import check, describe, ensure
from tests.samples import (
    SPLIT_FILES,
    expected,
    image,
    pixel_text,
    sample_row,
    table,
    three_splits,
    write_stored_rar,
    write_zip,
)
from utils.files import UserError
from utils.tasks import EMOTIONS, SPLITS

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def folder(tmp_path):
    """A folder with a small data.rar of three splits."""
    write_stored_rar(tmp_path / "data.rar", three_splits()[0])
    return tmp_path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def report(folder):
    with open(folder / "data_report.csv", encoding="utf-8-sig", newline="") as stream:
        return [tuple(row) for row in csv.reader(stream)]


def stamp(path):
    """Tells whether a file was written again: renaming a new file to its place changes its inode."""
    return path.stat().st_ino, path.stat().st_mtime_ns


def edited(path, change):
    """Change an HDF5 file in place."""
    with h5py.File(path, "r+") as h5:
        change(h5)


# What is written


def test_contents_and_layout(folder):
    rows = three_splits()[1]
    h5_path = ensure(folder)
    assert h5_path == folder / "data.h5" and names(folder) == ["data.h5", "data.rar", "data_report.csv"]
    with h5py.File(h5_path) as h5:
        assert len(h5) == 12
        for split in SPLITS:
            labels, vad, pixels = zip(*map(expected, rows[split]), strict=True)
            assert h5[f"{split}_pixel"].dtype == np.uint8 and h5[f"{split}_pixel"].chunks is None
            assert h5[f"{split}_label"].dtype == np.int64 and h5[f"{split}_VAD"].dtype == np.float32
            assert h5[f"{split}_pixel"][:].tolist() == list(pixels)
            assert h5[f"{split}_label"][:].tolist() == list(labels)
            assert h5[f"{split}_VAD"][:].tolist() == list(vad)
            assert h5[f"{split}_repeated"][:].tolist() == [0, 0, 0]
            offset = h5[f"{split}_pixel"].id.get_offset()
            mapped = np.memmap(h5_path, np.uint8, "r", offset, (3, 2304))
            assert mapped.tolist() == list(pixels)
        assert h5.attrs["format_version"] == 1
        assert h5.attrs["vad_origin"] == "annotations"
        assert list(h5.attrs["class_names"]) == list(EMOTIONS)
        assert h5.attrs["vad_range"].tolist() == [-2, 2]
        assert json.loads(h5.attrs["counts"]) == dict.fromkeys(SPLITS, 3)
        (source,) = json.loads(h5.attrs["sources"])
    stat = (folder / "data.rar").stat()
    assert (source["name"], source["size"], source["mtime_ns"]) == ("data.rar", stat.st_size, stat.st_mtime_ns)
    digest = subprocess.run([sys.executable, "-c", HASH, folder / "data.rar"], capture_output=True, text=True)
    assert source["sha256"] == digest.stdout.strip()
    assert report(folder) == [("split", "file", "row", "reason", "action")]


HASH = "import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], 'rb').read()).hexdigest())"


def test_equal_sources_give_equal_files(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        write_stored_rar(tmp_path / name / "data.rar", three_splits()[0])
        os.utime(tmp_path / name / "data.rar", ns=(1, 10**18))
        ensure(tmp_path / name)
    assert (tmp_path / "a" / "data.h5").read_bytes() == (tmp_path / "b" / "data.h5").read_bytes()


def test_many_faces_go_through_the_disk(tmp_path, monkeypatch):
    """Beyond its memory, a split's pixels wait in a file, in the same order."""
    monkeypatch.setattr(collect, "_IN_MEMORY", 10_000)
    monkeypatch.setattr(store, "_COPY_BYTES", 7 * 2304)
    rows = [sample_row(i) for i in range(40)]
    (tmp_path / "train.csv").write_bytes(table(rows))
    with h5py.File(ensure(tmp_path)) as h5:
        assert h5["Training_pixel"][:].tolist() == [expected(row)[2] for row in rows]
    assert names(tmp_path) == ["data.h5", "data_report.csv", "train.csv"]


def test_a_split_that_is_absent(tmp_path):
    (tmp_path / "publictest.csv").write_bytes(table([sample_row(1)]))
    with h5py.File(ensure(tmp_path)) as h5:
        assert {name.split("_")[0] for name in h5} == {"PublicTest"}
    assert check(tmp_path / "data.h5").counts == {"PublicTest": 1}


def test_without_vad(tmp_path):
    rows = [{"emotion": "3", "pixels": pixel_text(image(i)), "Usage": split} for i, split in enumerate(SPLITS)]
    (tmp_path / "fer2013.csv").write_bytes(table(rows, ("emotion", "pixels", "Usage")))
    others = ", ".join(name for name in EMOTIONS if name != "Happy")
    assert describe(ensure(tmp_path)) == "; ".join(["none", *(f"no {split} faces of {others}" for split in SPLITS)])
    with h5py.File(tmp_path / "data.h5") as h5:
        assert not [name for name in h5 if name.endswith("VAD")]


def test_vad_from_votes(tmp_path):
    rows = [{"emotion": "3", "pixels": pixel_text(image(i)), "Usage": split} for i, split in enumerate(SPLITS)]
    (tmp_path / "fer2013.csv").write_bytes(table(rows, ("emotion", "pixels", "Usage")))
    emotions = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "NF")
    votes = [dict.fromkeys(emotions, "0") | {"happiness": "9", "Usage": s, "Image name": "x.png"} for s in SPLITS]
    (tmp_path / "fer2013new.csv").write_bytes(table(votes, ("Usage", "Image name", *emotions)))
    assert describe(ensure(tmp_path)).startswith("derived from FER+ votes; no Training faces of Angry")
    with h5py.File(tmp_path / "data.h5") as h5:
        assert h5["PublicTest_VAD"][0].tolist() == pytest.approx([1.62, 1.02, 0.92], abs=1e-6)
    assert [source["name"] for source in check(tmp_path / "data.h5").sources] == ["fer2013.csv", "fer2013new.csv"]


# The report


def test_report_and_summary(tmp_path, capsys):
    same = pixel_text(image(5))
    training = [
        sample_row(0),
        sample_row(1, emotion="8"),
        sample_row(2, pixels=same),
        sample_row(3, pixels=pixel_text([0] * 2304)),
        sample_row(4, pixels="1 2 3"),
        sample_row(5, pixels=same),
    ]
    public = [sample_row(10), sample_row(11, Valence="x"), sample_row(12, pixels=same)]
    private = [sample_row(20), sample_row(21), sample_row(21)]  # twice, but in one split only
    write_zip(
        tmp_path / "data.zip",
        {"train.csv": table(training), "publictest.csv": table(public), "privatetest.csv": table(private)},
    )
    done = prepare.prepare(tmp_path, tmp_path / "data.h5")
    train, test = "data.zip:train.csv", "data.zip:publictest.csv"
    assert report(tmp_path)[1:] == [
        ("Training", train, "2", "emotion: '8' is neither an integer in 0-6 nor the name of an emotion", "dropped"),
        ("Training", train, "3", "repeated: same image as PublicTest row 3", "reported"),
        ("Training", train, "4", "one colour: all pixels are equal", "reported"),
        ("Training", train, "5", "pixels: 3 numbers instead of 2304", "dropped"),
        ("Training", train, "6", "repeated: same image as PublicTest row 3", "reported"),
        ("PublicTest", test, "2", "Valence: 'x' is not a number", "dropped"),
        ("PublicTest", test, "3", "repeated: same image as Training row 3", "reported"),
    ]
    with h5py.File(tmp_path / "data.h5") as h5:
        assert h5["Training_repeated"][:].tolist() == [0, 1, 0, 1]
        assert h5["PublicTest_repeated"][:].tolist() == [0, 1]
        assert h5["PrivateTest_repeated"][:].tolist() == [0, 0, 0]
    assert done.counts == {"Training": 4, "PublicTest": 2, "PrivateTest": 3}
    assert done.dropped == {"emotion": 1, "pixels": 1, "Valence": 1}
    assert (done.one_colour, done.repeated, done.vad_origin) == (1, 3, "annotations")
    said = capsys.readouterr()
    assert "4 Training, 2 PublicTest, 3 PrivateTest" in said.out and "rows dropped: 3" in said.out
    assert str(tmp_path / "data_report.csv") in said.out and said.err == ""


def test_repeated_images_in_three_splits_and_near_misses(tmp_path):
    """Images that differ in one pixel, or hold the same pixels in another order, are different."""
    base = image(1)
    near, turned = base.copy(), base[::-1]
    near[7] ^= 128
    for split, faces in {"train": [base, near], "publictest": [turned, base], "privatetest": [base, near]}.items():
        rows = [sample_row(i, pixels=pixel_text(face)) for i, face in enumerate(faces)]
        (tmp_path / f"{split}.csv").write_bytes(table(rows))
    with h5py.File(ensure(tmp_path)) as h5:
        assert [h5[f"{split}_repeated"][:].tolist() for split in SPLITS] == [[1, 1], [0, 1], [1, 1]]
    others = "repeated: same image as Training row 1, PrivateTest row 1"
    assert ("PublicTest", "publictest.csv", "2", others, "reported") in report(tmp_path)


# When it is made anew


def test_an_intact_file_stands(folder, capsys):
    h5_path = ensure(folder)
    before = stamp(h5_path)
    capsys.readouterr()
    assert ensure(folder) == h5_path and ensure(folder / "data.rar") == h5_path and ensure(h5_path) == h5_path
    os.utime(folder / "data.rar", ns=(1, 10**18))  # touched, with the same contents
    ensure(folder)
    (folder / "data.rar").unlink()  # the source is gone
    ensure(folder)
    assert stamp(h5_path) == before and capsys.readouterr().out == ""


def test_a_changed_source(folder, capsys):
    h5_path = ensure(folder)
    members, _ = three_splits()
    name = "data/train-20240507-yh.csv"
    write_stored_rar(folder / "data.rar", members | {name: table([sample_row(50), sample_row(51), sample_row(52)])})
    capsys.readouterr()
    ensure(folder)
    assert "data.rar, which has changed" in capsys.readouterr().out
    with h5py.File(h5_path) as h5:
        assert h5["Training_pixel"][0].tolist() == image(50).tolist()


def test_another_source(folder, capsys):
    ensure(folder)
    (folder / "data.rar").rename(folder / "renamed.rar")
    capsys.readouterr()
    ensure(folder)
    assert "of other sources (data.rar) than those there now (renamed.rar)" in capsys.readouterr().out


@pytest.mark.parametrize("name", SPLIT_FILES.values())
def test_every_source_that_looks_changed_is_compared(tmp_path, name, capsys):
    members, _ = three_splits()
    for path, content in members.items():
        (tmp_path / Path(path).name).write_bytes(content)
    h5_path = ensure(tmp_path)
    before = stamp(h5_path)
    for path in tmp_path.glob("*.csv"):  # as a fresh download would
        os.utime(path, ns=(1, 10**18))
    assert ensure(tmp_path) == h5_path and stamp(h5_path) == before
    (tmp_path / name).write_bytes(table([sample_row(50)]))
    capsys.readouterr()
    ensure(tmp_path)
    assert f"of an earlier {name}, which has changed since" in capsys.readouterr().out
    (split,) = (split for split in SPLITS if SPLIT_FILES[split] == name)
    with h5py.File(h5_path) as h5:
        assert h5[f"{split}_pixel"][:].tolist() == [image(50).tolist()]


def test_faces_of_another_source_are_never_those_of_the_named_one(folder):
    annotated = ensure(folder).read_bytes()
    rows = [{"emotion": "3", "pixels": pixel_text(image(i)), "Usage": split} for i, split in enumerate(SPLITS)]
    (folder / "fer2013.csv").write_bytes(table(rows, ("emotion", "pixels", "Usage")))
    assert check(ensure(folder / "fer2013.csv")).counts == dict.fromkeys(SPLITS, 1)
    assert [path.read_bytes() for path in folder.glob("previous/*/data.h5")] == [annotated]
    (folder / "notes.txt").write_text("hello\n")
    with pytest.raises(UserError, match="notes.txt has no column pixels"):
        ensure(folder / "notes.txt")


def test_faces_of_another_folder_are_never_those_of_the_named_one(folder, tmp_path):
    out = tmp_path / "out" / "data.h5"
    ensure(folder, out)
    for name in ("plain", "empty"):
        (tmp_path / name).mkdir()
    with pytest.raises(UserError, match="empty holds no faces"):
        ensure(tmp_path / "empty", out)
    rows = [{"emotion": "3", "pixels": pixel_text(image(i)), "Usage": split} for i, split in enumerate(SPLITS)]
    (tmp_path / "plain" / "fer2013.csv").write_bytes(table(rows, ("emotion", "pixels", "Usage")))
    ensure(tmp_path / "plain", out)
    assert check(out).counts == dict.fromkeys(SPLITS, 1) and check(out).vad_origin == "none"


def truncate(share):
    return lambda path: path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def remove_dataset(path):
    edited(path, lambda h5: h5.pop("PublicTest_label"))


def wrong_dtype(path):
    def change(h5):
        labels = h5["Training_label"][:]
        del h5["Training_label"]
        h5["Training_label"] = labels.astype(np.int32)

    edited(path, change)


def wrong_shape(path):
    def change(h5):
        del h5["Training_pixel"]
        h5["Training_pixel"] = np.zeros((2, 2304), np.uint8)

    edited(path, change)


def chunked(path):
    def change(h5):
        pixels = h5["Training_pixel"][:]
        del h5["Training_pixel"]
        h5.create_dataset("Training_pixel", data=pixels, chunks=(1, 2304))

    edited(path, change)


def wrong_labels(path):
    edited(path, lambda h5: h5["Training_label"].__setitem__(0, 7))


def older_format(path):
    edited(path, lambda h5: h5.attrs.__setitem__("format_version", 0))


def no_counts(path):
    edited(path, lambda h5: h5.attrs.__delitem__("counts"))


DAMAGES = [truncate(0), truncate(0.1), truncate(0.5), truncate(0.95), remove_dataset, wrong_dtype, wrong_shape]
DAMAGES += [chunked, wrong_labels, older_format, no_counts]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_made_anew(folder, capsys, damage):
    h5_path = ensure(folder)
    whole = h5_path.read_bytes()
    damage(h5_path)
    with pytest.raises(UserError, match="data.h5 is"):
        check(h5_path)
    capsys.readouterr()
    ensure(folder)
    said = capsys.readouterr().out
    assert said.startswith(f"preparing {h5_path} anew: it is ")
    assert h5_path.read_bytes() == whole and "previous" not in names(folder)
    damage(h5_path)
    (folder / "data.rar").unlink()
    with pytest.raises(UserError, match="put the archive"):
        ensure(folder)


def other_hdf5(path):
    with h5py.File(path, "w") as h5:
        h5["Training_pixel"] = np.arange(5)


@pytest.mark.parametrize("make", [other_hdf5, lambda path: path.write_text("my notes")])
def test_a_file_of_someone_else_is_kept(folder, capsys, make):
    h5_path = folder / "data.h5"
    make(h5_path)
    theirs = h5_path.read_bytes()
    with pytest.raises(UserError):
        check(h5_path)
    ensure(folder)
    (kept,) = (folder / "previous").rglob("data.h5")
    assert kept.read_bytes() == theirs and str(kept.parent) in capsys.readouterr().out
    assert check(h5_path).counts["Training"] == 3
    assert [source["name"] for source in check(h5_path).sources] == ["data.rar"]


def test_a_file_of_someone_else_is_kept_when_there_is_no_source(tmp_path):
    other_hdf5(tmp_path / "data.h5")
    with pytest.raises(UserError, match="put the archive"):
        ensure(tmp_path)
    assert names(tmp_path) == ["data.h5"]


# Failures


def test_an_error_leaves_nothing_behind(folder):
    good = ensure(folder).read_bytes()
    data = (folder / "data.rar").read_bytes()
    (folder / "data.rar").write_bytes(data[:-3000])
    left = names(folder)
    with pytest.raises(UserError):
        ensure(folder)
    assert names(folder) == left and (folder / "data.h5").read_bytes() == good


@pytest.mark.parametrize("place", ["write", "check", "_write_pixels"])
def test_an_interruption_leaves_nothing_behind(folder, monkeypatch, place):
    (folder / "data.h5").write_bytes(b"") if place == "check" else None

    def interrupt(*_):
        raise KeyboardInterrupt

    before = names(folder)
    monkeypatch.setattr(store, place, interrupt)
    assert prepare.main([str(folder)]) == 130
    assert names(folder) == before


def test_a_full_disk_is_explained(folder, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "write", fail)
    with pytest.raises(UserError, match="No space left"):
        ensure(folder)
    assert names(folder) == ["data.rar"]


def test_no_row_can_be_used(tmp_path):
    (tmp_path / "train.csv").write_bytes(table([sample_row(1, emotion="x"), sample_row(2, emotion="y")]))
    with pytest.raises(UserError, match=r"train.csv: none of its 2 rows .*row 1: emotion: 'x'"):
        ensure(tmp_path)
    (tmp_path / "train.csv").write_bytes(table([]))
    with pytest.raises(UserError, match="no rows"):
        ensure(tmp_path)
    assert names(tmp_path) == ["train.csv"]


def test_a_path_below_a_file_is_a_sentence(tmp_path):
    (tmp_path / "README.md").write_text("text")
    for name in ("README.md/x.h5", "README.md/x.csv"):
        with pytest.raises(UserError, match="does not exist"):
            ensure(tmp_path / name)


# The command


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "data.fer2013.prepare", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_command(folder, capsys):
    done = run(folder, "--h5", folder / "made" / "faces.h5")
    assert done.returncode == 0 and "Traceback" not in done.stderr + done.stdout
    assert "3 Training, 3 PublicTest, 3 PrivateTest" in done.stdout
    assert check(folder / "made" / "faces.h5").counts["Training"] == 3
    assert prepare.main([str(folder / "absent")]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: ") and "absent" in said.err and "Traceback" not in said.err


def test_a_folder_is_no_place_for_data_h5(folder, capsys):
    (folder / "results").mkdir()
    (folder / "results" / "thesis.txt").write_text("mine")
    for place in (folder, folder / "results"):
        assert prepare.main([str(folder), "--h5", str(place)]) == 2
        said = capsys.readouterr()
        assert f"{place} is a folder: give the name of a file, such as {place / 'data.h5'}" in said.err
        with pytest.raises(UserError, match="is a folder"):
            prepare.prepare(folder, place)
    assert names(folder) == ["data.rar", "results"] and names(folder / "results") == ["thesis.txt"]


# Real faces


@pytest.mark.real
def test_genuine_archive(real_data, tmp_path):
    h5_path = ensure(real_data / "authors", tmp_path / "data.h5")
    with open(real_data / "fer2013" / "human_vad_publictest.csv", newline="") as stream:
        human = list(csv.DictReader(stream))
    assert check(h5_path).counts == {"PublicTest": 464} == {"PublicTest": len(human)}
    with h5py.File(h5_path) as h5:
        vad = [[float(row[name]) for name in ("Valence", "Arousal", "Dominance")] for row in human]
        assert h5["PublicTest_VAD"][:].tolist() == vad


def test_a_limit_takes_evenly_spaced_faces(tmp_path):
    with h5py.File(tmp_path / "data.h5", "w") as h5:
        h5["Training_pixel"] = np.arange(6, dtype=np.uint8)[:, None].repeat(2304, 1)
        h5["Training_label"] = np.arange(6)
    for limit, rows_kept in [(None, range(6)), (4, [0, 1, 3, 4]), (9, range(6))]:
        faces = load_split(tmp_path / "data.h5", "Training", limit)
        assert faces.images[:, 0, 0].tolist() == faces.labels.tolist() == list(rows_kept)
