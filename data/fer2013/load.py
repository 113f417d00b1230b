"""FER2013: from what the user has to three splits."""

from pathlib import Path

import torch

from data.archives import DATA_FOLDER, open_files
from data.copies import find_copies
from data.faces import Dataset, load_split
from data.fer2013 import store
from data.fer2013.prepare import ensure, nothing_found
from data.fer2013.sources import find_source
from utils.files import UserError
from utils.tasks import SPLITS, TEST_SPLITS
from utils.text import counted


def available():
    """Whether the data folder holds something to train on; prints what else is there if not."""
    if store.read_attributes(DATA_FOLDER / "data.h5"):
        return True
    with open_files(DATA_FOLDER) as files:
        source, unused = find_source(files)
    if source is None and unused:
        print(f"{nothing_found(DATA_FOLDER, unused)}. Training on drawn faces instead.")
    return source is not None


def load(path=None, drop_duplicates=False, limit=None, out=None):
    """The `Dataset`. path: a folder, an archive, a table or data.h5; None: the data folder.

    drop_duplicates leaves out training faces whose photograph is in a test split, too; that takes
    half a minute. limit: the number of faces of each split, evenly spaced. out: the folder for
    data.h5 where that of the data is read-only. Raises UserError when a split is missing.
    """
    place = DATA_FOLDER if path is None else Path(path)
    h5_path = ensure(place, fallback=out)
    splits = {
        split: load_split(h5_path, split, None if drop_duplicates else limit) for split in SPLITS
    }
    attributes = store.read_attributes(h5_path)
    missing = [split for split, faces in splits.items() if not faces]
    damaged = [split for split in missing if attributes["counts"].get(split)]
    if damaged:
        raise UserError(
            f"{h5_path} is damaged ({damaged[0]} has no labels): delete it, so that it is prepared "
            "again, or get it again"
        )
    if missing:
        counts = [f"{split} ({counted(n, 'face')})" for split, n in attributes["counts"].items()]
        raise UserError(
            f"{place} has no {' and no '.join(missing)} split, only {', '.join(counts)}. Training "
            "needs all three: put the missing archive or table (train*, publictest*, privatetest*) "
            "beside it, and give the folder with --data."
        )
    notes = [f"FER2013 faces, V/A/D: {attributes['vad_origin']}", *attributes["notes"]]
    if drop_duplicates:
        print("Looking for training faces whose photograph is in a test split", flush=True)
        copied = copied_faces(splits)
        splits["Training"] = splits["Training"].select(~copied)
        splits = {split: faces.spaced(limit) for split, faces in splits.items()}
        count = counted(int(copied.sum()), "training face")
        notes.append(f"without {count} whose photograph is in a test split")
    return Dataset(splits, "; ".join(notes))


def copied_faces(splits):
    """(N,) bool: training faces whose photograph is in a test split. splits: {name: `Faces`}."""
    training = splits["Training"].images
    copied = torch.zeros(len(training), dtype=torch.bool)
    for split in TEST_SPLITS:
        copied[find_copies(splits[split].images, training)[:, 1]] = True
    return copied
