"""Errors that are meant for people, and files that survive a crash.

Every file that the project writes goes through `replacing`: it appears under its own name
only when it is complete, so a reader (Excel, a resumed run) never sees half of one.
"""

import argparse
import errno
import os
import sys
import time
from contextlib import contextmanager
from pathlib import Path


class UserError(Exception):
    """Something that the user can put right. Its text says what was wrong, where, and what to do.

    Entry scripts print the text without a traceback and exit with code 2 (`exit_code`).
    """


def exit_code(program, stopped="stopped", quiet=False):
    """Run `program()` for the command line and return its exit code: 2 after a UserError, 130 after Ctrl-C.

    Either is told in a line on stderr, Ctrl-C by the text `stopped`, unless `quiet`.
    """
    try:
        return program()
    except UserError as error:
        told, code = f"error: {error}", 2
    except KeyboardInterrupt:
        told, code = f"\n{stopped}", 130
    if not quiet:
        print(told, file=sys.stderr)
    return code


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


def print_any_name():
    """Let names of files be printed whatever their bytes: what the terminal has no letter for appears as an escape."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")


def as_text(name):
    """The name of a file as text for a file in UTF-8; what is no text in it is replaced."""
    return os.fsencode(name).decode("utf-8", errors="replace")


@contextmanager
def replacing(path):
    """Yield a temporary path; when the block ends well, flush it to disk and rename it to `path`.

    On an exception the temporary file is removed and whatever stood at `path` is untouched.
    """
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb+") as written:
            os.fsync(written.fileno())
        _rename(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _rename(source, target, attempts=5):
    # On Windows a virus scanner or an indexer may hold the target for a moment.
    for attempt in range(attempts):
        try:
            os.replace(source, target)
            return
        except PermissionError:
            if attempt == attempts - 1:
                raise
            time.sleep(0.05 * 2**attempt)


def write_text(path, text):
    """Write `text` (str) to `path` as UTF-8 with Unix line ends, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def move_aside(paths, root, moment=None):
    """Move the existing ones of `paths` to `root/previous/<time>/`, keeping their place below `root`.

    Returns the folder they went to, or None when none of them existed. Never overwrites: a second
    call within the same second gets a folder of its own.
    """
    root = Path(root)
    present = [Path(path) for path in paths if Path(path).exists()]
    if not present:
        return None
    stamp = time.strftime("%Y%m%d-%H%M%S", moment or time.localtime())
    folder, number = root / "previous" / stamp, 1
    while folder.exists():
        number += 1
        folder = root / "previous" / f"{stamp}-{number}"
    for path in present:
        target = folder / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)
    return folder
