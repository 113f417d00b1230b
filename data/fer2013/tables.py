"""Tables of faces: what a table is, by its header, and its rows as checked arrays."""

import codecs
import csv
import math
import os
import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from utils.files import UserError
from utils.images import in_batches, prefetch
from utils.tasks import CLASS_WORDS, DIMENSIONS, EMOTIONS, SPLITS, VAD_LIMIT
from utils.text import counted

PIXELS = 48 * 48
HEAD = 1 << 16  # bytes that a header lies in
RECORD_LIMIT = 4 << 20  # letters of a line or a field; a row of 2304 pixels takes at most some 10,000
BLOCK_ROWS = 128
_SPACES = str.maketrans(dict.fromkeys("[](),\t\r\n", " "))
# {column: what it may be called, letters and digits alone}.
_NAMES = {
    "pixels": ("pixels", "pixel"), "emotion": ("emotion", "emotions", "emotionlabel", "label", "class"),
    "usage": ("usage", "split", "set"), "valence": ("valence",), "arousal": ("arousal",),
    "dominance": ("dominance",), "image name": ("imagename",),
}  # fmt: skip
VOTES = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")  # of FER+, in the order of EMOTIONS


def split_named(text):
    """The split that a name means, in any spelling: Training, Public_Test, val, "3. outputPrivateTest"; or None."""
    text = text.lower()
    for word, split in (("public", "PublicTest"), ("private", "PrivateTest"), ("train", "Training")):
        if word in text:
            return split
    if is_validation(text):
        return "PublicTest"
    return "PrivateTest" if "test" in text else None


def is_validation(text):
    """Whether a name says that its faces are for validation."""
    return re.search(r"(?<![a-z])(val|valid|validation|dev)(?![a-z])", text.lower()) is not None


def two_candidates(split, first, second):
    """The sentence about two tables, or two folders of pictures, with faces of one split."""
    return f"two candidates for the {split} split: {first} and {second}: remove one, or give the path of the one to use"


NO_HEADER = "has no column names in its first line: it needs pixels, emotion"


class Faulty(ValueError):
    """A text that is no table of faces; says why."""


@dataclass(frozen=True)
class Format:
    """How a table of faces is written.

    separator: between fields; columns: {name in `_NAMES`, or of a vote: index}; width: fields of a row.
    """

    encoding: str
    separator: str
    columns: dict
    width: int

    @property
    def has_vad(self):
        """Whether the rows have valence, arousal and dominance."""
        return "valence" in self.columns

    @property
    def has_usage(self):
        """Whether a column says the split of each row."""
        return "usage" in self.columns


def read_format(head):
    """The `Format` of a table of faces or of FER+ votes that begins with `head` (bytes). Raises `Faulty`."""
    encoding = _encoding(head)
    text = head.decode(encoding, errors="replace").lstrip("\ufeff \t\r\n")
    line = re.split(r"[\r\n]", text, maxsplit=1)[0]
    # Python 3.10's csv raises an error for a NUL.
    if len(line) >= HEAD // 4 or "\0" in line or not line.isprintable() and "\t" not in line:
        raise Faulty(NO_HEADER)
    readings = [next(csv.reader([line], delimiter=separator), []) for separator in ",;\t|"]
    separator, names = max(zip(",;\t|", readings, strict=True), key=lambda pair: len(_columns(pair[1])[0]))
    columns, repeated = _columns(names)
    if all(name in columns for name in (*VOTES, "usage", "image name")) and "pixels" not in columns:
        return Format(encoding, separator, columns, len(names))
    vad = [name.lower() for name in DIMENSIONS]
    needed = ["pixels", "emotion", *(vad if any(name in columns for name in vad) else ())]
    missing = [name for name in needed if name not in columns]
    if missing or repeated:
        found = ", ".join(quoted(name) for name in names[:12]) or "nothing"
        problem = f"no column {', '.join(missing)}" if missing else f"more than one column {', '.join(repeated)}"
        raise Faulty(f"has {problem} in line 1 (found: {found}): it needs {', '.join(needed)}")
    return Format(encoding, separator, columns, len(names))


def _encoding(head):
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    zeros = [head[start:1000:2].count(0) * 4 > min(len(head), 1000) for start in (0, 1)]
    return "utf-16-be" if zeros[0] and not zeros[1] else "utf-16-le" if zeros[1] and not zeros[0] else "utf-8-sig"


def _columns(names):
    """({column: index}, [columns that occur twice]) of the header's names."""
    plain = [re.sub(r"[^a-z0-9]", "", name.lower()) for name in names]
    columns, repeated = {}, []
    for column, spellings in (_NAMES | {vote: (vote,) for vote in VOTES}).items():
        known = [name for name in spellings if name in plain]
        if known:
            columns[column] = plain.index(known[0])
            repeated += [column] if plain.count(known[0]) > 1 else []
    return columns, repeated


