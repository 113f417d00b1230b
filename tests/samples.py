"""Made-up tables, archives and pictures, written without any of the project's readers."""

import csv
import io
import re
import tarfile
import zipfile
import zlib
from itertools import product
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from data.demo.drawing import draw_face
from utils.tasks import EMOTIONS

FILES = Path(__file__).resolve().parent / "files"
SPLIT_FILES = {
    "Training": "train-20240507-yh.csv",
    "PublicTest": "publictest-20240609-2-yh.csv",
    "PrivateTest": "privatetest-20240506-yh.csv",
}
VAD = ("Valence", "Arousal", "Dominance")
COLUMNS = ("index", "emotionLabel", *VAD, "emotion", "pixels")
PLAIN = ("emotion", "pixels", "Usage")
VOTES = ("neutral", "happiness", "surprise", "sadness", "anger",
         "disgust", "fear", "contempt", "unknown", "NF")  # fmt: skip
CLASS_FOLDERS = dict(enumerate(("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")))


# Faces and rows


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


def split_rows(count=3):
    """{split: [row]} of different faces; the column Usage names the split."""
    return {
        split: [sample_row(100 * place + number, Usage=split) for number in range(count)]
        for place, split in enumerate(SPLIT_FILES)
    }


def expected(row):
    """(label, [V, A, D], pixels) of a good row, computed with int and float alone."""
    vad = [float(row[name]) for name in VAD]
    return int(row["emotion"]), vad, list(map(int, row["pixels"].split()))


def table(rows, columns=COLUMNS, newline="\n", encoding="utf-8", **options):
    """Rows as the bytes of a CSV file. options: of csv.DictWriter, such as delimiter."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator=newline, **options)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode(encoding)


def plain_table(count=3):
    """fer2013.csv without annotations, bytes."""
    return table([row for rows in split_rows(count).values() for row in rows], PLAIN)


def three_splits(count=3):
    """({name: bytes} of three small annotated CSV files, what data.h5 should hold of them)."""
    rows = split_rows(count)
    faces = {split: [expected(row) for row in mine] for split, mine in rows.items()}
    return {f"data/{name}": table(rows[split]) for split, name in SPLIT_FILES.items()}, faces


def without_vad(faces, vad=None):
    """The same faces without annotations, or all with the same."""
    return {name: [(label, vad, face) for label, _, face in faces[name]] for name in faces}


def votes_table(votes, names=None, usages=tuple(SPLIT_FILES)):
    """FER+ votes as bytes. votes: [{emotion: count}], row by row; names: "" for no face."""
    names = names or [f"fer{number:07}.png" for number in range(len(votes))]
    rows = [dict.fromkeys(VOTES, 0) | mine | {"Usage": usage, "Image name": name}
            for mine, usage, name in zip(votes, usages, names, strict=True)]  # fmt: skip
    return table(rows, ("Usage", "Image name", *VOTES))


def write_csv(path, images, labels, vad):
    """An annotated table of images (N, 48, 48), labels (N,) and V/A/D (N, 3)."""
    rows = []
    for face, label, values in zip(images, labels, vad, strict=True):
        row = {"index": len(rows), "emotionLabel": f"{label}={EMOTIONS[label]}", "emotion": label}
        row |= dict(zip(VAD, values, strict=True))
        rows.append(row | {"pixels": pixel_text(face.ravel())})
    path.write_bytes(table(rows))


def write_files(folder, members):
    """Write {relative name: bytes} into a folder."""
    for name, content in members.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def class_folders(splits=("train", "test"), classes=CLASS_FOLDERS, count=2):
    """Pictures in <split>/<class>/: ({name: bytes}, {split: {(label, pixels as bytes)}})."""
    members, faces = {}, {split: set() for split in splits}
    for split, (label, name), number in product(splits, classes.items(), range(count)):
        face = image(10_000 * splits.index(split) + 1000 * label + number)
        members[f"{split}/{name}/{number}.png"] = png(face.reshape(48, 48))
        faces[split].add((label, face.tobytes()))
    return members, faces


def png(pixels):
    """An array as the bytes of a PNG file."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


# Faces of known people, {relative name: bytes}

CK_FOLDERS = ("anger", "contempt", "disgust", "fear", "happy", "sadness", "surprise")
OULU_FOLDERS = ("Anger", "Disgust", "Fear", "Happiness", "Sadness", "Surprise")
STRONG = "Preprocess Img/VL_Acropped/Strong"


def drawn_face(number, size=48):
    return draw_face(number % 7, (0, 0, 0), number, size)


def ck_tree(frames=3, size=48, subjects=(10, 5, 999)):
    """CK+ as it is passed on: subjects, each with a sequence of every class."""
    tree = {}
    people = product(subjects, enumerate(CK_FOLDERS, 1), range(frames))
    for subject, (sequence, folder), frame in people:
        name = f"{folder}/S{subject:03}_{sequence:03}_{frame + 8:08}.png"
        tree[name] = png(drawn_face(subject + 10 * sequence + frame, size))
    return tree


