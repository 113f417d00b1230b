"""V/A/D for plain FER2013, derived from the FER+ votes.

FER+ (Barsoum et al., "Training deep networks for facial expression recognition with crowd-sourced
label distribution", ICMI 2016) has ten people's votes for each face of fer2013.csv, row by row. The
V/A/D of a face is the mean of its emotions' coordinates, weighted by their shares of the votes. The
coordinates are the published ones of `utils.tasks.PUBLISHED_VAD`, doubled to the annotators' -2..2. Votes
for contempt are left out of the mean, because no value for that term could be confirmed, and so are
"unknown" and "not a face" (NF).
"""

import csv
from dataclasses import dataclass

import numpy as np

from data.fer2013.tables import VOTES
from utils.files import UserError
from utils.tasks import PUBLISHED_VAD, SPLITS, VAD_LIMIT

_LONGEST = 64 << 20  # the published file has 2 MB


@dataclass(frozen=True)
class Votes:
    """What the FER+ votes say of N faces.

    vad: float32 (N, 3), -2..2, zero where unusable; splits: int64 (N,), indices into SPLITS;
    faults: {0-based row: why it has no V/A/D}.
    """

    vad: np.ndarray
    splits: np.ndarray
    faults: dict[int, str]


def votes_to_vad(votes):
    """Derive V/A/D from votes, (N, 7) numbers in the order of EMOTIONS, >= 0.

    Returns float32 (N, 3) in -2..2; a row without votes gives zeros.
    """
    votes = np.asarray(votes, np.float64)
    coordinates = VAD_LIMIT * np.array(PUBLISHED_VAD)
    total = votes.sum(axis=1, keepdims=True)
    return (votes @ coordinates / np.where(total > 0, total, 1)).astype(np.float32)


def read_votes(part):
    """Read FER+ votes, a `sources.Part`, into `Votes`. Raises UserError when it is not such a table."""
    with part.entry.open() as stream:
        text = stream.read(_LONGEST + 1)
    if len(text) > _LONGEST:
        raise UserError(f"{part.name} is far too long for FER+ votes: download fer2013new.csv again")
    try:
        lines = text.decode(part.layout.encoding).splitlines()
        records = list(csv.reader(lines, delimiter=part.layout.separator))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{part.name} is not a CSV text ({error}): download fer2013new.csv again") from error
    return _tabulate([record for record in records[1:] if any(record)], part.layout.columns, part.name)


def _tabulate(records, columns, name):
    votes, splits, faults = [], [], {}
    for number, record in enumerate(records):
        try:
            fields = {column: record[place].strip() for column, place in columns.items()}
            splits.append(SPLITS.index(fields["usage"]))
            votes.append([_count(fields[column]) for column in VOTES])
        except (ValueError, IndexError) as error:
            raise UserError(f"{name}, row {number + 1}: {error}: download fer2013new.csv again") from error
        if not fields["image name"]:
            faults[number] = "votes: FER+ says that it is not a face"
        elif not sum(votes[-1]):
            faults[number] = "votes: none for an emotion with known V/A/D"
    if not votes:
        raise UserError(f"{name} has no rows: download fer2013new.csv again")
    return Votes(votes_to_vad(votes), np.array(splits, np.int64), faults)


def _count(field):
    count = int(field or "")
    if count < 0:
        raise ValueError(f"{count} votes")
    return count


def with_votes(name, votes, blocks):
    """The `Block`s of a table with the V/A/D of its votes, row by row; those without any are dropped.

    Raises UserError when the two do not belong together.
    """
    last = 0
    for block in blocks:
        rows = np.array(block.numbers, np.int64) - 1
        last = max([last, *block.numbers, *(row for _, row, _ in block.dropped)])
        if last > len(votes.vad):
            raise UserError(f"{name} has more rows than the FER+ votes ({len(votes.vad):,}): get both files again")
        differs = rows[votes.splits[rows] != block.splits]
        if differs.size:
            raise UserError(
                f"{name}, row {differs[0] + 1}: the FER+ votes have {SPLITS[votes.splits[differs[0]]]} there: the two "
                "files must belong together row by row: get both again"
            )
        good = np.array([row not in votes.faults for row in rows.tolist()], bool)
        dropped = [(SPLITS[votes.splits[row]], row + 1, votes.faults[row]) for row in rows[~good].tolist()]
        yield block._replace(
            numbers=(rows[good] + 1).tolist(),
            splits=block.splits[good],
            labels=block.labels[good],
            vad=votes.vad[rows[good]],
            pixels=block.pixels[good],
            dropped=sorted(block.dropped + dropped, key=lambda entry: entry[1]),
        )
    if last != len(votes.vad):
        raise UserError(
            f"{name} has {last:,} rows and the FER+ votes have {len(votes.vad):,}: they must belong "
            "together row by row: get both files again"
        )
