"""Where the faces come from: what lies in a folder or a file, told by its content, and which of it is read.

Four kinds are known, wherever they lie (`data/fer2013/containers.py`) and however they are written:

- tables with pixels, emotion, valence, arousal and dominance: the annotators' files, one a split;
- tables with pixels and emotion: plain FER2013, whose column Usage, or whose name, says the split; with FER+ votes
  of the same rows V/A/D are derived from them (`data/fer2013/ferplus.py`);
- folders of pictures, train/<class>/ and test/<class>/ (`data/fer2013/pictures.py`);
- data.h5 of the program that this one descends from, {split}_pixel and {split}_label.
"""

from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import h5py

from data.fer2013.containers import AGAIN, ARCHIVE_SUFFIXES, Entry, Tree, files_below, volumes
from data.fer2013.pictures import class_folders
from data.fer2013.tables import HEAD, NO_HEADER, Faulty, Format, read_format, split_named
from utils.files import UNFINISHED, UserError
from utils.pictures import PICTURE_SUFFIXES
from utils.tasks import SPLITS

HOME = Path(__file__).resolve().parent.parent  # the data folder of the project
PICTURES = "pictures"
ALL = "all"  # the split of a table whose column Usage says it
H5_NAMES = ("data.h5", "data_prepared.h5")  # the second where the ancestor's lies in the place of ours
REPORT_NAME = "data_report.csv"
ORIGIN_NAME = "vad_origin.txt"  # in which a user says where V/A/D come from
_TABLE_SUFFIXES = (".csv", ".tsv", ".txt", ".tab", ".dat", "", *ARCHIVE_SUFFIXES)
_NO_TABLES = (".md", ".py", ".pdf", ".bib", ".ipynb", ".json", ".log", ".t7", ".docx", ".xlsx", ".html")


