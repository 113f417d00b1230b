"""Tables of faces: however they are written; bad rows are reported, bad files refused."""

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
    read_h5,
    sample_row,
    split_rows,
    table,
    votes_table,
    write_files,
)

GOOD = [sample_row(number) for number in range(5)]


def same(rows):
    """What data.h5 should hold of annotated rows; the V/A/D of the samples are exact in float32."""
    return {"Training": [expected(row) for row in rows]}


# Ways of writing

HEADERS = {
    "annotators": COLUMNS,
    "other order": (" Pixels", "DOMINANCE ", "emotion", "valence", "arousal", "more"),
    "plain": PLAIN,
    "plain, competition": ("emotion", " Usage", " pixels"),
    "plain, more columns": ("id", "usage", "who", "EMOTION", "Pixels"),
}
SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t"}
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16")
SPELLINGS = {  # of the label, the pixels and the split
    "numbers": (str, pixel_text, str),
    "names": (
        lambda label: CLASS_FOLDERS[label].title(),
        lambda face: str(face.tolist()),
        str.upper,
    ),
    "mixed": (
        lambda label: f"{label}.0",
        lambda face: " ".join(f"{p:03}" for p in face),
        str.title,
    ),
    "commas": (lambda label: f" {label} ", lambda face: ",".join(map(str, face)), str.lower),
}
EVERY = list(product(HEADERS, SEPARATORS, ENCODINGS, SPELLINGS))


def spelled(row, separator, spelling):
    """A row, {column in lower case: text}; beside semicolons numbers have a decimal comma."""
    label, pixels, split = SPELLINGS[spelling]
    numbers = {
        name.lower(): row[name].replace(".", "," if separator == ";" else ".") for name in VAD
    }
    face = pixels(image(int(row["index"])))
    return numbers | {
        "emotion": label(int(row["emotion"])),
        "pixels": face,
        "usage": split(row["Usage"]),
    }


@pytest.mark.parametrize("ways", EVERY[::4], ids="-".join)
def test_every_way_of_writing_gives_the_same_faces(prepared, ways):
    header, separator, encoding, spelling = ways
    columns, separator, annotated = HEADERS[header], SEPARATORS[separator], "plain" not in header
    texts = []
    for mine in split_rows().values():
        rows = [spelled(row, separator, spelling) for row in mine]
        rows = [{name: row.get(name.strip().lower(), "x") for name in columns} for row in rows]
        texts.append(table(rows, columns, "\r\n", delimiter=separator).decode())
    if not annotated:  # one table for all splits
        texts = [texts[0] + "".join(text.partition("\r\n")[2] for text in texts[1:])]
    names = SPLIT_FILES.values() if annotated else ["some faces.csv"]
    found = prepared({name: text.encode(encoding) for name, text in zip(names, texts, strict=True)})
    for split, rows in split_rows().items():
        wanted = [expected(row) for row in rows]
        assert found[split] == [
            (label, vad if annotated else None, face) for label, vad, face in wanted
        ]


