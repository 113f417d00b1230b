"""FER2013 with V/A/D annotations: from whatever the user has to three splits."""

from pathlib import Path

from data.faces import Dataset, load_split
from data.fer2013 import prepare
from data.fer2013.sources import HOME, ORIGIN_NAME, survey, why_nothing
from utils.files import UserError
from utils.tasks import SPLITS
from utils.words import counted


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

    drop_duplicates leaves out training faces that a test split holds too; limit keeps so many faces, evenly spaced,
    of each split; out: where data.h5 goes when its source lies where nothing can be written. Raises UserError when
    nothing usable is found or a split is missing.
    """
    source = HOME if path is None else Path(path)
    h5_path = prepare.ensure(source, fallback=out)
    splits = {split: load_split(h5_path, split, drop_duplicates and split == "Training", limit) for split in SPLITS}
    missing = [split for split, faces in splits.items() if faces is None or not len(faces)]
    if missing:
        found = ", ".join(f"{split} ({counted(len(faces), 'face')})" for split, faces in splits.items() if faces)
        raise UserError(
            f"{path or HOME} has no {' and no '.join(missing)} split, only {found or 'no faces at all'}. "
            "Training needs all three: put the missing archive or CSV (train*, publictest*, privatetest*) "
            "beside it, and give the folder with --data."
        )
    return Dataset(splits, f"FER2013 faces, V/A/D: {prepare.describe(h5_path, marked_origin(source))}")


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
