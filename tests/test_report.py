"""The report of a run: what stands in its files, that they can be read, that equal runs agree."""

import copy
import csv
import errno
import io
import os
import random
import re
import subprocess
import sys
from datetime import datetime
from types import SimpleNamespace

import numpy as np
import pytest
from openpyxl import load_workbook
from PIL import Image

from tests.conftest import ROOT
from tests.samples import contents
from training.report import best_epochs, confusion, title_of, write_pictures, write_tables
from training.run import RunFolder
from utils import files
from utils.files import UserError
from utils.tasks import EMOTIONS, SPLITS, TASKS, TEST_SPLITS

ALL = tuple(TASKS.values())
CLASSIFY, VALENCE = TASKS["classify"], TASKS["regressV"]
FINAL = {"tencrop": {}, "folder": "FER2013_model"}
HEADER = {"dataset": "FER2013", "model": "model", "seed": "0"}
HEADINGS = {
    "classify": "Epoch,TrainAcc,PubtestAcc,PritestAcc,TrainLoss,PubtestLoss,PritestLoss,PubtestF1,"
    "PritestF1",
} | {
    f"regress{x}": f"Epoch,TrainLoss{x},PubtestLoss{x},PritestLoss{x},PubtestCCC{x},PritestCCC{x},"
    f"PubtestPCC{x},PritestPCC{x},PubtestSAGR{x},PritestSAGR{x}"
    for x in "VAD"
}
PREFIXES = {"Train": "Training", "Pubtest": "PublicTest", "Pritest": "PrivateTest"}


def make_history(epochs, seed=0, tasks=ALL):
    """A random history; shorter ones of the same seed are its beginnings."""
    chance = random.Random(seed)

    def metrics(task, split):
        found = {name: chance.random() for name in task.rules.metrics(split)}
        if task.kind == "classification":
            found["Acc"] *= 100
            found["confusion"] = [chance.choices(range(9), k=7) for _ in EMOTIONS]
        return found

    history = []
    for epoch in range(epochs):
        result = {"epoch": epoch}
        for split in SPLITS:
            result[split] = {task.name: metrics(task, split) for task in tasks}
        history.append(result)
    return history


def with_decisive(task, public, private):
    """A history of `task` alone whose decisive metric takes the given values."""
    history = make_history(len(public), tasks=(task,))
    for result, *values in zip(history, public, private, strict=True):
        for split, value in zip(TEST_SPLITS, values, strict=True):
            result[split][task.name][task.rules.decisive] = value
    return history


