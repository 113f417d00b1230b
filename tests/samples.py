"""Made-up CSV files and archives of faces for the tests, written without any of the project's readers."""

import csv
import io
import re
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from data.fer2013 import prepare

SPLIT_FILES = {
    "Training": "train-20240507-yh.csv",
    "PublicTest": "publictest-20240609-2-yh.csv",
    "PrivateTest": "privatetest-20240506-yh.csv",
}
COLUMNS = ("index", "emotionLabel", "Valence", "Arousal", "Dominance", "emotion", "pixels")


@contextmanager
def read_source(source):
    """The rows of the best source in a place: pairs (name of a file, `Block`), read in the context."""
    with prepare.survey(source) as found:
        yield prepare._blocks(prepare._chosen(Path(source), found), lambda count: None, [])


def image(seed):
    """A random picture, uint8 (2304,)."""
    return np.random.default_rng(seed).integers(0, 256, 2304, dtype=np.uint8)


def pixel_text(pixels):
    return " ".join(str(value) for value in np.asarray(pixels).tolist())


def sample_row(number, **changes):
    """One annotated row as {column: text}; `number` decides all of it, `changes` override."""
    row = {
        "index": str(number),
        "emotionLabel": f"{number % 7}=Name",
        "Valence": str((number % 9 - 4) / 2),
        "Arousal": str((number % 5 - 2) / 2),
        "Dominance": str((number % 3) - 1),
        "emotion": str(number % 7),
        "pixels": pixel_text(image(number)),
    }
    return row | changes


def expected(row):
    """(label, [V, A, D], pixels) of a good row, computed with int and float alone."""
    vad = [float(row[name]) for name in ("Valence", "Arousal", "Dominance")]
    return int(row["emotion"]), vad, [int(word) for word in row["pixels"].split()]


def table(rows, columns=COLUMNS, newline="\n", bom=False, quoting=csv.QUOTE_MINIMAL):
    """Rows as the bytes of a CSV file."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator=newline, quoting=quoting)
    writer.writeheader()
    writer.writerows(rows)
    return (b"\xef\xbb\xbf" if bom else b"") + text.getvalue().encode()


def three_splits(count=3):
    """{member name: bytes} of three small annotated CSV files, and {split: rows}."""
    rows = {split: [sample_row(100 * place + i) for i in range(count)] for place, split in enumerate(SPLIT_FILES)}
    return {f"data/{SPLIT_FILES[split]}": table(rows[split]) for split in SPLIT_FILES}, rows


def write_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def lock_zip(path):
    """Give every member of a ZIP the flag of an encrypted one, in its own header and in the directory."""
    whole = path.read_bytes()
    data = bytearray(whole)
    for start, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        for found in re.finditer(start, whole):
            data[found.start() + flags] |= 1
    path.write_bytes(data)
    return path


def write_stored_rar(path, members):
    """A RAR 5 archive without compression, from the published format description."""
    with open(path, "wb") as stream:
        stream.write(b"Rar!\x1a\x07\x01\x00" + rar_block([1, 0, 0]))  # main header: no flags
        for name, data in members.items():
            checksum = zlib.crc32(data).to_bytes(4, "little")
            # File header with a data area; file flags: CRC present; method 0 = stored; host 1 = Unix.
            start = [2, 2, len(data), 4, len(data), 0o644]
            stream.write(rar_block(start, checksum, [0, 1, len(name.encode())], name.encode()) + data)
        stream.write(rar_block([5, 0, 0]))  # end of archive
    return path


def rar_block(*pieces):
    """A header of RAR 5: pieces are bytes, or lists of numbers."""
    header = b"".join(piece if isinstance(piece, bytes) else b"".join(map(_number, piece)) for piece in pieces)
    header = _number(len(header)) + header
    return zlib.crc32(header).to_bytes(4, "little") + header


def _number(value):
    """RAR's variable-length integer: seven bits a byte, lowest first."""
    groups = [value & 127]
    while value := value >> 7:
        groups.append(value & 127)
    return bytes([group | 128 for group in groups[:-1]] + groups[-1:])
