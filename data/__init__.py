"""DATASETS: name -> `Loader`. A new dataset is one module with a `load`, and one line here."""

from dataclasses import dataclass
from importlib import import_module

FACE_SIZE = 48  # height and width in pixels of the faces of FER2013 and the Demo


@dataclass(frozen=True)
class Loader:
    """Imports the module of a dataset when it is called.

    module: has `load`, called with a path (None: the project's data folder). It gives a
    `data.faces.Dataset`, called with drop_duplicates, limit (of faces per split, or None) and out
    (the folder for what cannot be written beside the data), too; with `has_subjects`, faces of
    known people, `data.subjects.faces.SubjectFaces`, called with a function that finds the face in
    a frame.
    """

    module: str
    has_subjects: bool = False

    def __call__(self, *arguments, **options):
        return import_module(self.module).load(*arguments, **options)


DATASETS = {
    "FER2013": Loader("data.fer2013.load"),
    "Demo": Loader("data.demo.demo"),
    "CK+": Loader("data.subjects.ckplus", has_subjects=True),
    "Oulu-CASIA": Loader("data.subjects.oulu", has_subjects=True),
}


def default_dataset(path):
    """FER2013 where its data is found (or asked for by a path), else Demo."""
    from data.fer2013 import load as fer2013

    return "FER2013" if path is not None or fer2013.available() else "Demo"
