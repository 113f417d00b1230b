"""Malformed archives: [`Case`]."""

import gzip
import io
import struct
import tarfile
import zipfile
import zlib
from functools import partial
from pathlib import Path

from tests.faults.entry import Case
from tests.samples import rar_block, sample_row, table, three_splits, write_stored_rar, write_zip

FILES = Path(__file__).resolve().parent.parent / "files"
AGAIN = "download or copy it again"
KINDS = ("zip", "rar", "tar.gz")
CLAIMED = 100 * 10**9  # bytes


def write_tar(path, members):
    """A tar.gz of {name: bytes}, or of {name: (type, where a link points to)}."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = content
                archive.addfile(info)
    return path


WRITERS = {"zip": write_zip, "rar": write_stored_rar, "tar.gz": write_tar}


def intact(folder, kind):
    """The path of an archive of three good splits."""
    return WRITERS[kind](folder / f"data.{kind}", three_splits()[0])


def truncated(folder, kind, tenth):
    path = intact(folder, kind)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * tenth // 10])


def flipped(folder, kind, tenth):
    path = intact(folder, kind)
    data = bytearray(path.read_bytes())
    data[len(data) * tenth // 10 + 7] ^= 4
    path.write_bytes(data)


def named(folder, name, content):
    (folder / name).write_bytes(content)


def locked_zip(folder):
    data = bytearray(write_zip(folder / "data.zip", {"train.csv": table([sample_row(0)])}).read_bytes())
    data[6] |= 1  # the flag of an encrypted member, in its own header and in the directory
    data[data.index(b"PK\x01\x02") + 8] |= 1
    (folder / "data.zip").write_bytes(data)


def copied(folder, name):
    (folder / name).write_bytes((FILES / name).read_bytes())


def of_members(folder, kind, members):
    WRITERS[kind](folder / f"data.{kind}", members)


def many_members(folder, kind):
    of_members(folder, kind, {f"{number}/note{number}.txt": b"x" for number in range(3000)})


def names_that_lead_outside(folder, kind, prefix):
    """Damaged tables whose names would lead elsewhere: nothing may be written there, or anywhere."""
    of_members(folder, kind, {f"{prefix}{split}.csv": b"junk" for split in ("train", "publictest", "privatetest")})


def claiming_zip(folder):
    """A member of a few bytes that claims 100 GB, and their checksum, in both of its headers (ZIP64)."""
    content = table([sample_row(0)])
    packed = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = packed.compress(content) + packed.flush()
    name, sizes = b"train.csv", struct.pack("<HHQQ", 1, 16, CLAIMED, len(data))
    common = struct.pack("<HHHHHLLLHH", 45, 0, 8, 0, 33, 0, 2**32 - 1, 2**32 - 1, len(name), 20)
    local = b"PK\x03\x04" + common + name + sizes
    directory = b"PK\x01\x02" + struct.pack("<H", 45) + common + struct.pack("<HHHLL", 0, 0, 0, 0, 0) + name + sizes
    start = len(local) + len(data)
    end = b"PK\x05\x06" + struct.pack("<HHHHLLH", 0, 0, 1, 1, len(directory), start, 0)
    (folder / "data.zip").write_bytes(local + data + directory + end)


def claiming_tar(folder):
    info = tarfile.TarInfo("train.csv")
    info.size = CLAIMED
    (folder / "data.tar.gz").write_bytes(gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + table([sample_row(0)])))


def claiming_rar(folder):
    content = table([sample_row(0)])
    header = rar_block([2, 2, CLAIMED, 4, CLAIMED, 0o644], zlib.crc32(content).to_bytes(4, "little"), [0, 1, 9],
                       b"train.csv")  # fmt: skip
    start = b"Rar!\x1a\x07\x01\x00" + rar_block([1, 0, 0])
    (folder / "data.rar").write_bytes(start + header + content + rar_block([5, 0, 0]))


def bomb(folder, kind, content):
    """2.5 GB after a good header, in a few MB: `content` over and over."""
    header, count = table([]), 2_500_000_000 // (1 << 20)
    block = (content * (1 << 20))[: 1 << 20]
    if kind == "zip":
        with zipfile.ZipFile(folder / "data.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            with archive.open("train.csv", "w", force_zip64=True) as member:
                member.write(header)
                for _ in range(count):
                    member.write(block)
        return
    info = tarfile.TarInfo("train.csv")
    info.size = len(header) + count * len(block)
    with gzip.open(folder / "data.tar.gz", "wb", compresslevel=1) as stream:
        stream.write(info.tobuf() + header)
        for _ in range(count):
            stream.write(block)
        stream.write(bytes(-info.size % 512 + 1024))


def zip_link(folder):
    """A member that is a symbolic link to a file elsewhere: its text is the path, which is no table."""
    info = zipfile.ZipInfo("train.csv")
    info.create_system, info.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(folder / "data.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")


def case(name, make, *told, code=2, file=""):
    """file: what to give in the folder, where an intact data.h5 beside it would do as well."""
    return Case("archives", name, make, ("data.fer2013.prepare", f"{{folder}}/{file}"), told, code)


def cases():
    for kind in KINDS:
        file = rf"data\.{kind}"
        for tenth in range(10):
            told = "is empty|not an archive|neither|truncated|damaged"
            yield case(f"{kind} cut at {tenth} tenths", partial(truncated, kind=kind, tenth=tenth), file, told, AGAIN,
                       file=f"data.{kind}")  # fmt: skip
            yield case(f"{kind} with a flipped bit at {tenth} tenths", partial(flipped, kind=kind, tenth=tenth),
                       file, "damaged|truncated|no faces|not an archive|encrypted|cannot be read|not a table|no column"
                       "|can be used", code=(0, 2), file=f"data.{kind}")  # fmt: skip
        for name, make in {
            "without members": partial(of_members, members={}),
            "of 3,000 other files": many_members,
        }.items():
            told = (file, "holds no faces|no column names", "Expected: a table|it needs")
            yield case(f"{kind} {name}", partial(make, kind=kind), *told, file=f"data.{kind}")
        for prefix in ("../../", "/", "C:\\Windows\\", "..\\..\\"):
            make = partial(names_that_lead_outside, kind=kind, prefix=prefix)
            yield case(f"{kind} of names like {prefix}train.csv", make, file, "train.csv has no column pixels", "needs",
                       file=f"data.{kind}")  # fmt: skip
    yield case("text named .rar", partial(named, name="data.rar", content=b"text"), r"data\.rar is not an archive",
               AGAIN, file="data.rar")  # fmt: skip
    yield case("web page named .zip", partial(named, name="data.zip", content=b"<!DOCTYPE html>"),
               r"data\.zip is not an archive", AGAIN, file="data.zip")  # fmt: skip
    yield case("gzip of no tar", partial(named, name="data.tar.gz", content=gzip.compress(b"text")),
               r"data\.tar\.gz", "is not an archive", AGAIN, file="data.tar.gz")  # fmt: skip
    yield case("7z", partial(named, name="data.7z", content=b"7z\xbc\xaf\x27\x1c"), r"data\.7z is a 7-Zip archive",
               "unpack it", file="data.7z")  # fmt: skip
    yield case("locked zip", locked_zip, r"data\.zip:train\.csv is encrypted", "unpack it with its password",
               file="data.zip")  # fmt: skip
    for name in ("encrypted_members.rar", "encrypted_headers.rar"):
        yield case(name, partial(copied, name=name), name, "encrypted", "unpack it with its password",
                   file=name)  # fmt: skip
    for name, content in (("symbolic", tarfile.SYMTYPE), ("hard", tarfile.LNKTYPE)):
        make = partial(of_members, kind="tar.gz", members={"train.csv": (content, "/etc/passwd")})
        yield case(f"tar.gz of a {name} link", make, "holds no faces", "Expected: a table", file="data.tar.gz")
    yield case(
        "zip of a symbolic link", zip_link, r"data\.zip:train\.csv has no column pixels", "needs", file="data.zip"
    )
    twice = {"a/train.csv": table([sample_row(0)]), "b/train.csv": table([sample_row(1)])}
    told = ("two candidates for the Training split", r"a/train\.csv", r"b/train\.csv", "remove one")
    yield case("zip of two training tables", partial(of_members, kind="zip", members=twice), *told, file="data.zip")


def huge():
    """Cases whose memory is measured, in a process of their own."""
    yield case("zip that claims 100 GB", claiming_zip, r"data\.zip:train\.csv", "damaged|truncated", AGAIN,
               file="data.zip")  # fmt: skip
    yield case("rar that claims 100 GB", claiming_rar, r"data\.rar", "damaged|truncated", AGAIN, file="data.rar")
    yield case("tar.gz that claims 100 GB", claiming_tar, r"data\.tar\.gz", "damaged|truncated", AGAIN,
               file="data.tar.gz")  # fmt: skip
    for kind in ("zip", "tar.gz"):
        yield case(f"{kind} of 2.5 GB in one line", partial(bomb, kind=kind, content=b"0 "), r"train\.csv",
                   "over 4 MB", "get it again", file=f"data.{kind}")  # fmt: skip


CASES = list(cases())
HUGE = list(huge())
