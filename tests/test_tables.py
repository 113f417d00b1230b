"""Tables of faces: however they are written; bad rows are reported, bad files refused."""

import csv
import random
from itertools import product

import h5py
import numpy as np
import pytest

from data.fer2013.prepare import ensure
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
SPELLINGS = {  # of the label and the pixels
    "numbers": (str, pixel_text),
    "names": (lambda label: CLASS_FOLDERS[label].title(), lambda face: str(face.tolist())),
    "mixed": ("{}.0".format, lambda face: " ".join(f"{p:03}" for p in face)),
    "commas": (" {} ".format, lambda face: ",".join(map(str, face))),
}
EVERY = list(product(HEADERS, SEPARATORS, ENCODINGS, SPELLINGS))


def spelled(row, separator, spelling):
    """A row, {column in lower case: text}; beside semicolons numbers have a decimal comma."""
    label, pixels = SPELLINGS[spelling]
    point = "," if separator == ";" else "."
    numbers = {name.lower(): row[name].replace(".", point) for name in VAD}
    own = {"emotion": label(int(row["emotion"])), "usage": row["Usage"].lower()}
    return numbers | own | {"pixels": pixels(image(int(row["index"])))}


@pytest.mark.parametrize("ways", EVERY[::7], ids="-".join)
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
        for (label, vad, face), row in zip(found[split], rows, strict=True):
            assert (label, vad or expected(row)[1], face) == expected(row)
            assert (vad is not None) == annotated


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
    content = b"\n" + table(GOOD).replace(b"\n", b"\n\n").rstrip()
    assert prepared({"train.csv": content}) == same(GOOD)


TEXT = pixel_text(image(3))
ACCEPTED = [  # (what is written in a row, its label)
    *(({"pixels": text}, 3) for text in (
        "  " + TEXT.replace(" ", "  ") + " ", TEXT.replace(" ", "\t"), "0" * 5000 + TEXT,
        f"[{TEXT.replace(' ', ', ')}]", TEXT.replace(" 1", "\r\n1"))),
    ({"emotion": "3.0"}, 3), ({"Valence": " -0.50 "}, 3),
    ({"emotionLabel": 'one\n"two", three'}, 3),
    ({"emotion": " 5 "}, 5), ({"emotion": "Surprise"}, 5), ({"emotion": "NEUTRAL"}, 6),
]  # fmt: skip


def test_loose_writing_is_accepted(prepared):
    rows = [sample_row(3, **changes) for changes, _ in ACCEPTED]
    wanted = [sample_row(3, emotion=str(label)) for _, label in ACCEPTED]
    assert prepared({"train.csv": table([*GOOD, *rows])}) == same([*GOOD, *wanted])


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


def test_bad_rows_are_dropped_with_their_reasons(prepared, tmp_path, capsys):
    """2303 and 2305 pixels, which are neighbours here, make a correct total."""
    bad = [sample_row(number, **changes) for number, (changes, _) in enumerate(BAD_ROWS)]
    content = table([*GOOD, *bad, *GOOD], quoting=csv.QUOTE_ALL)
    assert prepared({"train.csv": content}) == same([*GOOD, *GOOD])
    assert_dropped(tmp_path, {6 + number: keyword for number, (_, keyword) in enumerate(BAD_ROWS)})
    assert str(len(bad)) in capsys.readouterr().out


def test_wrong_numbers_of_fields_and_bytes_that_are_no_text(prepared, tmp_path):
    rows = [*GOOD[:2], sample_row(3, emotion="3é")]
    header, first, second, third, _ = table(rows, encoding="latin-1").split(b"\n")
    lines = [header, first, b"1,2,3", b"x," + second, second + b",", second, third]
    assert prepared({"train.csv": b"\n".join(lines)}) == same(GOOD[:2])
    assert_dropped(tmp_path, {2: "field", 3: "field", 4: "field", 6: "emotion"})


def test_an_unknown_usage_is_dropped(prepared, tmp_path):
    usages = ("Training", "Other", "", "Training", "Training")
    rows = [row | {"Usage": usage} for row, usage in zip(GOOD, usages, strict=True)]
    assert len(prepared({"fer2013.csv": table(rows, PLAIN)})["Training"]) == 3
    assert ["usage" in reason.lower() for *_, reason in dropped_rows(tmp_path)] == [True, True]


# Bad files

