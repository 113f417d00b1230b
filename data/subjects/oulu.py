"""Oulu-CASIA: faces in strong visible light, cropped; six expressions of each of 80 subjects.

`Preprocess Img/VL_Acropped/Strong/P001/Anger/000.jpeg` is the first frame of a sequence that begins
with a neutral face and ends with the expression at its strongest.
"""

import re
from dataclasses import replace
from pathlib import Path, PurePosixPath

from data.archives import open_files
from data.subjects.faces import Frame, find_images, only_root, read_faces, standard_place
from utils.files import UserError
from utils.tasks import CLASS_WORDS

CLASSES = ("Angry", "Disgust", "Fear", "Happy", "Sad", "Surprise")
FOLDERS = ("Anger", "Disgust", "Fear", "Happiness", "Sadness", "Surprise")
STANDARD_LOCATIONS = ("Oulu-CASIA", "Oulu-CASIA.zip")  # in the data folder
DOCUMENTED = ("vl_acropped", "strong")  # the folders above those of the subjects
SUBJECT_NAME = re.compile(r"P\d{3}", re.IGNORECASE)
IMAGE_NAME = re.compile(r"(\d+)\.\w+")
NOTHING = (
    "has no folders of subjects (P001, P002, ...): give the folder or archive that contains "
    "Preprocess Img, or its VL_Acropped/Strong"
)


def load(path=None, find_face=None):
    """The last three frames of every sequence, as `SubjectFaces`; all where it has fewer.

    path: the folder or archive that contains `Preprocess Img`, or any folder in it down to that of
    the subjects; None: the data folder of the project. find_face: finds the face in a whole frame
    (`data.subjects.faces.decode_face`). Raises UserError when there are no subjects, a subject
    lacks an expression, or an image has another name or cannot be read.
    """
    place = standard_place(STANDARD_LOCATIONS, "Oulu-CASIA") if path is None else Path(path)
    with open_files(place) as files:
        images = find_images(files)
        root = _find_root(images, place)
        paths = {PurePosixPath(name): file for name, file in images.items()}
        frames = [_frame(file, path.relative_to(root), place)
                  for path, file in paths.items() if path.is_relative_to(root)]  # fmt: skip
        _check_complete(frames, place)
        faces = read_faces(frames, place, CLASSES, find_face)
    return replace(faces, description=f"Oulu-CASIA: {faces.description}")


def _find_root(images, place):
    """The folder of the subjects' folders: VL_Acropped/Strong, or the only one."""
    roots = set()
    for path in map(PurePosixPath, images):
        subject, class_name = path.parent.parent.name, path.parent.name.lower()
        if SUBJECT_NAME.fullmatch(subject) and class_name in CLASS_WORDS:
            roots.add(path.parents[2])
    above = place.resolve() if place.is_dir() else Path()
    documented = {root for root in roots if _ends_as_documented(above / root)}
    return only_root(documented or roots, place, NOTHING)


def _ends_as_documented(path):
    return tuple(part.lower() for part in path.parts[-2:]) == DOCUMENTED


def _frame(file, path, place):
    """The `Frame` of an image. Raises UserError for a foreign name.

    path: relative to the folder of the subjects' folders.
    """
    subject, folder, base = path.parts if len(path.parts) == 3 else ("", "", "")
    class_name, number = CLASS_WORDS.get(folder.lower()), IMAGE_NAME.fullmatch(base)
    if not SUBJECT_NAME.fullmatch(subject) or class_name not in CLASSES or number is None:
        raise UserError(
            f"{place}: {file.name} is not named like P001/Anger/000.jpeg: rename it or remove it"
        )
    return Frame(file, str(path), class_name, subject.upper(), class_name, int(number[1]))


def _check_complete(frames, place):
    """Raise UserError unless every subject shows every class."""
    found = {(frame.subject, frame.class_name) for frame in frames}
    for subject in sorted({frame.subject for frame in frames}):
        for class_name, folder in zip(CLASSES, FOLDERS, strict=True):
            if (subject, class_name) not in found:
                raise UserError(
                    f"{place} has no images of {class_name} of {subject}: the folder "
                    f"{subject}/{folder} is missing or empty, copy it again"
                )
