"""Errors that are meant for people, and files that survive a crash.

Every file that the project writes goes through `atomic_write`: it appears under its own name only
when it is complete, so a reader (Excel, a resumed run) never sees half of one.
"""

import argparse
import errno
import hashlib
import os
import secrets
import sys
import time
import warnings
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

# Windows does not let anyone replace or move a file while another program has it open.
REFUSES_OPEN_FILES = os.name == "nt"
UNFINISHED = ".unfinished"  # suffix of a file that is being written


class UserError(ValueError):
    """A mistake that the user can correct: what was wrong, where, and what to do.

    Programs print the message without a traceback and exit with code 2 (`exit_code`).
    """


class FileInUse(PermissionError):
    """Another program has the file open, on Windows."""


def unfinished_files(folder, pattern):
    """Temporary files in `folder` that a killed program left of writing files of a glob pattern."""
    return Path(folder).glob(f"{pattern}.????????{UNFINISHED}")


def is_unfinished(path):
    """Whether `path` is the temporary name of a file that was being written (`atomic_write`)."""
    return path.match(f"*.????????{UNFINISHED}*")


@contextmanager
def as_user_error(path, remedy):
    """Raise an OSError of writing `path` as a UserError that ends with the remedy."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} could not be written ({_reason(error)}): {remedy}.") from error


def _reason(error):
    return error.strerror or one_line(error)


def one_line(error, most=120):
    """The message of an exception on one line of at most `most` characters."""
    return " ".join(str(error).split())[:most] or type(error).__name__


def exit_code(program, stopped="stopped", quiet=False):
    """Run `program()` from the command line and return its exit code.

    2 after a UserError, or an OSError that names a file; 130 after Ctrl-C. Each prints one line on
    stderr unless `quiet`; for Ctrl-C that is `stopped`. 1, silently, when the reader of the output
    has gone (`| head`). Characters that the terminal cannot show are printed as escapes.
    """
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    _drop_notebook_backend()
    try:
        with warnings.catch_warnings():  # here, since the filters are shared by all threads
            warnings.filterwarnings("ignore", module=r"PIL\.")  # of damaged metadata
            code = program()
        print(end="", flush=True)
        return code
    except UserError as error:
        message, code = f"error: {error}", 2
    except (KeyboardInterrupt, Exception) as error:
        if _is_closed_pipe(error):  # Python flushes stdout once more when it exits
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        if _is_interrupt(error):
            message, code = f"\n{stopped}", 130
        elif isinstance(error, OSError) and isinstance(error.filename, str):
            remedy = "check the path and its permissions, or choose another"
            message, code = (
                f"error: {error.filename} cannot be used ({_reason(error)}): {remedy}.",
                2,
            )
        else:
            raise
    if not quiet:
        print(message, file=sys.stderr)
    return code


def _drop_notebook_backend():
    """Unset the matplotlib backend of the notebook that this program was started from."""
    if "inline" in os.environ.get("MPLBACKEND", "") and "ipykernel" not in sys.modules:
        del os.environ["MPLBACKEND"]


def _is_closed_pipe(error):
    """Whether the reader of the output has gone; on Windows that is EINVAL (CPython 79935)."""
    invalid = type(error) is OSError and error.errno == errno.EINVAL and error.filename is None
    return isinstance(error, BrokenPipeError) or REFUSES_OPEN_FILES and invalid


def _is_interrupt(error):
    """Whether an exception is a KeyboardInterrupt, or was raised while one was handled."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def path_argument(text):
    """The `Path` that a command-line argument names, for `type=` of argparse."""
    if not text:
        raise argparse.ArgumentTypeError("invalid path: it is empty")
    return Path(text)


def new_file_argument(text):
    """`path_argument` of a file to write, which must not exist yet."""
    path = path_argument(text)
    if os.path.lexists(path):
        raise argparse.ArgumentTypeError(f"{text} exists already: move it away, or name another")
    return path


def as_text(name):
    """A file name as valid UTF-8 text; bytes that are not are replaced."""
    return os.fsencode(name).decode("utf-8", errors="replace")


def sha256_of(path):
    """Hexadecimal SHA-256 of a file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@contextmanager
def atomic_write(path, attempts=5):
    """Yield a temporary path; when the block succeeds, flush the file and rename it to `path`.

    On an exception the temporary file is removed and `path` is untouched. Raises OSError, and
    FileInUse after `attempts` when `path` is open in another program on Windows (`rename`).
    """
    path = Path(path)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}{UNFINISHED}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb+") as written:
            os.fsync(written.fileno())
        rename(temporary, path, path, attempts)
    finally:
        with suppress(PermissionError):  # a virus scanner may hold it; the next run removes it
            temporary.unlink(missing_ok=True)


def rename(source, target, held, attempts=5):
    """Rename a file, replacing `target`; FileInUse, for the path `held`, when the system refuses.

    On Windows a virus scanner or an indexer may hold a file for a moment; Excel holds it until it
    is closed. Five attempts take less than a second, each further one up to five.
    """
    for attempt in range(attempts):
        try:
            os.replace(source, target)
            return
        except PermissionError as error:
            if not REFUSES_OPEN_FILES:
                raise
            if attempt == attempts - 1:
                reason = "another program has it open"
                raise FileInUse(error.errno, reason, os.fspath(held)) from error
            time.sleep(min(5, 0.05 * 2**attempt))


def write_text(path, text):
    """Write `text` to `path` atomically, as UTF-8 with Unix line ends."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def move_aside(paths, root):
    """Move those of `paths` that exist to `root/previous/<time>/`, at their places below `root`.

    Returns that folder, or None when no path exists. Never overwrites: a second call within the
    same second gets another folder. Raises UserError when a file cannot be moved; those before it
    have been.
    """
    root = Path(root)
    present = [Path(path) for path in paths if os.path.exists(path)]
    if not present:
        return None
    with as_user_error(root / "previous", "make room, or choose another place"):
        folder = _new_folder(root / "previous", time.strftime("%Y%m%d-%H%M%S"))
    for path in present:
        target = folder / path.relative_to(root)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            rename(path, target, path)
        except OSError as error:
            if not os.path.exists(path):
                continue  # another run has moved it
            raise UserError(
                f"{path} could not be moved to {folder} ({_reason(error)}): close it, or make "
                "room, and try again; or choose another place. Files before it were moved."
            ) from error
    return folder


def _new_folder(parent, name):
    """Create parent/name, or parent/name-2, ..., which no other process creates."""
    parent.mkdir(parents=True, exist_ok=True)
    for number in count(1):
        folder = parent / (name if number == 1 else f"{name}-{number}")
        with suppress(FileExistsError):
            folder.mkdir()
            return folder
