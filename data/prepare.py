"""Rows -> data.h5, once, atomically, with a report of what was dropped and why.

    python -m data.prepare [SOURCE] [--h5 PATH]

SOURCE is a folder, an archive or a CSV (see `data/archive.py`), by default the data folder of the project.
"""

import argparse
import csv
import hashlib
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data import store
from data.archive import find_source, open_source
from data.rows import read_rows
from utils.files import UserError, move_aside, replacing
from utils.tasks import SPLITS

__all__ = ["Preparation", "check", "describe", "ensure", "find_source", "prepare"]

REPORT_NAME = "data_report.csv"
REPORT_COLUMNS = ("split", "file", "row", "reason", "action")
_IN_MEMORY = 128 << 20  # bytes of pixels of a split that are kept in memory before they go to disk


@dataclass(frozen=True)
class Preparation:
    """What `prepare` did.

    counts: {split: faces kept}; dropped: {kind of fault: rows dropped}; one_colour: kept faces whose
    pixels are all equal; repeated: kept faces whose identical image is in another split, too.
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
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(self.dropped.items()))
        return "\n".join(
            (
                f"{self.h5_path}: {faces} faces, V/A/D: {self.vad_origin}, in {self.seconds:.1f} s",
                f"  rows dropped: {sum(self.dropped.values()):,}" + (f" ({kinds})" if kinds else ""),
                f"  kept, but worth a look: {self.one_colour:,} faces of one colour, "
                f"{self.repeated:,} faces that another split holds too",
                f"  row by row: {self.report_path}",
            )
        )


def ensure(source, h5_path=None, progress=True):
    """Return the path of a data.h5 that is intact and up to date, preparing it when it is not.

    source: a folder, an archive, a CSV, or a data.h5 itself (which is checked and used as it is).
    h5_path: by default data.h5 in the folder, or beside the file.
    An intact data.h5 stands when its recorded sources have the same size and time of change, or else
    the same SHA-256, and also when no source is there any more. Otherwise it is made anew, and one
    line says why. Raises UserError when there is nothing to read or it cannot be read.
    """
    source = Path(source)
    if source.suffix.lower() in (".h5", ".hdf5"):
        check(source)
        return source
    h5_path = default_h5_path(source) if h5_path is None else Path(h5_path)
    if not h5_path.exists():
        prepare(source, h5_path, progress)
        return h5_path
    found = find_source(source) if source.is_dir() or not source.exists() else open_source(source)
    try:
        contents, problem = store.check(h5_path), None
        if found is not None:
            problem = _difference(found, contents.sources)
    except store.Damaged as error:
        problem = f"it is {error}"
    except store.Foreign as error:
        problem = f"it is {error}"
        if found is not None:
            aside = move_aside([h5_path], h5_path.parent)
            print(f"{h5_path} is {error}: moved to {aside}")
    if problem is None:
        return h5_path
    if found is None:
        raise UserError(f"{h5_path} cannot be used ({problem}) and there is no archive or CSV at {source} to remake it")
    print(f"preparing {h5_path} anew: {problem}")
    prepare(source, h5_path, progress)
    return h5_path


def check(h5_path):
    """Return the `store.Contents` of an intact data.h5. Raises UserError when it is missing or not intact."""
    try:
        return store.check(h5_path)
    except FileNotFoundError as error:
        raise UserError(f"{h5_path} does not exist: prepare it with python -m data.prepare") from error
    except (store.Damaged, store.Foreign) as error:
        raise UserError(f"{h5_path} is {error}: prepare it again with python -m data.prepare") from error


def describe(h5_path):
    """Where the V/A/D of an intact data.h5 come from: one of `store.VAD_ORIGINS`."""
    return check(h5_path).vad_origin


def default_h5_path(source):
    """data.h5 in the folder `source`, or beside the file `source`."""
    source = Path(source)
    return (source.parent if source.is_file() else source) / "data.h5"


def prepare(source, h5_path, progress=True):
    """Read `source` (a folder, an archive or a CSV), write `h5_path` and its report, print a summary.

    Both files appear complete or not at all. progress: show a bar where stderr is a terminal.
    Returns a `Preparation`. Raises UserError when the source has no usable faces.
    """
    started, h5_path = time.perf_counter(), Path(h5_path)
    report_path = h5_path.with_name(REPORT_NAME)
    found = open_source(source)
    try:
        with ExitStack() as stack:
            stamps = stack.enter_context(_stamping(found))
            splits = {split: stack.enter_context(_Split(h5_path.parent)) for split in SPLITS}
            report = _read(found, splits, progress)
            splits = {name: split for name, split in splits.items() if split.count}
            _require_faces(found, splits, report)
            repeated = _repeated(splits, report)
            origin = _vad_origin(found)
            with replacing(h5_path) as temporary:
                stored = {name: split.stored(repeated[name]) for name, split in splits.items()}
                store.write(temporary, stored, stamps(), origin)
                _write_report(report_path, report)
    except OSError as error:
        raise UserError(f"preparing {h5_path} failed: {error}") from error
    preparation = Preparation(
        h5_path,
        report_path,
        {name: split.count for name, split in splits.items()},
        dict(Counter(entry[3].split(":")[0] for entry in report if entry[4] == "dropped")),
        sum(entry[3] == ONE_COLOUR for entry in report),
        int(sum(flags.sum() for flags in repeated.values())),
        origin,
        time.perf_counter() - started,
    )
    print(preparation.summary())
    return preparation