WITH_INDEX = ("", *COLUMNS)
OPTIONS = [
    {"newline": "\r"},
    {"newline": "\r\n", "encoding": "utf-8-sig", "quoting": csv.QUOTE_ALL},
    {"encoding": "utf-16", "newline": "\r\n", "quoting": csv.QUOTE_NONNUMERIC},
    {"columns": COLUMNS[::-1], "newline": "\r\n"},
    {"columns": WITH_INDEX},
    {"columns": WITH_INDEX, "delimiter": ";"},
    {"columns": WITH_INDEX, "delimiter": "\t"},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_line_ends_quotes_and_nameless_index_columns(prepared, options):
    rows = [row | {"": number} for number, row in enumerate(GOOD)]
    assert prepared({"train.csv": table(rows, **options)}) == same(rows)


def test_blank_lines_and_no_line_end_at_the_end(prepared):
    assert prepared({"train.csv": b"\n" + table(GOOD).replace(b"\n", b"\n\n").rstrip()}) == same(
        GOOD
    )


TEXT = pixel_text(image(3))
ACCEPTED = {
    3: [{"pixels": "  " + TEXT.replace(" ", "  ") + " "}, {"pixels": TEXT.replace(" ", "\t")},
        {"pixels": "0" * 5000 + TEXT}, {"pixels": f"[{TEXT.replace(' ', ', ')}]"},
        {"emotion": "3.0"}, {"Valence": " -0.50 "}, {"emotionLabel": 'one\n"two", three'}],
    5: [{"emotion": " 5 "}, {"emotion": "Surprise"}],
    6: [{"emotion": "NEUTRAL"}],
}  # fmt: skip


@pytest.mark.parametrize(
    ("label", "changes"), [(n, changes) for n in ACCEPTED for changes in ACCEPTED[n]]
)
def test_loose_writing_is_accepted(prepared, label, changes):
    found = prepared({"train.csv": table([*GOOD, sample_row(3, **changes), GOOD[0]])})
    assert found == same([*GOOD, sample_row(3, emotion=str(label)), GOOD[0]])


def test_many_rows_of_one_colour_and_rows_that_are_there_twice(prepared, tmp_path):
    rows = [sample_row(number % 50) for number in range(700)]
    rows[10] = sample_row(0, pixels=pixel_text([7] * 2304))
    rows[3] = sample_row(0, emotion="9")
    rows[600] = sample_row(0, pixels="1 2")
    assert prepared({"train.csv": table(rows)}) == same([*rows[:3], *rows[4:600], *rows[601:]])
    assert [row for _, _, row, _ in dropped_rows(tmp_path)] == ["4", "601"]


# The split

SPLIT_NAMES = {
    "Training": ["train.csv", "fer training 2013.csv", "A/b/TRAIN.CSV", "1 outputTrain-2024.csv"],
    "PublicTest": ["publictest-2024-yh.csv", "3 outputPublicTest_forVAD.csv", "val.csv",
                   "my_valid.csv", "faces (public).txt", "public/faces.csv"],
    "PrivateTest": ["Private_Test.csv", "test.csv", "train/private.csv"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("split", "name"), [(split, name) for split in SPLIT_NAMES for name in SPLIT_NAMES[split]]
)
def test_a_whole_word_of_the_name_is_the_split(prepared, split, name):
    assert prepared({name: table(GOOD)}) == {split: same(GOOD)["Training"]}


@pytest.mark.parametrize("name", ["faces", "latest", "republic", "constrained"])
def test_without_a_whole_word_there_is_no_split(refused, name):
    refused({f"fer_{name}.csv": table(GOOD)}, f"fer_{name}.csv", "split")


# Bad rows


def pixels_with(value, place=99):
    return " ".join([*["7"] * place, value, *["7"] * (2303 - place)])


WRONG = ["256", "299", "300", "999", "65536", "300000000000", "4294967296", "18446744073709551616",
         "9" * 5000, "-1", "1.5", "7.0", "nan", "x", "٣", "\0", "1e2", ":", "/"]  # fmt: skip
BAD_FIELDS = {
    "pixels": [pixel_text([7] * 2303), pixel_text([7] * 2305), "", "70;80;90", pixels_with("-1", 0),
               pixels_with("256", 2303), *map(pixels_with, WRONG)],
    "emotion": ["", "7", "-1", "1.5", "nan", "inf", "Bored", "contempt", "3é"],
    "Valence": ["", "2.5", "nan", "1e400", "good", "0,5"],
    "Arousal": ["", "NaN", "-2.001", "-inf"],
    "Dominance": ["inf", "high", "2.01"],
}  # fmt: skip
BAD_ROWS = [({name: text}, name) for name, texts in BAD_FIELDS.items() for text in texts]
BAD_ROWS.append(({"pixels": "", "emotion": "x", "Valence": "9"}, ""))


def assert_dropped(folder, bad):
    """data_report.csv has these rows alone, with their reasons. bad: {row: keyword}."""
    dropped = dropped_rows(folder)
    assert [(split, file, int(row)) for split, file, row, _ in dropped] == [
        ("Training", "train.csv", row) for row in bad
    ]
    for keyword, (_, _, _, reason) in zip(bad.values(), dropped, strict=True):
        assert keyword.lower() in reason.lower()


def test_bad_rows_side_by_side_are_dropped_with_their_reasons(prepared, tmp_path, capsys):
    """2303 and 2305 pixels, which are neighbours here, make a correct total."""
    bad = [sample_row(number, **changes) for number, (changes, _) in enumerate(BAD_ROWS)]
    assert prepared({"train.csv": table([*GOOD, *bad, *GOOD], quoting=csv.QUOTE_ALL)}) == same(
        [*GOOD, *GOOD]
    )
    assert_dropped(tmp_path, {6 + number: keyword for number, (_, keyword) in enumerate(BAD_ROWS)})
    assert str(len(bad)) in capsys.readouterr().out


@pytest.mark.parametrize(("changes", "keyword"), BAD_ROWS)
def test_a_single_bad_row_does_not_harm_its_neighbours(prepared, tmp_path, changes, keyword):
    assert prepared({"train.csv": table([*GOOD, sample_row(2, **changes), GOOD[0]])}) == same(
        [*GOOD, GOOD[0]]
    )
    assert_dropped(tmp_path, {6: keyword})


def test_wrong_numbers_of_fields_and_bytes_that_are_no_text(prepared, tmp_path):
    header, first, second, third, _ = table(
        [*GOOD[:2], sample_row(3, emotion="3é")], encoding="latin-1"
    ).split(b"\n")
    lines = [header, first, b"1,2,3", b"x," + second, second + b",", second, third]
    assert prepared({"train.csv": b"\n".join(lines)}) == same(GOOD[:2])
    assert_dropped(tmp_path, {2: "field", 3: "field", 4: "field", 6: "emotion"})


def test_an_unknown_usage_is_dropped(prepared, tmp_path):
    usages = ("Training", "Other", "", "Training", "Training")
    rows = [row | {"Usage": usage} for row, usage in zip(GOOD, usages, strict=True)]
    assert len(prepared({"fer2013.csv": table(rows, PLAIN)})["Training"]) == 3
    assert ["usage" in reason.lower() for *_, reason in dropped_rows(tmp_path)] == [True, True]


LABELS = ["0", "3", "6", "3.0", " 2 ", "7", "-1", "", "1.5", "nan", "x"]
VALUES = [
    "0",
    "-2",
    "2.0",
    " 1.5 ",
    "1e-3",
    "2.0001",
    "-2.1",
    "",
    "nan",
    "inf",
    "x",
    "1,5",
    "1e400",
]
WORDS = ["0", "255", "7", "007", "00000", "256", "-1", "1.0", "", "x", "999", "1" * 30]


@st.composite
def any_row(draw):
    """A row whose fields are right, nearly right, or wrong."""
    words = ["7"] * draw(st.sampled_from([2304, 2304, 2304, 2303, 2305]))
    for place in draw(st.lists(st.integers(0, 2302), max_size=2)):
        words[place] = draw(st.sampled_from(WORDS))
    index = draw(st.sampled_from(["0", "", "a,b", 'say "hi"', "two\nlines"]))
    row = {name: draw(st.sampled_from(VALUES)) for name in VAD} | {
        "index": index,
        "emotionLabel": "x",
    }
    pixels = draw(st.sampled_from([" ", " ", "  ", "\t"])).join(words)
    return row | {"emotion": draw(st.sampled_from(LABELS)), "pixels": pixels}


def plainly(row):
    """(label, V/A/D, pixels) of a row of text in plain Python, or None when it is to be dropped."""
    label, words = row["emotion"].strip().removesuffix(".0"), row["pixels"].split()
    try:
        vad = [float(row[name]) for name in VAD]
    except ValueError:
        return None
    good = len(words) == 2304 and all(word.isdigit() and int(word) <= 255 for word in words)
    if label not in list("0123456") or not all(-2 <= value <= 2 for value in vad) or not good:
        return None
    return int(label), np.float32(vad).tolist(), list(map(int, words))


@settings(max_examples=40, deadline=None)
@given(st.lists(any_row(), min_size=1, max_size=5))
def test_rows_are_read_or_dropped_as_plain_python_does(tmp_path_factory, rows):
    rows = [*rows, GOOD[0]]
    folder = write_files(tmp_path_factory.mktemp("rows"), {"train.csv": table(rows)})
    wanted = [plainly(row) for row in rows]
    assert read_h5(ensure(folder)) == {
        "Training": [values for values in wanted if values is not None]
    }
    assert_dropped(
        folder, {number: "" for number, values in enumerate(wanted, 1) if values is None}
    )


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=3000))
def test_any_bytes_after_a_header_are_dropped_or_refused(tmp_path_factory, content):
    folder = write_files(tmp_path_factory.mktemp("bytes"), {"train.csv": table([]) + content})
    assert main([str(folder)]) == 2 and not (folder / "data.h5").exists()


