"""What to read: the best of the tables, class folders and h5 files in a place.

Formats are recognised by content, not by name:

- tables with the columns pixels and emotion, and perhaps Usage, V/A/D or FER+ votes (`tables`);
- images in class folders (`images`);
- data.h5 of the program that this one descends from (`ancestor`).
"""

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePosixPath

from data.archives import ARCHIVE_SUFFIXES
from data.fer2013.ancestor import read_h5, read_shapes
from data.fer2013.ferplus import add_votes, derive_vad, read_votes
from data.fer2013.images import check_single, find_images, read_images
from data.fer2013.tables import VAD, VOTES, NotATable, read_header, read_rows, split_named
from utils.files import UserError
from utils.images import is_image
from utils.tasks import SPLITS
from utils.text import counted

ORIGIN_NAME = "vad_origin.txt"  # its first line says where V/A/D that are not ratings come from
ANNOTATIONS, DERIVED, NO_VAD = "annotations", "derived from FER+ votes", "none"
TABLE_SUFFIXES = (".csv", ".tsv", ".txt", ".tab", ".dat", "", *ARCHIVE_SUFFIXES)
H5_SUFFIXES = (".h5", ".hdf5")


@dataclass(frozen=True)
class Source:
    """Faces that can be read.

    description: its files, for messages. splits: {split: name of its file or folder}; empty where
    each row says its split. vad_origin: where V/A/D come from. read: yields each `Row`. rank: the
    larger the better.
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
    faces, votes, origin = _read_headers(files, unused, problems)
    whole = [file for file in faces if _is_whole(file, faces)]
    sources = []
    for file in whole:
        beside = [vote for vote in votes if vote.folder == file.folder]
        vote = None if faces[file].has(*VAD) or not beside else (beside[0], votes.pop(beside[0]))
        table = (file.folder, None, file.name, (file, faces[file]))
        sources.append(_table_source([table], origin, vote))
    unused += [f"{vote.name}: no faces without V/A/D lie beside these FER+ votes" for vote in votes]
    for has_vad in (True, False):
        tables = [
            (file.folder, _split_of(file), file.name, (file, header))
            for file, header in faces.items()
            if file not in whole and header.has(*VAD) == has_vad
        ]
        unused += [f"{name} has no Usage, and no split in its name"
                   for _, split, name, _ in tables if split is None]  # fmt: skip
        groups = _complete_groups([table for table in tables if table[1]], unused)
        sources += _make_sources(partial(_table_source, origin=origin), groups, problems)
    return sources


def _read_headers(files, unused, problems):
    """({`File`: `Header`} of faces, the same of FER+ votes, where V/A/D come from)."""
    faces, votes, origin = {}, {}, ANNOTATIONS
    for file in files:
        try:
            if file.name == ORIGIN_NAME:
                lines = file.read().decode("utf-8-sig", "replace").strip().splitlines()
                origin = (lines or [ANNOTATIONS])[0]
                continue
            header = read_header(file)
            (faces if header.has("pixels") else votes)[file] = header
        except NotATable as error:
            unused.append(f"{file.name} {error}")
        except UserError as error:
            problems.append(error)
    return faces, votes, origin


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


def _complete_groups(parts, unused):
    """Parts of a source in groups with training and private faces: of a place, or else all of them.

    parts: [(place, split, name, content)].
    """
    groups = defaultdict(list)
    for part in parts:
        groups[part[0]].append(part)
    needed = {"Training", "PrivateTest"}
    complete = [group for group in groups.values() if needed <= {split for _, split, *_ in group}]
    if not complete:
        return [parts] if parts else []
    rest = [part for group in groups.values() if group not in complete for part in group]
    unused += [f"{name}: there is a complete source elsewhere" for _, _, name, _ in rest]
    return complete


def _table_source(parts, origin, votes=None):
    """The `Source` of [(place, split or None, name, (`File`, `Header`))].

    votes: (`File`, `Header`) of FER+ votes, or None.
    """
    splits = check_single(parts)
    (_, header), is_whole = parts[0][-1], None in splits
    files = [file for *_, (file, _) in parts] + ([votes[0]] if votes else [])
    has_vad, has_votes = header.has(*VAD), votes is not None or header.has(*VOTES)
    return Source(
        description=", ".join(file.name for file in files),
        splits={} if is_whole else splits,
        vad_origin=origin if has_vad else DERIVED if has_votes else NO_VAD,
        read=partial(_read_tables, parts, votes),
        rank=(has_vad, has_votes, is_whole, True, all(map(_on_disk, files))),
    )


def _read_tables(parts, votes):
    for _, split, _, (file, header) in parts:
        rows = read_rows(file, header, split)
        if votes:
            rows = add_votes(file.name, rows, *read_votes(*votes))
        is_derived = not header.has(*VAD) and (votes is not None or header.has(*VOTES))
        for row in rows:
            yield derive_vad(row) if is_derived and not row.fault else row


def _find_folders(files, unused, problems):
    """The `Source`s that images in class folders make up."""
    groups = _complete_groups(find_images(files, unused, problems), unused)
    return _make_sources(_image_source, groups, problems)


def _image_source(parts):
    """The `Source` of [(place, split, name of the folder, [(`File`, label)])]."""
    splits = check_single(parts)
    if splits.keys() == {"Training", "PublicTest"}:  # the only faces to test on
        rename = {"Training": "Training", "PublicTest": "PrivateTest"}
        parts = [(place, rename[split], *rest) for place, split, *rest in parts]
        splits = check_single(parts)

    def read():
        for _, split, _, images in parts:
            yield from read_images(images, split)

    count = sum(len(images) for *_, images in parts)
    on_disk = all(_on_disk(images[0][0]) for *_, images in parts)
    description = f"{counted(count, 'image')} in {', '.join(splits.values())}"
    return Source(description, splits, NO_VAD, read, (False, False, False, False, on_disk))


def _find_h5(files, unused):
    """The `Source`s that h5 files are; prepared ones are not."""
    sources = []
    for file in files:
        try:
            shapes = read_shapes(file)
        except ValueError as error:
            unused.append(f"{file.name} {error}")
            continue
        if shapes is None:
            unused += [f"{file.name} was prepared earlier: give its path"] if file.folder else []
            continue
        has_vad = all(f"{split}_VAD" in shapes for split in SPLITS)
        splits = dict.fromkeys(SPLITS, file.name)
        origin, rank = ANNOTATIONS if has_vad else NO_VAD, (has_vad, False, True, True)
        read = partial(read_h5, file)
        sources.append(Source(file.name, splits, origin, read, (*rank, _on_disk(file))))
    return sources
