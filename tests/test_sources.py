"""Which of the files in a place is read: one rule chooses, and what is not used is named, with the reason."""

import json
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pytest

from data.fer2013.load import load
from data.fer2013.prepare import ensure, main
from tests.conftest import ROOT
from tests.samples import (
    COLUMNS,
    PLAIN,
    ck_tree,
    class_folders,
    dropped_rows,
    expected,
    plain_table,
    read_h5,
    sample_row,
    split_rows,
    table,
    three_splits,
    votes_table,
    write_files,
    write_zip,
)

MEMBERS, ROWS = three_splits()
ANNOTATED = {split: [expected(row) for row in rows] for split, rows in ROWS.items()}
FACES = {
    split: [(label, None, face) for label, _, face in faces] for split, faces in ANNOTATED.items()
}
WHOLE = {"fer2013.csv": plain_table()}
BY_SPLIT = {f"{name}.csv": table(rows, PLAIN[:2]) for name, rows in zip(("train", "val", "test"), ROWS.values(),
                                                                        strict=True)}  # fmt: skip
PICTURES = class_folders(count=10)[0]
VOTES = {
    "fer2013new.csv": votes_table(
        [{"happiness": 10}] * 9, usages=[split for split in ROWS for _ in range(3)]
    )
}


# The choice


@pytest.mark.parametrize(
    ("files", "faces", "unused"),
    [
        (MEMBERS | WHOLE, ANNOTATED, ["fer2013.csv"]),
        (MEMBERS | WHOLE | VOTES, ANNOTATED, ["fer2013.csv"]),
        (MEMBERS | PICTURES, ANNOTATED, ["140 pictures"]),
        (WHOLE | BY_SPLIT, FACES, ["train.csv", "val.csv", "test.csv"]),
        (WHOLE | PICTURES, FACES, ["140 pictures"]),
        (BY_SPLIT | PICTURES, FACES, ["140 pictures"]),
        (MEMBERS | {"train_corrected/x.csv": table([sample_row(7)])}, ANNOTATED, ["x.csv"]),
        (WHOLE | {"train_labels.csv": b"image,label\na.jpg,5\n"}, FACES, ["train_labels.csv"]),
        (WHOLE | {"raf/training.csv": b"path,face_x,expression,valence,arousal\n1/a.jpg,5,1,0.4,0.2\n"}, FACES,
         ["training.csv"]),
        (WHOLE | {"holiday.zip": b"PK\x03\x04 broken"}, FACES, ["holiday.zip"]),
        (WHOLE | {"other.rar": b"Rar!\x1a\x07\x01\x00 broken"}, FACES, ["other.rar"]),
        (WHOLE | {"faces.7z": b"7z\xbc\xaf\x27\x1c"}, FACES, ["7z"]),
        (WHOLE | {"notes.csv": b"day,hour\n1,2\n", "a.parquet": b"PAR1"}, FACES, ["notes.csv", ".parquet"]),
        (WHOLE | {"theirs.h5": b"junk"}, FACES, ["theirs.h5"]),
    ],
)  # fmt: skip
def test_one_rule_chooses_and_the_rest_is_named(tmp_path, capsys, files, faces, unused):
    """Annotated before plain, one whole table before one per split, tables before pictures."""
    assert read_h5(ensure(write_files(tmp_path, files))) == faces
    said = capsys.readouterr().out
    assert all(name in said for name in unused), said


@pytest.mark.parametrize(
    "files",
    [
        {"previous/2024/train.csv": table([sample_row(8)]), "data_report.csv": b"split,file\n"},
        {".hidden/train.csv": table([sample_row(8)]), "data.h5.0123abcd.unfinished": b"half"},
    ],
)
def test_what_the_project_itself_left_is_passed_over(tmp_path, files):
    assert read_h5(ensure(write_files(tmp_path, WHOLE | files))) == FACES


@pytest.mark.parametrize("columns", [(*PLAIN,), (*COLUMNS, "Usage")], ids=["plain", "annotated"])
@pytest.mark.parametrize(
    "names", [("train.csv", "val.csv", "test.csv"), ("a_train.csv", "my public.csv", "private.csv")]
)
def test_tables_of_one_split_each_that_keep_the_column_usage_are_one_source(
    tmp_path, names, columns
):
    files = {
        name: table(rows, columns) for name, rows in zip(names, split_rows().values(), strict=True)
    }
    found = read_h5(ensure(write_files(tmp_path, files)))
    assert found == (ANNOTATED if "Valence" in columns else FACES)


