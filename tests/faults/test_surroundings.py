"""No network, no home folder, no terminal, another locale and time zone, odd paths."""

import os
import socket
import subprocess
import sys

import h5py
import numpy as np
import pytest

from data import store
from tests.conftest import ROOT, run_program
from tests.test_fer2013 import SPLIT_FILES, write_csv
from tests.test_training import FLAGS, PROGRAM, RUN_NAME


def test_no_run_opens_a_socket(tmp_path, monkeypatch):
    def forbidden(*arguments, **options):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", forbidden)
    monkeypatch.setattr(socket, "create_connection", forbidden)
    assert run_program(tmp_path, *FLAGS, "--epochs", 1) == 0


@pytest.mark.slow
def test_without_home_locale_terminal_and_in_an_odd_folder(tmp_path):
    out = tmp_path / "mein Ordner \N{GREEK SMALL LETTER ALPHA}\N{CJK UNIFIED IDEOGRAPH-4E2D}"
    needed = ("PATH", "SYSTEMROOT", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
    environment = {name: os.environ[name] for name in needed if name in os.environ}
    environment |= {"LC_ALL": "C", "TZ": "Pacific/Kiritimati", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROGRAM, *FLAGS, "--epochs", "1", "--device", "cpu", "--out", str(out)]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    done = subprocess.run(command, cwd=ROOT, env=environment, **pipes)
    assert done.returncode == 0, done.stdout.decode(errors="replace")
    assert (out / "data.txt").exists() and (out / RUN_NAME / "last.t7").exists()


@pytest.fixture
def prepared(tmp_path):
    """A folder with a good data.h5."""
    from data import prepare

    rng = np.random.default_rng(0)
    for name in SPLIT_FILES.values():
        write_csv(tmp_path / name, rng.integers(0, 256, (7, 48, 48)), range(7), rng.uniform(-2, 2, (7, 3)).tolist())
    return prepare.ensure(tmp_path)


@pytest.mark.parametrize("kind", ["external link", "soft link", "external storage"])
def test_an_h5_that_points_elsewhere_is_refused(prepared, tmp_path, kind):
    with h5py.File(prepared, "r+") as h5:
        pixels = h5["Training_pixel"][:]
        del h5["Training_pixel"]
        if kind == "external link":
            with h5py.File(tmp_path / "other.h5", "w") as other:
                other["Training_pixel"] = pixels
            h5["Training_pixel"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "Training_pixel")
        elif kind == "soft link":
            h5["elsewhere"] = pixels
            h5["Training_pixel"] = h5py.SoftLink("/elsewhere")
        else:
            (tmp_path / "raw").write_bytes(pixels.tobytes())
            storage = [(str(tmp_path / "raw"), 0, pixels.size)]
            h5.create_dataset("Training_pixel", pixels.shape, np.uint8, external=storage)
    with pytest.raises(store.Damaged):
        store.check(prepared)
