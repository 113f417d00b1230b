"""Pictures in folders of classes, train/<class>/ and test/<class>/, as rows."""

import re
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np

from data.fer2013.tables import BLOCK_ROWS, PIXELS, Block, is_validation, read_label, split_named, two_candidates
from utils.files import UserError, as_text
from utils.images import Unreadable, decode, in_batches, square_resize, to_grey
from utils.tasks import CLASS_WORDS, EMOTIONS, SPLITS
from utils.text import counted

SIDE = 48
NEEDED = ("Training", "PrivateTest")  # splits without which pictures are no dataset
THIS = "this folder"  # how messages name the place that is searched
MOST_NAMED = 5  # folders in a message
_NUMBERS = set(map(str, range(len(EMOTIONS))))  # folders that are named by FER2013's numbers


def class_folders(entries, found):
    """Pictures told by the folders around them: {place: {split: [(`Entry`, label)]}}.

    place: what lies above the folders of the splits; of several that only together have faces to train on and to test
    on, such as train.zip and test.zip, their names. found: the `Survey`, which notes why others are not used.
    """
    places, loose = defaultdict(lambda: defaultdict(list)), Counter()
    for entry in entries:
        *above, split, folder = ("", "", *entry.path.parent.parts)[-max(2, len(entry.path.parent.parts)) :]
        if split_named(split):
            places["/".join(filter(None, above))][split].append((entry, _word(folder)))
        else:
            loose["/".join(entry.path.parent.parts[:1]) or THIS] += 1
    places = {place: _known(place, folders, found) for place, folders in sorted(places.items())}
    for folder, count in loose.items():
        found.leave(folder, f"has {counted(count, 'picture')} outside of train/<class> and test/<class> folders")
    return _joined({place: folders for place, folders in places.items() if folders})


def _word(folder):
    """What a folder is named after its number, as in "0 angry", in lower case."""
    return re.sub(r"^\d+[ _.-]+", "", folder.lower())


def _known(place, folders, found):
    """{folder of a split: [(`Entry`, label)]} of the pictures with a label.

    {} where those of a class may be missing, and where two folders are of one split.
    folders: {folder of a split: [(`Entry`, word for its class)]}.
    """
    words = {word for faces in folders.values() for _, word in faces}
    numbered, named = {word for word in words if word.isdigit()}, words & CLASS_WORDS.keys()
    if numbered - _NUMBERS or numbered and named:
        found.leave(place or "pictures", f"has class folders {', '.join(sorted(numbered))}, which are not 0 to 6")
        return {}
    known, unclear = {}, False
    for folder, faces in folders.items():
        name = f"{place}/{folder}".lstrip("/")
        strange = Counter(entry.path.parent.name for entry, word in faces if word not in (numbered or named))
        listed = ", ".join(f"{other} ({counted(count, 'picture')})" for other, count in strange.most_common(MOST_NAMED))
        fault = f"has folders that are no classes of FER2013: {listed}"
        labelled = [(entry, label) for entry, word in faces if (label := _label(word)) is not None]
        contempt = len(faces) - len(labelled) - strange.total()
        if contempt:
            found.leave(name, f"has {counted(contempt, 'picture')} of contempt, which is no class of FER2013")
        if strange and labelled and len({label for _, label in labelled}) < len(EMOTIONS):  # one is misspelled
            unclear = True
            remedy = f"name them as the others are ({', '.join(EMOTIONS).lower()}), or move them elsewhere"
            found.lose(f"{name} {fault}: {remedy}")
        elif strange:
            found.leave(name, fault)
        if labelled:
            known[folder] = labelled
    return {} if unclear or _has_rivals(place, known, found) else known


def _has_rivals(place, folders, found):
    """Whether two folders beside each other are of one split, such as "test" and "test - Copy"; that is noted."""
    of_split = defaultdict(list)
    for folder in sorted(folders):
        of_split[split_named(folder)].append(f"{place}/{folder}".lstrip("/"))
    rivals = [(split, *names[:2]) for split, names in of_split.items() if len(names) > 1]
    for split, first, second in rivals:
        found.lose(two_candidates(split, first, second))
    return bool(rivals)


def _label(word):
    """Emotion 0..6 of a class, None for contempt."""
    try:
        return read_label(word)
    except ValueError:
        return None


def _joined(places):
    """{place: {split: [(`Entry`, label)]}} of {place: {folder of a split: [(`Entry`, label)]}}.

    Places none of which is complete are one where they are it together, and no split is in two of them.
    """
    splits = [{split_named(folder) for folder in folders} for folders in places.values()]
    together = _splits({folder: faces for folders in places.values() for folder, faces in folders.items()})
    disjoint = sum(map(len, splits)) == len(set().union(*splits))
    if disjoint and is_complete(together) and not any(map(is_complete, splits)):
        return {" and ".join(place or THIS for place in places): together}
    return {place: _splits(folders) for place, folders in places.items()}


def is_complete(splits):
    """Whether there are faces to train on and to test on among some splits."""
    return set(NEEDED) <= set(splits)


def _splits(folders):
    """{split: [(`Entry`, label)]} of {folder: the same}. Where validation is all beside training, it is the test."""
    splits = defaultdict(list)
    for folder, faces in folders.items():
        splits[split_named(folder)] += faces
    others = [folder for folder in folders if split_named(folder) != "Training"]
    if splits.keys() == {"Training", "PublicTest"} and all(map(is_validation, others)):
        splits["PrivateTest"] = splits.pop("PublicTest")
    return {split: splits[split] for split in SPLITS if splits.get(split)}


def place_within(name):
    """What orders the pictures of a split alike in whatever they lie. name: the path of one, as `read_pictures` says.

    Its class folder and its own name come first; what lies above tells apart those that have both in common.
    """
    *_, folder, file = name.split("/")
    return folder, file, name


def read_pictures(splits, progress, notes):
    """Yield the faces of {split: [(`Entry`, label)]} as `Block`s, in order; `numbers` are the paths of the files.

    progress: called with the number of bytes just read. Pictures of another size or colour are brought to 48x48 grey;
    of one that is not square its middle is taken; `notes` gets a sentence about their number.
    """
    changed = 0
    with ThreadPoolExecutor(2) as pool:
        for split, faces in splits.items():
            for block in in_batches(faces, BLOCK_ROWS):
                contents = [_content(entry) for entry, _ in block]
                progress(sum(len(content) for content in contents if isinstance(content, bytes)))
                names = [as_text(entry.path) for entry, _ in block]
                read = list(pool.map(_read, contents, names))
                good = [place for place, (face, _) in enumerate(read) if not isinstance(face, str)]
                changed += sum(other for _, other in read)
                yield Block(
                    [names[place] for place in good],
                    np.full(len(good), SPLITS.index(split)),
                    np.array([block[place][1] for place in good], np.int64),
                    None,
                    np.array([read[place][0] for place in good], np.uint8).reshape(-1, PIXELS),
                    [(split, names[place], face) for place, (face, _) in enumerate(read) if isinstance(face, str)],
                )
    if changed:
        notes.append(f"brought to 48x48 grey: {counted(changed, 'picture')} of another size or in colour")


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
        picture = decode(BytesIO(content), name)
    except Unreadable as error:
        return f"picture: {error}", False
    changed = picture.shape[:2] != (SIDE, SIDE) or bool((picture != picture[:, :, :1]).any())
    return square_resize(to_grey(picture), SIDE), changed
