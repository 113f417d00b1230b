"""Malformed checkpoints and tables of ratings: [`Case`]."""

import random
from functools import partial

import torch

from models import checkpoint
from models.multitask import MultiTask
from tests.faults.entry import Case
from tests.test_visualize import save
from utils.tasks import TASKS

# Checkpoints: given to whoever predicts with them

NAME = TASKS["classify"].checkpoint("PrivateTest")


def edited(folder, change):
    """The good checkpoint with a change to its content."""
    torch.manual_seed(0)
    path = save(folder, MultiTask(base=8), ["classify"]) / NAME
    content = checkpoint.load(path)
    other = change(content)
    torch.save(content if other is None else other, path)


class Trap:
    """Unpickling it would create a file."""

    def __reduce__(self):
        return open, ("attacked", "w")


class OwnClass:
    """A class that only the writer of the file knows."""


def truncated(folder, tenth):
    edited(folder, lambda content: None)
    data = (folder / NAME).read_bytes()
    (folder / NAME).write_bytes(data[: len(data) * tenth // 10])


def checkpoint_named(content):
    def make(folder):
        (folder / NAME).write_bytes(content)

    return make


def having(**changes):
    return lambda content: content.update(changes)


def without(key):
    return lambda content: content.__delitem__(key)


def net(name, value):
    return lambda content: content["net"].__setitem__(name, value(content["net"][name]))


def checkpoint_cases():
    def case(name, make, *told, program="visualize"):
        inputs = ["{good}/face.png", "--no-pictures"] if program == "visualize" else ["--data", "{good}/data"]
        command = (program, *inputs, "--checkpoints", f"{{folder}}/{NAME}", "--device", "cpu", "--out", "{out}")
        return Case("checkpoints", name, make, command, (NAME, *told))

    refused = "not a readable checkpoint.*damaged, or holds more than tensors"
    for tenth in range(10):
        yield case(f"cut at {tenth} tenths", partial(truncated, tenth=tenth), refused, "get it again|train")
    changes = {
        "code in a pickle": (having(extra=Trap()), refused),
        "an unknown class": (having(extra=OwnClass()), refused),
        "a list": (lambda content: [1, 2, 3], "not a checkpoint of this project"),
        "a tensor": (lambda content: torch.zeros(3), "not a checkpoint of this project"),
        "no network": (without("net"), "no network"),
        "a number as network": (having(net=3), "not a checkpoint of this project"),
        "a network of words": (having(net={"conv1.weight": "x"}), "no network"),
        "no preprocessing": (without("preprocessing"), "preprocessing"),
        "preprocessing in words": (having(preprocessing="usual"), "preprocessing"),
        "no mean": (having(preprocessing={"std": 1.0}), "preprocessing"),
        "a NaN mean": (having(preprocessing={"mean": float("nan"), "std": 1.0}), "preprocessing"),
        "a deviation of zero": (having(preprocessing={"mean": 0.5, "std": 0.0}), "preprocessing"),
        "an unknown network": (having(model="VGG19"), "VGG19"),
        "a list of networks": (having(model=["a"]), "do not fit"),
        "an unknown task": (having(tasks=["smile"]), "smile"),
        "a task as a number": (having(tasks=7), "tasks"),
        "another sharing": (having(sharing="some"), "sharing"),
        "a trunk per task": (having(sharing="none"), "do not fit"),
        "another architecture": (having(model="ResNet18RegressionTwoOutputs"), "do not fit"),
        "missing weights": (lambda content: content["net"].__delitem__("heads.classify.bias"), "do not fit"),
        "weights too many": (lambda content: content["net"].update({"more.weight": torch.zeros(1)}), "do not fit"),
        "weights of another shape": (net("heads.classify.weight", lambda value: value[:3]), "do not fit"),
        "NaN weights": (net("heads.classify.weight", lambda value: value * float("nan")), "not finite"),
        "infinite weights": (net("heads.classify.bias", lambda value: value + float("inf")), "not finite"),
        "NaN statistics": (net("trunks.shared.bn1.running_var", lambda value: value * float("nan")), "not finite"),
        "other classes": (having(class_names=["Joy", "Fear"]), "other emotions"),
        "classes as a number": (having(class_names=7), "other emotions"),
    }  # fmt: skip
    for name, (change, told) in changes.items():
        for program in ("visualize", "inference.evaluate"):
            yield case(f"{name}, {program}", partial(edited, change=change), told, program=program)
    for name, content in {
        "empty": b"",
        "notes": b"my notes",
        "junk": random.Random(3).randbytes(4000),
        "zip": b"PK\x03\x04junk",
    }.items():
        yield case(name, checkpoint_named(content), refused)
    yield case("no file", lambda folder: None, "does not exist", "give the folder")
    yield case("a folder", lambda folder: (folder / NAME).mkdir(), "has no checkpoint", "train first")


# last.t7: given to a run that goes on


def unfinished(folder, change):
    """A run's last.t7 with a change to its content, or other bytes in its place."""
    path = folder / "Demo_Narrow" / "last.t7"
    if isinstance(change, bytes):
        path.write_bytes(change)
        return
    content = checkpoint.load(path)
    other = change(content)
    torch.save(content if other is None else other, path)


def resume_cases():
    def case(name, change, *told):
        command = ("mainpro_FER", "--resume", "--dataset", "Demo", "--model", "Narrow", "--device", "cpu",
                   "--out", "{folder}")  # fmt: skip
        return Case(
            "runs to resume", name, partial(unfinished, change=change), command, (r"last\.t7", *told), copied="run"
        )

    again = "[Ss]tart a new run|Get it again"
    yield case("nothing", b"", "not a readable checkpoint", again)
    yield case("junk", bytes(5000), "not a readable checkpoint", again)
    yield case("code", having(history=Trap()), "could execute code", again)
    yield case("another format", having(format=1), "another version", again)
    yield case("other faces", having(data="0" * 64), "faces", again)


# Ratings: given to the evaluation


def gold_cases():
    def case(name, rows, *told, header="index,Valence,Arousal,Dominance"):
        text = "\n".join([header, *rows]) + "\n"
        command = ("inference.evaluate", "--checkpoints", "{good}/checkpoints", "--data", "{good}/data",
                   "--device", "cpu", "--gold", "{folder}/gold.csv", "--out", "{out}")  # fmt: skip
        return Case("ratings", name, lambda folder: (folder / "gold.csv").write_bytes(
            text if isinstance(text, bytes) else text.encode(errors="surrogateescape")), command,
            (r"gold\.csv", *told))  # fmt: skip

    lie = "lie in -2..2"
    yield case("no rows", [], "no rows", "columns")
    yield case("a row beyond the split", ["3,0,0,0"], lie)
    yield case("a negative row", ["-1,0,0,0"], lie)
    yield case("a row of a half", ["0.5,0,0,0"], lie)
    yield case("a row that is NaN", ["nan,0,0,0"], lie)
    yield case("an infinite row", ["inf,0,0,0"], lie)
    yield case("a row twice", ["1,0,0,0", "1,0,0,0"], lie)
    yield case("a NaN rating", ["1,nan,0,0"], lie)
    yield case("an infinite rating", ["1,0,inf,0"], lie)
    yield case("a rating of 3", ["1,0,0,3"], lie)
    yield case("ratings in words", ["1,good,0,0"], "all numbers")
    yield case("too few fields", ["1,0"], "all numbers")
    yield case("other columns", ["1,0,0,0"], "columns index", header="row,V,A,D")
    yield case("bytes that are no text", ["1,0,0,0"], "columns index", header="index\udcff")
    yield case("a field of 200,000 letters", ["x" * 200_000], "columns index")


CASES = [*checkpoint_cases(), *resume_cases(), *gold_cases()]
