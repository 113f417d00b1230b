"""Folds in processes of their own, several at a time, and one record of them all."""

import multiprocessing
import os
import shutil
import signal
import sys
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import wait

from training.device import setup_device
from training.run import load_last
from utils.files import exit_code, rename
from utils.interrupt import StopRequest
from utils.text import counted

POLL_SECONDS = 0.5
STOPPED = (130, -signal.SIGTERM)  # exit codes of a process that was asked to stop, at work or while it began
OUTPUT = "output.txt"  # what the process of a fold prints


def train_in_processes(run, count, cross_validate):
    """Train what remains of `run`, a `FoldRun` that has begun, `count` folds at a time. Returns the exit code.

    Each fold is a run of its own in a folder of its own, where it can be resumed; when it is finished, it becomes a
    part of `run`, and its folder goes. A stop asked for by the user is passed on, and waited for. cross_validate: the
    function of that name, which trains a fold.
    """
    print(f"{counted(count, 'fold')} at a time, each in a process of its own, which tells in "
          f"{_folder(run)}/fold*/{OUTPUT} how far it is", flush=True)  # fmt: skip
    waiting, working, failed = list(run.remaining), {}, False
    with StopRequest() as stop:
        told = False
        while working or (waiting and not (failed or stop())):
            while waiting and len(working) < count and not (failed or stop()):
                fold = waiting.pop(0)
                working[fold] = _start(run, fold, count, cross_validate)
            wait([process.sentinel for process in working.values()], timeout=POLL_SECONDS)
            if (failed or stop()) and not told:
                told = True
                for process in working.values():
                    _ask_to_stop(process)
            for fold in [fold for fold, process in working.items() if process.exitcode is not None]:
                code = working.pop(fold).exitcode
                if code == 0:
                    _join(run, fold)
                elif not (code in STOPPED and (told or stop())):
                    failed = True
                    print(f"fold {fold + 1} {_how_it_ended(code)}:\n{_end_of(run, fold)}", file=sys.stderr)
    if stop() or failed:
        run.interrupted()
    return 1 if failed else 130 if stop() else 0


def are_under_way(run):
    """Whether folds of the run were begun in processes of their own and are not finished."""
    return any(_folder(run).glob("fold*"))


def _folder(run, fold=None):
    """Where folds are trained in processes of their own, or one of them."""
    folder = run.folder / "processes"
    return folder if fold is None else folder / f"fold{fold + 1:02d}"


def _start(run, fold, count, cross_validate):
    settings = replace(run.settings, fold=str(fold + 1))
    runtime, out = run.runtime, _folder(run, fold)
    out.mkdir(parents=True, exist_ok=True)
    arguments = (cross_validate, settings, run.faces.to("cpu"), runtime.device.type, runtime.precision, out)
    with _threads(max(1, runtime.threads // count)):
        process = multiprocessing.get_context("spawn").Process(target=_work, args=arguments)
        process.start()
    return process


@contextmanager
def _threads(number):
    """What begins meanwhile has so many threads."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(number)
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before


def _work(cross_validate, settings, faces, device, precision, out):
    """What the process of a fold does: begin or resume it, and train it."""
    if hasattr(os, "setpgrp"):
        os.setpgrp()  # so that Ctrl-C reaches it only through `_ask_to_stop`: a second signal would end it at once
    sys.stdout = sys.stderr = open(out / OUTPUT, "a", encoding="utf-8", errors="backslashreplace")

    def train():
        begun = (out / settings.run_name / "last.t7").exists()
        last = load_last(out, settings.dataset, settings.model)[1] if begun else None
        return cross_validate(settings, faces, setup_device(device, precision, "off", training=True), out, last)

    sys.exit(exit_code(train))


def _ask_to_stop(process):
    """Let the process of a fold save and end. On Windows Ctrl-C has reached it already, and there is no other way."""
    if hasattr(os, "setpgrp"):
        process.terminate()


def _how_it_ended(code):
    """What became of a process with that exit code, other than 0, in words."""
    if code >= 0:
        return "ended with an error"
    short = ", as the system ends what wants more memory than there is" if code == -9 else ""
    return f"was ended by signal {-code}{short}"


def _end_of(run, fold):
    """The last lines that the process of a fold printed, if it came to that."""
    path = _folder(run, fold) / OUTPUT
    return "".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[-20:]) if path.exists() else ""


def _join(run, fold):
    """Make a finished fold a part of the run: its networks, its sheets, its results and its log."""
    out, name = _folder(run, fold), f"{fold + 1:02d}"
    source = out / run.settings.run_name
    for path in sorted((*source.glob(f"Fold{name}*.t7"), *source.glob(f"fold{name}/*.png"))):
        target = run.folder / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        rename(path, target, held=path)
    content = load_last(out, run.settings.dataset, run.settings.model)[1]
    run.adopt(content, (out / "run.log").read_text(encoding="utf-8"))
    shutil.rmtree(out, ignore_errors=True)  # on Windows somebody may be reading its output
    result = content["results"][0]
    print(f"fold {fold + 1} finished: {result['Acc']:.2f} held out; {len(run.remaining)} to go", flush=True)
