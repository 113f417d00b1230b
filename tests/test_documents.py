"""The documents: their numbers are those of the records, their commands, flags and files exist."""

import hashlib
import json
import re
from itertools import groupby

import pandas
import pytest

import visualize
from inference import evaluate, export, refit, synthesize
from models import checkpoint
from tests.conftest import ROOT
from training import config
from utils.tasks import EMOTIONS, TASKS

FER2013, CK = ROOT / "FER2013_ResNet18RegressionTwoOutputs", ROOT / "CK+_FERSNetHalf"
RECORDS = {"released.t7": FER2013 / "run", "photographs.t7": FER2013 / "photographs"}
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), FER2013 / "README.md", CK / "README.md"]
NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?")
STARTS = ("python", "pip", "torchrun", "ruff")
VAD = [name for name, task in TASKS.items() if task.dimension is not None]


def read_tables(path):
    """The tables of a Markdown file, as frames of text whose index is the first column."""
    lines = path.read_text(encoding="utf-8").replace("`", "").splitlines()
    for is_table, group in groupby(lines, lambda line: line.startswith("|")):
        if is_table:
            header, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in group]
            yield pandas.DataFrame(rows, columns=header).set_index(header[0])


def table(path, index):
    """The first table whose first header, or row, is `index`."""
    named = (frame for frame in read_tables(path) if index in (frame.index.name, *frame.index))
    return next(named)


def assert_numbers(text, *expected):
    """Each number in a text is the expected one, rounded to as many decimals as it shows."""
    numbers = NUMBER.findall(text.replace(",", ""))
    assert len(numbers) == len(expected), text
    for number, value in zip(numbers, expected, strict=True):
        decimals = len(number.partition(".")[2])
        assert float(number) == pytest.approx(float(value), abs=0.5001 * 10**-decimals), text


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def evaluation(column):
    """{task: metrics} of evaluation.json for a column such as "released.t7, private"."""
    network, split, *parts = column.replace(" without copies", ", without").split(", ")
    split = {"private": "PrivateTest", "public": "PublicTest"}[split]
    report = read_json(RECORDS[network] / "evaluation.json")
    wanted = {"majority": "majority", "without": "whose photograph"}
    words = [wanted[part] for part in parts]
    titles = [t for t in report if t.startswith(split) and all(word in t for word in words)]
    return report[titles[0] if words else split]


def metric(task, name):
    """A metric of calibrated probabilities: earlier reports have it beside the other one."""
    return task.get(f"{name} calibrated", task.get(name))


def bounds(interval):
    return interval["value"], interval["low"], interval["high"]


@pytest.mark.parametrize(
    "file", [FER2013 / "released.t7", FER2013 / "photographs.t7", CK / "released.t7"]
)
def test_a_card_is_about_the_released_file(file):
    card = (file.parent / "README.md").read_text(encoding="utf-8")
    assert hashlib.sha256(file.read_bytes()).hexdigest() in re.findall(r"[0-9a-f]{64}", card)
    assert f"`{file.name}`" in card and file.stat().st_size < 25e6


@pytest.mark.parametrize("network", RECORDS)
def test_the_evaluation_is_of_the_released_file(network):
    digest = hashlib.sha256((FER2013 / network).read_bytes()).hexdigest()
    assert digest in read_json(RECORDS[network] / "evaluation.json")["how"].values()


def test_the_results_of_the_card_are_those_of_the_evaluations():
    results = table(FER2013 / "README.md", "Results")
    names = {"Accuracy, %": "Acc", "Macro F1": "F1", "Cross-entropy": "cross-entropy", "ECE": "ECE"}
    ccc = dict(zip(["CCC valence", "CCC arousal", "CCC dominance"], VAD, strict=True))
    assert list(results.index) == [*names, *ccc]
    for column in results:
        tasks = evaluation(column)
        for row, name in names.items():
            assert_numbers(results.loc[row, column], *bounds(metric(tasks["classify"], name)))
        for row, task in ccc.items():
            expected = bounds(tasks[task]["CCC"]) if task in tasks else ()
            assert_numbers(results.loc[row, column], *expected)


