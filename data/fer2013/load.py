"""FER2013 with V/A/D annotations: from whatever the user has to three splits."""

from pathlib import Path

import torch

from data.copies import find_copies
from data.faces import Dataset, load_split
from data.fer2013 import prepare
from data.fer2013.sources import HOME, ORIGIN_NAME, survey, why_nothing
from utils.files import UserError
from utils.tasks import SPLITS, TEST_SPLITS
from utils.text import counted


def available():
    """Whether the data folder holds something to train on; says what is there instead when it does not."""
    if (HOME / "data.h5").exists():
        return True
    with survey(HOME) as found:
        if found.source is None and found.report():
            print(f"{why_nothing(HOME, found)}. Training on drawn faces instead.")
        return found.source is not None


def load(path=None, drop_duplicates=False, limit=None, out=None):
    """The `Dataset`. path: archive, folder, table or data.h5; None: the data folder.

    drop_duplicates leaves out training faces whose photograph a test split holds, too, which takes half a minute; limit
    keeps so many faces, evenly spaced, of each split; out: where data.h5 goes when its source lies where nothing can be
    written. Raises UserError when nothing usable is found or a split is missing.
    """
    source = HOME if path is None else Path(path)
    h5_path = prepare.ensure(source, fallback=out)
    splits = {split: load_split(h5_path, split, None if drop_duplicates else limit) for split in SPLITS}
    missing = [split for split, faces in splits.items() if faces is None or not len(faces)]
    if missing:
        found = ", ".join(f"{split} ({counted(len(faces), 'face')})" for split, faces in splits.items() if faces)
        raise UserError(
            f"{path or HOME} has no {' and no '.join(missing)} split, only {found or 'no faces at all'}. "
            "Training needs all three: put the missing archive or CSV (train*, publictest*, privatetest*) "
            "beside it, and give the folder with --data."
        )
    description = f"FER2013 faces, V/A/D: {prepare.describe(h5_path, marked_origin(source))}"
    if drop_duplicates:
        print("Looking for training faces whose photograph a test split holds, too", flush=True)
        copied = copied_faces(splits)
        splits["Training"] = splits["Training"].select(~copied)
        splits = {split: faces.spaced(limit) for split, faces in splits.items()}
        description += f"; without {counted(int(copied.sum()), 'training face')} whose photograph a test split holds"
    return Dataset(splits, description)


def copied_faces(splits):
    """(N,) bool: the training faces whose photograph a test split holds, too. splits: {name: `Faces`}."""
    training = splits["Training"].images
    copied = torch.zeros(len(training), dtype=torch.bool)
    for split in TEST_SPLITS:
        copied[find_copies(splits[split].images, training)[:, 1]] = True
    return copied


def marked_origin(source):
    """What the user says, in the first line of vad_origin.txt beside the data, of where V/A/D come from; else None.

    Tables cannot say whether their values are ratings or were derived. Raises UserError when the file says nothing.
    """
    path = (source if source.is_dir() else source.parent) / ORIGIN_NAME
    if not path.exists():
        return None
    try:
        line = path.read_text(encoding="utf-8-sig", errors="replace").strip().partition("\n")[0].strip()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): allow it, or remove the file.") from error
    if not line:
        raise UserError(f"{path} is empty: write in its first line where V/A/D come from, or remove it.")
    return line
