"""Run the tests in a fresh environment: another Python, the lowest or the newest packages that are allowed.

    python tests/versions.py --python python3.10 --lowest     # every >= of requirements.txt taken as ==
    python tests/versions.py --python python3.13              # the newest that there are
    python tests/versions.py --lowest -m faults               # what follows goes to pytest

Needs a package index and some minutes; the environment is removed afterwards.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def requirements(lowest):
    """The lines of requirements.txt and requirements-dev.txt; with `lowest` each at the lowest version it allows."""
    for name in ("requirements.txt", "requirements-dev.txt"):
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
            line = line.partition("#")[0].strip()
            if line and not line.startswith("-r"):
                yield re.sub(r">=([\w.]+)(,<[\w.]+)?", r"==\1", line) if lowest else line


def main(arguments, more):
    """Make the environment, say what is in it, run pytest there. Returns its exit code."""
    with tempfile.TemporaryDirectory(prefix="versions-", dir=arguments.folder) as folder:
        subprocess.run([arguments.python, "-m", "venv", folder], check=True)
        python = Path(folder) / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        wanted = list(requirements(arguments.lowest))
        subprocess.run([python, "-m", "pip", "install", "-q", *wanted], check=True)
        subprocess.run([python, "--version"], check=True)
        subprocess.run([python, "-m", "pip", "list"], check=True)
        return subprocess.run([python, "-m", "pytest", *more], cwd=ROOT).returncode


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="Run the tests in a fresh environment.", allow_abbrev=False
    )
    parser.add_argument(
        "--python",
        default=sys.executable,
        metavar="PROGRAM",
        help="default: the one that runs this",
    )
    parser.add_argument(
        "--lowest", action="store_true", help="the lowest versions allowed (default: the newest)"
    )
    parser.add_argument(
        "--folder",
        metavar="DIR",
        help="where to make the environment (default: the temporary folder)",
    )
    sys.exit(main(*parser.parse_known_args()))
