"""Options with wrong, empty, negative and huge values: [`Case`], derived from the parsers themselves."""

import argparse

import visualize
from inference import evaluate
from tests.faults.entry import Case
from training.config import build_parser

PARSERS = {
    "mainpro_FER": build_parser(),
    "visualize": visualize.build_parser(),
    "inference.evaluate": evaluate.build_parser(),
}
VALUES = {"wrong": "?!", "empty": "", "negative": "-7", "NaN": "nan", "huge": "1" + 30 * "0", "too precise": "1e-400"}
LONG = 300 * "x"  # longer than a file name may be


def is_path(action):
    return action.metavar in ("PATH", "DIR", "FILE", "CSV")


def allowed(program, action, value):
    """Whether the parser itself takes the value; then it is for a run to cope with it."""
    parser = PARSERS[program]
    try:
        return action.choices is None and parser._get_value(action, value) is not None
    except argparse.ArgumentError:
        return False


def with_argument(program):
    for action in PARSERS[program]._actions:
        if action.option_strings and action.nargs != 0:
            yield action.option_strings[-1], action


def case(name, command, *told, make=lambda folder: None):
    return Case("options", name, make, command, told)


def cases():
    for program in PARSERS:
        command = {"visualize": ("visualize", "{good}/face.png")}.get(program, (program,))
        for flag, action in with_argument(program):
            for name, value in VALUES.items():
                if not allowed(program, action, value):
                    told = f"argument .*{flag}", "invalid"
                    yield case(f"{program} {flag} {name}", (*command, f"{flag}={value}"), *told)
        yield case(f"{program} of an unknown flag", (*command, "--faster"), "unrecognized arguments: --faster")
        yield case(f"{program} without a value", (*command, "--device"), "--device: expected one argument")
    quick = ("mainpro_FER", "--data", "{good}/data", "--model", "Narrow", "--device", "cpu", "--epochs", "1")
    see = ("visualize", "{good}/face.png", "--device", "cpu", "--checkpoints", "{good}/checkpoints")
    measure = ("inference.evaluate", "--device", "cpu", "--checkpoints", "{good}/checkpoints", "--data", "{good}/data")
    for program, flag in (
        *((quick, flag) for flag in ("--data", "--out")),
        *((see, flag) for flag in ("--out", "--csv", "--json", "--checkpoints")),
        *((measure, flag) for flag in ("--data", "--gold", "--checkpoints", "--out")),
        (("data.fer2013.prepare", "{good}/data/data.zip"), "--h5"),
    ):
        yield case(f"{program[0]} {flag} of 300 letters", (*program, flag, LONG), "x{60}", "too long")
    for program in ("visualize", "data.fer2013.prepare"):
        yield case(f"{program} of an empty name", (program, ""), "invalid path: it is empty")
    yield case("data.fer2013.prepare of a name of 300 letters", ("data.fer2013.prepare", LONG), "x{60}", "too long")
    for program, flag, told in (
        (quick, "--out", "cannot be written to.*give another --out"),
        (see, "--out", "choose another"),
        (measure, "--out", "choose another"),
    ):
        command = (*program, flag, "{folder}/mine")
        yield case(f"{program[0]} {flag} that is a file", command, "mine", told, make=file_of_mine)
    for program, flag in ((see, "--csv"), (see, "--json")):
        command = (*program, flag, "{folder}/mine", "--no-pictures")
        told = "mine", "choose another"
        yield case(f"{program[0]} {flag} that is a folder", command, *told, make=folder_of_mine)
    yield case("visualize without input", ("visualize",), "Nothing to read: give")


def file_of_mine(folder):
    (folder / "mine").write_text("mine")


def folder_of_mine(folder):
    (folder / "mine").mkdir()
    (folder / "mine" / "notes.txt").write_text("mine")


# Values that a parser takes and a run must cope with: flag, value.
HUGE = {
    "--bs": "1" + 30 * "0",
    "--limit": "1" + 30 * "0",
    "--epochs": "1" + 30 * "0",
    "--seed": str(2**31),
    "--lr": "1e30",
    "--consistency": "1e300",
    "--orth": "1e300",
}
CASES = list(cases())
