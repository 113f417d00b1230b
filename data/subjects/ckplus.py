"""CK+: the peak frames of the Extended Cohn-Kanade dataset, a folder per class.

`anger/S010_004_00000017.png` is frame 17 of sequence 004 of subject S010. A sequence has one class; there are
no neutral frames.
"""

import re
from collections import defaultdict
from pathlib import Path

from data.fer2013.sources import HOME
from data.subjects.trees import assemble, default_place, last_frames, only_root, picture_files
from utils.files import UserError
from utils.tasks import CLASS_WORDS

CLASSES = ("Angry", "Contempt", "Disgust", "Fear", "Happy", "Sad", "Surprise")
STANDARD_LOCATIONS = ("CK+48", "CK+", "CK+48.zip", "CK+.zip")  # where it is looked for in the data folder
DEPTH = 3  # a folder that contains the dataset / class / picture
_NAME = re.compile(r"(S\d{3})_(\d{3})_(\d{8})\.\w+", re.IGNORECASE)


def load(path=None):
    """The `SubjectFaces` of the last three frames of every sequence.

    path: the folder or the ZIP of the dataset, or what contains it; None: the data folder of the project.
    Raises UserError when a class is missing, a picture has another name or cannot be read, or a sequence has
    two classes.
    """
    path = default_place(HOME, STANDARD_LOCATIONS, "CK+") if path is None else Path(path)
    with picture_files(path, DEPTH) as files:
        root, folders = _class_folders(files, path)
        sequences = _sequences(files, root, folders, path)
        chosen = {
            name: (class_name, subject)
            for (subject, _), (class_name, frames) in sequences.items()
            for name in last_frames(frames)
        }
        note = f"the last frames of {len(sequences)} sequences"
        return assemble(files, root, chosen, "CK+", CLASSES, note)


def _class_folders(files, path):
    """(root, {folder: class name}): where the dataset begins, "" or a folder with a slash, and its class folders."""
    roots = defaultdict(dict)
    for name in files:
        root, slash, folder = name.rpartition("/")[0].rpartition("/")
        if folder.lower() in CLASS_WORDS:
            roots[root + slash][folder] = CLASS_WORDS[folder.lower()]
    if not roots:
        raise UserError(
            f"{path} has no folders of classes: give the folder or the ZIP with anger, contempt, ... surprise in it"
        )
    root = only_root(roots, path)
    folders = roots[root]
    for class_name in CLASSES:
        spelled = sorted(folder for folder, other in folders.items() if other == class_name)
        if not spelled:
            usual = next(word for word, other in CLASS_WORDS.items() if other == class_name)
            raise UserError(
                f"{path} has no pictures of {class_name}: its folder {root}{usual} is missing or empty, copy it again"
            )
        if len(spelled) > 1:
            raise UserError(f"{path} has two folders of {class_name}, {' and '.join(spelled)}: keep one of them")
    return root, folders


def _sequences(files, root, folders, path):
    """{(subject, sequence): (class name, {frame: file name})}."""
    sequences = {}
    for name in files:
        folder, _, base = name.removeprefix(root).rpartition("/")
        if not name.startswith(root) or folder not in folders:
            continue
        match = _NAME.fullmatch(base)
        if match is None:
            raise UserError(f"{path}: {name} is not named like S010_004_00000017.png: rename it or remove it")
        subject, sequence, frame = match[1].upper(), match[2], int(match[3])
        class_name, frames = sequences.setdefault((subject, sequence), (folders[folder], {}))
        if class_name != folders[folder]:
            raise UserError(
                f"{path}: sequence {sequence} of {subject} is in the folders of {class_name} and of "
                f"{folders[folder]}: keep it in one of them"
            )
        frames[frame] = name
    return sequences