def test_the_recalls_of_the_card_are_those_of_the_evaluations():
    recalls = table(FER2013 / "README.md", "Recall, %")
    assert list(recalls) == list(EMOTIONS) and len(recalls) == 2
    for row in recalls.index:
        for emotion in EMOTIONS:
            value = evaluation(row)["classify"][f"recall {emotion}"]["value"]
            assert_numbers(recalls.loc[row, emotion], value)


def test_the_agreement_with_people_on_the_card_is_that_of_the_evaluations():
    rows = table(FER2013 / "README.md", "CCC with human ratings of V / A / D")
    assert len(rows) == 3
    for row in rows.index:
        for network in RECORDS:
            report = read_json(RECORDS[network] / "evaluation.json")
            block = report[f"human ratings of {row}"]
            assert_numbers(rows.loc[row, network], *(block[task]["CCC"]["value"] for task in VAD))
        if "mean of the true class" in rows:
            means = report[f"human ratings of {row}: mean annotation of the true class"]
            values = [means[task]["CCC"]["value"] for task in VAD]
            assert_numbers(rows.loc[row, "mean of the true class"], *values)


def test_corruptions_and_photographs_on_the_card_are_those_of_the_benchmarks():
    folder = RECORDS["photographs.t7"]
    files = {"Photographs": "photographs.json", "Photographs at 40 pixels": "photographs-40.json"}
    targets = {"Label": "labels", "Majority": "majority"}
    rows = table(FER2013 / "README.md", "Label, clean, %")
    for row in rows.index:
        what, name, _ = row.split(", ")
        report = read_json(folder / files.get(what, "corruptions.json"))
        for column in rows:
            compared = column == "Difference"
            keys = [key for key in report if ("difference" in key) == compared]
            key = keys[0] if compared else next(key for key in keys if key.endswith(column))
            found = report[key][targets[what]] if what in targets else report[key]
            assert_numbers(rows.loc[row, column], *bounds(found[name.removesuffix(" corruptions")]))
    report = read_json(folder / "corruptions.json")
    accuracies = table(FER2013 / "README.md", "Majority, %")
    for network in RECORDS:
        found = report[f"{FER2013.name}/{network}"]["majority"]["accuracy"]
        for corruption in accuracies:
            assert_numbers(accuracies.loc[network, corruption], found[corruption])


def test_the_card_of_fersnet_is_about_its_checkpoint():
    rows = table(CK / "README.md", "Accuracy by sequence").iloc[:, 0]
    results = checkpoint.load(CK / "released.t7")["results"]
    assert_numbers(rows["Accuracy"], results["Acc"])
    assert results["BestAcc"] == results["Acc"] and "best epoch: the same" in rows["Accuracy"]
    assert_numbers(rows["Accuracy by sequence"], results["SeqAcc"])
    assert_numbers(rows["Macro F1"], results["F1"])
    names = ("L1", "SSIM", "CopyL1", "CopySSIM")
    assert_numbers(rows["L1 / SSIM of synthesized to real faces"], *map(results.get, names))


def test_the_results_of_the_readme_are_those_of_the_records():
    results = table(ROOT / "README.md", "Network")
    runs = pandas.read_csv(ROOT / "benchmarks" / "results" / "runs.csv").set_index(["run", "seed"])
    fast = runs.loc["fast", 1]
    released, unique, pooled, photographs = results.itertuples()
    for row, name in ((released, "private"), (unique, "private without copies")):
        tasks = evaluation(f"released.t7, {name}")
        assert_numbers(row[1], tasks["classify"]["Acc"]["value"])
        assert_numbers(row[2], *(tasks[task]["CCC"]["value"] for task in VAD))
    assert_numbers(pooled[1], fast["private_acc_tencrop"])
    assert_numbers(pooled[2], *fast[["ccc_valence", "ccc_arousal", "ccc_dominance"]])
    majority = evaluation("photographs.t7, private, majority")
    assert_numbers(photographs[1], majority["classify"]["Acc"]["value"])


