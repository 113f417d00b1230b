"""DATASETS: name -> loader. A new dataset is one file and one line here.

Loaders import what they read with when they are called: whoever needs only batches or faces does
not pay for archives and drawings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from data.faces import Faces


@dataclass(frozen=True)
class Dataset:
    """What is trained on.

    splits: {"Training", "PublicTest", "PrivateTest"} -> `Faces` on the CPU.
    description: one line, what the faces and their annotations are.
    """

    splits: dict[str, Faces]
    description: str

    @property
    def has_vad(self):
        """Whether every face has valence, arousal and dominance."""
        return all(faces.vad is not None for faces in self.splits.values())


def _load_fer2013(path, drop_duplicates, limit):
    from data.fer2013 import load as fer2013

    return Dataset(*fer2013.load(path, drop_duplicates, limit))


def _load_demo(path, drop_duplicates, limit):
    from data.demo import demo
    from data.faces import Faces

    splits = {name: Faces.from_arrays(*arrays) for name, arrays in demo.demo_splits(limit=limit).items()}
    return Dataset(splits, "drawn faces, no photographs of people")


# Each is called with (path or None, drop_duplicates, limit of faces per split or None) and returns a `Dataset`.
DATASETS = {"FER2013": _load_fer2013, "Demo": _load_demo}


def _load_ckplus(path):
    from data.subjects import ckplus

    return ckplus.load(path)


def _load_oulu(path):
    from data.subjects import oulu

    return oulu.load(path)


# Datasets with known subjects, for FERSNet. Each is called with (path or None) and returns `SubjectFaces`.
SUBJECT_DATASETS = {"CK+": _load_ckplus, "Oulu-CASIA": _load_oulu}


def default_dataset(path):
    """FER2013 where its data is found (or asked for by a path), else Demo."""
    from data.fer2013 import load as fer2013

    return "FER2013" if path is not None or fer2013.available() else "Demo"