HEADER = table([])
BAD_FILES = {  # {case: (content, keyword of the refusal)}
    "empty": (b"", ""),
    "header alone": (HEADER, "row"),
    "binary junk": (random.Random(1).randbytes(20_000), "column"),
    "a web page": (b"<!DOCTYPE html>\n<html></html>\n", "column"),
    "UTF-16 cut in a letter": (HEADER.decode().encode("utf-16")[:-1], ""),
    "no pixels": (table(GOOD, COLUMNS[:-1]), "pixels"),
    "no arousal": (table(GOOD, [name for name in COLUMNS if name != "Arousal"]), "arousal"),
    "no emotion": (table(GOOD, (*VAD, "pixels")), "emotion"),
    "no header": (table(GOOD).partition(b"\n")[2], "column"),
    "a quote that never closes": (HEADER + b'"' + table(GOOD), ""),
    "pixels scaled to 0..1": (table([sample_row(0, pixels=" ".join(["0.5"] * 2304))]), "pixels"),
    "a header of 300 kB": (b"x" * 300_000 + b"\n", "column"),
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


def test_vad_are_derived_from_votes_which_are_stored(tmp_path):
    h5_path = ensure(write_files(tmp_path, with_votes(votes_table(COUNTS, NAMES, USAGES))))
    faces = [face for mine in read_h5(h5_path).values() for face in mine]
    for number, (_, vad, pixels) in zip(KEPT, faces, strict=True):
        assert vad == pytest.approx(MIXED[number][1], abs=1e-6)
        assert pixels == expected(FACES[number])[2]
    dropped = dropped_rows(tmp_path)
    assert [(row, "vote" in reason) for _, _, row, reason in dropped] == [("3", True), ("5", True)]
    with h5py.File(h5_path) as h5:
        stored = np.concatenate([h5[f"{split}_votes"][:] for split in SPLIT_FILES])
    assert stored.dtype == np.uint8
    assert stored.tolist() == [[COUNTS[n].get(word, 0) for word in IN_ORDER] for n in KEPT]


@pytest.mark.parametrize("annotated", [False, True])
def test_votes_may_be_in_the_table_itself(tmp_path, annotated):
    rows = [row | dict.fromkeys(VOTES, 0) | {"happiness": 6, "fear": 4} for row in FACES]
    columns = (*COLUMNS, *VOTES, "Usage") if annotated else (*PLAIN, *VOTES)
    h5_path = ensure(write_files(tmp_path, {"fer2013.csv": table(rows, columns)}))
    mixed = [(0.81, -0.64), (0.51, 0.60), (0.46, -0.43)]  # of happiness and fear
    derived = [2 * (0.6 * happy + 0.4 * afraid) for happy, afraid in mixed]
    for row, (_, vad, _) in zip(FACES, read_h5(h5_path)["Training"], strict=False):
        assert vad == pytest.approx(expected(row)[1] if annotated else derived, abs=1e-6)
    with h5py.File(h5_path) as h5:
        assert h5["Training_votes"][:].tolist() == [[0, 0, 4, 6, 0, 0, 0]] * 2


TWO = votes_table([{"neutral": 10}, {"happiness": 9, "neutral": 1}] * 3, usages=USAGES)
VOTE_TEXTS = {
    "CRLF": TWO.replace(b"\n", b"\r\n"),
    "semicolons": TWO.replace(b",", b";"),
    "blank": b"\n" + TWO,
    "9.0": TWO.replace(b"9,", b"9.0,").replace(b"10,", b"10.0,"),
}


@pytest.mark.parametrize("way", VOTE_TEXTS)
def test_ways_of_writing_votes(prepared, way):
    first, second = prepared(with_votes(VOTE_TEXTS[way]))["PublicTest"]
    assert first[1] == [0, 0, 0]
    assert second[1] == pytest.approx([0.9 * 1.62, 0.9 * 1.02, 0.9 * 0.92], abs=1e-6)


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
    "shares": (votes_table([{"fear": 0.7}] * 6, usages=USAGES), ("fer2013new.csv", "votes")),
    "none": (votes_table([], usages=[]), ("fer2013", "votes")),
    "shares in the table of faces": (None, ("fer2013.csv", "votes")),
}


@pytest.mark.parametrize("case", BAD_VOTES)
def test_votes_that_do_not_belong_to_the_faces_are_refused(refused, case):
    votes, keywords = BAD_VOTES[case]
    shares = [row | dict.fromkeys(VOTES, "0.1") for row in FACES]
    inside = {"fer2013.csv": table(shares, (*PLAIN, *VOTES))}
    refused(with_votes(votes) if votes else inside, *keywords)
