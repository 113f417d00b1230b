"""CSV text -> checked rows: faces as bytes, labels, V/A/D, and why the other rows are dropped.

The text is cut into blocks of whole records, a few threads check and convert blocks, and the results
come back in order, so memory stays flat however long the text is. A block without oddities is converted
column by column; only where that fails is each of its rows looked at alone, to find the reason.
"""

import csv
import math
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from typing import NamedTuple

import numpy as np

from data.fer2013.ferplus import read_votes
from data.fer2013.pixels import PixelParser, face_hashes, one_colour, pixel_fault, quoted
from data.fer2013.sources import open_part
from data.fer2013.table import blocks_of, locate, read_header, records_of
from utils.files import UserError
from utils.tasks import DIMENSIONS, EMOTIONS, SPLITS, VAD_LIMIT

_LABELS = {str(label).encode(): label for label in range(len(EMOTIONS))}
_SPLIT_NUMBERS = {split.encode(): number for number, split in enumerate(SPLITS)}


class Dropped(NamedTuple):
    """A row that is not used. split: its name, empty when unknown; row: 1-based data row of `file`."""

    split: str
    file: str
    row: int
    reason: str


@dataclass(frozen=True)
class Arrays:
    """The values of n good rows.

    splits: int64 (n,), indices into SPLITS; pixels: uint8 (n, 2304); labels: int64 (n,) in 0..6;
    vad: float32 (n, 3) in -2..2, or None; hashes: uint64 (n,), equal for equal faces and seldom for others;
    one_colour: bool (n,), whether all pixels are equal.
    """

    splits: np.ndarray
    pixels: np.ndarray
    labels: np.ndarray
    vad: np.ndarray | None
    hashes: np.ndarray
    one_colour: np.ndarray

    def pick(self, mask):
        """Those rows where `mask`, bool (n,), is true."""
        return Arrays(**{name: None if values is None else values[mask] for name, values in vars(self).items()})


@dataclass(frozen=True)
class Rows(Arrays):
    """Consecutive rows of one CSV, the good ones in order as `Arrays`.

    file: name of the CSV; numbers: int64 (n,), the 1-based data rows of the good ones; dropped: the others.
    """

    file: str
    numbers: np.ndarray
    dropped: list[Dropped]


def read_rows(source, progress=None, workers=None):
    """Yield the `Rows` of a `Source`, in the order of its parts and of their rows.

    progress: called with the number of bytes of text just read. workers: number of threads, by
    default as many as there are processor cores, three at most.
    Raises UserError when a part is damaged or is not a table with the needed columns.
    """
    votes = None if source.votes is None else read_votes(source.votes)
    workers = workers or min(3, os.cpu_count() or 1)
    parser = PixelParser()
    with ThreadPoolExecutor(workers) as pool:
        for part in source.parts:
            with open_part(part) as stream:
                blocks = blocks_of(stream, part.name, progress or (lambda count: None))
                columns, first = read_header(next(blocks, (b"", b""))[1], part)
                jobs = ((columns, block, parser) for block in chain([(b"", first)], blocks))
                yield from _numbered(part, votes, _in_order(pool, _convert, jobs, 2 * workers))


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


@dataclass(frozen=True)
class _Block:
    """A converted block of `count` records.

    arrays: the good ones, n; good: int64 (n,), their 0-based places; faults: (place, split or "", reason) of the
    others.
    """

    count: int
    arrays: Arrays
    good: np.ndarray
    faults: list[tuple[int, str, str]]


def _convert(columns, block, parser):
    """A block of `blocks_of` -> `_Block`. Runs in a thread."""
    head, text = block
    text = b"".join((head, memoryview(text)[: text.rfind(b"\n") + 1]))
    located = locate(columns, text)
    arrays = None if located is None else _arrays(columns, *located, parser)
    if arrays is None:
        return _convert_carefully(columns, records_of(text), parser)
    return _Block(len(arrays.labels), arrays, np.arange(len(arrays.labels)), [])


def _convert_carefully(columns, records, parser):
    faults = [(place, *_fault(columns, record, parser)) for place, record in enumerate(records)]
    good = [place for place, _, reason in faults if not reason]
    pixels = [_plain(records[place][columns.pixels]) for place in good]
    stops = np.cumsum([len(text) + 1 for text in pixels], dtype=np.int64) - 1
    starts = stops - [len(text) for text in pixels]
    text = b" ".join(pixels)
    arrays = _arrays(columns, text, [records[place] for place in good], starts.tolist(), stops.tolist(), parser)
    return _Block(len(records), arrays, np.array(good, np.int64), [fault for fault in faults if fault[2]])


