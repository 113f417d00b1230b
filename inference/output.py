"""Which files are read, where results go, and what is written there."""

import csv
import errno
import glob
import hashlib
import json
import os
import warnings
import zlib
from contextlib import ExitStack, suppress
from pathlib import Path

from PIL import Image

from utils.files import UserError, as_text, as_user_error, atomic_write, is_unfinished
from utils.images import is_image, is_video
from utils.tasks import DIMENSIONS, EMOTIONS
from utils.text import decimal

VALUES = tuple(name.lower() for name in (*EMOTIONS, *DIMENSIONS))
READINGS = ("emotion", "probability", *VALUES)
COLUMNS = (
    *("file", "frame", "time", "face", "left", "top", "right", "bottom", "angle", "confidence"),
    *("uncertain", *READINGS),
)
VIDEO_COLUMNS = (*COLUMNS, *(f"smoothed_{name}" for name in READINGS))
DECIMALS = {"angle": 1}  # of other numbers 4
BYTE_ORDER_MARK = "\N{ZERO WIDTH NO-BREAK SPACE}"  # by which Excel knows UTF-8
SOFTWARE = "visualize.py"  # in the metadata of results
MAX_STEM = 180  # bytes of the name of a result, of the 255 that a name may have
# How PNGs are compressed: here faster than by default, and smaller.
PNG_COMPRESSION = {"compress_level": 1, "compress_type": zlib.Z_RLE}
REMEDY = "make room, or choose another place"


# Rows


def to_row(face):
    """{column: value} of a `Face`: `COLUMNS`, in a video `VIDEO_COLUMNS`."""
    left, top, right, bottom = face.box.rounded()
    row = {"file": face.file, "frame": face.frame, "time": face.time, "face": face.number}
    row |= {"left": left, "top": top, "right": right, "bottom": bottom, "angle": face.angle}
    row |= {"confidence": face.confidence, "uncertain": face.uncertain, **_readings(face)}
    if face.smoothed is not None:
        row |= {f"smoothed_{name}": value for name, value in _readings(face.smoothed).items()}
    return row


def _readings(face):
    probabilities = {name.lower(): value for name, value in face.probabilities.items()}
    return {
        "emotion": face.emotion,
        "probability": face.probability,
        **probabilities,
        **face.dimensions,
    }


def to_frame(results):
    """A pandas DataFrame with a row per face.

    results: what `recognize`, `iter_images` or `iter_video` gives: [`Face`] or `Result`s. Columns
    are `COLUMNS`, or `VIDEO_COLUMNS` where one of them is of a video. Pictures that could not be
    read are warned of.
    """
    import pandas

    rows, columns = [], COLUMNS
    for result in results:
        if getattr(result, "error", None) is not None:
            warnings.warn(str(result.error), stacklevel=2)
        rows += [to_row(face) for face in getattr(result, "faces", [result]) or ()]
        if result.time is not None:
            columns = VIDEO_COLUMNS
    return pandas.DataFrame(rows, columns=columns)