# Bad files

HEADER = table([])
BAD_FILES = {  # {case: (content, keyword of the refusal)}
    "empty": (b"", ""),
    "blank lines alone": (b"\n\n\n", "column"),
    "header alone": (HEADER, "row"),
    "binary junk": (random.Random(1).randbytes(20_000), "column"),
    "zero bytes": (bytes(20_000), "column"),
    "a NUL in the header": (b"\x00\x01emotion\tpixels\x00\n", ""),
    "a web page": (b"<!DOCTYPE html>\n<html></html>\n", "column"),
    "UTF-16 cut in a letter": (HEADER.decode().encode("utf-16")[:-1], ""),
    "no pixels": (table(GOOD, COLUMNS[:-1]), "pixels"),
    "no arousal": (table(GOOD, [name for name in COLUMNS if name != "Arousal"]), "arousal"),
    "valence alone": (table(GOOD, ("emotion", "pixels", "Valence")), "dominance"),
    "no emotion": (table(GOOD, (*VAD, "pixels")), "emotion"),
    "no header": (table(GOOD).partition(b"\n")[2], "column"),
    "a quote that never closes": (HEADER + b'"' + table(GOOD), ""),
    "rows of commas": (HEADER + b",,,,,,\n" * 50, "row 1"),
    "pixels scaled to 0..1": (table([sample_row(0, pixels=" ".join(["0.5"] * 2304))]), "pixels"),
    "no label that can be used": (table([sample_row(1, emotion="x")] * 2), "emotion"),
    "a header of 300 kB": (b"x" * 300_000 + b"\n", "column"),
    "a quoted header": (b'"emotion,pixels\n', ""),
    "a line of 10 MB": (HEADER + b"1 " * (5 << 20), ""),
    "a quoted field of 10 MB": (HEADER + b'"' + b"x\n" * (5 << 20), ""),
    "a pixel of 3 MB": (HEADER + b"0,x,0,0,0,0," + b"9" * (3 << 20) + b"\n", ""),
    "a row of 200,000 fields": (HEADER + b"," * 200_000 + b"\n", "field"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_refused_by_its_name(tmp_path, refused, case):
    content, keyword = BAD_FILES[case]
    write_files(tmp_path, {"train.csv": content})
    refused(tmp_path / "train.csv", "train.csv", keyword)


ONE_NAME = [f"{word}/faces.csv" for word in ("train", "public", "private")]


@pytest.mark.parametrize("names", [[*SPLIT_FILES.values()], ONE_NAME])
def test_a_split_that_loses_all_its_rows_is_refused_by_its_name(refused, names):
    files = dict.fromkeys(names, table(GOOD)) | {names[2]: table([sample_row(1, emotion="x")])}
    refused(files, names[2], "emotion")


# FER+ votes. By hand: twice the published pleasure, arousal and dominance; None: dropped

FACES = [row for mine in split_rows(2).values() for row in mine]
USAGES = [row["Usage"] for row in FACES]
MIXED = [
    ({"neutral": 10}, [0, 0, 0]),
    ({"happiness": 6, "surprise": 2, "contempt": 2}, [2 * (0.75 * 0.81 + 0.25 * 0.40),
                                                      2 * (0.75 * 0.51 + 0.25 * 0.67),
                                                      2 * (0.75 * 0.46 - 0.25 * 0.13)]),
    ({"contempt": 5, "unknown": 5}, None),
    ({"sadness": 5, "fear": 5}, [-0.63 - 0.64, -0.27 + 0.60, -0.33 - 0.43]),
    ({"NF": 10}, None),
    ({"neutral": 2, "anger": 1, "disgust": 1, "unknown": 4, "NF": 2},
     [2 * (-0.51 - 0.60) / 4, 2 * (0.59 + 0.35) / 4, 2 * (0.25 + 0.11) / 4]),
]  # fmt: skip
COUNTS = [votes for votes, _ in MIXED]
NAMES = ["" if "NF" in votes and len(votes) == 1 else "a.png" for votes in COUNTS]
KEPT = [number for number, (_, vad) in enumerate(MIXED) if vad is not None]
IN_ORDER = "anger disgust fear happiness sadness surprise neutral".split()  # of our classes


def with_votes(votes):
    return {"fer2013.csv": table(FACES, PLAIN), "fer2013new.csv": votes}


def test_vad_are_derived_from_votes(prepared, tmp_path):
    found = prepared(with_votes(votes_table(COUNTS, NAMES, USAGES)))
    faces = [face for split in SPLIT_FILES for face in found[split]]
    for number, (_, vad, pixels) in zip(KEPT, faces, strict=True):
        assert (
            vad == pytest.approx(MIXED[number][1], abs=1e-6)
            and pixels == expected(FACES[number])[2]
        )
    assert [(row, "vote" in reason) for _, _, row, reason in dropped_rows(tmp_path)] == [
        ("3", True),
        ("5", True),
    ]


def test_votes_are_stored(tmp_path):
    h5_path = ensure(write_files(tmp_path, with_votes(votes_table(COUNTS, NAMES, USAGES))))
    with h5py.File(h5_path) as h5:
        stored = np.concatenate([h5[f"{split}_votes"][:] for split in SPLIT_FILES])
    assert stored.dtype == np.uint8
    assert stored.tolist() == [
        [COUNTS[number].get(word, 0) for word in IN_ORDER] for number in KEPT
    ]


@pytest.mark.parametrize("annotated", [False, True])
def test_votes_may_be_in_the_table_itself(tmp_path, annotated):
    rows = [row | dict.fromkeys(VOTES, 0) | {"happiness": 6, "fear": 4} for row in FACES]
    columns = (*COLUMNS, *VOTES, "Usage") if annotated else (*PLAIN, *VOTES)
    h5_path = ensure(write_files(tmp_path, {"fer2013.csv": table(rows, columns)}))
    derived = [
        2 * (0.6 * 0.81 - 0.4 * 0.64),
        2 * (0.6 * 0.51 + 0.4 * 0.60),
        2 * (0.6 * 0.46 - 0.4 * 0.43),
    ]
    for row, (_, vad, _) in zip(FACES, read_h5(h5_path)["Training"], strict=False):
        assert vad == pytest.approx(expected(row)[1] if annotated else derived, abs=1e-6)
    with h5py.File(h5_path) as h5:
        assert h5["Training_votes"][:].tolist() == [[0, 0, 4, 6, 0, 0, 0]] * 2


TWO = votes_table([{"neutral": 10}, {"happiness": 9, "neutral": 1}] * 3, usages=USAGES)
VOTE_TEXTS = {
    "CRLF": TWO.replace(b"\n", b"\r\n"),
    "semicolons": TWO.replace(b",", b";"),
    "blank": b"\n" + TWO,
    "9.0": votes_table(
        [{"neutral": "10.0"}, {"happiness": "9.0", "neutral": "1.0"}] * 3, usages=USAGES
    ),
}


@pytest.mark.parametrize("way", VOTE_TEXTS)
def test_ways_of_writing_votes(prepared, way):
    first, second = prepared(with_votes(VOTE_TEXTS[way]))["PublicTest"]
    assert first[1] == [0, 0, 0] and second[1] == pytest.approx(
        [0.9 * 1.62, 0.9 * 1.02, 0.9 * 0.92], abs=1e-6
    )


TEN = [{"neutral": 10}] * 6
BAD_VOTES = {  # {case: (votes, keywords of the refusal)}
    "too few": (votes_table(TEN[:5], usages=USAGES[:5]), ("fer2013.csv", "votes")),
    "too many": (
        votes_table([*TEN, {}], usages=[*USAGES, "PrivateTest"]),
        ("fer2013.csv", "votes"),
    ),
    "another order": (votes_table(TEN, usages=USAGES[::-1]), ("fer2013.csv", "row 1")),
    "words": (votes_table([{"fear": "many"}] * 6, usages=USAGES), ("fer2013new.csv", "votes")),
    "negative": (votes_table([{"fear": -3}] * 6, usages=USAGES), ("fer2013new.csv", "votes")),
    "none": (votes_table([], usages=[]), ("fer2013", "votes")),
}


@pytest.mark.parametrize("case", BAD_VOTES)
def test_votes_that_do_not_belong_to_the_faces_are_refused(refused, case):
    votes, keywords = BAD_VOTES[case]
    refused(with_votes(votes), *keywords)
