"""What was read from faces, as rows of a CSV or objects of a JSON file."""

import json
import os
import shutil
from contextlib import ExitStack, contextmanager, suppress

from utils.files import UserError, as_text, as_user_error, atomic_write, move_aside, temporary_file
from utils.tasks import DIMENSIONS, EMOTIONS
from utils.text import to_csv

READ = ("emotion", "probability", *EMOTIONS, *DIMENSIONS)
SMOOTH = tuple(f"smooth {name}" for name in READ)  # of videos
COLUMNS = (
    "file", "frame", "seconds", "face", "left", "top", "right", "bottom", "angle", "confidence", "unsure", *READ,
)  # fmt: skip
VIDEO_COLUMNS = (*COLUMNS, *SMOOTH)  # a face there is a person, whose values are also smoothed over time
# Columns that are written as they are; others have four decimals.
WHOLE = {"file", "frame", "frames", "face", "left", "top", "right", "bottom", "unsure", "emotion", "smooth emotion",
         "longest emotion"}  # fmt: skip
DECIMALS = {"angle": 1}
REMEDY = "make room, or choose another place"
ROWS = 1000  # that wait in memory before they are written


def of_face(face):
    """{column: plain value} of a `Face`, without what says which it is."""
    left, top, right, bottom = face.box.rounded()
    return {
        "left": left, "top": top, "right": right, "bottom": bottom, "angle": face.box.angle,
        "confidence": face.confidence, "unsure": face.unsure, **of_values(face),
    }  # fmt: skip


def of_values(face):
    """{column: value} of what is read in a face: emotion, probabilities, valence, arousal, dominance."""
    return {
        "emotion": face.emotion, "probability": face.probability,
        **face.probabilities, **{name: face.dimensions[name.lower()] for name in DIMENSIONS},
    }  # fmt: skip


def row(file, number, face, frame=None, seconds=None, smooth=None):
    """{column: value} of the face `number` (from 1) in `file`. Of a video: the frame, its time, and the `Face` of
    smoothed values.
    """
    smoothed = {} if smooth is None else {f"smooth {name}": value for name, value in of_values(smooth).items()}
    return {"file": as_text(file), "frame": frame, "seconds": seconds, "face": number, **of_face(face), **smoothed}


def to_frame(faces):
    """A pandas DataFrame of [`Face`], or of a list of such lists, whose column `picture` counts from 0."""
    import pandas

    several = bool(faces) and isinstance(faces[0], list)
    rows = [
        {"picture": number, "face": place, **of_face(face)}
        for number, found in enumerate(faces if several else [faces])
        for place, face in enumerate(found, 1)
    ]
    columns = [name for name in COLUMNS if name not in ("file", "frame", "seconds")]
    return pandas.DataFrame(rows, columns=(["picture"] if several else []) + columns)


@contextmanager
def table(csv_path=None, json_path=None, columns=COLUMNS, tell=print):
    """A function that adds a `row` to the CSV and the JSON file (None: not wanted).

    Rows wait on disk, so that memory does not grow with them. Both files are written at the end, and, if they have any
    rows, when Ctrl-C or a UserError ends the block; files that stand there are moved to previous/ first, which `tell`
    is called with. Raises UserError when one cannot be written: where that is known at the beginning, then.
    """
    kinds = ((csv_path, _csv), (json_path, _json))
    with ExitStack() as stack:
        wanted = [(path, _Waiting(path, as_text_of, columns, stack)) for path, as_text_of in kinds if path is not None]

        def add(new):
            for _, waiting in wanted:
                waiting.add(new)

        try:
            yield add
        except (KeyboardInterrupt, UserError):  # what was read so far is kept
            if any(waiting.rows or not waiting.empty for _, waiting in wanted):
                _place(wanted, tell)
            raise
        _place(wanted, tell)


class _Waiting:
    """Rows on their way to the file `path`, in a file without a name beside it.

    as_text_of: (rows, columns, whether they are the first) -> text.
    """

    def __init__(self, path, as_text_of, columns, stack):
        self.path, self.as_text_of, self.columns = path, as_text_of, columns
        self.rows, self.empty, self.end = [], True, 0  # end: of what is written whole
        if os.path.isdir(path):
            raise UserError(f"{path} is a folder: choose another name.")
        with as_user_error(path, REMEDY):
            path.parent.mkdir(parents=True, exist_ok=True)
            self.stream = temporary_file(path.parent)
        stack.callback(self._discard)

    def add(self, new):
        self.rows.append(new)
        if len(self.rows) >= ROWS:
            self.write()

    def write(self):
        with as_user_error(self.path, REMEDY):
            self.stream.seek(self.end)  # over what a full disk or Ctrl-C cut off
            self.stream.write(self.as_text_of(self.rows, self.columns, self.empty).encode())
            self.stream.flush()
        self.rows, self.empty, self.end = [], False, self.stream.tell()

    def _discard(self):
        with suppress(OSError):  # what a full disk did not take is tried once more, and was told already
            self.stream.close()

    def copy_to(self, target):
        """Write everything to the path `target`."""
        if self.rows or self.empty:
            self.write()
        self.stream.seek(0)
        with open(target, "wb") as stream:
            shutil.copyfileobj(self.stream, stream)
            if self.as_text_of is _json:
                stream.write(b"\n]\n")


def _place(wanted, tell):
    """Put the files of [(path, `_Waiting`)] into their places, all of them or none."""
    with ExitStack() as stack:
        for path, waiting in wanted:
            stack.enter_context(as_user_error(path, REMEDY))
            temporary = stack.enter_context(atomic_write(path))
            waiting.copy_to(temporary)
        for path, _ in wanted:
            moved = move_aside([path], path.parent)
            if moved:
                tell(f"The earlier {path.name} was moved to {moved}")


def _csv(rows, columns, first):
    import pandas

    frame = pandas.DataFrame(rows, columns=columns, dtype=object)  # a whole number beside an empty cell stays one
    decimals = {name: DECIMALS.get(name, 4) for name in columns if name not in WHOLE}
    text = to_csv(frame, decimals, header=first)
    return f"\N{ZERO WIDTH NO-BREAK SPACE}{text}" if first else text  # by this mark Excel knows UTF-8


def _json(rows, columns, first):
    objects = ",\n".join(json.dumps({name: one.get(name) for name in columns}) for one in rows)
    return f"{'[' if first else ','}{chr(10) if objects else ''}{objects}"
