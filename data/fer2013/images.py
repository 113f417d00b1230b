"""Images in class folders, train/<class>/ and test/<class>/, as rows."""

import re
from collections import Counter, defaultdict
from io import BytesIO

from data import FACE_SIZE
from data.fer2013.tables import Part, Row, read_label, split_named
from utils.files import UserError
from utils.images import decode, square_resize, to_grey
from utils.tasks import CLASS_WORDS, EMOTIONS
from utils.text import counted


def find_images(files, unused, problems):
    """[`Part`] of the images in class folders; the content of each is [(`File`, label 0..6)].

    files: those with the suffix of an image. unused: a list, to which sentences about other images
    are added. problems: a list, to which a UserError is added for an unknown class folder where one
    of the seven classes is missing.
    """
    folders, elsewhere = defaultdict(list), Counter()
    for file in files:
        name, _, class_name = file.folder.rpartition("/")
        if split_named(name.rpartition("/")[2]):
            folders[name].append((file, class_name))
        else:
            elsewhere[file.folder or "this folder"] += 1
    for folder, count in elsewhere.items():
        unused.append(f"{folder}: {counted(count, 'image')} outside of train/<class>, test/<class>")
    found = []
    for name, images in sorted(folders.items()):
        place, _, folder = name.rpartition("/")
        try:
            labelled = _label_images(images, name, unused)
        except UserError as error:
            problems.append(error)
            continue
        found += [Part(place, split_named(folder), name, labelled)] if labelled else []
    return found


def _label_images(images, name, unused):
    """[(`File`, label)] of [(`File`, class folder)] in the folder `name`, of known classes."""
    labels, unknown = {}, []
    for folder, count in Counter(folder for _, folder in images).items():
        word = re.sub(r"^\d+[ _.-]+", "", folder.lower())  # "0 angry"
        try:
            labels[folder] = read_label(word)
        except ValueError:
            unused.append(f"{name}/{folder} is not a class of FER2013 ({counted(count, 'image')})")
            unknown += [folder] if word not in CLASS_WORDS else []
    if unknown and labels and len(set(labels.values())) < len(EMOTIONS):  # one may be misspelled
        raise UserError(
            f"{name}/{unknown[0]} is not a class of FER2013, and one of the seven is missing: "
            f"rename it ({', '.join(EMOTIONS).lower()}), or move it elsewhere"
        )
    return [(file, labels[folder]) for file, folder in images if folder in labels]


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
