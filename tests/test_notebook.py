"""quickstart.ipynb: its cells run from top to bottom, on few drawn faces and on a read-only-like folder of FER2013."""

import _thread
import json
import os
import signal
import subprocess
import sys
import threading
import time
from types import ModuleType, SimpleNamespace

import pytest

from tests.conftest import ROOT
from tests.samples import three_splits, write_zip


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    shown = []
    display = ModuleType("IPython.display")
    display.Image, display.display = str, shown.append
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    (tmp_path / "input").mkdir()
    write_zip(tmp_path / "input" / "archive.zip", three_splits()[0])
    few = ["--epochs", "1", "--limit", "8", "--bs", "4", "--device", "cpu"]
    parameters = {
        "REPOSITORY": str(ROOT), "FER2013": str(tmp_path / "input"), "PHOTOGRAPH": "data/sample.png",
        "RESULTS": str(tmp_path / "results"), "DEMO_FLAGS": few, "TRAINING_FLAGS": few,
    }  # fmt: skip
    notebook = json.loads((ROOT / "quickstart.ipynb").read_text(encoding="utf-8"))
    namespace = {}
    for cell in notebook["cells"]:
        tags, source = cell["metadata"].get("tags", []), "".join(cell["source"])
        if cell["cell_type"] != "code" or "install" in tags:
            continue
        exec(compile(source, cell["id"], "exec"), namespace)
        if "parameters" in tags:
            assert parameters.keys() <= namespace.keys()
            namespace |= parameters
    run = ["AccProcess.png", "PrivateTest_confusion.png"]
    assert [name.rpartition("/")[2] for name in shown] == [*run, *run, "sample_emotion.png"]
    assert all((tmp_path / "results") in path.parents for path in map(type(tmp_path), shown))
    assert "Happy" in capsys.readouterr().out


@pytest.fixture
def notebook_cells(monkeypatch):
    """What the first cells of the notebook define, without their installation."""
    display = ModuleType("IPython.display")
    display.Image, display.display = str, print
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    notebook = json.loads((ROOT / "quickstart.ipynb").read_text(encoding="utf-8"))
    namespace = {}
    for cell in [cell for cell in notebook["cells"] if cell["cell_type"] == "code"][:2]:
        exec(compile("".join(cell["source"]), cell["id"], "exec"), namespace)
    return namespace


def test_a_byte_that_is_no_text_does_not_end_a_cell(notebook_cells, capsys):
    notebook_cells["run"]("-c", r"import os; os.write(1, b'caf\x81 \xc3\x8d\n')")
    assert capsys.readouterr().out == "caf\N{REPLACEMENT CHARACTER} \N{LATIN CAPITAL LETTER I WITH ACUTE}\n"
    with pytest.raises(RuntimeError, match="did not work"):
        notebook_cells["run"]("-c", "raise SystemExit(2)")


def test_stop_ends_the_program_where_only_the_notebook_hears_of_it(notebook_cells, monkeypatch):
    """As on Windows; the program prints nothing meanwhile."""
    begun, popen = [], subprocess.Popen

    def remembering(*arguments, **options):
        begun.append(popen(*arguments, **options))
        return begun[-1]

    monkeypatch.setattr(subprocess, "Popen", remembering)
    monkeypatch.setitem(notebook_cells, "os", SimpleNamespace(name="nt", environ=os.environ))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    threading.Timer(1.5, _thread.interrupt_main).start()
    began = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            notebook_cells["run"]("-c", "import time; time.sleep(60)")
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - began < 30 and begun[0].poll() is not None
