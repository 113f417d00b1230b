"""Fixtures that several test files use."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

import mainpro_FER
from data.fer2013 import prepare
from data.fer2013.prepare import ensure
from models import MODELS
from models.multitask import MultiTask

# Here, since only this file is known to the process that reports what the others tested.
from tests.faults.fault_table import pytest_runtest_logreport, pytest_terminal_summary  # noqa: F401
from tests.samples import contents, read_h5, write_files
from training.config import build_parser

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def few_threads():
    """Tests do little work at a time; more threads would only wait for each other on a busy machine."""
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    threads = max(1, min(2, torch.get_num_threads() // processes))
    torch.set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(
        threads
    )  # of programs that tests start, so that sums round alike


@pytest.fixture(scope="session")
def real_data():
    """The folder of real faces, or a skip that says what is missing."""
    folder = Path(os.environ.get("FER_REAL_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "fer2013" / "labels.csv").exists():
        pytest.skip(f"needs the real faces: {folder / 'fer2013'} is not there (set FER_REAL_DATA)")
    return folder


@pytest.fixture
def prepared(tmp_path):
    """A function that writes {relative name: bytes}, prepares them and reads data.h5."""
    return lambda files: read_h5(ensure(write_files(tmp_path, files)))


@pytest.fixture
def refused(tmp_path, capsys):
    """A function that prepares {relative name: bytes}, or a path, which must be refused.

    The exit code is 2, one line has the keywords, and nothing is left behind, nor changed.
    """

    def check(source, *keywords):
        source = write_files(tmp_path, source) if isinstance(source, dict) else source
        folder = source if source.is_dir() else source.parent
        before = contents(folder)
        capsys.readouterr()
        assert prepare.main([str(source)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ") and len(line) < 800
        assert all(keyword.lower() in line.lower() for keyword in keywords), line
        assert contents(folder) == before

    return check


@pytest.fixture(scope="session")
def layouts(real_data, tmp_path_factory):
    """A folder of the layouts in which people have FER2013 and CK+, 20 faces a split, or a skip."""
    tool = real_data.parent / "tools" / "make_layouts.py"
    if not tool.exists():
        pytest.skip(f"{tool} is not there")
    folder = tmp_path_factory.mktemp("made") / "layouts"
    subprocess.run([sys.executable, tool, "--out", folder, "--faces", "20"], check=True)
    return folder


@pytest.fixture(scope="session", autouse=True)
def narrow_networks():
    """The same network with fewer channels, so that a test is not about patience: an eighth, a quarter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "Narrow", partial(MultiTask, base=8))
        patch.setitem(MODELS, "Small", partial(MultiTask, base=16))
        yield


def run_program(out, *flags):
    """Run mainpro_FER.py on the processor in this process; returns its exit code."""
    parser = build_parser()
    return mainpro_FER.main(
        parser.parse_args(["--device", "cpu", "--out", str(out), *map(str, flags)])
    )


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A folder with the checkpoints of a narrow network."""
    from tests.test_visualize import make_model, save

    return save(tmp_path_factory.mktemp("checkpoints"), make_model())


@pytest.fixture(scope="module")
def recognizer(checkpoints):
    """An `EmotionRecognizer` of that network."""
    from inference.videos.recognizer import EmotionRecognizer

    return EmotionRecognizer(checkpoints, device="cpu", precision="fp32")
