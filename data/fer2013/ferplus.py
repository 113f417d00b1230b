"""FER+ votes: ten people's opinions of each face of fer2013.csv, and V/A/D derived from them.

Barsoum et al., "Training deep networks for facial expression recognition with crowd-sourced label
distribution", ICMI 2016. The V/A/D of a face is the mean of `utils.tasks.PUBLISHED_VAD`, doubled to
-2..2, weighted by its votes. Votes for contempt, "unknown" and "not a face" do not count.
"""

from dataclasses import replace

import numpy as np

from data.archives import file_errors
from data.fer2013.tables import VOTES, Rows, split_indices, split_named
from utils.files import UserError, one_line
from utils.tasks import PUBLISHED_VAD, SPLITS, VAD_LIMIT


def votes_to_vad(votes):
    """V/A/D, float32 (N, 3) in -2..2, from votes (N, 7); zeros for a row without votes."""
    votes = np.asarray(votes, np.float64)
    total = votes.sum(axis=1, keepdims=True)
    mean = votes @ np.array(PUBLISHED_VAD) / np.where(total > 0, total, 1)
    return (VAD_LIMIT * mean).astype(np.float32)


def read_votes(file, header):
    """(splits int64 (N,), indices into SPLITS; votes uint8 (N, 7)) of fer2013new.csv.

    A row that FER+ calls not a face has no votes. Raises UserError for a damaged file or row.
    """
    import pandas  # takes half a second, which most starts can save

    options = {"sep": header.separator, "encoding": header.encoding, "keep_default_na": False}
    with file_errors(file.name), file.open() as stream:
        try:
            table = pandas.read_csv(stream, dtype=str, **options)
            column = {name: table.iloc[:, index] for name, index in header.columns.items()}
            splits = split_indices(map(split_named, column["usage"]))
            votes = np.stack([pandas.to_numeric(column[name]) for name in VOTES], axis=1)
            if not ((votes >= 0) & (votes <= 255)).all():
                raise ValueError("a number of votes is not in 0..255")
        except ValueError as error:
            reason = f"{file.name} does not hold FER+ votes ({one_line(error)})"
            raise UserError(f"{reason}: download fer2013new.csv again") from error
    votes[column["image name"].str.strip() == ""] = 0
    return splits, votes.astype(np.uint8)


def add_votes(blocks, name, splits, votes):
    """Yield the `Rows` of the table `name` with its votes: row i of both is the same face.

    splits (N,), votes (N, 7): see `read_votes`. Raises UserError when the files do not match.
    """
    remedy = "the two files must match row by row: download both again"
    last = 0
    for rows in blocks:
        last = max([last, *rows.ids, *(row for *_, row, _ in rows.dropped)])
        if last > len(votes):
            break
        indices = np.array(rows.ids, np.int64) - 1
        differs = splits[indices] != rows.splits
        if differs.any():
            row = rows.ids[differs.argmax()]
            raise UserError(f"{name}, row {row}: the FER+ votes have another split there: {remedy}")
        yield replace(rows, arrays=rows.arrays | {"votes": votes[indices]})
    if last != len(votes):
        raise UserError(f"{name} has not as many rows as there are FER+ votes: {remedy}")


def derive_vad(rows, name):
    """The `Rows` of a table with V/A/D from their votes; those without votes are dropped."""
    has_votes = rows.arrays["votes"].sum(axis=1) > 0
    ids, without = np.array(rows.ids), rows.splits[~has_votes]
    dropped = [
        (SPLITS[split], name, row, "votes: none for an emotion")
        for row, split in zip(ids[~has_votes].tolist(), without, strict=True)
    ]
    arrays = {key: array[has_votes] for key, array in rows.arrays.items()}
    arrays["VAD"] = votes_to_vad(arrays["votes"])
    return Rows(ids[has_votes].tolist(), rows.splits[has_votes], arrays, rows.dropped + dropped)
