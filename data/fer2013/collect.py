"""Rows gathered by split, images that occur in several splits, and the report on odd rows."""

import csv
import hashlib
import tempfile
from collections import defaultdict
from contextlib import ExitStack, closing, contextmanager
from typing import NamedTuple

import numpy as np

from data.fer2013.pixels import PIXELS
from data.fer2013.rows import read_rows
from data.fer2013.store import StoredSplit
from utils.files import UserError, replacing
from utils.tasks import SPLITS

ONE_COLOUR = "one colour: all pixels are equal"
REPEATED = "repeated"
_IN_MEMORY = 128 << 20  # bytes of a split's pixels that stay in memory; beyond, they wait on disk


class ReportEntry(NamedTuple):
    """A line of data_report.csv. row: 1-based data row of `file`; action: dropped, or reported (kept)."""

    split: str
    file: str
    row: int
    reason: str
    action: str


class SplitBuilder:
    """Gathers the rows of one split: pixels in a spool file, the rest (some 50 bytes a face) in memory.

    Also a context manager, at whose end the spool file is gone.
    """

    def __init__(self, folder):
        self.count, self.file = 0, ""
        self._pixels = tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=folder, prefix=".pixels-")
        self._labels, self._vad, self._hashes, self._numbers = [], [], [], []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._pixels.close()

    def add(self, rows, mine):
        """Take those of `rows` (a `Rows`) that `mine` (bool mask or slice) picks."""
        pixels = rows.pixels[mine]
        self._pixels.write(pixels.data)
        self.count, self.file = self.count + len(pixels), rows.file
        self._labels.append(rows.labels[mine])
        self._hashes.append(rows.hashes[mine])
        self._numbers.append(rows.numbers[mine])
        if rows.vad is not None:
            self._vad.append(rows.vad[mine])

    def face(self, place):
        """The pixels of one face, 2304 bytes."""
        self._pixels.seek(place * PIXELS)
        return self._pixels.read(PIXELS)

    @property
    def hashes(self):
        """uint64 (count,): equal for equal images, and seldom for others."""
        return np.concatenate(self._hashes)

    @property
    def numbers(self):
        """int64 (count,): the 1-based data rows of `file`."""
        return np.concatenate(self._numbers)

    def stored(self, repeated):
        """The split as `store.write` takes it. repeated: bool (count,)."""
        vad = np.concatenate(self._vad) if self._vad else None
        return StoredSplit(self._pixels, np.concatenate(self._labels), vad, repeated)


@contextmanager
def collected(source, folder, progress):
    """Read a `Source`; yields ({split: `SplitBuilder`} of the splits that there are, [`ReportEntry`]).

    folder: for the spool files, which are gone afterwards; progress: called with the bytes just read.
    The report lists dropped rows and faces of one colour. Raises UserError for a part without a good row.
    """
    with ExitStack() as stack:
        builders = {split: stack.enter_context(SplitBuilder(folder)) for split in SPLITS}
        report = []
        with closing(read_rows(source, progress)) as batches:
            for rows in batches:
                report += [ReportEntry(*dropped, "dropped") for dropped in rows.dropped]
                for place in np.flatnonzero(rows.one_colour).tolist():
                    split, row = SPLITS[rows.splits[place]], int(rows.numbers[place])
                    report.append(ReportEntry(split, rows.file, row, ONE_COLOUR, "reported"))
                numbers = set(rows.splits.tolist())
                for number in numbers:
                    builders[SPLITS[number]].add(rows, rows.splits == number if len(numbers) > 1 else slice(None))
        for part in source.parts:
            if not any(builder.count and builder.file == part.name for builder in builders.values()):
                _explain_empty(part.name, report)
        yield {split: builder for split, builder in builders.items() if builder.count}, report


def _explain_empty(name, report):
    dropped = [entry for entry in report if entry.file == name and entry.action == "dropped"]
    if not dropped:
        raise UserError(f"{name} has a header but no rows: get the file again")
    raise UserError(
        f"{name}: none of its {len(dropped):,} rows can be used (row {dropped[0].row}: {dropped[0].reason}): "
        "get the file again"
    )


def find_repeated(builders):
    """Images that occur in more than one split.

    Returns ({split: bool (count,), true for such an image}, [`ReportEntry`]).
    """
    images = defaultdict(list)  # digest of an image: where it is
    for split, place in _suspects(builders):
        images[hashlib.sha256(builders[split].face(place)).digest()].append((split, place))
    flags = {split: np.zeros(builder.count, bool) for split, builder in builders.items()}
    numbers = {split: builder.numbers.tolist() for split, builder in builders.items()}
    report = []
    for members in images.values():
        first = {split: f"{split} row {numbers[split][place]}" for split, place in reversed(members)}
        if len(first) == 1:
            continue
        for split, place in members:
            flags[split][place] = True
            others = ", ".join(first[other] for other in SPLITS if other in first and other != split)
            reason = f"{REPEATED}: same image as {others}"
            report.append(ReportEntry(split, builders[split].file, numbers[split][place], reason, "reported"))
    return flags, report


def _suspects(builders):
    """(split, place) of the faces whose hash is not the only one of its kind."""
    hashes = np.concatenate([builder.hashes for builder in builders.values()])
    values, counts = np.unique(hashes, return_counts=True)
    several = values[counts > 1]
    for split, builder in builders.items():
        for place in np.flatnonzero(np.isin(builder.hashes, several)).tolist():
            yield split, place


def write_report(path, report):
    """Write the entries as a CSV (UTF-8 with a mark by which Excel knows it), by split and row."""
    with replacing(path) as temporary:
        with open(temporary, "w", encoding="utf-8-sig", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(ReportEntry._fields)
            writer.writerows(sorted(report, key=_reading_order))


def _reading_order(entry):
    place = SPLITS.index(entry.split) if entry.split in SPLITS else len(SPLITS)
    return place, entry.file, entry.row, entry.reason
