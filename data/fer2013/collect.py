"""Rows gathered by split, images that occur in several splits, and the report on odd rows."""

import csv
import hashlib
import tempfile
from collections import Counter, defaultdict
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import numpy as np

from data.fer2013.store import StoredSplit
from data.fer2013.tables import BLOCK_ROWS, PIXELS
from utils.files import atomic_write
from utils.tasks import EMOTIONS, SPLITS

ONE_COLOUR = "one colour: all pixels are equal"
PUBLIC_SHARE = 0.1
_IN_MEMORY = 128 << 20  # bytes of a split's pixels that stay in memory; beyond, they wait on disk
_OF_EACH_FACE = ("labels", "vad", "digests", "places")  # lists of a builder; that of V/A/D may be empty


class ReportEntry(NamedTuple):
    """A line of data_report.csv. row: 1-based data row of `file`, or a picture; action: dropped, or reported (kept)."""

    split: str
    file: str
    row: int | str
    reason: str
    action: str


class SplitBuilder:
    """Gathers the rows of one split: pixels in a spool file, the rest (some 100 bytes a face) in memory."""

    def __init__(self, folder):
        self.pixels = tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=folder, prefix=".pixels-")
        self.labels, self.vad, self.digests, self.places = [], [], [], []  # places: (file, row)

    @property
    def count(self):
        """How many faces there are."""
        return len(self.labels)

    def add(self, file, block, rows):
        """Take those `rows` (places) of a `Block`. Returns the digests of their pictures."""
        pixels = block.pixels[rows]
        self.pixels.write(pixels.tobytes())
        digests = [hashlib.blake2b(face, digest_size=16).digest() for face in pixels]
        self.digests += digests
        self.labels += block.labels[rows].tolist()
        self.places += [(file, block.numbers[row]) for row in rows]
        if block.vad is not None:
            self.vad += block.vad[rows].tolist()

    def move(self, rows, other):
        """Move the faces `rows` (sorted places) to another builder."""
        chosen, faces = set(rows), self._faces()
        other.pixels.write(faces[rows].tobytes())
        for name in _OF_EACH_FACE:
            values = getattr(self, name)
            getattr(other, name).extend(values[row] for row in rows if values)
        self._keep(faces, [row for row in range(self.count) if row not in chosen])

    def sort(self, key):
        """Bring the faces into the order of `key`, a function of their row in the file."""
        order = sorted(range(self.count), key=lambda place: key(self.places[place][1]))
        if order != list(range(self.count)):
            self._keep(self._faces(), order)

    def _faces(self):
        self.pixels.seek(0)
        return np.frombuffer(self.pixels.read(), np.uint8).reshape(-1, PIXELS)

    def _keep(self, faces, rows):
        """Have only the faces `rows` (places), in that order; faces: the pixels of all."""
        self.pixels.seek(0)
        self.pixels.truncate()
        for start in range(0, len(rows), BLOCK_ROWS):
            self.pixels.write(faces[rows[start : start + BLOCK_ROWS]].tobytes())
        for name in _OF_EACH_FACE:
            values = getattr(self, name)
            setattr(self, name, [values[row] for row in rows] if values else [])

    def stored(self, repeated):
        """The split as `store.write` takes it. repeated: bool (count,)."""
        vad = np.array(self.vad, np.float32) if self.vad else None
        return StoredSplit(self.pixels, np.array(self.labels, np.int64), vad, repeated)


@contextmanager
def collected(blocks, folder):
    """Gather the pairs (name of a file, `Block`); yields ({split: `SplitBuilder`}, [`ReportEntry`]).

    folder: for the spool files, which are gone afterwards. The report lists dropped rows and faces of one colour.
    """
    with ExitStack() as stack:
        builders = {split: SplitBuilder(folder) for split in SPLITS}
        for builder in builders.values():
            stack.enter_context(builder.pixels)
        report = []
        for file, block in blocks:
            report += [ReportEntry(split, file, row, reason, "dropped") for split, row, reason in block.dropped]
            for place in np.flatnonzero((block.pixels == block.pixels[:, :1]).all(axis=1)).tolist():
                split = SPLITS[block.splits[place]]
                report.append(ReportEntry(split, file, block.numbers[place], ONE_COLOUR, "reported"))
            for number in set(block.splits.tolist()):
                builders[SPLITS[number]].add(file, block, np.flatnonzero(block.splits == number).tolist())
        yield builders, report


def split_off_public(builders):
    """Where there is no public split: a tenth of the training faces becomes it, of every class, by a fixed seed.

    Of pictures that are there more than once none is taken, so that no face is in both. Returns whether that was done.
    """
    training, public = builders["Training"], builders["PublicTest"]
    if public.count or not builders["PrivateTest"].count or training.count < 2:
        return False
    labels, generator = np.array(training.labels), np.random.RandomState(0)  # whose numbers NumPy never changes
    times = Counter(training.digests)
    alone = np.array([times[digest] == 1 for digest in training.digests])
    rows = []
    for label in range(len(EMOTIONS)):
        mine = labels == label
        rows += generator.permutation(np.flatnonzero(mine & alone))[: round(PUBLIC_SHARE * mine.sum())].tolist()
    training.move(sorted(rows) or [0], public)
    return True


def missing_classes(builders):
    """Sentences on the classes of which a split has no face, though it has others."""
    sentences = []
    for split, builder in builders.items():
        labels = set(builder.labels)
        missing = [name for label, name in enumerate(EMOTIONS) if label not in labels]
        if labels and missing:
            sentences.append(f"no {split} faces of {', '.join(missing)}")
    return sentences


def find_repeated(builders):
    """Images that occur in more than one split.

    Returns ({split: bool (count,), true for such an image}, [`ReportEntry`]).
    """
    images = defaultdict(list)  # digest of an image: where it is
    for split, builder in builders.items():
        for place, digest in enumerate(builder.digests):
            images[digest].append((split, place))
    flags = {split: np.zeros(builder.count, bool) for split, builder in builders.items()}
    report = []
    for members in images.values():
        if len({split for split, _ in members}) == 1:
            continue
        first = {split: f"{split} row {builders[split].places[place][1]}" for split, place in reversed(members)}
        for split, place in members:
            flags[split][place] = True
            others = ", ".join(first[other] for other in SPLITS if other in first and other != split)
            file, row = builders[split].places[place]
            report.append(ReportEntry(split, file, row, f"repeated: same image as {others}", "reported"))
    return flags, report


def write_report(path, report):
    """Write the entries as a CSV (UTF-8 with a mark by which Excel knows it), by split and row."""
    with atomic_write(path) as temporary:
        with open(temporary, "w", encoding="utf-8-sig", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(ReportEntry._fields)
            writer.writerows(sorted(report, key=_reading_order))


def _reading_order(entry):
    place = SPLITS.index(entry.split) if entry.split in SPLITS else len(SPLITS)
    return place, entry.file, (0, entry.row, "") if isinstance(entry.row, int) else (1, 0, entry.row), entry.reason
