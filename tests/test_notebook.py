"""quickstart.ipynb: its cells run from top to bottom, on few drawn faces and on a read-only-like folder of FER2013."""

import json
import sys
from types import ModuleType

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
