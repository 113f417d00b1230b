"""Windows, simulated: files that are open cannot be replaced, calls are missing."""

import ctypes
import errno
import os
import sys

import pytest
import torch

from tests.programs import enter, error_line
from tests.runs import FLAGS, RUN_NAME, TABLES
from tests.samples import contents, drawn_face, png, write_files
from training.device import setup_device
from utils import files, lock
from utils.files import UserError

TRAINING = [*FLAGS, "--epochs", "1", "--device", "cpu", "--eval", "center"]


@pytest.fixture
def held(monkeypatch):
    """A set of paths that are open in another program: none may be replaced, moved or removed."""
    paths = set()
    monkeypatch.setattr(files.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(files, "REFUSES_OPEN_FILES", True)

    def refusing(function):
        def refuse(*arguments, **options):
            refused = {os.path.abspath(path) for path in paths}
            for path in arguments:
                if os.path.abspath(path) in refused:
                    raise PermissionError(errno.EACCES, "Access is denied", os.fspath(path))
            return function(*arguments, **options)

        return refuse

    for name in ("replace", "rename", "unlink", "remove"):
        monkeypatch.setattr(os, name, refusing(getattr(os, name)))
    return paths


def assert_refused(capsys, path, *command):
    """The program names the file and that it is open; the file stays, nothing is left."""
    before = path.read_bytes()
    capsys.readouterr()
    assert enter(*command) == 2
    error = error_line(capsys)
    assert str(path) in error and "open" in error
    assert path.read_bytes() == before and not list(path.parent.rglob("*.unfinished"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["AccProcess.xlsx", f"{RUN_NAME}/last.t7"])
def test_a_new_run_beside_an_open_file_of_the_last_one(held, tmp_path, capsys, name):
    command = ["mainpro_FER", *TRAINING, "--out", tmp_path]
    assert enter(*command) == 0
    before = contents(tmp_path)
    del before["run.lock"]  # belongs to the folder, not to a run
    held.add(tmp_path / name)
    assert_refused(capsys, tmp_path / name, *command)
    held.clear()
    assert enter(*command) == 0
    moved = {}
    for earlier in (tmp_path / "previous").iterdir():
        moved |= contents(earlier)
    assert moved == before


@pytest.mark.slow
def test_a_run_goes_on_while_its_tables_are_open(held, tmp_path, capsys):
    command = ["mainpro_FER", *TRAINING, "--out", tmp_path]
    assert enter(*command) == 0
    complete = contents(tmp_path)
    for name in (*TABLES, "AccProcess.xlsx"):
        (tmp_path / name).write_text("what Excel shows")
        held.add(tmp_path / name)
    assert enter(*command, "--resume") == 0
    assert capsys.readouterr().out.count("open in another program") >= len(held)
    assert {(tmp_path / name).read_text() for name in TABLES} == {"what Excel shows"}
    held.clear()
    assert enter(*command, "--resume") == 0
    log = {"run.log": b""}
    assert contents(tmp_path) | log == complete | log


@pytest.mark.parametrize("result", ["out/0_emotion.png", "faces.csv"])
def test_results_that_are_open(held, tmp_path, checkpoints, capsys, result):
    write_files(tmp_path / "faces", {"0.png": png(drawn_face(3))})
    command = ["visualize", tmp_path / "faces", "--checkpoints", checkpoints, "--device", "cpu"]
    command += ["--csv", tmp_path / "faces.csv", "--out", tmp_path / "out"]
    assert enter(*command) == 0
    held.add(tmp_path / result)
    assert_refused(capsys, tmp_path / result, *command)


def test_what_only_linux_has_is_not_needed(monkeypatch):
    """No processor affinity, no glibc, no file control."""

    def no_library(name):
        raise TypeError("bad argument type for built-in operation")  # CDLL(None) on Windows

    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(ctypes, "CDLL", no_library)
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "win32")
        assert setup_device("cpu", "fp32").device == torch.device("cpu")


@pytest.mark.parametrize("exists", [False, True])
def test_a_folder_in_which_no_lock_can_be_made_is_not_another_run(tmp_path, monkeypatch, exists):
    """Old versions of filelock report that as a timeout."""

    class Waiting:
        def __init__(self, path):
            if exists:
                path.touch()

        def acquire(self, timeout):
            raise lock.Timeout("run.lock")

    monkeypatch.setattr(lock, "FileLock", Waiting)
    with pytest.raises(UserError, match="Another run" if exists else "cannot be written"):
        with lock.exclusive_run(tmp_path):
            pass
