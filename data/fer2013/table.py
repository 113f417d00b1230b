"""CSV texts of faces: blocks of whole records, the columns, the fields.

The pixels are nearly all of such a text. So the usual text, without quotes, is cut at the commas near
both ends of its lines and the pixels stay where they are; the module csv does the rest.
"""

import csv
import io
from dataclasses import dataclass

from data.fer2013.pixels import quoted
from utils.files import UserError
from utils.tasks import DIMENSIONS, SPLITS

BLOCK_BYTES = 1 << 20  # about 120 faces
RECORD_LIMIT = 4 << 20  # a row of 2304 pixels takes at most some 9 kB
_MARGIN = 256  # bytes; the fields before the pixels are shorter together, and so are those after them


def blocks_of(stream, name, progress):
    """Cut a text into blocks of whole records: pairs (head, text) of bytes.

    A block is head + text up to the last line end in it; what follows there is the head of the next block, so
    that no large text is copied. Where there are quotes, a record may run over line ends.
    """
    head = b""
    while text := stream.read(BLOCK_BYTES):
        progress(len(text))
        cut = text.rfind(b"\n") + 1
        if cut and b'"' not in text and b'"' not in head:
            yield head, text
            head = text[cut:]
            continue
        head += text
        cut = head.rfind(b"\n") + 1
        if cut and head.count(b'"', 0, cut) % 2 == 0:
            yield b"", head[:cut]
            head = head[cut:]
        elif len(head) > RECORD_LIMIT:
            raise UserError(
                f"{name} is not a table of faces: it has a line or a quoted field of over 4 MB: get it again"
            )
    if head:
        yield b"", head + b"\n"


@dataclass(frozen=True)
class Columns:
    """Where the fields of a record are. split: index of that of all rows, None when the column `usage` tells."""

    width: int
    pixels: int
    emotion: int
    vad: tuple[int, ...] | None
    usage: int | None
    split: int | None


def read_header(text, part):
    """The `Columns` that the first record of a part tells, and the text after that record."""
    line, _, rest = text.removeprefix(b"\xef\xbb\xbf").lstrip().partition(b"\n")
    try:
        names = next(csv.reader([line.decode("utf-8")]), [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{part.name} is not a CSV in UTF-8 ({error}): save it as such, or get it again") from error
    names = [name.strip().lower() for name in names]
    annotated = part.role in SPLITS
    needed = ["pixels", "emotion", *(map(str.lower, DIMENSIONS) if annotated else ["usage"])]
    faulty = [name for name in needed if names.count(name) != 1]
    if faulty:
        problem = "no column" if faulty[0] not in names else "more than one column"
        found = ", ".join(quoted(name.encode()) for name in names[:12]) or "an empty text"
        raise UserError(
            f"{part.name} has {problem} {', '.join(faulty)} in line 1 (found: {found}): "
            f"it needs {', '.join(needed)}, separated by commas"
        )
    place = {name: names.index(name) for name in needed}
    vad = tuple(place[name.lower()] for name in DIMENSIONS) if annotated else None
    split = SPLITS.index(part.role) if annotated else None
    return Columns(len(names), place["pixels"], place["emotion"], vad, place.get("usage"), split), rest


def locate(columns, text):
    """Where the pixels of each record are: (text, records, starts, stops), the records without their pixels.

    Cuts each line at its commas near both ends, so that the pixels are not copied. None where that is not enough.
    """
    if b'"' in text:
        return None
    before, after = columns.pixels, columns.width - 1 - columns.pixels
    records, starts, stops = [], [], []
    start, end = 0, text.find(b"\n")
    while end >= 0:
        left = text[start : min(start + _MARGIN, end)].split(b",", before)
        near_end = max(start, end - _MARGIN)
        tail = text[near_end:end].rstrip()
        right = tail.rsplit(b",", after)
        if len(left) <= before or len(right) <= after:
            if text[start:end].strip():
                return None
        else:
            records.append([*left[:-1], b"", *right[1:]])
            starts.append(start + sum(map(len, left[:-1])) + before)
            stops.append(near_end + len(tail) - sum(map(len, right[1:])) - after)
        start, end = end + 1, text.find(b"\n", end + 1)
    return text, records, starts, stops


def records_of(text):
    """The fields (bytes) of each record; blank lines are no records."""
    if b'"' in text:
        lines = io.StringIO(text.decode("utf-8", errors="replace"), newline="")
        return [[field.encode() for field in record] for record in csv.reader(lines) if record]
    return [line.split(b",") for line in text.split(b"\n") if line and not line.isspace()]