class Block(NamedTuple):
    """Rows of one source, in order.

    numbers (n,): where each good one is, 1-based row or name of a picture; splits: int64 (n,), indices into SPLITS;
    labels: int64 (n,) in 0..6; vad: float32 (n, 3) in -2..2, or None; pixels: uint8 (n, 2304); dropped: [(split or
    "", row, reason)] of the others.
    """

    numbers: list
    splits: np.ndarray
    labels: np.ndarray
    vad: np.ndarray | None
    pixels: np.ndarray
    dropped: list


def read_rows(stream, layout, split, name, progress):
    """Yield the rows of a table of faces as `Block`s, in order, in memory that does not grow with it.

    stream: binary; layout: its `Format`; split: of all rows, None where the column usage has it; name: for messages;
    progress: called with the bytes just read. Raises UserError when it is no table.
    """
    workers = min(3, os.cpu_count() or 1)
    blocks = _numbered(stream, layout, name, progress)
    with _long_fields():
        try:
            yield from prefetch(lambda block: _convert(layout, split, *block), blocks, workers, 2 * workers - 1)
        except csv.Error as error:
            reason = f"it has a quoted field of over {RECORD_LIMIT >> 20} MB" if "limit" in str(error) else str(error)
            raise UserError(f"{name} is not a table of faces: {reason}: get it again") from error


def _numbered(stream, layout, name, progress):
    """Blocks of records with the number of their first row; blank lines are no records."""
    records = csv.reader(_lines(stream, layout.encoding, name, progress), delimiter=layout.separator)
    records = (record for record in records if record and (len(record) > 1 or record[0].strip()))
    next(records, None)
    for number, block in enumerate(in_batches(records, BLOCK_ROWS)):
        yield 1 + number * BLOCK_ROWS, block


def _lines(stream, encoding, name, progress):
    """The lines of a text, whatever ends them. Raises UserError for an endless one."""
    decoder, rest = codecs.getincrementaldecoder(encoding)("replace"), ""
    while chunk := stream.read(1 << 20):
        progress(len(chunk))
        text = decoder.decode(chunk)
        if "\r" in text:
            text = text.replace("\r\n", "\n").replace("\r", "\n")
        *lines, rest = (rest + text).split("\n")
        yield from (line + "\n" for line in lines)
        if len(rest) > RECORD_LIMIT:
            raise UserError(f"{name} is not a table of faces: it has a line of over 4 MB: get it again")
    yield from (rest, decoder.decode(b"", final=True))


@contextmanager
def _long_fields():
    """Let the module csv read fields up to our limit; afterwards its own is as it was."""
    before = csv.field_size_limit(RECORD_LIMIT)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _convert(layout, split, first, records):
    """Records, the first of which is row `first`, as a `Block`. Runs in a thread."""
    rows, dropped = [], []
    for number, record in enumerate(records, first):
        row = _Row(layout, split, record)
        rows.append((number, row)) if not row.faults else dropped.append((row.split, number, row.reason))
    texts = [row.pixels for _, row in rows]
    pixels = parse_pixels(texts)
    if pixels is None:  # one of them is at fault: look at each alone
        faults = [pixel_fault(text) for text in texts]
        dropped += [(row.split, number, fault) for (number, row), fault in zip(rows, faults, strict=True) if fault]
        rows = [row for row, fault in zip(rows, faults, strict=True) if not fault]
        texts = [" ".join(word.lstrip("0") or "0" for word in row.pixels.split()) for _, row in rows]
        pixels = parse_pixels(texts)
    return Block(
        [number for number, _ in rows],
        np.array([SPLITS.index(row.split) for _, row in rows], np.int64),
        np.array([row.label for _, row in rows], np.int64),
        np.array([row.vad for _, row in rows], np.float32).reshape(-1, 3) if layout.has_vad else None,
        pixels,
        sorted(dropped, key=lambda entry: entry[1]),
    )


