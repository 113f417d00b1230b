"""FER+ votes: ten people's opinions of each face of fer2013.csv, and V/A/D derived from them.

Barsoum et al., "Training deep networks for facial expression recognition with crowd-sourced label
distribution", ICMI 2016. The V/A/D of a face is the mean of `utils.tasks.PUBLISHED_VAD`, doubled to
-2..2, weighted by its votes. Votes for contempt, "unknown" and "not a face" do not count.
"""

from itertools import zip_longest

import numpy as np

from data.archives import file_errors
from data.fer2013.tables import VOTES, split_named
from utils.files import UserError, one_line
from utils.tasks import PUBLISHED_VAD, VAD_LIMIT


def votes_to_vad(votes):
    """V/A/D, float32 (N, 3) in -2..2, from votes (N, 7); zeros for a row without votes."""
    votes = np.asarray(votes, np.float64)
    total = votes.sum(axis=1, keepdims=True)
    mean = votes @ np.array(PUBLISHED_VAD) / np.where(total > 0, total, 1)
    return (VAD_LIMIT * mean).astype(np.float32)


def read_votes(file, header):
    """(splits (N,), names; votes uint8 (N, 7)) of fer2013new.csv.

    A row that FER+ calls not a face has no votes. Raises UserError for a damaged file or row.
    """
    import pandas  # takes half a second, which most starts can save

    options = {"sep": header.separator, "encoding": header.encoding, "keep_default_na": False}
    with file_errors(file.name), file.open() as stream:
        try:
            table = pandas.read_csv(stream, dtype=str, **options)
            column = {name: table.iloc[:, index] for name, index in header.columns.items()}
            votes = np.stack([pandas.to_numeric(column[name]) for name in VOTES], axis=1)
            if not ((votes >= 0) & (votes <= 255)).all():
                raise ValueError("a number of votes is not in 0..255")
        except ValueError as error:
            reason = f"{file.name} does not hold FER+ votes ({one_line(error)})"
            raise UserError(f"{reason}: download fer2013new.csv again") from error
    votes[column["image name"].str.strip() == ""] = 0
    return column["usage"].map(split_named).tolist(), votes.astype(np.uint8)


def add_votes(name, rows, splits, votes):
    """Yield the `Row`s of the table `name` with its votes: row i of both is the same face.

    splits, votes: see `read_votes`. Raises UserError when the files do not match.
    """
    for row, split, counts in zip_longest(rows, splits, votes):
        if row is None or row.split != (split or row.split) or counts is None:
            place = "fewer rows than" if row is None else f"another row {row.number} than"
            raise UserError(
                f"{name} has {place} the FER+ votes: they must match row by row: download "
                "both files again"
            )
        row.values["votes"] = counts
        yield row


def derive_vad(row):
    """Give a `Row` V/A/D from its votes; without votes for an emotion it cannot be used."""
    votes = np.asarray(row.values["votes"])
    row.values["VAD"] = votes_to_vad(votes[None])[0]
    row.fault = "" if votes.any() else "votes: none for an emotion"
    return row
