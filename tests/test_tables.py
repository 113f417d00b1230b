"""Tables of faces: every way of writing one gives the same data.h5; bad rows are reported, bad files refused."""

import csv
import random
from itertools import product

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.fer2013.prepare import ensure, main
from tests.samples import (
    CLASS_FOLDERS,
    COLUMNS,
    PLAIN,
    SPLIT_FILES,
    VAD,
    VOTES,
    dropped_rows,
    expected,
    image,
    pixel_text,
    plain_table,
    read_h5,
    sample_row,
    split_rows,
    table,
    votes_table,
    write_files,
)
from utils.tasks import EMOTIONS

GOOD = [sample_row(number) for number in range(5)]


def same(rows):
    """What data.h5 should hold of annotated rows; the V/A/D of the samples are exact in float32."""
    return [expected(row) for row in rows]


def prepared(folder, content, name="train.csv"):
    """data.h5 of a folder that holds one table, as `read_h5` gives it."""
    write_files(folder, {name: content})
    return read_h5(ensure(folder))


# Ways of writing

HEADERS = {
    "annotators": COLUMNS,
    "other order": (" Pixels", "DOMINANCE ", "emotion", "valence", "arousal", "more"),
    "plain": PLAIN,
    "competition": ("emotion", " Usage", " pixels"),
    "more columns": ("id", "usage", "who", "EMOTION", "Pixels"),
}
SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t"}
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16")
SPELLINGS = {  # of the label, the pixels and the split
    "numbers": (str, pixel_text, str),
    "names": (lambda label: CLASS_FOLDERS[label].title(), lambda pixels: str(pixels.tolist()), str.upper),
    "mixed": (lambda label: f"{label}.0", lambda pixels: " ".join(f"{p:03}" for p in pixels),
              lambda split: split.replace("Test", "_test")),
    "commas": (lambda label: f" {label} ", lambda pixels: ",".join(map(str, pixels)), str.lower),
}  # fmt: skip
EVERY = list(product(HEADERS, SEPARATORS, ENCODINGS, SPELLINGS))


def spelled(row, separator, spelling):
    """A row in another spelling; beside semicolons numbers have a decimal comma."""
    label, pixels, split = SPELLINGS[spelling]
    numbers = {name: row[name].replace(".", "," if separator == ";" else ".") for name in VAD}
    face = image(int(row["index"]))
    return (
        row
        | numbers
        | {
            "emotion": label(int(row["emotion"])),
            "pixels": pixels(face),
            "Usage": split(row["Usage"]),
        }
    )


@pytest.mark.parametrize("ways", EVERY[::4], ids="-".join)
def test_every_way_of_writing_gives_the_same_faces(tmp_path, ways):
    header, separator, encoding, spelling = ways
    columns, separator, rows = HEADERS[header], SEPARATORS[separator], split_rows()
    usual = {name.lower(): name for name in (*COLUMNS, "Usage")}
    wanted = [usual.get(name.strip().lower(), name) for name in columns]

    def written(some):
        some = [spelled(row, separator, spelling) for row in some]
        data = table([{name: row.get(name, "x") for name in wanted} for row in some], wanted, "\r\n",
                     delimiter=separator).decode()  # fmt: skip
        first, rest = data.split("\r\n", 1)
        return "\r\n".join([separator.join(columns), rest]).encode(encoding) if first else b""

    annotated = "Valence" in wanted
    if annotated:
        write_files(tmp_path, {SPLIT_FILES[split]: written(mine) for split, mine in rows.items()})
    else:
        write_files(
            tmp_path, {"some faces.csv": written([row for mine in rows.values() for row in mine])}
        )
    found = read_h5(ensure(tmp_path))
    assert found == {
        split: [(label, vad if annotated else None, pixels) for label, vad, pixels in same(mine)]
        for split, mine in rows.items()
    }
    assert dropped_rows(tmp_path) == []


@pytest.mark.parametrize(
    "options",
    [
        {"newline": "\r"},
        {"newline": "\r\n", "encoding": "utf-8-sig", "quoting": csv.QUOTE_ALL},
        {"quoting": csv.QUOTE_NONNUMERIC},
        {"encoding": "utf-16", "newline": "\r\n", "quoting": csv.QUOTE_ALL},
        {"columns": COLUMNS[::-1], "newline": "\r\n"},
        {"columns": ("", *COLUMNS)},
        {"columns": ("", *COLUMNS), "delimiter": ";"},
        pytest.param({"columns": ("", *COLUMNS), "delimiter": "\t"},
                     marks=pytest.mark.xfail(strict=True, reason="the first tab is taken from the header")),
    ],
)  # fmt: skip
def test_line_ends_quotes_and_nameless_index_columns(tmp_path, options):
    rows = [row | {"": number} for number, row in enumerate(GOOD)]
    assert prepared(tmp_path, table(rows, **options)) == {"Training": same(rows)}


