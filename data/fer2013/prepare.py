"""Faces -> data.h5, once, atomically, with a report of what was dropped and why.

    python -m data.fer2013.prepare [SOURCE] [--h5 PATH]

SOURCE is a folder, an archive, a table or an h5 file (see `data/fer2013/sources.py`), by default the data folder of
the project.
"""

import argparse
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
from tqdm import tqdm

from data.fer2013 import store
from data.fer2013.collect import (
    ONE_COLOUR,
    collected,
    find_repeated,
    missing_classes,
    split_off_public,
    write_report,
)
from data.fer2013.ferplus import read_votes, with_votes
from data.fer2013.pictures import place_within, read_pictures
from data.fer2013.sources import (
    H5_NAMES,
    HOME,
    PICTURES,
    REPORT_NAME,
    listing,
    survey,
    why_nothing,
)
from data.fer2013.tables import PIXELS, Block, read_rows, two_candidates
from utils.files import (
    UserError,
    atomic_write,
    exit_code,
    move_aside,
    one_line,
    path_argument,
    sha256_of,
    temporary_file,
)
from utils.images import is_image
from utils.tasks import SPLITS, VAD_LIMIT
from utils.text import counted

PUBLIC_NOTE = "PublicTest is a tenth of the training faces, drawn by class with seed 0"
H5_ROWS = 1024  # that are read at once
_H5_SUFFIXES = (".h5", ".hdf5")


@dataclass(frozen=True)
class Preparation:
    """What `prepare` did.

    counts: {split: faces kept}; dropped: {kind of fault: rows dropped}; one_colour: faces kept though
    their pixels are all equal; repeated: faces kept though another split holds the identical image; notes: what else
    whoever uses the faces should know; report_path: None where it could not be written.
    """

    h5_path: Path
    report_path: Path | None
    counts: dict[str, int]
    dropped: dict[str, int]
    one_colour: int
    repeated: int
    vad_origin: str
    seconds: float
    notes: list[str] = field(default_factory=list)

    def summary(self):
        """A few plain lines for the user."""
        faces = ", ".join(f"{count:,} {split}" for split, count in self.counts.items())
        kinds = ", ".join(f"{count:,} for {kind}" for kind, count in sorted(self.dropped.items()))
        lines = [
            f"{self.h5_path}: {faces} faces (V/A/D: {self.vad_origin}), prepared in {self.seconds:.1f} s",
            f"  rows dropped: {sum(self.dropped.values()):,}{f' ({kinds})' if kinds else ''}",
            f"  kept, but worth a look: {counted(self.one_colour, 'face')} of one colour, "
            f"{counted(self.repeated, 'face')} that another split holds, too",
            *(f"  {note}" for note in self.notes),
        ]
        return "\n".join([*lines, f"  row by row: {self.report_path}"] if self.report_path else lines)


def ensure(source, h5_path=None, progress=True, fallback=None):
    """Return the path of a data.h5 that is intact and up to date, preparing it when it is not.

    source: a folder, an archive, a table, or an h5 file; a data.h5 itself is checked and used as it is. h5_path: by
    default data.h5 in the folder or beside the file, or in the folder `fallback` where that cannot be written to.
    An intact data.h5 stands, and nothing is opened, when its sources have the size and time of change that it
    recorded, or else the same SHA-256, and no file came since; in the very folder `source` also when no source is
    there any more. Otherwise the sources are looked at, and where others are better or these have changed it is made
    anew, and one line says why. Raises UserError when there is nothing to read or it cannot be read, and when h5_path
    is a folder.
    """
    source = Path(source)
    if source.suffix.lower() in _H5_SUFFIXES and not _is_ancestor(source):
        check(source)
        return source
    h5_path = default_h5_path(source, fallback) if h5_path is None else Path(h5_path)
    _refuse_folder(h5_path)
    contents, problem = _contents(h5_path)
    now = listing(source)
    if contents is not None and not _changed(contents, now) and now.keys() <= contents.seen:
        return h5_path
    with survey(source) as found:
        if contents is not None:
            problem = _outdated(contents, now, source, h5_path, found)
            if problem is None:
                return h5_path
        if found.source is None and problem is not None:
            raise UserError(f"{h5_path} is {problem}: put the archive or the tables that it comes from into {source}")
        if problem is not None and fallback is not None and not _can_be_written_to(h5_path.parent):
            print(f"{h5_path} is {problem}, and its folder cannot be written to: {fallback} gets another")
            return ensure(source, Path(fallback) / H5_NAMES[0], progress)
        if problem is not None:
            print(f"preparing {h5_path} anew: it is {problem}")
        _prepare(source, found, h5_path, progress, now)
    return h5_path


