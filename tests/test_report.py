"""The files that tell a run: what stands in them, that they can be read, that equal runs give equal bytes."""

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
from pathlib import Path

import pytest
from openpyxl import load_workbook
from PIL import Image

from training.report import best_epochs, confusion, title_of, write_pictures, write_tables
from training.run import discard_unfinished, owned_files
from utils import files
from utils.files import UserError, move_aside
from utils.tasks import EMOTIONS, SPLITS, TASKS, TEST_SPLITS

ROOT = Path(__file__).resolve().parent.parent
ALL = tuple(TASKS.values())
CLASSIFY, VALENCE = TASKS["classify"], TASKS["regressV"]
FINAL = {"tencrop": {}, "folder": "FER2013_model"}
HEADER = {
    "dataset": "FER2013",
    "model": "model",
    "counts": "Training 28709, PublicTest 3589, PrivateTest 3589",
    "seed": "0",
}
HEADINGS = {
    "classify": "Epoch,TrainAcc,PubtestAcc,PritestAcc,TrainLoss,PubtestLoss,PritestLoss,PubtestF1,PritestF1",
    "regressV": "Epoch,TrainLossV,PubtestLossV,PritestLossV,PubtestCCCV,PritestCCCV,PubtestPCCV,PritestPCCV,"
    "PubtestSAGRV,PritestSAGRV",
}
HEADINGS["regressA"] = re.sub(r"V(,|$)", r"A\1", HEADINGS["regressV"])
HEADINGS["regressD"] = re.sub(r"V(,|$)", r"D\1", HEADINGS["regressV"])
SCALES = {"Acc": 100.0, "Loss": 2.0}


def make_history(epochs, seed=0, tasks=ALL):
    """A random history; shorter ones of the same seed are its beginnings."""
    chance = random.Random(seed)

    def metrics(task, split):
        rules = task.rules
        names = rules.training_metrics if split == "Training" else rules.test_metrics
        found = {name: chance.random() * SCALES.get(name, 1.0) for name in names}
        if task.kind == "classification" and split != "Training":
            found["confusion"] = [[chance.randrange(9) for _ in EMOTIONS] for _ in EMOTIONS]
        return found

    return [
        {
            "epoch": epoch,
            **{split: {task.name: metrics(task, split) for task in tasks} for split in SPLITS},
        }
        for epoch in range(epochs)
    ]


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


def write_report(out, header, history, tasks, final=None):
    write_tables(out, header, history, tasks, final)
    write_pictures(out, out / "folder", title_of(header), history, tasks)


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# ---------------------------------------------------------------- CSV


@pytest.mark.parametrize("name", TASKS)
def test_csv_headings_are_those_of_the_design(tmp_path, name):
    write_tables(tmp_path, HEADER, make_history(1), ALL)
    raw = (tmp_path / f"AccProcess_{name}.csv").read_bytes()
    assert raw.decode("utf-8").split("\n")[0] == HEADINGS[name]  # no BOM, no carriage return
    assert b"\r" not in raw and raw.endswith(b"\n")


@pytest.mark.parametrize("name", TASKS)
def test_csv_holds_the_history_as_plain_numbers(tmp_path, name):
    history = make_history(12)
    write_tables(tmp_path, HEADER, history, ALL)
    headings, *rows = read_csv(tmp_path / f"AccProcess_{name}.csv")
    assert len(rows) == 12
    splits = {"Train": "Training", "Pubtest": "PublicTest", "Pritest": "PrivateTest"}
    for result, row in zip(history, rows, strict=True):
        assert int(row[0]) == result["epoch"]
        for heading, cell in zip(headings[1:], row[1:], strict=True):
            prefix, metric = re.fullmatch("(Train|Pubtest|Pritest)(.+)", heading).groups()
            metric = metric.removesuffix(TASKS[name].letter)
            places = 3 if metric == "Acc" else 6
            assert re.fullmatch(rf"-?\d+\.\d{{{places}}}", cell)
            expected = result[splits[prefix]][name][metric]
            assert abs(float(cell) - expected) <= 0.5000001 * 10**-places


@pytest.mark.parametrize(
    "number, text",
    [
        (1e-12, "0.000000"),
        (-1e-12, "0.000000"),
        (-0.25, "-0.250000"),
        (12345678.5, "12345678.500000"),
        (1, "1.000000"),
    ],
)
def test_csv_never_has_an_exponent_or_a_minus_zero(tmp_path, number, text):
    history = with_decisive(VALENCE, [number], [0.5])
    write_tables(tmp_path, HEADER, history, (VALENCE,))
    assert read_csv(tmp_path / "AccProcess_regressV.csv")[1][2] == text