def test_quoted_commas_quotes_and_line_ends(tmp_path):
    rows = [
        sample_row(i, emotionLabel=label)
        for i, label in enumerate(["a,b", 'say "hi"', "two\nlines", "plain"])
    ]
    assert prepared(tmp_path, table(rows)) == {"Training": same(rows)}


def test_blank_lines_and_no_line_end_at_the_end(tmp_path):
    data = table(GOOD).replace(b"\n", b"\n\n").rstrip(b"\n")
    assert prepared(tmp_path, b"\n" + data) == {"Training": same(GOOD)}


@pytest.mark.parametrize(
    ("changes", "label"),
    [
        ({"pixels": "  " + pixel_text(image(3)).replace(" ", "  ") + " "}, 3),
        ({"pixels": " ".join(f"{value:05}" for value in image(3))}, 3),
        ({"pixels": "0" * 5000 + pixel_text(image(3))}, 3),
        ({"pixels": pixel_text(image(3)).replace(" ", "\t")}, 3),
        ({"pixels": f"[{pixel_text(image(3)).replace(' ', ', ')}]"}, 3),
        ({"emotion": "3.0"}, 3),
        ({"emotion": " 5 "}, 5),
        ({"emotion": "Surprise"}, 5),
        ({"emotion": "NEUTRAL"}, 6),
        ({"Valence": " -0.50 "}, 3),
        ({"emotionLabel": 'one\n"two", three'}, 3),
    ],
)
def test_loose_writing_is_accepted(tmp_path, changes, label):
    rows = [*GOOD[:2], sample_row(3, **changes), *GOOD[2:]]
    found = prepared(tmp_path, table(rows))
    assert found == {"Training": same([*GOOD[:2], sample_row(3, emotion=str(label)), *GOOD[2:]])}
    assert dropped_rows(tmp_path) == []


def test_faces_of_one_colour_and_faces_that_are_there_twice_are_kept(tmp_path):
    rows = [sample_row(0, pixels=pixel_text([7] * 2304)), *GOOD, GOOD[1]]
    assert prepared(tmp_path, table(rows)) == {"Training": same(rows)}


def test_more_rows_than_are_read_at_once(tmp_path):
    rows = [sample_row(number % 50) for number in range(700)]
    rows[3] = sample_row(0, emotion="9")
    rows[600] = sample_row(0, pixels="1 2")
    found = prepared(tmp_path, table(rows))
    assert found == {"Training": same([*rows[:3], *rows[4:600], *rows[601:]])}
    assert [row for _, _, row, _ in dropped_rows(tmp_path)] == ["4", "601"]


# The split


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.csv", "Training"),
        ("fer training 2013.csv", "Training"),
        ("A/b/TRAIN.CSV", "Training"),
        ("1 outputTrain-2024.csv", "Training"),
        ("publictest-20240609-2-yh.csv", "PublicTest"),
        ("3 outputPublicTest_forVAD-20240117.csv", "PublicTest"),
        ("faces (public).txt", "PublicTest"),
        ("val.csv", "PublicTest"),
        ("my_valid.csv", "PublicTest"),
        ("Private_Test.csv", "PrivateTest"),
        ("test.csv", "PrivateTest"),
        ("train/private.csv", "PrivateTest"),
        ("public/faces.csv", "PublicTest"),
    ],
)
def test_a_whole_word_of_the_name_is_the_split(tmp_path, name, split):
    assert prepared(tmp_path, table(GOOD), name) == {split: same(GOOD)}


@pytest.mark.parametrize("name", ["latest", "republic", "constrained"])
@pytest.mark.xfail(strict=True, reason="a part of a word is taken for a split")
def test_a_part_of_a_word_is_no_split(tmp_path, refused, name):
    write_files(tmp_path, {f"faces_{name}.csv": table(GOOD)})
    refused(tmp_path, f"faces_{name}.csv", "split")


def test_a_table_without_any_split_is_refused(tmp_path, refused):
    write_files(tmp_path, {"faces.csv": table(GOOD)})
    refused(tmp_path, "faces.csv", "usage")


