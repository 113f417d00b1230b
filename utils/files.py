"""Errors that are meant for people, and files that survive a crash.

Every file that the project writes goes through `replacing`: it appears under its own name
only when it is complete, so a reader (Excel, a resumed run) never sees half of one.
"""

import argparse
import errno
import glob
import hashlib
import os
import re
import secrets
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path


class UserError(Exception):
    """Something that the user can put right. Its text says what was wrong, where, and what to do.

    Entry scripts print the text without a traceback and exit with code 2 (`exit_code`).
    """


# Windows does not let a file be replaced or moved while another program has it open; elsewhere it is a want of rights.
REFUSES_OPEN_FILES = os.name == "nt"
UNFINISHED = ".unfinished"  # how the names of files that are being written end
_BEING_WRITTEN = re.compile(rf"\.[0-9a-f]{{8}}{re.escape(UNFINISHED)}(\.|$)")


class HeldElsewhere(PermissionError):
    """Another program has the file open, under Windows."""


def unfinished_files(path):
    """What a killed program was writing in the place of `path`."""
    return Path(path).parent.glob(f"{glob.escape(Path(path).name)}.????????{UNFINISHED}")


def is_unfinished(path):
    """Whether a file has the name of one that was being written (see `replacing`), whatever kind it was to be."""
    return _BEING_WRITTEN.search(path.name) is not None


@contextmanager
def as_user_error(path, remedy):
    """Turn an OSError of writing `path` into a UserError: one sentence, which ends with the remedy."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise UserError(f"{path} could not be written ({reason}): {remedy}.") from error


def one_line(error, most=120):
    """What an exception says, on one line, `most` letters of it."""
    return " ".join(str(error).split())[:most] or type(error).__name__


def exit_code(program, stopped="stopped", quiet=False):
    """Run `program()` for the command line and return its exit code: 2 after a UserError, or a PermissionError that
    names a file, 130 after Ctrl-C.

    Each prints a line on stderr, Ctrl-C the text `stopped`, unless `quiet`; 1 and nothing where nobody reads any
    more what is printed, as behind `| head`. What the terminal has no letter for, in a file's name perhaps, is printed
    as an escape.
    """
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    _leave_the_notebook()
    try:
        code = program()
        print(end="", flush=True)
        return code
    except UserError as error:
        message, code = f"error: {error}", 2
    except (KeyboardInterrupt, Exception) as error:
        if _is_closed_pipe(error):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python has to print at its end
            return 1
        if _comes_from_ctrl_c(error):
            message, code = f"\n{stopped}", 130
        elif isinstance(error, PermissionError) and isinstance(error.filename, str):
            remedy = "allow it, or choose another place"
            message, code = f"error: {error.filename} may not be used ({error.strerror}): {remedy}.", 2
        else:
            raise
    if not quiet:
        print(message, file=sys.stderr)
    return code


def _leave_the_notebook():
    """Forget the backend of the notebook that this program was started from: its matplotlib may not have it."""
    if "inline" in os.environ.get("MPLBACKEND", "") and "ipykernel" not in sys.modules:
        del os.environ["MPLBACKEND"]


def _is_closed_pipe(error):
    """Whether nobody reads any more what is printed; on Windows that is EINVAL (CPython issue 79935)."""
    invalid = type(error) is OSError and error.errno == errno.EINVAL and error.filename is None
    return isinstance(error, BrokenPipeError) or REFUSES_OPEN_FILES and invalid


def _comes_from_ctrl_c(error):
    """Whether an exception is a KeyboardInterrupt, or what Python or a library made of one, in an import perhaps."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def given_path(text):
    """The `Path` that an argument of the command line names; for `type=` of argparse."""
    if not text:
        raise argparse.ArgumentTypeError("invalid path: it is empty")
    try:
        os.lstat(text)
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.EINVAL):
            reason = f"invalid path: ...{text[-60:]} ({error.strerror}): give another"
            raise argparse.ArgumentTypeError(reason) from error
    return Path(text)


def as_text(name):
    """The name of a file as text for a file in UTF-8; what is no text in it is replaced."""
    return os.fsencode(name).decode("utf-8", errors="replace")


def sha256_of(path, stop=None):
    """Hexadecimal SHA-256 of a file; gives up early when the event `stop` is set."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while (block := stream.read(8 << 20)) and not (stop and stop.is_set()):
            digest.update(block)
    return digest.hexdigest()


def nameless_file(folder):
    """A binary file in a folder, without a name of its own, that is gone when it is closed. Raises OSError."""
    if REFUSES_OPEN_FILES:  # there `tempfile` tries 2**31 names where the folder refuses (CPython issue 66305)
        probe = Path(folder, f".{secrets.token_hex(4)}{UNFINISHED}")
        os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        with suppress(PermissionError):
            probe.unlink()
    return tempfile.TemporaryFile(dir=folder)


@contextmanager
def replacing(path, attempts=5):
    """Yield a temporary path; when the block ends well, flush it to disk and rename it to `path`.

    On an exception the temporary file is removed and whatever stood at `path` is untouched. Raises HeldElsewhere
    when that is open in another program, under Windows, and stays so for that many `attempts` (see `rename`).
    """
    path = Path(path)
    # Of a name that nobody else has, a file of the user's least of all.
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}{UNFINISHED}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb+") as written:
            os.fsync(written.fileno())
        rename(temporary, path, held=path, attempts=attempts)
    finally:
        with suppress(PermissionError):  # a virus scanner may hold it; the next run removes it
            temporary.unlink(missing_ok=True)


def rename(source, target, held, attempts=5):
    """Rename a file. HeldElsewhere when the system still refuses after a while, since `held` is open elsewhere.

    On Windows a virus scanner or an indexer may hold a file for a moment; Excel holds it until it is closed. Five
    attempts take less than a second, each further one up to five.
    """
    for attempt in range(attempts):
        try:
            os.replace(source, target)
            return
        except PermissionError as error:
            if not REFUSES_OPEN_FILES:
                raise
            if attempt == attempts - 1:
                raise HeldElsewhere(error.errno, "another program has it open", os.fspath(held)) from error
            time.sleep(min(5, 0.05 * 2**attempt))


def write_text(path, text):
    """Write `text` (str) to `path` as UTF-8 with Unix line ends, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def move_aside(paths, root):
    """Move the existing ones of `paths` to `root/previous/<time>/`, keeping their place below `root`.

    Returns the folder they went to, or None when none of them existed. Never overwrites: a second
    call within the same second gets a folder of its own. Raises UserError when one cannot be moved; then all
    are where they were.
    """
    root = Path(root)
    present = [Path(path) for path in paths if Path(path).exists()]
    if not present:
        return None
    stamp = time.strftime("%Y%m%d-%H%M%S")
    folder, number = root / "previous" / stamp, 1
    while folder.exists():
        number += 1
        folder = root / "previous" / f"{stamp}-{number}"
    targets, moved = {path: folder / path.relative_to(root) for path in present}, []
    try:
        for path, target in targets.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            rename(path, target, held=path)
            moved.append(path)
    except OSError as error:
        for earlier in moved:
            os.replace(targets[earlier], earlier)
        _remove_empty(folder)
        raise UserError(
            f"{path} could not be moved to {folder} ({error.strerror}): close it there, or make room, and try again; "
            "or choose another place. Nothing was changed."
        ) from error
    return folder


def _remove_empty(folder):
    """Remove `folder`, those in it and the one around it, as far as they are empty."""
    for path in (*sorted(folder.rglob("*"), reverse=True), folder, folder.parent):
        with suppress(OSError):
            path.rmdir()
