"""What to read: the best of the tables, class folders and h5 files in a place.

Formats are recognised by content, not by name:

- tables with the columns pixels and emotion, and perhaps Usage, V/A/D or FER+ votes (`tables`);
- images in class folders (`images`);
- data.h5 of the program that this one descends from, with {split}_pixel, {split}_label and perhaps
  {split}_VAD.
"""

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePosixPath

import h5py
import numpy as np

from data import FACE_SIZE
from data.archives import ARCHIVE_SUFFIXES, file_errors
from data.fer2013.ferplus import add_votes, derive_vad, read_votes
from data.fer2013.images import check_single, find_images, read_images
from data.fer2013.tables import (
    PIXELS,
    VAD,
    VOTES,
    NotATable,
    Rows,
    read_header,
    read_rows,
    split_named,
)
from utils.files import UserError, one_line
from utils.images import is_image
from utils.tasks import EMOTIONS, SPLITS, VAD_LIMIT
from utils.text import counted

ORIGIN_NAME = "vad_origin.txt"  # its first line says where V/A/D that are not ratings come from
ANNOTATIONS, DERIVED, NO_VAD = "annotations", "derived from FER+ votes", "none"
TABLE_SUFFIXES = (".csv", ".tsv", ".txt", ".tab", ".dat", "", *ARCHIVE_SUFFIXES)
H5_SUFFIXES = (".h5", ".hdf5")
H5_ROWS = 4096  # read at a time


@dataclass(frozen=True)
class Source:
    """Faces that can be read.

    description: its files, for messages. splits: {split: name of its file or folder}; empty where
    each row says its split. vad_origin: where V/A/D come from. read: yields `Rows`. rank: of two
    sources the one with the larger rank is better.
    """

    description: str
    splits: dict[str, str]
    vad_origin: str
    read: Callable = field(repr=False)
    rank: tuple

    @property
    def is_annotated(self):
        """Whether V/A/D are annotations, not derived from votes."""
        return self.vad_origin not in (DERIVED, NO_VAD)

    @property
    def is_complete(self):
        """Whether there are faces to train and to test on; a public split can be drawn."""
        needed = SPLITS if self.is_annotated else ("Training", "PrivateTest")
        return not self.splits or set(needed) <= set(self.splits)


def find_source(files):
    """(the best `Source` in {name: `File`} or None, [why something is not used]).

    Better are complete sources, then V/A/D, votes, one table before one for each split, tables
    before images, files on disk before archives. Raises UserError when there is no complete source
    because two files or folders are for one split, or a class folder is misspelled.
    """
    groups, unused, problems = defaultdict(list), [], []
    for file in files.values():
        groups[_kind(file, is_alone=len(files) == 1)].append(file)
    candidates = [
        *_find_tables(groups["table"], unused, problems),
        *_find_folders(groups["image"], unused, problems),
        *_find_h5(groups["h5"], unused),
    ]
    best = max(candidates, key=lambda source: (source.is_complete, *source.rank), default=None)
    if problems and not (best and best.is_complete):
        raise problems[0]
    others = [source.description for source in candidates if source is not best]
    unused += map(str, problems)
    unused += [f"{description}: there is a better source" for description in others]
    suffixes = Counter(file.suffix for file in groups["other"])
    unused += [counted(count, f"{suffix} file") for suffix, count in suffixes.items()]
    return best, unused


def _kind(file, is_alone):
    if is_image(PurePosixPath(file.name)):
        return "image"
    if file.suffix in H5_SUFFIXES:
        return "h5"
    return "table" if file.suffix in TABLE_SUFFIXES or is_alone else "other"


def _on_disk(file):
    return not any(part.lower().endswith(ARCHIVE_SUFFIXES) for part in file.folder.split("/"))


def _make_sources(make, groups, problems):
    """[make(group)] of those groups for which that does not raise a UserError."""
    sources = []
    for group in groups:
        try:
            sources.append(make(group))
        except UserError as error:
            problems.append(error)
    return sources


