"""Where the faces come from: a RAR, ZIP or tar.gz archive, a folder or a CSV -> the CSV parts to read.

What is accepted, by the names of the CSV files (any folder, any date suffix, any case):

- `train*.csv`, `publictest*.csv`, `privatetest*.csv`: the annotators' files, one per split, in one archive
  or several or unpacked; an archive with a single CSV of another name may itself be named after the split;
- `fer2013.csv` (or `icml_face_data.csv`): the plain FER2013 data, whose column Usage names the split;
- `fer2013new.csv` beside it: the FER+ votes, from which V/A/D are derived (`data/fer2013/ferplus.py`).
"""

import re
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from data.fer2013.containers import AGAIN, archive_errors_as_user_error, archive_kind, members, open_member, volumes
from utils.files import UserError
from utils.tasks import SPLITS

FACES = "faces"  # the role of fer2013.csv
VOTES = "votes"  # the role of fer2013new.csv
_SPLIT_NAMES = {"train": "Training", "publictest": "PublicTest", "privatetest": "PrivateTest"}
_ROLE_NAMES = {"fer2013.csv": FACES, "icml_face_data.csv": FACES, "fer2013new.csv": VOTES}
_ARCHIVE_NAMES = (".rar", ".zip", ".tar.gz", ".tgz")


@dataclass(frozen=True)
class Part:
    """One CSV text: a file of its own (member None) or a member of an archive.

    role: the split whose rows it holds, or FACES or VOTES. size: bytes of text.
    """

    file: Path
    member: str | None
    role: str
    size: int

    @property
    def name(self):
        """How messages and the report name it."""
        return self.file.name if self.member is None else f"{self.file.name}:{self.member}"


@dataclass(frozen=True)
class Source:
    """What will be read. parts: the CSVs with faces; votes: the FER+ votes or None; files: all on disk."""

    root: Path
    parts: tuple[Part, ...]
    votes: Part | None
    files: tuple[Path, ...]

    @property
    def annotated(self):
        """Whether the CSVs themselves have V/A/D columns (and each holds one split)."""
        return self.parts[0].role in SPLITS


def find_source(folder):
    """The `Source` in `folder` and the folders below it, or None when nothing there is usable.

    Raises UserError for damaged or encrypted archives and when two files claim the same split.
    """
    folder = Path(folder)
    candidates = []
    for path in _files_below(folder) if folder.is_dir() else ():
        if _role(path.name) is not None:
            candidates.append(Part(path, None, _role(path.name), path.stat().st_size))
        elif path.name.lower().endswith(_ARCHIVE_NAMES) and not _is_later_volume(path):
            candidates += _archive_parts(path)
    return _choose(folder, candidates)