def test_annotated_tables_of_three_places_complete_each_other(tmp_path):
    for number, (name, content) in enumerate(MEMBERS.items()):
        write_zip(tmp_path / f"{number}.zip", {name: content})
    assert read_h5(ensure(tmp_path)) == ANNOTATED


TABLE = table([sample_row(1)])
RIVALS = {  # {case: (files, what the refusal names)}
    "two folders": (
        {"train-1.csv": TABLE, "more/train2.csv": TABLE},
        ["train-1.csv", "more/train2.csv"],
    ),
    "one name": ({"a/train.csv": TABLE, "b/train.csv": TABLE}, ["a/train.csv", "b/train.csv"]),
}


@pytest.mark.parametrize("case", RIVALS)
def test_two_tables_of_one_split_are_refused_by_their_full_names(tmp_path, refused, case):
    files, named = RIVALS[case]
    refused(write_files(tmp_path, files), "Training", *named)


def test_a_table_beside_an_archive_of_the_same_split_is_refused(tmp_path, refused):
    write_files(tmp_path, {"train-1.csv": TABLE})
    write_zip(tmp_path / "train.zip", {"train.csv": TABLE})
    refused(tmp_path, "train-1.csv", "train.zip", "Training")


def test_two_whole_tables_are_never_merged(tmp_path, capsys):
    write_files(tmp_path, {"fer2013.csv": plain_table(), "copy/fer2013 (1).csv": plain_table()})
    code, said = main([str(tmp_path)]), capsys.readouterr()
    assert code == 2 or read_h5(tmp_path / "data.h5") == FACES
    assert all(name in said.out + said.err for name in ("fer2013.csv", "fer2013 (1).csv"))


def test_a_missing_split_is_no_error_yet(tmp_path):
    name = "data/publictest-20240609-2-yh.csv"
    assert read_h5(ensure(write_files(tmp_path, {name: MEMBERS[name]}))) == {
        "PublicTest": ANNOTATED["PublicTest"]
    }


# Nothing that can be used


@pytest.mark.parametrize(
    ("files", "keywords"),
    [
        ({}, ["no faces"]),
        ({"a.parquet": b"PAR1", "b/c.parquet": b"PAR1", "c.mat": b""}, [".parquet", ".mat"]),
        ({"readme.md": b"about", "paper.pdf": b"%PDF"}, [".pdf"]),
        ({"train.csv": table([sample_row(0)], ("pixels",))}, ["train.csv", "emotion"]),
        ({"notes.txt": b"hello\n"}, ["notes.txt"]),
        ({"a.7z": b"7z\xbc\xaf\x27\x1c"}, ["a.7z", "unpack"]),
        (VOTES, ["votes"]),
        ({"data.h5": b"my notes"}, ["data.h5"]),
    ],
)
def test_a_place_without_faces_says_what_is_there(tmp_path, refused, files, keywords):
    (tmp_path / "place").mkdir()
    refused(write_files(tmp_path / "place", files), "place", *keywords)


def test_a_workbook_is_no_archive_of_tables(tmp_path, refused):
    write_zip(tmp_path / "fer2013.xlsx", {"xl/sheet1.xml": b"", "xl/sheet2.xml": b""})
    refused(tmp_path, ".xlsx")


def test_what_is_not_there_is_said(tmp_path, refused):
    write_files(tmp_path, {"README.md": b"text"})
    for name in ("absent", "absent.rar", "README.md/x.csv", "README.md/x.h5"):
        refused(tmp_path / name, name, "exist")


def test_faces_that_were_prepared_elsewhere_are_pointed_to(tmp_path, refused):
    ensure(write_files(tmp_path / "made", WHOLE))
    (tmp_path / "place" / "fer").mkdir(parents=True)
    shutil.copy(tmp_path / "made" / "data.h5", tmp_path / "place" / "fer")
    refused(tmp_path / "place", "data.h5", "path")


AVAILABLE = """
import shutil, sys
from pathlib import Path
from data.fer2013.load import available
from data.subjects import ckplus, oulu
from utils.files import UserError
print("answer", available())
Path("data/notes.csv").write_text("day,hour\\n1,2\\n")
print("answer", available())
Path("data/fer2013.csv").write_text(Path(sys.argv[1]).read_text())
print("answer", available())
shutil.copy(sys.argv[2], "data/CK+.zip")
print("answer", len(ckplus.load()))
try:
    oulu.load()
except UserError as error:
    print("answer", error)
"""


