"""No network, no home folder, no terminal, another locale and time zone, odd paths."""

import csv
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.faults import entry
from tests.samples import SPLIT_FILES, write_csv, write_zip
from tests.runs import FLAGS
from tests.test_visualize import make_model, save, write_faces


@pytest.fixture
def input_folder(tmp_path):
    """Tables of faces, a picture and checkpoints, in a folder whose name is neither ASCII nor without spaces."""
    folder = tmp_path / "mein Ordner \N{GREEK SMALL LETTER ALPHA}\N{CJK UNIFIED IDEOGRAPH-4E2D}"
    rng = np.random.default_rng(0)
    (folder / "data").mkdir(parents=True)
    members = {}
    for name in SPLIT_FILES.values():
        write_csv(folder / name, rng.integers(0, 256, (7, 48, 48)), range(7), rng.uniform(-2, 2, (7, 3)).tolist())
        members[f"caf\N{LATIN SMALL LETTER E WITH ACUTE}/{name}"] = (folder / name).read_bytes()
        (folder / name).unlink()
    write_zip(folder / "data" / "Gesichter f\N{LATIN SMALL LETTER U WITH DIAERESIS}r alle.zip", members)
    save(folder / "checkpoints", make_model())
    write_faces(folder / "Bilder \N{GREEK SMALL LETTER OMEGA}", 1)
    return folder


def programs(folder):
    """Every program with flags: prepare, train, evaluate, show; in an order in which one may follow the other."""
    pictures = next(path for path in folder.iterdir() if path.name.startswith("Bilder"))
    network = ["--checkpoints", folder / "checkpoints", "--device", "cpu"]
    training = [*FLAGS, "--dataset", "FER2013", "--epochs", "1", "--device", "cpu"]
    yield "data.fer2013.prepare", [folder / "data"]
    yield "mainpro_FER", [*training, "--data", folder / "data", "--out", folder / "run"]
    yield "inference.evaluate", [*network, "--data", folder / "data", "--out", folder / "run"]
    yield "visualize", [*network, pictures, "--out", folder / "seen", "--csv", folder / "faces.csv"]


def test_no_program_opens_a_socket(input_folder, monkeypatch):
    opened = []

    def forbidden(*arguments, **options):
        opened.append(arguments)
        raise OSError("no network here")

    for name in ("socket", "create_connection", "getaddrinfo", "socketpair"):
        monkeypatch.setattr(socket, name, forbidden)
    for program, flags in programs(input_folder):
        assert entry.enter(program, flags, monkeypatch) == 0, program
    assert not opened


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every name of a file is text")
def test_names_that_are_no_text(input_folder, tmp_path, monkeypatch):
    odd = tmp_path / os.fsdecode(b"caf\xe9 \xff")
    input_folder.rename(odd)
    (picture,) = odd.glob("Bilder*/*.png")
    picture.rename(picture.with_name(os.fsdecode(b"\xff.png")))
    for program, flags in programs(odd):
        assert entry.enter(program, flags, monkeypatch) == 0, program
    with open(odd / "faces.csv", encoding="utf-8-sig", newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert row["file"].endswith("\N{REPLACEMENT CHARACTER}.png")
    assert len(list((odd / "seen").iterdir())) == 1


# What is done before a program starts, and what is in its environment.
BARE = {"LC_ALL": "C", "LANG": "C", "TZ": "Pacific/Kiritimati", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
NO_FORKS = """
import multiprocessing
import os
multiprocessing.set_start_method("spawn")
def forbidden():
    raise AssertionError("the process was forked")
os.fork = forbidden
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the other systems have these surroundings")
def test_without_home_locale_terminal_and_forks_in_an_odd_folder(input_folder):
    needed = ("PATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
    environment = {name: os.environ[name] for name in needed if name in os.environ}
    environment |= {**BARE, "OMP_NUM_THREADS": "1", "HOME": "/nowhere", "TMPDIR": str(input_folder)}
    for program, flags in programs(input_folder):
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        command = [sys.executable, "-c", NO_FORKS + entry.ALONE, program, *map(str, flags)]
        done = subprocess.run(command, cwd=ROOT, env=environment, **pipes)
        assert done.returncode == 0, done.stdout.decode(errors="replace")
        assert b"Traceback" not in done.stdout
    run = input_folder / "run"
    for path in (
        run / "data.txt",
        run / "FER2013_Narrow" / "last.t7",
        run / "evaluation.json",
        input_folder / "faces.csv",
    ):
        assert path.stat().st_size > 0
    assert len(list((input_folder / "seen").iterdir())) == 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows takes no TZ")
def test_a_run_goes_on_in_another_time_zone(tmp_path):
    """Where the clock says that files are of the future, a finished run still finds nothing to change."""
    flags = [*FLAGS, "--epochs", "1", "--device", "cpu", "--eval", "center", "--out", tmp_path]
    before = None
    for zone, more in (("Pacific/Kiritimati", []), ("Pacific/Niue", ["--resume"])):
        done = entry.start("mainpro_FER", [*flags, *more], env={**os.environ, "OMP_NUM_THREADS": "1", "TZ": zone})
        assert done.code == 0, done.output
        names = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "run.log"]
        contents = {path: path.read_bytes() for path in names}
        assert before in (None, contents)
        before = contents
