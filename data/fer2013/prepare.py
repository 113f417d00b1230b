"""Rows -> data.h5, once, atomically, with a report of what was dropped and why.

    python -m data.fer2013.prepare [SOURCE] [--h5 PATH]

SOURCE is a folder, an archive or a CSV (see `data/fer2013/sources.py`), by default the data folder of the project.
"""

import argparse
import hashlib
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from data.fer2013 import store
from data.fer2013.collect import ONE_COLOUR, collected, find_repeated, write_report
from data.fer2013.sources import find_source, open_source
from utils.files import UserError, exit_code, given_path, move_aside, replacing

__all__ = ["Preparation", "check", "default_h5_path", "describe", "ensure", "find_source", "prepare"]

HOME = Path(__file__).resolve().parent.parent  # the data folder of the project
REPORT_NAME = "data_report.csv"


@dataclass(frozen=True)
class Preparation:
    """What `prepare` did.

    counts: {split: faces kept}; dropped: {kind of fault: rows dropped}; one_colour: faces kept though
    their pixels are all equal; repeated: faces kept though another split holds the identical image.
    """

    h5_path: Path
    report_path: Path
    counts: dict[str, int]
    dropped: dict[str, int]
    one_colour: int
    repeated: int
    vad_origin: str
    seconds: float

    def summary(self):
        """A few plain lines for the user."""
        faces = ", ".join(f"{count:,} {split}" for split, count in self.counts.items())
        kinds = ", ".join(f"{count:,} for {kind}" for kind, count in sorted(self.dropped.items()))
        return (
            f"{self.h5_path}: {faces} faces (V/A/D: {self.vad_origin}), prepared in {self.seconds:.1f} s\n"
            f"  rows dropped: {sum(self.dropped.values()):,}{f' ({kinds})' if kinds else ''}\n"
            f"  kept, but worth a look: {self.one_colour:,} faces of one colour, "
            f"{self.repeated:,} faces that another split holds, too\n"
            f"  row by row: {self.report_path}"
        )


def ensure(source, h5_path=None, progress=True):
    """Return the path of a data.h5 that is intact and up to date, preparing it when it is not.

    source: a folder, an archive, a CSV, or a data.h5 itself, which is checked and used as it is.
    h5_path: by default data.h5 in the folder, or beside the file.
    An intact data.h5 stands when its sources have the size and time of change that it recorded, or else
    the same SHA-256, and also when no source is there any more. Otherwise it is made anew, and one line
    says why. Raises UserError when there is nothing to read or it cannot be read.
    """
    source = Path(source)
    if source.suffix.lower() in (".h5", ".hdf5"):
        check(source)
        return source
    h5_path = default_h5_path(source) if h5_path is None else Path(h5_path)
    if h5_path.exists():
        found = open_source(source) if source.is_file() else find_source(source)
        problem = _problem(h5_path, found)
        if problem is None:
            return h5_path
        if found is None:
            raise UserError(f"{h5_path} is {problem}: put the archive or the CSVs that it comes from into {source}")
        print(f"preparing {h5_path} anew: it is {problem}")
    prepare(source, h5_path, progress)
    return h5_path


def check(h5_path):
    """Return the `store.Contents` of an intact data.h5. Raises UserError when it is missing or not intact."""
    try:
        return store.check(h5_path)
    except FileNotFoundError as error:
        raise UserError(f"{h5_path} does not exist: give the archive or the folder that it is made from") from error
    except (store.Damaged, store.Foreign) as error:
        raise UserError(f"{h5_path} is {error}: give the archive or the folder that it is made from") from error


def describe(h5_path):
    """Where the V/A/D of an intact data.h5 come from: one of `store.VAD_ORIGINS`."""
    return check(h5_path).vad_origin


def default_h5_path(source):
    """data.h5 in the folder `source`, or beside the file `source`."""
    source = Path(source)
    return (source.parent if source.is_file() else source) / "data.h5"