def test_a_subset_of_tasks_writes_only_its_own_tables(tmp_path):
    tasks = (VALENCE, TASKS["regressD"])
    write_report(tmp_path, HEADER, make_history(2, tasks=tasks), tasks, final=FINAL)
    assert {path.name for path in tmp_path.glob("*.csv")} == {
        f"AccProcess_{task.name}.csv" for task in tasks
    }
    assert load_workbook(tmp_path / "AccProcess.xlsx").sheetnames == ["regressV", "regressD"]
    text = told(tmp_path)
    assert "best_PublicTest_AveragelossD: " in text and "_acc" not in text and "lossA" not in text


def test_before_the_first_epoch_there_are_only_headings(tmp_path):
    write_report(tmp_path, HEADER, [], ALL)
    assert read_csv(tmp_path / "AccProcess_classify.csv") == [HEADINGS["classify"].split(",")]
    assert load_workbook(tmp_path / "AccProcess.xlsx")["classify"].max_row == 1


# ---------------------------------------------------------------- equal runs, equal files


def test_a_resumed_run_ends_with_the_same_bytes(tmp_path):
    write_report(tmp_path / "resumed", HEADER, make_history(3), ALL)
    write_report(tmp_path / "resumed", HEADER, make_history(5), ALL, FINAL)
    write_report(tmp_path / "straight", HEADER, make_history(5), ALL, FINAL)
    assert contents(tmp_path / "resumed") == contents(tmp_path / "straight")


def test_the_arguments_are_left_alone(tmp_path):
    history, final = make_history(3), copy.deepcopy(FINAL)
    before = copy.deepcopy((history, final))
    write_tables(tmp_path, HEADER, history, ALL, final)
    assert (history, final) == before


def test_no_temporary_file_stays(tmp_path):
    write_report(tmp_path, HEADER, make_history(1), ALL)
    names = {f"AccProcess_{name}.csv" for name in TASKS} | {
        "AccProcess.xlsx",
        "AccProcess.png",
        "data.txt",
    }
    names |= {f"{split}_confusion.png" for split in TEST_SPLITS}
    assert set(contents(tmp_path)) == names


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode


def test_import_does_not_load_the_drawing_libraries():
    code = "import sys, training.report; sys.exit(any(m in sys.modules for m in ('matplotlib', 'xlsxwriter')))"
    assert run_python(code) == 0


def test_drawing_touches_no_global_state():
    code = (
        "import sys, matplotlib; from training import report; before = matplotlib.rcParams.copy();"
        "report.confusion([[1] * 7] * 7, 'title');"
        # dict.__eq__ compares without looking a backend up, which would itself import pyplot.
        "sys.exit('matplotlib.pyplot' in sys.modules or not dict.__eq__(before, matplotlib.rcParams))"
    )
    assert run_python(code) == 0


# ---------------------------------------------------------------- workbook and pictures


@pytest.mark.parametrize("epochs", [1, 4, 30])
def test_workbook_has_the_numbers_of_the_csv_and_a_chart_a_metric(tmp_path, epochs):
    write_report(tmp_path, HEADER, make_history(epochs), ALL)
    book = load_workbook(tmp_path / "AccProcess.xlsx")
    assert book.sheetnames == list(TASKS)
    assert book.properties.created == book.properties.modified == datetime(2000, 1, 1)
    for name, task in TASKS.items():
        sheet = book[name]
        headings, *rows = read_csv(tmp_path / f"AccProcess_{name}.csv")
        found = [[cell.value for cell in row] for row in sheet.iter_rows(max_col=len(headings))]
        assert found[0] == headings
        assert found[1:] == [[float(cell) for cell in row] for row in rows]
        assert sheet.freeze_panes == "B2" and sheet["A1"].font.bold
        assert len(sheet._charts) == len(task.rules.test_metrics)
        for metric, chart in zip(task.rules.test_metrics, sheet._charts, strict=True):
            series = [one.val.numRef.f for one in chart.series]
            belongs = re.compile(f"(Train|Pubtest|Pritest){metric}{task.letter}")
            letters = [cell.column_letter for cell in sheet[1] if belongs.fullmatch(cell.value)]
            ends = [f":${letter}${epochs + 1}" if epochs > 1 else "" for letter in letters]
            assert series == [
                f"{name}!${letter}$2{end}" for letter, end in zip(letters, ends, strict=True)
            ]
            title = "".join(run.t for part in chart.title.tx.rich.p for run in part.r)
            assert "FER2013" in title and name in title


