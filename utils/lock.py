"""One run at a time in an output folder."""

import os
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from utils.files import UserError

NAME = "run.lock"


@contextmanager
def exclusive_run(folder):
    """Hold the lock of an output folder, which is made where it is missing, until the end of the block.

    The operating system releases the lock of a process that ends in any way, so a killed run leaves none behind; the
    empty file `run.lock` may stay. Raises UserError when another run holds it or the folder cannot be written to.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be a folder ({error.strerror}): give another --out.") from error
    lock = FileLock(folder / NAME)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not os.path.exists(folder / NAME):  # who held it would have made it: on Windows this is a want of rights
            raise UserError(f"{folder} cannot be written to: give another --out.") from None
        raise UserError(f"Another run works in {folder.resolve()}: wait for it, or give another --out.") from None
    except OSError as error:
        raise UserError(f"{folder} cannot be written to ({error.strerror}): give another --out.") from error
    try:
        yield
    finally:
        lock.release()