def test_an_unknown_usage_is_dropped(tmp_path):
    rows = [
        row | {"Usage": usage}
        for row, usage in zip(GOOD, ("Training", "Other", "", "PublicTest"), strict=False)
    ]
    found = prepared(tmp_path, table(rows, PLAIN), "fer2013.csv")
    assert {split: len(faces) for split, faces in found.items()} == {"Training": 1, "PublicTest": 1}
    assert [(row, "usage" in reason.lower()) for _, _, row, reason in dropped_rows(tmp_path)] == [
        ("2", True),
        ("3", True),
    ]


# Bad rows


def pixels_with(value, place=99):
    numbers = [7] * 2304
    numbers[place] = value
    return pixel_text(np.array(numbers, object))


BAD_ROWS = [
    ({"pixels": pixel_text([7] * 2303)}, "pixels"),
    ({"pixels": pixel_text([7] * 2305)}, "pixels"),
    ({"pixels": ""}, "pixels"),
    ({"pixels": "70;80;90"}, "pixels"),
    *(({"pixels": pixels_with(value)}, "pixels") for value in ("256", "299", "300", "999", "65536", "300000000000",
                                                               "4294967296", "18446744073709551616", "9" * 5000, "-1",
                                                               "1.5", "7.0", "nan", "x", "٣", "\0", "1e2", ":", "/")),
    ({"pixels": pixels_with("-1", 0)}, "pixels"),
    ({"pixels": pixels_with("256", 2303)}, "pixels"),
    *(({"emotion": value}, "emotion") for value in ("", "7", "-1", "1.5", "nan", "inf", "Bored", "contempt", "3é")),
    *(({"Valence": value}, "valence") for value in ("", "2.5", "nan", "1e400", "good", "0,5")),
    *(({"Arousal": value}, "arousal") for value in ("", "NaN", "-2.001", "-inf")),
    *(({"Dominance": value}, "dominance") for value in ("inf", "high", "2.01")),
    ({"pixels": "", "emotion": "x", "Valence": "9"}, ""),
]  # fmt: skip


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_bad_rows_are_dropped_with_their_reason(tmp_path, quoting, capsys):
    """Bad rows among good ones, in one file: each is found, and no good one is lost."""
    rows = [row for number, (changes, _) in enumerate(BAD_ROWS)
            for row in (sample_row(2 * number), sample_row(2 * number + 1, **changes))]  # fmt: skip
    found = prepared(tmp_path, table(rows, quoting=quoting))
    assert found == {"Training": same(rows[::2])}
    dropped = dropped_rows(tmp_path)
    assert [row for _, _, row, _ in dropped] == [
        str(2 * number + 2) for number in range(len(BAD_ROWS))
    ]
    assert {(split, file) for split, file, _, _ in dropped} == {("Training", "train.csv")}
    for (changes, keyword), (_, _, _, reason) in zip(BAD_ROWS, dropped, strict=True):
        assert keyword in reason.lower(), changes
    assert str(len(BAD_ROWS)) in capsys.readouterr().out


@pytest.mark.parametrize(("changes", "keyword"), BAD_ROWS)
def test_a_single_bad_row_does_not_harm_its_neighbours(tmp_path, changes, keyword):
    found = prepared(tmp_path, table([*GOOD[:2], sample_row(2, **changes), *GOOD[3:]]))
    assert found == {"Training": same(GOOD[:2] + GOOD[3:])}
    ((split, file, row, reason),) = dropped_rows(tmp_path)
    assert (split, file, row) == ("Training", "train.csv", "3") and keyword in reason.lower()


def test_too_few_and_too_many_pixels_side_by_side(tmp_path):
    """2303 and 2305 pixels make a correct total."""
    rows = [
        sample_row(0, pixels=pixel_text([1] * 2303)),
        sample_row(1, pixels=pixel_text([1] * 2305)),
        GOOD[2],
    ]
    assert prepared(tmp_path, table(rows)) == {"Training": same(rows[2:])}
    assert [row for _, _, row, _ in dropped_rows(tmp_path)] == ["1", "2"]


def test_wrong_number_of_fields(tmp_path):
    header, first, second, _ = table(GOOD[:2]).split(b"\n")
    lines = [header, first, b"1,2,3", b"x," + second, second + b",", second]
    assert prepared(tmp_path, b"\n".join(lines)) == {"Training": same(GOOD[:2])}
    assert [(row, "field" in reason) for _, _, row, reason in dropped_rows(tmp_path)] == [
        ("2", True),
        ("3", True),
        ("4", True),
    ]


