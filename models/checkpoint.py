"""Checkpoints: saved atomically, loaded safely, enough to resume exactly.

A `.t7` file is a `torch.save` dict of tensors and plain values; it loads with `weights_only=True`,
which never executes code from the file.
"""

import _codecs
import math
from pathlib import Path

import numpy as np
import torch

from models import MODELS
from models.original import ORIGINAL_PREPROCESSING, convert_original, is_original, unwrapped
from utils.files import UserError, atomic_write, one_line
from utils.tasks import EMOTIONS, TASKS, VAD_LIMIT

# What NumPy numbers in a file are made of, under the names of NumPy 1 and 2; executes nothing.
NUMPY_NUMBERS = [
    (np.float64(0).__reduce__()[0], "numpy._core.multiarray.scalar"),
    (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),
    np.dtype,
    *{type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "?")},
    _codecs.encode,
]
ATTEMPTS = 16  # over three quarters of a minute: without its checkpoint a run cannot continue
AGAIN = "Get it again, or train anew with: python mainpro_FER.py"


class OtherTask(UserError):
    """A file of the original project, which does not say what it predicts, lacks a task."""


def save(path, content):
    """Write the dict `content` to `path`, atomically. UserError when the disk refuses."""
    try:
        with atomic_write(path, ATTEMPTS) as temporary, open(temporary, "wb") as stream:
            torch.save(content, stream)  # given a path, it would write the temporary name into it
    except (OSError, RuntimeError) as error:  # PyTorch raises the latter when the disk is full
        reason = getattr(error, "strerror", None) or "the disk is full, or refuses to be written to"
        raise UserError(
            f"Could not write {path}: {reason}. Make room, or choose another place; earlier files "
            "are intact, and a run that has a last.t7 continues with --resume."
        ) from error


def load(path):
    """The dict in `path`, tensors on the CPU. UserError when it is missing or no checkpoint."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path} does not exist. Train first with: python mainpro_FER.py")
    try:
        with torch.serialization.safe_globals(NUMPY_NUMBERS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes the unpickler raise anything
        raise UserError(
            f"{path} is not a readable checkpoint: it is damaged, or holds more than tensors and "
            f"plain values, which is refused because loading it could execute code. {AGAIN}"
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a checkpoint of this project. {AGAIN}")
    return content


def load_network(path):
    """The dict in `path`, of which "net" is a state dict. UserError when it is not."""
    content = load(path)
    state = content.get("net")
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items()
    ):
        raise UserError(
            f"{path} is not a checkpoint of this project: it holds no network ('net') of tensors. "
            f"{AGAIN}"
        )
    return content


def task_checkpoint(model, task, epoch, results, description):
    """The content of a best-of-task file.

    model: the raw module; task: a name from `TASKS`; results: the epoch's results for every split;
    description: of the run (dataset, model, preprocessing, crops, constraint's table, versions).
    """
    tasks, state = model.part(task)
    return {
        "net": {key: value.contiguous() for key, value in state.items()},
        "tasks": list(tasks),
        "sharing": model.sharing,
        "epoch": epoch,
        "results": results,
        "temperature": results.get("PublicTest", {}).get("classify", {}).get("temperature", 1.0),
        "class_names": list(EMOTIONS),
        "vad_range": [-VAD_LIMIT, VAD_LIMIT],
        **description,
    }


def load_model(path, task=None):
    """Rebuild the network of a best-of-task file, in evaluation mode on the CPU.

    Returns (model, content); content["preprocessing"] is {"mean", "std"}. A file of the original
    project (three input channels, head `linear`) loads too: its one task is `task`, or when that is
    None "classify" for 7 outputs. Raises UserError when it does not fit.
    """
    content = load_network(path)
    try:
        if is_original(content["net"]):
            return _load_original(path, content, task or "classify")
        pixels, options = content["preprocessing"], content.get("options", {})
        tasks = tuple(content["tasks"])
        model = MODELS[content["model"]](tasks, content["sharing"], **options)
        model.load_state_dict(content["net"])
        if not 0 < pixels["std"] < math.inf or not math.isfinite(pixels["mean"]):
            raise ValueError(f"pixels have {pixels}")
    except (RuntimeError, LookupError, TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{path} is not a checkpoint of this project: its model, tasks, sharing, preprocessing "
            f"and weights are missing or do not fit together ({one_line(error)}). {AGAIN}"
        ) from error
    return model.eval(), content


def _load_original(path, content, task):
    """`load_model` for a file of the original project."""
    outputs = unwrapped(content["net"])["linear.weight"]
    if outputs.ndim == 2 and len(outputs) != TASKS[task].width:
        raise OtherTask(f"{path} has no outputs for {task}: say which of V, A, D it predicts.")
    description = {"preprocessing": ORIGINAL_PREPROCESSING, "tasks": [task], "model": "ResNet-18"}
    return convert_original(content["net"], task), content | description


def load_pretrained(network, path):
    """Give a FERSNet the weights of one that was trained on other expressions, as far as they fit.

    path: a checkpoint of a FERSNet. Its classifier is left out. Where branches are joined, the
    joint block of a recognition branch becomes the part of the new one that leads from recognition
    to recognition. Returns the content of the file. Raises UserError for another network.
    """
    content = load_network(path)
    given, state = content["net"], network.state_dict()
    stem = given.get("stem.0.weight")
    if stem is None or stem.shape != state["stem.0.weight"].shape:
        raise UserError(
            f"{path} holds no FERSNet of the same width: train one with the same --model and give "
            "its .t7 file to --pretrain."
        )
    for name, value in given.items():
        old = state.get(name)
        if old is None or old.ndim != value.ndim or name.startswith("classifier"):
            continue
        if name.startswith("joint"):
            old = old[tuple(slice(length) for length in value.shape)]
        if old.shape == value.shape and value.ndim:
            old.copy_(value)
    return content
