"""Image files of any kind as 8-bit RGB."""

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from utils.files import UserError, one_line

HEIC_SUFFIXES = (".heic", ".heif")  # photographs of telephones; Pillow needs a plugin for them
IMAGE_SUFFIXES = frozenset((
    ".jpg .jpeg .jpe .jfif .png .bmp .dib .gif .webp .tif .tiff .pgm .ppm .pbm .pnm .avif .jp2 "
    ".tga .heic .heif"
).split())  # fmt: skip
VIDEO_SUFFIXES = frozenset((
    ".mp4 .avi .mov .mkv .webm .m4v .mpg .mpeg .wmv .flv .f4v .3gp .3g2 .mts .m2ts .ts .ogv .vob "
    ".asf .divx .mxf .mjpeg .mjpg"
).split())  # fmt: skip
MAX_PIXELS = 64_000_000  # a larger image would take over 1 GB
SHOWN_SIZE = (670, 768)  # height and width at which figures show an image
AHEAD = 3  # images read ahead
AGAIN = "get it again, or leave it out"
NEARLY_SQUARE = 1.25  # ratio of the sides up to which an image may show one face alone
BACKGROUND = 255  # behind transparent images
# File formats of several images. JPEGs of telephones (MPO) are not among them: those are previews.
SEVERAL = {"GIF": "frames", "PNG": "frames", "WEBP": "frames", "AVIF": "frames", "TIFF": "pages"}


class Unreadable(UserError):
    """An image or a video that cannot be read; others may be."""


def is_image(path):
    """Whether a file is an image, by its suffix."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def is_video(path):
    """Whether a file is a video, by its suffix."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def read_image(path):
    """The image in a file as uint8 (H, W, 3) RGB, upright by its EXIF orientation.

    Of an animation the first frame. Raises Unreadable when the file is missing, empty, damaged,
    too large or not an image.
    """
    return read_first(path)[0]


def read_first(path):
    """`read_image`, and "frames" or "pages" if the file holds more of them, else None."""
    path = Path(path)
    check_file(path, "an image")
    with _opened(path, path) as image:
        return from_pil(image), _several(image)


def decode(source, name):
    """`read_image` of a path or a binary stream; name: what error messages call it."""
    with _opened(source, name) as image:
        return from_pil(image)


def check_file(path, kind):
    """Raise Unreadable when a file is missing, empty, a folder or not accessible.

    kind: what it should be, "an image" or "a video".
    """
    try:
        if os.path.isdir(path):
            os.listdir(path)  # raises the reason why a folder cannot be searched
            raise Unreadable(f"{path} is a folder: give the path of {kind} in it.")
        if os.stat(path).st_size == 0:
            raise Unreadable(f"{path} is empty: {AGAIN}.")
    except FileNotFoundError as error:
        raise Unreadable(f"{path} does not exist: give the path of {kind}.") from error
    except OSError as error:
        remedy = "make it readable, or leave it out"
        raise Unreadable(f"{path} cannot be read ({error.strerror}): {remedy}.") from error


@contextmanager
def _opened(source, name):
    """An image opened by Pillow; whatever a decoder raises in the block becomes Unreadable."""
    try:
        if Path(name).suffix.lower() in HEIC_SUFFIXES:
            _register_heif(name)
        with Image.open(source) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError(f"{image.width} x {image.height}")
            yield image
    except Unreadable:
        raise
    except UnidentifiedImageError as error:
        raise Unreadable(f"{name} is not an image, or of an unknown kind: {AGAIN}.") from error
    except Image.DecompressionBombError as error:
        raise Unreadable(f"{name} has too many pixels ({error}): make it smaller.") from error
    except Exception as error:  # of any type: each decoder has its own for damaged files
        raise Unreadable(
            f"{name} cannot be read as an image ({one_line(error)}): {AGAIN}."
        ) from error


def _register_heif(name):
    """Teach Pillow HEIC, with a package that not everybody needs."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError as error:
        raise Unreadable(f"{name} needs another package: pip install pillow-heif") from error
    register_heif_opener()


def _several(image):
    """ "frames" or "pages" if a loaded PIL image has more of them than the first, else None."""
    try:
        return SEVERAL[image.format] if image.format in SEVERAL and image.is_animated else None
    except Exception:  # of any type: a GIF looks for the second frame, which may be damaged
        return None


def from_pil(image):
    """A PIL image of any mode as uint8 (H, W, 3) RGB, upright by its EXIF orientation."""
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        return _to_uint8(np.asarray(image, np.float32))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        background = Image.new("RGBA", image.size, (BACKGROUND,) * 3 + (255,))
        image = Image.alpha_composite(background, image)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _to_uint8(values):
    """Float32 (H, W) of any range -> uint8 (H, W, 3).

    16-bit values keep their high byte, unless all are small; others are scaled from their smallest
    to their largest, except values in 0..255.
    """
    values = np.nan_to_num(values)
    low, high = values.min(), values.max()
    if low >= 0 and 4095 < high <= 65535:
        values, high = values // 256, 255
    if low >= 0 and 1 < high <= 255:
        low, high = 0, 255
    values = (values - low) * np.float32(255 / max(high - low, 1e-9))
    return np.repeat(values.round().astype(np.uint8)[:, :, None], 3, axis=2)


def reduce_image(image, height=SHOWN_SIZE[0], width=SHOWN_SIZE[1]):
    """uint8 (H, W, 3) or (H, W) reduced to at least so many pixels, fewer than twice as many."""
    factor = max(1, min(image.shape[0] // height, image.shape[1] // width))
    return image if factor == 1 else np.asarray(Image.fromarray(image).reduce(factor))


def to_grey(image):
    """uint8 (H, W, 3) RGB or (H, W) -> uint8 (H, W), by ITU-R 601-2; grey values stay exact."""
    return image if image.ndim == 2 else np.asarray(Image.fromarray(image).convert("L"))


def square_resize(grey, size, square=None):
    """uint8 (H, W) -> (size, size): the centre square, or `square` (left, top, side), resized.

    Outside the image the edge pixels repeat. An image of that size is returned as it is.
    """
    if grey.shape == (size, size):
        return grey
    height, width = grey.shape
    side = min(height, width)
    left, top, side = map(round, square or ((width - side) // 2, (height - side) // 2, side))
    rows = np.arange(top, top + side).clip(0, height - 1)
    columns = np.arange(left, left + side).clip(0, width - 1)
    part = Image.fromarray(grey[np.ix_(rows, columns)])
    return np.asarray(part.resize((size, size), Image.Resampling.LANCZOS))


def prefetch(read, items, workers=1, ahead=AHEAD):
    """Yield read(item) of `items` in order; threads call `read` for up to `ahead` items more."""
    executor, pending = ThreadPoolExecutor(workers), deque()
    try:
        for item in items:
            pending.append(executor.submit(read, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        executor.shutdown(cancel_futures=True)


def in_batches(items, size):
    """Yield lists of up to `size` items."""
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch
