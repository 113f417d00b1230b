"""Full disks and vanished folders: one sentence, earlier files intact, and resuming works once there is room."""

import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import mainpro_FER
from models import checkpoint
from tests.conftest import ROOT
from tests.faults import entry
from tests.faults.folds import FOLDS_PROGRAM, FOLDS_RUN, folds_flags
from tests.samples import SPLIT_FILES, write_csv
from tests.test_cross_validation import draw_tree
from tests.runs import FLAGS, MODELS_SAVED, PROGRAM, RUN_NAME, TABLES, assert_same_run, run
from tests.test_visualize import make_model, save, write_faces

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")


def limited(bytes_per_file):
    """What a child process does first: no file may grow beyond so many bytes, as on a full disk."""

    def limit():
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_per_file, bytes_per_file))

    return limit


def start(*command, room=None):
    """Run Python with the arguments; returns (exit code, output)."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"cwd": ROOT, "env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    hook = None if room is None else limited(room)
    done = subprocess.run([sys.executable, *map(str, command)], preexec_fn=hook, **pipes)
    return done.returncode, done.stdout


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "run.log"}


THREE_EPOCHS = [*FLAGS, "--device", "cpu", "--epochs", "3"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of `THREE_EPOCHS` that had room enough."""
    out = tmp_path_factory.mktemp("room") / "whole"
    assert start("-c", PROGRAM, *THREE_EPOCHS, "--out", out)[0] == 0
    return out


@pytest.mark.slow
@pytest.mark.parametrize("room", [1000, 20_000, 200_000])
def test_a_full_disk_is_told_and_nothing_is_lost(tmp_path, whole, room):
    flags, out = THREE_EPOCHS, tmp_path / "full"
    command = [sys.executable, "-c", PROGRAM, *flags, "--out", str(out)]
    with subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:
        deadline = time.monotonic() + 120
        while not (out / RUN_NAME / "last.t7").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
    before = files(out)
    code, output = start("-c", PROGRAM, *flags, "--out", out, "--resume", room=room)
    assert code == 2 and "Traceback" not in output, output
    assert "room" in output and output.count("error:") <= 1
    after = files(out)
    assert not [path for path in after if path.suffix == ".unfinished"]
    for path in before:
        if path.suffix == ".t7":
            assert after[path] == before[path], path
    assert start("-c", PROGRAM, *flags, "--out", out, "--resume")[0] == 0
    assert_same_run(whole, out)


@pytest.mark.slow
def test_a_full_disk_while_records_are_written_is_told(tmp_path):
    """A finished run that is resumed writes its CSVs, data.txt, workbook and figure once more: each finds no room."""
    flags = [*FLAGS, "--device", "cpu", "--epochs", "2", "--eval", "center", "--out", tmp_path]
    assert start("-c", PROGRAM, *flags)[0] == 0
    before, told = files(tmp_path), set()
    sizes = sorted({path.stat().st_size for path in tmp_path.glob("*") if path.is_file()} - {0})
    for size in sizes:
        (tmp_path / "run.log").unlink(missing_ok=True)
        code, output = start("-c", PROGRAM, *flags, "--resume", room=size - 1)
        if code == 0:  # all that is larger was written before
            continue
        assert code == 2 and "Traceback" not in output, output
        (error,) = [line for line in output.splitlines() if line.startswith("error: ")]
        assert "make room" in error or "Make room" in error
        told.add(next(name for name in ("AccProcess_", "data.txt", ".xlsx", ".png", "run.log") if name in error))
        assert files(tmp_path) == before
    assert {"AccProcess_", "data.txt", ".xlsx", ".png"} <= told
    assert start("-c", PROGRAM, *flags, "--resume")[0] == 0
    assert files(tmp_path) == before


@pytest.mark.slow
@pytest.mark.parametrize(("room", "named"), [(100, "fold1.json"), (5000, "last_fold1.t7")])
def test_a_full_disk_in_a_cross_validation_is_told(tmp_path, room, named):
    flags = [*folds_flags(draw_tree(tmp_path / "CK+48")), "--out", tmp_path / "out"]
    code, output = start("-c", FOLDS_PROGRAM, *flags, room=room)
    assert code == 2 and "Traceback" not in output, output
    (error,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert named in error and "ake room" in error
    assert not list((tmp_path / "out").rglob("*.unfinished"))
    assert start("-c", FOLDS_PROGRAM, *flags)[0] == 0
    assert (tmp_path / "out" / FOLDS_RUN / "Fold01_model_classify.t7").exists()


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["--out", "--csv", "--json"])
def test_a_full_disk_while_faces_are_shown_is_told(tmp_path, flag):
    save(tmp_path / "checkpoints", make_model())
    faces = tmp_path / "faces"
    write_faces(faces, 9)
    out = tmp_path / "out"
    out.mkdir()
    place = out if flag == "--out" else out / "all"
    command = [faces, "--checkpoints", tmp_path / "checkpoints", "--device", "cpu", flag, place]
    command += [] if flag == "--out" else ["--no-pictures"]
    done = entry.start("visualize", command, preexec_fn=limited(500))
    assert done.code == 2 and "Traceback" not in done.output, done.output
    (error,) = [line for line in done.output.splitlines() if line.startswith("error: ")]
    assert str(out) in error and "make room" in error
    assert not list(out.iterdir())