def prepare(source, h5_path, progress=True):
    """Read `source` and write `h5_path`, with data_report.csv beside it, whether or not it is there.

    Each file appears complete or not at all; a file at `h5_path` that did not come from here, or has V/A/D where the
    new one has none, is moved to previous/. progress: show a bar where stderr is a terminal, and print a summary.
    Returns a `Preparation`. Raises UserError when the source is damaged or has no usable faces, and when h5_path is a
    folder.
    """
    _refuse_folder(Path(h5_path))
    seen = listing(source)
    with survey(source) as found:
        return _prepare(Path(source), found, Path(h5_path), progress, seen)


def check(h5_path):
    """Return the `store.Contents` of an intact data.h5. Raises UserError when it is missing or not intact."""
    try:
        return store.check(h5_path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{h5_path} does not exist: give the archive or the folder that it is made from") from error
    except (store.Damaged, store.Foreign) as error:
        raise UserError(f"{h5_path} is {error}: give the archive or the folder that it is made from") from error


def describe(h5_path, origin=None):
    """Where the V/A/D of an intact data.h5 come from (`origin`, where that is known better), and its notes."""
    contents = check(h5_path)
    return "; ".join([origin or contents.vad_origin, *contents.notes])


def default_h5_path(source, fallback=None):
    """data.h5 in the folder `source`, or beside the file; in the folder `fallback` where it cannot be written there."""
    folder = source.parent if source.is_file() else source
    h5_path = folder / H5_NAMES[_is_ancestor(folder / H5_NAMES[0])]
    if fallback is None or _contents(h5_path)[0] is not None or _can_be_written_to(folder):
        return h5_path
    return Path(fallback) / H5_NAMES[0]


def _can_be_written_to(folder):
    try:
        temporary_file(folder).close()
    except OSError:
        return False
    return True


def _refuse_folder(h5_path):
    if h5_path.is_dir():
        raise UserError(f"{h5_path} is a folder: give the name of a file, such as {h5_path / H5_NAMES[0]}")


def _is_ancestor(path):
    """Whether an h5 file is one of faces, but not ours: then it is a source."""
    try:
        store.check(path)
    except store.Foreign:
        with survey(path) as found:
            return found.source is not None
    except (store.Damaged, FileNotFoundError, NotADirectoryError):
        pass
    return False


def _contents(h5_path):
    """(`store.Contents` or None, what is wrong with the file or None)."""
    try:
        return (store.check(h5_path), None) if h5_path.exists() else (None, None)
    except (store.Damaged, store.Foreign) as error:
        return None, str(error)


def _changed(contents, now):
    """Names of the recorded sources that do not look as they did. now: as `listing` gives it."""
    return [
        name
        for name, was in _recorded(contents).items()
        if now.get(name) != (was["size"], was["mtime_ns"], was["sha256"] if name == PICTURES else "")
    ]


def _recorded(contents):
    return {entry["name"]: entry for entry in contents.sources}


def _outdated(contents, now, source, h5_path, found):
    """Why an intact data.h5 is to be made anew, or None. found: the `Survey` of what is there.

    Raises UserError where nothing is there, or something damaged, and the file is not what `source` was made into.
    """
    changed, recorded = _changed(contents, now), _recorded(contents)
    is_its_own = source.is_dir() and source.samefile(h5_path.parent)
    if found.source is None:
        if not is_its_own or found.damaged and now.keys() & changed:
            _chosen(source, found)  # says what is wrong with it
        return None
    files = _named_files(found.source, source)
    if files.keys() != recorded.keys():
        less = contents.vad_origin != "none" and found.source.origin == "none"
        if is_its_own and less and not recorded.keys() & now.keys():
            return None  # its annotated source is gone, and what is there now has less
        return f"of other sources ({', '.join(recorded)}) than those there now ({', '.join(files)})"
    for name in changed:
        if name == PICTURES:
            known = recorded[name]["sha256"]
            return "of pictures that have changed since" if known else "of pictures whose names it did not record"
        if sha256_of(files[name]) != recorded[name]["sha256"]:
            return f"of an earlier {name}, which has changed since"
    return None


def _named_files(found, source):
    """{name: file} of what a `Source` is read from; unpacked pictures are one, "pictures"."""
    folder = source if source.is_dir() else source.parent
    named = {_relative(file, folder): file for file in found.files if not is_image(file)}
    return named if len(named) == len(found.files) else {PICTURES: None, **named}


def _relative(file, folder):
    return file.relative_to(folder).as_posix() if file.is_relative_to(folder) else file.name


def _prepare(source, found, h5_path, progress, seen):
    """`prepare` of a `Survey`; seen: the `listing` that was there before it."""
    started, chosen = time.perf_counter(), _chosen(source, found)
    unused = [f"  not used: {reason}" for reason in found.report()]
    if progress and unused:
        print(f"reading {chosen.description}", *unused, sep="\n", flush=True)
    report_path, notes = h5_path.with_name(REPORT_NAME), []
    try:
        h5_path.parent.mkdir(parents=True, exist_ok=True)
        with (
            _stamping(chosen, source, seen) as stamps,
            _bar(chosen, progress) as update,
            closing(_blocks(chosen, update, notes)) as blocks,
            collected(blocks, h5_path.parent) as (builders, report),
        ):
            _check_parts(chosen, builders, report)
            notes += _arranged(chosen, builders)
            builders = {split: builder for split, builder in builders.items() if builder.count}
            repeated, entries = find_repeated(builders)
            report += entries
            _archive_other_file(h5_path, chosen.origin)
            with atomic_write(h5_path) as temporary:
                splits = {name: builder.stored(repeated[name]) for name, builder in builders.items()}
                store.write(temporary, splits, stamps.result(), chosen.origin, notes, sorted(seen))
            counts = {name: builder.count for name, builder in builders.items()}
    except OSError as error:
        raise UserError(
            f"preparing {h5_path} failed ({error.strerror or one_line(error)}): make room, or choose another place: "
            f"python -m data.fer2013.prepare {source} --h5 FILE"
        ) from error
    preparation = Preparation(
        h5_path,
        _reported(report_path, report),
        counts,
        dict(Counter(entry.reason.partition(":")[0] for entry in report if entry.action == "dropped")),
        sum(entry.reason == ONE_COLOUR for entry in report),
        int(sum(flags.sum() for flags in repeated.values())),
        chosen.origin,
        time.perf_counter() - started,
        notes,
    )
    if progress:
        print(preparation.summary())
    return preparation


def _arranged(chosen, builders):
    """Bring pictures into their order, and draw a public split where there is none; returns notes on the splits.

    Only now, and not before they are read: a compressed TAR is read fast in its own order alone.
    """
    for builder in builders.values() if chosen.kind == "pictures" else ():
        builder.sort(place_within)
    is_annotated = chosen.kind == "tables" and chosen.parts[0].layout.has_vad
    drawn = not is_annotated and split_off_public(builders)
    return [PUBLIC_NOTE] * drawn + missing_classes(builders)


def _chosen(source, found):
    """The `Source` that a `Survey` found. Raises UserError for none, and where what completes it is damaged."""
    if found.damaged and not (found.source and found.source.is_complete):
        raise UserError(found.damaged[0])
    if found.source is None:
        alone = source.is_file() and len(found.unused) == 1 and not found.kinds
        raise UserError(found.unused[0] if alone else why_nothing(source, found))
    return found.source


def _reported(path, report):
    """Write data_report.csv; returns its path, or None and says so where it is open elsewhere or cannot be written."""
    try:
        write_report(path, report)
    except OSError as error:
        print(f"{path} could not be written ({error.strerror or error}); the faces are ready without it.")
        return None
    return path


def _blocks(chosen, progress, notes):
    """Yield (name of a file, `Block`) of all rows of a `Source`; adds to `notes` what is to be known of them."""
    if chosen.kind == "pictures":
        for block in read_pictures(chosen.parts, progress, notes):
            yield PICTURES, block
    elif chosen.kind == "h5":
        yield from _h5_blocks(chosen.parts, progress)
    else:
        votes = None if chosen.votes is None else read_votes(chosen.votes)
        for part in chosen.parts:
            with part.entry.open() as stream:
                split = None if part.layout.has_usage else part.split
                blocks = read_rows(stream, part.layout, split, part.name, progress)
                for block in blocks if votes is None else with_votes(part.name, votes, blocks):
                    yield part.name, block


def _h5_blocks(path, progress):
    """The faces of an h5 file of {split}_pixel, whole numbers in any shape, {split}_label and perhaps {split}_VAD."""
    with h5py.File(path, "r") as h5:
        for number, split in enumerate(SPLITS):
            pixels, labels, vad = (h5.get(f"{split}_{name}") for name in ("pixel", "label", "VAD"))
            for start in range(0, len(labels), H5_ROWS):
                part = slice(start, start + H5_ROWS)
                block, label = pixels[part].reshape(-1, PIXELS), labels[part].astype(np.int64)
                values = None if vad is None else np.asarray(vad[part], np.float32)
                faults = _h5_faults(block, label, values)
                good = np.array([not fault for fault in faults])
                numbers = np.arange(start, start + len(label)) + 1
                dropped = [(split, row, fault) for row, fault in zip(numbers.tolist(), faults, strict=True) if fault]
                progress(block.nbytes)
                yield path.name, Block(
                    numbers[good].tolist(), np.full(good.sum(), number), label[good],
                    None if values is None else values[good],
                    np.ascontiguousarray(block[good].astype(np.uint8)), dropped,
                )  # fmt: skip


def _h5_faults(block, label, values):
    """What is wrong with each row, "" for nothing. block (n, 2304), label (n,), values (n, 3) or None: any numbers."""
    with np.errstate(invalid="ignore"):  # of what is no number
        fits = {
            "pixels: not all are integers in 0-255": ((block >= 0) & (block <= 255) & (block % 1 == 0)).all(axis=1),
            "label: not in 0-6": (label >= 0) & (label <= 6),
        }
        if values is not None:
            fits["V/A/D: not all are in -2..2"] = (np.abs(values) <= VAD_LIMIT).all(axis=1)
    return ["; ".join(fault for fault, of in fits.items() if not of[row]) for row in range(len(label))]


def _check_parts(chosen, builders, report):
    """Raise UserError for a file without a good row, and for two tables with faces of one split."""
    files = {split: list(dict.fromkeys(file for file, _ in builder.places)) for split, builder in builders.items()}
    used = {file for of_split in files.values() for file in of_split}
    for split, (first, *others) in ((split, of_split) for split, of_split in files.items() if of_split):
        if others:
            raise UserError(two_candidates(split, first, others[0]))
    for part in chosen.parts if chosen.kind == "tables" else ():
        if part.name in used:
            continue
        dropped = [entry for entry in report if entry.file == part.name and entry.action == "dropped"]
        if not dropped:
            raise UserError(f"{part.name} has a header but no rows: get the file again")
        raise UserError(
            f"{part.name}: none of its {counted(len(dropped), 'row')} can be used (row {dropped[0].row}: "
            f"{dropped[0].reason}): get the file again"
        )
    if not used:
        raise UserError(f"{chosen.description}: none of these can be used: get them again")


def _archive_other_file(h5_path, origin):
    """Move a file at `h5_path` aside that is no data.h5, or one with V/A/D where those of the new one are "none"."""
    try:
        contents = store.check(h5_path) if h5_path.exists() else None
        has_more = contents is not None and contents.vad_origin != "none" and origin == "none"
        what = "of faces with V/A/D, which the new ones lack" if has_more else None
    except store.Damaged:
        return
    except store.Foreign as error:
        what = error
    if what:
        print(f"{h5_path} is {what}: moved to {move_aside([h5_path], h5_path.parent)}")


@contextmanager
def _stamping(chosen, source, seen):
    """A future of the `sources` that data.h5 records; the files are read in a thread meanwhile."""
    stop = threading.Event()
    files = _named_files(chosen, source)
    with ThreadPoolExecutor(1) as pool:
        try:
            yield pool.submit(lambda: [_stamp(name, file, seen, stop) for name, file in files.items()])
        finally:
            stop.set()


def _stamp(name, file, seen, stop):
    if file is None:
        size, changed, digest = seen[name]
    else:
        stat = file.stat()
        size, changed, digest = stat.st_size, stat.st_mtime_ns, sha256_of(file)
    return {"name": name, "size": size, "mtime_ns": changed, "sha256": digest}


@contextmanager
def _bar(chosen, progress):
    """A function that takes the number of bytes just read and, on a terminal, shows it as a bar."""
    entries = [part.entry for part in chosen.parts] if chosen.kind == "tables" else []
    total, terminal = sum(entry.size for entry in entries), sys.stderr.isatty()
    if progress and not terminal and total:
        names = ", ".join(dict.fromkeys(entry.disk.name for entry in entries))
        print(f"reading {names} ({total / 1e6:,.0f} MB of text)", flush=True)
    show = progress and terminal
    with tqdm(total=total or None, desc="reading", unit="B", unit_scale=True, disable=not show) as bar:
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
        type=path_argument,
        default=HOME,
        help="a folder, an archive, a table or an h5 file (default: the project's data folder)",
    )
    parser.add_argument(
        "--h5", type=path_argument, metavar="PATH", help="what to write (default: data.h5 in the source's folder)"
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