def _find_tables(files, unused, problems):
    """The `Source`s that tables make up: one with Usage alone, others together."""
    origin, faces, votes = ANNOTATIONS, {}, {}
    for file in files:
        if file.name == ORIGIN_NAME:
            origin = file.read().decode("utf-8-sig", "replace").strip().partition("\n")[0] or origin
            continue
        try:
            header = read_header(file)
            (faces if header.has("pixels") else votes)[file] = header
        except NotATable as error:
            unused.append(f"{file.name} {error}")
        except UserError as error:
            problems.append(error)
    whole = [file for file in faces if _is_whole(file, faces)]
    sources = []
    for file in whole:
        beside = [
            vote for vote in votes if vote.folder == file.folder and not faces[file].has(*VAD)
        ]
        vote = (beside[0], votes.pop(beside[0])) if beside else None
        sources.append(_table_source([(file, faces[file], None)], origin, vote))
    unused += [f"{vote.name}: no faces without V/A/D lie beside these FER+ votes" for vote in votes]
    for has_vad in (True, False):
        tables = [
            (file, header, _split_of(file))
            for file, header in faces.items()
            if file not in whole and header.has(*VAD) == has_vad
        ]
        named = [table for table in tables if table[-1]]
        unused += [f"{file.name} has no Usage, and no split in its name"
                   for file, _, split in tables if split is None]  # fmt: skip
        groups, rest = complete_groups(
            named, lambda table: table[0].folder, lambda table: table[-1]
        )
        unused += [f"{file.name}: other tables are complete" for file, *_ in rest]
        sources += _make_sources(partial(_table_source, origin=origin), groups, problems)
    return sources


def _is_whole(file, tables):
    """Whether a table has Usage, and is not one of several that are named for splits."""
    if not tables[file].has("usage"):
        return False
    beside = [other for other in tables if other.folder == file.folder]
    named = {split_named(other.name.rpartition("/")[2]) for other in beside} - {None}
    return split_named(file.name.rpartition("/")[2]) is None or len(named) == 1


def _split_of(file):
    """The split that a file is named for, else a folder around it, the nearest first; or None."""
    return next(filter(None, map(split_named, reversed(file.name.split("/")))), None)


def complete_groups(items, place, split):
    """Items in groups that have training and private faces: of one place, or else all together.

    place, split: called with an item. Returns the groups, and a list of the items in none.
    """
    groups = defaultdict(list)
    for item in items:
        groups[place(item)].append(item)
    needed = {"Training", "PrivateTest"}
    complete = [group for group in groups.values() if needed <= set(map(split, group))]
    if not complete:
        return [items] if items else [], []
    return complete, [item for item in items if not any(item in group for group in complete)]


def _table_source(tables, origin, votes=None):
    """The `Source` of [(`File`, `Header`, split or None)]; votes: (`File`, `Header`) or None."""
    splits = check_single([(split, file.name) for file, _, split in tables])
    header, files = tables[0][1], [file for file, *_ in tables] + ([votes[0]] if votes else [])
    has_vad, has_votes = header.has(*VAD), votes is not None or header.has(*VOTES)
    is_whole = None in splits
    return Source(
        description=", ".join(file.name for file in files),
        splits={} if is_whole else splits,
        vad_origin=origin if has_vad else DERIVED if has_votes else NO_VAD,
        read=partial(_read_tables, tables, votes),
        rank=(has_vad, has_votes, is_whole, True, all(map(_on_disk, files))),
    )


def _read_tables(tables, votes):
    for file, header, split in tables:
        blocks = read_rows(file, header, split)
        if votes:
            blocks = add_votes(blocks, file.name, *read_votes(*votes))
        for rows in blocks:
            is_derived = rows.vad is None and rows.votes is not None
            yield derive_vad(rows, file.name) if is_derived else rows


