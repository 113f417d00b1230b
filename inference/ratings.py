"""Valence, arousal and dominance of single faces as people rated them."""

from dataclasses import dataclass

import pandas
import torch

from utils.files import UserError, one_line
from utils.tasks import DIMENSIONS, VAD_LIMIT

COLUMNS = ["index", *DIMENSIONS]


@dataclass(frozen=True)
class Block:
    """Ratings of faces of one split by one rater or group of raters.

    name: "" where the table has no column `block`; split: a name from `SPLITS`; rows (M,) int64 of
    the faces in the split; ratings (M, 3) float32 in -2..2.
    """

    name: str
    split: str
    rows: torch.Tensor
    ratings: torch.Tensor

    @property
    def title(self):
        """The heading of its metrics."""
        block = f" ({self.name})" if self.name else ""
        return f"human ratings of {len(self.rows)} {self.split} faces{block}"


def read_ratings(path, counts):
    """The `Block`s of a CSV with the columns index, Valence, Arousal and Dominance, in its order.

    index: the row of the split, from 0. Optional columns: split (default: PublicTest) and block.
    counts: {split: its number of faces}. Raises UserError.
    """
    try:
        table = pandas.read_csv(path, encoding="utf-8-sig", dtype=str, keep_default_na=False)
        table[COLUMNS] = table[COLUMNS].astype("float64")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except (KeyError, ValueError) as error:
        columns = ", ".join(COLUMNS)
        raise UserError(
            f"{path} must have the columns {columns}, all numbers ({one_line(error)})."
        ) from error
    if table.empty:
        raise UserError(f"{path} has no rows below its column names.")
    for column, default in (("block", ""), ("split", "PublicTest")):
        if column not in table:
            table[column] = default
    groups = table.groupby(["block", "split"], sort=False)
    return [_make_block(path, name, split, rows, counts) for (name, split), rows in groups]


def _make_block(path, name, split, table, counts):
    if split not in counts:
        raise UserError(f"{path}: split must be one of {', '.join(counts)}, not {split[:100]}.")
    index, ratings = table["index"], table[list(DIMENSIONS)]
    known = index.isin(range(counts[split])) & ~index.duplicated()
    if not (known.all() and (ratings.abs() <= VAD_LIMIT).all(axis=None)):  # false for NaN
        last = counts[split] - 1
        raise UserError(
            f"{path}: index must name different rows of {split} (0 to {last}), and ratings lie in "
            "-2..2."
        )
    rows = torch.from_numpy(index.to_numpy("int64", copy=True))
    return Block(name, split, rows, torch.from_numpy(ratings.to_numpy("float32", copy=True)))