def test_bytes_that_are_no_text(tmp_path):
    data = table([*GOOD[:2], sample_row(2, emotion="3QQ"), *GOOD[3:]]).replace(b"QQ", b"\xff")
    assert prepared(tmp_path, data) == {"Training": same(GOOD[:2] + GOOD[3:])}
    assert [row for _, _, row, _ in dropped_rows(tmp_path)] == ["3"]


# Rows against plain Python, whatever their fields are

LABELS = st.sampled_from(["0", "3", "6", "3.0", " 2 ", "7", "-1", "", "1.5", "nan", "x"])
VALUES = st.sampled_from(
    ["0", "-2", "2.0", " 1.5 ", "1e-3", "2.0001", "-2.1", "", "nan", "inf", "x", "1,5", "1e400"]
)
WORDS = st.sampled_from(
    ["0", "255", "7", "007", "00000", "256", "-1", "1.0", "", "x", "999", "1" * 30]
)


@st.composite
def pixel_texts(draw):
    words = ["7"] * draw(st.sampled_from([2304, 2304, 2304, 2303, 2305]))
    for place in draw(st.lists(st.integers(0, 2302), max_size=2)):
        words[place] = draw(WORDS)
    return draw(st.sampled_from([" ", " ", "  ", "\t"])).join(words)


ROWS = st.fixed_dictionaries(
    {
        "index": st.sampled_from(["0", "", "a,b", 'say "hi"', "two\nlines"]),
        "emotionLabel": st.just("3=Happy"),
        **dict.fromkeys(VAD, VALUES),
        "emotion": LABELS,
        "pixels": pixel_texts(),
    }
)


def plainly(row):
    """(label, V/A/D, pixels) of a row of text, or None when it is to be dropped."""
    label = row["emotion"].strip().removesuffix(".0")
    try:
        vad = [float(row[name]) for name in VAD]
    except ValueError:
        return None
    words = row["pixels"].split()
    good = len(words) == 2304 and all(word.isdigit() and int(word) <= 255 for word in words)
    if label not in list("0123456") or not all(-2 <= value <= 2 for value in vad) or not good:
        return None
    return int(label), np.float32(vad).tolist(), [int(word) for word in words]


@settings(max_examples=40, deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=5), st.booleans())
def test_rows_are_read_or_dropped_as_plain_python_does(tmp_path_factory, rows, windows):
    rows = [*rows, GOOD[0]]
    newline, encoding = ("\r\n", "utf-8-sig") if windows else ("\n", "utf-8")
    folder = tmp_path_factory.mktemp("rows")
    found = prepared(folder, table(rows, newline=newline, encoding=encoding))
    wanted = [plainly(row) for row in rows]
    assert found == {"Training": [values for values in wanted if values is not None]}
    bad = [str(number) for number, values in enumerate(wanted, 1) if values is None]
    assert [row for _, _, row, _ in dropped_rows(folder)] == bad


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=3000))
def test_any_bytes_after_a_header_are_dropped_or_refused(tmp_path_factory, content):
    folder = write_files(tmp_path_factory.mktemp("bytes"), {"train.csv": table([]) + content})
    assert main([str(folder)]) == 2 and not (folder / "data.h5").exists()


# Bad files