def test_the_runs_of_the_results_are_those_of_the_csv_files():
    folder = ROOT / "benchmarks" / "results"
    runs = pandas.read_csv(folder / "runs.csv").set_index("run").drop("demo")
    shown = table(ROOT / "docs" / "results.md", "Command")
    assert len(shown) == len(runs)
    for (text, row), run in zip(shown.iterrows(), runs.itertuples(), strict=True):
        assert text.partition(" (")[0] == run.command
        assert_numbers(row["Seed"], run.seed)
        assert_numbers(row["Training"], run.minutes_training)
        center = [] if pandas.isna(run.private_acc_center) else [run.private_acc_center]
        assert_numbers(row["Private %, centre"], *center)
        assert_numbers(row["Private %, ten crops"], run.private_acc_tencrop)
    released = pandas.read_csv(folder / "default_seed0.csv")
    recorded = pandas.read_csv(FER2013 / "run" / "AccProcess_classify.csv")
    assert released["private_acc"].tolist() == recorded["PritestAcc"].round(2).tolist()


def test_the_folds_of_the_results_are_those_of_the_csv_file():
    folds = pandas.read_csv(ROOT / "benchmarks" / "results" / "fersnet_folds.csv")
    folds["variant"] = folds["variant"].str.partition(",")[0]
    means = folds.groupby(["folds", "variant"])[["last_acc", "best_acc"]].mean()
    shown = table(ROOT / "docs" / "results.md", "the paper").drop("the paper")
    for row in shown.index:
        kind = "balanced" if row.startswith("balanced") else "by name"
        column = "last_acc" if "last" in row else "best_acc"
        for variant in shown:
            assert_numbers(shown.loc[row, variant], means.loc[(kind, variant), column])


def test_documents_are_short_and_narrow():
    lines = {path: path.read_text(encoding="utf-8").splitlines() for path in DOCUMENTS}
    long = [line for text in lines.values() for line in text if len(line) > 100 and line[0] != "|"]
    assert long == [] and sum(map(len, lines.values())) <= 900
    assert len(lines[ROOT / "README.md"]) <= 110 and len(lines[FER2013 / "README.md"]) <= 90


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files_that_documents_name_exist(path):
    text = path.read_text(encoding="utf-8")
    linked = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    programs = re.findall(r"python (\S+\.py)", text)
    modules = re.findall(r"python -m ((?:inference|data)\.[\w.]+)", text)
    assert [link for link in linked if not (path.parent / link).exists()] == []
    assert [name for name in programs if not (ROOT / name).exists()] == []
    assert [name for name in modules if not (ROOT / f"{name.replace('.', '/')}.py").exists()] == []


def test_flags_that_documents_name_exist():
    """Those of commands of this project; others belong to pip, pytest or the benchmarks."""
    modules = [config, evaluate, export, refit, synthesize, visualize]
    helps = "".join(module.build_parser().format_help() for module in modules)
    names = ("README.md", "docs/training.md", "docs/inference.md", "docs/fersnet.md")
    text = "".join((ROOT / name).read_text(encoding="utf-8") for name in names)
    flags, known = (set(re.findall(r"--[a-z][a-z-]*", each)) for each in (text, helps))
    assert len(flags) > 40 and flags - known <= {"--dist", "--index-url", "--nproc"}


def test_commands_can_be_entered_in_every_shell():
    """cmd hands on what follows a #, and PowerShell 5 knows no &&."""
    texts = [path.read_text(encoding="utf-8") for path in DOCUMENTS]
    blocks = [
        block for text in texts for block in re.findall(r"^```\n(.*?)^```", text, re.M | re.S)
    ]
    commands = [line for line in "".join(blocks).splitlines() if line.split(" ")[0] in STARTS]
    assert len(commands) > 20 and not [line for line in commands if re.search("[#&;\\\\'\"]", line)]