@pytest.mark.parametrize("epochs", [1, 40])
def test_workbook_prints_on_landscape_pages_with_whole_charts(tmp_path, epochs):
    """On A4 and on US Letter: no column of the table, and no chart, is cut by the edge of a page."""
    write_report(tmp_path, HEADER, make_history(epochs), ALL)
    for sheet in load_workbook(tmp_path / "AccProcess.xlsx"):
        assert sheet.page_setup.orientation == "landscape" and sheet.print_title_rows == "$1:$1"
        scale, margins = sheet.page_setup.scale / 100, sheet.page_margins
        pages = [(11.69, 8.27), (11.0, 8.5)]  # inches
        width = min(page[0] for page in pages) - margins.left - margins.right
        height = min(page[1] for page in pages) - margins.top - margins.bottom
        width, height = (96 * inches / scale for inches in (width, height))  # pixels of Excel
        columns = len(read_csv(tmp_path / f"AccProcess_{sheet.title}.csv")[0])
        widths = [sheet.column_dimensions[cell.column_letter].width for cell in sheet[1]]
        assert sum(7 * characters + 5 for characters in widths[:columns]) <= width
        assert [page_break.id for page_break in sheet.col_breaks.brk] == [columns]
        for chart in sheet._charts:
            anchor = chart.anchor
            ends = [
                (end.col - columns) * 64 + end.colOff / 9525 for end in (anchor._from, anchor.to)
            ]
            heights = [end.row * 20 + end.rowOff / 9525 for end in (anchor._from, anchor.to)]
            assert 0 <= ends[0] < ends[1] <= width and 0 <= heights[0] < heights[1] <= height


@pytest.mark.parametrize("epochs", [0, 1, 2, 40])
@pytest.mark.parametrize("tasks", [ALL, (CLASSIFY,)])
def test_curves_are_a_valid_picture_without_time_or_version(tmp_path, epochs, tasks):
    write_report(tmp_path, HEADER, make_history(epochs, tasks=tasks), tasks)
    first = (tmp_path / "AccProcess.png").read_bytes()
    with Image.open(io.BytesIO(first)) as picture:
        picture.load()
        assert picture.format == "PNG" and picture.width >= 1000
        assert not {"Software", "Creation Time", "date:create"} & set(picture.info)
    write_report(tmp_path, HEADER, make_history(epochs, tasks=tasks), tasks)
    assert (tmp_path / "AccProcess.png").read_bytes() == first


def test_curves_follow_the_history_and_the_title(tmp_path):
    def drawn(header, history):
        write_report(tmp_path, header, history, ALL)
        return (tmp_path / "AccProcess.png").read_bytes()

    pictures = {
        drawn(HEADER, make_history(3)),
        drawn(HEADER, make_history(3, seed=1)),
        drawn({**HEADER, "dataset": "CK+ $1$"}, make_history(3)),  # $ must not start a formula
    }
    assert len(pictures) == 3


def test_confusion_is_a_valid_picture_and_repeatable():
    matrix = [[10 * (true == predicted) + predicted for predicted in range(7)] for true in range(7)]
    matrix[1] = [0] * 7  # a class without faces
    content = confusion(matrix, "FER2013, PrivateTest, epoch 3")
    assert content == confusion(matrix, "FER2013, PrivateTest, epoch 3")
    with Image.open(io.BytesIO(content)) as picture:
        picture.load()
        assert min(picture.size) > 600


def test_the_confusion_matrices_are_those_of_the_chosen_epoch(tmp_path):
    history = make_history(5)
    write_report(tmp_path, HEADER, history, ALL)
    epoch = best_epochs(history, CLASSIFY)["PublicTest"][0]
    for split in TEST_SPLITS:
        title = f"FER2013, model: {split}, epoch {epoch} (chosen on PublicTest)"
        drawn = (tmp_path / "folder" / f"{split}_confusion.png").read_bytes()
        assert drawn == confusion(history[epoch][split]["classify"]["confusion"], title)


# ---------------------------------------------------------------- the best epochs


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("seed", range(5))
def test_best_epochs_agree_with_a_search(name, seed):
    history, task = make_history(30, seed), TASKS[name]
    for result in history:  # coarse values, so that there are ties
        for split in TEST_SPLITS:
            result[split][name][task.rules.decisive] = round(
                result[split][name][task.rules.decisive], 1
            )
    best = best_epochs(history, task)
    for split in TEST_SPLITS:
        values = [result[split][name][task.rules.decisive] for result in history]
        value = max(values) if name == "classify" else min(values)
        assert best[split] == (values.index(value), value)


