"""Where the faces come from: what lies in a folder or a file, told by its content, and which of it is read.

Four kinds are known, wherever they lie (`data/fer2013/containers.py`) and however they are written:

- tables with pixels, emotion, valence, arousal and dominance: the annotators' files, one a split;
- tables with pixels and emotion: plain FER2013, whose column Usage, or whose name, says the split; with FER+ votes
  of the same rows V/A/D are derived from them (`data/fer2013/ferplus.py`);
- folders of pictures, train/<class>/ and test/<class>/ (`data/fer2013/pictures.py`);
- data.h5 of the program that this one descends from, {split}_pixel and {split}_label.
"""

import hashlib
import json
import os
from collections import Counter, defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

import h5py

from data.fer2013.containers import AGAIN, ARCHIVE_SUFFIXES, DEPTH, ENCRYPTED, Entry, Tree, files_below, volumes
from data.fer2013.pictures import NEEDED, THIS, class_folders
from data.fer2013.tables import HEAD, NO_HEADER, PIXELS, Faulty, Format, read_format, split_named, two_candidates
from utils.files import UserError, is_unfinished, one_line
from utils.images import is_image
from utils.tasks import SPLITS
from utils.text import counted

HOME = Path(__file__).resolve().parent.parent  # the data folder of the project
PICTURES = "pictures"
ALL = "all"  # the split of a table whose column Usage says it
H5_NAMES = ("data.h5", "data_prepared.h5")  # the second where the ancestor's lies in the place of ours
MOST_NAMED = 6  # kinds of files in a message
REPORT_NAME = "data_report.csv"
ORIGIN_NAME = "vad_origin.txt"  # in which a user says where V/A/D come from
_TABLE_SUFFIXES = (".csv", ".tsv", ".txt", ".tab", ".dat", "", *ARCHIVE_SUFFIXES)
_NO_TABLES = (".md", ".py", ".pdf", ".bib", ".ipynb", ".json", ".log", ".t7", ".docx", ".xlsx", ".html")


@dataclass(frozen=True)
class Part:
    """One table: its file, how it is written, and the split that it is named for (`ALL`: it may have any).

    Of each row the column Usage, where there is one, says the split.
    """

    entry: Entry
    layout: Format
    split: str | None

    @property
    def name(self):
        """How messages and the report name it."""
        return self.entry.name


@dataclass(frozen=True)
class Source:
    """What will be read.

    kind: "tables", "pictures" or "h5"; parts: `Part`s, or {split: [(`Entry`, label)]}, or the h5 file; votes: `Part`
    of FER+ votes, or None; description: which files these are, for people.
    """

    kind: str
    parts: object
    votes: Part | None
    files: tuple
    description: str
    rank: tuple

    @property
    def is_complete(self):
        """Whether it has faces to train on and to test on."""
        return self.rank[0]

    def described(self):
        """What it is, beside a better one."""
        splits = SPLITS if self.is_complete or self.kind != "tables" else [part.split for part in self.parts]
        return f"{self.description} ({'complete, too' if self.is_complete else 'has only ' + ', '.join(splits)})"

    @property
    def origin(self):
        """Where V/A/D come from: one of `store.VAD_ORIGINS`."""
        if self.kind == "tables":
            without = "derived from FER+ votes" if self.votes else "none"
            return "annotations" if self.parts[0].layout.has_vad else without
        return "annotations" if self.kind == "h5" and self.rank[1] else "none"


@dataclass
class Survey:
    """What was found.

    source: the best, or None; others: descriptions of those that are not taken; unused: sentences, why a file is not
    used; damaged: those of them about what should be, but cannot be read; kinds: {suffix: number of files} of those
    that are not even looked into.
    """

    source: Source | None = None
    others: list = field(default_factory=list)
    unused: list = field(default_factory=list)
    damaged: list = field(default_factory=list)
    kinds: Counter = field(default_factory=Counter)

    def leave(self, name, reason):
        """Note that a file is not used; reason: a clause that follows its name."""
        self.unused.append(f"{name} {reason}")

    def lose(self, error):
        """Note that a file cannot be read. error: the UserError about it, or its text."""
        if str(error) not in self.unused:
            self.unused.append(str(error))
            self.damaged.append(str(error))

    def report(self, most=12):
        """Sentences for people about what is not used, `most` at the most; [] when there is nothing to say."""
        reasons = [*self.others, *self.unused]
        if self.kinds:
            kinds = [f"{count:,} {suffix}" for suffix, count in self.kinds.most_common()]
            kinds[MOST_NAMED:] = ["..."] * (len(kinds) > MOST_NAMED)
            reasons.append(f"files of other kinds: {', '.join(kinds)}")
        more = len(reasons) - most
        return reasons[:most] + ([counted(more, "more file")] if more > 0 else [])


def skipped(path):
    """What is looked for nowhere: what the project itself has in its data folder, and what it wrote."""
    if path.name in (REPORT_NAME, ORIGIN_NAME) or is_unfinished(path):
        return True
    own = path.suffix in (".py", ".md", ".png") or os.path.exists(path / "__init__.py")  # which raises nothing
    return own and path.parent == HOME


@contextmanager
def survey(place):
    """Look at everything in a folder, or at a file: yields the `Survey`, whose archives stay open meanwhile.

    Raises UserError when the place does not exist.
    """
    check_exists(place)
    with Tree(place, skipped) as tree:
        found, tables, pictures, candidates = Survey(), [], [], []
        unknown = set()  # files of other kinds
        for error in tree.problems.values():
            found.lose(error)
        for entry in tree.entries:
            suffix = entry.path.suffix.lower()
            if is_image(entry.path) and entry.encrypted:
                found.lose(f"{entry.disk.name} {ENCRYPTED}")
            elif is_image(entry.path):
                pictures.append(entry)
            elif suffix in (".h5", ".hdf5"):
                candidates += _h5_sources(entry, found)
            elif suffix in _TABLE_SUFFIXES or len(entry.path.parts) == 1 and suffix not in _NO_TABLES:
                tables += _tables(entry, found)
            else:
                unknown.add(entry.disk if entry.disk.suffix.lower() in _NO_TABLES else entry.path)
        found.kinds.update(sorted(file.suffix.lower() for file in unknown))
        if Path(place).is_file() and len(tree.entries) == 1:
            tables += _votes_beside(Path(place))
        candidates += _table_sources(tables, found)
        candidates += _picture_sources(pictures, found)
        complete = sorted(candidates, key=lambda source: source.rank, reverse=True)
        if complete:
            found.source, *others = complete
            used = set(found.source.files)
            found.others = [source.described() for source in others if not set(source.files) <= used]
        yield found


def check_exists(place):
    """Raise UserError when there is no such place."""
    if not Path(place).exists():
        raise UserError(f"{place} does not exist: give an archive, a folder, a table or an h5 file")


def listing(place):
    """{name: (bytes, time of change in ns, digest)} of the files on disk that `survey` would look at.

    All pictures are one, whose digest is the SHA-256 of their paths, sizes and times; that of others is "".
    """
    check_exists(place)
    place, found, pictures = Path(place), {}, []
    base = place if place.is_dir() else place.parent
    for path in files_below(place, skipped) if place.is_dir() else [place]:
        stat, name = path.stat(), path.relative_to(base).as_posix()
        if is_image(path):
            pictures.append((name, stat.st_size, stat.st_mtime_ns))
        elif path.name not in H5_NAMES:
            found[name] = (stat.st_size, stat.st_mtime_ns, "")
    if pictures:
        _, sizes, times = zip(*pictures, strict=True)
        digest = hashlib.sha256(json.dumps(sorted(pictures)).encode())
        found[PICTURES] = (sum(sizes), max(times), digest.hexdigest())
    return found


def why_nothing(place, found):
    """The sentence about a place without faces. found: its `Survey`."""
    what = "; ".join(found.report(3)) or f"there are no files in it, nor in folders up to {DEPTH} deep"
    return (
        f"{place} holds no faces of FER2013 ({what}). Expected: a table with columns emotion and pixels (fer2013.csv, "
        "or the annotators' train, publictest and privatetest), folders train/<class> and test/<class> of pictures, or "
        "an archive of these"
    )


def _votes_beside(path):
    """The FER+ votes that lie beside a table that was given by its own path, as a list of `Part`."""
    if not os.access(path.parent, os.R_OK):
        return []

    def is_other(file):
        return file == path or file.is_dir() or file.suffix.lower() not in _TABLE_SUFFIXES

    with Tree(path.parent, is_other) as tree:
        parts = [part for entry in tree.entries if len(entry.path.parts) == 1 for part in _tables(entry, Survey())]
    return [part for part in parts if "pixels" not in part.layout.columns]


def _tables(entry, found):
    """The `Part` that a file is, as a list; notes in the `Survey` why it is none."""
    if entry.encrypted:
        found.lose(f"{entry.name} {ENCRYPTED}")
        return []
    try:
        with entry.open() as stream:
            head = stream.read(HEAD)
        if head.startswith(b"7z\xbc\xaf"):
            raise Faulty("is a 7-Zip archive, which is not read: unpack it and give the folder")
        if not head.strip(b"\0"):
            raise Faulty(NO_HEADER if head else f"is empty: {AGAIN}")
        if entry.path.suffix.lower() in ARCHIVE_SUFFIXES:
            raise Faulty(f"is not an archive in spite of its name, or its beginning is damaged: {AGAIN}")
        layout = read_format(head)
    except Faulty as error:
        found.leave(entry.name, error)
        return []
    except UserError as error:
        found.lose(error)
        return []
    if layout.has_usage:
        return [Part(entry, layout, split_named(entry.path.name))]
    names = (entry.path.name, *reversed(entry.path.parts[:-1]), entry.disk.name)
    return [Part(entry, layout, next(filter(None, map(split_named, names)), None))]


