"""Damaged files and wrong options: an exit code, one sentence, nothing lost or left behind."""

import math
import shutil
import struct
import zlib
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

import mainpro_FER
from data.demo.drawing import draw_face
from data.fer2013.prepare import ensure
from models import checkpoint
from tests.conftest import run_program
from tests.programs import enter, error_line, start
from tests.samples import contents, png, three_splits, write_files, write_zip
from utils.interrupt import StopRequest
from utils.tasks import TASKS

NAME = TASKS["classify"].checkpoint("PrivateTest")
FACE = draw_face(3, (1, 1, 1), 0, 96)
LONG = 300 * "x"  # longer than the name of a file may be


@pytest.fixture(scope="module")
def good(tmp_path_factory, checkpoints):
    """A folder of intact files: data/, checkpoints/, face.png, and run/ to resume."""
    folder = tmp_path_factory.mktemp("good")
    shutil.copytree(checkpoints, folder / "checkpoints")
    Image.fromarray(FACE).save(folder / "face.png")
    flags = ["--dataset", "Demo", "--model", "Narrow", "--limit", 8, "--bs", 4, "--epochs", 1]
    assert run_program(folder / "run", *flags) == 0
    (folder / "data").mkdir()
    write_zip(folder / "data" / "data.zip", three_splits()[0])
    ensure(folder / "data")
    return folder


@pytest.fixture
def refused(good, tmp_path, monkeypatch, capsys):
    """A function that runs a program, which must refuse its input.

    {good}, {bad} and {out} in the flags are folders. One line of error has all keywords, and no
    file appears or changes anywhere.
    """
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    places = {"good": good, "bad": tmp_path / "bad", "out": tmp_path / "out"}

    def check(command, *keywords, code=2):
        before = contents(tmp_path), contents(good)
        assert enter(*(flag.format(**places) for flag in command.split())) == code
        error = error_line(capsys)
        assert all(keyword in error for keyword in keywords), error
        assert (contents(tmp_path), contents(good)) == before
        assert not (tmp_path / "out").exists()

    return check


def change(content, **changes):
    content.update(changes)


CHECKPOINTS = [  # what is changed, a keyword
    (partial(change, net=3), "checkpoint"),
    (partial(change, tasks=7), "tasks"),
    (partial(change, model=["a"]), "unknown"),
    (partial(change, sharing="none"), "fit"),
    (partial(change, class_names=["Joy", "Fear"]), "emotions"),
    (partial(change, preprocessing={"mean": math.nan, "std": 1.0}), "preprocessing"),
    (lambda content: content["net"]["heads.classify.bias"].fill_(math.inf), "finite"),
]


@pytest.mark.parametrize(("edit", "keyword"), CHECKPOINTS)
def test_checkpoints(refused, good, tmp_path, edit, keyword):
    content = checkpoint.load(good / "checkpoints" / NAME)
    edit(content)
    (tmp_path / "bad").mkdir()
    torch.save(content, tmp_path / "bad" / NAME)
    network = f"--checkpoints {{bad}}/{NAME} --device cpu --out {{out}}"
    refused(f"visualize {{good}}/face.png {network}", NAME, keyword)
    refused(f"inference.evaluate --data {{good}}/data {network}", NAME, keyword)


@pytest.mark.parametrize("content", [b"", 0.5])
def test_files_that_are_no_checkpoints(refused, good, tmp_path, content):
    whole = (good / "checkpoints" / NAME).read_bytes()
    (tmp_path / "bad").mkdir()
    part = whole[: int(len(whole) * content)] if isinstance(content, float) else content
    (tmp_path / "bad" / NAME).write_bytes(part)
    refused(f"visualize {{good}}/face.png --checkpoints {{bad}}/{NAME} --device cpu", NAME)
    shutil.copytree(good / "run", tmp_path / "run")
    (tmp_path / "run" / "Demo_Narrow" / "last.t7").write_bytes(part)
    command = f"mainpro_FER --resume --dataset Demo --model Narrow --out {tmp_path}/run"
    refused(f"{command} --device cpu", "last.t7")


def png_header(width, height):
    """A PNG that claims a size and has no pixels."""
    head = b"IHDR" + struct.pack(">LLBBBBB", width, height, 1, 0, 0, 0, 0)
    chunk = struct.pack(">L", 13) + head + struct.pack(">L", zlib.crc32(head))
    return b"\x89PNG\r\n\x1a\n" + chunk