def _find_folders(files, unused, problems):
    """The `Source`s that images in class folders make up."""
    folders = find_images(files, unused, problems)
    groups, rest = complete_groups(folders, lambda folder: folder[0], lambda folder: folder[1])
    unused += [f"{name}: other folders are complete" for _, _, name, _ in rest]
    return _make_sources(_image_source, groups, problems)


def _image_source(folders):
    """The `Source` of [(place, split, name of the folder, [(`File`, label)])]."""
    splits = check_single([(split, name) for _, split, name, _ in folders])
    if splits.keys() == {"Training", "PublicTest"}:  # all that is beside them is the test
        folders = [
            (place, split.replace("Public", "Private"), *rest) for place, split, *rest in folders
        ]
        splits = {split.replace("Public", "Private"): name for split, name in splits.items()}

    def read():
        return (read_images(images, split) for _, split, _, images in folders)

    count = sum(len(images) for *_, images in folders)
    on_disk = all(_on_disk(images[0][0]) for *_, images in folders)
    description = f"{counted(count, 'image')} in {', '.join(splits.values())}"
    return Source(description, splits, NO_VAD, read, (False, False, False, False, on_disk))


def _find_h5(files, unused):
    """The `Source`s that h5 files are; prepared ones are not."""
    sources = []
    for file in files:
        try:
            with file.open() as stream, h5py.File(stream, "r") as h5:
                is_prepared = "format_version" in h5.attrs
                shapes = {name: h5[name].shape for name in h5 if hasattr(h5[name], "shape")}
        except OSError as error:
            unused.append(f"{file.name} is not an HDF5 file ({one_line(error)})")
            continue
        if is_prepared and file.folder:
            unused.append(f"{file.name} was prepared earlier: give its path to use it")
        if is_prepared:
            continue
        if not all(_has_faces(shapes, split) for split in SPLITS):
            unused.append(f"{file.name} has no 48x48 pixels and labels of all three splits")
            continue
        has_vad = all(f"{split}_VAD" in shapes for split in SPLITS)
        sources.append(
            Source(
                description=file.name,
                splits=dict.fromkeys(SPLITS, file.name),
                vad_origin=ANNOTATIONS if has_vad else NO_VAD,
                read=partial(_read_h5, file),
                rank=(has_vad, False, True, True, _on_disk(file)),
            )
        )
    return sources


def _has_faces(shapes, split):
    """Whether {dataset: shape} has as many pixels, labels and V/A/D, if any, of a split."""
    count = shapes.get(f"{split}_label", ())[:1]
    vad = shapes.get(f"{split}_VAD", count + (len(VAD),))
    pixels = [count + shape for shape in ((PIXELS,), (FACE_SIZE, FACE_SIZE))]
    return vad == count + (len(VAD),) and shapes.get(f"{split}_pixel") in pixels


def _read_h5(file):
    """Yield the `Rows` of an h5 file. Raises UserError when a value is out of range."""
    with file_errors(file.name), file.open() as stream, h5py.File(stream, "r") as h5:
        for number, split in enumerate(SPLITS):
            pixels, labels, vad = (h5.get(f"{split}_{name}") for name in ("pixel", "label", "VAD"))
            for start in range(0, len(labels), H5_ROWS):
                part = slice(start, start + H5_ROWS)
                faces, label = pixels[part].reshape(-1, PIXELS), labels[part]
                values = None if vad is None else np.asarray(vad[part], np.float32)
                if not _is_in_range(faces, label, values):
                    raise UserError(f"{file.name} has {split} values out of range: get it again")
                ids = list(range(start + 1, start + 1 + len(label)))
                splits = np.full(len(label), number, np.int64)
                faces, label = faces.astype(np.uint8), label.astype(np.int64)
                yield Rows(ids, splits, label, faces, values, None, [])


def _is_in_range(pixels, labels, vad):
    is_pixel = (pixels >= 0) & (pixels <= 255) & (pixels % 1 == 0)
    has_range = vad is None or (np.abs(vad) <= VAD_LIMIT).all()
    return is_pixel.all() and np.isin(labels, range(len(EMOTIONS))).all() and has_range
