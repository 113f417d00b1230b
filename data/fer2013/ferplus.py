"""V/A/D for plain FER2013, derived from the FER+ votes.

FER+ (Barsoum et al., "Training deep networks for facial expression recognition with crowd-sourced
label distribution", ICMI 2016) has ten people's votes for each face of fer2013.csv, row by row. The
V/A/D of a face is the mean of its emotions' coordinates, weighted by their shares of the votes. The
coordinates are the published ones of `utils.tasks.PUBLISHED_VAD`, doubled to the annotators' -2..2. Votes
for contempt are left out of the mean, because no value for that term could be confirmed, and so are
"unknown" and "not a face" (NF).
"""

import csv
import io
from dataclasses import dataclass

import numpy as np

from data.fer2013.sources import open_part
from utils.files import UserError
from utils.tasks import PUBLISHED_VAD, SPLITS, VAD_LIMIT

COLUMNS = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")  # in the order of EMOTIONS
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
    """Read fer2013new.csv, a `Part`, into `Votes`. Raises UserError when it is not such a table."""
    with open_part(part) as stream:
        text = b"".join(iter(lambda: stream.read(1 << 20), b"")) if part.size <= _LONGEST else None
    if text is None:
        raise UserError(f"{part.name} is far too long for FER+ votes: download fer2013new.csv again")
    try:
        rows = csv.DictReader(io.StringIO(text.decode("utf-8-sig"), newline=""))
        return _tabulate(rows, part.name)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{part.name} is not a CSV text ({error}): download fer2013new.csv again") from error


def _tabulate(rows, name):
    missing = [column for column in ("Usage", "Image name", *COLUMNS) if column not in (rows.fieldnames or ())]
    if missing:
        raise UserError(f"{name} has no column {', '.join(missing)}: download fer2013new.csv again")
    votes, splits, faults = [], [], {}
    for number, row in enumerate(rows):
        try:
            splits.append(SPLITS.index((row["Usage"] or "").strip()))
            votes.append([_count(row[column]) for column in COLUMNS])
        except ValueError as error:
            raise UserError(f"{name}, row {number + 1}: {error}: download fer2013new.csv again") from error
        if not (row["Image name"] or "").strip():
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
