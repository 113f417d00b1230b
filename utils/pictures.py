"""Pictures of any kind of file as 8-bit RGB."""

import os
import warnings
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from utils.files import UserError, one_line

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".gif", ".webp", ".tif", ".tiff", ".pgm",
                    ".ppm", ".pbm", ".pnm", ".avif", ".jp2", ".tga", ".heic", ".heif", ".exr", ".hdr")  # fmt: skip
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".f4v", ".3gp",
                  ".3g2", ".mts", ".m2ts", ".ts", ".ogv", ".vob", ".asf", ".divx", ".mxf", ".mjpeg",
                  ".mjpg")  # fmt: skip
HEIC_SUFFIXES = (".heic", ".heif")  # photographs of telephones, which neither Pillow nor OpenCV reads
MOST_PIXELS = 64_000_000  # reading one with more would take over 1 GB
MOST_DRAWN = 1600  # pixels on the longer side of a picture, half of which are drawn at least
AHEAD = 3  # pictures that are read while others are looked at
AGAIN = "get it again, or leave it out"
NEARLY_SQUARE = 1.25  # sides of a picture that shows a face alone
BACKGROUND = 255  # what shows through where a picture is transparent
# What the kinds of file that Pillow knows may have several of. JPEGs of telephones may, too, but as previews (MPO).
SEVERAL = {"GIF": "frames", "PNG": "frames", "WEBP": "frames", "AVIF": "frames", "TIFF": "pages"}


class Unreadable(UserError):
    """A picture or a video that cannot be read; others may be."""


def is_picture(path):
    """Whether a file is a picture, by its name."""
    return path.suffix.lower() in PICTURE_SUFFIXES


def is_video(path):
    """Whether a file is a video, by its name."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def read_picture(path):
    """The picture in a file, uint8 (H, W, 3) RGB, turned as its camera was held; of an animation the first frame.

    Raises Unreadable when it is missing, empty, damaged, too large or no picture.
    """
    return read_first(path)[0]


def read_first(path):
    """(the same, "frames" or "pages" where the file has more of them than this first one, else None)."""
    path = Path(path)
    check_file(path, "picture")
    return _decode(path, path)


def check_file(path, kind):
    """Raise Unreadable when a file is missing, empty or a folder, or when nobody may look. kind: what it should be."""
    is_folder = os.path.isdir(path)
    try:
        if is_folder:
            os.listdir(path)
            raise Unreadable(f"{path} is a folder: give the path of a {kind} in it.")
        if os.stat(path).st_size == 0:
            raise Unreadable(f"{path} is empty: {AGAIN}.")
    except FileNotFoundError as error:
        raise Unreadable(f"{path} does not exist: give the path of a {kind}.") from error
    except OSError as error:
        verb, remedy = ("listed", "allow that, or leave it out") if is_folder else ("read", AGAIN)
        raise Unreadable(f"{path} cannot be {verb} ({error.strerror}): {remedy}.") from error


def decode(source, name):
    """`read_picture` of a path or of a `BytesIO`; name: what messages call it."""
    return _decode(source, name)[0]


def _decode(source, name):
    """`read_first` of the same."""
    try:
        return _decode_by_kind(source, name)
    except Unreadable:
        raise
    except Image.DecompressionBombError as error:
        raise Unreadable(f"{name} has too many pixels: make it smaller.") from error
    except Exception as error:  # of all kinds: each decoder has its own for what is damaged
        raise Unreadable(f"{name} cannot be read as a picture ({one_line(error, 100)}): {AGAIN}.") from error


def _decode_by_kind(source, name):
    """`_decode`, which raises whatever the decoders raise."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL warns of large pictures and of odd metadata
            with Image.open(source) as picture:
                if picture.width * picture.height > MOST_PIXELS:
                    size = f"{picture.width} x {picture.height}"
                    raise Unreadable(f"{name} has {size} pixels, too many: make it smaller.")
                return from_pil(picture), _what_follows(picture)
    except UnidentifiedImageError:
        if Path(name).suffix.lower() in HEIC_SUFFIXES:
            return _decode_heic(source, name), None
        return _decode_with_opencv(source, name), None


def _what_follows(picture):
    """ "frames" or "pages" where more of them follow the first one, which is loaded, of a PIL picture; else None."""
    try:
        return SEVERAL[picture.format] if picture.format in SEVERAL and picture.is_animated else None
    except Exception:  # of all kinds: of a GIF the second frame is looked for, and may be damaged
        return None


def from_pil(picture):
    """A PIL picture of any mode as uint8 (H, W, 3) RGB, turned as its camera was held."""
    picture.load()
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith(("I", "F")):  # 16 bits, 32 bits, floating point
        return _to_eight_bits(np.asarray(picture))
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        below = Image.new("RGBA", picture.size, (BACKGROUND,) * 3 + (255,))
        picture = Image.alpha_composite(below, picture)
    return np.asarray(picture if picture.mode == "RGB" else picture.convert("RGB"))


def _to_eight_bits(values):
    """Numbers of any range, (H, W) or (H, W, 3), as uint8 (H, W, 3).

    16-bit numbers by their high byte, unless all are small; others from their smallest to their largest.
    """
    values = np.nan_to_num(values.astype(np.float32), copy=False)
    if values.min() >= 0 and 4095 < values.max() <= 65535:
        values //= 256  # in place, for the sake of memory, as what follows
    elif values.min() < 0 or values.max() > 255 or values.max() <= 1:
        low, high = values.min(), values.max()
        values -= low
        values *= 255 / (high - low) if high > low else 0
    values += 0.5
    values = values.clip(0, 255, out=values).astype(np.uint8)
    return values if values.ndim == 3 else np.repeat(values[:, :, None], 3, axis=2)


def _decode_with_opencv(source, name):
    """What PIL does not know; OpenCV reads a few more kinds."""
    import cv2

    content = source.read_bytes() if isinstance(source, Path) else source.getvalue()
    content = np.frombuffer(content, np.uint8)  # OpenCV itself cannot open every path on Windows
    try:
        picture = cv2.imdecode(content, cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR)
    except cv2.error:
        picture = None
    if picture is None:
        raise Unreadable(f"{name} is not a picture, or of a kind that neither Pillow nor OpenCV reads: {AGAIN}.")
    picture = picture[:, :, ::-1]
    return np.ascontiguousarray(picture) if picture.dtype == np.uint8 else _to_eight_bits(picture)


def _decode_heic(source, name):
    """Photographs of telephones, by a package that not everybody needs."""
    try:
        import pillow_heif
    except ImportError as error:
        raise Unreadable(f"{name} needs another package to be read: pip install pillow-heif") from error
    return from_pil(pillow_heif.open_heif(source).to_pillow())


def thinned(picture):
    """What is drawn of a picture, (H, W, 3): a copy of so many of its pixels that its longer side has 1600 to 3199."""
    step = max(1, max(picture.shape[:2]) // MOST_DRAWN)  # more would only take time and memory
    return picture[::step, ::step].copy()


def to_grey(picture):
    """uint8 (H, W, 3) RGB or (H, W) -> uint8 (H, W); a grey picture keeps its values exactly."""
    if picture.ndim == 2:
        return picture
    return np.asarray(Image.fromarray(picture).convert("L"))


def squared(grey, size, square=None):
    """uint8 (H, W) -> (size, size): the middle of a grey picture, or its `square` (left, top, side).

    What of that lies beyond the edges repeats the outermost pixels. A picture of that size stays as it is.
    """
    if grey.shape == (size, size):
        return grey
    height, width = grey.shape
    side = min(height, width)
    left, top, side = map(round, square or ((width - side) // 2, (height - side) // 2, side))
    over = max(0, -left, -top, left + side - width, top + side - height)
    part = np.pad(grey, over, mode="edge")[top + over :, left + over :][:side, :side]
    return np.asarray(Image.fromarray(part).resize((size, size), Image.Resampling.LANCZOS))


def prefetch(read, items, workers=1, ahead=AHEAD):
    """Yield read(item) for each of `items`, in order, calling `read` for up to `ahead` more in other threads."""
    with ThreadPoolExecutor(workers) as reader:
        waiting = deque()
        try:
            for item in items:
                waiting.append(reader.submit(read, item))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def in_batches(items, size):
    """Lists of up to `size` items."""
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch
