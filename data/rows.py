"""CSV text -> checked rows: faces as bytes, labels, V/A/D, and why the other rows are dropped.

The text is cut into blocks of whole records, a few threads check and convert blocks, and the results
come back in order, so memory stays flat however long the text is. A block without oddities is converted
column by column; only where that fails is each of its rows looked at alone, to find the reason.
"""

import csv
import hashlib
import io
import math
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from data.archive import open_part
from data.ferplus import read_votes
from data.pixels import PIXELS, PixelParser, pixel_fault, quoted
from utils.files import UserError
from utils.tasks import DIMENSIONS, EMOTIONS, SPLITS, VAD_LIMIT

BLOCK_BYTES = 1 << 20  # about 120 faces
RECORD_LIMIT = 4 << 20  # a row of 2304 pixels takes at most some 9 kB
_LABELS = {str(label).encode(): label for label in range(len(EMOTIONS))}
_SPLIT_NUMBERS = {split.encode(): number for number, split in enumerate(SPLITS)}


@dataclass(frozen=True)
class Dropped:
    """A row that is not used. split: its name, empty when unknown; row: 1-based data row of `file`."""

    split: str
    file: str
    row: int
    reason: str


@dataclass(frozen=True)
class Rows:
    """Consecutive rows of one CSV, n of which are good.

    splits: int64 (n,), indices into SPLITS; numbers: int64 (n,), 1-based data rows of `file`;
    pixels: uint8 (n, 2304); labels: int64 (n,) in 0..6; vad: float32 (n, 3) in -2..2, or None;
    digests: uint64 (n,), the first eight bytes of the SHA-256 of each face;
    dropped: the rows that are not good.
    """

    file: str
    splits: np.ndarray
    numbers: np.ndarray
    pixels: np.ndarray
    labels: np.ndarray
    vad: np.ndarray | None
    digests: np.ndarray
    dropped: list[Dropped]


def read_rows(source, progress=None, workers=None):
    """Yield the `Rows` of a `Source`, in the order of its parts and of their rows.

    progress: called with the number of bytes of text just read. workers: number of threads, by
    default as many as there are processor cores, four at most.
    Raises UserError when a part is damaged or is not a table with the needed columns.
    """
    votes = None if source.votes is None else read_votes(source.votes)
    workers = workers or min(4, os.cpu_count() or 1)
    parser = PixelParser()
    with ThreadPoolExecutor(workers) as pool:
        for part in source.parts:
            with open_part(part) as stream:
                texts = _whole_records(stream, part.name, progress or (lambda count: None))
                columns, first = _header(next(texts, b""), part)
                jobs = ((columns, text, parser) for text in _chain(first, texts))
                yield from _numbered(part, votes, _in_order(pool, _convert, jobs, 2 * workers))


def _chain(first, rest):
    yield first
    yield from rest


def _in_order(pool, function, jobs, window):
    """Results of function(*job) in the order of `jobs`, at most `window` of them under way."""
    pending = deque()
    try:
        for job in jobs:
            pending.append(pool.submit(function, *job))
            if len(pending) == window:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


def _whole_records(stream, name, progress):
    """Cut a text into blocks that end where a record ends (a line, unless a quoted field runs on)."""
    rest = b""
    while block := stream.read(BLOCK_BYTES):
        progress(len(block))
        text = rest + block
        cut = text.rfind(b"\n") + 1
        if cut and text.count(b'"', 0, cut) % 2 == 0:
            yield text[:cut]
            rest = text[cut:]
        elif len(text) > RECORD_LIMIT:
            raise UserError(f"{name} is not a table of faces: it has a line or a quoted field of over 4 MB")
        else:
            rest = text
    if rest:
        yield rest


@dataclass(frozen=True)
class _Columns:
    """Where the fields of a record are. split: of all rows, or None when the column `usage` tells."""

    width: int
    pixels: int
    emotion: int
    vad: tuple[int, ...] | None
    usage: int | None
    split: str | None


def _header(text, part):
    """The `_Columns` that the first record of a part tells, and the text after that record."""
    line, _, rest = text.removeprefix(b"\xef\xbb\xbf").lstrip().partition(b"\n")
    try:
        names = next(csv.reader([line.decode("utf-8")]), [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{part.name} is not a CSV in UTF-8 ({error}): save it as such, or get it again") from error
    names = [name.strip().lower() for name in names]
    annotated = part.role in SPLITS
    needed = ["pixels", "emotion", *(map(str.lower, DIMENSIONS) if annotated else ["usage"])]
    faulty = [name for name in needed if names.count(name) != 1]
    if faulty:
        problem = "no column" if faulty[0] not in names else "more than one column"
        found = ", ".join(quoted(name.encode()) for name in names[:12]) or "an empty text"
        raise UserError(
            f"{part.name} has {problem} {', '.join(faulty)} in line 1 (found: {found}): "
            f"it needs {', '.join(needed)}, separated by commas"
        )
    place = {name: names.index(name) for name in needed}
    vad = tuple(place[name.lower()] for name in DIMENSIONS) if annotated else None
    split = part.role if annotated else None
    return _Columns(len(names), place["pixels"], place["emotion"], vad, place.get("usage"), split), rest


@dataclass(frozen=True)
class _Block:
    """A converted block of `count` records; `good` (n,) are the 0-based places of the good ones.

    faults: (place, split or "", reason) of the others; the rest is as in `Rows`.
    """

    count: int
    good: np.ndarray
    splits: np.ndarray
    pixels: np.ndarray
    labels: np.ndarray
    vad: np.ndarray | None
    digests: np.ndarray
    faults: list[tuple[int, str, str]]


def _convert(columns, text, parser):
    """Text of whole records -> `_Block`. Runs in a thread."""
    records = _fields(text)
    good, faults = range(len(records)), []
    arrays = _convert_columns(columns, records, parser)
    if arrays is None:
        faults = [(place, *_fault(columns, record, parser)) for place, record in enumerate(records)]
        good = [place for place, _, reason in faults if not reason]
        faults = [fault for fault in faults if fault[2]]
        arrays = _convert_columns(columns, [_plain(columns, records[place]) for place in good], parser)
    splits, pixels, labels, vad = arrays
    digests = b"".join(hashlib.sha256(face).digest()[:8] for face in pixels)
    good = np.array(good, np.int64)
    return _Block(len(records), good, splits, pixels, labels, vad, np.frombuffer(digests, np.uint64), faults)


def _fields(text):
    """The fields (bytes) of each record; blank lines are no records."""
    if b'"' in text:
        reader = csv.reader(io.StringIO(text.decode("utf-8", errors="replace"), newline=""))
        return [[field.encode() for field in record] for record in reader if record]
    return [line.split(b",") for line in text.split(b"\n") if line and not line.isspace()]


def _convert_columns(columns, records, parser):
    """(splits, pixels, labels, vad) of the records, or None when any of them is not as it should be."""
    if any(len(record) != columns.width for record in records):
        return None
    try:
        splits = [_split_number(columns, record) for record in records]
        labels = [_label(record[columns.emotion]) for record in records]
        vad = None
        if columns.vad is not None:
            first, second, third = columns.vad
            vad = [(float(record[first]), float(record[second]), float(record[third])) for record in records]
            vad = np.array(vad, np.float32).reshape(-1, 3)
            if not (np.abs(vad) <= VAD_LIMIT).all():  # false for NaN, too
                return None
    except ValueError:
        return None
    pixels = parser.parse([record[columns.pixels] for record in records])
    if pixels is None:
        return None
    return np.array(splits, np.int64), pixels, np.array(labels, np.int64), vad


def _fault(columns, record, parser):
    """(split or "", why the record is dropped or "")."""
    if len(record) != columns.width:
        return columns.split or "", f"columns: {len(record)} fields instead of {columns.width}"
    split, reasons = "", []
    try:
        split = SPLITS[_split_number(columns, record)]
    except ValueError as error:
        reasons.append(str(error))
    if parser.parse([record[columns.pixels]]) is None:
        reasons.append(pixel_fault(record[columns.pixels]))
    try:
        _label(record[columns.emotion])
    except ValueError as error:
        reasons.append(str(error))
    for name, place in zip(DIMENSIONS, columns.vad or (), strict=False):
        reasons.append(_vad_fault(name, record[place]))
    return split, "; ".join(filter(None, reasons))


def _plain(columns, record):
    """The record with its pixels written in the usual way: one space between them, no leading zeros."""
    record = list(record)
    record[columns.pixels] = b" ".join(b"%d" % int(word) for word in record[columns.pixels].split())
    return record


def _split_number(columns, record):
    if columns.split is not None:
        return SPLITS.index(columns.split)
    usage = record[columns.usage].strip()
    if usage not in _SPLIT_NUMBERS:
        raise ValueError(f"usage: {quoted(usage)} is none of {', '.join(SPLITS)}" if usage else "usage: missing")
    return _SPLIT_NUMBERS[usage]


def _label(field):
    """Emotion 0..6 from its field; "3.0" is 3, as pandas writes it. Raises ValueError with the reason."""
    label = _LABELS.get(field)
    if label is not None:
        return label
    field = field.strip()
    label = _LABELS.get(field.removesuffix(b".0"))
    if label is None:
        raise ValueError(f"emotion: {quoted(field)} is not an integer in 0-6" if field else "emotion: missing")
    return label


def _vad_fault(name, field):
    """Why a V/A/D field is not a number in -2..2, or None when it is."""
    if not field.strip():
        return f"{name}: missing"
    try:
        value = float(field)
    except ValueError:
        return f"{name}: {quoted(field)} is not a number"
    if not math.isfinite(value):
        return f"{name}: {quoted(field)} is not a finite number"
    if abs(np.float32(value)) > VAD_LIMIT:
        return f"{name}: {quoted(field)} is outside -2..2"
    return None


def _numbered(part, votes, blocks):
    """Blocks in order -> `Rows`, with row numbers and, where there are votes, the V/A/D from them."""
    start = 0
    for block in _explained(part.name, blocks):
        faults, keep = list(block.faults), slice(None)
        vad = block.vad
        if votes is not None:
            rows = start + block.good
            _check_alignment(part.name, rows, block.splits, votes)
            keep = np.array([row not in votes.faults for row in rows.tolist()], bool)
            faults += [
                (place, SPLITS[split], votes.faults[start + place])
                for place, split in zip(block.good[~keep].tolist(), block.splits[~keep].tolist(), strict=True)
            ]
            vad = votes.vad[rows][keep]
        dropped = [Dropped(split, part.name, start + place + 1, reason) for place, split, reason in sorted(faults)]
        numbers = start + 1 + block.good[keep]
        pixels, labels, digests = block.pixels[keep], block.labels[keep], block.digests[keep]
        yield Rows(part.name, block.splits[keep], numbers, pixels, labels, vad, digests, dropped)
        start += block.count
    if votes is not None and start != len(votes.vad):
        raise UserError(
            f"{part.name} has {start:,} rows and the FER+ votes have {len(votes.vad):,}: they must belong "
            "together row by row: get both files again"
        )


def _explained(name, blocks):
    try:
        yield from blocks
    except csv.Error as error:
        raise UserError(f"{name} is not a table of faces ({error}): get it again") from error


def _check_alignment(name, rows, splits, votes):
    if rows.size and rows[-1] >= len(votes.vad):
        raise UserError(f"{name} has more rows than the FER+ votes ({len(votes.vad):,}): get both files again")
    differs = np.flatnonzero(votes.splits[rows] != splits)
    if differs.size:
        row = rows[differs[0]]
        raise UserError(
            f"{name}, row {row + 1}: {SPLITS[splits[differs[0]]]} here and {SPLITS[votes.splits[row]]} in the FER+ "
            "votes: the two files must belong together row by row: get both again"
        )