def test_the_earliest_of_equal_epochs_wins():
    assert best_epochs(with_decisive(CLASSIFY, [50, 60, 60], [70, 70, 60]), CLASSIFY) == {
        "PublicTest": (1, 60),
        "PrivateTest": (0, 70),
    }
    assert best_epochs(with_decisive(VALENCE, [0.5, 0.4, 0.4], [0.3, 0.3, 0.3]), VALENCE) == {
        "PublicTest": (1, 0.4),
        "PrivateTest": (0, 0.3),
    }


def test_before_the_first_epoch_nothing_is_best():
    best = best_epochs([], CLASSIFY)
    assert best == {"PublicTest": (None, None), "PrivateTest": (None, None)}
    assert CLASSIFY.better(0.0, best["PublicTest"][1])


# ---------------------------------------------------------------- data.txt


def told(folder):
    return (folder / "data.txt").read_text(encoding="utf-8")


def test_header_lines_stand_first(tmp_path):
    write_tables(tmp_path, {**HEADER, "device": "cpu\nof two lines"}, make_history(1), ALL)
    lines = told(tmp_path).split("\n")
    assert lines[:5] == [f"{key}: {value}" for key, value in HEADER.items()] + [
        "device: cpu of two lines"
    ]


def test_a_path_that_is_no_text_does_not_stop_the_run(tmp_path):
    write_tables(tmp_path, {**HEADER, "data": "faces\udcff.csv"}, make_history(1), ALL)
    assert "data: faces\\udcff.csv" in told(tmp_path)


def test_best_lines_of_every_epoch_agree_with_a_search(tmp_path):
    history = make_history(25, seed=3)
    write_tables(tmp_path, HEADER, history, ALL)
    blocks = re.split(r"^Epoch (\d+)$", told(tmp_path), flags=re.MULTILINE)[1:]
    assert [int(number) for number in blocks[::2]] == list(range(25))
    for epoch, block in enumerate(blocks[1::2]):
        expected = []
        for task in ALL:
            for split in TEST_SPLITS:
                values = [
                    r[split][task.name]["Loss" if task.letter else "Acc"]
                    for r in history[: epoch + 1]
                ]
                if task.letter:
                    expected.append(f"best_{split}_Averageloss{task.letter}: {min(values):.6f}")
                    expected.append(
                        f"best_{split}_epoch_loss{task.letter}: {values.index(min(values))}"
                    )
                else:
                    expected.append(f"best_{split}_acc: {max(values):.3f}")
                    expected.append(f"best_{split}_acc_epoch: {values.index(max(values))}")
        assert [line for line in block.split("\n") if line.startswith("best_")] == expected


def test_the_final_choice_is_told_only_at_the_end(tmp_path):
    write_tables(tmp_path, HEADER, make_history(3), ALL)
    assert "best model is:" not in told(tmp_path)
    write_tables(tmp_path, HEADER, make_history(3), ALL, FINAL)
    after = told(tmp_path).split("best model is:")
    assert len(after) == 2
    for task in ALL:
        epoch = best_epochs(make_history(3), task)["PublicTest"][0]
        assert re.search(
            rf"{task.name}\b.*: FER2013_model/{task.checkpoint('PublicTest')}, epoch {epoch}\b",
            after[1],
        )


def test_honest_and_optimistic_results_differ_where_the_splits_disagree(tmp_path):
    tasks = (CLASSIFY, VALENCE)
    history = with_decisive(CLASSIFY, [50.0, 61.5, 60.0], [52.0, 55.25, 58.75])
    for result, other in zip(
        history, with_decisive(VALENCE, [0.3, 0.5, 0.4], [0.9, 0.7, 0.8]), strict=True
    ):
        for split in SPLITS:
            result[split]["regressV"] = other[split]["regressV"]
    write_tables(tmp_path, HEADER, history, tasks, FINAL)
    text = told(tmp_path)
    assert (
        "  classify: FER2013_model/PublicTest_model_classify.t7, epoch 1, PublicTest accuracy 61.5"
        in text
    )
    assert "  epoch chosen on PublicTest: honest; epoch 1, accuracy 55.250 %" in text
    assert "  epoch chosen on PrivateTest itself: optimistic; epoch 2, accuracy 58.750 %" in text
    assert "  epoch chosen on PublicTest: honest; epoch 0, mean squared error 0.900000" in text
    assert (
        "  epoch chosen on PrivateTest itself: optimistic; epoch 1, mean squared error 0.700000"
        in text
    )


