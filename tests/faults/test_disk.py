"""Full and read-only disks: one sentence, earlier files intact, and the run goes on with room."""

import signal
import subprocess
from contextlib import contextmanager

import numpy as np
import pytest

from models import checkpoint
from tests.conftest import run_program
from tests.programs import enter, error_line
from tests.runs import FLAGS, RUN_NAME, assert_same_run
from tests.samples import contents, png, write_files
from utils.interrupt import StopRequest

TRAINING = [*FLAGS, "--device", "cpu", "--eval", "center"]


@contextmanager
def room(size):
    """No file can grow beyond `size` bytes, as on a full disk."""
    resource = pytest.importorskip("resource", reason="Windows has no limits on files")
    assert signal.getsignal(signal.SIGXFSZ) == signal.SIG_IGN
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of two epochs that had room."""
    out = tmp_path_factory.mktemp("whole")
    assert run_program(out, *TRAINING) == 0
    return out


def files(folder):
    return {name: data for name, data in contents(folder).items() if name != "run.log"}


@pytest.mark.parametrize(
    "size", [20_000, *(pytest.param(size, marks=pytest.mark.slow) for size in (1000, 200_000))]
)
def test_training_on_a_full_disk(tmp_path, whole, monkeypatch, capsys, size):
    command = ["mainpro_FER", *TRAINING, "--out", tmp_path]
    asked = iter(range(4))
    with monkeypatch.context() as patch:
        patch.setattr(StopRequest, "__call__", lambda self: next(asked, None) is None)
        assert enter(*command) == 130
    before = files(tmp_path)
    capsys.readouterr()
    with room(size):
        assert enter(*command, "--resume") == 2
    assert "room" in error_line(capsys)
    after = files(tmp_path)
    assert {name: after[name] for name in before if name.endswith(".t7")} == {
        name: data for name, data in before.items() if name.endswith(".t7")
    }
    assert not [name for name in after if name.endswith(".unfinished")]
    assert enter(*command, "--resume") == 0
    assert_same_run(whole, tmp_path)


@pytest.mark.parametrize("flag", ["--out", "--csv", "--json"])
def test_visualize_on_a_full_disk(tmp_path, checkpoints, capsys, flag):
    pictures = {f"{n}.png": png(np.full((64, 64), 40 + n, np.uint8)) for n in range(9)}
    write_files(tmp_path / "faces", pictures)
    (tmp_path / "out").mkdir()
    place = tmp_path / "out" if flag == "--out" else tmp_path / "out" / "faces.txt"
    flags = [] if flag == "--out" else ["--no-pictures"]
    flags += ["--face", "none", "--checkpoints", checkpoints, "--device", "cpu"]
    with room(500):
        assert enter("visualize", tmp_path / "faces", *flags, flag, place) == 2
    error = error_line(capsys)
    assert str(tmp_path / "out") in error and "room" in error
    for table in (tmp_path / "out").iterdir():  # the rows for which there was room
        header, *rows = table.read_text(encoding="utf-8").splitlines()
        assert flag == "--csv" and rows and {row.count(",") for row in rows} == {header.count(",")}


@pytest.fixture
def disk(tmp_path):
    """A file system of 64 MB, and a function that makes it read-only."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", folder], check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("may not mount a file system here")
    try:
        yield folder, lambda: subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.slow
def test_a_disk_that_fills_up_and_is_cleared(disk, whole, capsys):
    out, ballast = disk[0] / "out", disk[0] / "ballast"
    command = ["mainpro_FER", *TRAINING, "--out", out]
    ballast.write_bytes(bytes(62 << 20))  # the files of the run need about 8 MB
    assert enter(*command) == 2
    error = error_line(capsys)
    assert str(out) in error and "room" in error
    assert not list(out.rglob("*.unfinished"))
    for path in out.rglob("*.t7"):
        checkpoint.load(path)
    ballast.unlink()
    resume = ["--resume"] if (out / RUN_NAME / "last.t7").exists() else []
    assert enter(*command, *resume) == 0
    assert_same_run(whole, out)


@pytest.mark.slow
def test_a_read_only_folder(disk, capsys):
    folder, make_read_only = disk
    make_read_only()
    for command in (
        ["mainpro_FER", *TRAINING, "--out", folder / "out"],
        ["mainpro_FER", *TRAINING, "--out", folder],
    ):
        assert enter(*command) == 2
        error = error_line(capsys)
        assert str(folder) in error and "Read-only" in error
