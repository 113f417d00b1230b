"""No network, no home folder, no terminal, no fork, another locale and time zone, odd names."""

import csv
import os
import shutil
import socket
import sys

import numpy as np
import pytest

from tests.programs import enter, start
from tests.runs import FLAGS
from tests.samples import SPLIT_FILES, contents, drawn_face, png, write_csv, write_files, write_zip


@pytest.fixture
def folder(tmp_path, checkpoints):
    """An archive of faces, a picture and checkpoints, under names of all kinds of letters."""
    place = tmp_path / "mein Ordner \N{GREEK SMALL LETTER ALPHA}\N{CJK UNIFIED IDEOGRAPH-4E2D}"
    rng = np.random.default_rng(0)
    (place / "data").mkdir(parents=True)
    members = {}
    for name in SPLIT_FILES.values():
        vad = rng.uniform(-2, 2, (7, 3)).tolist()
        write_csv(place / name, rng.integers(0, 256, (7, 48, 48)), range(7), vad)
        members[f"caf\N{LATIN SMALL LETTER E WITH ACUTE}/{name}"] = (place / name).read_bytes()
        (place / name).unlink()
    write_zip(
        place / "data" / "Gesichter f\N{LATIN SMALL LETTER U WITH DIAERESIS}r alle.zip", members
    )
    shutil.copytree(checkpoints, place / "checkpoints")
    write_files(place / "Bilder \N{GREEK SMALL LETTER OMEGA}", {"a.png": png(drawn_face(3))})
    return place


def commands(folder):
    """Prepare, train, evaluate and visualize, each with what the one before has written."""
    (pictures,) = folder.glob("Bilder*")
    network = ["--checkpoints", folder / "checkpoints", "--device", "cpu"]
    data, run = ["--data", folder / "data"], ["--out", folder / "run"]
    training = [*FLAGS, "--dataset", "FER2013", "--epochs", "1", "--device", "cpu"]
    yield "data.fer2013.prepare", folder / "data"
    yield "mainpro_FER", *training, *data, *run
    yield "inference.evaluate", *network, *data, *run
    yield "visualize", *network, pictures, "--out", folder / "seen", "--csv", folder / "faces.csv"


def test_no_program_opens_a_socket(folder, monkeypatch):
    opened = []

    def forbidden(*arguments, **options):
        opened.append(arguments)
        raise OSError("no network here")

    for name in ("socket", "create_connection", "getaddrinfo", "socketpair"):
        monkeypatch.setattr(socket, name, forbidden)
    for command in commands(folder):
        assert enter(*command) == 0, command[0]
    assert not opened


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every name of a file is text")
def test_names_that_are_no_text(folder, tmp_path):
    odd = tmp_path / os.fsdecode(b"caf\xe9 \xff")
    folder.rename(odd)
    (picture,) = odd.glob("Bilder*/*.png")
    picture.rename(picture.with_name(os.fsdecode(b"\xff.png")))
    for command in commands(odd):
        assert enter(*command) == 0, command[0]
    with open(odd / "faces.csv", encoding="utf-8-sig", newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert row["file"].endswith("\N{REPLACEMENT CHARACTER}.png")
    assert len(list((odd / "seen").iterdir())) == 1


ENVIRONMENT = {
    "LC_ALL": "C",
    "LANG": "C",
    "HOME": "/nowhere",
    "PYTHONUTF8": "0",
    "PYTHONIOENCODING": "cp1252:strict",  # a Windows code page
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",  # of a notebook
}
NO_FORKS = """
import multiprocessing, os
multiprocessing.set_start_method("spawn")
def forbidden():
    raise AssertionError("the process was forked")
os.fork = forbidden
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such environment")
def test_without_home_locale_terminal_and_forks(folder):
    kept = ("PATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
    env = {name: os.environ[name] for name in kept if name in os.environ} | ENVIRONMENT
    env |= {"TMPDIR": str(folder), "TZ": "Pacific/Kiritimati"}
    for command in commands(folder):
        start(*command, first=NO_FORKS, env=env)
        if command[0] == "mainpro_FER":
            training = command
    written = contents(folder)
    for name in ("run/data.txt", "run/FER2013_Narrow/last.t7", "run/evaluation.json", "faces.csv"):
        assert written[name]
    assert len(list((folder / "seen").iterdir())) == 1
    # In a zone where the files are of the future, a finished run has nothing to change.
    start(*training, "--resume", env=env | {"TZ": "Pacific/Niue"})
    log = {"run/run.log": b""}
    assert contents(folder) | log == written | log
