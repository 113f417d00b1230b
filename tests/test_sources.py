"""Which of the files in a place is read; what is not used is named, with the reason."""

import io
import json
import random
import shutil

import h5py
import numpy as np
import pytest

from data.fer2013.load import available, load
from data.fer2013.prepare import ensure
from tests.samples import (
    COLUMNS,
    PLAIN,
    class_folders,
    contents,
    image,
    plain_table,
    png,
    read_h5,
    sample_row,
    split_rows,
    table,
    three_splits,
    votes_table,
    without_vad,
    write_files,
    write_zip,
)
from utils.files import UserError

MEMBERS, ANNOTATED = three_splits()
FACES = without_vad(ANNOTATED)
ROWS = split_rows()
WHOLE = {"fer2013.csv": plain_table()}
NAMES = ("train.csv", "val.csv", "test.csv")
BY_SPLIT = {name: table(rows, PLAIN[:2]) for name, rows in zip(NAMES, ROWS.values(), strict=True)}
PICTURES = class_folders(count=10)[0]
USAGES = [split for split in ROWS for _ in range(3)]
VOTES = {"fer2013new.csv": votes_table([{"neutral": 10}] * 9, usages=USAGES)}
NEUTRAL = without_vad(ANNOTATED, [0, 0, 0])


def zipped(files):
    return write_zip(io.BytesIO(), files).getvalue()


FOREIGN = {"raf/training.csv": b"path,face_x,expression,valence,arousal\n1/a.jpg,5,1,0.4,0.2\n"}
LEFT = ("previous/2024/train.csv", ".hidden/train.csv", "train.csv.0123abcd.unfinished")
LEFT_FILES = dict.fromkeys(LEFT, table([sample_row(8)])) | {"data_report.csv": b"split,file\n"}
THREE_ZIPS = {f"{name[5:]}.zip": zipped({name: content}) for name, content in MEMBERS.items()}
PUBLIC = "data/publictest-20240609-2-yh.csv"
CHOICES = [  # (files, what is read, names of what is not used)
    (MEMBERS | WHOLE, ANNOTATED, ["fer2013.csv"]),
    (MEMBERS | WHOLE | VOTES, ANNOTATED, ["fer2013.csv"]),
    (MEMBERS | PICTURES, ANNOTATED, ["70"]),
    (WHOLE | BY_SPLIT, FACES, NAMES),
    (WHOLE | PICTURES, FACES, ["70"]),
    (BY_SPLIT | PICTURES, FACES, ["70"]),
    (MEMBERS | {"train_corrected/x.csv": table([sample_row(7)])}, ANNOTATED, ["x.csv"]),
    (WHOLE | {"train_labels.csv": b"image,label\na.jpg,5\n"}, FACES, ["train_labels.csv"]),
    (WHOLE | FOREIGN, FACES, ["training.csv"]),
    (WHOLE | {"other.rar": b"Rar!\x1a\x07\x01\x00 broken"}, FACES, ["other.rar"]),
    (WHOLE | {"faces.7z": b"7z\xbc\xaf\x27\x1c"}, FACES, ["faces.7z"]),
    ({"a.zip": zipped(WHOLE | {"b.zip": b"PK"})}, FACES, ["a.zip/b.zip"]),
    (WHOLE | {"fer2013new.csv": b"Usage,name\n"}, FACES, ["fer2013new.csv"]),
    (
        {f"a/{name}": data for name, data in (WHOLE | VOTES).items()} | VOTES,
        NEUTRAL,
        [" fer2013new.csv: "],
    ),
    (WHOLE | VOTES | {"more votes.csv": VOTES["fer2013new.csv"]}, NEUTRAL, ["more votes.csv: "]),
    (WHOLE | {"theirs.h5": b"\x1f\x8b"}, FACES, ["theirs.h5"]),
    (WHOLE | {"a.parquet": b"PAR1", "theirs.h5": b"junk"}, FACES, [".parquet", "theirs.h5"]),
    (WHOLE | {"fer2013 (1).csv": plain_table()}, FACES, ["fer2013", "a better source"]),
    (WHOLE | {"a.zip": zipped({"fer2013.csv": plain_table(2)})}, FACES, ["a.zip/fer2013.csv"]),
    (WHOLE | LEFT_FILES, FACES, []),
    (THREE_ZIPS, ANNOTATED, []),
    ({PUBLIC: MEMBERS[PUBLIC]}, {"PublicTest": ANNOTATED["PublicTest"]}, []),
]


