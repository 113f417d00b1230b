"""Images in class folders, train/<class>/ and test/<class>/, as rows."""

import re
from collections import defaultdict
from io import BytesIO

from data import FACE_SIZE
from data.fer2013.tables import NotUsed, Row, read_label, split_named
from utils.files import UserError
from utils.images import decode, square_resize, to_grey
from utils.tasks import CLASS_WORDS, EMOTIONS
from utils.text import counted


def group_images(files):
    """({folder of a split: {class folder: [`File`]}}, [`NotUsed` for each other folder])."""
    by_folder, splits, unused = defaultdict(list), defaultdict(dict), []
    for file in files:
        by_folder[file.folder].append(file)
    for folder, images in by_folder.items():
        name, _, class_folder = folder.rpartition("/")
        if split_named(name.rpartition("/")[2]):
            splits[name][class_folder] = images
        else:
            count = counted(len(images), "image")
            place = folder or "this folder"
            unused.append(NotUsed(f"{place}: {count} outside of train/<class>, test/<class>"))
    return splits, unused


def label_images(name, classes):
    """([(`File`, label 0..6)], [unknown class folders]) of {class folder: [`File`]}.

    name: the folder around them. Raises NotUsed when none is known, and UserError for an unknown
    one where one of the seven classes is missing.
    """
    labelled, unknown, labels = [], [], set()
    for folder, images in classes.items():
        word = re.sub(r"^\d+[ _.-]+", "", folder.lower())  # "0 angry"
        try:
            label = read_label(word)
            labels.add(label)
            labelled += [(file, label) for file in images]
        except ValueError:
            unknown.append(folder)
    if not labels:
        raise NotUsed(f"{name}/{unknown[0]} is not a class of FER2013")
    foreign = [folder for folder in unknown if folder.lower() not in CLASS_WORDS]
    if foreign and len(labels) < len(EMOTIONS):  # one may be misspelled
        raise UserError(
            f"{name}/{foreign[0]} is not a class of FER2013, and one of the seven is missing: "
            f"rename it ({', '.join(EMOTIONS).lower()}), or move it elsewhere"
        )
    return labelled, unknown


def _sort_key(image):
    """Orders images alike wherever they lie: by class folder and name, then by what is above."""
    *_, folder, name = image[0].name.split("/")
    return folder, name, image[0].name


def read_images(images, split):
    """Yield a `Row` for each of [(`File`, label)], sorted.

    Images of another size or in colour become 48x48 grey; of one that is not square, the middle.
    """
    for file, label in sorted(images, key=_sort_key):
        row = Row(file.name, "", split, {"label": label})
        try:
            grey = to_grey(decode(BytesIO(file.read()), row.file))
            row.values["pixel"] = square_resize(grey, FACE_SIZE).ravel()
        except UserError as error:
            row.fault = f"image: {error}"
        yield row
