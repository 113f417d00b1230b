"""What Windows does otherwise, simulated: open files that cannot be replaced or moved, other letters, missing calls."""

import ctypes
import errno
import os
import sys

import numpy as np
import pytest
import torch

from data.fer2013.prepare import ensure
from inference.videos import results, video
from models import checkpoint
from tests.faults import entry
from tests.samples import SPLIT_FILES, write_csv
from tests.runs import FLAGS, RUN_NAME, TABLES
from tests.test_visualize import make_model, save, write_faces
from training.device import setup_device
from utils import files, lock
from utils.files import UserError

TRAINING = [*FLAGS, "--epochs", "1", "--device", "cpu", "--eval", "center"]


@pytest.fixture
def held(monkeypatch):
    """A set of paths: those in it are open in another program, so that nobody may replace, move or remove them."""
    paths = set()
    monkeypatch.setattr(files.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(files, "REFUSES_OPEN_FILES", True)

    def refusing(function):
        def refuse(*arguments, **options):
            for path in arguments:
                if os.path.abspath(path) in {os.path.abspath(held) for held in paths}:
                    raise PermissionError(errno.EACCES, "Access is denied", os.fspath(path))
            return function(*arguments, **options)

        return refuse

    for name in ("replace", "rename", "unlink", "remove"):
        monkeypatch.setattr(os, name, refusing(getattr(os, name)))
    return paths


def the_error(capsys):
    """The one line of error that the program wrote."""
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    (error,) = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    return error


@pytest.mark.parametrize("name", ["AccProcess_regressV.csv", "AccProcess.xlsx", f"{RUN_NAME}/last.t7"])
def test_a_new_run_beside_an_open_file_of_the_last_one_loses_nothing(held, tmp_path, monkeypatch, capsys, name):
    command = [*TRAINING, "--out", tmp_path]
    assert entry.enter("mainpro_FER", command, monkeypatch) == 0
    before = entry.contents(tmp_path)
    lock = before.pop(tmp_path / "run.lock")  # belongs to the folder, not to a run
    assert lock == b""
    held.add(tmp_path / name)
    assert entry.enter("mainpro_FER", command, monkeypatch) == 2
    error = the_error(capsys)
    assert str(tmp_path / name) in error and "another program has it open" in error and "close it" in error
    assert (tmp_path / name).read_bytes() == before[tmp_path / name]
    held.clear()
    assert entry.enter("mainpro_FER", command, monkeypatch) == 0
    moved = {}
    for earlier in (tmp_path / "previous").iterdir():
        contents = entry.contents(earlier).items()
        moved |= {tmp_path / path.relative_to(earlier): content for path, content in contents}
    assert moved == before


def test_a_run_goes_on_while_its_tables_are_open(held, tmp_path, monkeypatch, capsys):
    command = [*TRAINING, "--out", tmp_path]
    assert entry.enter("mainpro_FER", command, monkeypatch) == 0
    complete = entry.contents(tmp_path)
    for name in (*TABLES, "AccProcess.xlsx"):
        (tmp_path / name).write_text("what Excel shows")
        held.add(tmp_path / name)
    assert entry.enter("mainpro_FER", [*command, "--resume"], monkeypatch) == 0
    assert capsys.readouterr().out.count("is open in another program") >= len(held)
    assert {(tmp_path / name).read_text() for name in TABLES} == {"what Excel shows"}
    held.clear()
    assert entry.enter("mainpro_FER", [*command, "--resume"], monkeypatch) == 0
    log = tmp_path / "run.log"
    assert entry.contents(tmp_path) | {log: b""} == complete | {log: b""}


def test_a_checkpoint_that_is_open_is_told_and_kept(held, tmp_path, monkeypatch, capsys):
    held.add(tmp_path / RUN_NAME / "last.t7")
    (tmp_path / RUN_NAME).mkdir()
    assert entry.enter("mainpro_FER", [*TRAINING, "--out", tmp_path], monkeypatch) == 2
    error = the_error(capsys)
    assert str(tmp_path / RUN_NAME / "last.t7") in error and "another program has it open" in error
    assert not list(tmp_path.rglob("*.unfinished"))


def test_prepared_faces_that_are_open_are_told_and_kept(held, tmp_path, monkeypatch, capsys):
    faces, vad = np.random.default_rng(0).integers(0, 256, (7, 48, 48)), [(0.5, -0.5, 1)] * 7
    for name in SPLIT_FILES.values():
        write_csv(tmp_path / name, faces, range(7), vad)
    h5_path = ensure(tmp_path)
    before = h5_path.read_bytes()
    held.add(h5_path)
    write_csv(tmp_path / SPLIT_FILES["Training"], faces[::-1], range(7), vad)
    assert entry.enter("data.fer2013.prepare", [tmp_path], monkeypatch) == 2
    error = the_error(capsys)
    assert str(h5_path) in error and "another program has it open" in error
    assert h5_path.read_bytes() == before and not list(tmp_path.glob("*.unfinished"))


@pytest.mark.parametrize("kind", ["picture", "table"])
def test_results_that_are_open_are_told_and_kept(held, tmp_path, monkeypatch, capsys, kind):
    save(tmp_path / "checkpoints", make_model())
    write_faces(tmp_path / "faces", 1)
    command = [tmp_path / "faces", "--checkpoints", tmp_path / "checkpoints", "--device", "cpu",
               "--csv", tmp_path / "faces.csv", "--out", tmp_path / "out"]  # fmt: skip
    assert entry.enter("visualize", command, monkeypatch) == 0
    (picture,) = (tmp_path / "out").iterdir()
    before = entry.contents(tmp_path)
    result = picture if kind == "picture" else tmp_path / "faces.csv"
    held.add(result)
    assert entry.enter("visualize", command, monkeypatch) == 2
    error = the_error(capsys)
    assert str(result) in error and "another program has it open" in error
    after = entry.contents(tmp_path)
    assert after[result] == before[result] and not list(tmp_path.rglob("*.unfinished"))


@pytest.mark.slow
def test_names_that_the_code_page_lacks_are_printed(tmp_path):
    save(tmp_path / "checkpoints", make_model())
    folder = tmp_path / "Bilder \N{GREEK SMALL LETTER OMEGA}\N{CJK UNIFIED IDEOGRAPH-4E2D}"
    write_faces(folder, 1)
    for program, flags in (
        ("visualize", [folder, "--checkpoints", tmp_path / "checkpoints", "--device", "cpu"]),
        ("mainpro_FER", [*TRAINING, "--out", folder / "run"]),
    ):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "cp1252:strict", "PYTHONUTF8": "0"}
        done = entry.start(program, flags, env=environment)
        assert done.code == 0 and "Traceback" not in done.output, done.output
        assert "Bilder \\u03c9\\u4e2d" in done.output


