"""Pictures in folders of classes, train/<class>/ and test/<class>/, as rows."""

from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from itertools import islice

import numpy as np
from PIL import Image

from data.fer2013.tables import BLOCK_ROWS, PIXELS, Block, is_validation, read_label, split_named
from utils import pictures
from utils.files import UserError
from utils.tasks import CLASS_WORDS, EMOTIONS, SPLITS

SIDE = 48
_NUMBERS = set(map(str, range(len(EMOTIONS))))  # folders that are named by FER2013's numbers


def class_folders(entries):
    """Pictures told by the folders around them: {place: ({split: [(`Entry`, label)]}, {name: why it is not used})}.

    place: what lies above the folders of the splits. Where the only faces beside those for training are for
    validation, they are the test.
    """
    places, loose = defaultdict(lambda: defaultdict(list)), Counter()
    for entry in entries:
        *above, split, folder = ("", "", *entry.path.parent.parts)[-max(2, len(entry.path.parent.parts)) :]
        if split_named(split) and (folder.lower() in CLASS_WORDS or folder.isdigit()):
            places["/".join(filter(None, above))][split].append((entry, folder.lower()))
        else:
            loose["/".join(entry.path.parent.parts[:1]) or "this folder"] += 1
    found = {}
    for place, folders in places.items():
        splits, reasons = defaultdict(list), {}
        names = {folder for faces in folders.values() for _, folder in faces}
        numbered = {name for name in names if name.isdigit()}
        if numbered - _NUMBERS or numbered and numbered != names:
            reasons[place or "pictures"] = f"has class folders {', '.join(sorted(numbered))}, which are not 0 to 6"
            found[place] = ({}, reasons)
            continue
        for folder, faces in folders.items():
            split = split_named(folder)
            known = [(entry, _label(name)) for entry, name in faces if _label(name) is not None]
            splits[split] += known
            if len(known) < len(faces):
                count = len(faces) - len(known)
                reasons[f"{place}/{folder}"] = f"has {count:,} pictures of contempt, which is no class of FER2013"
        if splits.keys() == {"Training", "PublicTest"} and all(map(is_validation, folders.keys() - _training(folders))):
            splits["PrivateTest"] = splits.pop("PublicTest")
        found[place] = ({split: splits[split] for split in SPLITS if splits.get(split)}, reasons)
    for folder, count in loose.items():
        reason = f"has {count:,} pictures that are not in train/<class> and test/<class> folders"
        found.setdefault(folder, ({}, {}))[1].setdefault(folder, reason)
    return found


def _training(folders):
    return {folder for folder in folders if split_named(folder) == "Training"}


def _label(name):
    """Emotion 0..6 of a folder, None for contempt."""
    try:
        return read_label(name)
    except ValueError:
        return None


def read_pictures(splits, progress, notes):
    """Yield the faces of {split: [(`Entry`, label)]} as `Block`s, in order; `numbers` are the names of the files.

    progress: called with the number of bytes just read. Pictures of another size or colour are brought to 48x48 grey;
    of one that is not square its middle is taken; `notes` gets a sentence about their number.
    """
    changed = 0
    with ThreadPoolExecutor(2) as pool:
        for split, faces in splits.items():
            faces = iter(faces)
            while block := list(islice(faces, BLOCK_ROWS)):
                contents = [_content(entry) for entry, _ in block]
                progress(sum(len(content) for content in contents if isinstance(content, bytes)))
                read = list(pool.map(_read, contents, [entry.name for entry, _ in block]))
                good = [place for place, (face, _) in enumerate(read) if not isinstance(face, str)]
                changed += sum(other for _, other in read)
                bad = [
                    (split, block[place][0].name, face) for place, (face, _) in enumerate(read) if isinstance(face, str)
                ]
                yield Block(
                    [block[place][0].name for place in good],
                    np.full(len(good), SPLITS.index(split)),
                    np.array([block[place][1] for place in good], np.int64),
                    None,
                    np.array([read[place][0] for place in good], np.uint8).reshape(-1, PIXELS),
                    bad,
                )
    if changed:
        notes.append(f"{changed:,} pictures of another size or in colour were brought to 48x48 grey")


def _content(entry):
    """The bytes of a file, or the text of the UserError that reading it ends with."""
    try:
        with entry.open() as stream:
            return stream.read()
    except UserError as error:
        return str(error)


def _read(content, name):
    """(uint8 (48, 48), whether it was another size or coloured), or (why it is no picture, False)."""
    if isinstance(content, str):
        return f"picture: {content}", False
    try:
        picture = pictures.decode(BytesIO(content), name)
    except pictures.Unreadable as error:
        return f"picture: {error}", False
    grey = Image.fromarray(pictures.to_grey(picture))
    coloured = picture.ndim == 3 and bool((picture != picture[:, :, :1]).any())
    if grey.size == (SIDE, SIDE):
        return np.asarray(grey), coloured
    side = min(grey.size)
    left, top = (grey.width - side) // 2, (grey.height - side) // 2
    grey = grey.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    return np.asarray(grey), True
