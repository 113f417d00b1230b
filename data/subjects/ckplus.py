"""CK+: the peak frames of the Extended Cohn-Kanade dataset. There are no neutral frames.

Two layouts are read, from a folder or an archive. A folder per class, as it is usually passed on:
`anger/S010_004_00000017.png` is frame 17 of sequence 004 of subject S010. The official release:
`cohn-kanade-images/S010/004/S010_004_00000017.png`, whole frames from neutral to peak, and for some
of the sequences `Emotion/S010/004/S010_004_00000017_emotion.txt`, a number from 1 to 7.
"""

import re
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path, PurePosixPath

from data.archives import open_files
from data.subjects.faces import Frame, find_images, only_root, read_faces, standard_place
from utils.files import UserError
from utils.tasks import CLASS_WORDS
from utils.text import counted

CLASSES = ("Angry", "Contempt", "Disgust", "Fear", "Happy", "Sad", "Surprise")  # 1 to 7
FOLDERS = ("anger", "contempt", "disgust", "fear", "happy", "sadness", "surprise")
OPTIONAL = ("Contempt",)  # left out of some copies
STANDARD_LOCATIONS = ("CK+48", "CK+", "CK+48.zip", "CK+.zip")  # in the data folder
IMAGE_NAME = re.compile(r"(S\d{3})_(\d{3})_(\d{8})\.\w+", re.IGNORECASE)
LABEL_NAME = re.compile(r"(S\d{3})_(\d{3})_\d{8}_emotion\.txt", re.IGNORECASE)
NOTHING = (
    "has neither folders of classes (anger, contempt, ... surprise) nor the labels of the release "
    "(Emotion, beside cohn-kanade-images): give the folder or archive with one of them in it"
)


def load(path=None, find_face=None):
    """The last three frames of every sequence, as `SubjectFaces`.

    path: the folder or archive of the dataset, or what contains it; None: the data folder of the
    project. find_face: finds the face in a whole frame (`data.subjects.faces.decode_face`). Raises
    UserError when a class is missing, an image has another name or cannot be read, or a sequence
    has two classes.
    """
    place = standard_place(STANDARD_LOCATIONS, "CK+") if path is None else Path(path)
    with open_files(place) as files:
        images, labels = find_images(files), _read_labels(files, place)
        read_layout = _official_frames if labels else _class_folder_frames
        frames, notes = read_layout(images, labels, place)
        shown = {frame.class_name for frame in frames}
        classes = tuple(name for name in CLASSES if name in shown or name not in OPTIONAL)
        faces = read_faces(frames, place, classes, find_face)
    return replace(faces, description="; ".join([f"CK+: {faces.description}", *notes]))


def _read_labels(files, place):
    """{(subject, sequence): class name} from the label files of the release."""
    labels = {}
    for name, file in files.items():
        match = LABEL_NAME.fullmatch(PurePosixPath(name).name)
        if match is None:
            continue
        try:
            number = int(float(file.read().decode()))
        except (ValueError, OverflowError) as error:
            raise UserError(f"{place}: {name} does not hold a number: copy it again") from error
        if 1 <= number <= len(CLASSES):  # 0 is neutral
            labels[match[1].upper(), match[2]] = CLASSES[number - 1]
    return labels


def _official_frames(images, labels, place):
    """([`Frame`] of the sequences that have a label, notes)."""
    frames, unlabelled = [], set()
    for name, file in images.items():
        path = PurePosixPath(name)
        match = IMAGE_NAME.fullmatch(path.name)
        sequence = match and (match[1].upper(), match[2])
        if sequence in labels:
            short = "/".join(path.parts[-4:])
            frames.append(Frame(file, short, labels[sequence], *sequence, int(match[3])))
        elif sequence:
            unlabelled.add(sequence)
    if not frames:
        raise UserError(
            f"{place} has the labels of the release without their images: put cohn-kanade-images "
            "beside Emotion, as folders or archives, and give the folder around them"
        )
    note = f"left out, without a label: {counted(len(unlabelled), 'sequence')}"
    return frames, [note] if unlabelled else []


def _class_folder_frames(images, _, place):
    """([`Frame`] of the folders of classes, notes)."""
    roots, others = defaultdict(dict), Counter()
    for name in images:
        folder = PurePosixPath(name).parent
        class_name = CLASS_WORDS.get(folder.name.lower())
        if class_name in CLASSES:
            roots[folder.parent][folder] = class_name
        elif class_name:
            others[folder.name] += 1
    root = only_root(roots, place, NOTHING)
    folders = roots[root]
    _check_folders(folders, root, place)
    frames = [
        _class_folder_frame(file, root, folders[PurePosixPath(name).parent], place)
        for name, file in images.items()
        if PurePosixPath(name).parent in folders
    ]
    _check_sequences(frames, place)
    return frames, [
        f"left out: {counted(count, 'image')} in {name}" for name, count in others.items()
    ]


def _class_folder_frame(file, root, class_name, place):
    """The `Frame` of an image in the folder of a class. Raises UserError for a foreign name."""
    path = PurePosixPath(file.name)
    match = IMAGE_NAME.fullmatch(path.name)
    if match is None:
        raise UserError(
            f"{place}: {file.name} is not named like S010_004_00000017.png: rename it or remove it"
        )
    name = path.relative_to(root).as_posix()
    return Frame(file, name, class_name, match[1].upper(), match[2], int(match[3]))


def _check_folders(folders, root, place):
    """Raise UserError for a class without a folder. folders: {folder: class name}."""
    for class_name, usual in zip(CLASSES, FOLDERS, strict=True):
        if class_name not in OPTIONAL and class_name not in folders.values():
            raise UserError(
                f"{place} has no images of {class_name}: its folder {root / usual} is missing or "
                "empty, copy it again"
            )


def _check_sequences(frames, place):
    """Raise UserError unless all frames of a sequence have one class."""
    classes = {}
    for frame in frames:
        first = classes.setdefault((frame.subject, frame.sequence), frame.class_name)
        if frame.class_name != first:
            raise UserError(
                f"{place}: sequence {frame.sequence} of {frame.subject} is in the folders of "
                f"{first} and of {frame.class_name}: keep it in one of them"
            )
