"""Malformed CSV files: [`Case`], and rows that are dropped and reported."""

import random
from functools import partial

from tests.faults.entry import Case
from tests.samples import COLUMNS, pixel_text, sample_row, table

PRIVATE = "\ue000"  # stands for a byte that no UTF-8 text has
ROWS = [sample_row(0), sample_row(1)]
UTF16_CUT = table([]).decode().encode("utf-16")[:-1]
HEADER = table([])
NO_LABEL = "is neither an integer in 0-6 nor the name of an emotion"


def written(folder, content, name="train.csv"):
    (folder / name).write_bytes(content)


def plain(folder, votes):
    """fer2013.csv of three faces, with FER+ votes."""
    faces = [
        {"emotion": "3", "pixels": pixel_text([n] * 2303 + [0]), "Usage": usage}
        for n, usage in enumerate(("Training", "PublicTest", "PrivateTest"), 1)
    ]
    written(folder, table(faces, ("emotion", "pixels", "Usage")), "fer2013.csv")
    written(folder, votes, "fer2013new.csv")


VOTES = b"Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear\n"


def case(name, content, *told):
    return Case("CSV files", name, partial(written, content=content), ("data.fer2013.prepare", "{folder}/train.csv"),
                (r"train\.csv", *told))  # fmt: skip


def votes_case(name, votes, *told):
    return Case("CSV files", name, partial(plain, votes=votes), ("data.fer2013.prepare", "{folder}"), told)


CASES = [
    case("empty", b"", "empty", "download or copy it again"),
    case("blank lines alone", b"\n\n\n", "no column pixels", "it needs"),
    case("header alone", HEADER, "header but no rows", "get the file again"),
    case("binary junk", random.Random(1).randbytes(20_000), "no column", "it needs"),
    case("zero bytes", bytes(20_000), "no column", "it needs"),
    case("a web page", b"<!DOCTYPE html>\n<html></html>\n", "no column pixels", "it needs"),
    case("UTF-16 cut in a letter", UTF16_CUT, "none of its 1 row", "get"),
    case("no pixels", table(ROWS, COLUMNS[:-1]), "no column pixels in line 1", "it needs"),
    case("no arousal", table(ROWS, [name for name in COLUMNS if name != "Arousal"]), "no column arousal", "it needs"),
    case("no emotion", table(ROWS, COLUMNS[2:5] + COLUMNS[6:]), "no column emotion", "it needs"),
    case("pixels twice", table(ROWS, (*COLUMNS, "pixels")), "more than one column pixels", "it needs"),
    case("no header", table(ROWS).partition(b"\n")[2], "no column pixels", "it needs"),
    case("a quote that never closes", HEADER + b'"' + table(ROWS), "can be used|not a table", "get"),
    case("rows of commas", HEADER + b",,,,,,\n" * 50, r"none of its 50 rows", "pixels: missing", "row 1", "get"),
    case("2303 pixels in all rows", table([sample_row(n, pixels=pixel_text([7] * 2303)) for n in range(3)]),
         "none of its 3 rows", "row 1: pixels: 2303 numbers instead of 2304", "get the file again"),
    case("pixels scaled to 0..1", table([sample_row(0, pixels=" ".join(["0.5"] * 2304))]),
         "row 1: pixels: number 1 is '0.5', not an integer in 0-255", "get the file again"),
    case("a header of 300 kB", b"x" * 300_000 + b"\n", "no column", "it needs"),
    case("a quoted header", b'"emotion,pixels\n', "no column|not a CSV", "it needs|save it"),
    votes_case("votes for fewer rows", VOTES + b"Training,a.png,9,0,0,0,0,0,0\n", r"fer2013\.csv", "votes", "again"),
    votes_case("votes in another order", VOTES + b"PublicTest,a.png,9,0,0,0,0,0,0\n" * 3, r"fer2013\.csv, row 1",
               "votes have PublicTest there", "again"),
    votes_case("votes that are no numbers", VOTES + b"Training,a.png,many,0,0,0,0,0,0\n", r"fer2013new\.csv, row 1",
               "again"),
    votes_case("negative votes", VOTES + b"Training,a.png,-3,0,0,0,0,0,0\n", r"fer2013new\.csv, row 1", "again"),
    votes_case("no votes at all", VOTES, r"fer2013new\.csv has no rows", "again"),
]  # fmt: skip

