"""Fixtures that several test files use."""

import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

import mainpro_FER
from data.fer2013 import prepare
from data.fer2013.prepare import ensure
from inference import EmotionRecognizer
from models import MODELS
from models.multitask import MultiTask
from tests.harness import make_model, save_checkpoints
from tests.samples import contents, read_h5, write_files
from training.config import build_parser

ROOT = Path(__file__).resolve().parent.parent


def pytest_addoption(parser):
    parser.addoption(
        "--expected-skips",
        metavar="REGEX",
        help="fail each test that is skipped for a reason that does not match",
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    report = yield
    expected = item.config.getoption("--expected-skips")
    if expected and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[-1]
        if not re.search(expected, reason):
            report.outcome, report.longrepr = "failed", f"{item.nodeid} is not run. {reason}"
    return report


@pytest.fixture(scope="session", autouse=True)
def few_threads():
    """The cores are shared by the processes of pytest-xdist; small networks gain little by more."""
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    threads = max(1, min(2, torch.get_num_threads() // processes))
    torch.set_num_threads(threads)
    # Programs that tests start inherit it, so that their sums round alike.
    os.environ["OMP_NUM_THREADS"] = str(threads)


@pytest.fixture(scope="session")
def real_data():
    """The folder of real faces, or a skip that says what is missing."""
    folder = os.environ.get("FER_REAL_DATA")
    if not folder or not (Path(folder) / "fer2013" / "labels.csv").exists():
        pytest.skip("needs the real faces: FER_REAL_DATA must name their folder")
    return Path(folder)


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
    """A folder of the layouts in which FER2013 and CK+ are passed on, 20 faces a split."""
    tool = real_data.parent / "tools" / "make_layouts.py"
    if not tool.exists():
        pytest.skip(f"needs the real faces in all layouts: {tool} is not there")
    folder = tmp_path_factory.mktemp("made") / "layouts"
    subprocess.run([sys.executable, tool, "--out", folder, "--faces", "20"], check=True)
    return folder


@pytest.fixture(scope="session", autouse=True)
def narrow_networks():
    """Register the same network with an eighth and a quarter of the channels."""
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


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """A folder with the checkpoints of a narrow network."""
    return save_checkpoints(tmp_path_factory.mktemp("checkpoints"), make_model())


@pytest.fixture(scope="session")
def recognizer(checkpoints):
    """An `EmotionRecognizer` of that network."""
    return EmotionRecognizer(checkpoints, device="cpu", precision="fp32")