HEADER = table([])
BAD_FILES = {
    "empty": (b"", "empty"),
    "blank lines alone": (b"\n\n\n", "column"),
    "header alone": (HEADER, "rows"),
    "binary junk": (random.Random(1).randbytes(20_000), "column"),
    "zero bytes": (bytes(20_000), "column"),
    "a NUL in the header": (b"\x00\x01emotion\tpixels\x00\n", "column"),
    "a web page": (b"<!DOCTYPE html>\n<html></html>\n", "column"),
    "UTF-16 cut in a letter": (HEADER.decode().encode("utf-16")[:-1], ""),
    "no pixels": (table(GOOD, COLUMNS[:-1]), "pixels"),
    "no arousal": (table(GOOD, [name for name in COLUMNS if name != "Arousal"]), "arousal"),
    "valence alone": (table(GOOD, ("emotion", "pixels", "Valence")), "dominance"),
    "no emotion": (table(GOOD, (*VAD, "pixels")), "emotion"),
    "pixels twice": (table(GOOD, (*COLUMNS, "pixels")), "pixels"),
    "no header": (table(GOOD).partition(b"\n")[2], "column"),
    "a quote that never closes": (HEADER + b'"' + table(GOOD), ""),
    "rows of commas": (HEADER + b",,,,,,\n" * 50, "50"),
    "2303 pixels in all rows": (
        table([sample_row(n, pixels=pixel_text([7] * 2303)) for n in range(3)]),
        "pixels",
    ),
    "pixels scaled to 0..1": (table([sample_row(0, pixels=" ".join(["0.5"] * 2304))]), "pixels"),
    "no label that can be used": (
        table([sample_row(1, emotion="x"), sample_row(2, emotion="y")]),
        "emotion",
    ),
    "a header of 300 kB": (b"x" * 300_000 + b"\n", "column"),
    "a quoted header": (b'"emotion,pixels\n', ""),
    "a line of 10 MB": (HEADER + b"1 " * (5 << 20), ""),
    "a quoted field of 10 MB": (HEADER + b'"' + b"x\n" * (5 << 20), ""),
    "a pixel of 3 MB": (HEADER + b"0,x,0,0,0,0," + b"9" * (3 << 20) + b"\n", ""),
    "a row of 200,000 fields": (HEADER + b"," * 200_000 + b"\n", "field"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_refused_by_its_name(tmp_path, refused, name):
    content, keyword = BAD_FILES[name]
    write_files(tmp_path, {"train.csv": content})
    refused(tmp_path / "train.csv", "train.csv", keyword)


def test_a_split_that_loses_all_its_rows_is_named(tmp_path, refused):
    files = {name: table(GOOD) for name in SPLIT_FILES.values()}
    write_files(tmp_path, files | {SPLIT_FILES["PrivateTest"]: table([sample_row(1, emotion="x")])})
    refused(tmp_path, SPLIT_FILES["PrivateTest"], "emotion")


@pytest.mark.xfail(strict=True, reason="files are told apart by their last name alone")
def test_a_split_that_loses_all_its_rows_is_named_where_all_files_have_one_name(tmp_path, refused):
    files = {f"{split}/faces.csv": table(GOOD) for split in ("train", "public")}
    write_files(tmp_path, files | {"private/faces.csv": table([sample_row(1, emotion="x")])})
    refused(tmp_path, "private/faces.csv", "emotion")


# FER+ votes

FACES = [row for mine in split_rows(2).values() for row in mine]
USAGES = [row["Usage"] for row in FACES]
NEUTRAL = [{"neutral": 10}] * 6
MIXED = [
    {"neutral": 10},
    {"happiness": 6, "surprise": 2, "contempt": 2},
    {"contempt": 5, "unknown": 5},  # nothing that counts
    {"sadness": 5, "fear": 5},
    {"NF": 10},  # not a face: no name
    {"neutral": 2, "anger": 1, "disgust": 1, "unknown": 4, "NF": 2},
]
NAMES = ["a.png", "b.png", "c.png", "d.png", "", "f.png"]
# Twice the published pleasure, arousal and dominance, by hand; None: dropped.
DERIVED = [
    [0, 0, 0],
    [
        2 * (0.75 * 0.81 + 0.25 * 0.40),
        2 * (0.75 * 0.51 + 0.25 * 0.67),
        2 * (0.75 * 0.46 - 0.25 * 0.13),
    ],
    None,
    [-0.63 - 0.64, -0.27 + 0.60, -0.33 - 0.43],
    None,
    [2 * (-0.51 - 0.60) / 4, 2 * (0.59 + 0.35) / 4, 2 * (0.25 + 0.11) / 4],
]


def with_votes(folder, votes):
    return write_files(folder, {"fer2013.csv": table(FACES, PLAIN), "fer2013new.csv": votes})


def test_vad_are_derived_from_votes(tmp_path):
    found = read_h5(ensure(with_votes(tmp_path, votes_table(MIXED, NAMES, USAGES))))
    faces = [face for split in SPLIT_FILES for face in found[split]]
    kept = [number for number, vad in enumerate(DERIVED) if vad is not None]
    assert [pixels for _, _, pixels in faces] == [expected(FACES[number])[2] for number in kept]
    for number, (_, vad, _) in zip(kept, faces, strict=True):
        assert vad == pytest.approx(DERIVED[number], abs=1e-6)
    assert [(row, "vote" in reason) for _, _, row, reason in dropped_rows(tmp_path)] == [
        ("3", True),
        ("5", True),
    ]


def ordered(votes):
    """The votes of a face in the order of EMOTIONS."""
    words = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")
    assert len(words) == len(EMOTIONS)
    return [votes.get(word, 0) for word in words]


@pytest.mark.xfail(strict=True, reason="votes are not stored")
def test_votes_are_stored(tmp_path):
    h5_path = ensure(with_votes(tmp_path, votes_table(MIXED, NAMES, USAGES)))
    with h5py.File(h5_path) as h5:
        stored = [h5[f"{split}_votes"] for split in SPLIT_FILES]
        assert all(votes.dtype == np.uint8 for votes in stored)
        rows = [row for votes in stored for row in votes[:].tolist()]
    assert rows == [
        ordered(votes) for votes, vad in zip(MIXED, DERIVED, strict=True) if vad is not None
    ]


@pytest.mark.parametrize("annotated", [False, True])
@pytest.mark.xfail(strict=True, reason="votes in the table itself are not read")
def test_votes_may_be_in_the_table_itself(tmp_path, annotated):
    rows = [row | dict.fromkeys(VOTES, 0) | {"happiness": 6, "fear": 4} for row in FACES]
    columns = (*COLUMNS, *VOTES, "Usage") if annotated else (*PLAIN, *VOTES)
    h5_path = ensure(write_files(tmp_path, {"fer2013.csv": table(rows, columns)}))
    with h5py.File(h5_path) as h5:
        assert h5["Training_votes"][:].tolist() == [ordered(rows[0])] * 2
    derived = [
        2 * (0.6 * 0.81 - 0.4 * 0.64),
        2 * (0.6 * 0.51 + 0.4 * 0.60),
        2 * (0.6 * 0.46 - 0.4 * 0.43),
    ]
    for number, (_, vad, _) in enumerate(read_h5(h5_path)["Training"]):
        assert vad == pytest.approx(expected(FACES[number])[1] if annotated else derived, abs=1e-6)


TWO = [{"neutral": 10}, {"happiness": 9, "neutral": 1}] * 3


@pytest.mark.parametrize(
    "votes",
    [
        votes_table(TWO, usages=USAGES),
        votes_table(TWO, usages=USAGES).replace(b"\n", b"\r\n"),
        votes_table(TWO, usages=USAGES).replace(b",", b";"),
        pytest.param(b"\n" + votes_table(TWO, usages=USAGES),
                     marks=pytest.mark.xfail(strict=True, reason="a blank first line hides the header")),
        pytest.param(votes_table([{"neutral": "10.0"}, {"happiness": "9.0", "neutral": "1.0"}] * 3, usages=USAGES),
                     marks=pytest.mark.xfail(strict=True, reason="9.0 is not taken for a count")),
    ],
    ids=["plain", "CRLF", "semicolons", "blank first line", "decimals"],
)  # fmt: skip
def test_ways_of_writing_votes(tmp_path, votes):
    found = read_h5(ensure(with_votes(tmp_path, votes)))
    assert found["PublicTest"][0][1] == [0, 0, 0]
    assert found["PublicTest"][1][1] == pytest.approx(
        [0.9 * 1.62, 0.9 * 1.02, 0.9 * 0.92], abs=1e-6
    )


@pytest.mark.parametrize(
    ("votes", "keywords"),
    [
        (votes_table(NEUTRAL[:5], usages=USAGES[:5]), ("fer2013.csv", "votes")),
        (votes_table([*NEUTRAL, {}], usages=[*USAGES, "PrivateTest"]), ("fer2013.csv", "votes")),
        (votes_table(NEUTRAL, usages=USAGES[::-1]), ("fer2013.csv", "row 1")),
        (votes_table([{"fear": "many"}] * 6, usages=USAGES), ("fer2013new.csv", "row 1")),
        (votes_table([{"fear": -3}] * 6, usages=USAGES), ("fer2013new.csv", "row 1")),
        (votes_table([], usages=[]), ("fer2013new.csv", "rows")),
    ],
    ids=["too few", "too many", "another order", "words", "negative", "none"],
)
def test_votes_that_do_not_belong_to_the_faces(tmp_path, refused, votes, keywords):
    refused(with_votes(tmp_path, votes), *keywords)


def test_other_columns_are_no_votes_which_is_said(tmp_path, capsys):
    found = read_h5(
        ensure(
            write_files(tmp_path, {"fer2013.csv": plain_table(), "fer2013new.csv": b"Usage,name\n"})
        )
    )
    assert found["Training"][0][1] is None and "fer2013new.csv" in capsys.readouterr().out
