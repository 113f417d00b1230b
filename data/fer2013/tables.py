"""Tables of faces and of FER+ votes: columns by their names, rows as checked values."""

import codecs
import csv
import io
import re
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np

from data import FACE_SIZE
from data.archives import File, file_errors
from utils.tasks import CLASS_WORDS, DIMENSIONS, EMOTIONS, VAD_LIMIT

PIXELS = FACE_SIZE * FACE_SIZE
LONGEST_HEADER = 1 << 16  # bytes
LONGEST_LINE = 1 << 20  # characters; one with 2,304 pixels has up to 10,000
SEPARATORS = (",", ";", "\t")
VAD = tuple(name.lower() for name in DIMENSIONS)
# FER+'s names, in the order of EMOTIONS.
VOTES = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")
# Column -> what it may be called, in lower case without blanks, best first.
NAMES = {
    "pixels": ("pixels", "pixel"),
    "emotion": ("emotion", "emotions", "emotionlabel", "label", "class"),
    "usage": ("usage", "split", "set"),
    "image name": ("imagename",),
    **{name: (name,) for name in (*VAD, *VOTES)},
}
SPLIT_WORDS = {
    "public": "PublicTest", "publictest": "PublicTest",
    "private": "PrivateTest", "privatetest": "PrivateTest",
    "train": "Training", "training": "Training",
    "val": "PublicTest", "valid": "PublicTest", "validation": "PublicTest",
    "test": "PrivateTest",
}  # fmt: skip


class NotUsed(ValueError):
    """A file that holds no faces; says why."""


@dataclass(frozen=True)
class Table:
    """A table and how it is written. columns: {column in `NAMES`: index}; width: their number."""

    file: File
    encoding: str
    separator: str
    columns: dict[str, int]
    width: int

    def has(self, *columns):
        """Whether the table has all of these columns."""
        return all(column in self.columns for column in columns)

    def field(self, record, column):
        """The text of a column in a row; "" when the row or the table lacks it."""
        index = self.columns.get(column, len(record))
        return record[index].strip() if index < len(record) else ""

    def number(self, record, column, low, high):
        """The number in a column. Raises ValueError."""
        text = self.field(record, column)
        try:
            value = float(text if self.separator == "," else text.replace(",", "."))
        except ValueError:
            raise ValueError(f"{column}: {text[:20]!r} is not a number") from None
        if not low <= value <= high:
            raise ValueError(f"{column}: {text[:20]!r} is outside {low:g}..{high:g}")
        return value


@dataclass
class Row:
    """A face, or a row that cannot be used.

    number: counted from 1 in the file, "" for an image. split: one of SPLITS, "" if unknown.
    values: {"label", "pixel" and perhaps "VAD" and "votes"}, see `store`. fault: why it cannot be
    used.
    """

    file: str
    number: int | str
    split: str
    values: dict
    fault: str = ""


@lru_cache
def split_named(text):
    """The split that a whole word of a name means ("3. outputPrivateTest", "val"), or None."""
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", text)
    named = [word.lower() for word in words if word.lower() in SPLIT_WORDS]
    return SPLIT_WORDS[min(named, key=list(SPLIT_WORDS).index)] if named else None


def first_line(file):
    """(the first line of a text file that is not blank, "" without any; the encoding).

    Raises UserError when the file cannot be read.
    """
    with file_errors(file.name), file.open() as stream:
        head = stream.read(LONGEST_HEADER)
    is_utf16 = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    encoding = "utf-16" if is_utf16 else "utf-8-sig"
    lines = re.split(r"[\r\n]", head.decode(encoding, "replace").replace("\0", ""))
    return next(filter(str.strip, lines), ""), encoding


def open_table(file):
    """The `Table` in a file. Raises NotUsed, and UserError when the file cannot be read."""
    line, encoding = first_line(file)
    tables = [_parse_header(file, line, encoding, separator) for separator in SEPARATORS]
    table = max(tables, key=lambda table: len(table.columns))
    is_votes = table.has(*VOTES, "usage", "image name") and not table.has("pixels")
    has_part = any(map(table.has, VAD)) and not table.has(*VAD)
    needed = ["pixels", "emotion", *(VAD if has_part else ())]
    missing = [column for column in needed if not table.has(column)]
    if missing and not is_votes:
        columns = " and no column ".join(missing)
        raise NotUsed(f"{file.name} has no column {columns} in its first line")
    return table