def test_tencrop_figures_are_told(tmp_path):
    history = make_history(3)
    chosen = {
        "epoch": 2,
        **{split: {**history[2][split]["classify"], "Acc": 66.5} for split in TEST_SPLITS},
    }
    final = FINAL | {"tencrop": {"classify": chosen}}
    write_tables(tmp_path, HEADER, history, ALL, final)
    text = told(tmp_path)
    assert "classify, epoch 2, PublicTest: accuracy 66.500 %" in text
    assert "classify, epoch 2, PrivateTest: accuracy 66.500 %" in text


def test_demo_says_at_both_ends_that_its_faces_are_drawn(tmp_path):
    write_tables(tmp_path, HEADER | {"dataset": "Demo"}, make_history(1), ALL, FINAL)
    lines = told(tmp_path).strip().split("\n")
    assert "drawn faces" in lines[0] and "drawn faces" in lines[-1]
    write_tables(tmp_path, HEADER, make_history(1), ALL, FINAL)
    assert "drawn" not in told(tmp_path)


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
        during = capsys.readouterr().out
        write_tables(tmp_path, HEADER, make_history(2), ALL, FINAL)
        at_the_end = capsys.readouterr().out
    for line in (during, at_the_end):
        assert line.startswith("AccProcess_classify.csv is open in another program; ")
    assert "its rows are written once it is closed" in during and "--resume" in at_the_end
    assert during.count("\n") == at_the_end.count("\n") == 1
    assert len(read_csv(blocked)) == 2 and len(read_csv(tmp_path / "AccProcess_regressV.csv")) == 3
    assert not list(tmp_path.glob("*.unfinished"))

    write_tables(tmp_path, HEADER, make_history(3), ALL)
    assert len(read_csv(blocked)) == 4
    assert capsys.readouterr().out == ""


def test_a_full_disk_is_one_clear_sentence(tmp_path, monkeypatch):
    write_tables(tmp_path, HEADER, make_history(1), ALL)
    before = contents(tmp_path)

    def full(source, target):
        raise OSError(errno.ENOSPC, "No space left on device", os.fspath(source))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(
        UserError, match=r"classify\.csv could not be written \(No space left"
    ) as caught:
        write_tables(tmp_path, HEADER, make_history(2), ALL)
    assert "\n" not in str(caught.value)
    assert contents(tmp_path) == before


def test_a_file_in_the_place_of_the_folder_is_a_user_error(tmp_path):
    (tmp_path / "out").write_text("a file", encoding="utf-8")
    with pytest.raises(UserError, match="could not be written"):
        write_report(tmp_path / "out", HEADER, make_history(1), ALL)


# ---------------------------------------------------------------- moving an earlier run aside


def test_owned_files_are_all_that_a_run_writes_and_nothing_else(tmp_path):
    run = "CK+_[model]"  # characters that mean something in a file pattern
    write_tables(tmp_path, HEADER, make_history(1), ALL)
    names = ("last.t7", CLASSIFY.checkpoint("PublicTest"), "PublicTest_confusion.png", "fold3.json")
    mine = [tmp_path / run / name for name in names]
    others = [tmp_path / "notes.txt", tmp_path / "Demo_other" / "last.t7"]
    others += [tmp_path / run / name for name in ("notes.txt", "released.t7", "photographs.png")]
    for path in [*mine, *others, tmp_path / "run.log"]:
        path.parent.mkdir(exist_ok=True)
        path.write_text("x", encoding="utf-8")
    owned = owned_files(tmp_path, run)
    assert (
        len(owned) == len(set(owned)) and set(mine) <= set(owned) and not set(others) & set(owned)
    )
    move_aside(owned, tmp_path)
    left = {path for path in tmp_path.rglob("*") if path.is_file() and "previous" not in path.parts}
    assert left == set(others)


def test_owned_files_of_a_folder_that_is_not_there(tmp_path):
    assert move_aside(owned_files(tmp_path / "new", "run"), tmp_path) is None


def test_what_a_killed_run_left_unfinished_is_removed(tmp_path):
    mark = ".0123abcd.unfinished"
    names = ["AccProcess_classify.csv", "data.txt", "run/last.t7", "run/PublicTest_confusion.png"]
    ours = [f"{name}{mark}" for name in names]
    theirs = [
        f"notes{mark}",
        f"run/notes{mark}",
        "run/last.t7",
        f"other/last.t7{mark}",
        "data.txt.tmp",
        "run/last.t7.tmp",
    ]
    for name in (*ours, *theirs):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    discard_unfinished(tmp_path, "run")
    assert sorted(
        p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()
    ) == sorted(theirs)
