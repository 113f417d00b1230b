"""Malformed pictures and videos: [`Case`]; odd ones that are read all the same."""

import io
import os
import random
import struct
import zlib
from functools import partial

import numpy as np
from PIL import Image

from data.demo.drawing import draw_face
from tests.faults.entry import Case

SIDE = 96


def encoded(kind, mode="RGB", **options):
    stream = io.BytesIO()
    Image.fromarray(draw_face(3, (1, 1, 1), 0, SIDE)).convert(mode).save(stream, kind, **options)
    return stream.getvalue()


def written(folder, content, name):
    (folder / name).write_bytes(content)


def cut(content, share):
    return content[: int(len(content) * share)]


def changed(content, place, other):
    data = bytearray(content)
    data[place : place + len(other)] = other
    return bytes(data)


def png(width, height, rows=b"", bits=1, colour=0):
    """A PNG that says it is so large, whatever pixels it holds."""

    def chunk(name, content):
        return struct.pack(">L", len(content)) + name + content + struct.pack(">L", zlib.crc32(name + content))

    head = struct.pack(">LLBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def blank(width, height, bits=1, colour=0):
    """A whole PNG of one colour: a few kB, however large the picture is."""
    samples = {0: 1, 2: 3}[colour]
    return png(width, height, bytes(1 + (width * bits * samples + 7) // 8) * height, bits, colour)


def cases():
    def case(name, content, *told, suffix="jpg"):
        file = f"holiday.{suffix}"
        make = content if callable(content) else partial(written, content=content, name=file)
        command = ("visualize", f"{{folder}}/{file}", "--checkpoints", "{good}/checkpoints", "--device", "cpu",
                   "--out", "{out}")  # fmt: skip
        return Case("pictures", name, make, command, (file.replace(".", r"\."), *told), code=1)

    again = "get it again|make it smaller|leave it out"
    yield case("nothing", b"", "is empty", again)
    yield case("text", b"this is no picture\n" * 50, "is not an image", again)
    yield case("junk", random.Random(3).randbytes(5000), "is not an image|cannot be read", again)
    yield case("zero bytes", bytes(5000), "is not an image|cannot be read", again)
    yield case("a web page", b"<!DOCTYPE html><html></html>", "is not an image", again)
    yield case("a program", b"\x7fELF" + bytes(300), "is not an image", again)
    yield case("SVG", b'<svg xmlns="http://www.w3.org/2000/svg"/>', "is not an image", again, suffix="png")
    for kind, suffix in (("JPEG", "jpg"), ("PNG", "png"), ("GIF", "gif"), ("BMP", "bmp"), ("TIFF", "tif"),
                         ("WEBP", "webp"), ("PPM", "ppm")):  # fmt: skip
        for share in (0.1, 0.6):
            told = "is not an image|cannot be read", again
            yield case(f"{kind} cut at {share:.0%}", cut(encoded(kind), share), *told, suffix=suffix)
    yield case("PNG with a wrong checksum", changed(encoded("PNG"), 60, b"\xff\xff\xff"),
               "cannot be read|not an image", again, suffix="png")  # fmt: skip
    yield case("PNG without pixels", png(50, 50), "cannot be read", again, suffix="png")
    yield case("PNG of no width", png(0, 50), "is not an image|cannot be read", again, suffix="png")
    yield case("PNG of 2,000,000,000 pixels a side", png(2_000_000_000, 2_000_000_000), "too many", again, suffix="png")
    yield case("PNG of 30,000 pixels a side", png(30_000, 30_000), "30000 x 30000|too many", again, suffix="png")
    yield case("BMP that claims 65,000 pixels a side", changed(encoded("BMP"), 18, struct.pack("<LL", 65_000, 65_000)),
               "too many|cannot be read", again, suffix="bmp")  # fmt: skip
    yield case("no file", lambda folder: None, "does not exist", "give")
    yield case("a link to itself", lambda folder: os.symlink("holiday.jpg", folder / "holiday.jpg"),
               "cannot be read|does not exist", "give|leave it out")  # fmt: skip
    yield case("a video of nothing", b"", "is empty", again, suffix="mp4")
    yield case("a video of text", b"this is no video\n" * 50, "cannot be opened", again, suffix="avi")


def saved(folder, array, name, **options):
    Image.fromarray(array).save(folder / name, **options)


FACE = draw_face(3, (1, 1, 1), 0, SIDE)
ODD = {
    "one pixel": partial(saved, array=FACE[:1, :1], name="a.png"),
    "one row": partial(saved, array=FACE[:1], name="a.png"),
    "one column": partial(saved, array=FACE[:, :1], name="a.png"),
    "20,000 pixels wide and one high": partial(saved, array=np.zeros((1, 20_000), np.uint8), name="a.png"),
    "CMYK": partial(written, content=encoded("JPEG", "CMYK"), name="a.jpg"),
    "a PNG named .jpg": partial(written, content=encoded("PNG"), name="a.jpg"),
    "palette with transparency": partial(written, content=encoded("GIF", "P", transparency=0), name="a.gif"),
    "16 bits": partial(saved, array=FACE.astype(np.uint16) * 257, name="a.png"),
    "floating point": partial(saved, array=FACE.astype(np.float32) / 255, name="a.tif"),
    "broken metadata": partial(written, content=encoded("JPEG", exif=b"Exif\0\0junk"), name="a.jpg"),
    "bytes after the end": partial(written, content=encoded("PNG") + b"junk" * 100, name="a.png"),
}
# Large, but not too many pixels: {name: the file}.
LARGE = {
    "20,000 pixels wide, in colour": partial(blank, 20_000, 3_200, 8, 2),
    "20,000 pixels wide, 16 bits": partial(blank, 20_000, 3_200, 16, 0),
    "8,000 pixels a side": partial(blank, 8_000, 8_000),
}
CASES = list(cases())