def _table_sources(parts, found):
    """The `Source`s that tables make up: of several in one place those are one that complete each other."""
    votes = [part for part in parts if "pixels" not in part.layout.columns]
    faces = _told_apart([part for part in parts if "pixels" in part.layout.columns])
    for part in faces:
        if part.split is None:
            found.leave(part.name, "has neither a column Usage nor a split (train, public, private) in its name")
    sources = []
    for part in (part for part in faces if part.split == ALL):
        beside = [vote for vote in votes if vote.entry.path.parent == part.entry.path.parent] or votes
        sources.append(_source([part], None if part.layout.has_vad or not beside else beside[0]))
    used = {part.votes.name for part in sources if part.votes}
    for vote in (vote for vote in votes if vote.name not in used):
        found.leave(vote.name, "has FER+ votes, but there are no faces without V/A/D that they belong to")
    for has_vad in (True, False):
        of_kind = [part for part in faces if part.split not in (ALL, None) and part.layout.has_vad == has_vad]
        sources += _split_sources(of_kind, found)
    return sources


def _told_apart(parts):
    """The `Part`s, with `ALL` for those with a column Usage, unless several of a folder are named for other splits."""
    named = defaultdict(set)

    def beside(part):
        return named[part.entry.disk.parent, part.layout.has_vad]

    for part in parts:
        if part.layout.has_usage and part.split:
            beside(part).add(part.split)
    whole = [part.layout.has_usage and (part.split is None or len(beside(part)) == 1) for part in parts]
    return [replace(part, split=ALL) if is_whole else part for part, is_whole in zip(parts, whole, strict=True)]


def _split_sources(parts, found):
    """The sources that tables of one split each make up: a complete place of its own, else all places together."""
    places = defaultdict(list)
    for part in parts:
        places[part.entry.disk if part.entry.disk.name != part.entry.path.name else part.entry.path.parent].append(part)
    groups, rest = [], []
    for group in places.values():
        (groups if {part.split for part in group} >= set(SPLITS) else rest).append(group)
    if rest and not groups:
        groups, rest = [parts], []
    for part in chain.from_iterable(rest):
        found.leave(part.name, f"has only {part.split}, and a complete source lies beside it")
    sources = []
    for group in groups:
        by_split = defaultdict(list)
        for part in group:
            by_split[part.split].append(part)
        several = next((same for same in by_split.values() if len(same) > 1), None)
        if several:
            found.lose(two_candidates(several[0].split, *(part.entry.path.as_posix() for part in several[:2])))
            continue
        sources.append(_source([by_split[split][0] for split in SPLITS if split in by_split]))
    return sources


def _source(parts, votes=None):
    """The `Source` of tables that belong together."""
    splits = SPLITS if parts[0].split == ALL else [part.split for part in parts]
    entries = [part.entry for part in (*parts, votes) if part is not None]
    disks = list(dict.fromkeys(file for entry in entries for file in volumes(entry.disk)))
    has_vad = parts[0].layout.has_vad
    complete = len(splits) == len(SPLITS) or not has_vad and {"Training", "PrivateTest"} <= set(splits)
    in_archive = any(entry.path.name != entry.disk.name for entry in entries)
    rank = (complete, has_vad, votes is not None, len(splits), not in_archive, -len(disks))
    return Source("tables", tuple(parts), votes, tuple(disks), ", ".join(entry.name for entry in entries), rank)


def _picture_sources(pictures, found):
    """The `Source` that pictures in folders of classes make up, for each place of such folders."""
    sources = []
    for place, splits in class_folders(pictures, found).items():
        count = sum(map(len, splits.values()))
        description = f"{counted(count, 'picture')} in folders of classes in {place or THIS}"
        missing = [split for split in NEEDED if split not in splits]
        if missing:
            found.leave(place or THIS, f"has {description}, but none for {' and '.join(missing)}")
            continue
        disks = tuple(dict.fromkeys(entry.disk for faces in splits.values() for entry, _ in faces))
        sources.append(Source("pictures", splits, None, disks, description, (True, False, False, 0, True, 0)))
    return sources


def _h5_sources(entry, found):
    """The `Source` that an h5 file of the ancestor is, as a list; our own data.h5 is none."""
    if entry.disk.name != entry.path.name:
        found.leave(entry.name, "is an h5 file in an archive: unpack it")
        return []
    try:
        with h5py.File(entry.disk, "r") as h5:
            if "format_version" in h5.attrs:
                if len(entry.path.parts) > 1:
                    found.leave(entry.path, "was prepared earlier: give its path to use it")
                return []
            splits = [split for split in SPLITS if f"{split}_pixel" in h5 and f"{split}_label" in h5]
            if len(splits) < len(SPLITS):
                raise KeyError(f"it lacks {', '.join(split for split in SPLITS if split not in splits)}")
            if any(h5[f"{split}_pixel"].size != h5[f"{split}_label"].size * PIXELS for split in splits):
                raise ValueError("its pictures are not 48x48")
            has_vad = all(f"{split}_VAD" in h5 for split in splits)
    except (OSError, KeyError, ValueError, AttributeError) as error:
        found.leave(entry.name, f"is no h5 file of faces ({one_line(error, 80)})")
        return []
    rank = (True, has_vad, False, len(SPLITS), True, -1)
    return [Source("h5", entry.disk, None, (entry.disk,), entry.name, rank)]
