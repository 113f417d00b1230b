"""Which files are looked at, and where results go."""

import argparse
import glob
import hashlib
import os
import zlib
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from PIL import Image

from utils.files import as_text, as_user_error, atomic_write, is_unfinished, path_argument
from utils.images import is_image, is_video

PEOPLE = "_people.csv"  # how the name of the table of a video's people ends
# How PNGs are compressed: by runs of equal bytes alone, which here gives smaller files in two thirds of the time.
QUICKLY = {"compress_level": 1, "compress_type": zlib.Z_RLE}
OURS = "visualize.py"  # the mark, inside a PNG, of a picture that may be written anew
LONGEST_STEM = 180  # bytes of the name of a result; the rest of the 255 that a name may have is for its endings


def marks(source):
    """The texts inside a PNG by which it is known later: who drew it, and from which file of which folder."""
    folder = hashlib.sha256(os.fsencode(os.path.realpath(source.parent))).hexdigest()[:16]
    return {"Software": OURS, "Source": as_text(source.name), "Folder": folder}


def given_input(text):
    """The `Path` of a file, a folder or a pattern that an argument names; for `type=` of argparse."""
    if "://" in text:
        raise argparse.ArgumentTypeError(
            f"invalid file: {text} is a web address, and files are read, not pages: save the picture or the video and "
            "give its name (a camera's address goes with --webcam)"
        )
    # A name with * is none that Windows knows.
    return Path(text) if glob.has_magic(text) else path_argument(text)


def expand(inputs, recursive):
    """([path] of the files that are meant, how many results of this program were left out).

    Files are meant as they are, unless they are results about others among them; of folders the pictures and videos
    but results, and the folders themselves that cannot be listed. Patterns as `*.jpg`, which the shell of Windows
    hands on as they are, stand for the files that they fit.
    """
    found = []  # (path, whether it was named itself)
    for given in (path for pattern in inputs for path in _matching(pattern)):
        folder = os.path.isdir(given)
        found += [(path, not folder) for path in (_in_folder(given, recursive) if folder else [given])]
    ours = {path for path, _ in found if is_ours(path)}
    # Marks take a look at the disk for each file, so they are made only where a result was named.
    all_marks = [marks(path) for path, _ in found] if any(named and path in ours for path, named in found) else []
    files = {(one["Source"], one["Folder"]) for one in all_marks}
    kept = [path for path, named in found if path not in ours or named and not _is_about(path, files)]
    return kept, len(found) - len(kept)


def _in_folder(folder, recursive):
    """[path] of the pictures and videos in a folder, and of what cannot be listed there, sorted."""
    files, refused = [], []
    for above, below, names in os.walk(folder, onerror=refused.append):
        files += [Path(above, name) for name in names]
        if not recursive:
            below.clear()
    files = [path for path in files if (is_image(path) or is_video(path)) and not is_unfinished(path)]
    return sorted(files + [Path(error.filename) for error in refused])


def _is_about(result, files):
    """Whether a result is about one of the files, {(name, mark of the folder)}; beside it, it may have been moved."""
    found = marks_of(result)
    return any((found.get("Source"), one.get("Folder")) in files for one in (found, marks(result)))


def _matching(given):
    """The paths that a pattern fits; one that fits none, or is the name of a file, as it is."""
    if not glob.has_magic(str(given)) or os.path.exists(given):
        return [given]
    return [Path(path) for path in sorted(glob.glob(str(given)))] or [given]


def is_ours(path):
    """Whether a picture or a video is a result of this program."""
    found = marks_of(path) if path.suffix in (".png", ".mp4") else None
    # The picture of a video's name may be about another file.
    return found is not None and (not is_video(path) or is_video(Path(found.get("Source", ""))))


def marks_of(path):
    """The `marks` of the result at `path`, as the PNG of the same name has them: earlier versions left some out.

    None where that is no result of this program.
    """
    if "_emotion" not in path.stem:
        return None
    picture = path.with_name(f"{path.name.removesuffix(PEOPLE)}.png") if path.name.endswith(PEOPLE) else path
    try:
        with Image.open(picture.with_suffix(".png")) as picture:
            return picture.info if picture.info.get("Software") == OURS else None
    except Exception:  # of all kinds: what cannot be read as a PNG is none of ours
        return None


class OutputPaths:
    """Where results go: beside the file that they are about, or in `folder`; never over anyone's file."""

    def __init__(self, folder):
        self.folder, self.taken = folder, set()

    def beside(self, path, ending, *suffixes):
        """Paths of the results about `path`, <name><ending><suffix>, numbered where one of them is taken.

        Earlier results about the same file may be written over. A name that is too long is shortened.
        """
        folder, stem = path.parent if self.folder is None else self.folder, path.stem
        while len(os.fsencode(stem)) > LONGEST_STEM:
            stem = stem[:-1]
        for number in count(1):
            name = f"{stem}{ending}{'' if number == 1 else f'-{number}'}"
            results = [folder / f"{name}{suffix}" for suffix in suffixes]
            if not self.taken.intersection(results) and all(self._is_free(result, path) for result in results):
                self.taken.update(results)
                return results

    def _is_free(self, result, path):
        if not os.path.lexists(result):
            return True
        found, wanted = marks_of(result), marks(path)
        if self.folder is None:
            del wanted["Folder"]  # a folder may be moved, with what is in it
        return found is not None and all(found.get(name, text) == text for name, text in wanted.items())


@contextmanager
def placing(path):
    """`atomic_write`, for a picture or a video. Raises UserError when the folder refuses."""
    with as_user_error(path, "make room, or choose another folder with --out"), atomic_write(path) as temporary:
        yield temporary


def save_figure(figure, path, source):
    """Write a figure about the file `source` as a PNG that says so. Raises UserError when the folder refuses."""
    with placing(path) as temporary:
        figure.savefig(temporary, format="png", metadata=marks(source), pil_kwargs=QUICKLY)
