"""Which files are looked at, and where results go."""

import argparse
import glob
import zlib
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from PIL import Image

from utils.files import as_text, as_user_error, given_path, replacing
from utils.pictures import PICTURE_SUFFIXES, VIDEO_SUFFIXES, is_video

PEOPLE = "_people.csv"  # how the name of the table of a video's people ends
# How PNGs are compressed: by runs of equal bytes alone, which here gives smaller files in two thirds of the time.
QUICKLY = {"compress_level": 1, "compress_type": zlib.Z_RLE}
OURS = "visualize.py"  # the mark, inside a PNG, of a picture that may be written anew


def marks(source):
    """The texts inside a PNG by which it is known later: who drew it, and from which file."""
    return {"Software": OURS, "Source": as_text(source.name)}


def given_input(text):
    """The `Path` of a file, a folder or a pattern that an argument names; for `type=` of argparse."""
    if "://" in text:
        raise argparse.ArgumentTypeError(
            f"invalid file: {text} is a web address, and files are read, not pages: save the picture or the video and "
            "give its name (a camera's address goes with --webcam)"
        )
    # A name with * is none that Windows knows.
    return Path(text) if glob.has_magic(text) else given_path(text)


def expand(inputs, recursive):
    """The files that are meant: files as they are; of folders the pictures and videos, but not our own results.

    Patterns as `*.jpg`, which the shell of Windows hands on as they are, stand for the files that they fit.
    """
    known = (*PICTURE_SUFFIXES, *VIDEO_SUFFIXES)
    for given in (path for pattern in inputs for path in _matching(pattern)):
        if not given.is_dir():
            yield given
            continue
        files = given.rglob("*") if recursive else given.iterdir()
        for path in sorted(files):
            if path.suffix.lower() in known and path.is_file() and not is_ours(path):
                yield path


def _matching(given):
    """The paths that a pattern fits; one that fits none, or is the name of a file, as it is."""
    if not glob.has_magic(str(given)) or given.exists():
        return [given]
    return [Path(path) for path in sorted(glob.glob(str(given)))] or [given]


def is_ours(path):
    """Whether a picture or a video is a result of this program."""
    source = source_of(path)
    if source is None:
        return False
    return is_video(Path(source)) or not is_video(path)  # the picture of a video's name may be about another file


def source_of(path):
    """Name of the file that the result at `path` is about, as the PNG of the same name states.

    Empty where it does not, as earlier versions did not; None where that is no result of this program.
    """
    if "_emotion" not in path.stem:
        return None
    picture = path.with_name(f"{path.name.removesuffix(PEOPLE)}.png") if path.name.endswith(PEOPLE) else path
    try:
        with Image.open(picture.with_suffix(".png")) as picture:
            return picture.info.get("Source", "") if picture.info.get("Software") == OURS else None
    except (OSError, Image.DecompressionBombError):
        return None


class OutputPaths:
    """Where results go: beside the file that they are about, or in `folder`; never over anyone's file."""

    def __init__(self, folder):
        self.folder, self.taken = folder, set()

    def beside(self, path, ending, *suffixes):
        """Paths of the results about `path`, <name><ending><suffix>, numbered where one of them is taken.

        Earlier results about a file of the same name may be written over.
        """
        folder = path.parent if self.folder is None else self.folder
        for number in count(1):
            name = f"{path.stem}{ending}{'' if number == 1 else f'-{number}'}"
            results = [folder / f"{name}{suffix}" for suffix in suffixes]
            if not self.taken.intersection(results) and all(self._is_free(result, path) for result in results):
                self.taken.update(results)
                return results

    @staticmethod
    def _is_free(result, path):
        return not result.exists() or source_of(result) in ("", as_text(path.name))


@contextmanager
def placing(path):
    """`replacing`, for a picture or a video. Raises UserError when the folder refuses."""
    with as_user_error(path, "make room, or choose another folder with --out"), replacing(path) as temporary:
        yield temporary


def save_figure(figure, path, source):
    """Write a figure about the file `source` as a PNG that says so. Raises UserError when the folder refuses."""
    with placing(path) as temporary:
        figure.savefig(temporary, format="png", metadata=marks(source), pil_kwargs=QUICKLY)
