"""Images in class folders, train/<class>/ and test/<class>/, as rows."""

import re
from collections import Counter, defaultdict
from io import BytesIO

from data import FACE_SIZE
from data.fer2013.tables import Row, read_label, split_named
from utils.files import UserError, as_text
from utils.images import decode, square_resize, to_grey
from utils.tasks import CLASS_WORDS, EMOTIONS
from utils.text import counted


def find_images(files, unused, problems):
    """[(place, split, name of the split's folder, [(`File`, label)])], label 0..6.

    place: the folder around that folder. files: those with the suffix of an image. unused: a list,
    to which sentences about other images are added. problems: a list, to which a UserError is added
    for an unknown class folder where one of the seven classes is missing.
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
        found += [(place, split_named(folder), name, labelled)] if labelled else []
    return found


def check_single(parts):
    """{split: name} of [(place, split, name, content)]. Raises UserError for two of one split."""
    names = {}
    for _, split, name, _ in parts:
        if split in names:
            raise UserError(
                f"two candidates for {split}: {names[split]} and {name}: remove one, or give the "
                "path of the one to use"
            )
        names[split] = name
    return names


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


def image_sort_key(file):
    """Orders images alike wherever they lie: by class folder and name, then by what is above."""
    *_, folder, name = file.name.split("/")
    return folder, name, file.name


def read_images(images, split):
    """A `Row` for each of [(`File`, label)], sorted.

    Images of another size or in colour become 48x48 grey; of one that is not square, the middle.
    """
    rows = {}
    for file, label in images:
        row = rows[image_sort_key(file)] = Row(as_text(file.name), "", split, {"label": label})
        try:
            grey = to_grey(decode(BytesIO(file.read()), row.file))
            row.values["pixel"] = square_resize(grey, FACE_SIZE).ravel()
        except UserError as error:
            row.fault = f"image: {error}"
    return [rows[key] for key in sorted(rows)]
