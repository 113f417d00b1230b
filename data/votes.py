"""FER+ votes as what a face is to be: shares for training, the majority for measuring.

FER+ (Barsoum et al., ICMI 2016) has the votes of ten people for each face of FER2013. `votes` are
(N, 7) uint8 in the order of `EMOTIONS`; the rest of the ten were for contempt, "unknown" or "not a
face". FER2013's own label is the majority of these votes for two thirds of the faces.
"""

from dataclasses import replace

import torch

from utils.files import UserError
from utils.tasks import EMOTIONS

VOTERS = 10
TARGETS = ("labels", "votes")


def vote_shares(votes, labels):
    """(N, 7) float32: each class's share of the votes; without votes, the label as one-hot.

    labels (N,) int64 in 0..6.
    """
    has_votes = votes.sum(dim=1, keepdim=True) > 0
    is_label = labels[:, None] == torch.arange(len(EMOTIONS), device=labels.device)
    counts = torch.where(has_votes, votes, is_label)
    return counts / counts.sum(dim=1, keepdim=True)


def majority_votes(votes):
    """(N,) int64: the class with more votes than any other, and than those for none; else -1."""
    votes = votes.long()
    most, classes = votes.max(dim=1)
    is_alone = (votes == most[:, None]).sum(dim=1) == 1
    return torch.where(is_alone & (most > VOTERS - votes.sum(dim=1)), classes, -1)


def with_targets(dataset, targets):
    """The `Dataset` with what a run with these `TARGETS` learns and is measured against.

    "labels": FER2013's labels, no votes. "votes": the label of a training face is the class with
    most votes, that of a test face the majority vote, -1 where there is none. Raises UserError when
    the data has no votes.
    """
    if targets == "labels":
        splits = {name: replace(faces, votes=None) for name, faces in dataset.splits.items()}
        return replace(dataset, splits=splits)
    missing = [name for name, faces in dataset.splits.items() if faces.votes is None]
    if missing:
        raise UserError(
            f"--targets votes needs FER+ votes, which the data lacks ({', '.join(missing)}): put "
            "fer2013new.csv beside fer2013.csv, or train with --targets labels."
        )
    splits = {}
    for name, faces in dataset.splits.items():
        labels = majority_votes(faces.votes)
        if not (labels >= 0).any():
            raise UserError(
                f"No {name} face has a majority among its FER+ votes: give more faces, or train "
                "with --targets labels."
            )
        if name == "Training":
            labels = vote_shares(faces.votes, faces.labels).argmax(dim=1)
        splits[name] = replace(faces, labels=labels)
    return replace(dataset, splits=splits)
