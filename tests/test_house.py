"""The layout holds: imports run down only, and no folder grows into a drawer."""

import subprocess
import sys
from collections import Counter

from tests.conftest import ROOT

PACKAGES = ("inference", "training", "data", "models", "utils")
MOST_FILES = 14  # of Python in a folder, which is what one can still overlook


def test_the_import_contracts_hold():
    program = "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"
    done = subprocess.run([sys.executable, "-c", program, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 kept, 0 broken" in done.stdout


def test_no_folder_has_more_files_than_can_be_overlooked():
    counts = Counter(path.parent for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    assert {folder: count for folder, count in counts.items() if count > MOST_FILES} == {}