@pytest.mark.slow
def test_what_the_data_folder_of_the_project_holds(tmp_path):
    """In a copy of the project, into whose data folder files are put one after the other."""
    for package in ("data", "utils"):
        for path in (ROOT / package).rglob("*.py"):
            write_files(tmp_path / "copy", {path.relative_to(ROOT): path.read_bytes()})
    write_files(tmp_path, WHOLE)
    ck = write_zip(tmp_path / "ck.zip", ck_tree(frames=1))
    command = [sys.executable, "-c", AVAILABLE, tmp_path / "fer2013.csv", ck]
    done = subprocess.run(command, cwd=tmp_path / "copy", capture_output=True, text=True)
    answers = [line for line in done.stdout.splitlines() if line.startswith("answer")]
    assert answers[:4] == ["answer False", "answer False", "answer True", "answer 21"], done.stderr
    assert "Oulu-CASIA" in answers[4]
    assert "notes.csv" in done.stdout


# Another program's data.h5


def ancestor(path, rows=ROWS, **changes):
    """data.h5 of the program that this one descends from: {split}_pixel (N, 48, 48) and {split}_label."""
    with h5py.File(path, "w") as h5:
        for split, mine in rows.items():
            labels, _, faces = zip(*map(expected, mine), strict=True)
            h5[f"{split}_pixel"] = np.array(faces).reshape(-1, 48, 48)
            h5[f"{split}_label"] = np.array(labels)
        for name, values in changes.items():
            del h5[name]
            h5[name] = values
    return path


@pytest.mark.parametrize("given", ["folder", "file"])
def test_the_ancestors_h5_is_read_and_stays_where_it_is(tmp_path, given):
    theirs = ancestor(tmp_path / "data.h5").read_bytes()
    h5_path = ensure(tmp_path if given == "folder" else tmp_path / "data.h5")
    assert read_h5(h5_path) == FACES
    assert h5_path != tmp_path / "data.h5" and (tmp_path / "data.h5").read_bytes() == theirs
    assert ensure(tmp_path) == h5_path


PIXELS = np.zeros((3, 48, 48))


@pytest.mark.parametrize(
    "changes",
    [
        {"Training_label": np.array([0, 1, 7])},
        {"Training_label": np.array([0, -1, 2])},
        {"Training_pixel": PIXELS - 1},
        {"Training_pixel": PIXELS + 256},
        {"Training_pixel": PIXELS + 0.5},
        {"Training_pixel": np.zeros((3, 44, 44))},
        {"Training_label": np.array([0, 1])},
    ],
)
def test_an_ancestors_h5_out_of_range_is_refused_or_read_without_those_rows(
    tmp_path, capsys, changes
):
    theirs = ancestor(tmp_path / "theirs.h5", **changes)
    code, said = main([str(theirs)]), capsys.readouterr().err
    assert code in (0, 2)
    if code == 0:
        found = read_h5(tmp_path / "data.h5")
        assert found["PublicTest"] == FACES["PublicTest"] and dropped_rows(tmp_path)
        assert all(face in FACES["Training"] for face in found.get("Training", []))
    else:
        assert "theirs.h5" in said and said.count("\n") == 1 and not (tmp_path / "data.h5").exists()


# The layouts of public downloads


@pytest.mark.real
def test_the_layouts_of_public_downloads(layouts):
    wanted = {name: layout for name, layout in json.loads((layouts / "expected.json").read_text()).items()
              if "splits" in layout}  # fmt: skip
    assert len(wanted) >= 10
    for name, layout in wanted.items():
        found = read_h5(ensure(layouts / name))
        annotated = all(vad is not None for _, vad, _ in found["Training"])
        assert (
            annotated == layout["annotated"] == ("annotations" in load(layouts / name).description)
        ), name
        for split, what in layout["splits"].items():
            if "pixel_sum" in what:
                assert len(found[split]) == what["faces"], (name, split)
                assert sum(sum(pixels) for _, _, pixels in found[split]) == what["pixel_sum"], (
                    name,
                    split,
                )
        if "PublicTest" not in layout["splits"]:
            training, private = (
                layout["splits"][split]["faces"] for split in ("Training", "PrivateTest")
            )
            assert (
                len(found["Training"]) + len(found["PublicTest"]) == training
                and found["PublicTest"]
            ), name
            assert len(found["PrivateTest"]) == private
