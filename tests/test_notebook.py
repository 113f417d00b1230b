"""quickstart.ipynb: its cells run from top to bottom, on few faces."""

import json
import os
import sys
from types import ModuleType

import pytest

from tests.conftest import ROOT
from tests.samples import three_splits, write_zip

CELLS = json.loads((ROOT / "quickstart.ipynb").read_text(encoding="utf-8"))["cells"]


def run_cells(namespace, names, **parameters):
    """Execute the code cells of these names; the parameters replace those of the notebook."""
    for cell in CELLS:
        if cell["id"] in names and cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), cell["id"], "exec"), namespace)
            if cell["id"] == "parameters":
                assert parameters.keys() <= namespace.keys()
                namespace |= parameters


@pytest.fixture
def shown(monkeypatch):
    """The images that a notebook displays; its working folder is the repository."""
    images, display = [], ModuleType("IPython.display")
    display.Image, display.display = str, images.append
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.chdir(ROOT)
    return images


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(tmp_path, shown, capsys):
    write_zip(tmp_path / "archive.zip", three_splits()[0])
    few = ["--epochs", "1", "--limit", "8", "--bs", "4", "--device", "cpu"]
    names = {cell["id"] for cell in CELLS} - {"install"}
    results = tmp_path / "results"
    parameters = {"FER2013": str(tmp_path / "archive.zip"), "RESULTS": str(results)}
    run_cells({}, names, **parameters, DEMO_FLAGS=few, TRAINING_FLAGS=few)
    run = ["AccProcess.png", "PrivateTest_confusion.png"]
    assert [os.path.basename(path) for path in shown] == [*run, *run, "sample_emotion.png"]
    assert all(path.startswith(str(results)) for path in shown)
    assert "Happy" in capsys.readouterr().out


def test_the_notebook_clones_the_repository_where_it_is_alone(tmp_path, shown, monkeypatch):
    monkeypatch.chdir(tmp_path)
    calls = []
    monkeypatch.setattr("subprocess.run", lambda command, **_: calls.append(command))
    run_cells({}, {"parameters", "clone"}, ADDRESS="https://example.org/project.git")
    assert calls[0][:2] == ["git", "clone"] and "https://example.org/project.git" in calls[0]
    assert calls[0][-1] == tmp_path / "emotion-recognition"


@pytest.mark.parametrize("present", [True, False])
def test_the_notebook_keeps_the_opencv_that_is_there(shown, monkeypatch, present):
    namespace, installed = {}, []
    run_cells(namespace, {"parameters", "clone"})
    namespace["run"] = lambda *command: installed.extend(map(str, command))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: present or None)
    run_cells(namespace, {"install"})
    assert any(name.startswith("opencv") for name in installed) != present
    assert any(name.startswith("torch") for name in installed)
    assert not [name for name in installed if "#" in name]


def test_output_that_is_no_text_and_a_failure_are_shown(shown, capsys):
    namespace = {}
    run_cells(namespace, {"parameters", "clone"})
    namespace["run"]("-c", r"import os; os.write(1, b'caf\x81 \xc3\x8d\n')")
    assert capsys.readouterr().out == "caf\ufffd \u00cd\n"
    with pytest.raises(RuntimeError):
        namespace["run"]("-c", "raise SystemExit(2)")
