"""Faces of known subjects, and what their loaders share: reading pictures from a folder tree or a ZIP."""

from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
import torch

from data.faces import fingerprint
from data.fer2013.containers import AGAIN, ENCRYPTED, Tree, archive_kind
from utils import images as pictures
from utils.files import UserError
from utils.images import NEARLY_SQUARE, is_image

GIVE = "give the folder or the ZIP of the dataset"
NO_SUBJECTS = (
    "a table does not say who is in a picture, and FERSNet needs to know: get the pictures with names like "
    "S010_004_00000017.png"
)
SIZES = (48, 96)
LAST_FRAMES = 3  # of a sequence are used: they show the expression at its strongest


@dataclass(frozen=True)
class SubjectFaces:
    """images (N, S, S) uint8 with S 48 or 96, labels, subjects and sequences (N,) int64, all on one device.

    labels count in class_names, subjects in subject_names, in the order of their names. sequences: the frames of one
    have one number. files: N names, relative to the dataset's folder. description: one line, what the faces are.
    Raises ValueError for other shapes.
    """

    images: torch.Tensor
    labels: torch.Tensor
    subjects: torch.Tensor
    sequences: torch.Tensor
    class_names: tuple[str, ...]
    subject_names: tuple[str, ...]
    files: tuple[str, ...]
    description: str

    def __post_init__(self):
        count, size = len(self.labels), self.images.shape[-1]
        if self.images.shape != (count, size, size) or size not in SIZES or self.images.dtype != torch.uint8:
            raise ValueError(f"images must be uint8 ({count}, S, S), S 48 or 96, not {tuple(self.images.shape)}")
        if not self.subjects.shape == self.sequences.shape == (count,) or len(self.files) != count:
            raise ValueError(f"{count} faces need as many subjects, sequences and files")

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
            sequences=self.sequences[rows],
            files=tuple(self.files[number] for number in numbers.tolist()),
        )

    def to(self, device):
        """The same faces on `device`."""
        names = ("images", "labels", "subjects", "sequences")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

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
def picture_files(path):
    """Yield ({name: `Entry`} of the pictures, {name: `Entry`} of the other files), each sorted by name.

    They lie in a folder, in an archive, or in archives in it. Names are relative to `path`, with slashes. Hidden files
    and macOS's own are passed over. Nothing is unpacked. Raises UserError when `path` is missing, a table, neither
    folder nor archive, damaged or encrypted.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path} does not exist: give the folder or the ZIP of the dataset")
    if path.is_file() and archive_kind(path) is None:
        raise UserError(f"{path} is no ZIP: {NO_SUBJECTS if path.suffix.lower() == '.csv' else GIVE}")
    with Tree(path) as tree:
        if tree.problems:  # a dataset without a part of it would look whole
            raise UserError(next(iter(tree.problems.values())))
        top = 1 if path.is_file() else 0  # of an archive that was given its own name does not count
        entries = {"/".join(entry.path.parts[top:]): entry for entry in tree.entries}
        entries = dict(sorted(entries.items()))
        if any(entry.encrypted for entry in entries.values()):
            raise UserError(f"{path} {ENCRYPTED}")
        found = {name: entry for name, entry in entries.items() if is_image(entry.path)}
        others = {name: entry for name, entry in entries.items() if name not in found}
        tables = [name for name in others if name.lower().endswith(".csv")]
        if tables and not found:
            raise UserError(f"{path} has no pictures, only tables ({tables[0]}): {NO_SUBJECTS}")
        yield found, others


def read_entry(entry):
    """(bytes of a file, how messages name it). Raises UserError when it cannot be read."""
    name = str(entry.disk).removesuffix(entry.disk.name) + entry.name
    with entry.open() as stream:
        return stream.read(), name


def decode(content, name, size, find_face=None):
    """The face in a picture, `content` (bytes), as grey uint8 (size, size).

    size: None takes the larger of `SIZES` that the face has in both directions, else the smaller. A picture that is
    not nearly square is a whole frame: find_face, called with uint8 (H, W), gives the square (left, top, side) of its
    face, or None; then, and without the function, the middle is taken. Raises UserError with `name` when it is no
    picture or damaged.
    """
    if not content:
        raise UserError(f"{name} is empty: {AGAIN}")
    grey = pictures.to_grey(pictures.decode(BytesIO(content), name))
    is_frame = max(grey.shape) > NEARLY_SQUARE * min(grey.shape)
    square = find_face(grey) if is_frame and find_face is not None else None
    if size is None:
        side = square[2] if square else min(grey.shape)
        size = max((other for other in SIZES if other <= side), default=SIZES[0])
    return pictures.square_resize(grey, size, square)


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


def assemble(files, roots, chosen, name, class_names, note, find_face=None):
    """The `SubjectFaces` of the chosen pictures, sorted by their names within the dataset, wherever they lie.

    files: {name: `Entry`}; roots: of which each chosen name begins with one; chosen: {name: (class name, subject name,
    name of its sequence among the subject's)}; note: what the description says beside the counts; find_face: see
    `decode`.
    """
    inside = {file: file.removeprefix(next(root for root in roots if file.startswith(root))) for file in chosen}
    names, size, images = sorted(chosen, key=inside.get), None, []
    for file in names:
        images.append(decode(*read_entry(files[file]), size, find_face))
        size = len(images[0])
    subject_names = tuple(sorted({subject for _, subject, _ in chosen.values()}))
    sequences = {sequence: number for number, sequence in enumerate(sorted({found[1:] for found in chosen.values()}))}
    return SubjectFaces(
        images=torch.from_numpy(np.stack(images)),
        labels=torch.tensor([class_names.index(chosen[file][0]) for file in names]),
        subjects=torch.tensor([subject_names.index(chosen[file][1]) for file in names]),
        sequences=torch.tensor([sequences[chosen[file][1:]] for file in names]),
        class_names=class_names,
        subject_names=subject_names,
        files=tuple(inside[file] for file in names),
        description=f"{name}: {len(names):,} faces of {len(subject_names)} subjects, {size}x{size} grey, {note}",
    )