def _arrays(columns, text, records, starts, stops, parser):
    """The `Arrays` of the records, or None when any of them is not as it should be.

    text[starts[i]:stops[i]] are the pixels of records[i].
    """
    fields = list(zip(*records, strict=True)) or [()] * columns.width
    try:
        labels = np.array([*map(_label, fields[columns.emotion])], np.int64)
        if columns.split is None:
            splits = np.array([*map(_split_number, fields[columns.usage])], np.int64)
        else:
            splits = np.full(len(records), columns.split)
        vad = None
        if columns.vad is not None:
            vad = np.array([[*map(float, fields[place])] for place in columns.vad], np.float32).T
            if not (np.abs(vad) <= VAD_LIMIT).all():  # false for NaN, too
                return None
    except ValueError:
        return None
    pixels = parser.parse(text, starts, stops)
    return None if pixels is None else Arrays(splits, pixels, labels, vad, face_hashes(pixels), one_colour(pixels))


def _fault(columns, record, parser):
    """(split or "", why the record is dropped or "")."""
    split = "" if columns.split is None else SPLITS[columns.split]
    if len(record) != columns.width:
        return split, f"columns: {len(record)} fields instead of {columns.width}"
    reasons = []
    if columns.split is None:
        number, fault = _attempt(_split_number, record[columns.usage])
        split = "" if fault else SPLITS[number]
        reasons.append(fault)
    pixels = record[columns.pixels]
    if parser.parse(pixels, [0], [len(pixels)]) is None:
        reasons.append(pixel_fault(pixels))
    reasons.append(_attempt(_label, record[columns.emotion])[1])
    if columns.vad is not None:
        reasons += [_vad_fault(name, record[place]) for name, place in zip(DIMENSIONS, columns.vad, strict=True)]
    return split, "; ".join(filter(None, reasons))


def _attempt(convert, field):
    """(value, None), or (None, the reason why the field cannot be converted)."""
    try:
        return convert(field), None
    except ValueError as error:
        return None, str(error)


def _plain(pixels):
    """A good pixel text in the usual way of writing: one space between the numbers, no leading zeros."""
    return b" ".join(number.lstrip(b"0") or b"0" for number in pixels.split())


def _split_number(field):
    """Index into SPLITS of a Usage field. Raises ValueError with the reason."""
    usage = field.strip()
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
        places, arrays, faults = block.good, block.arrays, block.faults
        if votes is not None:
            places, arrays, more = _with_votes(part.name, start, places, arrays, votes)
            faults = sorted(faults + more)
        dropped = [Dropped(split, part.name, start + place + 1, reason) for place, split, reason in faults]
        yield Rows(**vars(arrays), file=part.name, numbers=start + 1 + places, dropped=dropped)
        start += block.count
    if votes is not None and start != len(votes.vad):
        raise UserError(
            f"{part.name} has {start:,} rows and the FER+ votes have {len(votes.vad):,}: they must belong "
            "together row by row: get both files again"
        )


def _with_votes(name, start, places, arrays, votes):
    """(places, arrays, faults): V/A/D added to the rows start + places, and those without any taken out."""
    rows = start + places
    if rows.size and rows[-1] >= len(votes.vad):
        raise UserError(f"{name} has more rows than the FER+ votes ({len(votes.vad):,}): get both files again")
    differs = rows[votes.splits[rows] != arrays.splits]
    if differs.size:
        raise UserError(
            f"{name}, row {differs[0] + 1}: the FER+ votes have {SPLITS[votes.splits[differs[0]]]} there: the two "
            "files must belong together row by row: get both again"
        )
    usable = np.array([row not in votes.faults for row in rows.tolist()], bool)
    faults = [(row - start, SPLITS[votes.splits[row]], votes.faults[row]) for row in rows[~usable].tolist()]
    return places[usable], replace(arrays, vad=votes.vad[rows]).pick(usable), faults


def _explained(name, blocks):
    try:
        yield from blocks
    except csv.Error as error:
        raise UserError(f"{name} is not a table of faces ({error}): get it again") from error