HUGE = [
    case("a line of 10 MB", HEADER + b"1 " * (5 << 20), "over 4 MB", "get it again"),
    case("a header of 10 MB", b"pixels " * (10 << 20) + b"\n", "no column", "it needs"),
    case("a quoted field of 10 MB", HEADER + b'"' + b"x\n" * (5 << 20), "over 4 MB", "get it again"),
    case("a pixel of 3 MB", HEADER + b"0,x,0,0,0,0," + b"9" * (3 << 20) + b"\n", "none of its 1 row",
         "above 255", "get the file again"),
]  # fmt: skip

# What is changed in a good row, and the reason that data_report.csv then gives.
DROPPED = {
    "NaN valence": ({"Valence": "nan"}, "Valence: 'nan' is not a finite number"),
    "infinite arousal": ({"Arousal": "-inf"}, "Arousal: '-inf' is not a finite number"),
    "dominance beyond its range": ({"Dominance": "2.01"}, "Dominance: '2.01' is outside -2..2"),
    "huge valence": ({"Valence": "1e400"}, "Valence: '1e400' is not a finite number"),
    "valence in words": ({"Valence": "good"}, "Valence: 'good' is not a number"),
    "valence with a comma": ({"Valence": "0,5"}, "Valence: '0,5' is not a number"),
    "no valence": ({"Valence": ""}, "Valence: missing"),
    "NaN label": ({"emotion": "nan"}, f"emotion: 'nan' {NO_LABEL}"),
    "infinite label": ({"emotion": "inf"}, f"emotion: 'inf' {NO_LABEL}"),
    "label 7": ({"emotion": "7"}, f"emotion: '7' {NO_LABEL}"),
    "negative label": ({"emotion": "-1"}, f"emotion: '-1' {NO_LABEL}"),
    "no label": ({"emotion": ""}, "emotion: missing"),
    "negative pixel": ({"pixels": pixel_text([*[7] * 2303, -1])},
                       "pixels: number 2304 is '-1', not an integer in 0-255"),
    "pixel of 256": ({"pixels": pixel_text([256, *[7] * 2303])}, "pixels: number 1 is '256', above 255"),
    "2303 pixels": ({"pixels": pixel_text([7] * 2303)}, "pixels: 2303 numbers instead of 2304"),
    "2305 pixels": ({"pixels": pixel_text([7] * 2305)}, "pixels: 2305 numbers instead of 2304"),
    "floating pixel": ({"pixels": pixel_text([7] * 2303) + " 7.0"},
                       "pixels: number 2304 is '7.0', not an integer in 0-255"),
    "NaN pixel": ({"pixels": "nan " + pixel_text([7] * 2303)}, "pixels: number 1 is 'nan', not an integer in 0-255"),
    "pixel of 5,000 nines": ({"pixels": "9" * 5000 + " " + pixel_text([7] * 2303)},
                             "pixels: number 1 is '99999999999999999999...', above 255"),
    "no pixels": ({"pixels": ""}, "pixels: missing"),
    "bytes that are no text": ({"emotion": "3" + PRIVATE}, f"emotion: '3\ufffd' {NO_LABEL}"),
    "all at once": ({"pixels": "", "emotion": "x", "Valence": "9"},
                    f"pixels: missing; emotion: 'x' {NO_LABEL}; Valence: '9' is outside -2..2"),
}  # fmt: skip
KEPT = {
    "pixel of 5,000 zeros": {"pixels": "0" * 5000 + "9 " + pixel_text([7] * 2303)},
    "quoted label of two lines": {"emotionLabel": 'one\n"two", three'},
    "label as pandas writes it": {"emotion": "3.0"},
}
