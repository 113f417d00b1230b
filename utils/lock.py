"""One run at a time in an output folder."""

from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from utils.files import UserError

NAME = "run.lock"


@contextmanager
def exclusive_run(folder):
    """Hold the lock of an output folder, which is created if needed, until the end of the block.

    The operating system releases the lock of a process that ends in any way; the empty file
    `run.lock` may stay. Raises UserError when another run holds the lock, or when the folder cannot
    be written to.
    """
    folder = Path(folder)
    path = folder / NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path).acquire(timeout=0)
    except OSError as error:
        # On Windows filelock times out where it may not create the file, too.
        if isinstance(error, Timeout) and path.exists():
            message = (
                f"Another run works in {folder.resolve()}: wait for it, or give another --out."
            )
        else:
            message = f"{folder} cannot be written to ({error.strerror}): give another --out."
        raise UserError(message) from error
    with lock:
        yield
