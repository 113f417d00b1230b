"""One run at a time in an output folder; of a cross-validation, one per fold."""

from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from utils.files import UserError

RUN_LOCK = "run.lock"
FOLD_LOCKS = "fold*.lock"
WAIT_SECONDS = 2  # another process holds a lock for a moment while it looks whether anybody does


@contextmanager
def exclusive_run(folder, fold=None):
    """Hold the lock of an output folder, or of a fold in it, until the end of the block.

    The folder is created if needed. Folds may be trained at the same time, but not beside another
    kind of run. The operating system releases the lock of a process that ends in any way; the
    empty file may stay. Raises UserError when another run works there, or when the folder cannot
    be written to.
    """
    folder = Path(folder)
    name = RUN_LOCK if fold is None else f"fold{fold}.lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / name).acquire(timeout=WAIT_SECONDS)
    except OSError as error:
        # On Windows filelock times out where it may not create the file, too.
        if isinstance(error, Timeout) and (folder / name).exists():
            raise _in_use(folder) from error
        raise UserError(
            f"{folder} cannot be written to ({error.strerror}): give another --out."
        ) from error
    with lock:
        check_unused(folder, FOLD_LOCKS if fold is None else RUN_LOCK)
        yield


def check_unused(folder, pattern, but=None):
    """Raise UserError when a run holds a lock in `folder` that matches `pattern`.

    but: the fold of this run, whose lock does not count.
    """
    for path in sorted(Path(folder).glob(pattern)):
        if path.name != f"fold{but}.lock":
            try:
                FileLock(path).acquire(timeout=WAIT_SECONDS).lock.release()
            except Timeout as error:
                raise _in_use(folder) from error


@contextmanager
def report_lock(folder):
    """Wait for, and hold, the right to write the report that several folds share."""
    with FileLock(Path(folder) / "report.lock"):
        yield


def _in_use(folder):
    return UserError(
        f"Another run works in {Path(folder).resolve()}: wait for it, or give another --out."
    )