PICTURES = {
    "empty.jpg": b"",
    "text.jpg": b"this is no picture\n" * 50,
    "drawing.png": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "half.png": png(FACE)[:999],
    "pixels.png": png_header(50, 50),
    "large.png": png_header(30_000, 30_000),
    "huge.png": png_header(2_000_000_000, 2_000_000_000),
    "text.avi": b"this is no video\n" * 50,
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_and_videos(refused, tmp_path, name):
    write_files(tmp_path / "bad", {name: PICTURES[name]})
    network = "--checkpoints {good}/checkpoints --device cpu --out {out}"
    refused(f"visualize {{bad}}/{name} {network}", name, code=1)


TRAIN = "mainpro_FER --data {good}/data --model Narrow --device cpu --epochs 1"
SHOW = "visualize {good}/face.png --device cpu --checkpoints {good}/checkpoints"
EVALUATE = "inference.evaluate --data {good}/data --device cpu --checkpoints {good}/checkpoints"
OPTIONS = [  # command, keywords
    (f"{TRAIN} --faster", "--faster"),
    (f"{TRAIN} --device", "--device"),
    (f"{TRAIN} --bs 0", "--bs"),
    (f"{TRAIN} --epochs -7", "--epochs"),
    (f"{TRAIN} --lr nan", "--lr"),
    (f"{TRAIN} --rotation 1e999", "--rotation"),
    (f"{TRAIN} --tasks smile", "--tasks"),
    (f"{TRAIN} --data {LONG}", "xxx", "too long"),
    (f"{TRAIN} --out {LONG}", "xxx", "too long"),
    (f"{TRAIN} --out {{good}}/face.png", "face.png", "another --out"),
    (f"{SHOW} --every 0", "--every"),
    (f"{SHOW} --confidence 7", "confidence"),
    (f"{SHOW} --smooth nan", "smooth"),
    (f"{SHOW} --checkpoints {LONG}", "xxx", "too long"),
    (f"{SHOW} --out {LONG}", "xxx", "too long"),
    (f"{SHOW} --no-pictures --csv {LONG}", "xxx", "too long"),
    (f"{SHOW} --out {{good}}/data/data.zip", "data.zip", "choose another"),
    (f"{SHOW} --csv {{good}}/data --no-pictures", "data", "folder"),
    ("visualize", "give"),
    (f"{EVALUATE} --split Training", "--split"),
    (f"{EVALUATE} --gold {LONG}", "xxx", "too long"),
    (f"{EVALUATE} --out {{good}}/face.png", "face.png", "choose another"),
    (f"data.fer2013.prepare {LONG}", "xxx", "too long"),
    (f"data.fer2013.prepare {{good}}/data/data.zip --h5 {LONG}", "xxx", "too long"),
]


@pytest.mark.parametrize("case", OPTIONS, ids=lambda case: case[0].replace(LONG, "long"))
def test_options(refused, case):
    refused(*case)


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["--bs", "--limit", "--epochs", "--lr"])
def test_huge_values_are_refused_or_work(flag, good, tmp_path, monkeypatch, capsys):
    asked = iter(range(4))  # a run without end is asked to stop
    monkeypatch.setattr(StopRequest, "__call__", lambda self: next(asked, None) is None)
    command = [*TRAIN.format(good=good).split(), "--bs", 2, "--out", tmp_path]
    code = enter(*command, flag, "1" + 30 * "0")
    if flag == "--lr":
        assert code == 2 and "finite" in error_line(capsys)
    else:
        assert code in (0, 130) and "error: " not in capsys.readouterr().err


def test_odd_pictures_are_read(good, tmp_path, capsys):
    odd = {
        "pixel.png": png(FACE[:1, :1]),
        "row.png": png(FACE[:1]),
        "column.png": png(FACE[:, :1]),
        "long.png": png(np.zeros((1, 20_000), np.uint8)),
        "named.jpg": png(FACE),
        "more.png": png(FACE) + b"junk",
    }
    write_files(tmp_path / "odd", odd)
    flags = ["--checkpoints", good / "checkpoints", "--device", "cpu", "--out", tmp_path / "out"]
    assert enter("visualize", tmp_path / "odd", *flags) == 0
    assert "error" not in capsys.readouterr().err
    assert len(list((tmp_path / "out").iterdir())) == len(odd)


PEAK = """
import atexit, resource, sys
unit = 1 if sys.platform == "darwin" else 1024
atexit.register(lambda: print(
    "peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
))
"""


@pytest.mark.slow
def test_large_pictures_take_less_than_two_gigabytes(good, tmp_path):
    pytest.importorskip("resource", reason="Unix measures the memory of a process")
    Image.new("RGB", (20_000, 3_200)).save(tmp_path / "colour.png")
    Image.fromarray(np.zeros((3_200, 20_000), np.uint16)).save(tmp_path / "deep.png")
    Image.new("1", (8_000, 8_000)).save(tmp_path / "square.png")
    flags = ["--checkpoints", good / "checkpoints", "--device", "cpu", "--out", tmp_path / "out"]
    output = start("visualize", tmp_path, *flags, first=PEAK)
    assert int(output.rpartition("peak ")[2]) < 2e9
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_an_output_folder_that_vanishes_is_made_again(tmp_path, monkeypatch):
    out, evaluate, calls = tmp_path / "out", mainpro_FER.evaluate, []

    def evaluate_and_remove(*arguments, **options):
        calls.append(1)
        if len(calls) == 3:  # in the second epoch
            shutil.rmtree(out)
        return evaluate(*arguments, **options)

    monkeypatch.setattr(mainpro_FER, "evaluate", evaluate_and_remove)
    flags = "--dataset Demo --model Narrow --limit 8 --bs 4 --epochs 2 --eval center".split()
    assert run_program(out, *flags) == 0
    assert all((out / f"AccProcess_{name}.csv").exists() for name in TASKS)
    assert checkpoint.load(out / "Demo_Narrow" / "last.t7")