def _parse_header(file, line, encoding, separator):
    fields = next(csv.reader([line], delimiter=separator), [])
    plain = [re.sub(r"[^a-z0-9]", "", field.lower()) for field in fields]
    columns = {}
    for column, spellings in NAMES.items():
        known = [name for name in spellings if name in plain]
        if known:
            columns[column] = plain.index(known[0])
    return Table(file, encoding, separator, columns, len(fields))


def read_records(table):
    """Yield the fields of each row, a list of text; blank lines are not rows.

    Raises UserError when the file is damaged.
    """
    with file_errors(table.file.name), table.file.open() as stream:
        text = io.TextIOWrapper(stream, table.encoding, errors="replace", newline="")
        lines = iter(partial(text.readline, LONGEST_LINE), "")  # csv refuses a longer field
        reader = csv.reader(lines, delimiter=table.separator)
        records = (record for record in reader if len(record) > 1 or "".join(record).strip())
        next(records, None)  # the header
        yield from records


def read_rows(table, split):
    """Yield a `Row` for each row of a table of faces.

    split: that of rows whose column Usage does not say it, or None. Raises UserError when the file
    is damaged.
    """
    for number, record in enumerate(read_records(table), 1):
        row_split = split_named(table.field(record, "usage")) or split or ""
        row = Row(table.file.name, number, row_split, {})
        try:
            row.values = _parse_record(table, record, row_split)
        except ValueError as error:
            row.fault = str(error)
        yield row


def _parse_record(table, record, split):
    """The `values` of a `Row`. Raises ValueError with the first fault."""
    if len(record) != table.width:
        raise ValueError(f"columns: {len(record)} fields instead of {table.width}")
    if not split:
        raise ValueError(f"usage: {table.field(record, 'usage')[:20]!r} is not a split")
    values = {"label": read_label(table.field(record, "emotion"))}
    if table.has(*VAD):
        values["VAD"] = [table.number(record, name, -VAD_LIMIT, VAD_LIMIT) for name in VAD]
    if table.has(*VOTES):
        values["votes"] = read_votes(table, record)
    values["pixel"] = parse_pixels(table.field(record, "pixels"))
    return values


def read_votes(table, record):
    """The FER+ votes in a row, in the order of EMOTIONS. Raises ValueError."""
    votes = [table.number(record, name, 0, 255) for name in VOTES]
    if any(count % 1 for count in votes):
        raise ValueError("votes: not all are integers")
    return votes


def read_label(text):
    """Emotion 0..6 from a number (also "3.0"), a name, or both ("3=Happy"). Raises ValueError."""
    number, _, name = text.partition("=")
    number = number.strip().removesuffix(".0").removesuffix(",0")
    if len(number) == 1 and number in "0123456":
        return int(number)
    label = CLASS_WORDS.get((name or number).strip().lower())
    if label not in EMOTIONS:
        raise ValueError(
            f"emotion: {text[:20]!r} is neither an integer in 0-6 nor the name of an emotion"
        )
    return EMOTIONS.index(label)


def parse_pixels(text):
    """2304 integers in 0..255 as a uint8 array; raises ValueError.

    They are separated by blanks or commas, in brackets or not.
    """
    for separator in ",\r\n":
        text = text.replace(separator, " ")
    text = text.strip("[]() ")
    if not text:
        raise ValueError("pixels: missing")
    if "." in text:  # NumPy before 2.4 would truncate it
        raise ValueError("pixels: not all are integers")
    try:
        pixels = np.loadtxt([text], np.int64, comments=None, ndmin=1)
    except ValueError as error:
        raise ValueError(f"pixels: {str(error).partition(' at row')[0][:100]}") from None
    if len(pixels) != PIXELS:
        raise ValueError(f"pixels: {len(pixels)} numbers instead of {PIXELS}")
    if pixels.min() < 0 or pixels.max() > 255:
        raise ValueError("pixels: not all are in 0-255")
    return pixels.astype(np.uint8)
