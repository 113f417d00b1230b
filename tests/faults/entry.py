"""Run the programs as their users do, and see what they said, what they left behind, what memory they took."""

import os
import runpy
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from tests.conftest import ROOT

# The programs in a process of their own, with the narrow network known to them.
ALONE = """
import runpy
import sys
from functools import partial
from models import MODELS
from models.multitask import MultiTask
MODELS["Narrow"] = partial(MultiTask, base=8)
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


@dataclass(frozen=True)
class Case:
    """A malformed input: how it is made, the command line that meets it, and what must be said about it.

    kind: heads its line in the summary. make: called with the folder to write the input into. command: program and
    flags; in them {folder} stands for that folder, {good} for one of intact files, {out} for one for results.
    told: regular expressions, which the one line of error must all contain; among them the name of the file.
    code: the exit code.
    copied: a folder in {good} whose files are put into {folder} first.
    """

    kind: str
    name: str
    make: object
    command: tuple
    told: tuple
    code: int = 2
    copied: str = ""

    def __str__(self):
        return f"{self.kind}: {self.name}".replace(" ", "-")


def enter(program, flags, monkeypatch):
    """Run a program in this process, as `python -m program flags`; returns its exit code."""
    with monkeypatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # runpy's, of a module that is imported already
        patch.setattr(sys, "argv", [program, *map(str, flags)])
        try:
            runpy.run_module(program, run_name="__main__", alter_sys=True)
        except SystemExit as stop:
            return stop.code
    raise AssertionError(f"{program} did not end with an exit code")


def start(program, flags, **options):
    """Run a program in a process of its own: .code, .output (both streams), .peak (bytes of memory, its largest)."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"cwd": ROOT, "env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen([sys.executable, "-c", ALONE, program, *map(str, flags)], **pipes | options) as process:
        output = process.stdout.read().decode(errors="replace")
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    unit = 1 if sys.platform == "darwin" else 1024
    return SimpleNamespace(code=process.returncode, output=output, peak=used.ru_maxrss * unit)


def contents(folder):
    """{path: bytes} of every file below a folder; of a link where it points to."""
    found = {}
    for path in Path(folder).rglob("*"):
        if path.is_symlink():
            found[path] = os.readlink(path)
        elif path.is_file():
            found[path] = path.read_bytes()
    return found