def prepare(source, h5_path, progress=True):
    """Read `source` (a folder, an archive or a CSV) and write `h5_path`, with data_report.csv beside it.

    Each file appears complete or not at all; a file at `h5_path` that did not come from here is moved
    to previous/. progress: show a bar where stderr is a terminal, and print a summary.
    Returns a `Preparation`. Raises UserError when the source is damaged or has no usable faces.
    """
    started, h5_path = time.perf_counter(), Path(h5_path)
    report_path = h5_path.with_name(REPORT_NAME)
    found = open_source(source)
    origin = "annotations" if found.annotated else "derived from FER+ votes" if found.votes else "none"
    try:
        h5_path.parent.mkdir(parents=True, exist_ok=True)
        with (
            _stamping(found) as stamps,
            _bar(found, progress) as update,
            collected(found, h5_path.parent, update) as (builders, report),
        ):
            repeated, entries = find_repeated(builders)
            report += entries
            _archive_foreign_file(h5_path)
            with replacing(h5_path) as temporary:
                splits = {name: builder.stored(repeated[name]) for name, builder in builders.items()}
                store.write(temporary, splits, stamps.result(), origin)
                write_report(report_path, report)
    except OSError as error:
        raise UserError(
            f"preparing {h5_path} failed ({error.strerror or error}): make room, or choose another place with --h5"
        ) from error
    preparation = Preparation(
        h5_path,
        report_path,
        {name: builder.count for name, builder in builders.items()},
        dict(Counter(entry.reason.partition(":")[0] for entry in report if entry.action == "dropped")),
        sum(entry.reason == ONE_COLOUR for entry in report),
        int(sum(flags.sum() for flags in repeated.values())),
        origin,
        time.perf_counter() - started,
    )
    if progress:
        print(preparation.summary())
    return preparation


def _problem(h5_path, found):
    """What is wrong with the data.h5 that stands at `h5_path`, or None. found: the `Source` or None."""
    try:
        recorded = {entry["name"]: entry for entry in store.check(h5_path).sources}
    except (store.Damaged, store.Foreign) as error:
        return str(error)
    if found is None:
        return None
    files = {_name(file, found): file for file in found.files}
    if files.keys() != recorded.keys():
        return f"of other sources ({', '.join(recorded)}) than those there now ({', '.join(files)})"
    for name, file in files.items():
        stat, entry = file.stat(), recorded[name]
        if stat.st_size == entry["size"] and stat.st_mtime_ns == entry["mtime_ns"]:
            continue
        if stat.st_size != entry["size"] or _sha256(file) != entry["sha256"]:
            return f"of an earlier {name}, which has changed since"
    return None


def _archive_foreign_file(h5_path):
    """Move a file at `h5_path` aside unless it is a data.h5, intact or not."""
    try:
        if h5_path.exists():
            store.check(h5_path)
    except store.Damaged:
        pass
    except store.Foreign as error:
        print(f"{h5_path} is {error}: moved to {move_aside([h5_path], h5_path.parent)}")


def _name(file, found):
    return file.relative_to(found.root).as_posix() if file.is_relative_to(found.root) else file.name


@contextmanager
def _stamping(found):
    """A future of the `sources` that data.h5 records; the files are read in a thread meanwhile."""
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        try:
            yield pool.submit(lambda: [_stamp(file, found, stop) for file in found.files])
        finally:
            stop.set()


def _stamp(file, found, stop):
    stat = file.stat()
    digest = _sha256(file, stop)
    return {"name": _name(file, found), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": digest}


def _sha256(file, stop=None):
    """Hexadecimal SHA-256 of a file; gives up early when the event `stop` is set."""
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while (block := stream.read(8 << 20)) and not (stop and stop.is_set()):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def _bar(found, progress):
    """A function that takes the number of bytes of text just read and, on a terminal, shows it as a bar."""
    total, terminal = sum(part.size for part in found.parts), sys.stderr.isatty()
    if progress and not terminal:
        print(f"reading {', '.join(file.name for file in found.files)} ({total / 1e6:,.0f} MB of text)", flush=True)
    with tqdm(total=total, desc="reading", unit="B", unit_scale=True, disable=not (progress and terminal)) as bar:
        yield bar.update


def main(arguments=None):
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m data.fer2013.prepare",
        description="Make data.h5 from the faces in SOURCE, unless it is there and up to date.",
    )
    parser.add_argument(
        "source",
        nargs="?",
        type=given_path,
        default=HOME,
        help="a folder, a RAR, ZIP or tar.gz archive, or a CSV (default: the project's data folder)",
    )
    parser.add_argument(
        "--h5", type=given_path, metavar="PATH", help="what to write (default: data.h5 in the source's folder)"
    )
    args = parser.parse_args(arguments)
    return exit_code(lambda: _make_ready(args.source, args.h5), "stopped; nothing was written")


def _make_ready(source, h5_path):
    h5_path = ensure(source, h5_path)
    faces = ", ".join(f"{count:,} {split}" for split, count in check(h5_path).counts.items())
    print(f"{h5_path} is ready: {faces} faces")
    return 0


if __name__ == "__main__":
    sys.exit(main())
