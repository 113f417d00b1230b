"""Faces of known subjects, and what their loaders share: reading pictures from a folder tree or a ZIP."""

import zipfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from os import walk
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from data.faces import fingerprint
from data.fer2013.containers import AGAIN, archive_errors_as_user_error, archive_kind
from utils import pictures
from utils.files import UserError

SIZES = (48, 96)
LAST_FRAMES = 3  # of a sequence are used: they show the expression at its strongest


@dataclass(frozen=True)
class SubjectFaces:
    """images (N, S, S) uint8 with S 48 or 96, labels (N,) and subjects (N,) int64, all on one device.

    labels count in class_names, subjects in subject_names. files: N names, relative to the dataset's folder.
    description: one line, what the faces are.
    """

    images: torch.Tensor
    labels: torch.Tensor
    subjects: torch.Tensor
    class_names: tuple[str, ...]
    subject_names: tuple[str, ...]
    files: tuple[str, ...]
    description: str

    def __post_init__(self):
        count, size = len(self.labels), self.images.shape[-1]
        if self.images.shape != (count, size, size) or size not in SIZES or self.images.dtype != torch.uint8:
            raise ValueError(f"images must be uint8 ({count}, S, S), S 48 or 96, not {tuple(self.images.shape)}")
        if self.subjects.shape != (count,) or len(self.files) != count:
            raise ValueError(f"{count} faces need as many subjects and files")

    def __len__(self):
        return len(self.labels)

    @property
    def size(self):
        """Height and width of every picture."""
        return self.images.shape[-1]

    def select(self, rows):
        """The faces of `rows` (int64 numbers in any order, or a bool mask (N,)); the names stay as they are."""
        numbers = torch.arange(len(self))[rows.cpu()]
        rows = numbers.to(self.images.device)
        return replace(
            self,
            images=self.images[rows],
            labels=self.labels[rows],
            subjects=self.subjects[rows],
            files=tuple(self.files[number] for number in numbers.tolist()),
        )

    def to(self, device):
        """The same faces on `device`."""
        images, labels, subjects = (part.to(device) for part in (self.images, self.labels, self.subjects))
        return replace(self, images=images, labels=labels, subjects=subjects)

    def fingerprint(self):
        """SHA-256, as hexadecimal digits, of all pictures, labels and subjects."""
        return fingerprint(self.images, self.labels, self.subjects)


def default_place(home, names, dataset):
    """The first of `names` that is in the folder `home`. Raises UserError when none is."""
    place = next((home / name for name in names if (home / name).exists()), None)
    if place is None:
        raise UserError(
            f"there is no {dataset} in {home}: put {' or '.join(names)} there, or give its folder or ZIP with --data"
        )
    return place


@contextmanager
def picture_files(path, depth):
    """Yield {name: function} of the pictures in a folder tree or a ZIP, sorted by name.

    A function takes the size, or None, and returns the picture as `decode` does. Names are relative to `path`,
    with slashes, and have at most `depth` parts. Hidden files and macOS's own are passed over. Nothing is
    unpacked to disk. Raises UserError when `path` is missing, neither folder nor ZIP, or damaged; the functions
    raise it for a picture that cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        yield dict(sorted(_files_below(path, depth)))
        return
    if not path.exists():
        raise UserError(f"{path} does not exist: give the folder or the ZIP of the dataset")
    with archive_errors_as_user_error(path.name):
        kind = archive_kind(path)
    if kind != "zip":
        raise UserError(f"{path} is no ZIP: give the folder or the ZIP of the dataset")
    with archive_errors_as_user_error(path.name):
        archive = zipfile.ZipFile(path)
    with archive:
        yield dict(sorted(_files_in(archive, path, depth)))


def _files_below(folder, depth):
    for place, folders, files in walk(folder):
        parts = Path(place).relative_to(folder).parts
        folders[:] = [name for name in folders if len(parts) + 2 <= depth and _is_shown(name)]
        for file in files:
            if _is_picture((*parts, file)):
                yield "/".join((*parts, file)), partial(_read_file, Path(place) / file)


def _files_in(archive, path, depth):
    for info in archive.infolist():
        parts = [part for part in info.filename.replace("\\", "/").split("/") if part not in ("", ".")]
        if info.is_dir() or len(parts) > depth or not _is_picture(parts):
            continue
        if info.flag_bits & 1:
            raise UserError(f"{path} is encrypted: unpack it with its password and give the folder")
        yield "/".join(parts), partial(_read_member, archive, info, path)


def _is_picture(parts):
    return all(map(_is_shown, parts)) and Path(parts[-1]).suffix.lower() in pictures.PICTURE_SUFFIXES


def _is_shown(name):
    return not name.startswith(".") and name != "__MACOSX"


def _read_file(path, size):
    with archive_errors_as_user_error(str(path)):
        content = path.read_bytes()
    return decode(content, path, size)


def _read_member(archive, info, path, size):
    name = f"{path.name}:{info.filename}"
    with archive_errors_as_user_error(name):
        content = archive.read(info)
    return decode(content, name, size)


def decode(content, name, size):
    """The picture in `content` (bytes) as grey uint8 (size, size); one that is not square is stretched.

    size: None takes the larger of `SIZES` that the picture has in both directions, else the smaller.
    Raises UserError with `name` when it is no picture or damaged.
    """
    if not content:
        raise UserError(f"{name} is empty: {AGAIN}")
    grey = Image.fromarray(pictures.to_grey(pictures.decode(BytesIO(content), name)))
    if size is None:
        size = max((side for side in SIZES if side <= min(grey.size)), default=SIZES[0])
    if grey.size != (size, size):
        grey = grey.resize((size, size), Image.Resampling.LANCZOS)
    return np.array(grey)


def only_root(roots, path):
    """The only one of `roots` (one or more), the places in `path` where a dataset begins. Raises UserError for two."""
    first, *others = sorted(roots)
    if others:
        raise UserError(
            f"{path} holds the dataset twice, in {first or 'itself'} and in {others[0]}: give the path of one of them"
        )
    return first


def last_frames(sequence):
    """The names of the last frames of a sequence, in their order. sequence: {frame number: name}."""
    return [sequence[frame] for frame in sorted(sequence)[-LAST_FRAMES:]]


def assemble(files, root, chosen, name, class_names, note):
    """The `SubjectFaces` of the chosen pictures, sorted by file name.

    files: as `picture_files` yields it; root: what all chosen names begin with; chosen: {name: (class name,
    subject name)}; note: what the description says beside the counts.
    """
    names, size, images = sorted(chosen), None, []
    for file in names:
        images.append(files[file](size))
        size = len(images[0])
    subject_names = tuple(sorted({subject for _, subject in chosen.values()}))
    return SubjectFaces(
        images=torch.from_numpy(np.stack(images)),
        labels=torch.tensor([class_names.index(chosen[file][0]) for file in names]),
        subjects=torch.tensor([subject_names.index(chosen[file][1]) for file in names]),
        class_names=class_names,
        subject_names=subject_names,
        files=tuple(file.removeprefix(root) for file in names),
        description=f"{name}: {len(names):,} faces of {len(subject_names)} subjects, {size}x{size} grey, {note}",
    )
