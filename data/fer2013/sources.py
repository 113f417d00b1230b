"""What to read: the best of the tables, class folders and h5 files in a place.

Formats are recognised by content, not by name:

- tables with the columns pixels and emotion, and perhaps Usage, V/A/D or FER+ votes (`tables`);
- images in class folders (`images`);
- data.h5 of the program that this one descends from (`ancestor`).
"""

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import PurePosixPath
from typing import NamedTuple

from data.archives import ARCHIVE_SUFFIXES
from data.fer2013.ancestor import check_h5, read_h5
from data.fer2013.ferplus import add_votes, require_votes
from data.fer2013.images import group_images, label_images, read_images
from data.fer2013.tables import VAD, VOTES, NotUsed, first_line, open_table, read_rows, split_named
from utils.files import UserError
from utils.images import is_image
from utils.tasks import SPLITS
from utils.text import counted

ORIGIN_NAME = "vad_origin.txt"  # its first line says where V/A/D that are not ratings come from
ANNOTATIONS, DERIVED, NO_VAD = "annotations", "derived from FER+ votes", "none"
TABLE_SUFFIXES = (".csv", ".tsv", ".txt", ".tab", ".dat", "", *ARCHIVE_SUFFIXES)
H5_SUFFIXES = (".h5", ".hdf5")


class Rank(NamedTuple):
    """How good a source is: sources are compared by these, the first that differs decides."""

    has_vad: bool
    has_votes: bool
    is_whole: bool
    is_table: bool
    is_on_disk: bool


@dataclass(frozen=True)
class Part:
    """Faces of one split, or of all.

    name: of the table, the h5 file or the folder of images. place: the folder around it. split:
    None where each row says its own. vad_origin: where V/A/D come from. read: yields each `Row`,
    given the split.
    """

    name: str
    place: str
    split: str | None
    vad_origin: str
    rank: Rank
    read: Callable = field(repr=False)


@dataclass(frozen=True)
class Source:
    """Faces that can be read: a `Part` without a split, or one for each split."""

    parts: list[Part]

    @property
    def description(self):
        """The names of its files and folders."""
        return ", ".join(part.name for part in self.parts)

    @property
    def files(self):
        """{split: name of its file or folder}; empty where each row says its split."""
        return {part.split: part.name for part in self.parts if part.split}

    @property
    def vad_origin(self):
        """Where V/A/D come from."""
        return self.parts[0].vad_origin

    @property
    def is_annotated(self):
        """Whether V/A/D are annotations, not derived from votes."""
        return self.vad_origin not in (DERIVED, NO_VAD)

    @property
    def is_complete(self):
        """Whether there are faces to train and to test on; a public split can be drawn."""
        needed = SPLITS if self.is_annotated else ("Training", "PrivateTest")
        return not self.files or set(needed) <= self.files.keys()

    def read(self):
        """Yield each `Row`."""
        for part in self.parts:
            yield from part.read(part.split)


def find_source(files):
    """(the best `Source` in {name: `File`} or None, [why something is not used]).

    Better are complete sources, then V/A/D, votes, one table before one for each split, tables
    before images, files on disk before archives. Raises UserError when there is no complete source
    because a file cannot be read, two are for one split, or a class folder is misspelled.
    """
    kinds = defaultdict(list)
    for file in files.values():
        kinds[_kind(file, is_alone=len(files) == 1)].append(file)
    tables, errors = _find_tables(kinds["table"], kinds["origin"])
    folders, more = _find_folders(kinds["image"])
    others, no_faces = _attempt(_h5_part, kinds["h5"])
    groups, left_out = _group([*tables, *folders, *others])
    sources, conflicts = _attempt(_make_source, groups)
    errors += more + no_faces + left_out + conflicts
    best = max(sources, key=_rank, default=None)
    problems = [error for error in errors if isinstance(error, UserError)]
    if problems and not (best and best.is_complete):
        raise problems[0]
    worse = [source.description for source in sources if source is not best]
    unused = [*map(str, errors), *(f"{name}: there is a better source" for name in worse)]
    suffixes = Counter(file.suffix for file in kinds["other"])
    unused += [counted(count, f"{suffix} file") for suffix, count in suffixes.items()]
    return best, unused


def _kind(file, is_alone):
    if file.name == ORIGIN_NAME:
        return "origin"
    if is_image(PurePosixPath(file.name)):
        return "image"
    if file.suffix in H5_SUFFIXES:
        return "h5"
    return "table" if file.suffix in TABLE_SUFFIXES or is_alone else "other"


def _is_on_disk(file):
    return not any(part.lower().endswith(ARCHIVE_SUFFIXES) for part in file.folder.split("/"))


def _attempt(function, items):
    """([function(item)], [the ValueError that it raised for another item])."""
    results, errors = [], []
    for item in items:
        try:
            results.append(function(item))
        except ValueError as error:
            errors.append(error)
    return results, errors


def _find_tables(files, origins):
    """([`Part`], [errors]). origins: the `File` vad_origin.txt, if any."""
    lines = [first_line(file)[0].strip() for file in origins]
    tables, errors = _attempt(open_table, files)
    faces = [table for table in tables if table.has("pixels")]
    all_votes = [table for table in tables if table not in faces]
    votes = {table.file.folder: table for table in reversed(all_votes)}  # the first of a folder
    make = partial(_table_part, votes=votes, origin=next(filter(None, lines), ANNOTATIONS))
    parts, unusable = _attempt(make, faces)
    for name in (table.file.name for table in all_votes):
        if not any(part.name.endswith(f", {name}") for part in parts):
            reason = "these FER+ votes lie beside no table with Usage, or beside other votes"
            unusable.append(NotUsed(f"{name}: {reason}"))
    return parts, errors + unusable


def _table_part(table, votes, origin):
    """The `Part` of a table of faces. votes: {folder: `Table` of the FER+ votes in it}.

    A table is for the split that it is named for, else for those in its column Usage, else for the
    one that a folder around it is named for, the nearest first. Raises NotUsed.
    """
    *folders, name = table.file.name.split("/")
    split = split_named(name)
    if split is None and not table.has("usage"):
        split = next(filter(None, map(split_named, reversed(folders))), None)
        if split is None:
            raise NotUsed(f"{table.file.name} has no Usage, and no split in its name")
    has_vad = table.has(*VAD)
    beside = None if has_vad or split else votes.get(table.file.folder)
    has_votes = beside is not None or table.has(*VOTES)

    def read(split):
        rows = read_rows(table, split)
        rows = add_votes(rows, beside) if beside else rows
        return require_votes(rows) if has_votes and not has_vad else rows

    names = [one.file.name for one in (table, beside) if one]
    vad_origin = origin if has_vad else DERIVED if has_votes else NO_VAD
    rank = Rank(has_vad, has_votes, split is None, True, _is_on_disk(table.file))
    return Part(", ".join(names), table.file.folder, split, vad_origin, rank, read)


def _find_folders(files):
    """([`Part`], [errors]) of the images in class folders."""
    splits, unused = group_images(files)
    parts, errors = _attempt(_image_part, sorted(splits.items()))
    if {part.split for part in parts} == {"Training", "PublicTest"}:  # the only faces to test on
        rename = {"Training": "Training", "PublicTest": "PrivateTest"}
        parts = [replace(part, split=rename[part.split]) for part in parts]
    return parts, unused + errors


def _image_part(item):
    """The `Part` of (folder, {class folder: [`File`]})."""
    name, classes = item
    images, unknown = label_images(name, classes)
    place, _, folder = name.rpartition("/")
    without = f" (without {', '.join(unknown)})" if unknown else ""
    description = f"{counted(len(images), 'image')} in {name}{without}"
    rank = Rank(False, False, False, False, _is_on_disk(images[0][0]))
    return Part(description, place, split_named(folder), NO_VAD, rank, partial(read_images, images))


def _h5_part(file):
    has_vad = check_h5(file)
    rank = Rank(has_vad, False, True, True, _is_on_disk(file))
    origin = ANNOTATIONS if has_vad else NO_VAD
    return Part(file.name, file.folder, None, origin, rank, lambda split: read_h5(file))


def _group(parts):
    """([[`Part`]], [errors]): one without a split alone; of splits those of a place, or all."""
    groups, errors, kinds = [[part] for part in parts if not part.split], [], defaultdict(list)
    for part in parts:
        if part.split:
            kinds[part.rank.has_vad, part.rank.is_table].append(part)
    for alike in kinds.values():
        places = defaultdict(list)
        for part in alike:
            places[part.place].append(part)
        complete = [group for group in places.values() if _has_test(group)]
        groups += complete or [alike]
        errors += [NotUsed(f"{part.name}: there is a complete source elsewhere")
                   for part in alike if complete and not _has_test(places[part.place])]  # fmt: skip
    return groups, errors


def _has_test(parts):
    return {"Training", "PrivateTest"} <= {part.split for part in parts}


def _make_source(parts):
    """The `Source` of these. Raises UserError for two of one split."""
    names = {}
    for part in parts:
        if part.split in names:
            raise UserError(
                f"two candidates for {part.split}: {names[part.split]} and {part.name}: remove "
                "one, or give the path of the one to use"
            )
        names[part.split] = part.name
    return Source(parts)


def _rank(source):
    return source.is_complete, min(part.rank for part in source.parts)