class TableWriter:
    """Writes rows to a CSV or a JSON file; a context manager.

    The file appears when the block ends, also by an error, once it has a row. An earlier result is
    replaced; raises UserError for any other file in its place, or when it cannot be written.
    """

    def __init__(self, path, columns=COLUMNS, *, is_json=False):
        self.path, self.columns, self._is_json = Path(path), columns, is_json
        self.rows, self._end = 0, 0
        if os.path.lexists(self.path) and not is_own_table(self.path, columns):
            raise UserError(
                f"{self.path} exists, and is another file or folder than a table of this program: "
                "choose another name."
            )

    def __enter__(self):
        with ExitStack() as stack, as_user_error(self.path, REMEDY):
            temporary = stack.enter_context(atomic_write(self.path))
            # Without a buffer: what a full disk refused would be written once more at the end.
            self._stream = stack.enter_context(open(temporary, "wb", buffering=0))
            self.write("[" if self._is_json else _header(self.columns))
            self._stack = stack.pop_all()
        return self

    def add(self, row):
        """Write a row, {column: value}; missing columns are empty."""
        values = [row.get(name) for name in self.columns]
        if self._is_json:
            text = json.dumps(dict(zip(self.columns, values, strict=True)))
            self.write(f"{',' if self.rows else ''}\n{text}")
        else:
            csv.writer(self, lineterminator="\n").writerow(map(_cell, self.columns, values))
        self.rows += 1

    def write(self, text):
        """Write text as a whole, or raise UserError."""
        data = text.encode()
        with as_user_error(self.path, REMEDY):
            if self._stream.write(data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._end += len(data)

    def __exit__(self, *exception):
        if exception[0] is not None and not self.rows:
            self._stack.__exit__(*exception)  # an earlier table stays
            return
        with as_user_error(self.path, REMEDY):
            self._stream.truncate(self._end)
            self._stream.seek(self._end)
            if self._is_json:
                self.write("\n]\n")
            self._stack.close()


def _header(columns):
    return f"{BYTE_ORDER_MARK}{','.join(columns)}\n"


def _cell(column, value):
    return decimal(value, DECIMALS.get(column, 4)) if isinstance(value, float) else value


def is_own_table(path, columns=COLUMNS):
    """Whether a file is a table of this program, with its columns and no others."""
    known = (columns, COLUMNS, VIDEO_COLUMNS)
    try:
        with open(path, encoding="utf-8", newline="") as stream:
            first, second = (stream.readline(10_000) for _ in range(2))
        if first != "[\n":
            return first in map(_header, known)
        return second == "]\n" or tuple(json.loads(second.rstrip(",\n"))) in known
    except (OSError, ValueError, TypeError):
        return False


# Files


def find_inputs(paths, recursive=False):
    """([path of a picture or video], [earlier result that was left out]).

    paths: files, folders, or patterns such as *.jpg, which the shell of Windows does not expand.
    Each file is listed once. Folders that cannot be listed are kept, to be reported.
    """
    found = []
    for given in map(Path, paths):
        is_pattern = glob.has_magic(str(given)) and not os.path.exists(given)
        names = sorted(glob.glob(str(given))) if is_pattern else []
        for path in map(Path, names or [given]):
            found += _list_folder(path, recursive) if os.path.isdir(path) else [path]
    files = {}
    for path in found:
        files.setdefault(os.path.realpath(path), path)
    inputs, results = [], []
    for path in files.values():
        (results if is_own_result(path) else inputs).append(path)
    return inputs, results


def _list_folder(folder, recursive):
    """[path] of pictures and videos, and of folders that cannot be listed."""
    files, refused = [], []
    for root, folders, names in os.walk(folder, onerror=refused.append):
        files += [Path(root, name) for name in names]
        if not recursive:
            folders.clear()
    files = [path for path in files if is_image(path) or is_video(path)]
    files = [path for path in files if not is_unfinished(path)]
    return sorted(files + [Path(error.filename) for error in refused])


class OutputPaths:
    """Where results go: beside the file that they are about, or in `folder`.

    An earlier result about the same file is replaced, any other file is not touched.
    """

    def __init__(self, folder=None):
        self.folder, self._sources = folder, {}

    def path(self, source, ending, columns=COLUMNS):
        """The path of a result about the file `source`: <name><ending>, such as _emotion.png.

        Where another file has that name, a code of the source is part of it. Raises UserError when
        that is taken, too. columns: of a table.
        """
        folder = source.parent if self.folder is None else self.folder
        stem = source.stem
        while len(os.fsencode(stem)) > MAX_STEM:
            stem = stem[:-1]
        code = hashlib.sha256(os.fsencode(os.path.abspath(source))).hexdigest()[:6]
        for name in (f"{stem}{ending}", f"{stem}-{code}{ending}"):
            if self._is_free(folder / name, source, columns):
                self._sources[folder / name] = source
                return folder / name
        raise UserError(f"{folder / name} is not a result about {source}: move it away.")

    def _is_free(self, path, source, columns):
        if path in self._sources:
            return self._sources[path] == source
        if not os.path.lexists(path):
            return True
        if path.suffix == ".csv":
            return is_own_table(path, columns) and _table_source(path) in (None, source.name)
        return read_source(path) == source_mark(source, path)


def source_mark(source, result):
    """What a result says of the file that it is about: its path, relative to the result."""
    try:
        return as_text(os.path.relpath(source, result.parent)).replace(os.sep, "/")
    except ValueError:  # another drive of Windows
        return as_text(os.path.abspath(source))


def video_metadata(source, result):
    """The metadata of a video by which it is known as a result about the file `source`."""
    return {"comment": f"{SOFTWARE}: {source_mark(source, result)}"}


def is_own_result(path):
    """Whether a picture or video is a result of this program."""
    return "_emotion" in path.stem and path.suffix in (".png", ".mp4") and bool(read_source(path))


def read_source(path):
    """The `source_mark` in a result; None where a file is no result of this program."""
    with suppress(Exception):  # of any type: what cannot be read is no result
        if path.suffix == ".png":
            with Image.open(path) as image:
                return image.info["Source"] if image.info["Software"] == SOFTWARE else None
        if path.suffix == ".mp4":
            import av

            with av.open(str(path)) as video:
                software, _, source = video.metadata["comment"].partition(": ")
            return source if software == SOFTWARE else None
    return None


def _table_source(path):
    """The name of the file that the first row of a table is about; None where it has no row."""
    with open(path, encoding="utf-8-sig", newline="") as stream:
        row = next(csv.DictReader(stream), None)
    return row and Path(row["file"]).name


def save_figure(figure, path, source):
    """Write a figure about the file `source` as a PNG. Raises UserError."""
    with as_user_error(path, "make room, or choose another folder with --out"):
        with atomic_write(path) as temporary:
            marks = {"Software": SOFTWARE, "Source": source_mark(source, path)}
            figure.savefig(temporary, format="png", metadata=marks, pil_kwargs=PNG_COMPRESSION)
