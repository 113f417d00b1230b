"""FER+ votes: ten people's opinions of each face of fer2013.csv, and V/A/D derived from them.

Barsoum et al., "Training deep networks for facial expression recognition with crowd-sourced label
distribution", ICMI 2016. The V/A/D of a face is the mean of `utils.tasks.PUBLISHED_VAD`, doubled to
-2..2, weighted by its votes. Votes for contempt, "unknown" and "not a face" do not count.
"""

from itertools import zip_longest

import numpy as np

from data.fer2013.tables import VOTES, read_records, read_votes, split_named
from utils.files import UserError
from utils.tasks import PUBLISHED_VAD, VAD_LIMIT


def votes_to_vad(votes):
    """V/A/D, float32 (N, 3) in -2..2, from votes (N, 7), at least one for each face."""
    mean = votes @ np.array(PUBLISHED_VAD) / votes.sum(axis=1, keepdims=True)
    return (VAD_LIMIT * mean).astype(np.float32)


def add_votes(rows, table):
    """Yield the `Row`s of fer2013.csv with the votes of fer2013new.csv: row i is the same face.

    A face that FER+ does not name has no votes. Raises UserError when the files do not match, or
    the votes are no integers in 0..255.
    """
    name, number = table.file.name, 0
    for number, (row, record) in enumerate(zip_longest(rows, read_records(table)), 1):
        usage = record and split_named(table.field(record, "usage"))
        if row is None or record is None or row.split != (usage or row.split):
            raise UserError(
                f"fer2013.csv and the FER+ votes in {name} do not match at row {number}: they must "
                "do so row by row: download both files again"
            )
        try:
            votes = read_votes(table, record)
        except ValueError as error:
            reason = f"{name} does not hold FER+ votes (row {number}, {error})"
            raise UserError(f"{reason}: download it again") from error
        row.values["votes"] = votes if table.field(record, "image name") else [0] * len(VOTES)
        yield row


def require_votes(rows):
    """Yield `Row`s; one without votes for an emotion, from which V/A/D derive, cannot be used."""
    for row in rows:
        if not row.fault and not any(row.values["votes"]):
            row.fault = "votes: none for an emotion"
        yield row