def test_what_only_linux_has_is_not_needed(monkeypatch):
    """No processor affinity, no glibc, no Unix file control."""

    def no_library(name):
        raise TypeError("bad argument type for built-in operation")  # what Windows answers to CDLL(None)

    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(ctypes, "CDLL", no_library)
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "win32")
        decided = setup_device("cpu", "fp32")
    assert decided.device == torch.device("cpu") and not any("freed memory" in reason for reason in decided.reasons)


def test_a_folder_that_refuses_is_told_at_once(tmp_path, monkeypatch, capsys):
    """Python itself would try all names that there are: to it each refusal is a name that is taken."""
    original = os.open

    def refuse(path, flags, *arguments, **options):
        if flags & os.O_CREAT and str(path).startswith(str(tmp_path)):
            raise PermissionError(errno.EACCES, "Access is denied", os.fspath(path))
        return original(path, flags, *arguments, **options)

    monkeypatch.setattr(files, "REFUSES_OPEN_FILES", True)
    monkeypatch.setattr(files.tempfile, "TemporaryFile", None)  # is not even asked
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(UserError, match=r"faces\.csv could not be written \(Access is denied\)"):
        with results.table(tmp_path / "faces.csv"):
            pass


def test_a_place_that_allows_it_keeps_no_trace_of_the_attempt(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "REFUSES_OPEN_FILES", True)
    with files.temporary_file(tmp_path) as stream:
        stream.write(b"rows")
    assert not list(tmp_path.iterdir())


def test_checkpoints_wait_longer_than_tables_for_a_file_that_is_held(held, tmp_path, monkeypatch):
    """A scanner or a synchronized folder may take seconds for a hundred megabytes; without them a run ends."""
    slept = []
    monkeypatch.setattr(files.time, "sleep", slept.append)
    held.add(tmp_path / "last.t7")
    with pytest.raises(UserError, match="another program has it open"):
        checkpoint.save(tmp_path / "last.t7", {})
    assert 30 < sum(slept) < 90
    slept.clear()
    held.add(tmp_path / "table.csv")
    with pytest.raises(files.FileInUse):
        files.write_text(tmp_path / "table.csv", "")
    assert sum(slept) < 1


def test_a_video_that_is_held_for_a_moment_is_not_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(files.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(files, "REFUSES_OPEN_FILES", True)
    original, refused = os.replace, []

    def replace(source, target):
        if str(source).endswith(".unfinished.mp4") and not refused:
            refused.append(source)
            raise PermissionError(errno.EACCES, "The process cannot access the file", os.fspath(source))
        return original(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with video.video_writer(tmp_path / "film.mp4", 10) as recording:
        for number in range(3):
            recording.add(np.full((48, 64, 3), 60, np.uint8), number / 10)
    assert refused and [path.name for path in tmp_path.iterdir()] == ["film.mp4"]


@pytest.mark.parametrize("exists", [False, True])
def test_a_folder_in_which_no_lock_can_be_made_is_not_another_run(tmp_path, monkeypatch, exists):
    """What older versions of filelock say there is that they waited."""

    class Waiting:
        def __init__(self, path):
            if exists:
                path.touch()

        def acquire(self, timeout):
            raise lock.Timeout("run.lock")

    monkeypatch.setattr(lock, "FileLock", Waiting)
    with pytest.raises(UserError, match="Another run works in" if exists else "cannot be written to"):
        with lock.exclusive_run(tmp_path):
            pass


@pytest.mark.parametrize("windows", [False, True])
def test_a_reader_that_has_gone_is_no_error(tmp_path, monkeypatch, capsys, windows):
    """A closed pipe is an invalid argument there."""

    def program():
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(files, "REFUSES_OPEN_FILES", windows)
    with open(tmp_path / "out", "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        if windows:
            assert files.exit_code(program) == 1 and capsys.readouterr().err == ""
        else:
            with pytest.raises(OSError):
                files.exit_code(program)


@pytest.mark.slow
def test_the_backend_of_a_notebook_is_not_that_of_the_programs_that_it_starts(tmp_path):
    inline = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    done = entry.start("mainpro_FER", [*TRAINING, "--out", tmp_path / "run"], env=inline)
    assert done.code == 0, done.output
    save(tmp_path / "checkpoints", make_model())
    write_faces(tmp_path / "faces", 1)
    flags = [tmp_path / "faces", "--checkpoints", tmp_path / "checkpoints", "--device", "cpu"]
    done = entry.start("visualize", flags, env=inline)
    assert done.code == 0, done.output