def open_source(path):
    """The `Source` at `path`: a folder, an archive or a CSV. Raises UserError when it has no faces."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path} does not exist: give a RAR or ZIP archive, a folder or a CSV")
    if path.is_dir():
        source = find_source(path)
    elif archive_kind(path) is not None:
        source = _choose(path.parent, _archive_parts(path))
    else:
        source = _choose(path.parent, _csv_parts(path))
    if source is None:
        raise UserError(
            f"{path} holds no faces: expected CSV files named train*, publictest* and privatetest*, or "
            "fer2013.csv, in a folder or in a RAR or ZIP archive"
        )
    return source


@contextmanager
def open_part(part):
    """Open a CSV part for reading; yields an object whose `read(size)` gives bytes, empty at the end.

    A damaged member is an error (UserError, at the latest at its end), never a short text.
    """
    with archive_errors_as_user_error(part.name):
        if part.member is None:
            with open(part.file, "rb") as stream:
                yield stream
        else:
            with open_member(part.file, part.member) as stream:
                yield stream


def _files_below(folder, depth=4):
    """Files below `folder` in a fixed order, without hidden folders and those moved aside earlier."""
    try:
        entries = sorted(folder.iterdir())
    except PermissionError:
        return
    for entry in entries:
        if entry.name.startswith((".", "__")) or entry.name == "previous":
            continue
        if entry.is_file():
            yield entry
        elif depth > 1 and entry.is_dir() and not entry.is_symlink():
            yield from _files_below(entry, depth - 1)


def _split_named(name):
    """The split that a file name begins with, or None."""
    letters = re.sub(r"[^a-z]", "", name.lower())
    return next((split for word, split in _SPLIT_NAMES.items() if letters.startswith(word)), None)


def _role(name):
    """The role of a CSV with this file name (no folders), or None when it is not one of ours."""
    if not name.lower().endswith(".csv") or name.startswith("."):
        return None
    return _ROLE_NAMES.get(name.lower()) or _split_named(name)


def _is_later_volume(path):
    return re.search(r"\.part0*([2-9]|[1-9]\d+)\.rar$", path.name.lower()) is not None


def _csv_parts(path):
    """A CSV that the user named, with the FER+ votes that lie beside fer2013.csv."""
    size = path.stat().st_size
    if size == 0:
        raise UserError(f"{path} is empty: {AGAIN}")
    if path.name.lower().endswith(_ARCHIVE_NAMES):
        raise UserError(f"{path} is not an archive in spite of its name, or its beginning is damaged: {AGAIN}")
    role = _role(path.name)
    if role is None:
        raise UserError(
            f"{path} is neither a RAR, ZIP or tar.gz archive nor a CSV whose name begins with train, publictest or "
            "privatetest or is fer2013.csv"
        )
    parts = [Part(path, None, role, size)]
    if role == FACES:
        beside = [other for other in sorted(path.parent.iterdir()) if _role(other.name) == VOTES]
        parts += [Part(other, None, VOTES, other.stat().st_size) for other in beside]
    return parts


def _archive_parts(path):
    """The usable members of an archive."""
    if archive_kind(path) is None:
        return _csv_parts(path)  # explains what is wrong
    tables = [
        (member, PurePosixPath(member.name.replace("\\", "/")).name)
        for member in members(path)
        if member.name.lower().endswith(".csv") and "__MACOSX" not in member.name
    ]
    parts = [(member, _role(base)) for member, base in tables if _role(base) is not None]
    if not parts and len(tables) == 1 and _split_named(path.name) is not None:
        parts = [(tables[0][0], _split_named(path.name))]
    for member, _ in parts:
        if member.encrypted:
            raise UserError(f"{path.name}:{member.name} is encrypted: unpack it with its password and give the CSV")
    return [Part(path, member.name, role, member.size) for member, role in parts]


def _choose(root, candidates):
    """Candidates -> `Source`: the annotated splits if there are any, else fer2013.csv and its votes."""
    roles = [role for role in SPLITS if any(part.role == role for part in candidates)]
    roles = roles or [FACES]
    if not any(part.role in roles for part in candidates):
        return None
    chosen = {}
    for part in candidates:
        if part.role not in (*roles, VOTES) or (part.role == VOTES and roles != [FACES]):
            continue
        if part.role in chosen:
            raise UserError(
                f"two candidates for {_described(part.role)}: {_place(chosen[part.role], root)} and "
                f"{_place(part, root)}: remove one, or give the path of the one to use"
            )
        chosen[part.role] = part
    parts, votes = tuple(chosen[role] for role in roles), chosen.get(VOTES)
    archives = {part.file: part.member is not None for part in (*parts, votes) if part is not None}
    files = [file for path, is_archive in archives.items() for file in (volumes(path) if is_archive else [path])]
    return Source(root, parts, votes, tuple(files))


def _described(role):
    return {FACES: "fer2013.csv", VOTES: "the FER+ votes"}.get(role, f"the {role} split")


def _place(part, root):
    place = part.file.relative_to(root).as_posix()
    return place if part.member is None else f"{place}:{part.member}"