@pytest.fixture
def disk(tmp_path):
    """A file system of its own of 64 MB, and a function that makes it read-only."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", folder], capture_output=True).returncode:
        pytest.skip("may not mount a file system here")
    try:
        yield folder, lambda: subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.slow
def test_a_small_disk_that_fills_up_is_told(disk, tmp_path):
    """A real lack of space: what was saved stays, and the run goes on when there is room."""
    flags = [*FLAGS, "--device", "cpu", "--epochs", "2", "--eval", "center"]
    out, whole, ballast = disk[0] / "out", tmp_path / "whole", disk[0] / "ballast"
    assert start("-c", PROGRAM, *flags, "--out", whole)[0] == 0
    ballast.write_bytes(bytes(62 << 20))  # then the files of the run, some 8 MB, find no room
    code, output = start("-c", PROGRAM, *flags, "--out", out)
    assert code == 2 and "Traceback" not in output, output
    (error,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert str(out) in error and ("No space left" in error or "disk is full" in error) and "--resume" in error
    assert not list(out.rglob("*.unfinished"))
    for path in out.rglob("*.t7"):
        checkpoint.load(path)
    ballast.unlink()
    resume = ["--resume"] if (out / RUN_NAME / "last.t7").exists() else []
    assert start("-c", PROGRAM, *flags, "--out", out, *resume)[0] == 0
    assert_same_run(whole, out)


@pytest.mark.slow
def test_a_read_only_folder_is_told(disk):
    folder, make_read_only = disk
    flags = [*FLAGS, "--device", "cpu", "--epochs", "1", "--tasks", "classify", "--eval", "center"]
    for name in SPLIT_FILES.values():
        write_csv(folder / name, np.zeros((2, 48, 48), np.uint8) + 1, [1, 2], [(0, 0, 0)] * 2)
    make_read_only()
    for command in (
        ["-c", PROGRAM, *flags, "--out", folder / "out"],
        ["-c", PROGRAM, *flags, "--out", folder],
        ["-m", "data.fer2013.prepare", folder],
    ):
        code, output = start(*command)
        assert code == 2 and "Traceback" not in output, output
        (error,) = [line for line in output.splitlines() if line.startswith("error: ")]
        assert str(folder) in error and "Read-only" in error and ("another" in error)


def test_an_output_folder_that_vanishes_is_made_again(tmp_path, monkeypatch):
    out, evaluate = tmp_path / "out", mainpro_FER.evaluate
    calls = []

    def evaluate_and_remove(*arguments, **options):
        calls.append(1)
        if len(calls) == 3:  # in the second epoch
            shutil.rmtree(out)
        return evaluate(*arguments, **options)

    monkeypatch.setattr(mainpro_FER, "evaluate", evaluate_and_remove)
    assert run(out, "--eval", "center") == 0
    for name in [*TABLES, "data.txt", f"{RUN_NAME}/last.t7"]:
        assert (out / name).exists(), name
    # Those of the first epoch are gone.
    saved = [out / RUN_NAME / name for name in MODELS_SAVED if (out / RUN_NAME / name).exists()]
    assert saved and all(checkpoint.load(path)["epoch"] == 1 for path in saved)


TABLE = """
import sys
from pathlib import Path
from inference.videos import results
from utils.files import exit_code

def program():
    with results.table(Path(sys.argv[1])) as add:
        for _ in range(5000):
            add(dict.fromkeys(results.COLUMNS, 1))

sys.exit(exit_code(program))
"""


@pytest.mark.parametrize("room", [20_000, 30_000])
def test_a_disk_that_fills_up_in_the_middle_of_a_long_table_is_told(tmp_path, room):
    code, output = start("-c", TABLE, tmp_path / "faces.csv", room=room)
    assert code == 2 and output.count("\n") == 1 and "faces.csv could not be written" in output
    assert not list(tmp_path.iterdir())
