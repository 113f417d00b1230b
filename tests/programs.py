"""Run the programs as their users do, in this process or in one of their own."""

import os
import runpy
import subprocess
import sys
import warnings

import pytest

from tests.conftest import ROOT

# A program that knows the narrow network; {first} is run before it.
ALONE = """
{first}
import runpy, sys
from functools import partial
from models import MODELS
from models.multitask import MultiTask
MODELS["Narrow"] = partial(MultiTask, base=8)
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def enter(program, *flags):
    """Run `python -m program flags` in this process; returns the exit code."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the module is imported already
        patch.setattr(sys, "argv", [program, *map(str, flags)])
        with pytest.raises(SystemExit) as stop:
            runpy.run_module(program, run_name="__main__", alter_sys=True)
    return stop.value.code


def start(program, *flags, first="", env=os.environ):
    """Run `python -m program flags` in a process of its own; returns what it printed.

    first: code that runs before it. Fails where the exit code is not 0.
    """
    done = subprocess.run(
        [sys.executable, "-c", ALONE.format(first=first), program, *map(str, flags)],
        cwd=ROOT,
        env={**env, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    output = done.stdout.decode(errors="replace")
    assert done.returncode == 0 and "Traceback" not in output, output
    return output


def error_line(capsys):
    """The one line of error that a program wrote, without a traceback."""
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err
    (error,) = [line for line in captured.err.splitlines() if "error: " in line]
    assert len(error) < 800
    return error