def released_tree(labels):
    """CK+ as it was released: frames of 640x490 with a face. labels: of sequences, or None."""
    tree = {}
    for number, label in enumerate(labels):
        folder = f"S{number + 5:03}/001/S{number + 5:03}_001_"
        for frame in range(1, 6):
            canvas = np.full((490, 640), 110, np.uint8)
            face = Image.fromarray(drawn_face(number + frame))
            canvas[100:330, 50:280] = np.asarray(face.resize((230, 230)))
            tree[f"cohn-kanade-images/{folder}{frame:08}.png"] = png(canvas)
        if label is not None:
            tree[f"Emotion/{folder}00000005_emotion.txt"] = f"   {label:.7e}\n".encode()
    return tree


def oulu_tree(frames=4, people=(1, 2, 80), size=48):
    """Oulu-CASIA: a sequence of each expression per subject."""
    return {
        f"P{person:03}/{folder}/{frame:03}.jpeg": png(drawn_face(person + 10 * place + frame, size))
        for person in people
        for place, folder in enumerate(OULU_FOLDERS)
        for frame in range(frames)
    }


def below(folder, tree):
    return {f"{folder}/{name}": content for name, content in tree.items()}


# Archives


def write_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def lock_zip(path):
    """Flag every member of a ZIP as encrypted, in its own header and in the directory."""
    whole = path.read_bytes()
    data = bytearray(whole)
    for start, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        for found in re.finditer(start, whole):
            data[found.start() + flags] |= 1
    path.write_bytes(data)
    return path


def write_tar(path, members, mode="w:gz"):
    """A TAR of {name: bytes}, or of {name: (type, where a link points to)}."""
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = content
                archive.addfile(info)
    return path


RAR_START = b"Rar!\x1a\x07\x01\x00"


def write_stored_rar(path, members):
    """A RAR 5 archive whose members are stored without compression."""
    files = b"".join(rar_file(name, data) for name, data in members.items())
    path.write_bytes(RAR_START + rar_block([1, 0, 0]) + files + rar_block([5, 0, 0]))
    return path


def write_split_rar(folder, members, size):
    """A RAR 5 archive of two parts; in the first are `size` bytes of the second of three members.

    Returns the paths of the parts.
    """
    (first, one), (second, two), (third, three) = members.items()
    is_cut = size < len(two)
    parts = [rar_block([1, 0, 1]) + rar_file(first, one), rar_block([1, 0, 3, 1])]
    parts[0] += rar_file(second, two[:size], 16 if is_cut else 0, len(two))
    parts[1] += rar_file(second, two[size:], 8, checked=two) if is_cut else b""
    parts[1] += rar_file(third, three)
    files = {f"{n}.rar": RAR_START + part + rar_block([5, 0, 2 - n])
             for n, part in enumerate(parts, 1)}  # fmt: skip
    files = {f"faces.part{name}": content for name, content in files.items()}
    return [write_files(folder, files) / name for name in files]


def rar_file(name, data, flags=0, size=None, checked=None):
    """A stored file, or its data in one of several parts. flags: 8, it goes on; 16, it will."""
    checksum = zlib.crc32(checked or data).to_bytes(4, "little")
    # With a data area; file flags: CRC present; method 0 = stored; host 1 = Unix.
    start = [2, 2 | flags, len(data), 4, size or len(checked or data), 0o644]
    return rar_block(start, checksum, [0, 1, len(name.encode())], name.encode()) + data


def rar_block(*pieces):
    """A header of RAR 5: pieces are bytes, or lists of numbers."""
    pieces = [p if isinstance(p, bytes) else b"".join(map(rar_number, p)) for p in pieces]
    header = b"".join([rar_number(sum(map(len, pieces))), *pieces])
    return zlib.crc32(header).to_bytes(4, "little") + header


def rar_number(value):
    """RAR's variable-length integer: seven bits a byte, lowest first."""
    groups = [value & 127]
    while value := value >> 7:
        groups.append(value & 127)
    return bytes([group | 128 for group in groups[:-1]] + groups[-1:])


# What preparing leaves


def contents(folder):
    """{relative name: bytes} of the files below a folder."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def read_h5(path):
    """{split: [(label, V/A/D or None, pixels)]} of a data.h5, in its order."""
    found = {}
    with h5py.File(path, "r") as h5:
        for split in (split for split in SPLIT_FILES if f"{split}_label" in h5):
            pixels, labels, vad = (h5.get(f"{split}_{name}") for name in ("pixel", "label", "VAD"))
            assert pixels.dtype == np.uint8 and pixels.shape == (len(labels), 2304)
            assert labels.dtype == np.int64
            assert vad is None or vad.dtype == np.float32 and vad.shape == (len(labels), 3)
            values = [None] * len(labels) if vad is None else vad[:].tolist()
            found[split] = list(zip(labels[:].tolist(), values, pixels[:].tolist(), strict=True))
    return found


def read_pictures(path):
    """{split: {(label, pixels as bytes)}} of a data.h5."""
    found = read_h5(path)
    return {split: {(label, bytes(face)) for label, _, face in found[split]} for split in found}


def dropped_rows(folder):
    """[(split, file, row, reason)] of the dropped rows in data_report.csv, all text."""
    with open(folder / "data_report.csv", encoding="utf-8-sig", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [(row["split"], row["file"], row["row"], row["reason"]) for row in rows]