def read_csv(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def read_text(folder):
    return (folder / "data.txt").read_text(encoding="utf-8")


def write_report(out, history, tasks=ALL, final=None):
    write_tables(out, HEADER, history, tasks, final)
    write_pictures(out, out / "folder", title_of(HEADER), history, tasks)


# ---------------------------------------------------------------- CSV, workbook, pictures


@pytest.mark.parametrize("epochs", [0, 1, 12])
def test_tables_and_workbook_hold_the_history(tmp_path, epochs):
    history = make_history(epochs)
    write_report(tmp_path, history)
    book = load_workbook(tmp_path / "AccProcess.xlsx")
    assert book.sheetnames == list(TASKS)
    assert book.properties.created == datetime(2000, 1, 1)
    for name, task in TASKS.items():
        raw = (tmp_path / f"AccProcess_{name}.csv").read_bytes()
        assert raw.decode().split("\n")[0] == HEADINGS[name]  # no BOM
        assert b"\r" not in raw and raw.endswith(b"\n")
        headings, *rows = read_csv(tmp_path / f"AccProcess_{name}.csv")
        assert [int(row[0]) for row in rows] == list(range(epochs))
        for result, row in zip(history, rows, strict=True):
            for heading, cell in zip(headings[1:], row[1:], strict=True):
                prefix, metric = re.fullmatch("(Train|Pubtest|Pritest)(.+)", heading).groups()
                metric = metric.removesuffix(task.letter)
                places = 3 if metric == "Acc" else 6
                assert re.fullmatch(rf"-?\d+\.\d{{{places}}}", cell)
                expected = result[PREFIXES[prefix]][name][metric]
                assert abs(float(cell) - expected) <= 0.5000001 * 10**-places
        sheet = book[name]
        first, *cells = sheet.iter_rows(max_col=len(headings), values_only=True)
        assert list(first) == headings
        assert cells == [tuple(map(float, row)) for row in rows]
        assert sheet.freeze_panes == "B2"
        assert len(sheet._charts) == (len(task.rules.test_metrics) if epochs else 0)
        for metric, chart in zip(task.rules.test_metrics, sheet._charts, strict=bool(epochs)):
            belongs = re.compile(f"(Train|Pubtest|Pritest){metric}{task.letter}")
            letters = [cell.column_letter for cell in sheet[1] if belongs.fullmatch(cell.value)]
            ends = [f":${letter}${epochs + 1}" if epochs > 1 else "" for letter in letters]
            expected = [f"{name}!${x}$2{end}" for x, end in zip(letters, ends, strict=True)]
            assert [series.val.numRef.f for series in chart.series] == expected


@pytest.mark.parametrize(
    ("number", "text"),
    [(1e-12, "0.000000"), (-1e-12, "0.000000"), (-0.25, "-0.250000"), (1e7, "10000000.000000")],
)
def test_csv_never_has_an_exponent_or_a_minus_zero(tmp_path, number, text):
    write_tables(tmp_path, HEADER, with_decisive(VALENCE, [number], [0.5]), (VALENCE,))
    assert read_csv(tmp_path / "AccProcess_regressV.csv")[1][2] == text


def test_a_subset_of_tasks_writes_only_its_own_tables(tmp_path):
    tasks = (VALENCE, TASKS["regressD"])
    write_report(tmp_path, make_history(2, tasks=tasks), tasks, FINAL)
    tables = {f"AccProcess_{task.name}.csv" for task in tasks}
    assert {path.name for path in tmp_path.glob("*.csv")} == tables
    assert load_workbook(tmp_path / "AccProcess.xlsx").sheetnames == ["regressV", "regressD"]
    text = read_text(tmp_path)
    assert "best_PublicTest_AveragelossD: " in text and "_acc" not in text


def test_a_report_depends_on_its_arguments_alone_and_leaves_them_alone(tmp_path):
    history, final = make_history(5), copy.deepcopy(FINAL)
    before = copy.deepcopy((history, final))
    write_report(tmp_path / "grown", history[:3])
    write_report(tmp_path / "grown", history, final=final)
    write_report(tmp_path / "once", make_history(5), final=FINAL)
    names = {f"AccProcess_{name}.csv" for name in TASKS} | {"AccProcess.xlsx", "AccProcess.png"}
    names |= {"data.txt", *(f"folder/{split}_confusion.png" for split in TEST_SPLITS)}
    found = [contents(tmp_path / name) for name in ("grown", "once")]
    assert found[0] == found[1] and found[0].keys() == names and (history, final) == before
    write_report(tmp_path / "grown", make_history(5, seed=1))
    other = contents(tmp_path / "grown")
    assert not any(other[name] == found[0][name] for name in names)


def test_pictures_are_valid_and_say_nothing_of_time_or_version(tmp_path):
    write_report(tmp_path, make_history(3))
    matrix = np.diag(range(7))  # a class without faces
    chosen = confusion(matrix, "title")
    for content in ((tmp_path / "AccProcess.png").read_bytes(), chosen):
        with Image.open(io.BytesIO(content)) as picture:
            picture.load()
            assert picture.format == "PNG" and min(picture.size) > 600
            assert not {"Software", "Creation Time", "date:create"} & set(picture.info)
    epoch = best_epochs(make_history(3), CLASSIFY)["PublicTest"][0]
    for split in TEST_SPLITS:
        counts = make_history(3)[epoch][split]["classify"]["confusion"]
        title = f"FER2013, model\n{split}, epoch {epoch} (chosen on PublicTest)"
        drawn = (tmp_path / "folder" / f"{split}_confusion.png").read_bytes()
        assert drawn == confusion(counts, title) != chosen


def test_drawing_libraries_are_loaded_late_and_their_global_state_is_left_alone():
    code = """
import sys, training.report
early = {"matplotlib", "xlsxwriter", "pandas"} & sys.modules.keys()
import matplotlib
before = matplotlib.rcParams.copy()
training.report.confusion([[1] * 7] * 7, "title")
# dict.__eq__ compares without looking a backend up, which would itself import pyplot.
same = dict.__eq__(before, matplotlib.rcParams) and "matplotlib.pyplot" not in sys.modules
sys.exit(bool(early) or not same)
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


# ---------------------------------------------------------------- best epochs and data.txt


@pytest.mark.parametrize("name", TASKS)
def test_best_epochs_and_their_lines_agree_with_a_search(tmp_path, name):
    history, task = make_history(25, seed=3), TASKS[name]
    for result in history:  # coarse values, so that there are ties: the first of them wins
        for split in TEST_SPLITS:
            scale = 1 if task.letter else 100
            value = result[split][name][task.rules.decisive]
            result[split][name][task.rules.decisive] = round(value / scale, 1) * scale
    write_tables(tmp_path, HEADER, history, (task,))
    blocks = re.split(r"^Epoch (\d+)$", read_text(tmp_path), flags=re.MULTILINE)[1:]
    assert [int(number) for number in blocks[::2]] == list(range(25))
    for count, block in enumerate(blocks[1::2], start=1):
        best, expected = best_epochs(history[:count], task), []
        for split in TEST_SPLITS:
            metric = "Loss" if task.letter else "Acc"
            values = [result[split][name][metric] for result in history[:count]]
            value = min(values) if task.letter else max(values)
            assert best[split] == (values.index(value), value)
            expected += (
                [f"best_{split}_Averageloss{task.letter}: {value:.6f}",
                 f"best_{split}_epoch_loss{task.letter}: {values.index(value)}"]
                if task.letter
                else [f"best_{split}_acc: {value:.3f}",
                      f"best_{split}_acc_epoch: {values.index(value)}"]
            )  # fmt: skip
        assert [line for line in block.split("\n") if line.startswith("best_")] == expected
    assert best_epochs([], task) == dict.fromkeys(TEST_SPLITS, (None, None))


def test_honest_and_optimistic_results_differ_where_the_splits_disagree(tmp_path):
    tasks = (CLASSIFY, VALENCE)
    history = with_decisive(CLASSIFY, [50.0, 61.5, 60.0], [52.0, 55.25, 58.75])
    others = with_decisive(VALENCE, [0.3, 0.5, 0.4], [0.9, 0.7, 0.8])
    for result, other in zip(history, others, strict=True):
        for split in SPLITS:
            result[split]["regressV"] = other[split]["regressV"]
    write_tables(tmp_path, HEADER, history, tasks)
    assert "best model is:" not in read_text(tmp_path)
    metrics = {split: {**history[2][split]["classify"], "Acc": 66.5} for split in TEST_SPLITS}
    final = FINAL | {"tencrop": {"classify": {"epoch": 2, **metrics}}}
    write_tables(tmp_path, HEADER, history, tasks, final)
    _, text = read_text(tmp_path).split("best model is:")
    lines = re.split(r"\n+", text)
    for beginning, epoch, value in (
        ("classify: FER2013_model/PublicTest_model_classify.t7", 1, "61.500 %"),
        ("epoch chosen on PublicTest: honest", 1, "55.250 %"),
        ("epoch chosen on PrivateTest itself: optimistic", 2, "58.750 %"),
        ("epoch chosen on PublicTest: honest", 0, "0.900000"),
        ("epoch chosen on PrivateTest itself: optimistic", 1, "0.700000"),
        ("classify", 2, "PublicTest: accuracy 66.500 %"),
        ("classify", 2, "PrivateTest: accuracy 66.500 %"),
    ):
        found = [line for line in lines if line.strip().startswith(beginning)]
        assert any(f"epoch {epoch}, " in line and value in line for line in found), beginning


def test_the_header_stands_first_and_demo_says_at_both_ends_that_faces_are_drawn(tmp_path):
    header = {**HEADER, "device": "cpu\nof two lines", "source": "faces\udcff.csv"}  # no text
    write_tables(tmp_path, header, make_history(1), ALL, FINAL)
    expected = [*(f"{key}: {value}" for key, value in HEADER.items()), "device: cpu of two lines"]
    lines = read_text(tmp_path).split("\n")
    assert lines[:5] == [*expected, "source: faces\\udcff.csv"] and "drawn" not in "".join(lines)
    write_tables(tmp_path, HEADER | {"dataset": "Demo"}, make_history(1), ALL, FINAL)
    lines = read_text(tmp_path).strip().split("\n")
    assert "drawn faces" in lines[0] and "drawn faces" in lines[-1]


# ---------------------------------------------------------------- what can go wrong


def test_a_file_that_is_open_elsewhere_does_not_stop_the_run(tmp_path, monkeypatch, capsys):
    """Windows refuses to replace a file that another program has open."""
    write_tables(tmp_path, HEADER, make_history(1), ALL)
    replace, blocked = os.replace, tmp_path / "AccProcess_classify.csv"

    def refuse(source, target):
        if os.fspath(target) == os.fspath(blocked):
            raise PermissionError(errno.EACCES, "Access is denied", os.fspath(source))
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(files, "REFUSES_OPEN_FILES", True)
        patch.setattr(os, "replace", refuse)
        write_tables(tmp_path, HEADER, make_history(2), ALL)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("AccProcess_classify.csv is open") and "--resume" in line
    assert len(read_csv(blocked)) == 2 and len(read_csv(tmp_path / "AccProcess_regressV.csv")) == 3
    assert not list(tmp_path.glob("*.unfinished"))
    write_tables(tmp_path, HEADER, make_history(3), ALL)
    assert len(read_csv(blocked)) == 4 and capsys.readouterr().out == ""


def test_what_cannot_be_written_is_a_user_error(tmp_path, monkeypatch):
    write_tables(tmp_path, HEADER, make_history(1), ALL)
    before = contents(tmp_path)

    def full(source, target):
        raise OSError(errno.ENOSPC, "No space left on device", os.fspath(source))

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(UserError, match=r"classify\.csv .*No space left"):
            write_tables(tmp_path, HEADER, make_history(2), ALL)
    assert contents(tmp_path) == before
    (tmp_path / "out").write_text("a file", encoding="utf-8")
    with pytest.raises(UserError, match="out"):
        write_report(tmp_path / "out", make_history(1))


def test_files_of_an_earlier_run_are_moved_unfinished_ones_removed_and_no_others(tmp_path):
    mark = ".0123abcd.unfinished"
    run = ["last.t7", "PublicTest_model_classify.t7", "PublicTest_confusion.png", "fold3.json"]
    owned = ["data.txt", "AccProcess_classify.csv", "run.log", *(f"CK+_x/{name}" for name in run)]
    unfinished = [f"data.txt{mark}", f"CK+_x/last.t7{mark}", f"CK+_x/fold3.json{mark}"]
    others = ["notes.txt", "CK+_x/released.t7", "CK+_x/photographs.png", "Demo_x/last.t7"]
    others += [f"notes{mark}", f"CK+_x/notes{mark}", f"Demo_x/last.t7{mark}", "data.txt.tmp"]
    for name in (*owned, *unfinished, *others):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x", encoding="utf-8")
    folder = RunFolder(SimpleNamespace(run_name="CK+_x"), None, tmp_path, "")
    folder.clear_folder(resumes=False)
    kept, (moved,) = contents(tmp_path), (tmp_path / "previous").iterdir()
    assert contents(moved).keys() == set(owned)
    assert {name for name in kept if not name.startswith("previous")} == set(others)
    folder.clear_folder(resumes=False)  # nothing is there: no second folder
    assert len(list((tmp_path / "previous").iterdir())) == 1