class _Row:
    """The fields of a record, converted; `faults` says what is wrong with those that are."""

    def __init__(self, layout, split, record):
        self.split, self.faults, self.pixels = split or "", [], ""
        if len(record) != layout.width:
            self.faults.append(f"columns: {counted(len(record), 'field')} instead of {layout.width}")
            return
        field = {name: record[place] for name, place in layout.columns.items()}
        if split is None:
            self.split = self._of("usage", _split, field.get("usage", "")) or ""
        self.pixels = field["pixels"].translate(_SPACES)
        self.label = self._of("emotion", read_label, field["emotion"])
        if layout.has_vad:
            decimal_comma = layout.separator != ","
            texts = {name: field[name.lower()].replace(",", ".") if decimal_comma else field[name.lower()]
                     for name in DIMENSIONS}  # fmt: skip
            self.vad = [self._of(name, _vad, text) for name, text in texts.items()]

    def _of(self, name, convert, text):
        """The value of a field; notes why it has none."""
        if not text.strip():
            self.faults.append(f"{name}: missing")
            return None
        try:
            return convert(text.strip())
        except ValueError as error:
            self.faults.append(f"{name}: {quoted(text)} {error}")
            return None

    @property
    def reason(self):
        """Everything that is wrong, the pixels included."""
        if self.faults[0].startswith("columns"):
            return self.faults[0]
        place = 1 if self.faults[0].startswith("usage") else 0
        return "; ".join(filter(None, [*self.faults[:place], pixel_fault(self.pixels), *self.faults[place:]]))


def _split(text):
    split = split_named(text)
    if split is None:
        raise ValueError(f"is none of {', '.join(SPLITS)}")
    return split


def read_label(text):
    """Emotion 0..6 from a number ("3.0" is 3, as pandas writes it), a name, or both ("3=Happy"). Raises ValueError."""
    number, _, name = text.partition("=")
    number = number.strip().removesuffix(".0").removesuffix(",0")
    if len(number) == 1 and number in "0123456":
        return int(number)
    label = CLASS_WORDS.get((name or number).strip().lower())
    if label not in EMOTIONS:
        raise ValueError("is neither an integer in 0-6 nor the name of an emotion")
    return EMOTIONS.index(label)


def _vad(text):
    try:
        value = float(text)
    except ValueError:
        raise ValueError("is not a number") from None
    if not math.isfinite(value):
        raise ValueError("is not a finite number")
    if abs(np.float32(value)) > VAD_LIMIT:
        raise ValueError("is outside -2..2")
    return value


def parse_pixels(texts):
    """Pixel texts, each 2304 integers in 0..255 with spaces between, as uint8 (n, 2304); None if any is not that.

    All texts are one array of characters, and every step is one NumPy operation over all of it: far faster than
    converting each number, and other threads run meanwhile.
    """
    joined = f"   {' '.join(texts)} "
    if not joined.isascii():
        return None
    characters = np.frombuffer(joined.encode(), np.uint8)
    digits = characters - np.uint8(ord("0"))  # below "0" it wraps to large numbers
    is_digit = digits < 10
    if not (is_digit | (characters == ord(" "))).all():
        return None
    digits *= is_digit
    ends = is_digit[3:-1] & ~is_digit[4:]
    # A space counts 0; only with this mask is a hundred no digit of the number before.
    hundreds = digits[1:-3] * (is_digit[2:-2] & is_digit[3:-1])
    four_digits = is_digit[:-4] & is_digit[1:-3] & is_digit[2:-2] & is_digit[3:-1]
    if four_digits.any() or hundreds.max(initial=0) > 2:
        return None
    below = digits[2:-2] * np.uint8(10) + digits[3:-1]
    values = hundreds * np.uint8(100) + below
    if (values < below).any():  # 256 to 299 wrapped around
        return None
    numbers = values[ends]
    starts = np.cumsum([0, *(len(text) + 1 for text in texts)])[:-1]
    if numbers.size != len(texts) * PIXELS:
        return None
    if len(texts) and (np.add.reduceat(ends, starts, dtype=int) != PIXELS).any():
        return None  # equal totals are not enough: 2303 pixels may stand beside 2305
    return numbers.reshape(-1, PIXELS)


def pixel_fault(text):
    """Why `text` is not 2304 integers in 0..255: a clause, or None when it is. Slow and careful."""
    words = text.split()
    if not words:
        return "pixels: missing"
    for place, word in enumerate(words, start=1):
        if not (word.isascii() and word.isdigit()):
            return f"pixels: number {place} is {quoted(word)}, not an integer in 0-255"
        digits = word.lstrip("0") or "0"  # int() refuses a word of thousands of them
        if len(digits) > 3 or int(digits) > 255:
            return f"pixels: number {place} is {quoted(word)}, above 255"
    if len(words) != PIXELS:
        return f"pixels: {len(words)} numbers instead of {PIXELS}"
    return None


def quoted(text):
    """A field as a short, printable quotation for a report."""
    text = "".join(letter if letter.isprintable() else "?" for letter in text.strip())
    return "'" + (text if len(text) <= 20 else text[:20] + "...") + "'"
