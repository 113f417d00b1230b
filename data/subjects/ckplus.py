"""CK+: the peak frames of the Extended Cohn-Kanade dataset.

As it is passed on, a folder per class: `anger/S010_004_00000017.png` is frame 17 of sequence 004 of subject S010. As
it was released: `cohn-kanade-images/S010/004/S010_004_00000017.png`, whole frames from neutral to the peak, and for
some of the sequences `Emotion/S010/004/S010_004_00000017_emotion.txt`, a number. A sequence has one class; there are
no neutral frames.
"""

import re
from collections import Counter, defaultdict
from pathlib import Path

from data.fer2013.sources import HOME
from data.fer2013.tables import split_named
from data.subjects.trees import assemble, default_place, last_frames, only_root, picture_files, read_entry
from utils.files import UserError
from utils.tasks import CLASS_WORDS
from utils.text import counted

CLASSES = ("Angry", "Contempt", "Disgust", "Fear", "Happy", "Sad", "Surprise")  # in the release's order, from 1
FOLDERS = ("anger", "contempt", "disgust", "fear", "happy", "sadness", "surprise")  # as they are usually called
OPTIONAL = ("Contempt",)  # left out of some copies
STANDARD_LOCATIONS = ("CK+48", "CK+", "CK+48.zip", "CK+.zip")  # where it is looked for in the data folder
_NAME = re.compile(r"(S\d{3})_(\d{3})_(\d{8})\.\w+", re.IGNORECASE)
_LABEL = re.compile(r"(S\d{3})_(\d{3})_\d{8}_emotion\.txt", re.IGNORECASE)


def load(path=None, find_face=None):
    """The `SubjectFaces` of the last three frames of every sequence.

    path: the folder or the ZIP of the dataset, or what contains it; None: the data folder of the project. find_face:
    finds the face in a whole frame (see `trees.decode`). Raises UserError when a class is missing, a picture has
    another name or cannot be read, or a sequence has two classes.
    """
    path = default_place(HOME, STANDARD_LOCATIONS, "CK+") if path is None else Path(path)
    with picture_files(path) as (files, others):
        labels = _released_labels(others)
        if labels:
            roots, notes = [""], []
            sequences = _released_sequences(files, labels, notes, path)
        else:
            roots, folders, notes = _class_folders(files, path)
            sequences = _sequences(files, roots, folders, path)
        chosen = {
            name: (class_name, subject, sequence)
            for (subject, sequence), (class_name, frames) in sequences.items()
            for name in last_frames(frames)
        }
        shown = {class_name for class_name, *_ in chosen.values()}
        classes = tuple(name for name in CLASSES if name in shown or name not in OPTIONAL)
        note = "; ".join([f"the last frames of {len(sequences)} sequences", *notes])
        return assemble(files, roots, chosen, "CK+", classes, note, find_face)


def _released_labels(others):
    """{(subject, sequence): class name} from the files of numbers that the release has."""
    labels = {}
    for name, entry in others.items():
        match = _LABEL.fullmatch(name.rpartition("/")[2])
        if match:
            content, shown = read_entry(entry)
            try:
                number = int(float(content.decode()))
            except ValueError as error:
                raise UserError(f"{shown} holds no number: copy it again") from error
            if 1 <= number <= len(CLASSES):  # 0 is neutral
                labels[match[1].upper(), match[2]] = CLASSES[number - 1]
    return labels


def _released_sequences(files, labels, notes, path):
    """As `_sequences`, of those that have a label."""
    frames = defaultdict(dict)
    for name in files:
        match = _NAME.fullmatch(name.rpartition("/")[2])
        if match:
            frames[match[1].upper(), match[2]][int(match[3])] = name
    if not frames.keys() & labels.keys():
        raise UserError(
            f"{path} has the labels of the release without their pictures: put cohn-kanade-images beside Emotion, "
            "unpacked or as they were downloaded, and give the folder around them"
        )
    without = len(frames.keys() - labels.keys())
    if without:
        notes.append(f"left out, without a label: {counted(without, 'sequence')}")
    return {sequence: (labels[sequence], frames[sequence]) for sequence in sorted(frames.keys() & labels.keys())}


def _class_folders(files, path):
    """(roots, {folder: class name}, notes): where the dataset begins, "" or folders with a slash, its class folders."""
    roots, others = defaultdict(dict), Counter()
    for name in files:
        root, slash, folder = name.rpartition("/")[0].rpartition("/")
        class_name = CLASS_WORDS.get(folder.lower())
        if class_name in CLASSES:
            roots[root + slash][folder] = class_name
        elif class_name is not None:
            others[folder] += 1
    if not roots:
        raise UserError(
            f"{path} has neither folders of classes (anger, contempt, ... surprise) nor the labels of the release "
            "(Emotion, which goes beside cohn-kanade-images): give the folder or the ZIP with one of them in it"
        )
    halves = {root.rstrip("/").rpartition("/")[0] for root in roots}
    joined = (
        len(roots) > 1 and len(halves) == 1 and all(split_named(root.rstrip("/").rpartition("/")[2]) for root in roots)
    )
    found = sorted(roots) if joined else [only_root(roots, path)]
    folders = {folder: name for root in found for folder, name in roots[root].items()}
    for class_name in CLASSES:
        spelled = sorted(folder for folder, other in folders.items() if other == class_name)
        if not spelled and class_name not in OPTIONAL:
            usual = FOLDERS[CLASSES.index(class_name)]
            raise UserError(
                f"{path} has no pictures of {class_name}: its folder {found[0]}{usual} is missing or empty, copy it "
                "again"
            )
        if len(spelled) > 1:
            raise UserError(f"{path} has two folders of {class_name}, {' and '.join(spelled)}: keep one of them")
    notes = (
        [f"{' and '.join(root.rstrip('/') for root in found)} joined, since folds need all subjects"] if joined else []
    )
    notes += [f"left out: {counted(count, 'picture')} in {folder}" for folder, count in others.items()]
    return found, folders, notes


def _sequences(files, roots, folders, path):
    """{(subject, sequence): (class name, {frame: file name})}."""
    sequences = {}
    for name in files:
        above, _, base = name.rpartition("/")
        root, _, folder = above.rpartition("/")
        if f"{root}/".lstrip("/") not in roots or folder not in folders:
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
