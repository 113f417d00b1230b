"""Which files are looked at, and where results go."""

from contextlib import contextmanager

from PIL import Image

from utils.files import replacing, telling
from utils.pictures import PICTURE_SUFFIXES, VIDEO_SUFFIXES

OURS = "visualize.py"  # the mark, inside a PNG, of a picture that may be written anew


def expand(inputs, recursive):
    """The files that are meant: files as they are; of folders the pictures and videos, but not our own results."""
    known = (*PICTURE_SUFFIXES, *VIDEO_SUFFIXES)
    for given in inputs:
        if not given.is_dir():
            yield given
            continue
        files = given.rglob("*") if recursive else given.iterdir()
        for path in sorted(files):
            if path.suffix.lower() in known and path.is_file() and not is_ours(path):
                yield path


def is_ours(path):
    """Whether a picture, or the plot beside a video, was drawn by this program."""
    if "_emotion" not in path.stem:
        return False
    try:
        with Image.open(path.with_suffix(".png")) as picture:
            return picture.info.get("Software") == OURS
    except OSError:
        return False


class Places:
    """Where results go: beside the file that they are about, or in `folder`; never over anyone's file."""

    def __init__(self, folder):
        self.folder, self.taken = folder, set()

    def beside(self, path, ending, suffix):
        """The path of a result about `path`, <name><ending><suffix>, numbered where that is taken."""
        folder = path.parent if self.folder is None else self.folder
        number = 1
        while True:
            result = folder / f"{path.stem}{ending}{'' if number == 1 else f'-{number}'}{suffix}"
            if result not in self.taken and (not result.exists() or is_ours(result)):
                self.taken.add(result)
                return result
            number += 1


@contextmanager
def placing(path):
    """`replacing`, for a picture or a video. Raises UserError when the folder refuses."""
    with telling(path, "make room, or choose another folder with --out"), replacing(path) as temporary:
        yield temporary


def save_figure(figure, path):
    """Write a figure as a PNG that says that it came from here. Raises UserError when the folder refuses."""
    with placing(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": OURS})
