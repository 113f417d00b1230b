"""Human V/A/D ratings of single faces, and what one can reach against them without looking closely."""

from dataclasses import dataclass

import torch

from utils.files import UserError
from utils.tasks import DIMENSIONS, SPLITS, VAD_LIMIT

COLUMNS = ["index", *DIMENSIONS]
WHERE = {"block": "", "split": "PublicTest"}  # optional columns, and what holds without them


@dataclass(frozen=True)
class Block:
    """Ratings that belong together, of one rater or group of raters.

    name: "" where the table has no blocks; split: a name from `SPLITS`; rows (M,) int64 of its faces; ratings (M, 3)
    float32 in -2..2.
    """

    name: str
    split: str
    rows: torch.Tensor
    ratings: torch.Tensor

    @property
    def title(self):
        """What heads its figures."""
        return f"human ratings of {len(self.rows)} {self.split} faces" + (f" ({self.name})" if self.name else "")


def read_ratings(path, counts):
    """The `Block`s of a CSV with the columns of `COLUMNS` and, if need be, `WHERE`, in its order.

    index: the row of the split, from 0; counts: {split: its number of faces}. Raises UserError.
    """
    import pandas

    try:
        frame = pandas.read_csv(path, encoding="utf-8-sig", dtype=str, keep_default_na=False)
        frame = frame.assign(**{name: value for name, value in WHERE.items() if name not in frame})
        values = torch.from_numpy(frame[COLUMNS].astype("float64").to_numpy(copy=True))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except (KeyError, ValueError, pandas.errors.ParserError) as error:
        raise UserError(
            f"{path} must have the columns {', '.join(COLUMNS)}, all numbers ({str(error)[:100]})."
        ) from error
    if not len(frame):
        raise UserError(f"{path} has no rows: it needs the columns {', '.join(COLUMNS)}.")
    groups = frame.groupby(list(WHERE), sort=False).indices
    return [_block(path, name, split, values[places], counts) for (name, split), places in groups.items()]


def _block(path, name, split, values, counts):
    """The `Block` of values (M, 4): index and ratings. Raises UserError where they are none."""
    if split not in counts:
        raise UserError(f"{path}: split must be one of {', '.join(SPLITS)}, not {split[:100]}.")
    rows = values[:, 0].nan_to_num(-1).clamp(-1, counts[split]).long()
    known = (rows == values[:, 0]) & (rows >= 0) & (rows < counts[split])
    good = known[:, None] & (values[:, 1:].abs() <= VAD_LIMIT)  # false for NaN, too
    if not good.all() or len(rows.unique()) < len(rows):
        raise UserError(
            f"{path}: index must name different rows of {split} (0 to {counts[split] - 1}), ratings lie in -2..2."
        )
    return Block(name, split, rows, values[:, 1:].float())


def floors(ratings, labels, probabilities, training):
    """{what is predicted: (M, 3) V/A/D}: what needs no V/A/D from the picture, to be set beside a network's figures.

    ratings (M, 3) of faces of the classes labels (M,); probabilities (M, 7) as the network gives them, or None;
    training: `Faces`. The mean of a class, the face itself left out, is that of these very ratings; where a face is the
    only one of its class it is the mean of all others. It is too low a floor where a class has few faces: what is left
    out moves the mean the other way. The mean annotation of the class has no such fault.
    """
    found = {"mean rating of the true class, the face itself left out": _others_of_class(ratings.double(), labels)}
    if training.vad is not None:
        found["mean annotation of the true class"] = training.class_means().nan_to_num()[labels]
    if probabilities is not None and training.vad is not None:
        found["mean annotation of the classes, weighted by the network's probabilities"] = (
            probabilities.double() @ training.class_means().nan_to_num()
        )
    if training.vad is not None:
        found["one value for all: the mean annotation"] = training.vad.double().mean(0).expand(len(labels), 3)
    return {name: values.float() for name, values in found.items()}


def _others_of_class(ratings, labels):
    same = (labels[:, None] == labels[None]).double().fill_diagonal_(0)
    alone = same.sum(1) == 0
    same[alone] = 1 - torch.eye(len(labels), dtype=torch.float64)[alone]
    return same @ ratings / same.sum(1, keepdim=True).clamp_min(1)
