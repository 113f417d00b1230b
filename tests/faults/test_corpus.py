"""Malformed input, through the programs themselves: an exit code, one sentence, nothing lost, nothing half-written."""

import re
import shutil
import sys

import pytest
from PIL import Image

from data.fer2013.prepare import ensure
from tests.conftest import run_program
from tests.faults import flags, photographs, stored
from tests.faults.entry import contents, enter, start
from tests.harness import make_model, save_checkpoints
from tests.samples import three_splits, write_zip
from utils.interrupt import StopRequest

CASES = [*stored.CASES, *photographs.CASES, *flags.CASES]
MOST_MEMORY = 2 * 10**9  # bytes


@pytest.fixture(scope="session")
def good(tmp_path_factory):
    """A folder of what is intact: data/data.zip with its data.h5, checkpoints/, face.png, and run/ to resume."""
    folder = tmp_path_factory.mktemp("good")
    save_checkpoints(folder / "checkpoints", make_model())
    Image.fromarray(photographs.FACE).save(folder / "face.png")
    flags = ["--dataset", "Demo", "--model", "Narrow", "--limit", 8, "--bs", 4, "--epochs", 1]
    assert run_program(folder / "run", *flags) == 0
    (folder / "data").mkdir()
    write_zip(folder / "data" / "data.zip", three_splits()[0])
    ensure(folder / "data")
    return folder


@pytest.fixture
def places(tmp_path, monkeypatch):
    """{name: folder} of input, results, and where the program is started; nothing may appear in the last one."""
    found = {name: tmp_path / name for name in ("folder", "out", "elsewhere")}
    found["folder"].mkdir()
    found["elsewhere"].mkdir()
    monkeypatch.chdir(found["elsewhere"])
    return found


def arrange(case, places, good):
    """Make the input; (program, flags)."""
    if case.copied:
        shutil.copytree(good / case.copied, places["folder"], dirs_exist_ok=True)
    case.make(places["folder"])
    program, *flags = case.command
    return program, [str(flag).format(good=good, **places) for flag in flags]


def assert_told(case, code, output):
    """The right exit code, and one sentence that says what is wrong, where, and what to do."""
    assert "Traceback" not in output
    assert code == case.code, output
    (line,) = [line for line in output.splitlines() if re.search(r"(^|[.\w]: )error: ", line)]
    assert len(line) < 800
    for pattern in case.told:
        assert re.search(pattern, line), (pattern, line)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_malformed_input(case, places, good, tmp_path, monkeypatch, capsys, record_property):
    record_property("fault", case.kind)
    program, flags = arrange(case, places, good)
    before = contents(tmp_path)
    code = enter(program, flags, monkeypatch)
    output = "".join(capsys.readouterr())
    assert_told(case, code, output)
    assert contents(tmp_path) == before


SEEN = ("--checkpoints", "{good}/checkpoints", "--device", "cpu", "--out", "{out}")


@pytest.mark.parametrize("name", photographs.ODD)
def test_odd_pictures_are_read(name, places, good, tmp_path, monkeypatch, capsys, record_property):
    record_property("fault", "pictures")
    photographs.ODD[name](places["folder"])
    flags = [flag.format(good=good, **places) for flag in SEEN]
    assert enter("visualize", [places["folder"], *flags], monkeypatch) == 0
    output = "".join(capsys.readouterr())
    assert "error" not in output and "Traceback" not in output
    assert [path.name for path in places["out"].iterdir()] == ["a_emotion.png"]
    assert not list(places["elsewhere"].iterdir())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="measures memory as Unix does")
@pytest.mark.parametrize("name", photographs.LARGE)
def test_large_pictures_take_little_memory(name, places, good, record_property):
    record_property("fault", "huge input")
    for number in range(3):
        (places["folder"] / f"{number}.png").write_bytes(photographs.LARGE[name]())
    done = start("visualize", [places["folder"], *(flag.format(good=good, **places) for flag in SEEN)])
    assert done.code == 0 and "Traceback" not in done.output, done.output
    assert done.peak < MOST_MEMORY, f"{done.peak / 1e6:,.0f} MB"
    assert len(list(places["out"].iterdir())) == 3


@pytest.mark.parametrize("flag", flags.HUGE)
def test_huge_values_are_refused_or_work(flag, places, good, monkeypatch, capsys, record_property):
    record_property("fault", "options")
    asked = iter(range(4))  # a run without end is asked to stop
    monkeypatch.setattr(StopRequest, "__call__", lambda self: next(asked, None) is None)
    command = ["--data", good / "data", "--model", "Narrow", "--device", "cpu", "--eval", "center", "--bs", 2]
    command += [] if flag == "--epochs" else ["--epochs", 1]
    code = enter("mainpro_FER", [*command, "--out", places["out"], flag, flags.HUGE[flag]], monkeypatch)
    output = "".join(capsys.readouterr())
    assert code in (0, 2, 130) and "Traceback" not in output, output
    assert output.count("error: ") == (code == 2)
    if code == 2:
        assert "not finite" in output and "Try a smaller --lr" in output
    assert not list(places["out"].rglob("*.unfinished"))