@pytest.mark.parametrize(("files", "faces", "unused"), CHOICES)
def test_one_rule_chooses_and_the_rest_is_named(prepared, capsys, files, faces, unused):
    """Annotated before plain, one whole table before one per split, tables before pictures."""
    assert prepared(files) == faces
    said = capsys.readouterr().out
    assert all(name in said for name in unused), said


@pytest.mark.parametrize("columns", [PLAIN, (*COLUMNS, "Usage")], ids=["plain", "annotated"])
@pytest.mark.parametrize("names", [NAMES, ("a_train.csv", "my public.csv", "private.csv")])
def test_tables_of_one_split_each_may_keep_the_column_usage(prepared, names, columns):
    tables = [table(rows, columns) for rows in split_rows().values()]
    found = prepared(dict(zip(names, tables, strict=True)))
    assert found == (FACES if columns == PLAIN else ANNOTATED)


TABLE = table([sample_row(1)])
TWICE = [("train-1.csv", "more/train2.csv"), ("a/train.csv", "b/train.csv")]
TWICE.append(("train-1.csv", "train.zip"))


@pytest.mark.parametrize("names", TWICE)
def test_two_tables_of_one_split_are_refused_by_their_full_names(refused, names):
    files = dict.fromkeys(names, TABLE)
    if "train.zip" in files:
        files["train.zip"] = zipped({"train.csv": TABLE})
    refused(files, "Training", *names)


# Nothing that can be used


NOTHING = [  # (files, keywords of the refusal)
    ({}, ["no faces"]),
    ({"a.parquet": b"PAR1", "b/c.parquet": b"PAR1", "c.mat": b""}, [".parquet", ".mat"]),
    ({"readme.md": b"about", "paper.pdf": b"%PDF"}, [".pdf"]),
    ({"fer2013.xlsx": zipped({"xl/sheet1.xml": b""})}, [".xlsx"]),
    ({"train.csv": table([sample_row(0)], ("pixels",))}, ["train.csv", "emotion"]),
    ({"notes.txt": b"hello\n"}, ["notes.txt"]),
    ({"a.7z": b"7z\xbc\xaf\x27\x1c"}, ["a.7z", "unpack"]),
    (VOTES, ["votes"]),
    ({"photo.png": png(image(0).reshape(48, 48))}, ["train/<class>"]),
    ({"data.h5": b"my notes"}, ["data.h5"]),
]


@pytest.mark.parametrize(("files", "keywords"), NOTHING)
def test_a_place_without_faces_says_what_is_there(refused, files, keywords):
    refused(files, *keywords)


def test_what_is_not_there_is_said(tmp_path, refused):
    write_files(tmp_path, {"README.md": b"text"})
    for name in ("absent", "absent.rar", "README.md/x.csv", "README.md/x.h5"):
        refused(tmp_path / name, name, "exist")


def test_faces_that_were_prepared_elsewhere_are_pointed_to(tmp_path, refused):
    ensure(write_files(tmp_path / "made", WHOLE))
    (tmp_path / "place" / "fer").mkdir(parents=True)
    shutil.copy(tmp_path / "made" / "data.h5", tmp_path / "place" / "fer")
    refused(tmp_path / "place", "data.h5", "path")