@dataclass(frozen=True)
class Part:
    """One table: its file, how it is written, and the split that all its rows are of (`ALL`: the column says it)."""

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

    source: the best, or None; others: descriptions of those that are not taken; unused: {name of a file: a sentence,
    why it is not used}; damaged: the same of what could not be read.
    """

    source: Source | None = None
    others: list = field(default_factory=list)
    unused: dict = field(default_factory=dict)
    damaged: dict = field(default_factory=dict)

    def leave(self, name, reason):
        """Note that a file is not used; reason: a clause that follows its name."""
        self.unused[name] = f"{name} {reason}"

    def lose(self, name, error):
        """Note that a file cannot be read. error: the UserError about it."""
        self.unused[name] = self.damaged[name] = str(error)

    def report(self, most=12):
        """Sentences for people about what is not used, `most` at the most; [] when there is nothing to say."""
        reasons = [*self.others, *self.unused.values()]
        more = len(reasons) - most
        return reasons[:most] + ([f"{more:,} more files"] if more > 0 else [])


def skipped(path):
    """What is looked for nowhere: what the project itself has in its data folder, and what it wrote."""
    own = path.suffix in (".py", ".md", ".png") or (path / "__init__.py").exists()
    named = path.name in (REPORT_NAME, ORIGIN_NAME) or path.name.endswith(UNFINISHED)
    return own and path.parent == HOME or named


@contextmanager
def survey(place):
    """Look at everything in a folder, or at a file: yields the `Survey`, whose archives stay open meanwhile.

    Raises UserError when the place does not exist.
    """
    check_exists(place)
    with Tree(place, skipped) as tree:
        found, tables, pictures, candidates = Survey(), [], [], []
        for name, error in tree.problems.items():
            found.lose(name, error)
        for entry in tree.entries:
            suffix = entry.path.suffix.lower()
            if suffix in PICTURE_SUFFIXES:
                pictures.append(entry)
            elif suffix in (".h5", ".hdf5"):
                candidates += _h5_sources(entry, found)
            elif suffix in _TABLE_SUFFIXES or len(entry.path.parts) == 1 and suffix not in _NO_TABLES:
                tables += _tables(entry, found)
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
    """{name: [bytes, time of change in ns]} of the files on disk that `survey` would look at; all pictures are one."""
    check_exists(place)
    place, found = Path(place), {}
    for path in files_below(place, skipped) if place.is_dir() else [place]:
        stat = path.stat()
        if path.suffix.lower() in PICTURE_SUFFIXES:
            size, changed = found.get(PICTURES, (0, 0))
            found[PICTURES] = [size + stat.st_size, max(changed, stat.st_mtime_ns)]
        elif path.name not in H5_NAMES:
            base = place if place.is_dir() else place.parent
            found[path.relative_to(base).as_posix()] = [stat.st_size, stat.st_mtime_ns]
    return found


def why_nothing(place, found):
    """The sentence about a place without faces. found: its `Survey`."""
    what = "; ".join(found.report(3)) or "it is empty"
    return (
        f"{place} holds no faces of FER2013 ({what}). Expected: a table with columns emotion and pixels (fer2013.csv, "
        "or the annotators' train, publictest and privatetest), folders train/<class> and test/<class> of pictures, or "
        "an archive of these"
    )


def _votes_beside(path):
    """The FER+ votes that lie beside a table that was given by its own path, as a list of `Part`."""
    with Tree(path.parent, lambda other: other == path or other.suffix.lower() not in _TABLE_SUFFIXES) as tree:
        parts = [part for entry in tree.entries if len(entry.path.parts) == 1 for part in _tables(entry, Survey())]
    return [part for part in parts if "pixels" not in part.layout.columns]


def _tables(entry, found):
    """The `Part` that a file is, as a list; notes in the `Survey` why it is none."""
    if entry.encrypted:
        found.lose(entry.name, f"{entry.name} is encrypted: unpack it with its password and give the folder")
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
        found.lose(entry.name, error)
        return []
    if "usage" in layout.columns:
        return [Part(entry, layout, ALL)]
    names = (entry.path.name, *reversed(entry.path.parts[:-1]), entry.disk.name)
    return [Part(entry, layout, next(filter(None, map(split_named, names)), None))]


def _table_sources(parts, found):
    """The `Source`s that tables make up: of several in one place those are one that complete each other."""
    votes = [part for part in parts if "pixels" not in part.layout.columns]
    faces = [part for part in parts if "pixels" in part.layout.columns]
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


def _split_sources(parts, found):
    """The sources that tables of one split each make up: a complete place of its own, else all places together."""
    places = defaultdict(list)
    for part in parts:
        places[part.entry.disk if part.entry.disk.name != part.entry.path.name else part.entry.path.parent].append(part)
    groups = [group for group in places.values() if {part.split for part in group} >= set(SPLITS)]
    if not groups and parts:
        groups = [parts]
    sources = []
    for group in groups:
        by_split = defaultdict(list)
        for part in group:
            by_split[part.split].append(part)
        several = next((same for same in by_split.values() if len(same) > 1), None)
        if several:
            first, second = (part.entry.path.as_posix() for part in several[:2])
            reason = "remove one, or give the path of the one to use"
            split = several[0].split
            found.lose(several[0].name, f"two candidates for the {split} split: {first} and {second}: {reason}")
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
    for place, (splits, reasons) in class_folders(pictures).items():
        for name, reason in reasons.items():
            found.leave(name, reason)
        if not splits:
            continue
        count = sum(map(len, splits.values()))
        description = f"{count:,} pictures in folders of classes in {place or 'its folder'}"
        missing = [split for split in ("Training", "PrivateTest") if split not in splits]
        if missing:
            found.leave(place or "this folder", f"has {description}, but none for {' and '.join(missing)}")
            continue
        disks = tuple(dict.fromkeys(entry.disk for faces in splits.values() for entry, _ in faces))
        sources.append(Source("pictures", splits, None, disks, description, (True, False, False, 0, True, 0)))
    return sources


def _h5_sources(entry, found):
    """The `Source` that an h5 file of the ancestor is, as a list; our own data.h5 is no source of itself."""
    if entry.disk.name != entry.path.name:
        found.leave(entry.name, "is an h5 file in an archive: unpack it")
        return []
    try:
        with h5py.File(entry.disk, "r") as h5:
            if "format_version" in h5.attrs:
                return []
            splits = [split for split in SPLITS if f"{split}_pixel" in h5 and f"{split}_label" in h5]
            if len(splits) < len(SPLITS):
                raise KeyError(f"it lacks {', '.join(split for split in SPLITS if split not in splits)}")
            if any(h5[f"{split}_pixel"].size != h5[f"{split}_label"].size * 48 * 48 for split in splits):
                raise ValueError("its pictures are not 48x48")
            has_vad = all(f"{split}_VAD" in h5 for split in splits)
    except (OSError, KeyError, ValueError, AttributeError) as error:
        found.leave(entry.name, f"is no h5 file of faces ({' '.join(str(error).split())[:80]})")
        return []
    rank = (True, has_vad, False, len(SPLITS), True, -1)
    return [Source("h5", entry.disk, None, (entry.disk,), entry.name, rank)]
