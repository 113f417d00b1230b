"""Oulu-CASIA: faces in visible light, strongly lit, cropped: six expressions of each of 80 subjects.

`Preprocess Img/VL_Acropped/Strong/P001/Anger/000.jpeg` is the first frame of a sequence that begins with a neutral
face and ends with the expression at its strongest.
"""

import re
from pathlib import Path

from data.fer2013.sources import HOME
from data.subjects.trees import assemble, default_place, last_frames, only_root, picture_files
from utils.files import UserError
from utils.tasks import CLASS_WORDS

CLASSES = ("Angry", "Disgust", "Fear", "Happy", "Sad", "Surprise")
FOLDERS = ("Anger", "Disgust", "Fear", "Happiness", "Sadness", "Surprise")
STANDARD_LOCATIONS = ("Oulu-CASIA", "Oulu-CASIA.zip")  # where it is looked for in the data folder
ABOVE = ["vl_acropped", "strong"]  # the folders above those of the subjects
OTHERS = re.compile(r"(^|[^a-z])(ni|weak|dark)([^a-z]|$)", re.IGNORECASE)  # in folders of other light
_SUBJECT = re.compile(r"P\d{3}", re.IGNORECASE)
_FRAME = re.compile(r"(\d+)\.\w+")
_NAMED_MISSING = 5


def load(path=None, find_face=None):
    """The `SubjectFaces` of the last three frames of every sequence, of all frames where it has fewer.

    path: the folder that contains `Preprocess Img`, one below or above it, any folder of the subjects' folders, or a
    ZIP of it; None: the data folder of the project. find_face: see `trees.decode`. Raises UserError when there are no
    subjects, a subject lacks an expression, or a picture has another name or cannot be read.
    """
    path = default_place(HOME, STANDARD_LOCATIONS, "Oulu-CASIA") if path is None else Path(path)
    with picture_files(path) as (files, _):
        root = _find_root(files, path)
        sequences = _sequences(files, root, path)
        chosen = {
            name: (class_name, subject, class_name)
            for (subject, class_name), frames in sequences.items()
            for name in last_frames(frames)
        }
        note = f"the last frames of {len(sequences)} sequences{_missing({subject for subject, _ in sequences})}"
        return assemble(files, [root], chosen, "Oulu-CASIA", CLASSES, note, find_face)


def _find_root(files, path):
    """What the names of the pictures begin with, "" or folders with a slash: the place of the subjects' folders."""
    roots = set()
    for name in files:
        *above, subject, folder, _ = ("", "", *name.split("/"))
        if _SUBJECT.fullmatch(subject) and folder.lower() in CLASS_WORDS:
            roots.add("".join(f"{part}/" for part in above if part))
    usual = {root for root in roots if _is_usual(root)}
    roots = usual or {root for root in roots if not OTHERS.search(root)}  # of other names, but not of other light
    if not roots:
        raise UserError(
            f"{path} has no folders of subjects (P001, P002, ...): give the folder or the ZIP that contains "
            "Preprocess Img, or its VL_Acropped/Strong"
        )
    return only_root(roots, path)


def _is_usual(root):
    """Whether the nearest folders around the subjects, as far as there are any, are the released ones."""
    nearest = [part.lower() for part in root.split("/")[:-1]][-len(ABOVE) :]
    return nearest == ABOVE[len(ABOVE) - len(nearest) :]


def _sequences(files, root, path):
    """{(subject, class name): {frame: file name}}, every class of every subject."""
    sequences = {}
    for name in files:
        if not name.startswith(root):
            continue
        subject, folder, frame = (*name.removeprefix(root).split("/"), "", "")[:3]
        class_name, number = CLASS_WORDS.get(folder.lower()), _FRAME.fullmatch(frame)
        if not _SUBJECT.fullmatch(subject) or class_name not in CLASSES or number is None:
            raise UserError(f"{path}: {name} is not named like {root}P001/Anger/000.jpeg: rename it or remove it")
        sequences.setdefault((subject.upper(), class_name), {})[int(number[1])] = name
    for subject in sorted({subject for subject, _ in sequences}):
        for class_name, folder in zip(CLASSES, FOLDERS, strict=True):
            if (subject, class_name) not in sequences:
                raise UserError(
                    f"{path} has no pictures of {class_name} of {subject}: the folder {root}{subject}/{folder} is "
                    "missing or empty, copy it again"
                )
    return sequences


def _missing(subjects):
    """A clause that names the numbers left out among the subjects; "" where there are none."""
    last = max(int(subject[1:]) for subject in subjects)
    missing = [name for name in (f"P{number:03}" for number in range(1, last + 1)) if name not in subjects]
    more = f" and {len(missing) - _NAMED_MISSING} more" if len(missing) > _NAMED_MISSING else ""
    return f", none of {', '.join(missing[:_NAMED_MISSING])}{more}" if missing else ""