def test_what_the_data_folder_of_the_project_holds(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("data.fer2013.load.DATA_FOLDER", tmp_path)
    assert not available()
    write_files(tmp_path, {"notes.csv": b"day,hour\n1,2\n"})
    assert not available() and "notes.csv" in capsys.readouterr().out
    write_files(tmp_path, WHOLE)
    assert available()
    ensure(tmp_path)
    assert available()


# Another program's data.h5


def ancestor(path, **changes):
    """data.h5 of the program that this one descends from: pictures (N, 48, 48) and labels."""
    with h5py.File(path, "w") as h5:
        for split, mine in ANNOTATED.items():
            labels, _, faces = zip(*mine, strict=True)
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
    ancestor(tmp_path / "data.h5", Training_label=np.array([6, 6, 6]))  # another of that name
    assert [label for label, *_ in read_h5(ensure(tmp_path))["Training"]] == [6, 6, 6]


PIXELS = np.zeros((3, 48, 48))
OUT_OF_RANGE = [("label", [0, 1, 7]), ("label", [0, -1, 2]), ("label", [0, 1])]
OUT_OF_RANGE += [("pixel", PIXELS + value) for value in (-1, 256, 0.5)]
OUT_OF_RANGE += [("pixel", PIXELS[:, 2:-2, 2:-2]), ("pixel", PIXELS.astype("S3"))]
OUT_OF_RANGE += [("label", np.eye(7)[:3]), ("label", [[0], [1], [2]]), ("label", 3)]


@pytest.mark.parametrize(("name", "values"), OUT_OF_RANGE)
def test_an_ancestors_h5_out_of_range_is_refused(tmp_path, refused, name, values):
    refused(ancestor(tmp_path / "theirs.h5", **{f"Training_{name}": values}), "theirs.h5")


@pytest.mark.parametrize("whose", ["ours", "theirs"])
def test_a_wrong_byte_of_an_h5_is_told_or_harmless(tmp_path, whose):
    path = ancestor(tmp_path / "theirs.h5")
    if whose == "ours":
        path = ensure(write_files(tmp_path / "made", MEMBERS))
    draw, content, told = random.Random(1), path.read_bytes(), 0
    (tmp_path / "new").mkdir()
    for _ in range(150):
        damaged = bytearray(content)
        damaged[draw.randrange(4000)] = draw.randrange(256)
        (tmp_path / "new" / "x.h5").write_bytes(damaged)
        (tmp_path / "new" / "data.h5").unlink(missing_ok=True)
        try:
            load(tmp_path / "new" / "x.h5")
        except UserError:
            told += 1
    assert 5 < told < 150


def test_two_files_of_someone_else_are_both_kept(tmp_path):
    write_files(tmp_path, MEMBERS)
    for name in ("data.h5", "data_prepared.h5"):
        with h5py.File(tmp_path / name, "w") as h5:
            h5["mine"] = len(name)
    theirs = [(tmp_path / name).read_bytes() for name in ("data.h5", "data_prepared.h5")]
    assert read_h5(ensure(tmp_path)) == ANNOTATED
    assert all(content in contents(tmp_path).values() for content in theirs)


# The layouts of public downloads


@pytest.mark.real
def test_the_layouts_of_public_downloads(layouts):
    wanted = json.loads((layouts / "expected.json").read_text())
    assert len(wanted.pop("ckplus_official")) and len(wanted) >= 10
    for name, layout in wanted.items():
        found, splits = read_h5(ensure(layouts / name)), layout["splits"]
        origin = "annotations" if layout["annotated"] else "none"
        assert origin in load(layouts / name).description, name
        assert all((vad is not None) == layout["annotated"] for _, vad, _ in found["Training"])
        if "PublicTest" not in splits:  # which is drawn from the training faces
            assert found["PublicTest"], name
            found["Training"] += found.pop("PublicTest")
        counts = {split: len(faces) for split, faces in found.items()}
        assert counts == {split: what["faces"] for split, what in splits.items()}, name
        for split, what in splits.items():
            total = sum(sum(pixels) for _, _, pixels in found[split])
            assert total == what.get("pixel_sum", total), (name, split)
