"""One run at a time in an output folder."""

import json
import os
import platform
import time
from contextlib import contextmanager
from pathlib import Path

import psutil

from utils.files import UserError

NAME = "run.lock"


@contextmanager
def only_one(folder):
    """Hold the lock of an output folder; gone at the end of the block.

    Raises UserError, naming the other process, when a run that still goes on holds it. What a killed run left
    behind is recognised by its process being gone, or being another one of the same number.
    """
    path = Path(folder) / NAME
    _take(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _take(path):
    me = {
        "process": os.getpid(),
        "host": platform.node(),
        "created": psutil.Process().create_time(),
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path.parent} cannot be a folder ({error.strerror}): give another --out.") from error
    while True:
        try:
            with open(path, "x", encoding="utf-8") as stream:
                json.dump(me, stream)
            return
        except FileExistsError:
            holder = _read(path)
            if holder is not None and _runs(holder):
                raise UserError(
                    f"Another run works in {path.parent.resolve()}: process {holder['process']} on {holder['host']}, "
                    f"started {holder['started']}. Wait for it, or give another --out. (If it is gone, delete {path}.)"
                ) from None
            path.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"{path.parent} cannot be written to ({error.strerror}): give another --out.") from error


def _read(path):
    """What a lock says, or None when it was left unfinished."""
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        return holder if {"process", "host", "created", "started"} <= holder.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def _runs(holder):
    """Whether the process that wrote a lock still runs; one on another machine is taken to."""
    if holder["host"] != platform.node():
        return True
    try:
        return abs(psutil.Process(holder["process"]).create_time() - holder["created"]) < 1
    except psutil.NoSuchProcess:
        return False
